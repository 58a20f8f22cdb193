"""A history is made fit to learn a rhythm from: incidents that nobody knows of are taken out, gaps are filled.

STL's robustness weights do not see what lies in the last cycle: the season there follows a single outlier half way, and
what is left of it looks ordinary. So a sample is compared with the middle of its phase over all cycles first.
"""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64
from anomalyd.detectors.kernels.baseline import MEDIAN_TO_SIGMA
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.stl import middle

FEWEST_CYCLES = 4
FAR = 10.0
"""Spreads from the middle of its phase beyond which a sample is none of the rhythm."""
MOST = 0.05
"""Where more than this share is so far off, it is the rhythm that is another one: nothing is taken out."""


@kernel
def middle_of(values: F64, first: int, step: int, work: F64) -> float:
    """Median of every ``step``-th value from ``first`` on; NaN where all are missing."""
    count = 0
    for i in range(first, len(values), step):
        if not np.isnan(values[i]):
            work[count] = values[i]
            count += 1
    return middle(work[:count]) if count else np.nan


@kernel
def lift_incidents(y: F64, period: int) -> int:
    """Make the samples of a series missing that are far from the middle of their phase; return how many.

    The level of each cycle, counted from the end, is its median; the samples before the first whole cycle share its.
    """
    n = len(y)
    cycles = n // period
    if cycles < FEWEST_CYCLES:
        return 0
    away, work = np.empty(n), np.empty(n)
    for c in range(cycles):
        begin, stop = n - (c + 1) * period, n - c * period
        level = middle_of(y[begin:stop], 0, 1, work)
        for i in range(0 if c == cycles - 1 else begin, stop):
            away[i] = y[i] - level
    for phase in range(period):
        usual = middle_of(away, phase, period, work)
        for i in range(phase, n, period):
            away[i] = abs(away[i] - usual)
    limit = FAR * MEDIAN_TO_SIGMA * middle_of(away, 0, 1, work)
    far = 0
    for i in range(n):
        if away[i] > limit:
            far += 1
    if limit <= 0.0 or far > MOST * n:
        return 0
    for i in range(n):
        if away[i] > limit:
            y[i] = np.nan
    return far


@kernel
def fill_gaps(y: F64, period: int) -> int:
    """Replace missing values: by the same phase of the nearest cycle, else by a line; return how many were present."""
    n = len(y)
    present = 0
    missing = np.isnan(y)
    for i in range(n):
        if not missing[i]:
            present += 1
    if present == 0 or present == n:
        return present
    for i in range(n):
        if not missing[i]:
            continue
        for cycle in range(1, n // period + 1):
            if i - cycle * period >= 0 and not missing[i - cycle * period]:
                y[i] = y[i - cycle * period]
                break
            if i + cycle * period < n and not missing[i + cycle * period]:
                y[i] = y[i + cycle * period]
                break
    fill_line(y)
    return present


@kernel
def fill_line(y: F64) -> None:
    """Replace missing values by lines between the present ones, the ends by the nearest."""
    n = len(y)
    last = -1
    for i in range(n):
        if np.isnan(y[i]):
            continue
        for j in range(last + 1, i):
            y[j] = y[i] if last < 0 else y[last] + (y[i] - y[last]) * (j - last) / (i - last)
        last = i
    for j in range(last + 1, n):
        y[j] = y[last] if last >= 0 else 0.0
