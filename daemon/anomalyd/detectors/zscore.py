"""``zscore``: distance from the rolling mean, in standard deviations.

Idea
    The old school's rule of three sigmas: mean and standard deviation of the last day, and how many of the latter a
    sample is away. Samples enter the window trimmed at four standard deviations, so one wild value cannot hide the
    next.

Works for
    Steady, roughly Gaussian series, and for comparing with what a team had before.

Fails when
    The series has a rhythm (a contextual anomaly, ordinary at another hour, is invisible: use ``seasonal`` or
    ``stl``), heavy tails (every burst is many sigmas: use ``mad`` or ``iqr``) or a broken baseline of more than a few
    samples. A collective anomaly of ordinary values is invisible too.

Toy stream
    ``5 6 5 7 6 5 6 7 5 6 42 6``: mean 5.8, deviation 0.75, so 42 scores 48.

Reference
    Shewhart, Economic Control of Quality of Manufactured Product (1931).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    ABSOLUTE_FLOOR,
    HIGHEST_SCORE,
    RELATIVE_FLOOR,
    SpanField,
    advanced,
    blank,
    check_newer,
    check_series,
    clean,
    copied,
    held,
    span,
)

MOST_SAMPLES = 2_880


class ZscoreParams(base.Params):
    """Parameters of ``zscore``."""

    window: SpanField = Field(span("1d"), description="Length of the rolling window (at most 2,880 samples are kept).")
    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest spread, as a share of the level.")
    warm_up: int = Field(30, ge=2, description="Samples before the first score.")


class Zscore:
    """Rolling mean and standard deviation over a block; see the module's docstring."""

    name: ClassVar[str] = "zscore"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = ZscoreParams

    def __init__(self, params: ZscoreParams, grid: Grid) -> None:
        self.params = params
        self.window = min(MOST_SAMPLES, max(3, params.window.count(grid.step_ms)))

    @property
    def min_history(self) -> int:
        return min(self.params.warm_up, self.window)

    def fit(self, history: Block, seed: int) -> State:
        n = len(history)
        empty = State({"ring": np.zeros((n, self.window)), "seen": np.zeros(n, np.int64)})
        return self._run(empty, history, None)[1]

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "ring", fresh)
        return self._run(state, fresh, hold)

    def _run(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.control import rolling_z

        arrays, raw = copied(state), blank(fresh.values.shape)
        rolling_z(
            clean(fresh.values),
            held(hold, len(fresh)),
            arrays["ring"],
            arrays["seen"],
            self.min_history,
            self.params.floor,
            ABSOLUTE_FLOOR,
            HIGHEST_SCORE,
            raw.score,
            raw.expected,
            raw.unit,
        )
        return raw, advanced(state, arrays, fresh)
