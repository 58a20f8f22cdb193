"""``matrix_profile``: how unlike everything before the last stretch of samples is (discords).

Idea
    The last ``length`` samples are compared with every stretch of that length in the memory: by shape (z-normalised
    distance, so level and amplitude do not matter) times a factor for complexity (a stretch much smoother or rougher
    than its best match is far from it). The score is the distance to the nearest one: 0 is a repetition, about 1 is
    unrelated, more is too regular or too rough.

Works for
    Collective anomalies whose single values are ordinary: flat-lined sensors, a rhythm that skips or doubles a beat, a
    job that runs differently.

Fails when
    One sample is wrong (a stretch of 24 hardly changes), levels shift without a change of shape, the noise is larger
    than the shape, or the anomaly happened before (its twin is its neighbour).

Toy stream
    A sine of 24 samples a day over a week, then twelve equal samples: no stretch of twelve was ever flat.

Reference
    Yeh et al., Matrix Profile I, ICDM 2016; Zhu et al., STOMP (2016); complexity after Batista et al. (2014). Equal to
    the definition computed by brute force.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.baseline import make_baseline
from anomalyd.detectors.common import (
    SpanField,
    check_newer,
    check_series,
    civil_times,
    span,
)
from anomalyd.detectors.stepping import Arrays, Learn, advance, begin, copy_over

SETTLED = 30
REACH = 1e4
HIGHEST = 1e3
MOST_SAMPLES = 4_032
MOST_LENGTH = 500


class MatrixProfileParams(base.Params):
    """Parameters of ``matrix_profile``."""

    length: SpanField = Field(span(24), description="Samples (or time) that make one stretch: the size of a pattern.")
    memory: SpanField = Field(
        span("1w"), description="How far back stretches are compared (at most 4,032 samples are kept)."
    )


class MatrixProfile:
    """Left matrix profile of the newest stretch, updated per sample; see the module's docstring."""

    name: ClassVar[str] = "matrix_profile"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = MatrixProfileParams

    def __init__(self, params: MatrixProfileParams, grid: Grid) -> None:
        self.grid = grid
        self.baseline = make_baseline(grid.step_ms)
        self.length = min(MOST_LENGTH, max(4, params.length.count(grid.step_ms)))
        self.memory = min(MOST_SAMPLES, max(8 * self.length, params.memory.count(grid.step_ms)))

    @property
    def min_history(self) -> int:
        return SETTLED + min(10 * self.length, self.memory)

    def fit(self, history: Block, seed: int) -> State:
        n, size = len(history), self.memory + self.length
        arrays = self.baseline.arrays(n) | {
            "anchor": np.zeros(n),
            "tape": np.zeros((n, size)),
            "dots": np.zeros((n, size)),
            "bad": np.zeros((n, size), np.int8),
            "count": np.zeros(n, np.int64),
        }
        return begin(State(arrays), history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "line", fresh)
        return advance(state, fresh, hold, self._learn(fresh.times), copy_over)  # every cell moves at each sample

    def _learn(self, times: I64) -> Learn:
        from anomalyd.detectors.kernels.discord import discords

        civil, b = civil_times(times, self.grid.timezone, self.grid.holidays), self.baseline

        def learn(a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
            discords(
                values, civil, hold, a["line"], a["day"], a["week"], b.memories, b.floors, a["anchor"], a["tape"],
                a["dots"], a["bad"], a["count"], self.length, SETTLED, self.min_history - SETTLED, REACH, HIGHEST,
                raw.score, raw.expected,
            )  # fmt: skip

        return learn
