"""What detectors make of their kernels: what the kernels' own tests, which call them by themselves, leave out."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import F64, Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.model import Model
from anomalyd.detectors.registry import make_detector
from anomalyd.detectors.runlength import ewma_limit
from anomalyd.rule import DetectorSpec

STEP = 5 * MINUTE_MS
GRID = Grid(STEP)


def block(values: F64) -> Block:
    """Series five minutes apart."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    return Block(labels, STEP * np.arange(1, values.shape[1] + 1, dtype=np.int64), values)


def lived(name: str, values: F64, **params: object) -> tuple[Raw, State]:
    """What a detector says of series from their first sample on, and its state behind them."""
    detector = make_detector(DetectorSpec(name, params), GRID)
    samples = block(values)
    return detector.score(detector.fit(samples.window(0, 0), 5), samples)


def test_quartiles_that_are_equal_have_a_spread_from_the_rest() -> None:
    """Where three quarters of a window are one value, its mean distance from it is the spread."""
    values = np.zeros((1, 400))
    values[0, ::10] = 7.0
    raw, _ = lived("iqr", values, window=100)
    assert raw.expected[0, 200:].max() == 0
    np.testing.assert_allclose(raw.unit[0, 200:], 0.7, rtol=1e-12)
    np.testing.assert_allclose(raw.score[0, 200::10], 10.0, rtol=1e-12)


def test_a_young_mean_of_residuals_is_held_to_its_own_deviation() -> None:
    """The first score of an EWMA chart is the residual in spreads over the limit, whatever the weight."""
    values = np.random.default_rng(1).normal(size=(4, 60))
    firsts = []
    for weight in (0.05, 0.2, 0.6):
        raw, _ = lived("ewma", values, weight=weight, run_length=1000)
        at = int(np.flatnonzero(~np.isnan(raw.score[0]))[0])
        firsts.append(raw.score[:, at] * ewma_limit(1000.0, weight))
    np.testing.assert_allclose(firsts[1], firsts[0], rtol=1e-9)
    np.testing.assert_allclose(firsts[2], firsts[0], rtol=1e-9)


@pytest.mark.parametrize("window", [50, 250])
def test_a_window_of_trees_holds_so_many_samples(window: int) -> None:
    """Half-space trees score by exactly one full window, whose samples all passed the root of each tree."""
    values = np.random.default_rng(2).normal(size=(3, 4 * window + 7))
    raw, state = lived("half_space_trees", values, window=window)
    assert np.isnan(raw.score[:, :window]).all()
    assert not np.isnan(raw.score[:, window:]).any()
    assert (state.arrays["reference"][:, :, 0] == window).all()
    assert (state.arrays["latest"][:, :, 0] == 7).all()


def test_the_covariance_of_the_forecast_stays_symmetric() -> None:
    """After a million samples, a constant stretch among them, it is symmetric to the bit, positive and bounded."""
    rng = np.random.default_rng(3)
    part = 100 + 20 * np.sin(np.arange(100_000) * 2 * np.pi / 288)
    detector = make_detector(DetectorSpec("rls"), GRID)
    state = detector.fit(block(np.zeros((2, 0))), 0)
    for i in range(10):
        values = np.stack([part + rng.normal(size=len(part)), np.full(len(part), 7.0)])
        values[0, 50_000:60_000] = 100.0
        times = STEP * np.arange(1 + i * len(part), 1 + (i + 1) * len(part), dtype=np.int64)
        raw, state = detector.score(state, Block(block(values).labels, times, values))
    for covariance in state.arrays["spread"]:
        np.testing.assert_array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance.astype(float)).min() > -1e-9 * np.abs(covariance).max()
        assert np.isfinite(covariance).all()
    assert np.median(raw.score[0, -1000:]) < 3
    assert raw.score[1, -1000:].max() == 0


@pytest.mark.parametrize("name", ["isolation_forest", "extended_isolation_forest"])
def test_forests_can_page_at_one_a_week(name: str) -> None:
    """Although scores end at 1, a spike of twelve deviations is rarer than once a week nearly always; noise is not."""
    rng = np.random.default_rng(6)
    t = np.arange(21 * 288)
    values = 100 + 20 * np.sin(2 * np.pi * t / 288) + rng.normal(size=(12, len(t)))
    samples, weekly = block(values), np.log10(7 * 288)
    model = Model(DetectorSpec(name), GRID)
    state = model.fit(samples.window(0, 14 * 288))
    calm = model.score(state, samples.window(14 * 288), weekly)[0].surprise
    assert (calm > weekly).sum() <= 2.5 * 12
    spiked = values[:, 14 * 288 : 15 * 288].copy()
    spiked[:, 100] += 12 * values.std()
    times = samples.times[14 * 288 : 15 * 288]
    surprise = model.score(state, Block(samples.labels, times, spiked), weekly)[0].surprise
    assert (surprise[:, 100] > weekly).mean() >= 0.75
