"""Lag vectors for detectors that are not temporal by themselves: what they learn of a series, and the vectors.

The learned arrays live in the detector's own state: ``scale``, ``recent``, ``seen`` (see ``kernels/embed.py``) and
``usual`` [N, 24], the median by hour of the day, which is what such detectors give as expected.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64
from anomalyd.clock import HOUR_MS
from anomalyd.detectors.common import ABSOLUTE_FLOOR, GAUSSIAN_MAD, RELATIVE_FLOOR

F32 = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]

CHUNK = 4_000_000
"""Elements of the vectors made at a time."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """How samples become vectors: ``lags`` earlier samples (or changes since them), time of day as sine and cosine."""

    lags: int
    calendar: bool
    changes: bool = False

    @property
    def width(self) -> int:
        """Length of a vector."""
        return 1 + self.lags + (2 if self.calendar else 0)

    def learn(self, values: F64, civil: I64) -> dict[str, npt.NDArray[Any]]:
        """Scale and usual values of each series from its history [N, T]."""
        n, scale = len(values), self.scales(values)
        return {
            "scale": scale,
            "recent": np.zeros((n, self.lags)),
            "seen": np.zeros(n, np.int64),
            "usual": self._usual(values, civil, np.ascontiguousarray(scale[:, 0])),
        }

    def scales(self, values: F64) -> F64:
        """Middle and spread of each series, and the range of what is usual in spreads around the middle [N, 4]."""
        n = len(values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a series without samples has no median
            some = values if values.shape[1] else np.full((n, 1), np.nan)
            quantiles = np.nanquantile(some, (0.01, 0.5, 0.99), axis=1) if n else np.zeros((3, 0))
            centre = np.nan_to_num(quantiles[1])
            away = np.abs(some - centre[:, None])
            spread = GAUSSIAN_MAD * np.nanmedian(away, axis=1)
            mean = np.nanmean(away, axis=1)
        spread = np.nan_to_num(np.where(spread > 0, spread, mean))
        spread = np.maximum(spread, np.maximum(RELATIVE_FLOOR * np.abs(centre), ABSOLUTE_FLOOR))
        low, high = (np.nan_to_num((quantiles[i] - centre) / spread) for i in (0, 2))
        slack = np.maximum(1.0, (high - low) / 2)
        return np.stack([centre, spread, low - slack, high + slack], axis=1)

    def _usual(self, values: F64, civil: I64, centre: F64) -> F64:
        usual = np.repeat(centre[:, None], 24, axis=1)
        if not self.calendar:
            return usual
        hours = (civil // HOUR_MS) % 24
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for hour in np.unique(hours):
                median = np.nanmedian(values[:, hours == hour], axis=1)
                usual[:, hour] = np.where(np.isnan(median), centre, median)
        return usual

    def chunks(self, arrays: Arrays, values: F64, civil: I64) -> Iterator[tuple[slice, F32]]:
        """Vectors [n, T, width] of some series at a time with their rows; ``recent`` and ``seen`` move on in place."""
        from anomalyd.detectors.kernels.embed import embed

        n, t = values.shape
        size = max(1, CHUNK // max(1, t * self.width))
        for first in range(0, n, size):
            rows = slice(first, min(n, first + size))
            vectors = np.zeros((rows.stop - first, t, self.width), np.float32)
            scale, recent, seen = arrays["scale"][rows], arrays["recent"][rows], arrays["seen"][rows]
            embed(values[rows], civil, scale, recent, seen, self.calendar, self.changes, vectors)
            yield rows, vectors

    def expected(self, arrays: Arrays, civil: I64) -> F64:
        """The usual value of each series at each time [N, T]."""
        usual: F64 = arrays["usual"][:, (civil // HOUR_MS) % 24]
        return usual


def spread_constants(vectors: F32, seed: int) -> F32:
    """The vectors [R, F] with Gaussian noise of one spread in place of features that never vary.

    A model of vectors that are all alike could not tell a small change from a large one.
    """
    constant = np.flatnonzero(np.ptp(vectors, axis=0) == 0) if len(vectors) else np.zeros(0, np.int64)
    if not len(constant):
        return vectors
    spread = vectors.copy()
    noise = np.random.default_rng(seed).normal(size=(len(vectors), len(constant)))
    spread[:, constant] += noise.astype(np.float32)
    return spread


def joint_vectors(embedding: Embedding, arrays: Arrays, values: F64, civil: I64) -> tuple[F32, npt.NDArray[np.bool_]]:
    """One vector per time [T, width] from all channels, the time of day last, and which times have any sample.

    A missing channel is taken for usual, zeros in its place: what did not come says nothing.
    """
    plain = Embedding(embedding.lags, False, embedding.changes)
    n, t = values.shape
    parts = np.zeros((n, t, plain.width), np.float32)
    for rows, vectors in plain.chunks(arrays, values, civil):
        parts[rows] = vectors
    present = ~np.isnan(values)
    joined = parts.transpose(1, 0, 2).reshape(t, n * plain.width)
    if embedding.calendar:
        angle = 2 * np.pi * (civil % 86_400_000) / 86_400_000
        joined = np.column_stack([joined, np.sin(angle), np.cos(angle)])
    return np.ascontiguousarray(joined, np.float32), np.asarray(present.any(axis=0))
