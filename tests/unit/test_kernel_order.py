"""The rolling window's order statistics equal numpy's bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.detectors.kernels.order import (
    kth_deviation,
    median,
    median_deviation,
    quantile,
    rolling_mad,
    slide,
)

numbers = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def roll(values: list[float], size: int) -> tuple[np.ndarray, int]:
    """The sorted window after all values went through it."""
    ring, ordered = np.zeros(size), np.zeros(size)
    for i, x in enumerate(values):
        slide(ring, ordered, i % size, min(i, size), float(x))
    return ordered, min(len(values), size)


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=60), st.integers(1, 20))
def test_window_stays_sorted_and_complete(values: list[float], size: int) -> None:
    """After any samples the window holds exactly the last ones, in order."""
    ordered, n = roll(values, size)
    np.testing.assert_array_equal(ordered[:n], np.sort(np.array(values[-size:], float)))


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=40))
def test_median_and_deviation_equal_numpy(values: list[float]) -> None:
    """Median, MAD and quantiles of a sorted array are numpy's, bit for bit."""
    ordered = np.sort(np.array(values, float))
    n = len(ordered)
    centre = np.median(ordered)
    assert median(ordered, n) == centre
    distances = np.sort(np.abs(ordered - centre))
    for k in range(1, n + 1):
        assert kth_deviation(ordered, n, centre, k) == distances[k - 1]
    assert median_deviation(ordered, n, centre) == np.median(np.abs(ordered - centre))
    for q in (0.0, 0.25, 0.5, 0.9, 1.0):
        assert quantile(ordered, n, q) == pytest.approx(np.quantile(ordered, q), rel=1e-12, abs=1e-9)


def test_rolling_mad_equals_numpy_on_every_window() -> None:
    """Score, expectation and unit at each sample are those of numpy on the window before it."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(2, 400)).round(1)
    values[0, 50:60] = np.nan
    size, shape = 48, values.shape
    score, expected, unit = (np.full(shape, np.nan) for _ in range(3))
    ring, ordered, seen = np.zeros((2, size)), np.zeros((2, size)), np.zeros(2, np.int64)
    hold = np.zeros(2, bool)
    rolling_mad(values, hold, ring, ordered, seen, ring, seen, 10, 1e-3, 1e-9, 1e12, score, expected, unit)
    for s in range(2):
        for t in range(1, 400):
            window = values[s, :t][~np.isnan(values[s, :t])][-size:]
            centre = np.median(window)
            assert expected[s, t] == centre
            if len(window) < 10:
                assert np.isnan(score[s, t])
                continue
            spread = 1.482602218505602 * np.median(np.abs(window - centre))
            assert unit[s, t] == pytest.approx(max(spread, 1e-3 * abs(centre), 1e-9), rel=1e-15)
            if not np.isnan(values[s, t]):
                assert score[s, t] == pytest.approx(abs(values[s, t] - centre) / unit[s, t], rel=1e-15)


def test_held_series_do_not_enter_the_window() -> None:
    """A held sample is scored and leaves the window as it was."""
    values = np.array([[1.0, 2.0, 3.0, 50.0], [1.0, 2.0, 3.0, 50.0]])
    ring, ordered, seen = np.zeros((2, 5)), np.zeros((2, 5)), np.zeros(2, np.int64)
    out = [np.full((2, 4), np.nan) for _ in range(3)]
    rolling_mad(values, np.array([True, False]), ring, ordered, seen, ring, seen, 2, 1e-3, 1e-9, 1e12, *out)
    assert seen.tolist() == [0, 4]
    assert not ring[0].any()
    assert np.isnan(out[0][0]).all()
