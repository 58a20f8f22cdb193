"""The quick forms of the default detector's kernels equal the plain ones that say what is meant."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.detectors.kernels import boxes as knn_boxes
from anomalyd.detectors.kernels import knn, rls, tail

F32 = np.float32
CONTEXTS, EVERY = 200, 2


def samples(kind: str, seed: int, n: int = 900) -> np.ndarray:
    """Series of several natures, each with spikes; some are flat, some are huge."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n)
    values = {
        "rhythm": 100 + 20 * np.sin(2 * np.pi * np.arange(n) / 96) + noise,
        "walk": np.cumsum(noise),
        "steps": np.repeat(rng.integers(0, 4, n // 60), 60).astype(float)[:n],
        "flat": np.full(n, 3.0),
        "huge": 1e30 * noise,
    }[kind]
    values[rng.integers(100, n, 5)] += 50 * (1 + np.abs(values).max())
    return np.clip(values, -1e30, 1e30)


def far(stored: np.ndarray, unit: float, q: np.ndarray) -> np.float32:
    """The distance of the fifth nearest of all contexts [n, WIDTH], looked at one and all."""
    inverse = F32(1.0 / unit)
    scale = np.array([inverse] * knn_boxes.SCALED + [F32(1)] * (knn_boxes.WIDTH - knn_boxes.SCALED))
    with np.errstate(over="ignore", invalid="ignore"):
        apart = (stored * scale - q * scale) ** 2
        total = apart[:, 0]
        for k in range(1, knn_boxes.WIDTH):
            total = total + apart[:, k]
    total = np.append(total[~np.isnan(total)], [knn.FARTHEST] * knn.NEIGHBOURS)
    return F32(math.sqrt(np.sort(total)[knn.NEIGHBOURS - 1]))


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["rhythm", "walk", "steps", "flat", "huge"]), st.integers(0, 1000))
def test_the_nearest_contexts_are_those_of_looking_at_all(kind: str, seed: int) -> None:
    """Which blocks are opened changes no bit of the distance; boxes and hulls are those around their contexts."""
    book, boxes, hulls, line = (array[0] for array in knn.empty(1, CONTEXTS).values())
    room = book.shape[0] * knn_boxes.BLOCK
    scratch = knn.rooms(CONTEXTS)[1:-1]
    clock = knn.around_clock(2 * np.pi * np.arange(900) / 96)
    q, recent, stored = np.zeros(knn_boxes.WIDTH, F32), np.zeros(12), np.zeros((0, knn_boxes.WIDTH), F32)
    for t, x in enumerate(samples(kind, seed)):
        knn.context(recent, t, x, clock[t, 0], clock[t, 1], q)
        found = knn.nearest(book, boxes, hulls, line, q, *scratch)
        if t >= knn.YOUNG:
            assert found == far(stored, line[knn_boxes.UNIT], q)
        if t % EVERY == 0:
            stored = np.concatenate([stored, q[None]])[-room:]
        knn.note(book, boxes, hulls, line, q, EVERY, np.zeros(room))
        recent = np.concatenate([[x], recent[:-1]])
    for b, block in enumerate(book):
        box = boxes[b % len(boxes), :, :, b // len(boxes)]
        cells = [[knn_boxes.cell_of(line, k, x) for x in block[k]] for k in range(knn_boxes.WIDTH)]
        np.testing.assert_array_equal(box, np.stack([np.min(cells, axis=1), np.max(cells, axis=1)], axis=1))
    for g, group in enumerate(boxes):
        hull = hulls[g // knn_boxes.LANES, :, :, g % knn_boxes.LANES]
        np.testing.assert_array_equal(hull, np.stack([group[:, 0].min(axis=1), group[:, 1].max(axis=1)], axis=1))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 1 << 32), st.sampled_from([0.0, 3.0, -1e6, 1e12, 1e30]),
    st.sampled_from([1e-9, 1e-3, 1.0, 1e6, 1e29]), st.sampled_from([0.1, 1.0, 8.0, 1e3, 1e20]),
)  # fmt: skip
def test_nothing_in_a_box_is_nearer_than_the_box(seed: int, middle: float, unit: float, spread: float) -> None:
    """The bound of a box is below the distance of all it holds as rounded, on the grid and far outside it."""
    rng = np.random.default_rng(seed)
    line, inverse = np.zeros(knn_boxes.LINE), F32(1 / unit)
    line[[knn_boxes.UNIT, knn_boxes.MIDDLE, knn_boxes.STEP]] = unit, middle, unit / knn_boxes.PER_UNIT
    with np.errstate(over="ignore", invalid="ignore"):
        held = middle + unit * spread * rng.normal(size=(knn_boxes.BLOCK, knn_boxes.WIDTH))
        held = np.clip(held, -1e30, 1e30).astype(F32)
        held[:, knn_boxes.SPREAD] = np.abs(held[:, knn_boxes.SPREAD])
        angle = rng.uniform(0, 2 * np.pi) + rng.uniform(0, 1, knn_boxes.BLOCK)
        held[:, knn_boxes.SCALED :] = knn_boxes.RADIUS * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        away = F32(unit * spread) * F32(rng.choice([0, 0.1, 1, 100]))
        q = held[0] + away * rng.normal(size=knn_boxes.WIDTH).astype(F32)
        q = np.clip(q, -1e30, 1e30)
        q[knn_boxes.SCALED :] = knn_boxes.RADIUS * np.array([np.sin(angle[0] + 1), np.cos(angle[0] + 1)])
        box = knn_boxes.around_nothing(1)[0]
        for k in range(knn_boxes.WIDTH):
            knn_boxes.draw_box(line, k, held[:, k].copy(), knn_boxes.BLOCK, box[k], 0)
        aims, bounds = np.zeros((knn_boxes.AIM, knn_boxes.WIDTH), F32), np.zeros(knn_boxes.LANES, F32)
        knn_boxes.aim(line, q, inverse, aims)
        knn_boxes.measure(box, aims, knn.FARTHEST, bounds)
        scale = np.array([inverse] * knn_boxes.SCALED + [F32(1)] * (knn_boxes.WIDTH - knn_boxes.SCALED))
        apart = ((held * scale - q * scale) ** 2).sum(axis=1, dtype=F32)
    assert not (apart < bounds[0]).any()


def test_a_box_that_is_far_stays_closed() -> None:
    """On a daily rhythm few blocks of the book are opened, those of the same time of day on all days; none is empty."""
    book, boxes, hulls, line = (array[0] for array in knn.empty(1, 4032).values())
    scratch = knn.rooms(4032)[1:-1]
    clock = knn.around_clock(2 * np.pi * np.arange(4100) / 288)
    q, recent, opened = np.zeros(knn_boxes.WIDTH, F32), np.zeros(12), []
    values = 100 + 20 * np.sin(2 * np.pi * np.arange(4100) / 288) + np.random.default_rng(1).normal(size=4100)
    for t, x in enumerate(values):
        knn.context(recent, t, x, clock[t, 0], clock[t, 1], q)
        if t >= knn.YOUNG:
            found = knn.look(book, boxes, hulls, line, q, *scratch)
            opened.append(found)
            assert (scratch[-2][:found] * knn_boxes.BLOCK < t).all()
            assert len(set(scratch[-2][:found])) == found
            knn.decide(book, line, q, found, *scratch[2:])
        knn.note(book, boxes, hulls, line, q, 1, np.zeros(4032))
        recent = np.concatenate([[x], recent[:-1]])
    assert max(opened[-288:]) < 0.2 * len(book)
    assert np.mean(opened[-288:]) < 0.1 * len(book)


@settings(deadline=None)
@given(st.lists(st.floats(-1e30, 1e30) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=40))
def test_the_median_is_numpys(values: list[float]) -> None:
    """The middle of the first cells, ties and even numbers included."""
    x = np.array([*values, np.nan])
    assert knn.median(x, len(values)) == np.median(values)
    np.testing.assert_array_equal(np.sort(x[:-1]), np.sort(values))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 3.0), st.integers(64, 2000))
def test_the_weight_above_a_score_is_the_sum_of_all_bins_above_it(seed: int, spread: float, n: int) -> None:
    """What the tail weighs is not added up anew, which is right within the rounding of the bins."""
    rng = np.random.default_rng(seed)
    counts, line = np.zeros(tail.BINS, np.float32), np.zeros(tail.LINE)
    line[tail.ORIGIN], line[tail.INCREMENT] = tail.NO_ORIGIN, 1.0
    for i, s in enumerate(np.exp(spread * rng.normal(size=n))):
        if tail.due(line, 40):
            tail.fit_hill(counts, line, 0.0)
        tail.learn(counts, line, float(s), 1.0001)
        if i < 40:
            continue
        for probe in (0.01, 0.5, 1.0, float(s), 3.0, line[tail.EDGE]):
            position = tail.place(line, probe)
            b = int(position)
            plain = counts[b] * (b + 1 - position) if b else counts[0]
            plain += counts[b + 1 :].sum(dtype=np.float64)
            assert tail.weight_from(counts, line, position) == pytest.approx(plain, rel=1e-6)


def test_all_that_was_counted_lies_below_the_top() -> None:
    """The bins from the top on are empty, and the eight below it are not."""
    for highest in (0, 7, 8, 9, 163, tail.BINS - 1):
        counts = np.zeros(tail.BINS, np.float32)
        counts[[0, highest]] = 1e-3
        top = tail.top_of(counts)
        assert top - tail.PER_OCTAVE <= highest < top


def test_least_squares_without_divisions() -> None:
    """Weights and covariance are those of the textbook's update, sample after sample, and stay symmetric."""
    rng = np.random.default_rng(1)
    width = rls.FEATURES
    weights, cells = np.zeros(width), np.eye(width).ravel() * 0.1
    plain_weights, plain = np.zeros(width), np.eye(width) * 0.1
    line, gain, outer = np.zeros(rls.LINE), np.zeros(width), np.zeros(width * width)
    for _ in range(3000):
        f = np.append(1.0, rng.normal(size=width - 1))
        error = float(f @ np.arange(width) / width - weights @ f + 0.1 * rng.normal())
        rls.adapt(weights, cells, line, f, error, gain, outer)
        g = plain @ f
        below = rls.FORGET + f @ g
        plain_weights += g / below * min(max(error, -rls.CLIP), rls.CLIP)
        plain = (plain - np.outer(g, g) / below) / rls.FORGET
        for a in range(width):
            most = rls.MOST_NEAR if a < rls.FIRST_FAR else rls.MOST_FAR
            if plain[a, a] > most:
                shrink = math.sqrt(most / plain[a, a])
                plain[a, :] *= shrink
                plain[:, a] *= shrink
        spread = cells.reshape(width, width)
        np.testing.assert_array_equal(spread, spread.T)
    np.testing.assert_allclose(weights, plain_weights, rtol=1e-9)
    np.testing.assert_allclose(spread, plain, rtol=1e-9, atol=1e-15)


def test_trust_in_the_spread_has_no_step_where_it_is_not_computed_any_more() -> None:
    """From 20,000 samples on the share of the slow memory that is filled is a constant: the one it had come to."""
    line = np.zeros(rls.LINE)
    line[rls.VARIANCE] = 4.0
    line[rls.SEEN] = rls.OLD - 1
    before = rls.scale_of(line)
    line[rls.SEEN] = rls.OLD
    assert rls.scale_of(line) == pytest.approx(before, rel=1e-11)
    assert rls.scale_of(line) == 2.0 / math.sqrt(1.0 - 0.999**20_000.0)
