"""``ewma``: a control chart of the exponentially weighted mean of residuals.

Idea
    Subtract a cheap expectation (level, day, week) and average the residuals, the newest with weight 0.2. Noise
    averages out and a lasting change adds up. The score is the mean over the control limit, which is set so that a
    score above 1 comes once a ``run_length`` while nothing is wrong.

Works for
    Changes of one to three spreads that last for some samples: a slower dependency, a smaller hit ratio.

Fails when
    The change is slower than the expectation's own day of memory, or is over after one sample (that is halved and
    halved again: use ``mad`` or ``seasonal``). A collective anomaly around the usual mean is invisible.

Toy stream
    Residuals ``0 0 0 2 2 2 2``: the mean goes 0.4, 0.7, 1.0, 1.2 and passes the limit of about 1.1 at the fourth.

Reference
    Roberts (1959); limits by the integral equation of Crowder, A Simple Method for Studying Run-Length Distributions
    of Exponentially Weighted Moving Average Charts (1987).
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
from anomalyd.detectors.runlength import ewma_limit

SETTLED = 30
"""Samples the expectation learns from before its residuals are looked at."""
REACH = 8.0
"""Residuals are cut off at this many spreads: the chart is for lasting changes, not for one wild sample."""


class EwmaParams(base.Params):
    """Parameters of ``ewma``."""

    weight: float = Field(0.2, gt=0.001, le=1, description="Share of the newest residual; small finds small changes.")
    run_length: SpanField = Field(
        span("1w"), description="Average time between false alarms at score 1 while nothing is wrong."
    )


class Ewma:
    """EWMA chart on residuals; see the module's docstring."""

    name: ClassVar[str] = "ewma"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = EwmaParams

    def __init__(self, params: EwmaParams, grid: Grid) -> None:
        self.params = params
        self.grid = grid
        self.baseline = make_baseline(grid.step_ms)
        run_length = float(max(10, params.run_length.count(grid.step_ms)))
        self.limit = ewma_limit(run_length, self.params.weight)

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
            False,
            self.params.weight,
            self.limit,
            SETTLED,
            REACH,
            raw.score,
            raw.expected,
        )
        return raw, advanced(state, arrays, fresh)
