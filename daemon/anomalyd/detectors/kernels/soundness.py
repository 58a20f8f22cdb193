"""Kernel of data quality: what can be wrong with a series as data, whatever its values mean. One pass, no past kept.

``lines`` [N, LINE] float64 and ``bits`` [N, WORDS] uint64 are a series' memory; both are changed in place (but for
``SINCE``, which is the caller's). A fault is
told by the series' own past: how long it ever repeated a value, how often samples were ever missing, how few different
values it ever showed, how far it ever went. What is compared is learned only while it is no fault; a fault that lasts
for ``accept`` slots is the new normal.

Zero is exempt from all that counts equal values: a rate of nothing is nothing, not a stuck exporter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel, leaf

GAPS, FROZEN, REPEATS, RESOLUTION, RANGE, STALE = 1, 2, 4, 8, 16, 32
"""Bits of a verdict."""

(
    SLOTS, SEEN, LAST, RUN, RUN_MAX, CHANGES, GAP, GAP_MAX, MISSING, STARTS, GAPS_MAX, EQUAL, EQUAL_MAX, LOW, HIGH, FAR,
    COUNT, FEWEST, WINDOWS, COARSE, FLAGS, SINCE, GAPS_NOW, GAPS_LATE, EQUAL_NOW, EQUAL_LATE,
) = range(26)  # fmt: skip
LINE = 26
WORDS = 4

FAST = 1 / 32
"""Weight of a sample in the short averages."""
WINDOW = 64
"""Samples of which the different values are counted."""
ALWAYS = 0.8
"""A series that changes with this share of its samples is one that always changes."""
GAP_STEP, EQUAL_STEP = 0.2, 0.3
"""A share this far above the largest ever seen is a fault."""
SEVERAL = 2.0
"""Gaps that must have begun lately before they are more than one absence."""
SHORT = 8.0
"""A longer run of equal samples says nothing of interval or resolution: perhaps the value is frozen."""
COARSER = 0.25
"""So small a share of the fewest different values ever seen is a fault."""
FURTHER, TIMES = 100.0, 100.0
"""Beyond the range by so many times its width, and so many times larger than anything seen."""
LASTING = 5
"""Samples out of range before it is a fault."""


@leaf
def _distinct(words: Any) -> Any:
    """How many different values set bits in a map of 256: linear counting."""
    zeros = 0
    for word in words:
        rest = word
        ones = 0
        while rest:
            rest &= rest - np.uint64(1)
            ones += 1
        zeros += 64 - ones
    return 256.0 * math.log(256.0 / max(zeros, 1))


@leaf
def _bit(value: Any, scratch: Any, whole: Any) -> Any:
    """A number from 0 to 255 for a value, the same for equal ones; ``whole`` sees the bytes of ``scratch``."""
    scratch[0] = value
    mixed = whole[0]
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(0xC4CEB9FE1A85EC53)
    mixed ^= mixed >> np.uint64(33)
    return mixed & np.uint64(255)


@leaf
def _absent(line: Any, grown: Any, factor: Any, least: Any, accept: Any) -> Any:
    """A slot without a sample; returns the flags that hold."""
    line[GAP] += 1.0
    line[MISSING] += FAST * (1.0 - line[MISSING])
    line[STARTS] += FAST * ((1.0 if line[GAP] == 1.0 else 0.0) - line[STARTS])
    flags = int(line[FLAGS])
    if line[GAP] >= 2.0 * least:
        flags &= ~GAPS  # it has gone; that it comes and goes was before
    if line[GAP] >= accept:
        flags &= ~STALE
    elif grown and line[GAP] >= max(factor * line[GAP_MAX], least):
        flags |= STALE
    return flags


@leaf
def _usual(line: Any, largest: Any, now: Any, late: Any, share: Any, faulty: Any, decay: Any) -> Any:
    """Learn the largest share there was, but a window late: what grows must not become usual while it grows."""
    if faulty:
        line[now] = line[late] = 0.0
        line[largest] += decay * (share - line[largest])
        return
    line[now] = max(line[now], share)
    if line[SLOTS] % WINDOW == 0.0:
        line[largest] = max(line[largest], line[late])
        line[late] = line[now]
        line[now] = 0.0


@leaf
def _gaps(line: Any, flags: Any, grown: Any, decay: Any) -> Any:
    """The share of missing slots among the last ones, where several gaps began."""
    share = line[MISSING] if line[STARTS] / FAST >= SEVERAL else 0.0
    limit = line[GAPS_MAX] + GAP_STEP
    flags = flags | GAPS if grown and share > limit else flags
    if flags & GAPS and share < line[GAPS_MAX] + GAP_STEP / 2:
        flags &= ~GAPS
    _usual(line, GAPS_MAX, GAPS_NOW, GAPS_LATE, share, flags & GAPS, decay)
    return flags


@leaf
def _equal(line: Any, x: Any, flags: Any, grown: Any, factor: Any, least: Any, decay: Any) -> Any:
    """One value over and over (frozen), and every few samples the one before again (repeats)."""
    same = line[SEEN] > 0.0 and x == line[LAST] and x != 0.0
    always = line[CHANGES] >= ALWAYS * line[SEEN]
    if same:
        line[RUN] += 1.0
        if grown and always and line[RUN] >= max(factor * line[RUN_MAX], least):
            flags |= FROZEN
    else:
        line[RUN_MAX] = max(line[RUN_MAX], min(line[RUN], 2.0 * line[RUN_MAX]) if flags & FROZEN else line[RUN])
        line[RUN] = 1.0
        if flags & FROZEN:
            line[EQUAL] = 0.0
            flags &= ~FROZEN
    if flags & FROZEN:
        line[EQUAL] = 0.0
    else:
        line[EQUAL] += FAST * ((1.0 if same else 0.0) - line[EQUAL])
    mixed = line[RUN] <= SHORT and not flags & FROZEN  # what is equal throughout may become a frozen value
    if grown and always and mixed and line[EQUAL] > line[EQUAL_MAX] + EQUAL_STEP:
        flags |= REPEATS
    if flags & REPEATS and line[EQUAL] < line[EQUAL_MAX] + EQUAL_STEP / 2:
        flags &= ~REPEATS
    _usual(line, EQUAL_MAX, EQUAL_NOW, EQUAL_LATE, line[EQUAL], flags & REPEATS, decay)
    # A frozen series is one value, not many that are equal: the share of changes is that of before.
    if not flags & (FROZEN | REPEATS) or not same:
        line[CHANGES] += 0.0 if same else 1.0
    else:
        line[CHANGES] += ALWAYS
    return flags


@leaf
def _coarse(line: Any, words: Any, x: Any, flags: Any, grown: Any, scratch: Any, whole: Any) -> Any:
    """How many different values there are in a window: few where there were always many is lost resolution."""
    if x == 0.0 or line[RUN] > SHORT:
        return flags
    bit = _bit(x, scratch, whole)
    words[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
    line[COUNT] += 1.0
    if line[COUNT] < WINDOW:
        return flags
    share = _distinct(words) / WINDOW
    words[:] = np.uint64(0)
    line[COUNT] = 0.0
    line[WINDOWS] += 1.0
    coarse = grown and line[WINDOWS] > 8.0 and share < COARSER * line[FEWEST]
    line[COARSE] = line[COARSE] + 1.0 if coarse else 0.0
    if coarse and line[COARSE] < 24.0:
        return flags | RESOLUTION
    line[FEWEST] = share if line[WINDOWS] == 1.0 or coarse else min(line[FEWEST], share)
    return flags & ~RESOLUTION


@leaf
def _further(line: Any, x: Any, flags: Any, grown: Any, forget: Any, accept: Any) -> Any:
    """Far outside of everything seen, for several samples: another unit, an overflow, another metric."""
    if line[SEEN] == 0.0:
        line[LOW] = line[HIGH] = x
    width = line[HIGH] - line[LOW]
    largest = max(abs(line[LOW]), abs(line[HIGH]))
    far = grown and width > 0.0 and abs(x) > TIMES * largest
    far = far and (x > line[HIGH] + FURTHER * width or x < line[LOW] - FURTHER * width)
    line[FAR] = line[FAR] + 1.0 if far else 0.0
    if far and line[FAR] < accept:
        return flags | RANGE if line[FAR] >= LASTING else flags
    if far:
        line[LOW] = line[HIGH] = x
        line[FAR] = 0.0
    line[HIGH] = max(line[HIGH] - forget * width, x)
    line[LOW] = min(line[LOW] + forget * width, x)
    return flags & ~RANGE


@kernel
def soundness(
    values: Any, lines: Any, bits: Any, flags: Any, past: Any, factor: Any, least: Any, accept: Any, forget: Any
) -> Any:
    """Look at a block [N, T]; ``flags`` [N, T] int8 gets the faults that hold at each slot.

    ``past``: slots before anything is told. ``factor``, ``least``: a run or an absence is too long at so many times the
    longest ever, and at least so many slots. ``accept``: slots after which a fault is normal. ``forget``: share of its
    width by which a range draws together in a slot.
    """
    series, slots = values.shape
    scratch = np.zeros(1)
    whole = scratch.view(np.uint64)
    decay = 1.0 / accept
    for n in range(series):
        line, words = lines[n], bits[n]
        for t in range(slots):
            x = values[n, t]
            here = math.isfinite(x)
            if line[SEEN] == 0.0 and not here:
                continue
            grown = line[SLOTS] >= past and line[SEEN] >= 0.25 * past
            line[SLOTS] += 1.0
            if here:
                now = int(line[FLAGS])
                # What was a fault widens what is usual by no more than twice, so that it is still one the next time.
                usual = max(2.0 * line[GAP_MAX], least) if now & STALE else line[GAP]
                line[GAP_MAX] = max(line[GAP_MAX], min(line[GAP], usual))
                now &= ~STALE
                line[MISSING] -= FAST * line[MISSING]
                line[STARTS] -= FAST * line[STARTS]
                line[GAP] = 0.0
                now = _gaps(line, now, grown, decay)
                now = _equal(line, x, now, grown, factor, least, decay)
                now = _coarse(line, words, x, now, grown, scratch, whole)
                now = _further(line, x, now, grown, forget, accept)
                line[SEEN] += 1.0
                line[LAST] = x
            else:
                now = _absent(line, grown, factor, least, accept)
            line[FLAGS] = now
            flags[n, t] = now
