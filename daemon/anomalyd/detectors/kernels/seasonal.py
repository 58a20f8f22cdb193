"""Kernel of the seasonal experts: what to expect by the last level, the hour, the day, the week, or a slow mean.

Four experts forecast each sample: the level of the last few samples; a profile over the day and one over the week, each
with an offset that follows the level; a slow mean. ``seasonal_block`` asks a fifth, with a profile over the hour. The
one with the least recent error speaks; while a series teaches nothing (an open episode) the last level would stand
still, and a profile speaks instead where there is a rhythm (``lasting_expert``). All learn from clipped errors, so a
spike teaches no more than a large ordinary error.

State of one series: ``profile`` [D + W] (the day's bins, then the week's), ``visits`` [D + W] (how often a bin was
seen, counted to 250) and ``line`` [LINE]; of the hour ``hour`` [H], ``passes`` [H] and ``beat`` [2].
"""

from __future__ import annotations

import math
from typing import Any

from anomalyd.detectors.kernels.jit import kernel, leaf

LEVEL, SLOW, DAY_OFFSET, WEEK_OFFSET, ERRORS, SEEN = 0, 1, 2, 3, 4, 8
LINE = 9
YOUNG = 40
LEVEL_RATE, PROFILE_RATE, OFFSET_RATE, ERROR_RATE, SLOW_RATE = 0.2, 0.1, 0.02, 0.003, 0.005
BEAT_OFFSET, BEAT_ERROR = 0, 1
"""Slots of ``beat``: the hour's offset, the usual error of its expert."""
CLIP = 6.0
"""Errors beyond this many usual errors teach as much as this many."""
RHYTHM, WEEKLY = 0.5, 1.2
"""A profile whose usual error is below this share of the slow mean's knows a rhythm; the week's speaks for the day's up
to this many times its error. What is expected of a series held for 12 hours is then off by 0.70 of the mean deviation
on 19 KPI (0.96 by the last level), 0.88 on NAB (0.91), 0.09 on a rhythm with weekends (0.43)."""
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


@leaf
def lasting_expert(line: Any) -> Any:
    """Index of the expert that speaks for a series while it teaches nothing.

    The last level is the best guess of the next sample and stands still from then on, so that after hours it is no
    better than the slow mean. Where a profile knows the series so much better than that, it speaks. That of the week
    is asked first: a day's offset stands still too, and knows no weekend.
    """
    best = best_expert(line)
    profile = 1 if WEEKLY * line[ERRORS + 1] < line[ERRORS + 2] else 2
    if best <= 1 and line[ERRORS + profile] < RHYTHM * line[ERRORS + 3]:
        return profile
    return best


@leaf
def expect_held(profile: Any, visits: Any, line: Any, day_bin: Any, week_bin: Any) -> Any:
    """What is expected of a series that teaches nothing: its rhythm goes on."""
    return opinion(profile, visits, line, lasting_expert(line), day_bin, week_bin)


@leaf
def teach(profile: Any, visits: Any, bin_: Any, x: Any, offset: Any, usual: Any) -> Any:
    """Teach a profile a sample, given its offset and its expert's usual error; return the offset after it."""
    d = x - offset - float(profile[bin_])
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
    r = x - float(profile[bin_]) - offset
    return offset + OFFSET_RATE * min(max(r, -limit), limit)


@leaf
def follow(profile: Any, visits: Any, line: Any, which: Any, bin_: Any, x: Any) -> Any:
    """Teach profile ``which`` (0 day, 1 week) and its offset a sample."""
    at = DAY_OFFSET + which
    line[at] = teach(profile, visits, bin_, x, line[at], line[ERRORS + 1 + which])


@leaf
def of_the_hour(hour: Any, passes: Any, beat: Any, line: Any, bin_: Any) -> Any:
    """What the expert of the hour expects; where its bin is new, the last level."""
    return float(hour[bin_]) + beat[BEAT_OFFSET] if passes[bin_] >= 2 else line[LEVEL]


@leaf
def absorb_hour(hour: Any, passes: Any, beat: Any, line: Any, bin_: Any, x: Any) -> Any:
    """Teach the expert of the hour a sample; to be called before ``absorb``, which counts it."""
    error = abs(x - of_the_hour(hour, passes, beat, line, bin_)) if line[SEEN] > 0.0 else 0.0
    if line[SEEN] > YOUNG:
        error = min(error, CLIP * beat[BEAT_ERROR] + TINY)
    beat[BEAT_ERROR] += (error - beat[BEAT_ERROR]) * max(ERROR_RATE, 1.0 / (line[SEEN] + 1.0))
    beat[BEAT_OFFSET] = teach(hour, passes, bin_, x, beat[BEAT_OFFSET], beat[BEAT_ERROR])


@leaf
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
    values: Any, days: Any, weeks: Any, hours: Any, hold: Any, floor: Any, profiles: Any, visits: Any, lines: Any,
    hourly: Any, passes: Any, beats: Any, score: Any, expected: Any, unit: Any,
) -> Any:  # fmt: skip
    """Score a block [N, T]: |x - expected| in units of the best expert's usual error. State is changed in place.

    ``days``, ``weeks`` and ``hours`` [T] are the bins of each time; ``hourly`` [N, 0] has no expert of the hour.
    """
    series, samples = values.shape
    with_hour = hourly.shape[1] > 0
    for i in range(series):
        for t in range(samples):
            line, beat = lines[i], beats[i]
            if line[SEEN] > 0.0:
                best = best_expert(line)
                usual = line[ERRORS + best]  # held or not: one unit, or what closes by one would open by the other
                if hold[i] and best == 0:  # a day's profile that is wrong would open anew what the week's has closed
                    best = lasting_expert(line)
                if with_hour and beat[BEAT_ERROR] < usual:
                    usual = beat[BEAT_ERROR]
                    expected[i, t] = of_the_hour(hourly[i], passes[i], beat, line, hours[t])
                else:
                    expected[i, t] = opinion(profiles[i], visits[i], line, best, days[t], weeks[t])
                unit[i, t] = max(usual, floor * abs(line[SLOW]), TINY)
            x = values[i, t]
            if math.isnan(x):
                continue
            if line[SEEN] >= YOUNG:
                score[i, t] = min(abs(x - expected[i, t]) / unit[i, t], 1e12)
            if hold[i]:
                line[LEVEL] = expected[i, t] if line[SEEN] > 0.0 else line[LEVEL]
            else:
                if with_hour:
                    absorb_hour(hourly[i], passes[i], beat, line, hours[t], x)
                absorb(profiles[i], visits[i], line, days[t], weeks[t], x)
