"""Calibration: a detector's raw score becomes a surprise, -log10 of its tail probability in the series' own past.

So all detectors speak one unit, combine, and can be cut at a budget. Streaming and exact: each series keeps its last W
scores; the body of the distribution is empirical, the tail above the 98 % quantile generalised Pareto with a shape
shrunk to a prior (``kernels/tail.py``; the idea is SPOT's, Siffer et al. 2017). A score is judged before it is
remembered, so a surprise never depends on later samples, nor on how they were cut into blocks.

A young series starts with its siblings' scores: ``adopt`` fills its past with quantiles of the scores of the rule's
other series, which weigh less with every score of its own and leave the window last of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F32, F64, I64, Bool
from anomalyd.detectors.kernels import tail

Arrays = dict[str, npt.NDArray[Any]]

FEWEST = 64
"""Scores a series must have seen, of its own or its siblings', before a surprise means anything."""

ADOPTED = 128
"""Sibling scores a young series starts with."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Recipe of the calibration. Its state is four arrays with the series as first axis.

    Attributes:
        window: scores remembered of each series (8 bytes each in memory).
        fewest: scores needed before a surprise is given; NaN until then.
    """

    window: int = 2048
    fewest: int = FEWEST

    def empty(self, series: int) -> Arrays:
        """The state of series that have no past."""
        return {
            "ring": np.zeros((series, self.window), np.float32),
            "ordered": np.zeros((series, self.window), np.float32),
            "held": np.zeros(series, np.int32),
            "seen": np.zeros(series, np.int64),
        }

    def score(
        self, state: Mapping[str, npt.NDArray[Any]], raw: F64, cut: float, hold: Bool | None = None
    ) -> tuple[F64, F64, Arrays]:
        """Judge, then remember, the raw scores [N, T].

        Returns the surprise [N, T] (never negative, NaN where raw is or while young), the raw score at which the
        surprise would be ``cut`` [N, T] (the edge of the band), and the new state. Series with ``hold`` [N] are judged
        and not remembered. Raw scores below 0 count as 0; scores beyond 1e30 as 1e30.
        """
        after = {name: array.copy() for name, array in state.items()}
        kept = np.zeros(len(raw), np.bool_) if hold is None else hold
        finite_cut = min(max(cut, 0.0), 300.0)
        surprise, bound = tail.calibrate_block(
            np.ascontiguousarray(raw, np.float64), kept, finite_cut, self.fewest,
            after["ring"], after["ordered"], after["held"], after["seen"],
        )  # fmt: skip
        return surprise, bound, after

    def adopt(self, state: Mapping[str, npt.NDArray[Any]], siblings: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Give each series of ``state`` without a past the quantiles of its siblings' scores as a start.

        Siblings still young themselves do not count; without any other the state is returned as it is.
        """
        mature = np.flatnonzero(siblings["held"] >= max(self.fewest, ADOPTED))
        young = np.flatnonzero(state["held"] == 0)
        after = {name: array.copy() for name, array in state.items()}
        if not len(mature) or not len(young):
            return after
        pooled = _pooled_quantiles(siblings, mature)
        # Shuffled by a fixed stride, so that later scores replace low and high ones alike.
        order = (np.arange(ADOPTED) * 37) % ADOPTED
        for i in young:
            after["ordered"][i, :ADOPTED] = pooled
            after["ring"][i, :ADOPTED] = pooled[order]
            after["held"][i] = ADOPTED
            after["seen"][i] = ADOPTED
        return after


def _pooled_quantiles(siblings: Mapping[str, npt.NDArray[Any]], mature: I64) -> F32:
    """The median sibling's quantiles: one loud sibling must not make a new series deaf."""
    levels = (np.arange(ADOPTED) + 0.5) / ADOPTED
    held = siblings["held"][mature]
    index = np.minimum((levels[None, :] * held[:, None]).astype(np.int64), held[:, None] - 1)
    quantiles = np.take_along_axis(siblings["ordered"][mature], index, axis=1)
    return np.sort(np.median(quantiles, axis=0)).astype(np.float32)
