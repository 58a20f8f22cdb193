"""Kernel of new extremes: how far a value lies beyond everything seen before, in units of the range seen.

``line`` [3]: lowest, highest, number of values seen. The extremes forget slowly: each value moves them a little towards
each other, so that one accident does not make a series deaf for ever.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel, leaf

LOWEST, HIGHEST, SEEN = 0, 1, 2
LINE = 3
YOUNG = 40
"""Values before which nothing is an extreme."""
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


@kernel
def extreme_block(
    values: Any, hold: Any, forget: Any, fewest: Any, lines: Any, score: Any, expected: Any, unit: Any,
) -> Any:  # fmt: skip
    """Score a block [N, T]; ``lines`` [N, LINE] is changed in place. Expected is the middle of the range."""
    series, samples = values.shape
    for i in range(series):
        for t in range(samples):
            line = lines[i]
            if line[SEEN] > 0.0:
                largest = max(abs(line[LOWEST]), abs(line[HIGHEST]))
                span = max(line[HIGHEST] - line[LOWEST], RELATIVE_FLOOR * largest, ABSOLUTE_FLOOR)
                expected[i, t] = 0.5 * line[LOWEST] + 0.5 * line[HIGHEST]
                unit[i, t] = span
            x = values[i, t]
            if math.isnan(x):
                continue
            if line[SEEN] >= fewest:
                # Beyond the edge plus half a range is the distance from the middle, so that the band is honest.
                inside = abs(x - expected[i, t]) / unit[i, t]
                score[i, t] = min(max(inside - 0.5, 0.0) + min(inside, 0.5), 1e12)
            if hold[i]:
                continue
            if line[SEEN] >= fewest:
                # One accident widens the range by a tenth, not by its own size.
                x = min(max(x, line[LOWEST] - GROWTH * unit[i, t]), line[HIGHEST] + GROWTH * unit[i, t])
            see(line, x, forget)
    return np.int64(0)
