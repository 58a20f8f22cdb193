"""Kernels against plain definitions: discords, peers, oblique planes, a covariance's bound, groups of unequal size."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from anomalyd.block import Block, make_labels
from anomalyd.detectors.base import Grid
from anomalyd.detectors.kernels.baseline import CLIP
from anomalyd.detectors.kernels.discord import nearest_distance, push_sample
from anomalyd.detectors.kernels.eforest import pick_plane
from anomalyd.detectors.kernels.rls import FEATURES, FIRST_FAR, MOST_FAR, MOST_NEAR
from anomalyd.detectors.kernels.siblings import compare, teach_offset
from anomalyd.detectors.model import Model
from anomalyd.detectors.registry import make_detector
from anomalyd.rule import DetectorSpec

STEP = 300_000
START = 1_760_054_400_000


def left_profile(x: np.ndarray, m: int) -> np.ndarray:
    """Distance of each z-normalised subsequence to its nearest earlier one that does not overlap it, by brute force."""
    parts = np.lib.stride_tricks.sliding_window_view(x, m)
    shapes = (parts - parts.mean(axis=1, keepdims=True)) / parts.std(axis=1, keepdims=True)
    apart = np.linalg.norm(shapes[:, None] - shapes[None], axis=2)
    return np.array([apart[i, : i - m + 1].min() if i >= m else np.nan for i in range(len(parts))])


@pytest.mark.parametrize("m", [8, 25])
def test_discords_are_those_of_a_brute_force_search(m: int) -> None:
    """Where roughness makes no difference the distance is the left matrix profile's, and so is the discord found."""
    rng = np.random.default_rng(m)
    x = np.sin(np.arange(400) / 4) * 3 + rng.normal(size=400) * 0.2
    x[300 : 300 + m] = 3.0 - x[300 : 300 + m]  # upside down: nothing like it before
    tape, dots, bad = np.zeros(400), np.zeros(400), np.zeros(400, np.int8)
    found = np.full(400, np.nan)
    for i in range(400):
        push_sample(tape, dots, i, m - 1, m, x[i], i == 0)
        if i >= 2 * m - 1:
            found[i] = nearest_distance(tape, dots, bad, i, m - 1, m, 1e-9, 1e9)
    plain = left_profile(x, m)
    ours = found[m - 1 :]  # ours is named by its last sample
    known = ~np.isnan(plain)
    assert (np.isnan(ours) == ~known).all()
    np.testing.assert_allclose(np.sqrt(2 * m) * ours[known], plain[known], rtol=1e-6, atol=1e-6)
    late = slice(100, None)
    assert np.nanargmax(ours[late]) == np.nanargmax(plain[late])
    assert 300 - m < 100 + np.nanargmax(plain[late]) < 300 + m


def compared(values: np.ndarray, spread: np.ndarray, cluster: bool, share: float, reach: float) -> np.ndarray:
    """Scores [N] of series that are known, with these spreads and no offsets, at one time."""
    n = len(values)
    own = np.zeros((n, 4))
    own[:, 1], own[:, 2] = spread, 1000.0
    score, expected, unit = (np.full((n, 1), np.nan) for _ in range(3))
    compare(
        values[:, None], np.ones(n, bool), own, False, cluster, 3, share, reach, 100.0, 10, np.array([0.0, 1e-9]),
        1e12, score, expected, unit,
    )  # fmt: skip
    return score[:, 0]


@pytest.mark.parametrize("seed", range(10))
def test_peers_by_mad_are_as_defined(seed: int) -> None:
    """The distance from the median over 1.4826 MAD, or over the usual noise where that is larger."""
    rng = np.random.default_rng(seed)
    values, spread = rng.standard_t(2, size=3 + seed * 3), rng.uniform(0.05, 3.0, size=3 + seed * 3)
    middle = np.median(values)
    across = max(1.482602218505602 * np.median(np.abs(values - middle)), np.median(spread))
    np.testing.assert_allclose(compared(values, spread, False, 0.25, 3.0), np.abs(values - middle) / across)


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize("seed", range(8))
def test_peers_by_density_are_those_of_dbscan(seed: int, share: float) -> None:
    """The distance to the nearest of scikit-learn's clusters that are large enough, in units of the usual noise."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 10), rng.normal(12, 1, 4), rng.uniform(-30, 30, 6)])
    spread, reach = np.full(20, 0.5), 3.0
    labels = DBSCAN(eps=reach * 0.5, min_samples=2).fit(values[:, None]).labels_
    least = max(2, int(np.ceil(share * 20)))
    clusters = [values[labels == k] for k in set(labels.tolist()) - {-1} if (labels == k).sum() >= least]
    assert clusters
    apart = [min(max(c.min() - x, x - c.max(), 0.0) for c in clusters) / 0.5 for x in values]
    np.testing.assert_allclose(compared(values, spread, True, share, reach), apart, atol=1e-12)


def test_one_wild_sample_hardly_moves_a_usual_offset() -> None:
    """It counts as a deviation of three spreads, whatever it is."""
    own = np.array([0.5, 2.0, 99.0, 0.0])
    teach_offset(own, 1e9, 1e-9, 1000.0, True)
    assert own[0] == pytest.approx(0.5 + CLIP * 2.0 / 100)


def test_the_covariance_of_a_forecast_keeps_its_bounds() -> None:
    """On the first day nothing is known of yesterday: what that may mean is as open as at the start, and no more so."""
    values = np.random.default_rng(1).normal(size=(1, 280))
    labels = (make_labels({"i": "0"}),)
    detector = make_detector(DetectorSpec("rls"), Grid(STEP))
    state = detector.fit(Block(labels, START + STEP * np.arange(280), values), 0)
    variances = np.diag(state.arrays["spread"].reshape(FEATURES, FEATURES))
    assert (variances[:FIRST_FAR] < MOST_NEAR).all()
    np.testing.assert_allclose(variances[FIRST_FAR:], MOST_FAR, rtol=1e-3)



def test_planes_are_oblique_in_all_directions_through_the_box() -> None:
    """As published: a direction's parts are independent standard normal, the point on the plane uniform in the box."""
    x = np.array([[0.0, 10.0], [4.0, 30.0], [1.0, 20.0]], np.float32)
    rows, state, pool = np.arange(3), np.array([7], np.uint64), np.arange(2)
    features, weights = np.zeros(2, np.int16), np.zeros(2, np.float32)
    directions, means = np.zeros((4_000, 2)), np.zeros(4_000)
    for i in range(len(directions)):
        offset = pick_plane(x, rows, 0, 3, state, pool, features, weights)
        directions[i, features] = weights
        means[i] = offset - weights @ np.where(features == 0, 2.0, 20.0)
    assert np.abs(directions.mean(axis=0)).max() < 0.06
    np.testing.assert_allclose(directions.std(axis=0), 1.0, atol=0.05)
    assert abs(np.corrcoef(directions.T)[0, 1]) < 0.06
    assert means.std() == pytest.approx(np.sqrt((4.0**2 + 20.0**2) / 12), rel=0.06)


def test_neighbours_of_vectors_in_groups_of_unequal_size() -> None:
    """A group of two series and one of five are scored as each would be alone, and the odd time is found in both."""
    rng = np.random.default_rng(9)
    t = np.arange(900)
    wave = 10 * np.sin(2 * np.pi * t / 288)
    values = wave + rng.normal(size=(7, 900))
    values[0, 850] -= 25
    values[4, 870] += 25
    hosts = ["a", "b", "b", "a", "b", "b", "b"]
    labels = tuple(make_labels({"host": host, "i": str(i)}) for i, host in enumerate(hosts))
    block = Block(labels, START + STEP * t, values)

    def scores(rows: list[int]) -> np.ndarray:
        part = Block(tuple(labels[i] for i in rows), block.times, values[rows])
        model = Model(DetectorSpec("knn", {"joint": True}), Grid(STEP, group_by=("host",)))
        found: np.ndarray = model.score(model.fit(part.window(0, 800)), part.window(800), 3.0)[0].raw
        return found

    together = scores(list(range(7)))
    for host, odd in (("a", 50), ("b", 70)):
        rows = [i for i in range(7) if hosts[i] == host]
        np.testing.assert_allclose(together[rows], scores(rows))
        assert (np.argmax(together[rows], axis=1) == odd).all()
