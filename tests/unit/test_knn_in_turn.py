"""Two series on their way at a time: ``knn`` says and learns what it does with one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Grid, State
from anomalyd.detectors.registry import make_detector
from anomalyd.rule import DetectorSpec

STEP = 5 * MINUTE_MS
START = 1_760_054_400_000
FITTED, SAMPLES = 30, 400


def recorded(series: int, seed: int) -> np.ndarray:
    """Series of several natures with gaps, jumps of level and huge values; every third one begins late."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(series, SAMPLES))
    values = 10 * np.sin(2 * np.pi * np.arange(SAMPLES) / 96) + noise
    values[1::4] = np.cumsum(noise[1::4], axis=1)
    values[2::4] = 1e6
    values[:, 200:] += rng.choice([0.0, 0.0, 500.0, 1e20], size=(series, 1))
    values[rng.random(values.shape) < 0.05] = np.nan
    values[::3, : FITTED + 60] = np.nan
    return values


@pytest.mark.parametrize("series", [1, 2, 7])
@pytest.mark.parametrize("contexts", [64, 800])
def test_series_in_turn_are_as_one_after_the_other(series: int, contexts: int) -> None:
    """Scores, expectations and states are equal to the bit: held series, gaps, young ones, longer blocks."""
    detector = make_detector(DetectorSpec("knn", {"contexts": contexts}), Grid(STEP))
    labels = tuple(make_labels({"i": str(i)}) for i in range(series))
    values, rng = recorded(series, contexts + series), np.random.default_rng(1)
    whole = Block(labels, START + STEP * np.arange(SAMPLES), values)
    state = detector.fit(whole.window(0, FITTED), 0)
    plain = State({name: array.copy() for name, array in state.arrays.items()}, state.shared, state.as_of)
    at, in_turn = FITTED, 0
    while at < SAMPLES:
        fresh = whole.window(at, min(SAMPLES, at + int(rng.choice([1, 1, 1, 1, 1, 1, 2, 3, 9]))))
        hold = rng.random(series) < 0.1
        in_turn += state.step is not None
        said, state = detector.score(state, fresh, hold)
        meant, after = detector.score(plain, fresh, hold)
        plain = State(after.arrays, after.shared, after.as_of)  # without a past, the next tick begins with a copy
        for one, other in ((said.score, meant.score), (said.expected, meant.expected)):
            np.testing.assert_array_equal(one, other)
        for name, array in plain.arrays.items():
            np.testing.assert_array_equal(state.arrays[name], array, err_msg=name)
        at += len(fresh.times)
    assert in_turn > 100
