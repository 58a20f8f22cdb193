"""What detectors over a rolling window of raw samples share: ``mad``, ``iqr``, ``zscore``. Each adds its kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import F64, Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    ABSOLUTE_FLOOR,
    HIGHEST_SCORE,
    RELATIVE_FLOOR,
    SpanField,
    check_newer,
    check_series,
    span,
)
from anomalyd.detectors.stepping import Arrays, Past, advance, begin

MOST_SAMPLES = 2_880


class RollingParams(base.Params):
    """Parameters of a detector over a rolling window."""

    window: SpanField = Field(span("1d"), description="Length of the rolling window (at most 2,880 samples are kept).")
    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest spread, as a share of the level.")
    warm_up: int = Field(30, ge=2, description="Samples before the first score.")


class Rolling(ABC):
    """A window of the newest samples of each series and a kernel that scores against it, then takes the sample in.

    Attributes:
        windows: state arrays of the window's length that the kernel takes, in its order.
    """

    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    windows: ClassVar[tuple[str, ...]] = ("ring", "ordered")

    def __init__(self, params: RollingParams, grid: Grid) -> None:
        self.params = params
        self.window = min(MOST_SAMPLES, max(3, params.window.count(grid.step_ms)))

    @staticmethod
    @abstractmethod
    def kernel() -> Callable[..., Any]:
        """The kernel, imported when it is first needed."""

    @property
    def min_history(self) -> int:
        return min(self.params.warm_up, self.window)

    def fit(self, history: Block, seed: int) -> State:
        n = len(history)
        arrays = {name: np.zeros((n, self.window)) for name in self.windows}
        return begin(State(arrays | {"seen": np.zeros(n, np.int64)}), history, self._learn)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "ring", fresh)
        return advance(state, fresh, hold, self._learn, follow=self._follow)

    def _learn(self, arrays: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
        self._run(arrays, arrays, values, hold, raw)

    def _follow(self, mine: Arrays, now: Arrays, past: Past, values: F64, hold: Bool, raw: Raw) -> None:
        self._run(mine, now, values, hold, raw)

    def _run(self, mine: Arrays, now: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
        """Take in what the windows ``now`` are ahead of these, then score and learn: one pass over the memory."""
        self.kernel()(
            values,
            hold,
            *(mine[name] for name in self.windows),
            mine["seen"],
            now["ring"],
            now["seen"],
            self.min_history,
            self.params.floor,
            ABSOLUTE_FLOOR,
            HIGHEST_SCORE,
            raw.score,
            raw.expected,
            raw.unit,
        )
