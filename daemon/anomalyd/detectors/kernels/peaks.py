"""Kernel that says how rare an episode is: a level's surprise by how often separate peaks of a past were as high.

Scores that follow each other are not independent: an incident is one event however many samples it lasts. So the
highest of each half day is a peak, and peaks are counted, not samples. Above the middle peak, which is exceeded once a
day, the excess of squares is taken for exponential: scores that are means of tails are lighter than that, their squares
are close to it. A budget of one episode a week is then spent by what comes once a week.

A past holds real incidents, and nobody knows which: of the peaks above the middle one the higher half counts as peaks,
but only as high as the lowest of that half. And a short past has few peaks, so their mean excess is drawn to what is
usual.

The future is not like the past: a channel that has changed for good would page until the next fit. So each half day
moves the middle peak and the mean excess a tenth of the way, no peak counting for more than ``FAR`` mean excesses; a
sample that opens an episode counts as well, since it is what a budget is spent on. A past is gone through in the same
way once its middle is known: what was lately counts for more, and a new fit does not forget it.

A line [LINE] of one score: the middle peak squared, the mean excess, the highest square of this half day, its samples,
the samples of a half day.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.block import F64
from anomalyd.detectors.kernels.jit import kernel, leaf

MIDDLE, EXCESS, HIGHEST, SEEN, SPAN = 0, 1, 2, 3, 4
LINE = 5
USUAL, WEIGHT = 1.3, 20.0
"""The mean excess that is usual, and the peaks that it counts for."""
BELIEVED = 0.5
"""Share of the excesses whose size is believed."""
STEP, FAR = 0.1, 2.0
CUT_MEAN = 1.0 - math.exp(-FAR)
"""What is left of the mean of exponential excesses that count for no more than ``FAR`` of it."""
LEAST = 0.3
"""The mean excess never becomes less."""


@leaf
def rarity(line: Any, x: Any) -> Any:
    """The surprise of a level x: once a day at the middle peak."""
    return math.log10(2.0 * line[SPAN]) + (x * x - line[MIDDLE]) / (line[EXCESS] * math.log(10.0))


@leaf
def weekly(line: Any) -> Any:
    """The surprise of what comes once a week."""
    return math.log10(14.0 * line[SPAN])


@leaf
def count(line: Any, x: Any) -> Any:
    """Take note of a sample; with the last of a half day the middle peak and the mean excess move."""
    line[HIGHEST] = max(line[HIGHEST], x * x)
    line[SEEN] += 1.0
    if line[SEEN] < line[SPAN]:
        return
    excess = line[HIGHEST] - line[MIDDLE]
    if excess > 0.0:
        line[EXCESS] += STEP * (min(excess, FAR * line[EXCESS]) / CUT_MEAN - line[EXCESS])
        line[EXCESS] = max(line[EXCESS], LEAST)
    line[MIDDLE] += STEP * line[EXCESS] if excess > 0.0 else -STEP * line[EXCESS]
    line[HIGHEST] = line[SEEN] = 0.0


@kernel
def follow_peaks(fresh: Any, short: Any, nobody: Any, line: Any) -> Any:
    """The surprises of two scores [T], then count the first; ``line`` moves on, but not where there is ``nobody``."""
    first, second = np.zeros(len(fresh)), np.zeros(len(fresh))
    for t in range(len(fresh)):
        first[t], second[t] = rarity(line, fresh[t]), rarity(line, short[t])
        if not nobody[t]:
            count(line, fresh[t])
    return first, second


def fit_peaks(x: F64, half_day: int) -> F64:
    """The line of a past x [T], in its order, with so many samples in half a day."""
    span = max(1, half_day)
    line = np.array([0.0, USUAL, 0.0, 0.0, float(span)])
    whole = len(x) // span
    if not whole:
        line[MIDDLE] = float(np.square(x).max()) if len(x) else 0.0
        return line
    peaks = np.square(x[: whole * span].reshape(whole, span).max(axis=1))
    line[MIDDLE] = np.median(peaks)
    excess = np.sort(peaks[peaks > line[MIDDLE]] - line[MIDDLE])
    believed = len(excess) - int((1.0 - BELIEVED) * len(excess))
    total = np.minimum(excess, excess[believed - 1]).sum() if believed else 0.0
    line[EXCESS] = max((total + WEIGHT * USUAL) / (believed + WEIGHT), LEAST)
    nobody = np.zeros(len(x), np.bool_)
    follow_peaks(x, x, nobody, line)
    line[HIGHEST] = line[SEEN] = 0.0
    return line
