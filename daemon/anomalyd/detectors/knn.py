"""``knn``: distance to the nearest contexts of the past.

Idea
    A context is the sample, the means of the last three and of the last twelve, the spread of the last twelve and the
    time of day. A book keeps contexts of two weeks. The score is the distance to the fifth nearest of them, in robust
    standard deviations of the series: how unlike anything before this moment is.

Works for
    Ranking whole abnormal spans, contextual anomalies (an ordinary value at the wrong time) and series that live on
    several levels. The best ranker among the single detectors.

Fails when
    The series drifts: every new level is far from all contexts until the book knows it. Onsets of small jumps in noisy
    series come late, since the means move slowly.

Toy stream
    ``1 1 1 9 9 9 1 1 1 9 9 9 5``: 1 and 9 have neighbours at distance 0, 5 has none nearer than 4.

Reference
    Ramaswamy, Rastogi and Shim, Efficient Algorithms for Mining Outliers from Large Data Sets (2000).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    SpanField,
    check_newer,
    check_series,
    civil_times,
    span,
)
from anomalyd.detectors.stepping import Arrays, Learn, advance, begin

LARGEST = 1e30


class KnnParams(base.Params):
    """Parameters of ``knn``."""

    contexts: int = Field(4032, ge=64, le=20_000, description="Contexts the book holds of each series.")
    past: SpanField = Field(span("14d"), description="The past that the book is spread over.")


class Knn:
    """Nearest contexts over a block; see the module's docstring."""

    name: ClassVar[str] = "knn"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = KnnParams

    def __init__(self, params: KnnParams, grid: Grid) -> None:
        self.params, self.grid = params, grid
        self.every = max(1, round(params.past.count(grid.step_ms) / params.contexts))

    @property
    def min_history(self) -> int:
        return max(40, 20 * self.every)

    def fit(self, history: Block, seed: int) -> State:
        """Replay the history; nothing is drawn, so ``seed`` does not matter."""
        from anomalyd.detectors.kernels import knn

        n = len(history)
        empty: dict[str, npt.NDArray[Any]] = {
            "recent": np.zeros((n, 11)),
            "book": np.zeros((n, knn.WIDTH, self.params.contexts), np.float32),
            "nearest": np.zeros((n, knn.LINE)),
        }
        return begin(State(empty), history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "recent", fresh)
        return advance(state, fresh, hold, self._learn(fresh.times), _catch_up)

    def _learn(self, times: I64) -> Learn:
        from anomalyd.detectors.kernels.knn import knn_block

        phases = (civil_times(times, self.grid.timezone) % DAY_MS) * (2 * np.pi / DAY_MS)

        def learn(a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
            knn_block(
                np.clip(values, -LARGEST, LARGEST), phases, hold, self.every,
                a["recent"], a["book"], a["nearest"], raw.score, raw.expected,
            )  # fmt: skip

        return learn


def _catch_up(mine: Arrays, now: Arrays) -> None:
    """Copy what the last block changed: the contexts it put into the book, and all that is small."""
    from anomalyd.detectors.kernels.knn import copy_contexts

    copy_contexts(now["book"], now["nearest"], mine["nearest"], mine["book"])
    mine["recent"][...], mine["nearest"][...] = now["recent"], now["nearest"]
