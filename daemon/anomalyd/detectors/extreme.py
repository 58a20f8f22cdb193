"""``extreme``: distance beyond everything seen before.

Idea
    The lowest and the highest sample ever seen span a range. A sample's score is its distance from the middle in units
    of that range: one half at the edges, more beyond. The edges draw together very slowly, so that one accident does
    not blind a series for ever.

Works for
    Gauges and counts with hard habits: a queue that was never longer, a latency that was never higher. Few alarms, and
    they are easy to explain.

Fails when
    The anomaly lies inside the range seen (nearly all contextual ones, and a collective one of ordinary values), or an
    accident has widened the range before.

Toy stream
    ``3 5 4 6 3 12``: the range is 3 to 6, so 12 lies 7.5 from the middle and scores 7.5 / 3 = 2.5.

Reference
    The record values of Chandler (1952), on the scale of the range.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import F64, Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import SpanField, check_newer, check_series, span
from anomalyd.detectors.stepping import Arrays, advance, begin


class ExtremeParams(base.Params):
    """Parameters of ``extreme``."""

    forget: SpanField = Field(span("365d"), description="Time in which the edges draw together by their range.")


class Extreme:
    """New extremes over a block; see the module's docstring."""

    name: ClassVar[str] = "extreme"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = ExtremeParams

    def __init__(self, params: ExtremeParams, grid: Grid) -> None:
        self.params = params
        self.forget = 1.0 / params.forget.count(grid.step_ms)

    @property
    def min_history(self) -> int:
        return 40

    def fit(self, history: Block, seed: int) -> State:
        """Replay the history; nothing is drawn, so ``seed`` does not matter."""
        from anomalyd.detectors.kernels import extreme

        return begin(State({"edges": np.zeros((len(history), extreme.LINE))}), history, self._learn)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "edges", fresh)
        return advance(state, fresh, hold, self._learn)

    def _learn(self, a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
        from anomalyd.detectors.kernels.extreme import extreme_block

        extreme_block(
            values, hold, self.forget, self.min_history, a["edges"], raw.score, raw.expected, raw.unit
        )
