"""Online scoring, held to its word: no score depends on a later sample, however samples are cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from bench._replay import notified
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.block import Block, make_labels
from anomalyd.detectors.auto import Auto, AutoParams
from anomalyd.detectors.base import Grid, State
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec

STEP = 60_000
START = 1_760_054_400_000
GRID = Grid(STEP)
WEEKLY = 4.0
"""Cut of one false alarm a week at a step of a minute."""


def auto(**params: object) -> Auto:
    """The default detector with a short book, so that tests are quick."""
    return Auto(AutoParams(**({"contexts": 256} | params)), GRID)  # type: ignore[arg-type]


def block(values: np.ndarray, start: int = 0) -> Block:
    """Series [N, T] one minute apart."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    return Block(labels, START + STEP * (1 + start + np.arange(values.shape[1], dtype=np.int64)), values)


def wild(series: int, samples: int, seed: int = 0) -> np.ndarray:
    """Rhythm, noise, spikes, shifts, gaps and a flat stretch."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples)
    values = 50 + 10 * np.sin(2 * np.pi * t / 1440) + rng.standard_t(3, size=(series, samples))
    values[:, rng.integers(0, samples, 5)] *= 7
    values[:, samples // 2 :] += 15
    values[:, samples // 3 : samples // 3 + 20] = 50
    values[rng.random((series, samples)) < 0.02] = np.nan
    return values


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 898), st.integers(0, 1000))
def test_cutting_a_series_leaves_earlier_scores_unchanged(cut: int, seed: int) -> None:
    """Scores up to a point are the same whether the series ends there, goes on, or goes on in another block."""
    detector, values = auto(), wild(2, 900, seed)
    empty = detector.fit(block(values[:, :0]), 0)
    whole, pages, _ = detector.signals(empty, block(values))
    head, head_pages, state = detector.signals(empty, block(values[:, :cut]))
    rest, rest_pages, _ = detector.signals(state, block(values[:, cut:], cut))
    np.testing.assert_array_equal(head.score, whole.score[:, :cut])
    np.testing.assert_array_equal(np.concatenate([head.score, rest.score], axis=1), whole.score)
    np.testing.assert_array_equal(np.concatenate([head_pages, rest_pages], axis=1), pages)


@settings(max_examples=8, deadline=None)
@given(st.integers(200, 800), st.floats(-1e9, 1e9))
def test_future_values_cannot_matter(cut: int, other: float) -> None:
    """Whatever comes later, scores, expectations and pages before it stay as they were."""
    detector, values = auto(), wild(1, 900)
    changed = values.copy()
    changed[:, cut:] = other
    empty = detector.fit(block(values[:, :0]), 0)
    a, a_pages, _ = detector.signals(empty, block(values))
    b, b_pages, _ = detector.signals(empty, block(changed))
    np.testing.assert_array_equal(a.score[:, :cut], b.score[:, :cut])
    np.testing.assert_array_equal(a.expected[:, : cut + 1], b.expected[:, : cut + 1])
    np.testing.assert_array_equal(a_pages[:, :cut], b_pages[:, :cut])


@pytest.mark.parametrize("name", ["auto", "mad", "zscore"])
def test_a_model_scores_the_same_in_any_cut(name: str) -> None:
    """Detector and calibration together: one block or many."""
    params = {"contexts": 256} if name == "auto" else {}
    model, values = Model(DetectorSpec(name, params), GRID, 0, auto() if name == "auto" else None), wild(2, 700)
    state = model.fit(block(values[:, :400]))
    whole = model.score(state, block(values[:, 400:], 400), 3.0)[0]
    parts, at = [], 400
    for stop in (401, 402, 450, 700):
        scores, state = model.score(state, block(values[:, at:stop], at), 3.0)
        parts.append(scores.surprise)
        at = stop
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole.surprise)


def test_joint_scores_do_not_depend_on_the_cut_or_the_future() -> None:
    """The channels of one vector, scored in one block or sample by sample."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(6, 800)) + np.sin(np.arange(800) / 20)
    detector = auto(joint=True)
    state = detector.fit(block(values[:, :600]), 0)
    whole = detector.score(state, block(values[:, 600:], 600))[0].score
    values[:, 700:] = 99.0
    at, rows = 600, []
    for stop in (601, 602, 650, 700):
        raw, state = detector.score(state, block(values[:, at:stop], at))
        rows.append(raw.score)
        at = stop
    np.testing.assert_array_equal(np.concatenate(rows, axis=1), whole[:, :100])
    assert detector.score(state, block(values[:, 700:], 700))[0].score.min() > 2 * np.median(whole)


def watch(model: Model, state: State, values: np.ndarray, start: int) -> np.ndarray:
    """Surprise sample by sample, as the daemon does it: a series whose last sample was abnormal is held."""
    surprises, hold = [], np.zeros(1, bool)
    for t in range(values.shape[1]):
        scores, state = model.score(state, block(values[:, t : t + 1], start + t), WEEKLY, hold)
        surprises.append(scores.surprise[0, 0])
        hold = np.array([scores.surprise[0, 0] > WEEKLY])
    return np.array(surprises)


CHANGES = {
    "to zero": (100.0, 0.0),
    "negative gauge": (-100.0, -500.0),
    "outage to one": (100.0, 1.0),
    "doubled": (100.0, 200.0),
}


@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_open_and_stay_open_until_recovery(change: str, noise: float) -> None:
    """A lasting fault is above the cut from its first sample to its last, hours later, and no longer after it."""
    before, during = CHANGES[change]
    rng = np.random.default_rng(4)
    days = 2 * 1440
    history = before + noise * rng.normal(size=(1, days))
    fault = during + noise * rng.normal(size=(1, 240)) * (during != 0)
    after = before + noise * rng.normal(size=(1, 60))
    model = Model(DetectorSpec("auto"), GRID, 0, auto())
    state = model.fit(block(history))
    surprise = watch(model, state, np.concatenate([fault, after], axis=1), days)
    assert (surprise[:240] > WEEKLY).all()
    assert (surprise[245:] <= WEEKLY).all()


def test_a_rhythm_goes_on_while_an_episode_is_open() -> None:
    """Held for a quarter of a day, the expectation follows the day, so the recovery is seen as one."""
    rng = np.random.default_rng(5)
    days, out = 6 * 1440, 360
    t = np.arange(days + out + 120)
    usual = 100 + 40 * np.sin(2 * np.pi * t / 1440) + rng.normal(size=(1, len(t)))
    values = usual.copy()
    values[:, days : days + out] = 0.0
    model = Model(DetectorSpec("auto"), GRID, 0, auto())
    state = model.fit(block(values[:, :days]))
    surprise = watch(model, state, values[:, days:], days)
    assert (surprise[:out] > WEEKLY).all()
    assert (surprise[out + 5 :] <= WEEKLY).mean() > 0.98


def test_a_vanished_series_has_no_score_and_is_known_again() -> None:
    """Missing samples are not judged here (the rule's `missing` does that); the first one back is ordinary."""
    rng = np.random.default_rng(6)
    values = 100 + rng.normal(size=(1, 1500))
    values[:, 1200:1400] = np.nan
    detector = auto()
    raw, _ = detector.score(detector.fit(block(values[:, :1000]), 0), block(values[:, 1000:], 1000))
    assert np.isnan(raw.score[0, 200:400]).all()
    assert np.isfinite(raw.expected[0, 200:400]).all()
    assert (raw.score[0, 400:420] < WEEKLY).all()


def test_what_pages_does_not_depend_on_what_comes_later() -> None:
    """The benchmark's signal of a series that is cut is that of the whole series up to there."""
    rng = np.random.default_rng(8)
    values = 50 + rng.normal(size=2900)  # over a week: in its first one, after an incident, hardly anything is news
    values[2400:2415] += 40
    values[2700:] -= 30
    step = 5 * STEP
    times = block(values[None, :]).times * 5
    whole = notified(times, values, step)
    assert (whole[2400:2402] > 1).any()
    assert (whole[2700:2702] > 1).any()
    assert (whole[2405:2700] == 0).all()
    for stop in (2402, 2660):
        np.testing.assert_array_equal(notified(times[:stop], values[:stop], step), whole[:stop])
