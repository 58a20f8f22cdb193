"""``ewma``: a control chart of the exponentially weighted mean of residuals.

Idea
    Subtract a cheap expectation (level, day, week) and average the residuals, the newest with weight 0.2. Noise
    averages out and a lasting change adds up. The score is the mean over the control limit, which is set so that a
    score above 1 comes once a ``run_length`` while nothing is wrong: as often as the rule's budget allows.

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

from pydantic import Field

from anomalyd.detectors import base
from anomalyd.detectors.base import Grid
from anomalyd.detectors.control_chart import ChartParams, ControlChart, run_samples
from anomalyd.detectors.runlength import ewma_limit


class EwmaParams(ChartParams):
    """Parameters of ``ewma``."""

    weight: float = Field(0.2, gt=0.001, le=1, description="Share of the newest residual; small finds small changes.")


class Ewma(ControlChart):
    """EWMA chart on residuals; see the module's docstring."""

    name: ClassVar[str] = "ewma"
    Params: ClassVar[type[base.Params]] = EwmaParams
    summed: ClassVar[bool] = False

    def __init__(self, params: EwmaParams, grid: Grid) -> None:
        super().__init__(params, grid, params.weight, ewma_limit(run_samples(params, grid), params.weight))
