"""``extreme``: distance beyond everything seen before.

Idea
    The lowest and the highest sample ever seen span a range. A sample's score is its distance from the middle in units
    of that range: one half at the edges, more beyond. The edges draw together very slowly, so that one accident does
    not blind a series for ever.

Works for
    Gauges and counts with hard habits: a queue that was never longer, a latency that was never higher. Few alarms, and
    they are easy to explain.

Fails when
    The anomaly lies inside the range seen (nearly all contextual ones), or an accident has widened the range before.

Toy stream
    ``3 5 4 6 3 12``: the range is 3 to 6, so 12 lies 7.5 from the middle and scores 7.5 / 3 = 2.5.

Reference
    The record values of Chandler (1952), on the scale of the range.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import SpanField, advanced, blank, check_newer, check_series, clean, copied, held, span


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

        after = self._run(State({"edges": np.zeros((len(history), extreme.LINE))}, as_of=-1), history, None)[1]
        return State(after.arrays, as_of=max(0, after.as_of))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "edges", fresh)
        return self._run(state, fresh, hold)

    def _run(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.extreme import extreme_block

        a, raw = copied(state), blank(fresh.values.shape)
        extreme_block(
            clean(fresh.values), held(hold, len(fresh)), self.forget, self.min_history, a["edges"],
            raw.score, raw.expected, raw.unit,
        )  # fmt: skip
        return raw, advanced(state, a, fresh)
