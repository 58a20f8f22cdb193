"""Control limits from the average run length: how many samples pass between false alarms while nothing is wrong.

Residuals are taken for independent standard normal; the calibration behind every detector corrects what they are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

NODES = 61
"""Points of the Gauss-Legendre rule; the run lengths are right to five digits."""


def _bisect(run_length: Callable[[float], float], wanted: float, high: float) -> float:
    low = 0.05
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(middle) < wanted else (low, middle)
    return (low + high) / 2


def ewma_run_length(limit: float, weight: float) -> float:
    """Average run length of a two-sided EWMA chart at ``limit`` asymptotic deviations (Crowder's integral equation)."""
    half = limit * math.sqrt(weight / (2 - weight))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    u, w = nodes * half, weights * half
    step = (u[None, :] - (1 - weight) * u[:, None]) / weight
    kernel = np.exp(-0.5 * step**2) / math.sqrt(2 * math.pi) / weight * w[None, :]
    lengths = np.linalg.solve(np.eye(NODES) - kernel, np.ones(NODES))
    from_zero = np.exp(-0.5 * (u / weight) ** 2) / math.sqrt(2 * math.pi) / weight * w
    length = float(1 + from_zero @ lengths)
    return length if length > 0 else math.inf


def cusum_run_length(limit: float, allowance: float) -> float:
    """Average run length of a two-sided CUSUM chart (Siegmund's approximation)."""
    b = limit + 1.166
    one_sided = (math.exp(2 * allowance * b) - 2 * allowance * b - 1) / (2 * allowance**2)
    return one_sided / 2


@cache
def ewma_limit(run_length: float, weight: float) -> float:
    """Limit, in deviations of the statistic, at which false alarms are ``run_length`` samples apart on average."""
    return _bisect(lambda limit: ewma_run_length(limit, weight), run_length, 8.0)


@cache
def cusum_limit(run_length: float, allowance: float) -> float:
    """Limit, in spreads, at which false alarms are ``run_length`` samples apart on average."""
    return _bisect(lambda limit: cusum_run_length(limit, allowance), run_length, 300.0 / (2 * allowance))
