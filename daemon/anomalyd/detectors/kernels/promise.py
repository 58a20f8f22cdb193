"""Kernel that keeps a combined surprise honest: how often it was that high is counted, and it is corrected by that.

Several tails put together say how rare a sample is only about: on noise with heavy tails the sum is too high too often,
on a strong rhythm with little noise too seldom. What a budget promises is alerts in a time, so stretches above ``u``
(samples at most ``APART`` below it between them) are counted, and what their peaks exceed u by. In expectation a
stretch is as rare as 10 ** -u and its excess has the mean ``FAIR``. From what was counted follows what a surprise x > u
is worth, ``u + shift + slope * (x - u)``; x is moved towards that only as far as needed to be within a factor of
``MARGIN`` of it. It stays above u and in order, and below u nothing is changed.

A past that holds real incidents must not make deaf: what exceeds u by ``FAR`` or more is counted, but not how far it
went; shift and slope are bounded; and both begin at a prior worth ``WEIGHT`` and ``CLUSTERS`` stretches.

A line [LINE] of one series: samples and stretches counted (fading), the sum of the excesses below ``FAR``, stretches
beyond it, the highest excess of the latest stretch, samples since it.
"""

from __future__ import annotations

import math
from typing import Any

from anomalyd.detectors.kernels.jit import kernel

SAMPLES, STRETCHES, EXCESS, BEYOND, PEAK, SINCE = 0, 1, 2, 3, 4, 5
LINE = 6

APART = 10.0
FAIR = 1.0 / math.log(10.0)
FAR = 1.5
MARGIN = math.log10(1.5)
USUAL, WEIGHT = 0.65, 30.0
"""Mean excess before anything was counted, as noise of many kinds has it, and the stretches it counts for."""
CLUSTERS = 10.0
"""Stretches that the expected rate counts for before any was counted."""
LEAST_SLOPE, MOST_SLOPE = 0.6, 1.2
LEAST_SHIFT, MOST_SHIFT = -0.3, 0.7


@kernel
def kept(line: Any, x: Any, u: Any) -> Any:
    """The surprise that x > u is worth after what ``line`` has counted."""
    number = line[STRETCHES] - line[BEYOND]
    mean = (line[EXCESS] + FAR * line[BEYOND] + WEIGHT * USUAL) / (number + WEIGHT)
    slope = min(max(FAIR / mean, LEAST_SLOPE), MOST_SLOPE)
    often = (line[STRETCHES] + CLUSTERS) / (line[SAMPLES] * 10.0 ** (-u) + CLUSTERS)
    shift = min(max(-math.log10(often), LEAST_SHIFT), MOST_SHIFT)
    fair = u + shift + slope * (x - u)
    return max(u, min(max(x, fair - MARGIN), fair + MARGIN))


@kernel
def count(line: Any, x: Any, u: Any, fade: Any) -> Any:
    """Count a sample; ``fade`` is what older ones weigh of what they did."""
    for k in range(PEAK):
        line[k] *= fade
    line[SAMPLES] += 1.0
    line[SINCE] += 1.0
    if x < u:
        return
    excess = x - u
    if line[SINCE] > APART or line[STRETCHES] == 0.0:
        line[STRETCHES] += 1.0
        line[PEAK] = 0.0
    line[SINCE] = 0.0
    if excess <= line[PEAK]:
        return
    line[EXCESS] += min(excess, FAR) - min(line[PEAK], FAR)
    if excess >= FAR > line[PEAK]:
        line[EXCESS] -= FAR
        line[BEYOND] += 1.0
    line[PEAK] = excess


@kernel
def keep_block(score: Any, hold: Any, u: Any, fade: Any, lines: Any) -> Any:
    """Correct the surprises [N, T] in place, each by those before it; ``lines`` [N, LINE] go on.

    Series with ``hold`` [N] are corrected and not counted.
    """
    for i in range(score.shape[0]):
        for t in range(score.shape[1]):
            x = score[i, t]
            if math.isnan(x):
                continue
            if x > u:
                score[i, t] = kept(lines[i], x, u)
            if not hold[i]:
                count(lines[i], x, u, fade)
