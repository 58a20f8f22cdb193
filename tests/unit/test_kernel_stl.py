"""The STL kernel equals statsmodels with the same lengths, degrees and jumps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.detectors.kernels.lift import fill_gaps
from anomalyd.detectors.kernels.stl import middle, stl


def lengths_for(period: int, seasonal: int) -> tuple[int, int, int]:
    """Seasonal, trend and low-pass lengths as statsmodels chooses them by default."""
    trend = int(np.ceil(1.5 * period / (1 - 1.5 / seasonal)))
    low = period + 1
    return seasonal, trend + (trend % 2 == 0), low + (low % 2 == 0)


def series(n: int, period: int) -> np.ndarray:
    """A rhythm with trend, noise and outliers, one of them at the end."""
    rng = np.random.default_rng(n + period)
    t = np.arange(n)
    y = 10 * np.sin(2 * np.pi * t / period) + 0.01 * t + rng.normal(size=n)
    y[n // 3] += 40
    y[-1] += 10
    return y


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize(
    ("n", "period", "seasonal", "divisor", "degrees"),
    [
        (61, 7, 7, 10, (1, 1, 1)),
        (168, 24, 7, 10, (1, 1, 1)),
        (168, 24, 7, 1, (1, 1, 1)),
        (100, 2, 3, 10, (1, 1, 1)),
        (60, 25, 7, 10, (1, 1, 1)),
        (500, 24, 35, 10, (0, 1, 0)),
        (500, 24, 21, 5, (1, 0, 1)),
        (2016, 288, 7, 10, (1, 1, 1)),
        (4032, 288, 35, 10, (1, 1, 1)),
    ],
)
def test_equals_statsmodels(
    n: int, period: int, seasonal: int, divisor: int, degrees: tuple[int, int, int], robust: bool
) -> None:
    """Season, trend and robustness weights differ from the library's by less than 1e-8."""
    from statsmodels.tsa.seasonal import STL

    y = series(n, period)
    lengths = lengths_for(period, seasonal)
    jumps = tuple(int(np.ceil(length / divisor)) for length in lengths) if divisor > 1 else (1, 1, 1)
    season, trend, weights = np.empty(n), np.empty(n), np.empty(n)
    stl(y, period, lengths, degrees, jumps, 2 if robust else 5, 15 if robust else 0, season, trend, weights)
    library = STL(
        y,
        period,
        seasonal=lengths[0],
        trend=lengths[1],
        low_pass=lengths[2],
        seasonal_deg=degrees[0],
        trend_deg=degrees[1],
        low_pass_deg=degrees[2],
        robust=robust,
        seasonal_jump=jumps[0],
        trend_jump=jumps[1],
        low_pass_jump=jumps[2],
    ).fit()
    np.testing.assert_allclose(season, library.seasonal, atol=1e-8, rtol=0)
    np.testing.assert_allclose(trend, library.trend, atol=1e-8, rtol=0)
    np.testing.assert_allclose(weights, library.weights, atol=1e-8, rtol=0)


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1, max_size=50))
def test_middle_is_the_median(values: list[float]) -> None:
    """Quickselect's median is numpy's, whatever the order and the ties."""
    assert middle(np.array(values)) == np.median(values)


def test_gaps_are_filled_from_the_neighbouring_cycle() -> None:
    """A missing sample takes the value of its phase in the nearest cycle; a phase never seen, the line between."""
    y = np.tile([1.0, 5.0, 9.0, 5.0], 4)
    holes = y.copy()
    holes[[0, 6, 15]] = np.nan
    assert fill_gaps(holes, 4) == 13
    np.testing.assert_array_equal(holes, y)
    never = y.copy()
    never[1::4] = np.nan
    fill_gaps(never, 4)
    np.testing.assert_array_equal(never[1::4], 5.0)
    empty = np.full(8, np.nan)
    assert fill_gaps(empty, 4) == 0
