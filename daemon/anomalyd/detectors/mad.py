"""``mad``: distance from the rolling median, in robust standard deviations.

Idea
    Keep the last day of samples. A sample's score is |x - median| / (1.4826 · MAD), the robust z-score: half of the
    window may be broken before median and MAD notice. Where more than half of the window is one value, the mean
    distance replaces the MAD, and a floor (a thousandth of the level) replaces both on a flat line.

Works for
    Steady gauges and rates without a strong daily rhythm: error ratios, queue lengths, temperatures, pool sizes.

Fails when
    The series has a rhythm: the night's quiet and the day's peak are one wide distribution, so an anomaly inside that
    range (a contextual anomaly) is invisible. Use ``seasonal`` or ``stl`` there. A collective anomaly of ordinary
    values is invisible too.

Toy stream
    ``5 6 5 7 6 5 6 7 5 6 42 6``: the median is 6, the MAD 1, so 42 scores 36 / 1.48 = 24.

Reference
    Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993). Exact: equal to ``numpy.median`` on the window.
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


class MadParams(base.Params):
    """Parameters of ``mad``."""

    window: SpanField = Field(span("1d"), description="Length of the rolling window (at most 2,880 samples are kept).")
    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest spread, as a share of the level.")
    warm_up: int = Field(30, ge=2, description="Samples before the first score.")


class Mad:
    """Rolling exact median and MAD over a block; see the module's docstring."""

    name: ClassVar[str] = "mad"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = MadParams

    def __init__(self, params: MadParams, grid: Grid) -> None:
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
        from anomalyd.detectors.kernels.order import rolling_mad

        values, arrays, raw = clean(fresh.values), copied(state), blank(fresh.values.shape)
        rolling_mad(
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
