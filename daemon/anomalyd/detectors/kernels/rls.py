"""Kernel of the recursive-least-squares forecast: each sample from the last ones, yesterday's and last week's.

Features of the next sample, all in units of a slow spread around a slow mean and clipped at ten: a constant, the last
three samples, means of the last six and twelve, the same time yesterday (itself, the one before it, its neighbours)
and the same time last week. On a day that counts as another (a holiday like a Sunday) these are the last day of that
kind and the one before it, and the day itself is remembered as the same day a week before was. Weights follow by least
squares that forget (Haykin, Adaptive Filter Theory, ch. 13); an error beyond three usual ones teaches no more than
three. The covariance is kept symmetric and its diagonal bounded: it diverges on hundreds of thousands of samples
otherwise.

State of one series: ``recent`` [RECENT] newest first, ``slots`` [L] a ring of means by five minutes (or the step) over
eight days, ``weights`` [P], ``spread`` [P, P], ``line`` [LINE].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.detectors.kernels.jit import kernel, leaf
from anomalyd.detectors.kernels.order import AHEAD
from anomalyd.detectors.kernels.prefetch import prefetch_cell, prefetch_row

FEATURES = 10
RECENT = 12
MEAN, VARIANCE, USUAL, SEEN, SLOT, SUM, NUMBER = 0, 1, 2, 3, 4, 5, 6
"""Slots of ``line``: slow mean, slow variance, usual error in units of the spread, samples learned; the ring's current
slot (-1: none yet), sum and number of the samples in it."""
LINE = 7
YOUNG = 13
FORGET = 0.9995
WIDENS = 1.0 / FORGET
ORDINARY = 7
"""Days back to the day that is like this one."""
MEAN_RATE = 0.001
OLD = 20_000.0
OLD_TRUST = 1.0 - (1.0 - MEAN_RATE) ** OLD
"""The slow spread is believed by how much of its memory is filled; after so many samples that changes no more."""
CLIP = 10.0
FIRST_FAR = 6
MOST_NEAR, MOST_FAR = 1.0, 0.1
"""Bounds of the covariance's diagonal, for the near features and for those of yesterday and last week. A feature that
was silent (there is no yesterday on the first day) would otherwise be believed at once when it begins to speak."""


def empty(n: int, day: int) -> dict[str, npt.NDArray[Any]]:
    """State of n series that have seen nothing, at ``day`` slots a day; each sample is expected to be as the last."""
    weights = np.zeros((n, FEATURES))
    weights[:, 1] = 1.0
    spread = np.zeros((n, FEATURES, FEATURES))
    spread[:] = np.diag(np.where(np.arange(FEATURES) < FIRST_FAR, MOST_NEAR, MOST_FAR))
    lines = np.zeros((n, LINE))
    lines[:, SLOT] = -1.0
    return {
        "recent": np.zeros((n, RECENT)),
        "slots": np.full((n, max(4, 8 * day)), np.nan, np.float32),
        "weights": weights,
        "spread": spread,
        "forecast": lines,
    }


@leaf
def turn(slots: Any, line: Any, slot: Any) -> Any:
    """Move the ring to a slot: store the mean of the one that ended, blank those that were skipped."""
    size = len(slots)
    current = np.int64(line[SLOT])
    if slot <= current:
        return
    if current >= 0:
        slots[current % size] = line[SUM] / line[NUMBER] if line[NUMBER] > 0.0 else np.nan
        skipped = min(slot - current - 1, size)
        for k in range(skipped):
            slots[(current + 1 + k) % size] = np.nan
    line[SLOT] = slot
    line[SUM] = 0.0
    line[NUMBER] = 0.0


@leaf
def at_lag(slots: Any, slot: Any, here: Any, lag: Any, base: Any) -> Any:
    """Distance from ``base`` of the mean ``lag`` slots before ``slot``, whose place is ``here``; NaN where none is."""
    if lag <= 0 or lag >= len(slots) or slot < lag:
        return np.nan
    at = here - lag
    return float(slots[at if at >= 0 else at + len(slots)]) - base


@leaf
def around(slots: Any, slot: Any, here: Any, lag: Any, reach: Any, with_middle: Any, base: Any) -> Any:
    """Mean of the slots within ``reach`` of a lag, from ``base``; NaN where there are none."""
    total, number = 0.0, 0
    for k in range(-reach, reach + 1):
        if k == 0 and not with_middle:
            continue
        d = at_lag(slots, slot, here, lag - k, base)
        if not math.isnan(d):
            total += d
            number += 1
    return total / number if number > 0 else np.nan


@leaf
def scale_of(line: Any) -> Any:
    """The unit of features and errors: the slow spread, never nothing."""
    seen = line[SEEN]
    trust = OLD_TRUST if seen >= OLD else 1.0 - (1.0 - MEAN_RATE) ** seen
    spread = math.sqrt(line[VARIANCE] / trust) if trust > 0.0 and line[VARIANCE] > 0.0 else 0.0
    return max(spread, 1e-3 * abs(line[MEAN]), 1e-9)


@leaf
def describe(recent: Any, slots: Any, line: Any, day: Any, back: Any, scale: Any, f: Any) -> Any:
    """Fill the features f [FEATURES] of the next sample.

    ``day`` is the number of slots in a day (0: no rhythm), ``back`` how many days ago the last day like this one was.
    """
    base = line[MEAN]
    slot = np.int64(line[SLOT])
    here = slot % len(slots)
    f[0] = 1.0
    short, long = 0.0, 0.0
    for j in range(RECENT):
        d = recent[j] - base
        long += d
        if j < 6:
            short += d
        if j < 3:
            f[1 + j] = d / scale
    f[4] = short / 6.0 / scale
    f[5] = long / RECENT / scale
    before = day if back == ORDINARY else (back + 1) * day
    f[6] = at_lag(slots, slot, here, before, base) / scale
    f[7] = around(slots, slot, here, before, 2, False, base) / scale
    f[8] = around(slots, slot, here, back * day, 1, True, base) / scale
    f[9] = at_lag(slots, slot, here, before + 1, base) / scale
    for k in range(1, FEATURES):
        f[k] = 0.0 if math.isnan(f[k]) else min(max(f[k], -CLIP), CLIP)


@leaf
def forecast(weights: Any, f: Any) -> Any:
    """The forecast in units of the spread."""
    total = 0.0
    for k in range(FEATURES):
        total += weights[k] * f[k]
    return total


@leaf
def adapt(weights: Any, spread: Any, line: Any, f: Any, error: Any, gain: Any, outer: Any) -> Any:
    """Teach the weights one error (in units of the slow spread).

    ``spread`` [P * P] is the covariance, row after row; ``gain`` [P] and ``outer`` [P * P] are scratch. All loops over
    cells are without a division or a sum that waits for itself, so the compiler makes vectors of them; equal products
    keep the covariance symmetric, and a symmetric one may be multiplied row by row.
    """
    usual = line[USUAL]
    old = line[SEEN] > 60.0
    limit = CLIP if not old else 3.0 * usual if usual > 0.0 else 3.0
    taught = min(max(error, -limit), limit)
    # The ten products of a row by name: sums in an array would be stored and read again ten times.
    f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 = f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9]
    for a in range(FEATURES):
        near = spread[a] * f0 + spread[a + 10] * f1 + spread[a + 20] * f2 + spread[a + 30] * f3 + spread[a + 40] * f4
        far = spread[a + 50] * f5 + spread[a + 60] * f6 + spread[a + 70] * f7 + spread[a + 80] * f8
        gain[a] = near + (far + spread[a + 90] * f9)
    below = FORGET
    for a in range(FEATURES):
        below += f[a] * gain[a]
    share = 1.0 / below
    for a in range(FEATURES):
        weights[a] += gain[a] / below * taught
        for b in range(FEATURES):
            outer[a * FEATURES + b] = gain[a] * gain[b]
    for k in range(FEATURES * FEATURES):
        spread[k] = (spread[k] - outer[k] * share) * WIDENS
    for a in range(FEATURES):
        most = MOST_NEAR if a < FIRST_FAR else MOST_FAR
        if spread[a * (FEATURES + 1)] > most:
            shrink = math.sqrt(most / spread[a * (FEATURES + 1)])
            for b in range(FEATURES):
                spread[a * FEATURES + b] *= shrink
                spread[b * FEATURES + a] *= shrink
    size = abs(error)
    line[USUAL] = 0.99 * usual + 0.01 * min(size, 5.0 * usual) if old else 0.9 * usual + 0.1 * size


@leaf
def settle(line: Any, x: Any, scale: Any) -> Any:
    """Teach mean and spread a sample; one far out teaches as one six spreads out. ``scale`` is that of the line."""
    seen = line[SEEN]
    d = x - line[MEAN]
    if seen > 100.0:
        limit = 6.0 * scale
        d = min(max(d, -limit), limit)
    line[MEAN] += max(MEAN_RATE, 1.0 / (seen + 1.0)) * d
    line[VARIANCE] = (1.0 - MEAN_RATE) * line[VARIANCE] + (MEAN_RATE * d * d if seen > 0.0 else 0.0)
    line[SEEN] = seen + 1.0


@leaf
def push(recent: Any, slots: Any, line: Any, day: Any, back: Any, x: Any) -> Any:
    """Put a sample in front of the recent ones and into the current slot.

    Tomorrow and next week ask for an ordinary day: the slot of a special one takes what it held a week ago.
    """
    for j in range(RECENT - 1, 0, -1):
        recent[j] = recent[j - 1]
    recent[0] = x
    if back != ORDINARY:
        slot = np.int64(line[SLOT])
        ordinary = at_lag(slots, slot, slot % len(slots), ORDINARY * day, 0.0)
        x = x if math.isnan(ordinary) else ordinary
    line[SUM] += x
    line[NUMBER] += 1.0


@leaf
def fetch(
    recent: Any, slots: Any, weights: Any, covariances: Any, lines: Any, i: Any, slot: Any, day: Any
) -> Any:
    """Ask for the memory of series i that a sample in a slot will need."""
    prefetch_row(lines, i)
    prefetch_row(recent, i)
    prefetch_row(weights, i)
    prefetch_row(covariances, i)
    for lag in (1, day, 7 * day):
        prefetch_cell(slots, i, max(slot - lag, 0) % slots.shape[1])


@kernel
def rls_block(
    values: Any, slot_of: Any, back: Any, day: Any, hold: Any, floor: Any, recent: Any, slots: Any, weights: Any,
    spread: Any, lines: Any, score: Any, expected: Any, unit: Any,
) -> Any:  # fmt: skip
    """Score a block [N, T]: |x - forecast| in units of the usual error. State is changed in place.

    ``slot_of`` [T] is the ring's slot of each time, ``back`` [T] is as in ``describe``. A series with ``hold`` is
    scored and not learned: the forecast goes on from what it was.
    """
    series, samples = values.shape
    f, gain, outer = np.zeros(FEATURES), np.zeros(FEATURES), np.zeros(FEATURES * FEATURES)
    covariances = spread.reshape(len(spread), FEATURES * FEATURES)
    for i in range(series):
        if samples:
            fetch(recent, slots, weights, covariances, lines, i + AHEAD, slot_of[0], day)
        for t in range(samples):
            line = lines[i]
            turn(slots[i], line, slot_of[t])
            scale = scale_of(line)
            predicted = line[MEAN]
            if line[SEEN] >= YOUNG:
                describe(recent[i], slots[i], line, day, back[t], scale, f)
                predicted = line[MEAN] + forecast(weights[i], f) * scale
            if line[SEEN] > 0.0:
                expected[i, t] = predicted
                unit[i, t] = max(line[USUAL] * scale, floor * abs(line[MEAN]), 1e-9)
            x = values[i, t]
            if math.isnan(x):
                continue
            if line[SEEN] >= 40.0:
                score[i, t] = min(abs(x - predicted) / unit[i, t], 1e12)
            if hold[i]:
                if line[SEEN] > 0.0:
                    push(recent[i], slots[i], line, day, back[t], predicted)
                continue
            if line[SEEN] >= YOUNG:
                adapt(weights[i], covariances[i], line, f, (x - predicted) / scale, gain, outer)
            settle(line, x, scale)
            push(recent[i], slots[i], line, day, back[t], x)
