"""The incremental nearest-neighbour distance equals its definition, and finds what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.detectors.base import Grid
from anomalyd.detectors.kernels.discord import nearest_distance, product, push_sample
from anomalyd.detectors.registry import make_detector
from anomalyd.rule import DetectorSpec


def by_definition(x: np.ndarray, bad: np.ndarray, m: int, reach: int, flat: float, rough: float) -> float:
    """Distance of the last m samples to their nearest earlier subsequence, computed straight."""

    def shape(part: np.ndarray) -> tuple[np.ndarray, float, float]:
        return part - part.mean(), part.std(), np.sqrt((np.diff(part) ** 2).sum() + rough**2)

    newest = len(x) - 1
    mine, deviation, complexity = shape(x[-m:])
    found = np.inf
    for e in range(max(m - 1, newest - reach + m), newest - m + 1):
        if bad[e - m + 1 : e + 1].any():
            continue
        other, spread, bends = shape(x[e - m + 1 : e + 1])
        if spread <= flat or deviation <= flat:
            apart = 0.0 if spread <= flat and deviation <= flat else 0.5
        else:
            apart = max(0.0, 1 - (mine * other).mean() / (spread * deviation))
        found = min(found, np.sqrt(apart) * max(bends, complexity) / min(bends, complexity))
    return found


@pytest.mark.parametrize("m", [4, 11])
def test_equals_the_definition(m: int) -> None:
    """After every sample, through several turns of the ring, with held samples and a flat stretch."""
    rng = np.random.default_rng(m)
    x = np.sin(np.arange(260) / 3) * 5 + rng.normal(size=260) * 0.3
    x[200:225] = x[200]
    bad = np.zeros(260, bool)
    bad[90:95] = True
    tape, dots, held = np.zeros(260), np.zeros(260), bad.astype(np.int8)
    for i in range(260):
        first = max(m - 1, i - 80 + m)
        push_sample(tape, dots, i, first, m, x[i], i % 97 == 0)
        if i < 2 * m:
            continue
        distance = nearest_distance(tape, dots, held, i, first, m, 1e-3, 0.3)
        assert distance == pytest.approx(by_definition(x[: i + 1], bad[: i + 1], m, 80, 1e-3, 0.3), abs=1e-6)


def test_products_do_not_drift() -> None:
    """After ten thousand samples at a high level the products are still those computed anew, within 1e-9."""
    rng = np.random.default_rng(1)
    m, n = 8, 10_000
    tape, dots = np.zeros(n), np.zeros(n)
    for i in range(n):
        push_sample(tape, dots, i, max(m - 1, i - 64), m, 1000 + rng.normal(), False)
    anew = [product(tape, n - 1, e, m) for e in range(n - 40, n)]
    np.testing.assert_allclose(dots[n - 40 :], anew, rtol=1e-9)


def test_no_neighbour_is_not_a_distance() -> None:
    """Where every earlier subsequence was held there is no score."""
    tape, dots, bad = np.zeros(20), np.zeros(20), np.ones(20, np.int8)
    for i in range(20):
        push_sample(tape, dots, i, 3, 4, float(i % 5), False)
    assert np.isnan(nearest_distance(tape, dots, bad, 19, 3, 4, 1e-3, 0.1))


def test_detector_equals_the_kernel_across_turns_of_its_memory() -> None:
    """Fed sample by sample, block by block or at once, the detector's scores are the definition's on its tape."""
    detector = make_detector(DetectorSpec("matrix_profile", {"length": 4, "memory": 40}), Grid(60_000))
    rng = np.random.default_rng(3)
    x = np.sin(np.arange(400) / 4) * 5 + rng.normal(size=400) * 0.2
    block = Block((make_labels({"a": "b"}),), 1_760_054_400_000 + 60_000 * np.arange(400), x[None])
    raw, _ = detector.score(detector.fit(block.window(0, 0), 1), block)
    given = np.flatnonzero(~np.isnan(raw.score[0]))
    assert given[0] == detector.min_history
    pieces, state = [], detector.fit(block.window(0, 0), 1)
    for i in range(0, 400, 7):
        piece, state = detector.score(state, block.window(i, i + 7))
        pieces.append(piece.score)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), raw.score, atol=1e-9)
