"""``extreme``: distance beyond everything seen before, at this time of day.

Idea
    The lowest and the highest sample ever seen at this time of day span a range; until its eighth day, when a weekend
    was among those before, it is the range of all samples. A sample's score is its distance from the middle in units of
    that range: one half at the edges, more beyond. The edges draw together very slowly, so that one accident does not
    blind a series for ever; a time of day whose range is small counts as having a tenth of the whole one. With
    ``by_time_of_day: false`` only what was never seen at any time is beyond.

Works for
    Gauges and counts with hard habits: a queue that was never longer, a latency that was never higher, a load that was
    never so high at night. Few alarms, and they are easy to explain.

Fails when
    The anomaly lies inside the range seen at its time of day: a collective one of ordinary values, a small contextual
    one where the day climbs steeply; any contextual one without ``by_time_of_day``, in the first week, and with samples
    more than an hour apart. An accident has widened the range before. Days differ from each other by more than the
    anomaly from both.

Toy stream
    ``3 5 4 6 3 12``: the range is 3 to 6, so 12 lies 7.5 from the middle and scores 7.5 / 3 = 2.5.

Reference
    The record values of Chandler (1952), on the scale of the range.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import SpanField, check_newer, check_series, civil_times, span
from anomalyd.detectors.stepping import Arrays, Learn, advance, begin

PARTS = (24, 12, 8, 6, 4)
"""Into how many times of day a day is cut: the first of which each holds ``FEWEST`` samples."""
FEWEST = 6


class ExtremeParams(base.Params):
    """Parameters of ``extreme``."""

    forget: SpanField = Field(span("365d"), description="Time in which the edges draw together by their range.")
    by_time_of_day: bool = Field(True, description="Each time of day has a range of its own once it is known.")


class Extreme:
    """New extremes over a block; see the module's docstring."""

    name: ClassVar[str] = "extreme"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = ExtremeParams

    def __init__(self, params: ExtremeParams, grid: Grid) -> None:
        self.params, self.grid = params, grid
        self.forget = 1.0 / params.forget.count(grid.step_ms)
        fitting = (parts for parts in PARTS if DAY_MS // parts >= FEWEST * max(1, grid.step_ms))
        self.parts = next(fitting, 0) if params.by_time_of_day else 0

    @property
    def min_history(self) -> int:
        return 40

    def fit(self, history: Block, seed: int) -> State:
        """Replay the history; nothing is drawn, so ``seed`` does not matter."""
        from anomalyd.detectors.kernels import extreme

        n = len(history)
        empty = {"edges": np.zeros((n, extreme.LINE)), "hours": np.zeros((n, self.parts, extreme.HOUR))}
        return begin(State(empty), history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "edges", fresh)
        return advance(state, fresh, hold, self._learn(fresh.times))

    def _learn(self, times: I64) -> Learn:
        from anomalyd.detectors.kernels.extreme import extreme_block

        civil = civil_times(times, self.grid.timezone)
        hours, days = civil % DAY_MS * self.parts // DAY_MS, civil // DAY_MS

        def learn(a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
            extreme_block(
                values, hold, hours, days, self.forget, self.min_history, a["edges"], a["hours"], raw.score,
                raw.expected, raw.unit,
            )  # fmt: skip

        return learn
