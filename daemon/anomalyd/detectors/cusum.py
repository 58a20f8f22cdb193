"""``cusum``: a control chart of the cumulative sum of residuals.

Idea
    Subtract a cheap expectation (level, day, week) and add up how much the residuals exceed half of the shift one
    wants to find, upwards and downwards, never below zero. No other rule finds a shift of that size sooner at equal
    false alarms. The score is the larger sum over the control limit, which is set so that a score above 1 comes once a
    ``run_length`` while nothing is wrong.

Works for
    Small lasting shifts: latency up by one standard deviation since the release.

Fails when
    The shift is slower than the expectation's own day of memory, or over after one sample. A collective anomaly around
    the usual mean is invisible. After a large shift the sum needs some samples to return.

Toy stream
    Residuals ``0 0 2 2 2 2`` with shift 1: the sum goes 0, 0, 1.5, 3, 4.5, 6.

Reference
    Page, Continuous Inspection Schemes (1954); limits by Siegmund's approximation (1985).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.baseline import make_baseline
from anomalyd.detectors.common import (
    SpanField,
    advanced,
    blank,
    check_newer,
    check_series,
    civil_times,
    clean,
    copied,
    held,
    span,
)
from anomalyd.detectors.runlength import cusum_limit

SETTLED = 30
"""Samples the expectation learns from before its residuals are looked at."""
REACH = 8.0
"""Residuals are cut off at this many spreads: the chart is for lasting changes, not for one wild sample."""


class CusumParams(base.Params):
    """Parameters of ``cusum``."""

    shift: float = Field(1.0, gt=0.05, le=8, description="Change to find soonest, in spreads of the residuals.")
    run_length: SpanField = Field(
        span("1w"), description="Average time between false alarms at score 1 while nothing is wrong."
    )


class Cusum:
    """Two-sided CUSUM chart on residuals; see the module's docstring."""

    name: ClassVar[str] = "cusum"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = CusumParams

    def __init__(self, params: CusumParams, grid: Grid) -> None:
        self.params = params
        self.grid = grid
        self.baseline = make_baseline(grid.step_ms)
        run_length = float(max(10, params.run_length.count(grid.step_ms)))
        self.limit = cusum_limit(run_length, self.params.shift / 2)

    @property
    def min_history(self) -> int:
        return SETTLED

    def fit(self, history: Block, seed: int) -> State:
        n = len(history)
        return self._run(State(self.baseline.arrays(n) | {"sums": np.zeros((n, 2))}), history, None)[1]

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "line", fresh)
        return self._run(state, fresh, hold)

    def _run(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.control import chart

        arrays, raw = copied(state), blank(fresh.values.shape)
        chart(
            clean(fresh.values),
            civil_times(fresh.times, self.grid.timezone),
            held(hold, len(fresh)),
            arrays["line"],
            arrays["day"],
            arrays["week"],
            self.baseline.memories,
            self.baseline.floors,
            arrays["sums"],
            True,
            self.params.shift / 2,
            self.limit,
            SETTLED,
            REACH,
            raw.score,
            raw.expected,
        )
        return raw, advanced(state, arrays, fresh)
