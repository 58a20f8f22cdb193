"""``knn``: distance to the nearest contexts of the past.

Idea
    A context is the sample, the means of the last three and of the last twelve, the spread of the last twelve and the
    time of day. A book keeps contexts of two weeks. The score is the distance to the fifth nearest of them, in robust
    standard deviations of the series: how unlike anything before this moment is.

Works for
    Ranking whole abnormal spans, contextual anomalies (an ordinary value at the wrong time) and series that live on
    several levels. The best ranker among the single detectors. With ``joint: true`` a context is one vector of all
    series of a group, each with its change: combinations that never occurred are far from all.

Fails when
    The series drifts: every new level is far from all contexts until the book knows it. Onsets of small jumps in noisy
    series come late, since the means move slowly.

Toy stream
    ``1 1 1 9 9 9 1 1 1 9 9 9 5``: 1 and 9 have neighbours at distance 0, 5 has none nearer than 4.

Reference
    Ramaswamy, Rastogi and Shim, Efficient Algorithms for Mining Outliers from Large Data Sets (2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    HIGHEST_SCORE,
    SpanField,
    check_newer,
    check_series,
    civil_times,
    span,
)
from anomalyd.detectors.embedding import F32
from anomalyd.detectors.stepping import Arrays, Follow, Learn, Past, advance, begin
from anomalyd.detectors.vectors import VectorDetector

LARGEST = 1e30
FEWEST_VECTORS = 100


class KnnParams(base.Params):
    """Parameters of ``knn``."""

    contexts: int = Field(4032, ge=64, le=20_000, description="Contexts the book holds of each series.")
    past: SpanField = Field(span("14d"), description="The past that the book is spread over.")
    joint: bool = Field(False, description="The series of each `group_by` group are channels of one vector per time.")


class Knn:
    """Nearest contexts over a block; see the module's docstring."""

    name: ClassVar[str] = "knn"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = KnnParams

    def __init__(self, params: KnnParams, grid: Grid) -> None:
        self.params, self.grid = params, grid
        self.joint = params.joint
        self.vectors = JointContexts(grid, params.contexts) if params.joint else None
        self.every = max(1, round(params.past.count(grid.step_ms) / params.contexts))

    @property
    def min_history(self) -> int:
        return max(40, 20 * self.every) if self.vectors is None else self.vectors.min_history

    def fit(self, history: Block, seed: int) -> State:
        """Replay the history; nothing is drawn, so ``seed`` does not matter but for joint contexts."""
        from anomalyd.detectors.kernels import knn

        if self.vectors is not None:
            return self.vectors.fit(history, seed)
        n = len(history)
        empty = {"recent": np.zeros((n, 2 * knn.LATEST)), **knn.empty(n, self.params.contexts)}
        return begin(State(empty), history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        if self.vectors is not None:
            return self.vectors.score(state, fresh, hold)
        check_newer(state, fresh)
        check_series(state, "recent", fresh)
        return advance(state, fresh, hold, self._learn(fresh.times), follow=self._follow(fresh.times))

    def _learn(self, times: I64) -> Learn:
        from anomalyd.detectors.kernels.knn import around_clock

        phases = (civil_times(times, self.grid.timezone) % DAY_MS) * (2 * np.pi / DAY_MS)
        return _Lesson(self, around_clock(phases))

    def _follow(self, times: I64) -> Follow:
        from anomalyd.detectors.kernels.boxes import BLOCK
        from anomalyd.detectors.kernels.knn import rooms
        from anomalyd.detectors.kernels.knn_blocks import follow_block, rooms_in_turn

        lesson, contexts = self._learn(times), self.params.contexts + BLOCK
        assert isinstance(lesson, _Lesson)

        def follow(a: Arrays, now: Arrays, past: Past, values: F64, hold: Bool, raw: Raw) -> None:
            last = past.learn
            assert isinstance(last, _Lesson), "this is what learned it"
            follow_block(
                _clipped(past.values), last.clock, past.hold, _clipped(values), lesson.clock, hold, self.every,
                a["recent"], a["book"], a["boxes"], a["hulls"], a["nearest"], now["boxes"], now["hulls"],
                now["nearest"], rooms(contexts), rooms_in_turn(contexts), raw.score, raw.expected,
            )  # fmt: skip

        return follow


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """How samples at times whose places on the clock [T, 2] are these are learned, as ``stepping`` wants it."""

    detector: Knn
    clock: F64

    def __call__(self, a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
        from anomalyd.detectors.kernels.boxes import BLOCK
        from anomalyd.detectors.kernels.knn import rooms
        from anomalyd.detectors.kernels.knn_blocks import knn_block

        knn_block(
            _clipped(values), self.clock, hold, self.detector.every, a["recent"], a["book"], a["boxes"], a["hulls"],
            a["nearest"], rooms(self.detector.params.contexts + BLOCK), raw.score, raw.expected,
        )  # fmt: skip


def _clipped(values: F64) -> F64:
    return np.clip(values, -LARGEST, LARGEST)


class JointContexts(VectorDetector):
    """Contexts over all channels of a rule at one time: the newest of the history are the book until the next fit."""

    model_names: ClassVar[tuple[str, ...]] = ("kept", "stored")

    def __init__(self, grid: Grid, contexts: int) -> None:
        super().__init__(grid, lags=1, calendar=True, joint=True)
        self.contexts = contexts

    @property
    def min_history(self) -> int:
        return FEWEST_VECTORS

    def _blank(self, n: int, width: int) -> Arrays:
        return {"kept": np.zeros((n, self.contexts, width), np.float32), "stored": np.zeros(n, np.int64)}

    def _fit_one(self, arrays: Arrays, s: int, vectors: F32, seed: int) -> None:
        newest = vectors[-self.contexts :]
        arrays["kept"][s, : len(newest)] = newest
        arrays["stored"][s] = len(newest)

    def _score(self, vectors: F32, model: list[npt.NDArray[Any]], present: Bool, score: F64) -> None:
        from anomalyd.detectors.kernels.knn import NEIGHBOURS
        from anomalyd.detectors.kernels.vectors import nearest_vectors

        kept, stored = model
        nearest_vectors(vectors, kept, stored, NEIGHBOURS, present, score)
        np.minimum(score, HIGHEST_SCORE, out=score)
