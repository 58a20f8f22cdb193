"""``auto`` tells which of its members spoke, in surprise, and nothing it knows changes by that."""

from __future__ import annotations

import numpy as np

from anomalyd.block import Block, make_labels
from anomalyd.detectors.auto import MEMBERS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.kernels import auto as kernel
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec

STEP = 300_000
PAST = 1_500


def series() -> Block:
    """Two series with a daily rhythm; the first ends with a sample far from it."""
    t = np.arange(PAST + 1)
    values = 50 + 10 * np.sin(2 * np.pi * t / 288) + np.random.default_rng(3).normal(size=(2, PAST + 1))
    values[0, -1] += 30
    labels = tuple(make_labels({"i": str(i)}) for i in range(2))
    return Block(labels, 1_760_054_400_000 + STEP * t, values)


def test_each_member_says_how_rare_it_is() -> None:
    """Both residuals speak of the first series at its worst, none of the second; what is missing is not judged."""
    block, model = series(), Model(DetectorSpec("auto"), Grid(STEP))
    state = model.fit(block.window(0, PAST))
    before = {name: array.copy() for name, array in state.arrays.items()}
    fresh = block.window(PAST)
    said = model.opinions(state, fresh)
    assert [(one.name, one.weight) for one in said] == list(MEMBERS)
    assert len(MEMBERS) == kernel.MEMBERS
    loud, calm = (np.array([one.surprise[s, 0] for one in said]) for s in range(2))
    assert loud[[kernel.FORECAST, kernel.SEASON]].min() > 3
    assert calm[[kernel.FORECAST, kernel.SEASON]].max() < 2
    for name, array in state.arrays.items():
        np.testing.assert_array_equal(array, before[name])
    missing = Block(fresh.labels, fresh.times, np.full((2, 1), np.nan))
    assert all(np.isnan(one.surprise).all() for one in model.opinions(state, missing))


def test_vectors_have_no_such_members() -> None:
    """A joint `auto` has other members than these: it names the channels that are furthest from usual instead."""
    block, model = series(), Model(DetectorSpec("auto", {"joint": True}), Grid(STEP))
    state = model.fit(block.window(0, PAST))
    assert model.opinions(state, block.window(PAST)) == ()
