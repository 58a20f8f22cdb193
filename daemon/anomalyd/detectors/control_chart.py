"""What the control charts `ewma` and `cusum` share: residuals of a cheap expectation, a limit from the run length."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.baseline import make_baseline
from anomalyd.detectors.common import (
    SpanField,
    check_newer,
    check_series,
    civil_times,
    span,
)
from anomalyd.detectors.stepping import Arrays, Learn, advance, begin

SETTLED = 30
"""Samples the expectation learns from before its residuals are looked at."""
STEADIER = 0.25
"""The spread follows at this share of the usual rate: a limit in spreads is as good as the spread is known."""
USUAL = span("1w")
"""Time between false alarms where no rule says how far apart they may be."""
REACH = 8.0
"""Residuals are cut off at this many spreads: the chart is for lasting changes, not for one wild sample."""


class ChartParams(base.Params):
    """Parameters of a control chart."""

    run_length: SpanField | None = Field(
        None,
        description="Average time between false alarms at score 1 while nothing is wrong; none: as far apart as the"
        " rule's budget allows.",
    )


class ControlChart:
    """A chart on residuals. It speaks of the statistic's side, not of that on which the single sample lies.

    Attributes:
        summed: whether deviations are added up (CUSUM) or averaged (EWMA).
        step: the CUSUM's allowance, or the EWMA's weight.
        limit: the sum at which the score is 1.
    """

    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    summed: ClassVar[bool]

    def __init__(self, params: base.Params, grid: Grid, step: float, limit: float) -> None:
        self.params, self.grid = params, grid
        self.step, self.limit = step, limit
        baseline = make_baseline(grid.step_ms)
        steadier = baseline.memories.copy()
        steadier[1] *= STEADIER
        self.baseline = replace(baseline, memories=steadier)

    @property
    def min_history(self) -> int:
        return SETTLED

    def fit(self, history: Block, seed: int) -> State:
        n = len(history)
        return begin(State(self.baseline.arrays(n) | {"sums": np.zeros((n, 3))}), history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "line", fresh)
        raw, after = advance(state, fresh, hold, self._learn(fresh.times))
        return replace(raw, score=np.abs(raw.score), side=np.sign(raw.score)), after

    def _learn(self, times: I64) -> Learn:
        from anomalyd.detectors.kernels.control import chart

        civil, b = civil_times(times, self.grid.timezone, self.grid.holidays), self.baseline

        def learn(a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
            chart(
                values, civil, hold, a["line"], a["day"], a["week"], b.memories, b.floors, a["sums"], self.summed,
                self.step, self.limit, SETTLED, REACH, raw.score, raw.expected,
            )  # fmt: skip

        return learn


def run_samples(params: ChartParams, grid: Grid) -> float:
    """The run length in samples, ten at least: what the user gave, or what the rule's budget allows a series.

    Without either, a week.
    """
    if params.run_length is None and grid.run_length:
        return float(max(10, grid.run_length))
    return float(max(10, (params.run_length or USUAL).count(grid.step_ms)))
