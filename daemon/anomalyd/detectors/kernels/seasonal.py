"""Kernel of the seasonal experts: what to expect by the last level, the day, the week, or a slow mean.

Four experts forecast each sample: the level of the last few samples; a profile over the day and one over the week, each
with an offset that follows the level; a slow mean. The one with the least recent error speaks. All learn from clipped
errors, so a spike teaches no more than a large ordinary error.

State of one series: ``profile`` [D + W] (the day's bins, then the week's), ``visits`` [D + W] (how often a bin was
seen, counted to 250) and ``line`` [LINE].
"""

from __future__ import annotations

import math
from typing import Any

from anomalyd.detectors.kernels.jit import kernel, leaf

LEVEL, SLOW, DAY_OFFSET, WEEK_OFFSET, ERRORS, SEEN = 0, 1, 2, 3, 4, 8
LINE = 9
YOUNG = 40
LEVEL_RATE, PROFILE_RATE, OFFSET_RATE, ERROR_RATE, SLOW_RATE = 0.2, 0.1, 0.02, 0.003, 0.005
CLIP = 6.0
"""Errors beyond this many usual errors teach as much as this many."""
TINY = 1e-9


@leaf
def best_expert(line: Any) -> Any:
    """Index of the expert with the least recent error."""
    best = 0
    for q in range(1, 4):
        if line[ERRORS + q] < line[ERRORS + best]:
            best = q
    return best


@leaf
def opinion(profile: Any, visits: Any, line: Any, expert: Any, day_bin: Any, week_bin: Any) -> Any:
    """What one expert expects; those whose bin is new speak through the next simpler one."""
    if expert == 3:
        return line[SLOW]
    if expert == 2 and visits[week_bin] >= 2:
        return float(profile[week_bin]) + line[WEEK_OFFSET]
    if expert >= 1 and visits[day_bin] >= 2:
        return float(profile[day_bin]) + line[DAY_OFFSET]
    return line[LEVEL]


@leaf
def expect(profile: Any, visits: Any, line: Any, day_bin: Any, week_bin: Any) -> Any:
    """The best expert's opinion."""
    return opinion(profile, visits, line, best_expert(line), day_bin, week_bin)


@kernel
def follow(profile: Any, visits: Any, line: Any, which: Any, bin_: Any, x: Any) -> Any:
    """Teach profile ``which`` (0 day, 1 week) and its offset a sample."""
    usual = line[ERRORS + 1 + which]
    d = x - line[DAY_OFFSET + which] - float(profile[bin_])
    if visits[bin_] == 0:
        # A first visit takes the value as it is: no offset can be told from it.
        d = x - float(profile[bin_])
    elif visits[bin_] >= 2:
        limit = CLIP * usual + TINY
        d = min(max(d, -limit), limit)
    if visits[bin_] < 250:
        visits[bin_] += 1
    profile[bin_] += d * max(PROFILE_RATE, 1.0 / visits[bin_])
    limit = 4.0 * usual + TINY
    r = x - float(profile[bin_]) - line[DAY_OFFSET + which]
    line[DAY_OFFSET + which] += OFFSET_RATE * min(max(r, -limit), limit)


@kernel
def absorb(profile: Any, visits: Any, line: Any, day_bin: Any, week_bin: Any, x: Any) -> Any:
    """Teach all experts a sample."""
    seen = line[SEEN]
    if seen == 0.0:
        line[LEVEL] = line[SLOW] = x
    old = seen > YOUNG
    rate = max(ERROR_RATE, 1.0 / (seen + 1.0))
    for q in range(4):
        error = abs(x - opinion(profile, visits, line, q, day_bin, week_bin))
        usual = line[ERRORS + q]
        if old:
            error = min(error, CLIP * usual + TINY)
        line[ERRORS + q] += (error - usual) * rate
    follow(profile, visits, line, 0, day_bin, x)
    follow(profile, visits, line, 1, week_bin, x)
    line[LEVEL] += LEVEL_RATE * (x - line[LEVEL])
    if old:
        limit = CLIP * line[ERRORS + 3] + TINY
        line[SLOW] += min(max(x - line[SLOW], -limit), limit) * max(SLOW_RATE, 1.0 / (seen + 1.0))
    else:
        line[SLOW] += (x - line[SLOW]) / (seen + 1.0)
    line[SEEN] += 1.0


@kernel
def seasonal_block(
    values: Any, days: Any, weeks: Any, hold: Any, floor: Any, profiles: Any, visits: Any, lines: Any,
    score: Any, expected: Any, unit: Any,
) -> Any:  # fmt: skip
    """Score a block [N, T]: |x - expected| in units of the best expert's usual error. State is changed in place.

    ``days`` and ``weeks`` [T] are the bins of each time.
    """
    series, samples = values.shape
    for i in range(series):
        for t in range(samples):
            line = lines[i]
            if line[SEEN] > 0.0:
                e = expect(profiles[i], visits[i], line, days[t], weeks[t])
                expected[i, t] = e
                usual = line[ERRORS + best_expert(line)]
                unit[i, t] = max(usual, floor * abs(line[SLOW]), TINY)
            x = values[i, t]
            if math.isnan(x):
                continue
            if line[SEEN] >= YOUNG:
                score[i, t] = min(abs(x - expected[i, t]) / unit[i, t], 1e12)
            if not hold[i]:
                absorb(profiles[i], visits[i], line, days[t], weeks[t], x)
