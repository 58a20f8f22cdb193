"""Kernel of ``auto``: members over one pass of the samples, their tails, and the two signals made of them.

Members of one series: residual of the least-squares forecast (``rls``) and of the seasonal experts (``seasonal``), each
also averaged over ten samples, and the distance to the nearest contexts (``knn``). Each has its own tail (Hill, see
``tail``). Beside them three extremes: of the sample, of the seasonal residual, of the neighbour distance.

Onset
    Mean of the tails of the two residuals, the forecast's counted twice: what begins now. Above ``DOUBT`` it is the
    surprise, stretched to a probability (``STRETCH``).
Span
    Mean of the tails of neighbours and averaged forecast residual, its peak held and fading: what goes on. It ranks
    the samples below ``DOUBT``.
Page
    Mean of five tails and the extremes; given only where it exceeds its own recent peak, less what earlier peaks as
    high have taught: one value where something opens or worsens, 0 elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.extreme import above, beyond, see
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.knn import WIDTH, context, nearest, note
from anomalyd.detectors.kernels.rls import (
    FEATURES,
    RECENT,
    YOUNG,
    adapt,
    describe,
    forecast,
    push,
    scale_of,
    settle,
    turn,
)
from anomalyd.detectors.kernels.seasonal import LEVEL, absorb, expect
from anomalyd.detectors.kernels.tail import due, fit_hill, learn, score_of, surprise_of

FORECAST, SEASON, NEAREST, FORECAST_MEAN, SEASON_MEAN = 0, 1, 2, 3, 4
MEMBERS = 5
AVERAGED = 10
OF_SAMPLE, OF_SEASON, OF_NEAREST = 0, 1, 2
EXTREMES = 3

SPAN, PEAK, AGE, AT, PEAKED, FILLED, SAFE, DOUBTED, HELD = 0, 1, 2, 3, 4, 5, 6, 7, 8
"""Slots of ``line``: held span; held peak of the page signal, samples since; samples judged; when the peaks were last
counted; residuals averaged so far; the level before the samples in doubt, their number, whether the last was held."""
LINE = 9

FEWEST = 40
DOUBT = 2.2
STRETCH = 1.9
SPAN_FADES = 0.97
SPAN_HALF = 3.0
CAP = 8.0
EXTREME_WORTH, EXTREME_LEAST, EXTREME_HALF = 10.0, 0.3, 0.05
EXTREME_FORGETS = 1e-6
PAGE_UNIT = 0.32
PAGE_RISE, PAGE_HOLD, PAGE_FADES, PAGE_LEAST = 1.05, 50.0, 0.99, 0.2
HABIT = 0.2
PEAK_BINS, PEAKS_PER_UNIT = 128, 8.0
RESIDUAL_FLOOR = 1e-4
"""Share of the level that a residual must exceed to be one: a flat line's last digit is none."""


@kernel
def worth(distance: Any) -> Any:
    """What a new extreme is worth on the scale of surprises: something at once, saturating with the distance."""
    if not distance > 0.0:
        return 0.0
    return EXTREME_WORTH * (EXTREME_LEAST + (1.0 - EXTREME_LEAST) * distance / (distance + EXTREME_HALF))


@kernel
def average(ring: Any, filled: Any, at: Any, x: Any) -> Any:
    """Mean of x and the residuals before it that the ring [AVERAGED] still holds, x not yet put in."""
    total, number = x, 1
    for k in range(AVERAGED):
        if k < filled and k != at:
            total += ring[k]
            number += 1
    return total / number


@kernel
def page_of(line: Any, peaks: Any, value: Any, fade: Any) -> Any:
    """The paging signal of one sample; keeps peak and habit."""
    if line[AGE] > PAGE_HOLD:
        line[PEAK] *= PAGE_FADES
    if value <= PAGE_RISE * line[PEAK] or value <= PAGE_LEAST:
        line[AGE] += 1.0
        return 0.0
    faded = fade ** (line[AT] - line[PEAKED])
    first = int(min(value * PEAKS_PER_UNIT, PEAK_BINS - 1.0))
    higher = 0.0
    for k in range(PEAK_BINS):
        peaks[k] *= faded
        if k >= first:
            higher += peaks[k]
    peaks[first] += 1.0
    line[PEAKED] = line[AT]
    line[PEAK] = value
    line[AGE] = 0.0
    return max(0.0, value - HABIT * math.log2(1.0 + higher)) / PAGE_UNIT


@kernel
def surprise_from(onset: Any, span: Any) -> Any:
    """One scale for both: onsets above ``DOUBT`` as stretched surprise, all else ranked below by the span."""
    if onset >= DOUBT:
        return DOUBT + STRETCH * (onset - DOUBT)
    return 0.99 * DOUBT * span / (span + SPAN_HALF)


@kernel
def take_back(line: Any, recent: Any, sline: Any) -> Any:
    """Unlearn the level of the samples in doubt: an episode opens only after its first samples were learned."""
    doubted = int(line[DOUBTED])
    if doubted == 0:
        return
    sline[LEVEL] = line[SAFE]
    for j in range(doubted):
        recent[j] = recent[doubted] if doubted < RECENT else line[SAFE]
    line[DOUBTED] = 0.0


@kernel
def judge(tails: Any, counts: Any, lines: Any, raw: Any, floors: Any) -> Any:
    """Surprise of each member's raw score into ``tails`` [MEMBERS]; 0 where the member is young or silent."""
    for m in range(MEMBERS):
        tails[m] = 0.0
        if due(lines[m], FEWEST):
            fit_hill(counts[m], lines[m], floors[m])
        if lines[m, 3] >= FEWEST and not math.isnan(raw[m]):
            tails[m] = surprise_of(counts[m], lines[m], raw[m])


@kernel
def auto_block(
    values: Any, slot_of: Any, phases: Any, days: Any, weeks: Any, hold: Any, day: Any, every: Any,
    growth: Any, fewest: Any, recent: Any, slots: Any, weights: Any, spread: Any, rlines: Any, profiles: Any,
    visits: Any, slines: Any, books: Any, klines: Any, residuals: Any, counts: Any, lines: Any, extremes: Any,
    peaks: Any, alines: Any, score: Any, page: Any, expected: Any, unit: Any,
) -> Any:  # fmt: skip
    """Score and learn a block [N, T]; state arrays (documented in ``detectors/auto.py``) are changed in place."""
    series, samples = values.shape
    f, gain = np.zeros(FEATURES), np.zeros(FEATURES)
    q, distance = np.zeros(WIDTH, np.float32), np.zeros(books.shape[2], np.float32)
    raw, tails, floors, usual = np.zeros(MEMBERS), np.zeros(MEMBERS), np.zeros(MEMBERS), np.zeros(2)
    fade = 1.0 / growth
    for i in range(series):
        for t in range(samples):
            rline, sline, line = rlines[i], slines[i], alines[i]
            turn(slots[i], rline, slot_of[t])
            scale = scale_of(rline)
            predicted = rline[0]
            if rline[3] >= YOUNG:
                describe(recent[i], slots[i], rline, day, scale, f)
                predicted = rline[0] + forecast(weights[i], f) * scale
            usual[0] = expect(profiles[i], visits[i], sline, days[t], weeks[t])
            floor = RESIDUAL_FLOOR * abs(rline[0])
            if rline[3] > 0.0:
                expected[i, t] = predicted
                bound = scale * 3.0
                if lines[i, FORECAST, 3] >= FEWEST:
                    bound = score_of(counts[i, FORECAST], lines[i, FORECAST], DOUBT) + floor
                unit[i, t] = max(bound / DOUBT, 1e-9)
            x = values[i, t]
            if math.isnan(x):
                continue
            at = int(line[AT]) % AVERAGED
            raw[FORECAST] = max(0.0, abs(x - predicted) - floor)
            raw[SEASON] = max(0.0, abs(x - usual[0]) - floor)
            for m in range(2):
                raw[FORECAST_MEAN + m] = average(residuals[i, m], line[FILLED], at, raw[m])
            context(recent[i], int(rline[3]), x, phases[t], q)
            raw[NEAREST] = nearest(books[i], klines[i], q, distance)
            if line[AT] < FEWEST:
                for m in range(MEMBERS):
                    raw[m] = np.nan
            for m in range(MEMBERS):
                floors[m] = floor
            floors[NEAREST] = 1e-6
            judge(tails, counts[i], lines[i], raw, floors)

            onset = (2.0 * tails[FORECAST] + tails[SEASON]) / 3.0
            lasting = 0.5 * (min(tails[NEAREST], CAP) + min(tails[FORECAST_MEAN], CAP))
            line[SPAN] = max(lasting, SPAN_FADES * line[SPAN])
            total = 0.0
            for m in range(MEMBERS):
                total += min(tails[m], CAP)
            total += worth(beyond(extremes[i, OF_SAMPLE], x)) - min(tails[FORECAST_MEAN], CAP)
            if not math.isnan(raw[NEAREST]):
                total += 2.0 * worth(above(extremes[i, OF_SEASON], raw[SEASON]))
                total += 2.0 * worth(above(extremes[i, OF_NEAREST], raw[NEAREST]))
            paged = page_of(line, peaks[i], total / 9.0, fade)
            if line[AT] >= fewest:
                score[i, t] = min(surprise_from(onset, line[SPAN]), 300.0)
                page[i, t] = paged
            line[AT] += 1.0
            if hold[i]:
                if line[HELD] == 0.0:
                    take_back(line, recent[i], sline)
                line[HELD] = 1.0
                push(recent[i], rline, expect(profiles[i], visits[i], sline, days[t], weeks[t]))
                continue
            line[HELD] = 0.0
            if onset < DOUBT:
                line[SAFE], line[DOUBTED] = sline[0], 0.0
            else:
                line[DOUBTED] = min(line[DOUBTED] + 1.0, float(RECENT))

            for m in range(MEMBERS):
                if not math.isnan(raw[m]):
                    learn(counts[i, m], lines[i, m], raw[m], growth)
            see(extremes[i, OF_SAMPLE], x, EXTREME_FORGETS)
            if line[AT] > 60.0:
                see(extremes[i, OF_SEASON], raw[SEASON], EXTREME_FORGETS)
                if not math.isnan(raw[NEAREST]):
                    see(extremes[i, OF_NEAREST], raw[NEAREST], EXTREME_FORGETS)
            for m in range(2):
                residuals[i, m, at] = max(0.0, abs(x - (predicted if m == 0 else usual[0])) - floor)
            line[FILLED] = min(line[FILLED] + 1.0, float(AVERAGED))
            note(books[i], klines[i], q, every)
            if rline[3] >= YOUNG:
                adapt(weights[i], spread[i], rline, f, (x - predicted) / scale, gain)
            settle(rline, x)
            push(recent[i], rline, x)
            absorb(profiles[i], visits[i], sline, days[t], weeks[t], x)
