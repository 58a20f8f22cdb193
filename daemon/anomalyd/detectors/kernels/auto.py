"""Kernel of ``auto``: members over one pass of the samples, their tails, and the two signals made of them.

Members of one series: residual of the least-squares forecast (``rls``) and of the seasonal experts (``seasonal``), each
also averaged over ten samples, and the distance to the nearest contexts (``knn``). Each has its own tail (Hill, see
``tail``). Beside them three extremes: of the sample, of the seasonal residual, of the neighbour distance.

Where as many samples are missing as the forecast knows of late, the next one may be further from what was expected by
the root of the time that nobody saw: residuals count by that much less, the band is that much wider, and what is
missing is taken to lie between the two samples around it. Shorter gaps change nothing: a series that is irregular by
nature has them in its tails.

Onset
    Mean of the tails of the two residuals, the forecast's counted twice: what begins now. Above ``DOUBT`` it is the
    surprise, stretched to a probability (``STRETCH``).
Span
    Mean of the tails of neighbours and averaged forecast residual, its peak held and fading: what goes on. It ranks
    the samples below ``DOUBT``.
Page
    Mean of four tails and the extremes, less while the series is young; given only where it exceeds its own recent
    peak, less what earlier peaks as high have taught: one value where something opens or worsens, 0 elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.detectors.kernels.extreme import above, beyond, see
from anomalyd.detectors.kernels.jit import leaf, seldom
from anomalyd.detectors.kernels.knn import AHEAD, context, fetch_contexts, nearest, note
from anomalyd.detectors.kernels.knn import rooms as rooms_of_book
from anomalyd.detectors.kernels.prefetch import prefetch_all, prefetch_cell, prefetch_row
from anomalyd.detectors.kernels.rls import (
    FEATURES,
    MEAN,
    RECENT,
    YOUNG,
    adapt,
    describe,
    fetch,
    forecast,
    push,
    scale_of,
    settle,
    turn,
)
from anomalyd.detectors.kernels.seasonal import LEVEL, absorb, expect, expect_held
from anomalyd.detectors.kernels.tail import FIRST, SEEN, due, fit_hill, learn_at, place, score_of, surprise_at

FORECAST, SEASON, NEAREST, FORECAST_MEAN, SEASON_MEAN = 0, 1, 2, 3, 4
MEMBERS = 5
AVERAGED = 10
OF_SAMPLE, OF_SEASON, OF_NEAREST = 0, 1, 2
EXTREMES = 3
VIEWS = MEMBERS + EXTREMES

SPAN, PEAK, AGE, AT, PEAKED, FILLED, SAFE, DOUBTED, HELD, MISSED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
"""Slots of ``line``: held span; held peak of the page signal, samples since; samples judged; when the peaks were last
counted; residuals averaged so far; the level before the samples in doubt, their number, samples held just now; slots
without a sample since the last one."""
LINE = 10

SAMPLES = 3
"""Slot of the forecast's line: samples learned."""

WAITING = 20
"""So many scores of an episode are learned when it is over: how often such things happen, not how long they last."""

SETTLED = 300.0
"""A series that was seen less often is learned in an episode too: it is not known well enough for that to spoil it."""

FEWEST = 40
EXTREMES_FROM = 60.0
NEAREST_FLOOR = 1e-6
DOUBT = 2.2
STRETCH = 1.9
SPAN_FADES = 0.97
SPAN_HALF = 3.0
CAP = 8.0
EXTREME_WORTH, EXTREME_LEAST, EXTREME_HALF = 10.0, 0.3, 0.05
EXTREME_FORGETS = 1e-6
PAGE_UNIT = 1.0 / 3.0
PAGE_RISE, PAGE_HOLD, PAGE_FADES, PAGE_LEAST = 1.05, 25.0, 0.99, 0.2
YOUTH = 0.05
"""So much less is news worth at half the age: what a young series has not shown yet is not rare."""
HABIT = 0.2
PEAK_BINS, PEAKS_PER_UNIT = 128, 8.0
BELOW_EDGE = 32
"""Cells of a tail around its edge that memory is asked for."""
RESIDUAL_FLOOR = 1e-4
"""Share of the level that a residual must exceed to be one: a flat line's last digit is none."""


@leaf
def worth(distance: Any) -> Any:
    """What a new extreme is worth on the scale of surprises: something at once, saturating with the distance."""
    if not distance > 0.0:
        return 0.0
    return EXTREME_WORTH * (EXTREME_LEAST + (1.0 - EXTREME_LEAST) * distance / (distance + EXTREME_HALF))


@leaf
def average(ring: Any, filled: Any, at: Any, x: Any) -> Any:
    """Mean of x and the residuals before it that the ring [AVERAGED] still holds, x not yet put in."""
    total, number = x, 1
    for k in range(AVERAGED):
        if k < filled and k != at:
            total += ring[k]
            number += 1
    return total / number


@leaf
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


@leaf
def surprise_from(onset: Any, span: Any) -> Any:
    """One scale for both: onsets above ``DOUBT`` as stretched surprise, all else ranked below by the span."""
    if onset >= DOUBT:
        return DOUBT + STRETCH * (onset - DOUBT)
    return 0.99 * DOUBT * span / (span + SPAN_HALF)


@leaf
def take_back(line: Any, recent: Any, sline: Any) -> Any:
    """Unlearn the level of the samples in doubt: an episode opens only after its first samples were learned."""
    doubted = int(line[DOUBTED])
    if doubted == 0:
        return
    sline[LEVEL] = line[SAFE]
    for j in range(doubted):
        recent[j] = recent[doubted] if doubted < RECENT else line[SAFE]
    line[DOUBTED] = 0.0


@leaf
def judge(tails: Any, counts: Any, lines: Any, raw: Any, places: Any, floor: Any) -> Any:
    """Surprise of each member's raw score into ``tails`` [MEMBERS]; 0 where the member is young or silent.

    ``places`` [MEMBERS] takes where on its histogram's axis each score lies; ``floor`` is that of the residuals.
    """
    for m in range(MEMBERS):
        tails[m] = 0.0
        if due(lines[m], FEWEST):
            fit_hill(counts[m], lines[m], NEAREST_FLOOR if m == NEAREST else floor)
        if math.isnan(raw[m]):
            continue
        places[m] = place(lines[m], raw[m])
        if lines[m, SEEN] >= FEWEST:
            tails[m] = surprise_at(counts[m], lines[m], raw[m], places[m])


@leaf
def band_of(counts: Any, line: Any, scale: Any, floor: Any) -> Any:
    """Deviation from the forecast per surprise: the band at ``DOUBT`` by the forecast's own tail, or three spreads."""
    bound = score_of(counts, line, DOUBT) + floor if line[SEEN] >= FEWEST else 3.0 * scale
    return max(bound / DOUBT, 1e-9)


@leaf
def next_forecast(
    recent: Any, slots: Any, weights: Any, rline: Any, day: Any, back: Any, scale: Any, f: Any
) -> Any:  # fmt: skip
    """What the least-squares forecast expects of the next sample; its features stay in ``f``."""
    if rline[SAMPLES] < YOUNG:
        return rline[MEAN]
    describe(recent, slots, rline, day, back, scale, f)
    return rline[MEAN] + forecast(weights, f) * scale


@leaf
def widened(line: Any) -> Any:
    """By how much further than one step a sample may be after as many missing ones that nothing recent is known.

    In an episode it may not: the expectation goes on without what is recent, and an outage must stay open.
    """
    return math.sqrt(1.0 + line[MISSED]) if line[MISSED] >= RECENT and line[HELD] == 0.0 else 1.0


@leaf
def bridge(recent: Any, missed: Any, x: Any) -> Any:
    """The samples missing before x, newest first in ``recent``, are taken to lie between the last one and x."""
    last = recent[0]
    for j in range(RECENT):
        recent[j] = x + (last - x) * (j + 1.0) / (missed + 1.0)


@leaf
def score_members(
    raw: Any, x: Any, predicted: Any, usual: Any, floor: Any, wide: Any, residuals: Any, line: Any, far: Any
) -> Any:  # fmt: skip
    """Raw scores of the members into ``raw`` [MEMBERS]; ``far`` is the distance to the nearest contexts.

    Residuals count in units of ``wide``: what nobody saw for a while may be further away.
    """
    if line[AT] < FEWEST:
        for m in range(MEMBERS):
            raw[m] = np.nan
        return
    at = int(line[AT]) % AVERAGED
    raw[FORECAST] = max(0.0, abs(x - predicted) - floor) / wide
    raw[SEASON] = max(0.0, abs(x - usual) - floor) / wide
    raw[FORECAST_MEAN] = average(residuals[0], line[FILLED], at, raw[FORECAST])
    raw[SEASON_MEAN] = average(residuals[1], line[FILLED], at, raw[SEASON])
    raw[NEAREST] = far


@leaf
def page_value(tails: Any, extremes: Any, raw: Any, x: Any) -> Any:
    """What the paging signal is made of: four tails and three extremes, those of residual and distance twice."""
    total = min(tails[FORECAST], CAP) + min(tails[SEASON], CAP)
    total += min(tails[NEAREST], CAP) + min(tails[SEASON_MEAN], CAP)
    total += worth(beyond(extremes[OF_SAMPLE], x))
    if not math.isnan(raw[NEAREST]):
        total += 2.0 * worth(above(extremes[OF_SEASON], raw[SEASON]))
        total += 2.0 * worth(above(extremes[OF_NEAREST], raw[NEAREST]))
    return total / 9.0


@leaf
def youth(seen: Any, grown: Any) -> Any:
    """What the news of a series that has shown ``seen`` samples is worth less than one that has shown ``grown``."""
    return YOUTH * math.log2(grown / (seen + 1.0)) if seen + 1.0 < grown else 0.0


@seldom
def show(view: Any, tails: Any, extremes: Any, raw: Any, x: Any) -> Any:
    """What one sample looked like: the members' tails and the distances beyond the three extremes."""
    for m in range(MEMBERS):
        view[m] = tails[m]
    view[MEMBERS + OF_SAMPLE] = beyond(extremes[OF_SAMPLE], x)
    view[MEMBERS + OF_SEASON] = above(extremes[OF_SEASON], raw[SEASON])
    view[MEMBERS + OF_NEAREST] = above(extremes[OF_NEAREST], raw[NEAREST])


@seldom
def go_on_held(
    raw: Any, x: Any, waiting: Any, line: Any, recent: Any, slots: Any, rline: Any, day: Any, back: Any,
    profile: Any, visits: Any, sline: Any, day_bin: Any, week_bin: Any,
) -> Any:  # fmt: skip
    """A held sample teaches nothing yet: the forecast goes on from what the seasonal experts expect."""
    if line[HELD] == 0.0:
        take_back(line, recent, sline)
    if line[HELD] < WAITING:
        row = int(line[HELD])
        for m in range(MEMBERS):
            waiting[row, m] = raw[m]
        waiting[row, MEMBERS] = x
    line[HELD] += 1.0
    # The last level goes along, so that the samples after the episode are held against where the rhythm is by then.
    sline[LEVEL] = expect_held(profile, visits, sline, day_bin, week_bin)
    push(recent, slots, rline, day, back, sline[LEVEL])


@seldom
def look_back(waiting: Any, counts: Any, lines: Any, extremes: Any, line: Any, growth: Any, places: Any) -> Any:
    """An episode is over: learn that such scores happen. Levels and weights stay as they were."""
    for row in range(int(min(line[HELD], float(WAITING)))):
        for m in range(MEMBERS):
            places[m] = place(lines[m], waiting[row, m])
        learn_scores(waiting[row, :MEMBERS], places, waiting[row, MEMBERS], counts, lines, extremes, line, growth)
    line[HELD] = 0.0


@leaf
def note_doubt(line: Any, onset: Any, level: Any) -> Any:
    """Remember the level before the samples in doubt, and how many they are."""
    if onset < DOUBT:
        line[SAFE], line[DOUBTED] = level, 0.0
    else:
        line[DOUBTED] = min(line[DOUBTED] + 1.0, float(RECENT))


@leaf
def learn_scores(
    raw: Any, places: Any, x: Any, counts: Any, lines: Any, extremes: Any, line: Any, growth: Any
) -> Any:  # fmt: skip
    """Teach tails and extremes a sample's raw scores, whose ``places`` are known."""
    for m in range(MEMBERS):
        if not math.isnan(raw[m]):
            learn_at(counts[m], lines[m], raw[m], places[m], growth)
    see(extremes[OF_SAMPLE], x, EXTREME_FORGETS)
    if line[AT] > EXTREMES_FROM:
        see(extremes[OF_SEASON], raw[SEASON], EXTREME_FORGETS)
        if not math.isnan(raw[NEAREST]):
            see(extremes[OF_NEAREST], raw[NEAREST], EXTREME_FORGETS)


@leaf
def remember(
    raw: Any, places: Any, x: Any, early: Any, residuals: Any, counts: Any, lines: Any, extremes: Any, line: Any,
    growth: Any,
) -> Any:  # fmt: skip
    """Teach tails, extremes and averages a sample's raw scores; ``early`` [2] are the plain residuals."""
    learn_scores(raw, places, x, counts, lines, extremes, line, growth)
    at = (int(line[AT]) - 1) % AVERAGED
    residuals[0, at] = early[0]
    residuals[1, at] = early[1]
    line[FILLED] = min(line[FILLED] + 1.0, float(AVERAGED))


@leaf
def fetch_rest(
    i: Any, day_bin: Any, week_bin: Any, profiles: Any, visits: Any, slines: Any, residuals: Any, counts: Any,
    lines: Any, extremes: Any, alines: Any,
) -> Any:  # fmt: skip
    """Ask for what a sample of series i will need beside forecast and contexts; of each tail what is below its edge."""
    if i + 1 < lines.shape[0]:
        prefetch_all(lines[i + 1])
    if i >= lines.shape[0]:
        return
    for at in (day_bin, week_bin):
        prefetch_cell(profiles, i, at)
        prefetch_cell(visits, i, at)
    prefetch_row(slines, i)
    prefetch_row(alines, i)
    prefetch_all(extremes[i])
    for k in range(residuals.shape[1]):
        prefetch_row(residuals[i], k)
    for m in range(MEMBERS):
        first = int(lines[i, m, FIRST])
        prefetch_row(counts[i], m, first + BELOW_EDGE, max(0, first - BELOW_EDGE))


def rooms(contexts: int) -> tuple[npt.NDArray[Any], ...]:
    """Scratch of ``auto_block`` for books of so many contexts."""
    sizes = (FEATURES, FEATURES, FEATURES * FEATURES, 2, MEMBERS, MEMBERS, MEMBERS)
    return (*(np.zeros(size) for size in sizes), *rooms_of_book(contexts))


@leaf
def auto_block(
    values: Any, slot_of: Any, back: Any, clock: Any, days: Any, weeks: Any, hold: Any, day: Any, every: Any,
    growth: Any, fewest: Any, grown: Any, recent: Any, slots: Any, weights: Any, covariances: Any, rlines: Any,
    profiles: Any, visits: Any, slines: Any, books: Any, boxes: Any, hulls: Any, klines: Any, residuals: Any,
    counts: Any, lines: Any,
    extremes: Any, peaks: Any, alines: Any, waitings: Any, score: Any, page: Any, expected: Any, unit: Any, views: Any,
    room: Any,
) -> Any:  # fmt: skip
    """Score and learn a block [N, T]; state arrays (documented in ``detectors/auto.py``) are changed in place.

    ``hold`` [N, T] says which samples teach nothing yet, ``clock`` [T, 2] is ``knn.around_clock``, ``covariances``
    [N, P * P] are rows of the spread, ``room`` is ``rooms``, ``back`` [T] is how many days ago the last day like that
    of each time was. ``views`` [N, T or 0, VIEWS] takes what the signals are made of, where it is wanted.
    """
    f, gain, outer, early, raw, places, tails, q, aims, bounds, apart, best, near, lower, unsorted = room
    fade = 1.0 / growth
    last = values.shape[1] - 1
    for i in range(values.shape[0]):
        if last >= 0:
            ahead = i + AHEAD
            fetch(recent, slots, weights, covariances, rlines, ahead, slot_of[last], day)
            fetch_contexts(books, boxes, hulls, klines, klines, ahead)
            fetch_rest(
                ahead, days[last], weeks[last], profiles, visits, slines, residuals, counts, lines, extremes, alines
            )
        for t in range(last + 1):
            rline, sline, line = rlines[i], slines[i], alines[i]
            turn(slots[i], rline, slot_of[t])
            scale, wide = scale_of(rline), widened(line)
            predicted = next_forecast(recent[i], slots[i], weights[i], rline, day, back[t], scale, f)
            if hold[i, t]:
                usual = expect_held(profiles[i], visits[i], sline, days[t], weeks[t])
            else:
                usual = expect(profiles[i], visits[i], sline, days[t], weeks[t])
            floor = RESIDUAL_FLOOR * abs(rline[MEAN])
            if rline[SAMPLES] > 0.0:
                expected[i, t] = predicted
                unit[i, t] = band_of(counts[i, FORECAST], lines[i, FORECAST], scale, floor) * wide
            x = values[i, t]
            if math.isnan(x):
                line[MISSED] += 1.0
                continue
            if line[HELD] > 0.0 and not hold[i, t]:
                look_back(waitings[i], counts[i], lines[i], extremes[i], line, growth, places)
            if line[MISSED] >= RECENT and rline[SAMPLES] > 0.0 and not hold[i, t]:
                bridge(recent[i], line[MISSED], x)
            line[MISSED] = 0.0
            context(recent[i], int(rline[SAMPLES]), x, clock[t, 0], clock[t, 1], q)
            far = nearest(books[i], boxes[i], hulls[i], klines[i], q, aims, bounds, apart, best, near, lower)
            score_members(raw, x, predicted, usual, floor, wide, residuals[i], line, far)
            judge(tails, counts[i], lines[i], raw, places, floor)
            onset = (2.0 * tails[FORECAST] + tails[SEASON]) / 3.0
            lasting = 0.5 * (min(tails[NEAREST], CAP) + min(tails[FORECAST_MEAN], CAP))
            line[SPAN] = max(lasting, SPAN_FADES * line[SPAN])
            if views.shape[1] > 0:
                show(views[i, t], tails, extremes[i], raw, x)
            news = page_value(tails, extremes[i], raw, x) - youth(line[AT], grown)
            paged = page_of(line, peaks[i], news, fade)
            if line[AT] >= fewest:
                score[i, t] = min(surprise_from(onset, line[SPAN]), 300.0)
                page[i, t] = paged
            line[AT] += 1.0
            if hold[i, t] and line[AT] > SETTLED:
                go_on_held(
                    raw, x, waitings[i], line, recent[i], slots[i], rline, day, back[t], profiles[i], visits[i], sline,
                    days[t], weeks[t],
                )
                continue
            note_doubt(line, onset, sline[LEVEL])
            early[0] = max(0.0, abs(x - predicted) - floor) / wide
            early[1] = max(0.0, abs(x - usual) - floor) / wide
            remember(raw, places, x, early, residuals[i], counts[i], lines[i], extremes[i], line, growth)
            note(books[i], boxes[i], hulls[i], klines[i], q, every, unsorted)
            if rline[SAMPLES] >= YOUNG:
                adapt(weights[i], covariances[i], rline, f, (x - predicted) / (scale * wide), gain, outer)
            settle(rline, x, scale)
            push(recent[i], slots[i], rline, day, back[t], x)
            absorb(profiles[i], visits[i], sline, days[t], weeks[t], x)
