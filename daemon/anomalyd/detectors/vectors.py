"""What detectors over lag vectors share: fit and score per series, or jointly over the channels of a rule.

A detector of this kind gives three things: the arrays of a model that knows nothing (``_blank``), how one model is
fitted from its vectors (``_fit_one``) and how vectors are scored by the models of some series (``_score``).
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, Block, Bool
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    advanced,
    blank,
    check_newer,
    check_series,
    civil_times,
    clean,
    newest,
    series_seeds,
)
from anomalyd.detectors.embedding import F32, Embedding, joint_vectors, spread_constants
from anomalyd.errors import DetectorError

Arrays = dict[str, npt.NDArray[Any]]

ISOLATED = 20.0
"""Isolation scores of noise fall off by so much per unit, as a logarithm, where the calibration's usual tail does."""


def isolation(score: F64) -> F64:
    """A forest's scores on a scale for the calibration.

    They end at 1, half is ordinary, and what no tree has ever seen may have 0.65: taken as they are, with a tail of the
    usual kind, nothing would be as rare as once a week.
    """
    stretched: F64 = np.exp(ISOLATED * score)
    return stretched


class VectorDetector(abc.ABC):
    """Fits a model per series over lag vectors, or one model over all channels when ``joint``.

    ``model_names`` are the model's arrays, series first (one row when joint).
    """

    model_names: ClassVar[tuple[str, ...]]

    def __init__(self, grid: Grid, lags: int, calendar: bool, joint: bool) -> None:
        self.grid = grid
        self.joint = joint
        self.embedding = Embedding(1 if joint else lags, calendar, changes=True)

    @property
    @abc.abstractmethod
    def min_history(self) -> int:
        """Vectors a model needs."""

    @abc.abstractmethod
    def _blank(self, n: int, width: int) -> Arrays:
        """Arrays of n models over vectors of a width that know nothing."""

    @abc.abstractmethod
    def _fit_one(self, arrays: Arrays, s: int, vectors: F32, seed: int) -> None:
        """Fill row s of the arrays from vectors [R, width], R at least ``min_history``."""

    @abc.abstractmethod
    def _score(self, vectors: F32, model: list[npt.NDArray[Any]], present: Bool, score: F64) -> None:
        """Score vectors [n, T, width] by the model arrays [n, ...] where ``present``; NaN stays where there is none."""

    def fit(self, history: Block, seed: int) -> State:
        """Learn scale, usual values and models from the history."""
        values, civil = clean(history.values), civil_times(history.times, self.grid.timezone)
        arrays = self.embedding.learn(values, civil)
        present = ~np.isnan(values)
        if self.joint:
            vectors, some = joint_vectors(self.embedding, arrays, values, civil)
            arrays |= self._blank(1, vectors.shape[1])
            self._fit_checked(arrays, 0, vectors[some], seed)
            arrays["channels"] = np.array([len(values)])
            return State(arrays, frozenset({*self.model_names, "channels"}), newest(history))
        arrays |= self._blank(len(history), self.embedding.width)
        seeds = series_seeds(history.labels, seed)
        for rows, chunk in self.embedding.chunks(arrays, values, civil):
            for i in range(len(chunk)):
                s = rows.start + i
                self._fit_checked(arrays, s, chunk[i][present[s]], int(seeds[s]))
        return State(arrays, as_of=newest(history))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        """Score each sample's vector; between fits only the lags move on, held or not."""
        check_newer(state, fresh)
        check_series(state, "scale", fresh)
        values, civil = clean(fresh.values), civil_times(fresh.times, self.grid.timezone)
        arrays: Arrays = dict(state.arrays)
        arrays["recent"], arrays["seen"] = state.arrays["recent"].copy(), state.arrays["seen"].copy()
        raw, present = blank(values.shape), ~np.isnan(values)
        raw.expected[:] = self.embedding.expected(arrays, civil)
        model = [arrays[name] for name in self.model_names]
        if self.joint:
            channels = int(state.arrays["channels"][0])
            if channels != len(fresh):
                raise DetectorError("shape", f"a joint model of {channels} channels cannot score {len(fresh)}")
            vectors, some = joint_vectors(self.embedding, arrays, values, civil)
            row = np.full((1, len(civil)), np.nan)
            self._score(vectors[None], model, some[None], row)
            raw.score[:] = np.where(present, row, np.nan)
            return raw, advanced(state, arrays, fresh)
        for rows, chunk in self.embedding.chunks(arrays, values, civil):
            self._score(chunk, [array[rows] for array in model], present[rows], raw.score[rows])
        return raw, advanced(state, arrays, fresh)

    def _fit_checked(self, arrays: Arrays, s: int, vectors: F32, seed: int) -> None:
        if len(vectors) >= max(1, self.min_history):
            self._fit_one(arrays, s, np.ascontiguousarray(spread_constants(vectors, seed)), seed)
