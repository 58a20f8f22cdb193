"""Incidents in a history that nobody lived through: what a fit is not to learn from.

Live, the samples of an open episode are not learned. A history from before the first slot was judged by nobody, so its
incidents are found here: runs of samples far from what the series usually is at that time of day, which are over, do
not last as long as a new level takes to be accepted, do not come again at the same time, and are few. What comes often
is the nature of the series, and is learned.

All of it is a question to the history alone and the same for every detector: its profile is a median over days, which
incidents do not move, whereas what a detector expects after an hour of outage is the outage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.calibrate import FAR, FEWEST, MOST_INCIDENTS, RUN
from anomalyd.detectors.common import civil_times, clean

LEAST_MS = 3 * DAY_MS
"""Of less past nobody can say what is usual at a time of the day."""
OFTEN_MS = 3 * DAY_MS
"""What comes more often than once in so long is the nature of the series."""
BIN_MS = 15 * MINUTE_MS
"""The day's profile has one value for so long."""
APART_MS = HOUR_MS
"""Runs that are nearer each other are one."""
SAME_TIME_MS, SAME_WEEKDAY_MS = 15 * MINUTE_MS, 2 * HOUR_MS
"""Runs that begin within this of the same time, on another day or in another week, are one habit."""
ALIKE = 2.0
"""Habits last about as long each time: at most so many times as long."""
DENSE = 0.2
"""Less than this share of far samples is a noise that has spikes."""
ROWS = 256
"""Series that are looked at together: so much is in memory twice."""


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Far runs of one series: first sample, end (exclusive), greatest deviation; all [R]."""

    first: I64
    stop: I64
    peak: F64


def incidents_of(history: Block, grid: Grid, longest_ms: int = DAY_MS) -> Bool:
    """Which samples of a history [N, T] belong to incidents, on the side of the grid's direction.

    ``longest_ms`` is the time after which what is unusual is a new level. A run that the history ends in, or that
    ended less than its own length before, may be one; it is no incident.
    """
    found = np.zeros(history.values.shape, np.bool_)
    times = history.times
    if len(times) < FEWEST or int(times[-1] - times[0]) < LEAST_MS - BIN_MS:
        return found
    civil = civil_times(times, grid.timezone, grid.holidays)
    bins = civil % DAY_MS // BIN_MS
    for begin in range(0, len(history), ROWS):
        away = _away(clean(history.values[begin : begin + ROWS]), bins, grid)
        for s, (own, far, near) in enumerate(zip(away, *_limits(away), strict=True), begin):
            if (own > far).any():
                for first, stop in _incidents(own, far, near, times, civil, longest_ms):
                    found[s, first:stop] = True
    return found


def most_incidents(length_ms: int) -> int:
    """How many incidents a history of this length may have: more are the nature of the series."""
    return max(MOST_INCIDENTS, length_ms // OFTEN_MS)


def runs_of(flags: Bool) -> tuple[I64, I64]:
    """Where runs of true ones begin, and where they end (exclusive)."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _away(values: F64, bins: I64, grid: Grid) -> F64:
    """How far each sample [N, T] is from the median of its time of day, on the side that matters; never negative.

    At times of the day at which a series is restless its deviations count for less.
    """
    moved = np.empty_like(values)
    places = [np.flatnonzero(bins == one) for one in np.unique(bins)]
    for here in places:
        moved[:, here] = values[:, here] - _rank(values[:, here], 0.5)[:, None]
    away = np.abs(moved)
    usual = _rank(away, 0.5)
    for here in places:
        with np.errstate(divide="ignore", invalid="ignore"):
            restless = _rank(away[:, here], 0.5) / usual
        moved[:, here] /= np.where(np.isfinite(restless), np.maximum(restless, 1.0), 1.0)[:, None]
    if grid.direction == "both":
        return np.abs(moved)
    return np.maximum(moved if grid.direction == "up" else -moved, 0.0)


def _limits(away: F64) -> tuple[F64, F64]:
    """From where on a deviation is far, and up to where what is around it belongs to it; each [N]."""
    middle, high = _rank(away, 0.5), _rank(away, 0.9)
    return high + FAR * (high - middle), high + (high - middle)


def _rank(values: F64, share: float) -> F64:
    """The sample [N] of each row below which this share of them lies; NaN where there is none."""
    ordered = np.sort(values, axis=1)  # what is missing comes last
    count = np.count_nonzero(~np.isnan(ordered), axis=1)
    place = np.maximum(np.ceil(share * count).astype(np.int64) - 1, 0)
    return np.take_along_axis(ordered, place[:, None], axis=1)[:, 0]


def _incidents(away: F64, far: float, near: float, times: I64, civil: I64, longest_ms: int) -> list[tuple[int, int]]:
    """Spans of samples (from, up to) of one series [T]."""
    there = np.flatnonzero(~np.isnan(away))
    if len(there) < FEWEST or int(times[there[-1]] - times[there[0]]) < LEAST_MS - BIN_MS:
        return []
    at, clock = times[there], civil[there]
    runs = _far_runs(away[there], far, near, at)
    if not len(runs.first):
        return []
    begins, ends = at[runs.first], at[runs.stop - 1]
    lasts = ends - begins + int(np.median(np.diff(at)))
    one_off = ~_habits(clock[runs.first], lasts) & (lasts <= longest_ms) & (at[-1] - ends >= lasts)
    chosen = np.flatnonzero(one_off & _few(runs.peak, most_incidents(int(at[-1] - at[0]) + BIN_MS)))
    return [(int(there[runs.first[r]]), int(there[runs.stop[r] - 1]) + 1) for r in chosen.tolist()]


def _far_runs(away: F64, far: float, near: float, at: I64) -> _Runs:
    """Runs beyond ``near`` that have samples beyond ``far``: enough of them, or any where the series hardly moves."""
    first, stop = runs_of(away > near)
    counted = np.concatenate([[0], np.cumsum(away > far)])
    some = counted[stop] > counted[first]
    first, stop = first[some], stop[some]
    apart = at[first[1:]] - at[stop[:-1] - 1] > APART_MS
    first, stop = first[np.r_[True, apart][: len(first)]], stop[np.r_[apart, True][: len(stop)]]
    far_ones = counted[stop] - counted[first]
    long = far_ones >= np.maximum(RUN, DENSE * (stop - first)) if near > 0 else far_ones > 0
    first, stop = first[long], stop[long]
    return _Runs(first, stop, np.array([away[a:b].max() for a, b in zip(first, stop, strict=True)]))


def _few(peak: F64, most: int) -> Bool:
    """Which runs [R] are few: all of them, or so many at most as stand far above all the others."""
    if len(peak) <= most:
        return np.ones(len(peak), np.bool_)
    order = np.argsort(-peak, kind="stable")
    outstanding = [k for k in range(1, most + 1) if peak[order[k - 1]] >= FAR * peak[order[k]]]
    few = np.zeros(len(peak), np.bool_)
    few[order[: max(outstanding, default=0)]] = True
    return few


def _habits(begins: I64, lasts: I64) -> Bool:
    """Which runs [R] come again: another is about as long, at the same time of another day or week."""
    between = np.abs(begins[:, None] - begins[None, :])
    lengths = np.maximum(lasts[:, None], lasts[None, :]) <= ALIKE * np.minimum(lasts[:, None], lasts[None, :])
    daily = (between > DAY_MS // 2) & (_from_whole(between, DAY_MS) <= SAME_TIME_MS)
    weekly = (between > DAY_MS // 2) & (_from_whole(between, WEEK_MS) <= SAME_WEEKDAY_MS)
    again: Bool = ((daily | weekly) & lengths).any(axis=1)
    return again


def _from_whole(between: I64, period_ms: int) -> I64:
    """How far each distance is from a whole number of periods."""
    rest = between % period_ms
    return np.minimum(rest, period_ms - rest)
