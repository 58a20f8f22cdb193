"""A series as vectors: each sample with the ones before it and the time of day, in robust units.

Missing samples make no vector and are left out of the lags. Lags are limited to the range usual in the history, so
that a spike counts once, as itself, and not again in each of the following vectors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64
from anomalyd.detectors.kernels.jit import kernel

F32 = npt.NDArray[np.float32]
FARTHEST = 1e6
"""Standardised values are limited to this, so that float32 distances stay finite."""


@kernel
def embed(
    values: F64, civil: I64, scale: F64, recent: F64, seen: I64, calendar: bool, changes: bool, out: F32
) -> None:
    """Fill ``out`` [N, T, 1 + lags (+ 2)] and move the lags on.

    ``scale`` [N, 4]: centre, spread, lowest and highest lag in spreads. ``recent`` [N, lags]: newest first. With
    ``changes`` a lag is given as the difference of the sample from it.
    """
    lags = recent.shape[1]
    for s in range(values.shape[0]):
        for t in range(values.shape[1]):
            if np.isnan(values[s, t]):
                continue
            z = (values[s, t] - scale[s, 0]) / scale[s, 1]
            z = min(max(z, -FARTHEST), FARTHEST)
            usual = min(max(z, scale[s, 2]), scale[s, 3])
            if seen[s] == 0:
                for i in range(lags):
                    recent[s, i] = usual
            out[s, t, 0] = z
            for i in range(lags):
                out[s, t, 1 + i] = z - recent[s, i] if changes else recent[s, i]
            if calendar:
                angle = 2.0 * np.pi * (civil[t] % 86_400_000) / 86_400_000.0
                out[s, t, lags + 1] = np.sin(angle)
                out[s, t, lags + 2] = np.cos(angle)
            for i in range(lags - 1, 0, -1):
                recent[s, i] = recent[s, i - 1]
            if lags:
                recent[s, 0] = usual
            seen[s] += 1
