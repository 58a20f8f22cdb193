"""``cusum``: a control chart of the cumulative sum of residuals.

Idea
    Subtract a cheap expectation (level, day, week) and add up how much the residuals exceed half of the shift one
    wants to find, upwards and downwards, never below zero. No other rule finds a shift of that size sooner at equal
    false alarms. The score is the larger sum over the control limit, which is set so that a score above 1 comes once a
    ``run_length`` while nothing is wrong: as often as the rule's budget allows. Residuals that are not independent
    would spend more; what the budget allows is then found by calibration on the series' own past. In a rule with a
    ``direction`` it is the sum of that side that counts, not where the single sample lies.

Works for
    Small lasting shifts: latency up by one standard deviation since the release. They are told after about the time
    that theory gives, limit / (shift - ``shift`` / 2) samples, and stay open until the level is back.

Fails when
    The shift is slower than the expectation's own day of memory, or over after one sample. A collective anomaly around
    the usual mean is invisible. After a large shift the sum needs some twenty samples to return.

Toy stream
    Residuals ``0 0 2 2 2 2`` with shift 1: the sum goes 0, 0, 1.5, 3, 4.5, 6.

Reference
    Page, Continuous Inspection Schemes (1954); limits by Siegmund's approximation (1985).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from anomalyd.detectors import base
from anomalyd.detectors.base import Grid
from anomalyd.detectors.control_chart import ChartParams, ControlChart, run_samples
from anomalyd.detectors.runlength import cusum_limit


class CusumParams(ChartParams):
    """Parameters of ``cusum``."""

    shift: float = Field(1.0, gt=0.05, le=8, description="Change to find soonest, in spreads of the residuals.")


class Cusum(ControlChart):
    """Two-sided CUSUM chart on residuals; see the module's docstring."""

    name: ClassVar[str] = "cusum"
    Params: ClassVar[type[base.Params]] = CusumParams
    summed: ClassVar[bool] = True

    def __init__(self, params: CusumParams, grid: Grid) -> None:
        super().__init__(params, grid, params.shift / 2, cusum_limit(run_samples(params, grid), params.shift / 2))
