"""``forecast``: a limit is reached within a horizon: the disk is full in four days, the pool runs dry.

Idea
    Follow the series' level, slope and daily profile robustly; project them to the end of the horizon with an interval
    that is as wide as one-step errors were and widens with the uncertainty of level and slope, the more of an error
    goes on from sample to sample. The score is a surprise by itself: -log10 of the chance that the
    limit is *not* reached in time. 2 means 99 % certain, and a value beyond the limit is certain.

Works for
    Things that fill up or run out: disks, quotas, connection pools, certificate lifetimes, backlogs, error budgets.
    A cleanup (a jump of the level) is understood after five samples, and the slope is kept.

Fails when
    Growth is not a line over the ``memory``: exponential growth is seen late. Samples wander from one to the
    next, as a random walk does: nobody knows then, and the interval is wide; of 95 % it holds 91 % after four days,
    87 % where noise hides the walk. It says nothing of a contextual or collective anomaly that has no trend.

Toy stream
    A disk at 60 %, 1 % more each hour, limit 100, horizon two days: reached in 40 hours; the score is high at once.

Reference
    Discounted least squares: Brown, Smoothing, Forecasting and Prediction (1963). Variance of a trend with errors that
    go on: Canjels and Watson, Estimating Deterministic Trends in the Presence of Serially Correlated Errors (1997).
    This detector goes on learning while its episode is open: the trend is its subject, and whoever fixes the disk wants
    the alert to end.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Forecasts, Grid, Raw, State
from anomalyd.detectors.common import (
    ABSOLUTE_FLOOR,
    RELATIVE_FLOOR,
    SpanField,
    check_newer,
    check_series,
    civil_times,
    span,
)
from anomalyd.detectors.stepping import Arrays, Learn, advance, begin

DAY_BINS = 48
VISITS = 5.0


class ForecastParams(base.Params):
    """Parameters of ``forecast``."""

    limit: float = Field(description="The value that must not be reached, in the series' unit.")
    when: Literal["above", "below"] = Field("above", description="Whether at or above, or at or below, is too far.")
    horizon: SpanField = Field(span("4d"), description="How far ahead the limit matters.")
    memory: SpanField = Field(span("3d"), description="How much past makes the slope.")
    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest spread, as a share of the value.")


class Forecast:
    """Robust trend against a limit; see the module's docstring."""

    name: ClassVar[str] = "forecast"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = True
    Params: ClassVar[type[base.Params]] = ForecastParams

    def __init__(self, params: ForecastParams, grid: Grid) -> None:
        self.params = params
        self.grid = grid
        self.step = max(1, grid.step_ms)
        self.memory = max(30, params.memory.count(self.step))
        self.horizon = float(params.horizon.count(self.step))
        self.bins = DAY_BINS if self.step * 4 <= DAY_MS else 1
        self.visits = VISITS * max(1.0, DAY_MS / self.step / self.bins)
        self.rate = min(0.05, max(0.005, 6 * self.step / DAY_MS))
        self.floors = np.array([params.floor, ABSOLUTE_FLOOR])

    @property
    def min_history(self) -> int:
        return max(30, self.memory // 8)

    @property
    def limit(self) -> float:
        return self.params.limit

    @property
    def upper(self) -> bool:
        return self.params.when == "above"

    @property
    def ahead_ms(self) -> int:
        return int(self.horizon) * self.step

    def fit(self, history: Block, seed: int) -> State:
        from anomalyd.detectors.kernels.trend import FIT

        n = len(history)
        empty = State({"fit": np.zeros((n, FIT)), "day": np.zeros((n, 2, self.bins))})
        return begin(empty, history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "fit", fresh)
        return advance(state, fresh, None, self._learn(fresh.times))

    def forecast(self, state: State, times: I64, coverage: float = 0.95) -> Forecasts:
        """What the series will be at times [T] after the state, with the interval that holds a share of outcomes."""
        from anomalyd.detectors.kernels.trend import project

        shape = (len(state.arrays["fit"]), len(times))
        expected, deviation = np.full(shape, np.nan), np.full(shape, np.nan)
        civil = civil_times(times, self.grid.timezone)
        fit, day = state.arrays["fit"], state.arrays["day"]
        project(times, civil, fit, day, float(self.step), self.floors, expected, deviation)
        half = NormalDist().inv_cdf(0.5 + coverage / 2) * deviation
        return Forecasts(expected, expected - half, expected + half)

    def _learn(self, times: I64) -> Learn:
        from anomalyd.detectors.kernels.trend import reach_limit

        civil = civil_times(times, self.grid.timezone)

        def learn(a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
            reach_limit(
                values, times, civil, a["fit"], a["day"], float(self.step), 1 - 1 / self.memory, self.rate,
                self.visits, self.limit, self.upper, self.horizon, self.min_history, self.floors,
                raw.score, raw.expected,
            )  # fmt: skip

        return learn
