"""The stand-in for detectors that do not know a series yet. See ``young.py`` for the idea."""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.jit import kernel

GROWN = -1
"""Age of a series that is not young any more."""
COUNT, AGE, SPEAKS = 0, 1, 2
"""Columns of ``life`` [N, 3]: samples learned, slots since the first of them, whether its detector has scored it."""


@kernel
def spread_around(ring: F64, middle: float, relative: float) -> float:
    """The largest of three spreads: half the samples', all samples', a share of the level."""
    far = np.abs(ring - middle)
    return float(max(1.4826 * np.median(far), np.sqrt(np.mean(far * far)), relative * abs(middle)))


@kernel
def stand_in(
    values: F64,
    surprise: F64,
    hold: Bool,
    ring: F64,
    life: I64,
    fewest: int,
    grown: int,
    relative: float,
    mine: F64,
    expected: F64,
    unit: F64,
    learned: I64,
) -> None:
    """Score the samples [N, T] of series that their detector has never scored (``surprise`` is NaN), and count."""
    size = ring.shape[1]
    for s in range(values.shape[0]):
        for t in range(values.shape[1]):
            if life[s, AGE] < 0:
                break
            value = values[s, t]
            if not np.isnan(surprise[s, t]):
                life[s, SPEAKS] = 1
            if life[s, SPEAKS] and life[s, AGE] >= grown:
                life[s, AGE] = GROWN
                break
            if not np.isnan(value):
                if life[s, SPEAKS]:
                    learned[s, t] = max(1, life[s, AGE])
                elif life[s, COUNT] >= fewest:
                    known = ring[s, : min(life[s, COUNT], size)]
                    middle = np.median(known)
                    scale = spread_around(known, middle, relative)
                    if scale > 0.0:
                        z = abs(value - middle) / scale
                        mine[s, t] = np.log10(1.0 + z * z * z * z / 6.0)
                        expected[s, t] = middle
                        unit[s, t] = scale
                        learned[s, t] = max(1, life[s, AGE])
            if hold[s]:
                continue
            if not np.isnan(value):
                ring[s, life[s, COUNT] % size] = value
                life[s, COUNT] += 1
            if life[s, COUNT]:
                life[s, AGE] += 1


@kernel
def remember(values: F64, ring: F64, life: I64) -> None:
    """Fill the rings from a history [N, T]: the newest samples of each series, how many, and how long ago the first."""
    size = ring.shape[1]
    for s in range(values.shape[0]):
        count = 0
        for t in range(values.shape[1]):
            if not np.isnan(values[s, t]):
                if count == 0:
                    life[s, AGE] = values.shape[1] - t
                count += 1
        life[s, COUNT] = count
        place = count
        for t in range(values.shape[1] - 1, -1, -1):
            if place <= max(0, count - size):
                break
            if not np.isnan(values[s, t]):
                place -= 1
                ring[s, place % size] = values[s, t]
