"""Kernel of new extremes: how far a value lies beyond everything seen before, in units of the range seen.

``line`` [3]: lowest, highest, number of values seen. The extremes forget slowly: each value moves them a little towards
each other, so that one accident does not make a series deaf for ever. That of a time of day [5] also counts the days on
which it was seen, and names the last of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel, leaf

LOWEST, HIGHEST, SEEN = 0, 1, 2
LINE = 3
DAYS, DAY = 3, 4
HOUR = 5
YOUNG = 40
"""Values before which nothing is an extreme."""
KNOWN_DAYS = 8.0
"""The day, of those on which a time of day was seen, from which on it is judged by itself: a weekend came before."""
LEAST_SHARE = 0.1
"""The range of a time of day counts as no less than this share of the whole range: a still hour is no hair trigger."""
GROWTH = 0.1
RELATIVE_FLOOR, ABSOLUTE_FLOOR = 1e-3, 1e-9


@leaf
def beyond(line: Any, x: Any) -> Any:
    """Distance of x beyond the extremes in units of their range; 0 inside; 0 while young."""
    if line[SEEN] < YOUNG:
        return 0.0
    largest = max(abs(line[LOWEST]), abs(line[HIGHEST]))
    span = max(line[HIGHEST] - line[LOWEST], RELATIVE_FLOOR * largest, ABSOLUTE_FLOOR)
    return max(0.0, x - line[HIGHEST], line[LOWEST] - x) / span


@leaf
def above(line: Any, x: Any) -> Any:
    """As ``beyond``, for values of which only large ones are of interest."""
    if line[SEEN] < YOUNG:
        return 0.0
    span = max(line[HIGHEST] - line[LOWEST], RELATIVE_FLOOR * abs(line[HIGHEST]), ABSOLUTE_FLOOR)
    return max(0.0, x - line[HIGHEST]) / span


@leaf
def see(line: Any, x: Any, forget: Any) -> Any:
    """Remember x; the extremes first draw together by the share ``forget`` of their range."""
    if line[SEEN] == 0.0:
        line[LOWEST] = line[HIGHEST] = x
    else:
        step = forget * (line[HIGHEST] - line[LOWEST])
        line[HIGHEST] = max(line[HIGHEST] - step, x)
        line[LOWEST] = min(line[LOWEST] + step, x)
    line[SEEN] += 1.0


@leaf
def range_of(line: Any, least: Any) -> Any:
    """The range of a line: never less than ``least``, nor than a floor at its level."""
    largest = max(abs(line[LOWEST]), abs(line[HIGHEST]))
    return max(line[HIGHEST] - line[LOWEST], least, RELATIVE_FLOOR * largest, ABSOLUTE_FLOOR)


@leaf
def known(hour: Any) -> Any:
    """Whether enough was seen at this time of day, weekends among it, to judge by it."""
    return hour[DAYS] >= KNOWN_DAYS and hour[SEEN] >= YOUNG


@leaf
def see_hour(hour: Any, x: Any, day: Any, most: Any, forget: Any) -> Any:
    """Remember x at its time of day; once that is known, x widens it by ``most`` at once."""
    if known(hour):
        x = min(max(x, hour[LOWEST] - most), hour[HIGHEST] + most)
    see(hour, x, forget)
    if hour[DAYS] == 0.0 or hour[DAY] != day:
        hour[DAYS] += 1.0
        hour[DAY] = day


@kernel
def extreme_block(
    values: Any, hold: Any, hours: Any, days: Any, forget: Any, fewest: Any, lines: Any, by_hour: Any, score: Any,
    expected: Any, unit: Any,
) -> Any:  # fmt: skip
    """Score a block [N, T]; ``lines`` [N, LINE] and ``by_hour`` [N, H, HOUR] are changed in place.

    ``hours`` [T] is a place in ``by_hour`` (H may be 0), ``days`` [T] another number each day. Expected is the middle
    of the range of the time of day where that is known, and that of all samples until then.
    """
    series, samples = values.shape
    parts = by_hour.shape[1]
    for i in range(series):
        for t in range(samples):
            line, x = lines[i], values[i, t]
            whole = range_of(line, 0.0)
            if line[SEEN] > 0.0:
                expected[i, t], unit[i, t] = 0.5 * line[LOWEST] + 0.5 * line[HIGHEST], whole
            if parts and known(by_hour[i, hours[t]]):
                hour = by_hour[i, hours[t]]
                expected[i, t] = 0.5 * hour[LOWEST] + 0.5 * hour[HIGHEST]
                unit[i, t] = range_of(hour, LEAST_SHARE * whole)
            if math.isnan(x):
                continue
            if line[SEEN] >= fewest:
                score[i, t] = min(abs(x - expected[i, t]) / unit[i, t], 1e12)
            if hold[i]:
                continue
            if line[SEEN] >= fewest:
                # One accident widens the range by a tenth, not by its own size.
                x = min(max(x, line[LOWEST] - GROWTH * whole), line[HIGHEST] + GROWTH * whole)
            see(line, x, forget)
            if parts:
                see_hour(by_hour[i, hours[t]], x, days[t], GROWTH * whole, forget * parts)
    return np.int64(0)
