"""The interval of a forecast holds its share of outcomes, also of series that wander from sample to sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.forecast import Forecast, ForecastParams
from anomalyd.detectors.kernels.trend import alone, going, solve

STEP = 15 * MINUTE_MS
DAY = DAY_MS // STEP
PAST, AHEAD = 14 * DAY, 4 * DAY
SERIES = 150


def wandering(kept: float, series: int, seed: int) -> np.ndarray:
    """Noise of which so much is kept from sample to sample; all of it is a random walk with steps of a tenth."""
    noise = np.random.default_rng(seed).normal(size=(series, PAST + AHEAD))
    size = 0.1 if kept == 1.0 else math.sqrt(1 - kept * kept)
    walked: np.ndarray = lfilter([size], [1.0, -kept], noise, axis=1)
    return walked


def held(values: np.ndarray, coverage: float) -> tuple[list[float], np.ndarray]:
    """Share of outcomes inside the interval in the last hour of the first and of the fourth day, and its widths."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    data = Block(labels, 1_760_054_400_000 + STEP * np.arange(values.shape[1]), values)
    detector = Forecast(ForecastParams(limit=1e9), Grid(STEP))
    found = detector.forecast(detector.fit(data.window(0, PAST), 1), data.times[PAST:], coverage)
    inside = (values[:, PAST:] >= found.lower) & (values[:, PAST:] <= found.upper)
    return [float(inside[:, end - 4 : end].mean()) for end in (DAY, 4 * DAY)], found.upper - found.lower


@pytest.mark.parametrize("rhythm", [0.0, 10.0], ids=["linear", "seasonal"])
@pytest.mark.parametrize("kept", [0.0, 0.7, 0.95, 1.0], ids=["white", "AR .7", "AR .95", "random walk"])
def test_ninety_five_per_cent_are_nearly_that(kept: float, rhythm: float) -> None:
    """One day and four days ahead the interval of 95 % holds at least 88 %, whatever the noise is."""
    t = np.arange(PAST + AHEAD)
    shares, _ = held(0.01 * t + rhythm * np.sin(2 * np.pi * t / DAY) + wandering(kept, SERIES, 3), 0.95)
    assert min(shares) >= 0.88, shares


def test_an_interval_is_no_wider_than_it_must_be() -> None:
    """Where errors have nothing to do with each other it is that of the noise; a random walk's widens on and on."""
    t = np.arange(PAST + AHEAD)
    _, white = held(0.01 * t + wandering(0.0, 30, 4), 0.95)
    _, walk = held(0.01 * t + wandering(1.0, 30, 4), 0.95)
    assert 3.6 < np.median(white[:, -1]) < 4.8
    assert np.median(walk[:, -1]) > 1.5 * np.median(walk[:, DAY - 1]) > 2 * np.median(walk[:, 3])


@pytest.mark.parametrize("kept", [0.0, 0.8, 0.99])
def test_the_variance_of_a_forecast_is_that_of_its_weights(kept: float) -> None:
    """The closed form equals the sum over all samples' weights and their covariances."""
    samples, ahead = 40.0, 25.0
    q = 1 - 1 / samples
    age = np.arange(1200.0)
    moments = np.array([np.sum(q**age * age**p) for p in range(3)])
    inverse = np.linalg.inv([[moments[0], -moments[1]], [-moments[1], moments[2]]])
    weights = np.array([1.0, ahead]) @ inverse @ (q**age * np.stack([np.ones_like(age), -age]))
    covariance = kept ** np.abs(age[:, None] - age[None, :])
    with_future = kept ** (ahead + age)
    plain = 1 + weights @ covariance @ weights - 2 * weights @ with_future
    assert going(kept, samples, ahead) == pytest.approx(plain, rel=1e-6)


def test_without_anything_that_goes_on_it_is_the_least_squares_one() -> None:
    """The variance of a line through a thousand equal samples is the textbook's."""
    n, ahead = 1000, 200.0
    age = np.arange(float(n))
    fit, answer = np.zeros(16), np.zeros(8)
    fit[:3], fit[8] = (n, age.sum(), (age**2).sum()), n
    solve(fit, answer)
    place = ahead + age.mean()
    plain = 1 + 1 / n + place**2 / np.sum((age - age.mean()) ** 2)
    assert alone(answer, ahead) == pytest.approx(plain, rel=1e-9)
