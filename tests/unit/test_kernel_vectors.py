"""LOF equals scikit-learn; the extended forest shows what its authors published; joint models see combinations."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.detectors.base import Grid
from anomalyd.detectors.kernels.eforest import extended_score, grow_extended
from anomalyd.detectors.kernels.iforest import forest_score, grow_forest
from anomalyd.detectors.kernels.lof import learn_density, score_density
from anomalyd.detectors.registry import make_detector
from anomalyd.errors import DetectorError
from anomalyd.rule import DetectorSpec

SAMPLE, TREES = 256, 100


@pytest.mark.parametrize("k", [1, 5, 20])
def test_lof_equals_sklearn(k: int) -> None:
    """Scores of new vectors differ from the library's by less than 1e-9 relative, duplicates included."""
    from sklearn.neighbors import LocalOutlierFactor

    rng = np.random.default_rng(k)
    kept = rng.normal(size=(300, 4)).astype(np.float32)
    kept[:100] *= 0.1
    fresh = np.concatenate([rng.normal(size=(200, 4)) * 2, kept[:20]]).astype(np.float32)
    library = LocalOutlierFactor(n_neighbors=k, novelty=True, algorithm="kd_tree").fit(kept.astype(float))
    radius, density = np.zeros(300), np.zeros(300)
    learn_density(kept, k, radius, density)
    score, one = np.full((1, len(fresh)), np.nan), np.ones(1, bool)
    model = kept[None], radius[None], density[None], one
    score_density(fresh[None], *model, k, np.ones(score.shape, bool), score)
    np.testing.assert_allclose(score[0], -library.score_samples(fresh.astype(float)), rtol=1e-9)


def standard(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Scores of a standard forest over x at some places."""
    shape = (TREES, 2 * SAMPLE - 1)
    feature, threshold, right = np.full(shape, -1, np.int16), np.zeros(shape, np.float32), np.zeros(shape, np.int16)
    grow_forest(x, SAMPLE, 8, 5, feature, threshold, right)
    return np.array([forest_score(v, feature, threshold, right, float(SAMPLE)) for v in at])


def extended(x: np.ndarray, at: np.ndarray, dimensions: int = 2) -> np.ndarray:
    """Scores of an extended forest over x at some places."""
    shape = (TREES, 511)
    features, weights = np.zeros((*shape, dimensions), np.int16), np.zeros((*shape, dimensions), np.float32)
    offset, right = np.zeros(shape, np.float32), np.full(shape, -1, np.int16)
    grow_extended(x, SAMPLE, 8, 5, features, weights, offset, right)
    return np.array([extended_score(v, features, weights, offset, right, float(SAMPLE)) for v in at])


def test_round_cluster_has_round_scores() -> None:
    """On a ring around a round cluster the extended forest's scores vary with the direction much less."""
    x = np.random.default_rng(1).normal(size=(4000, 2)).astype(np.float32)
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = 3.5 * np.column_stack([np.cos(angle), np.sin(angle)]).astype(np.float32)
    assert extended(x, ring).std() < 0.6 * standard(x, ring).std()


def test_ghosts_are_scored_higher() -> None:
    """Where one cluster's x meets the other's y the extended forest sees more of an anomaly than the standard one."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 2)).astype(np.float32)
    x[::2, 0] += 10
    x[1::2, 1] += 10
    ghosts = (rng.normal(size=(100, 2)) * 0.5).astype(np.float32)
    inside = x[:300]
    gap = [scores(x, ghosts).mean() - scores(x, inside).mean() for scores in (standard, extended)]
    assert gap[1] > gap[0] + 0.03


def test_one_dimension_cuts_along_axes() -> None:
    """With one feature per cut the extended forest is a standard one: scores correlate as two seeds do."""
    x = np.random.default_rng(3).normal(size=(2000, 4)).astype(np.float32)
    assert np.corrcoef(extended(x, x[:500], 1), standard(x, x[:500]))[0, 1] > 0.9


JOINT = ("isolation_forest", "extended_isolation_forest", "lof", "knn", "half_space_trees")


def channels(samples: int = 900) -> Block:
    """Two channels that move together, ordinary alone."""
    rng = np.random.default_rng(4)
    load = rng.normal(size=samples)
    values = np.stack([50 + 10 * load, 5 + load]) + rng.normal(size=(2, samples)) * 0.1
    labels = tuple(make_labels({"channel": name}) for name in ("cpu", "requests"))
    return Block(labels, 1_760_054_400_000 + 60_000 * np.arange(samples), values)


@pytest.mark.parametrize(
    ("name", "found"), [("lof", 1), ("knn", 1), ("extended_isolation_forest", 3), ("isolation_forest", 0)]
)
def test_joint_model_and_a_broken_relation(name: str, found: int) -> None:
    """Channels in their ranges but apart: neighbours rank it first, oblique cuts near the top, cuts along axes miss."""
    block = channels()
    block.values[:, 850] = 64, 3.6
    params: dict[str, object] = {"joint": True} | ({} if name == "knn" else {"calendar": False})
    detector = make_detector(DetectorSpec(name, params), Grid(60_000))
    state = detector.fit(block.window(0, 800), 1)
    raw, _ = detector.score(state, block.window(800))
    np.testing.assert_array_equal(raw.score[0], raw.score[1])
    place = int((raw.score[0] >= raw.score[0, 50]).sum())
    assert place <= found if found else place > 3
    assert abs(raw.expected[0, 50] - 50) < 3
    assert abs(raw.expected[1, 50] - 5) < 0.3


@pytest.mark.parametrize("name", JOINT)
def test_joint_model_with_a_missing_channel(name: str) -> None:
    """A channel without a sample has no score; the others are scored with its last one; other channels are refused."""
    block = channels()
    block.values[1, 820] = np.nan
    detector = make_detector(DetectorSpec(name, {"joint": True}), Grid(60_000))
    state = detector.fit(block.window(0, 800), 1)
    raw, _ = detector.score(state, block.window(800))
    assert np.isnan(raw.score[1, 20])
    assert np.isfinite(raw.score[0, 20])
    with pytest.raises(DetectorError):
        detector.score(state, block.window(800).take([0]))


def test_joint_half_space_trees_see_all_channels() -> None:
    """A time at which three of six calm channels move a little, none of them far, is the emptiest place of the day."""
    rng = np.random.default_rng(3)
    values = 100 + rng.normal(size=(6, 1200))
    values[:3, 1150] += np.array([4.5, -4.5, 4.5])
    labels = tuple(make_labels({"channel": str(i)}) for i in range(6))
    block = Block(labels, 1_760_054_400_000 + 60_000 * np.arange(1200), values)
    detector = make_detector(DetectorSpec("half_space_trees", {"joint": True, "trees": 50}), Grid(60_000))
    raw, after = detector.score(detector.fit(block.window(0, 1000), 1), block.window(1000))
    assert int(np.argmax(raw.score[0])) in (150, 151)
    np.testing.assert_array_equal(raw.score[0], raw.score[5])
    assert after.arrays["latest"].shape[0] == 1
    held, kept = detector.score(after, Block(labels, after.as_of + 60_000 * np.arange(1, 2), values[:, :1]),
                                np.arange(6) == 2)  # fmt: skip
    assert np.isfinite(held.score).all()
    np.testing.assert_array_equal(kept.arrays["latest"], after.arrays["latest"])


def test_joint_half_space_trees_refuse_too_many_channels() -> None:
    """A hundred channels are refused with the number that can be taken."""
    labels = tuple(make_labels({"channel": str(i)}) for i in range(100))
    block = Block(labels, 60_000 * np.arange(1, 5), np.zeros((100, 4)))
    detector = make_detector(DetectorSpec("half_space_trees", {"joint": True}), Grid(60_000))
    with pytest.raises(DetectorError, match="63 channels at most"):
        detector.fit(block, 1)
