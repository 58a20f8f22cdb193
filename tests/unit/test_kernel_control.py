"""Rolling z and quartiles equal numpy; control limits hold the run lengths they promise."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.detectors.baseline import make_baseline
from anomalyd.detectors.kernels.control import chart, rolling_quartiles, rolling_z
from anomalyd.detectors.runlength import cusum_limit, cusum_run_length, ewma_limit, ewma_run_length


def answers(shape: tuple[int, int]) -> list[np.ndarray]:
    """Room for score, expected and unit."""
    return [np.full(shape, np.nan) for _ in range(3)]


def test_rolling_z_equals_numpy() -> None:
    """Where nothing is trimmed the score is numpy's z of the window before the sample."""
    values = np.random.default_rng(1).uniform(-1, 1, size=(1, 300))
    size, (score, expected, unit) = 50, answers((1, 300))
    state = np.zeros((1, size)), np.zeros(1, np.int64)
    rolling_z(values, np.zeros(1, bool), *state, *state, 5, 0, 1e-9, 1e12, score, expected, unit)
    for t in range(5, 300):
        window = values[0, max(0, t - size) : t]
        assert expected[0, t] == pytest.approx(window.mean(), abs=1e-13)
        assert unit[0, t] == pytest.approx(window.std(), rel=1e-12)
        assert score[0, t] == pytest.approx(abs(values[0, t] - window.mean()) / window.std(), rel=1e-9)


def test_a_wild_value_enters_trimmed() -> None:
    """After one value of 1e9 the window's mean moves by no more than four deviations over its length."""
    values = np.random.default_rng(1).normal(size=(1, 100))
    values[0, 80] = 1e9
    score, expected, unit = answers((1, 100))
    state = np.zeros((1, 60)), np.zeros(1, np.int64)
    rolling_z(values, np.zeros(1, bool), *state, *state, 5, 0, 1e-9, 1e12, score, expected, unit)
    assert score[0, 80] > 1e8
    assert abs(expected[0, 81] - expected[0, 80]) < 0.2


def test_rolling_quartiles_equal_numpy() -> None:
    """The box is numpy's quartiles of the window before the sample."""
    values = np.random.default_rng(2).exponential(size=(1, 200))
    size, (score, expected, unit) = 40, answers((1, 200))
    ring, ordered, seen = np.zeros((1, size)), np.zeros((1, size)), np.zeros(1, np.int64)
    free, room = np.zeros(1, bool), (score, expected, unit)
    rolling_quartiles(values, free, ring, ordered, seen, ring, seen, 5, 0, 1e-9, 1e12, *room)
    for t in range(5, 200):
        low, high = np.quantile(values[0, max(0, t - size) : t], (0.25, 0.75))
        assert expected[0, t] == pytest.approx((low + high) / 2, rel=1e-12)
        assert unit[0, t] == pytest.approx(high - low, rel=1e-12)
        assert score[0, t] == pytest.approx(abs(values[0, t] - (low + high) / 2) / (high - low), rel=1e-9)


@pytest.mark.parametrize(("limit", "weight", "published"), [(2.814, 0.1, 500), (2.962, 0.2, 500), (2.998, 0.25, 500)])
def test_ewma_run_lengths_are_the_published_ones(limit: float, weight: float, published: float) -> None:
    """Lucas and Saccucci's table (1990) within 1 %."""
    assert ewma_run_length(limit, weight) == pytest.approx(published, rel=0.01)
    assert ewma_limit(float(published), weight) == pytest.approx(limit, abs=0.01)


def test_cusum_run_length_is_the_published_one() -> None:
    """Allowance 0.5 and limit 5 give the textbook's 465 samples (Montgomery) within 2 %."""
    assert cusum_run_length(5, 0.5) == pytest.approx(465, rel=0.02)
    assert cusum_limit(465.0, 0.5) == pytest.approx(5, abs=0.02)


@pytest.mark.parametrize("cumulative", [False, True])
def test_charts_alarm_as_seldom_as_promised_and_find_a_shift(cumulative: bool) -> None:
    """On noise with a known expectation scores pass 1 about once a run length; a shift of 1.5 is found within 40."""
    baseline = make_baseline(60_000)
    n, samples = 40, 3000
    values = np.random.default_rng(3).normal(size=(n, samples))
    values[:, 2800:] += 1.5
    state = baseline.arrays(n)
    state["line"][:] = (0.0, 1.0, 1e9, 0.0)  # a level and a spread so sure that nothing moves them
    memories = np.array([1e12, 1e-12, 1e12, 1e12, 1e12])
    weight, limit = (0.5, cusum_limit(300.0, 0.5)) if cumulative else (0.2, ewma_limit(300.0, 0.2))
    score, expected, _ = answers(values.shape)
    chart(
        values,
        np.arange(samples) * 60_000,
        np.zeros(n, bool),
        state["line"],
        state["day"],
        state["week"],
        memories,
        baseline.floors,
        np.zeros((n, 3)),
        cumulative,
        weight,
        limit,
        30,
        8.0,
        score,
        expected,
    )
    score = np.abs(score)
    above = score[:, :2800] > 1
    begins = (above[:, 1:] & ~above[:, :-1]).sum()
    assert 0.5 < begins / (n * 2800 / 300) < 2.5
    assert (score[:, 2800:2840] > 1).any(axis=1).mean() > 0.95
