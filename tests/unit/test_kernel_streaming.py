"""Half-Space Trees and ADWIN equal river bit for bit; the shared expectation learns a rhythm and survives spikes."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.baseline import make_baseline
from anomalyd.detectors.half_space_trees import HalfSpaceParams, HalfSpaceTrees, grow_trees
from anomalyd.detectors.kernels.adwin import find_cut, forget, update
from anomalyd.detectors.kernels.baseline import residuals
from anomalyd.detectors.kernels.halfspace import mass_learn, mass_pass, mass_score, turn_window

DAY = 288


@pytest.mark.parametrize(
    ("trees", "height", "window", "features", "seed"), [(10, 8, 250, 1, 0), (25, 8, 100, 2, 7), (3, 4, 20, 3, 42)]
)
def test_half_space_trees_equal_river(trees: int, height: int, window: int, features: int, seed: int) -> None:
    """Trees drawn from a seed, and every score of a stream, are river's own; so is that of a walk that learns."""
    from river.anomaly import HalfSpaceTrees

    stream = np.random.default_rng(seed).beta(2, 5, size=(3 * window + 17, features))
    library = HalfSpaceTrees(n_trees=trees, height=height, window_size=window, seed=seed)
    feature, threshold = grow_trees(trees, height, features, seed)
    nodes = 2 ** (height + 1) - 1
    latest, reference = np.zeros((trees, nodes), np.uint8), np.zeros((trees, nodes), np.uint8)
    for i, x in enumerate(stream):
        named = dict(enumerate(x.tolist()))
        score = mass_score(x, feature, threshold, reference, height, window) if i >= window else 0
        assert score == library.score_one(named)
        library.learn_one(named)
        if i < window or i % 2:
            mass_learn(x, feature, threshold, latest, height)
        else:
            assert mass_pass(x, feature, threshold, latest, reference, height, window) == score
        if (i + 1) % window == 0:
            turn_window(latest, reference)


def test_half_space_trees_end_with_the_spike_although_learning_is_held() -> None:
    """The change of a held series is that from the sample before, not for ever that from the spike."""
    values = np.random.default_rng(5).normal(50, 2, (1, 700))
    values[0, 600] = 90
    block = Block((make_labels({"job": "a"}),), 5 * MINUTE_MS * np.arange(1, 701), values)
    detector = HalfSpaceTrees(HalfSpaceParams(), Grid(5 * MINUTE_MS))
    state = detector.fit(block.window(0, 600), 1)
    spike, state = detector.score(state, block.window(600, 601))
    after, _ = detector.score(state, block.window(601), np.ones(1, np.bool_))
    ordinary, _ = detector.score(detector.fit(block.window(0, 500), 1), block.window(500, 600))
    assert spike.score[0, 0] > ordinary.score.max()
    assert np.median(after.score[0, 2:]) <= np.median(ordinary.score) + 0.05


@pytest.mark.parametrize("clock", [1, 5, 32])
@pytest.mark.parametrize("delta", [0.002, 0.1])
def test_adwin_equals_river(clock: int, delta: float) -> None:
    """Detections, width, total and variance are river's after every sample of streams that drift."""
    from river.drift import ADWIN

    found = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=1200)
        x[400:] += rng.normal() * 2
        x[700:] *= rng.uniform(0.5, 3)
        x[1000:] += rng.normal() * 4
        library = ADWIN(delta=delta, clock=clock)
        totals, variances = np.zeros((24, 6)), np.zeros((24, 6))
        fill, window = np.zeros(25, np.int64), np.zeros(4)
        fill[-1] = 1
        drifted = False
        for value in x:
            if drifted:
                forget(totals, variances, fill, window)
            library.update(value)
            drifted = update(totals, variances, fill, window, value, delta, clock, 5, 5, 10)
            found += drifted
            assert drifted == library.drift_detected
            assert (window[0], window[1], window[2]) == (library.width, library.total, library.variance)
    assert found > 4


def test_adwin_window_that_outgrows_its_rows_forgets_the_oldest() -> None:
    """With room for three rows the window stays bounded and its width is that of the buckets it holds."""
    totals, variances = np.zeros((3, 6)), np.zeros((3, 6))
    fill, window = np.zeros(4, np.int64), np.zeros(4)
    fill[-1] = 1
    for _ in range(500):
        update(totals, variances, fill, window, 1.0, 0.002, 32, 5, 5, 10)
    assert fill[:3].max() <= 6
    assert window[0] == sum(fill[row] * 2**row for row in range(3))
    assert window[1] == totals.sum()


def test_evidence_grows_with_the_shift() -> None:
    """The ratio of a cut that holds two means is above 1 and grows with their distance."""
    ratios = []
    for shift in (0.0, 1.0, 2.0):
        totals, variances = np.zeros((24, 6)), np.zeros((24, 6))
        fill, window = np.zeros(25, np.int64), np.zeros(4)
        fill[-1] = 1
        x = np.random.default_rng(1).normal(size=120)
        x[60:] += shift
        for value in x:
            update(totals, variances, fill, window, value, 0.002, 10_000, 5, 5, 10)
        ratios.append(find_cut(totals, fill, window, 0.002, 5, True))
    assert ratios[0] < 1 < ratios[1] < ratios[2]


def rhythm(days: int, weekend: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Times in civil milliseconds and one series with a day's rhythm and, if asked, lower weekends."""
    t = np.arange(days * DAY)
    values = 100 + 20 * np.sin(2 * np.pi * t / DAY) + np.random.default_rng(2).normal(size=(1, len(t)))
    values[:, (t // DAY) % 7 >= 5] -= weekend
    return t * 300_000, values


def learn(civil: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Standardised residuals of a series against the expectation."""
    baseline = make_baseline(300_000)
    state, out = baseline.arrays(1), np.full(values.shape, np.nan)
    residuals(values, civil, state["line"], state["day"], state["week"], baseline.memories, baseline.floors, out)
    return out[0]


def test_expectation_learns_the_day() -> None:
    """After ten days the residuals of a daily rhythm are the noise, in units of the noise."""
    z = learn(*rhythm(14))[10 * DAY :]
    assert 0.9 < z.std() < 1.3
    assert abs(z.mean()) < 0.2


def test_expectation_learns_the_weekend() -> None:
    """The fourth weekend surprises less than a quarter of what the first did."""
    civil, values = rhythm(28, weekend=15)
    z = np.abs(learn(civil, values))
    assert np.median(z[26 * DAY : 28 * DAY]) < np.median(z[5 * DAY : 5 * DAY + 20]) / 4


def test_spike_hardly_moves_the_expectation() -> None:
    """The residuals an hour after a spike of a thousand spreads are those without it, within a tenth."""
    civil, values = rhythm(10)
    calm = learn(civil, values)
    values[0, 8 * DAY] += 1000
    spiked = learn(civil, values)
    assert spiked[8 * DAY] > 500
    assert np.abs(spiked - calm)[8 * DAY + 12 :].max() < 0.2
