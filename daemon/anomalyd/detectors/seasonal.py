"""``seasonal``: distance from what the best of five experts expects.

Idea
    Five experts forecast each sample: the level of the last few samples, a profile over the hour, one over the day, one
    over the week (all in civil time, all with an offset that follows the level) and a slow mean. Whoever was least
    wrong lately speaks. The score is the distance from its forecast in units of its usual error. Everything is learned
    with each sample, from clipped errors: a spike teaches no more than a large ordinary error.

Works for
    Traffic with an hourly, daily or weekly rhythm, and anything without one: it does not have to be told which. Jobs at
    the same minute of each hour are known within a day, to the minute; they need slots of at most five minutes.
    Contextual anomalies, such as a night's value at noon, and missing peaks.

Fails when
    The rhythm is neither daily nor weekly (use ``stl`` with its period), or moves about within the hour. After a DST
    change it is the wall clock that counts.

Toy stream
    Ten days of 10 by night and 90 by day, then 10 at noon: expected 90, usual error 1, score 80.

Reference
    Herbster and Warmuth, Tracking the Best Expert (1998), for the choice among forecasts.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    RELATIVE_FLOOR,
    check_newer,
    check_series,
    civil_times,
)
from anomalyd.detectors.stepping import Arrays, Learn, advance, begin

LARGEST = 1e30
BIN_MS = 5 * MINUTE_MS
"""Width of the bins of day and week; where slots are farther apart than this an hour has no rhythm to show."""


class SeasonalParams(base.Params):
    """Parameters of ``seasonal``."""

    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest usual error, as a share of the level.")


class Seasonal:
    """Seasonal experts over a block; see the module's docstring."""

    name: ClassVar[str] = "seasonal"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = SeasonalParams

    def __init__(self, params: SeasonalParams, grid: Grid) -> None:
        self.params, self.grid = params, grid
        self.day_bins = max(1, round(DAY_MS / max(BIN_MS, grid.step_ms)))
        self.hour_bins = HOUR_MS // max(MINUTE_MS, grid.step_ms) if grid.step_ms <= BIN_MS else 0

    @property
    def min_history(self) -> int:
        return 40

    def fit(self, history: Block, seed: int) -> State:
        """Replay the history; nothing is drawn, so ``seed`` does not matter."""
        from anomalyd.detectors.kernels import seasonal

        n, bins = len(history), 8 * self.day_bins
        empty: dict[str, npt.NDArray[Any]] = {
            "profile": np.zeros((n, bins), np.float32),
            "visits": np.zeros((n, bins), np.uint8),
            "seasons": np.zeros((n, seasonal.LINE)),
            "hour": np.zeros((n, self.hour_bins), np.float32),
            "passes": np.zeros((n, self.hour_bins), np.uint8),
            "beat": np.zeros((n, 2)),
        }
        return begin(State(empty), history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "seasons", fresh)
        return advance(state, fresh, hold, self._learn(fresh.times))

    def _learn(self, times: I64) -> Learn:
        from anomalyd.detectors.kernels.seasonal import seasonal_block

        civil = civil_times(times, self.grid.timezone, self.grid.holidays)
        days = (civil % DAY_MS) * self.day_bins // DAY_MS
        weeks = self.day_bins + (civil % WEEK_MS) * (7 * self.day_bins) // WEEK_MS
        hours = (civil % HOUR_MS) * self.hour_bins // HOUR_MS

        def learn(a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
            seasonal_block(
                np.clip(values, -LARGEST, LARGEST), days, weeks, hours, hold, self.params.floor,
                a["profile"], a["visits"], a["seasons"], a["hour"], a["passes"], a["beat"],
                raw.score, raw.expected, raw.unit,
            )  # fmt: skip

        return learn
