"""Packed isolation forests score scikit-learn's trees as it does, and our own forests agree with it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from anomalyd.detectors.isolation_forest import floor32, pack_sklearn
from anomalyd.detectors.kernels.iforest import forest_score, grow_forest, path_length, score_forests
from anomalyd.detectors.kernels.rand import draw, draw_normal, draw_sample


def vectors(n: int = 2000, width: int = 6) -> np.ndarray:
    """Correlated vectors with some outliers."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    x[::97] *= 4
    return np.ascontiguousarray(x, np.float32)


def library(x: np.ndarray, seed: int, trees: int = 100, sample: int = 256) -> object:
    """A fitted scikit-learn forest."""
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=trees, max_samples=sample, random_state=seed).fit(x)


def own_scores(x: np.ndarray, seed: int, trees: int = 100, sample: int = 256) -> np.ndarray:
    """Scores of a forest grown by the kernel."""
    shape = (trees, 2 * sample - 1)
    feature, threshold, right = np.full(shape, -1, np.int16), np.zeros(shape, np.float32), np.zeros(shape, np.int16)
    grow_forest(x, sample, int(np.ceil(np.log2(sample))), seed, feature, threshold, right)
    return np.array([forest_score(row, feature, threshold, right, float(sample)) for row in x])


@pytest.mark.parametrize("sample", [16, 100, 256])
def test_scores_of_sklearns_trees(sample: int) -> None:
    """Packed scoring of the library's own trees differs by less than 1e-12."""
    x = vectors()
    forest = library(x, 3, trees=30, sample=sample)
    packed = pack_sklearn(forest, 2 * sample - 1)
    score = np.full((1, len(x)), np.nan)
    trees = (packed[name][None] for name in ("feature", "threshold", "right"))
    score_forests(x[None], *trees, np.array([sample]), np.ones((1, len(x)), bool), score)
    np.testing.assert_allclose(score[0], -forest.score_samples(x), atol=1e-12, rtol=0)


def test_own_forests_agree_with_sklearn_as_its_seeds_do() -> None:
    """Rank correlation with the library is no lower than between two of the library's seeds, within 0.01."""
    x = vectors()
    first, second = (-library(x, seed).score_samples(x) for seed in (1, 2))
    own = own_scores(x, 11)
    between = spearmanr(first, second).statistic
    assert spearmanr(own, first).statistic > between - 0.01
    assert abs(own.mean() - first.mean()) < 0.01


def test_forest_is_a_function_of_its_seed() -> None:
    """The same seed gives the same scores, another one others."""
    x = vectors(300, 3)
    np.testing.assert_array_equal(own_scores(x, 1, 10, 64), own_scores(x, 1, 10, 64))
    assert (own_scores(x, 1, 10, 64) != own_scores(x, 2, 10, 64)).any()


def test_constant_vectors_make_leaves() -> None:
    """A forest over equal vectors has one leaf a tree and calls everything equally ordinary."""
    x = np.ones((50, 4), np.float32)
    scores = own_scores(x, 1, 5, 32)
    assert np.ptp(scores) == 0


def test_floor32_keeps_the_side() -> None:
    """A float32 value is not above a float64 threshold exactly when it is not above the rounded one."""
    rng = np.random.default_rng(1)
    thresholds = rng.normal(size=1000)
    rounded = floor32(thresholds)
    for x in (rounded, np.nextafter(rounded, np.float32(np.inf)), rng.normal(size=1000).astype(np.float32)):
        np.testing.assert_array_equal(x <= thresholds, x <= rounded)


def test_path_length_equals_sklearn() -> None:
    """The usual depth is the library's."""
    from sklearn.ensemble._iforest import _average_path_length

    n = np.array([0, 1, 2, 3, 10, 256, 10_000])
    np.testing.assert_allclose([path_length(float(v)) for v in n], _average_path_length(n), rtol=1e-15)


def test_random_numbers() -> None:
    """The generator's first numbers are fixed, uniform in [0, 1) with the right moments, and samples do not repeat."""
    state = np.array([7], np.uint64)
    numbers = np.array([draw(state) for _ in range(4000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.02)
    assert numbers.var() == pytest.approx(1 / 12, abs=0.005)
    assert numbers[:2].tolist() == pytest.approx([0.3898297483912715, 0.01678829452815611], abs=1e-15)
    normal = np.array([draw_normal(state) for _ in range(4000)])
    assert normal.std() == pytest.approx(1, abs=0.05)
    pool = np.arange(20)
    draw_sample(state, 20, 15, pool)
    assert sorted(pool.tolist()) == list(range(20))
