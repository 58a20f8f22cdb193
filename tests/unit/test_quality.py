"""The measures against scikit-learn, against their definitions written out, and against what must hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, silhouette_samples

from anomalyd import quality
from anomalyd.block import F64, Bool

sizes = st.integers(min_value=4, max_value=60)


def drawn(seed: int, n: int, ties: bool) -> tuple[Bool, F64]:
    """Labels of both classes, and scores with ties or without."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.3
    labels[0], labels[-1] = True, False
    scores = rng.random(n) + labels * rng.random(n)
    return labels, np.round(scores, 1) if ties else scores


@given(seed=st.integers(0, 10_000), n=sizes, ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_ranking_measures_agree_with_scikit_learn(seed: int, n: int, ties: bool) -> None:
    """Average precision and the area under ROC are scikit-learn's, ties included."""
    labels, scores = drawn(seed, n, ties)
    assert quality.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    assert quality.roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_what_is_not_defined_is_nan() -> None:
    """One class only, nothing at all, and too few samples give NaN and no warning."""
    none, some = np.zeros(5, bool), np.arange(5.0)
    assert math.isnan(quality.average_precision(none, some))
    assert math.isnan(quality.roc_auc(~none, some))
    assert math.isnan(quality.vus_pr(none, some, 3))
    assert math.isnan(quality.precision_at_k(none[:0], some[:0], 3))
    assert math.isnan(quality.separation(some, 9.0))
    assert math.isnan(quality.bimodality(some[:3]))
    assert math.isnan(quality.bimodality(np.full(50, 0.1)))
    assert math.isnan(quality.silhouette(some[:, None], none))
    assert math.isnan(quality.rank_correlation(some, np.ones(5)))
    assert math.isnan(quality.doubtful(some[:0], 1.0))


def test_a_score_that_is_missing_is_the_lowest() -> None:
    """NaN at a label costs what the lowest score would cost."""
    labels = np.array([True, False, False, True])
    gone, low = np.array([np.nan, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0, 3.0])
    assert quality.average_precision(labels, gone) == quality.average_precision(labels, low)
    assert quality.vus_pr(labels, gone, 2) == quality.vus_pr(labels, low, 2)


def test_precision_at_k() -> None:
    """The highest k are looked at, and a tie at the end counts by its average."""
    labels = np.array([True, False, True, False])
    assert quality.precision_at_k(labels, np.array([4.0, 3.0, 2.0, 1.0]), 3) == pytest.approx(2 / 3)
    assert quality.precision_at_k(labels, np.array([4.0, 3.0, 3.0, 1.0]), 2) == pytest.approx(1.5 / 2)
    assert quality.precision_at_k(labels, np.ones(4), 99) == pytest.approx(0.5)


def written_out(labels: Bool, scores: F64, width: int) -> float:
    """VUS-PR from its definition, sample by sample and cut by cut."""
    n, events = len(labels), list(zip(*quality.runs(labels), strict=True))
    ranked = sorted(scores, reverse=True)
    levels = min(quality.VUS_LEVELS, n)
    cuts = [ranked[int(k * (n - 1) / (levels - 1))] for k in range(levels)]
    areas = []
    for window in range(width + 1):
        half = window // 2
        soft = [float(label) for label in labels]
        for first, last in events:
            for away in range(1, half + 1):
                for t in (first - away, last + away):
                    if 0 <= t < n:
                        soft[t] = min(1.0, soft[t] + math.sqrt(1 - away / window))
        wide: list[list[int]] = []
        for first, last in events:
            if wide and first - half <= wide[-1][1]:
                wide[-1][1] = last + half
            else:
                wide.append([first - half, last + half])
        area, before = 0.0, 0.0
        for cut in cuts:
            flags = [score >= cut for score in scores]
            true = sum(s for s, flag in zip(soft, flags, strict=True) if flag)
            edge = sum(s for s, flag, hard in zip(soft, flags, labels, strict=True) if flag and not hard)
            touched = sum(any(flags[max(0, a) : b + 1]) for a, b in wide) / len(wide)
            recall = min(1.0, true / (sum(labels) + edge / 2)) * touched
            area += (recall - before) * true / sum(flags)
            before = recall
        areas.append(area)
    return sum(areas) / len(areas)


@given(seed=st.integers(0, 10_000), n=sizes, ties=st.booleans(), width=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_vus_pr_is_its_definition(seed: int, n: int, ties: bool, width: int) -> None:
    """The fast form gives what the definition written out gives, where events touch, meet and lie at an end."""
    labels, scores = drawn(seed, n, ties)
    assert quality.vus_pr(labels, scores, width) == pytest.approx(written_out(labels, scores, width), abs=1e-12)


def test_vus_pr_with_more_samples_than_levels() -> None:
    """Cuts lie at even ranks where there are more samples than cuts."""
    rng = np.random.default_rng(3)
    labels = np.zeros(700, bool)
    labels[100:112] = labels[400:430] = True
    scores = rng.random(700) + 0.5 * labels
    assert quality.vus_pr(labels, scores, 8) == pytest.approx(written_out(labels, scores, 8), abs=1e-12)


def test_vus_pr_forgives_what_is_near() -> None:
    """An alarm just before the label is worth less than one on it, and more than one far away."""
    labels = np.zeros(200, bool)
    labels[100:110] = True

    def at(first: int) -> float:
        scores = np.linspace(0, 0.1, 200)
        scores[first : first + 10] = 1.0
        return quality.vus_pr(labels, scores, 20)

    assert at(100) > at(95) > at(40)


def test_separation_and_doubt() -> None:
    """Two heaps far apart separate; scores spread evenly over the cut do not, and are doubtful."""
    rng = np.random.default_rng(1)
    apart = np.concatenate([rng.random(500), 10 + rng.random(20)])
    even = rng.random(520) * 2
    assert quality.separation(apart, 2.0) > 0.95 > 0.8 > quality.separation(even, 1.0)
    assert quality.doubtful(apart, 5.0) == 0.0
    assert quality.doubtful(even, 1.0) == pytest.approx(1 / 3, abs=0.06)


def test_bimodality_of_known_shapes() -> None:
    """An even and an exponential spread have 5/9, a bell 1/3, and two heaps more than all."""
    rng = np.random.default_rng(2)
    assert quality.bimodality(np.linspace(0, 1, 20_001)) == pytest.approx(5 / 9, abs=0.001)
    assert quality.bimodality(rng.exponential(size=200_000)) == pytest.approx(5 / 9, abs=0.03)
    assert quality.bimodality(rng.normal(size=50_000)) == pytest.approx(1 / 3, abs=0.02)
    assert quality.bimodality(np.concatenate([rng.normal(0, 1, 500), rng.normal(9, 1, 500)])) > 0.8


@given(seed=st.integers(0, 1_000), n=st.integers(2, 30))
@settings(max_examples=25, deadline=None)
def test_silhouette_agrees_with_scikit_learn(seed: int, n: int) -> None:
    """The mean over the flagged points of what scikit-learn gives each sample."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n + 10, 2))
    flagged = np.arange(n + 10) < n
    points[flagged] += 1.0
    expected = silhouette_samples(points, flagged)[flagged].mean()
    assert quality.silhouette(points, flagged) == pytest.approx(expected)


def test_silhouette_of_many_and_of_one() -> None:
    """Of very many points a selection is compared; a single flagged one has no likeness to measure."""
    rng = np.random.default_rng(4)
    points = np.concatenate([rng.normal(0, 1, 9_000), rng.normal(50, 1, 2_000)])[:, None]
    assert quality.silhouette(points, points[:, 0] > 25) > 0.9
    assert quality.silhouette(np.array([[0.0], [9.0]]), np.array([False, True])) == 0.0


def test_rank_correlation_and_overlap() -> None:
    """Order is what counts, gaps are left out, and two that flag nothing agree."""
    one = np.array([1.0, 2.0, 3.0, np.nan, 5.0])
    assert quality.rank_correlation(one, one**3) == pytest.approx(1.0)
    assert quality.rank_correlation(one, -one) == pytest.approx(-1.0)
    assert quality.overlap(np.array([True, True, False]), np.array([True, False, False])) == 0.5
    assert quality.overlap(np.zeros(3, bool), np.zeros(3, bool)) == 1.0


def test_chance_is_the_share_of_labels() -> None:
    """Random scores have an average precision near the share of labels, and half the ROC."""
    labels = np.arange(2_000) % 10 == 0
    assert quality.by_chance(lambda s: quality.average_precision(labels, s), 2_000) == pytest.approx(0.1, abs=0.02)
    assert quality.by_chance(lambda s: quality.roc_auc(labels, s), 2_000) == pytest.approx(0.5, abs=0.03)


def test_f1() -> None:
    """The harmonic mean, 0 where there is nothing."""
    assert quality.f1(0.5, 1.0) == pytest.approx(2 / 3)
    assert quality.f1(0.0, 0.0) == 0.0
