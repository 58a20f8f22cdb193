"""Kernels of the tail calibration: histograms of past scores, their tails, probabilities and the inverse.

One series' past scores are a histogram over the logarithm of the score: ``counts`` [BINS], eight bins an octave over
forty octaves, anchored where the first score was; and ``line`` [LINE], what goes with it. Old scores fade: a new one
counts ``increment``, which grows so that after a half-life it counts twice. A kilobyte so remembers months, where a
ring of samples would remember a day; long memory is what makes a tail (``docs/detection.md``).

Above the 98 % quantile u the tail is P(S > s) = above * (1 + shape * (s - u) / scale) ** (-1 / shape). ``fit_moments``
takes mean and variance of the excess over u (generalised Pareto; honest for light tails), ``fit_hill`` the mean
logarithmic excess (Hill; scale = shape * u, never lighter than a power law, what detectors are combined on). Both
shrink the shape to a prior. Everything here is finite for finite input.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel, leaf

BINS = 320
PER_OCTAVE = 8
BELOW = 20
"""Octaves below the first score."""

SETTLING = 64
CENTRED = 0.7 * BINS
"""While this few scores were seen, one in the upper part of the axis moves it: the first score may have been tiny."""

TAIL_SHARE = 0.02
LARGEST, SMALLEST = 1e30, 1e-30
"""Scores are clipped here; those not above the smallest count as nothing."""

ORIGIN, INCREMENT, TOTAL, SEEN, EDGE, ABOVE, SCALE, SHAPE, FIRST = 0, 1, 2, 3, 4, 5, 6, 7, 8
LINE = 9
"""Slots of ``line``: octave of the first bin; weight of the next score; weight of all; number of scores; u; weight
above u; scale; shape; first bin above u."""

MOMENTS_SHAPE, MOMENTS_WEIGHT = 0.25, 40.0
HILL_SHAPE, HILL_WEIGHT = 0.3, 10.0
LOWEST_SHAPE, HIGHEST_SHAPE = 0.02, 0.9
SETTLED_HALF, SETTLED_SHARE = 64.0, 0.17
"""While a series settles its scores count half after a sixth of those seen so far, yet not after fewer than these."""
REFIT = 8
"""A tail is fitted anew after this many scores: it hardly moves in between."""

MIDDLE = 2.0 ** (0.5 / PER_OCTAVE)
LN10 = math.log(10.0)
LOG10_2 = math.log10(2.0)
NO_ORIGIN = -10_000.0


@leaf
def place(line: Any, s: Any) -> Any:
    """Position of a score on the histogram's axis, in bins (not rounded); 0 for nothing."""
    if s <= SMALLEST or line[ORIGIN] == NO_ORIGIN:
        return 0.0
    return min(max((math.log2(s) - line[ORIGIN]) * PER_OCTAVE, 0.0), BINS - 1e-6)


@leaf
def edge_of(line: Any, b: Any) -> Any:
    """Score at the lower edge of bin b."""
    return 2.0 ** (line[ORIGIN] + b / PER_OCTAVE)


@leaf
def top_of(counts: Any) -> Any:
    """A number of bins, a multiple of eight, beyond which nothing was counted: most of the axis is empty."""
    top = BINS
    while top > PER_OCTAVE:
        b = top - PER_OCTAVE
        low = (counts[b] + counts[b + 1]) + (counts[b + 2] + counts[b + 3])
        high = (counts[b + 4] + counts[b + 5]) + (counts[b + 6] + counts[b + 7])
        if low + high > 0.0:
            return top
        top = b
    return top


@leaf
def find_edge(counts: Any, line: Any, floor: Any) -> Any:
    """Put u, the lower edge of the tail, on the bin edge nearest to the 98 % quantile and not below the floor.

    Returns the bin from which on there is nothing (``top_of``).
    """
    top = top_of(counts)
    wanted = TAIL_SHARE * line[TOTAL]
    above, j = 0.0, top - 1
    while j > 0 and above + counts[j] < wanted:
        above += counts[j]
        j -= 1
    first = j + 1
    if above < 0.25 * wanted and j > 0:
        above += counts[j]
        first = j
    lowest = int(math.ceil(place(line, floor))) if floor > 0.0 else 0  # noqa: RUF046 - an int for the compiler
    if first < lowest:
        for b in range(first, lowest):
            above -= counts[b]
        first = lowest
    line[FIRST] = first
    line[EDGE] = edge_of(line, first)
    line[ABOVE] = max(above, 0.0)
    return top


@leaf
def fit_hill(counts: Any, line: Any, floor: Any) -> Any:
    """Fit the tail by the mean logarithmic excess."""
    top = find_edge(counts, line, floor)
    excess = 0.0
    for b in range(int(line[FIRST]), top):
        excess += counts[b] * (b + 0.5 - line[FIRST])
    excess *= math.log(2.0) / PER_OCTAVE
    number = line[ABOVE] / line[INCREMENT]
    shape = (excess / line[INCREMENT] + HILL_WEIGHT * HILL_SHAPE) / (number + HILL_WEIGHT)
    line[SHAPE] = max(shape, LOWEST_SHAPE)
    line[SCALE] = line[SHAPE] * line[EDGE]


@kernel
def fit_moments(counts: Any, line: Any, floor: Any, steadiness: Any) -> Any:
    """Fit the tail by mean and variance of the excess; the prior's shape counts for ``steadiness`` exceedances."""
    find_edge(counts, line, floor)
    u, above = line[EDGE], line[ABOVE]
    mean, square = 0.0, 0.0
    for b in range(int(line[FIRST]), BINS):
        if counts[b] > 0.0:
            excess = edge_of(line, b) * MIDDLE - u
            mean += counts[b] * excess
            square += counts[b] * excess * excess
    shape = MOMENTS_SHAPE
    if above > 0.0:
        mean /= above
        variance = square / above - mean * mean
        if variance > 1e-9 * mean * mean and mean > 0.0:
            number = above / line[INCREMENT]
            own = min(max(0.5 * (1.0 - mean * mean / variance), -0.5), HIGHEST_SHAPE)
            shape = (number * own + steadiness * MOMENTS_SHAPE) / (number + steadiness)
    line[SHAPE] = min(max(shape, LOWEST_SHAPE), HIGHEST_SHAPE)
    line[SCALE] = max(mean * (1.0 - line[SHAPE]), 0.1 * line[SHAPE] * u)


@leaf
def weight_from(counts: Any, line: Any, position: Any) -> Any:
    """Weight of the scores at or above a position on the axis.

    That of the tail is at hand, so only what lies between is added up; while the axis may still move, everything is.
    Four sums at a time: one would wait for itself at every bin.
    """
    b, first = int(position), int(line[FIRST])
    whole = line[SEEN] < SETTLING or b >= first
    a0 = counts[b] * (b + 1.0 - position) if b > 0 else counts[0] * 1.0
    a1 = 0.0 if whole else line[ABOVE]
    a2, a3 = 0.0, 0.0
    end = BINS if whole else first
    i = b + 1
    while i + 3 < end:
        a0 += counts[i]
        a1 += counts[i + 1]
        a2 += counts[i + 2]
        a3 += counts[i + 3]
        i += 4
    while i < end:
        a0 += counts[i]
        i += 1
    return (a0 + a1) + (a2 + a3)


@leaf
def log10(x: Any) -> Any:
    """The decimal logarithm to all but the last digit: the library's own takes three times as long."""
    return math.log2(x) * LOG10_2


@leaf
def surprise_at(counts: Any, line: Any, s: Any, position: Any) -> Any:
    """``surprise_of`` a score whose ``position`` is known."""
    one, total = line[INCREMENT], line[TOTAL]
    if line[ORIGIN] == NO_ORIGIN:  # nothing but zeros so far
        return 0.0 if s <= SMALLEST else log10((total / one + 1.0) / 0.5)
    if s > line[EDGE]:
        at_u = -log10((line[ABOVE] + 0.5 * one) / (total + one))
        return at_u + math.log1p(line[SHAPE] * (s - line[EDGE]) / line[SCALE]) / line[SHAPE] / LN10
    weight = max(weight_from(counts, line, position), line[ABOVE])
    return max(0.0, -log10(min(1.0, (weight + 0.5 * one) / (total + one))))


@leaf
def surprise_of(counts: Any, line: Any, s: Any) -> Any:
    """-log10 of the probability of a score of at least s. Monotone in s, never negative."""
    return surprise_at(counts, line, s, place(line, s))


@leaf
def score_of(counts: Any, line: Any, surprise: Any) -> Any:
    """The score whose surprise is ``surprise``: the inverse of ``surprise_of``."""
    number = line[TOTAL] / line[INCREMENT]
    if line[ORIGIN] == NO_ORIGIN:
        return 0.0
    at_u = -log10((line[ABOVE] / line[INCREMENT] + 0.5) / (number + 1.0))
    if surprise >= at_u:
        beyond = min((surprise - at_u) * LN10 * line[SHAPE], 60.0)
        return min(line[EDGE] + line[SCALE] * math.expm1(beyond) / line[SHAPE], LARGEST)
    wanted = (10.0 ** (-surprise) * (number + 1.0) - 0.5) * line[INCREMENT]
    above = 0.0
    for b in range(BINS - 1, 0, -1):
        if above + counts[b] >= wanted:
            return min(edge_of(line, b + 1.0 - (wanted - above) / counts[b]), line[EDGE])
        above += counts[b]
    return 0.0


@leaf
def recentre(counts: Any, line: Any, s: Any) -> Any:
    """Move the axis up so that s lies in its middle; what falls off its lower end counts as nothing."""
    octaves = math.floor(math.log2(s)) - BELOW - line[ORIGIN]
    shift = np.int64(octaves * PER_OCTAVE)
    for b in range(1, BINS):
        if b <= shift:
            counts[0] += counts[b]
    for b in range(1, BINS):
        counts[b] = counts[b + shift] if b + shift < BINS else 0.0
    line[ORIGIN] += octaves
    line[FIRST] = max(1.0, line[FIRST] - shift)


@leaf
def learn(counts: Any, line: Any, s: Any, growth: Any) -> Any:
    """Count a score. ``growth`` is the factor by which the next one weighs more."""
    learn_at(counts, line, s, place(line, s), growth)


@leaf
def learn_at(counts: Any, line: Any, s: Any, position: Any, growth: Any) -> Any:
    """``learn`` a score whose ``position`` is known."""
    if line[ORIGIN] == NO_ORIGIN and s > SMALLEST:
        line[ORIGIN] = math.floor(math.log2(s)) - BELOW
        # Until the next fit the tail begins right above the only score that was not nothing.
        position = place(line, s)
        line[FIRST] = math.floor(position) + 1.0
        line[EDGE] = edge_of(line, line[FIRST])
        line[ABOVE] = 0.0
        line[SHAPE] = HILL_SHAPE
        line[SCALE] = HILL_SHAPE * line[EDGE]
    if line[SEEN] < SETTLING and position > CENTRED:
        recentre(counts, line, s)
        position = place(line, s)
    b = int(position)
    counts[b] += line[INCREMENT]
    line[TOTAL] += line[INCREMENT]
    if b >= line[FIRST]:
        line[ABOVE] += line[INCREMENT]
    line[INCREMENT] *= growth
    line[SEEN] += 1.0
    if line[INCREMENT] > 1e6:
        for b in range(BINS):
            counts[b] /= line[INCREMENT]
        line[TOTAL] /= line[INCREMENT]
        line[ABOVE] /= line[INCREMENT]
        line[INCREMENT] = 1.0


@leaf
def due(line: Any, fewest: Any) -> Any:
    """Whether the tail must be fitted before the next score is judged."""
    seen = int(line[SEEN])
    return seen == fewest or (seen > fewest and seen % REFIT == 0)


@leaf
def first_surprise(line: Any, s: Any) -> Any:
    """Surprise of a score after nothing but zeros, as a detector gives them on a flat line.

    There is no past to take a scale from, so the prior tail in the score's own unit (one spread, or the floor) serves:
    without it the first anomaly of a flat line could never be rarer than one in its samples, and would then be learned.
    """
    at_zero = math.log10((line[TOTAL] / line[INCREMENT] + 1.0) / 0.5)
    return 0.0 if s <= SMALLEST else at_zero + math.log1p(MOMENTS_SHAPE * s) / MOMENTS_SHAPE / LN10


@leaf
def first_score(line: Any, surprise: Any) -> Any:
    """The score whose ``first_surprise`` is ``surprise``; 0 where any score is rarer."""
    at_zero = math.log10((line[TOTAL] / line[INCREMENT] + 1.0) / 0.5)
    if surprise <= at_zero:
        return 0.0
    return min(math.expm1(min((surprise - at_zero) * LN10 * MOMENTS_SHAPE, 60.0)) / MOMENTS_SHAPE, LARGEST)


@kernel
def growth_now(line: Any, growth: Any, settling: Any) -> Any:
    """By how much the next score counts more than this one: fast while a series settles, unless it was always flat."""
    if line[SEEN] >= settling or line[ORIGIN] == NO_ORIGIN:
        return growth
    return max(growth, 2.0 ** (1.0 / max(SETTLED_HALF, SETTLED_SHARE * line[SEEN])))


@kernel
def calibrate_block(
    raw: Any, hold: Any, cut: Any, fewest: Any, growth: Any, settling: Any, steadiness: Any, counts: Any, lines: Any
) -> Any:
    """Surprise of each raw score against the past of its series, and the score at which the surprise is ``cut``.

    Each score is judged before it is counted; a series with ``hold`` is judged and not counted. NaN in, NaN out. The
    first ``settling`` scores of a series fade fast (``growth_now``); ``steadiness`` is that of ``fit_moments``.
    ``counts`` [N, BINS] and ``lines`` [N, LINE] are changed in place.
    """
    series, samples = raw.shape
    surprise = np.full((series, samples), np.nan)
    bound = np.full((series, samples), np.nan)
    for i in range(series):
        for t in range(samples):
            if due(lines[i], fewest):
                fit_moments(counts[i], lines[i], 0.0, steadiness)
            known = lines[i, SEEN] >= fewest
            flat = lines[i, ORIGIN] == NO_ORIGIN
            if known:
                bound[i, t] = first_score(lines[i], cut) if flat else score_of(counts[i], lines[i], cut)
            s = raw[i, t]
            if math.isnan(s):
                continue
            s = min(max(s, 0.0), LARGEST)
            if known:
                surprise[i, t] = first_surprise(lines[i], s) if flat else surprise_of(counts[i], lines[i], s)
            if not hold[i]:
                learn(counts[i], lines[i], s, growth_now(lines[i], growth, settling))
    return surprise, bound
