"""``iqr``: distance from the middle of the rolling quartiles, in interquartile ranges.

Idea
    Tukey's box plot as a detector: the box holds the middle half of the last day's samples, and a score counts from its
    middle in heights of the box. A score of 2 is Tukey's inner fence (1.5 boxes beyond the box), 3.5 the outer one. A
    quarter of the window may be broken on each side before the box notices.

Works for
    Steady series with skewed or heavy tails: latencies, queue lengths, sizes.

Fails when
    The series has a rhythm (a contextual anomaly, ordinary at another hour, is invisible: use ``seasonal`` or
    ``stl``), or more than a quarter of the window is abnormal. A collective anomaly of ordinary values is invisible.

Toy stream
    ``5 6 5 7 6 5 6 7 5 6 42 6``: the box reaches from 5 to 6, so 42 scores 36.5.

Reference
    Tukey, Exploratory Data Analysis (1977). Quartiles equal ``numpy.quantile`` on the window.
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


class IqrParams(base.Params):
    """Parameters of ``iqr``."""

    window: SpanField = Field(span("1d"), description="Length of the rolling window (at most 2,880 samples are kept).")
    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest spread, as a share of the level.")
    warm_up: int = Field(30, ge=2, description="Samples before the first score.")


class Iqr:
    """Rolling exact quartiles over a block; see the module's docstring."""

    name: ClassVar[str] = "iqr"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = IqrParams

    def __init__(self, params: IqrParams, grid: Grid) -> None:
        self.params = params
        self.window = min(MOST_SAMPLES, max(3, params.window.count(grid.step_ms)))

    @property
    def min_history(self) -> int:
        return min(self.params.warm_up, self.window)

    def fit(self, history: Block, seed: int) -> State:
        n = len(history)
        empty = State(
            {
                "ring": np.zeros((n, self.window)),
                "ordered": np.zeros((n, self.window)),
                "seen": np.zeros(n, np.int64),
            },
        )
        return self._run(empty, history, None)[1]

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "ring", fresh)
        return self._run(state, fresh, hold)

    def _run(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.control import rolling_quartiles

        values, arrays, raw = clean(fresh.values), copied(state), blank(fresh.values.shape)
        rolling_quartiles(
            values,
            held(hold, len(fresh)),
            arrays["ring"],
            arrays["ordered"],
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
