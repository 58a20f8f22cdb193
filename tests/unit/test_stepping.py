"""Tests of moving states on without copying: nobody can tell it from copying, and it does not copy."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Detector, Grid, Raw, State
from anomalyd.detectors.model import Model
from anomalyd.detectors.registry import make_detector
from anomalyd.detectors.stepping import with_rows_changed
from anomalyd.evaluation.memory import empty_memory
from anomalyd.evaluation.rulerun import RESTS_MS, rested
from anomalyd.rule import DetectorSpec, Rule
from life import Life, change, recorded

STEP = 5 * MINUTE_MS
START = 1_760_054_400_000
SERIES = 3
NAMES = (
    "zscore", "mad", "iqr", "ewma", "cusum", "seasonal", "rls", "extreme", "knn", "matrix_profile", "forecast", "auto",
    "half_space_trees", "adwin", "ensemble",
)  # fmt: skip
PARAMS: dict[str, dict[str, object]] = {
    "zscore": {"window": 12, "warm_up": 4},
    "mad": {"window": 12, "warm_up": 4},
    "iqr": {"window": 3, "warm_up": 3},
    "knn": {"contexts": 64},
    "auto": {"contexts": 64, "warm_up": 60},
    "half_space_trees": {"window": 20},
    "ensemble": {"members": [{"type": "rls"}, {"type": "mad", "params": {"window": 12}}]},
    "matrix_profile": {"length": 4, "memory": 40},
    "forecast": {"limit": 200.0},
}
every = pytest.mark.parametrize("name", NAMES)


def block(first: int, values: np.ndarray) -> Block:
    """Samples [SERIES, T] from the place ``first`` of the grid on."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    return Block(labels, START + STEP * (first + np.arange(values.shape[1])), values)


@cache
def fitted(name: str) -> tuple[Detector, State]:
    """A detector after sixty samples."""
    detector = make_detector(DetectorSpec(name, PARAMS.get(name, {})), Grid(STEP))
    values = np.random.default_rng(1).normal(100, 5, size=(SERIES, 60))
    return detector, detector.fit(block(0, values), 0)


def forgotten(state: State) -> State:
    """An equal state of its own, without a past."""
    return State({name: array.copy() for name, array in state.arrays.items()}, state.shared, state.as_of)


def same(a: State, b: State) -> None:
    """Fail unless two states are equal."""
    assert a.as_of == b.as_of
    for name, array in a.arrays.items():
        np.testing.assert_array_equal(array, b.arrays[name], err_msg=name)


def place(state: State) -> int:
    """Where on the grid the sample after a state lies."""
    return (state.as_of - START) // STEP + 1


SAMPLE = st.one_of(st.just(float("nan")), st.floats(-1e3, 1e3))
TICK = st.tuples(
    st.integers(0, 5),  # which of the states that are kept is scored
    st.booleans(),  # whether it is forgotten then
    st.lists(st.lists(SAMPLE, min_size=SERIES, max_size=SERIES), min_size=1, max_size=6),
    st.lists(st.booleans(), min_size=SERIES, max_size=SERIES),
)


@every
@settings(max_examples=15)
@given(ticks=st.lists(TICK, min_size=2, max_size=14))
def test_as_if_copied(name: str, ticks: list[tuple[int, bool, list[list[float]], list[bool]]]) -> None:
    """However states are kept, dropped and scored again, each is what a state made by copies would be."""
    detector, first = fitted(name)
    kept = [(forgotten(first), forgotten(first))]
    for which, drop, columns, hold in ticks:
        at = which % len(kept)
        state, twin = kept[at]
        fresh, held = block(place(state), np.array(columns).T.copy()), np.array(hold)
        raw, after = detector.score(state, fresh, held)
        expected, twin_after = detector.score(forgotten(twin), fresh, held)
        np.testing.assert_array_equal(raw.score, expected.score)
        np.testing.assert_array_equal(raw.expected, expected.expected)
        np.testing.assert_array_equal(raw.unit, expected.unit)
        kept.append((after, forgotten(twin_after)))
        if drop or len(kept) > 6:
            del kept[at if drop else 0]
        del state, twin, after, twin_after
    for state, twin in kept:
        same(state, twin)


def walk(detector: Detector, state: State, ticks: int) -> State:
    """The state some ticks later."""
    values = np.random.default_rng(7).normal(100, 5, size=(SERIES, ticks))
    for i in range(ticks):
        state = detector.score(state, block(place(state), values[:, i : i + 1]))[1]
    return state


@every
def test_arrays_are_used_again(name: str) -> None:
    """In a daemon's life - one state after the other - two sets of arrays take turns, and none is made anew."""
    detector, first = fitted(name)
    state = walk(detector, forgotten(first), 3)
    seen = []
    for _ in range(4):
        state = walk(detector, state, 1)
        own = {key: array for key, array in state.arrays.items() if key not in state.shared and ".c." not in key}
        seen.append({key: weakref.ref(array) for key, array in own.items()})
        gc.collect()
        del own
    for key, first_set in seen[0].items():
        assert first_set() is seen[2][key]() is not None, key
        assert seen[1][key]() is seen[3][key]() is not None, key
        assert first_set() is not seen[1][key](), key


@every
def test_a_kept_slice_is_safe(name: str) -> None:
    """Whoever keeps an array of an old state, or a view into one, keeps it as it was."""
    detector, first = fitted(name)
    state = walk(detector, forgotten(first), 2)
    views = {key: array[1:] for key, array in state.arrays.items()}
    before = {key: view.copy() for key, view in views.items()}
    walk(detector, walk(detector, state, 1), 5)
    del state
    for key, view in views.items():
        np.testing.assert_array_equal(view, before[key], err_msg=key)


def test_series_changed_from_outside() -> None:
    """Series that were given other cells than the block taught keep those when the block is learned again."""
    detector, first = fitted("ewma")
    state, copy = walk(detector, forgotten(first), 2), walk(detector, forgotten(first), 2)
    rows = np.array([1])
    for _ in range(5):
        value = np.full((SERIES, 1), 117.0)
        raw, after = detector.score(state, block(place(state), value))
        after.arrays["line"][rows] = state.arrays["line"][rows]
        state = with_rows_changed(State(after.arrays, after.shared, after.as_of), after.step, rows)
        assert isinstance(raw, Raw)
        del after
        end = detector.score(forgotten(copy), block(place(copy), value))[1]
        end.arrays["line"][rows] = copy.arrays["line"][rows]
        copy = end
    same(state, copy)


def test_a_state_that_travels_has_no_past() -> None:
    """A state copied or sent to another process is its arrays and its time, and goes on from there."""
    detector, first = fitted("rls")
    state = walk(detector, forgotten(first), 3)
    back = copy.deepcopy(state)
    assert back.step is None
    assert state.take([0]).step is None
    same(walk(detector, back, 2), walk(detector, state, 2))


def test_a_model_passes_it_on() -> None:
    """Behind its calibration too a detector's arrays take turns."""
    model = Model(DetectorSpec("seasonal", {}), Grid(STEP))
    values = np.random.default_rng(1).normal(100, 5, size=(SERIES, 60))
    state = model.fit(block(0, values))
    seen = []
    for i in range(6):
        state = model.score(state, block(60 + i, values[:, i : i + 1]), 3.0)[1]
        seen.append(weakref.ref(state.arrays["d.profile"]))
    assert seen[2]() is seen[4]() is not None
    assert seen[3]() is seen[5]() is not None


def test_between_slots_a_daemon_has_what_it_learned_once() -> None:
    """Slot after slot, and with an episode open, only the newest of a rule's learned arrays are there."""
    life = Life(change(recorded(), 1, 40, 60, 30.0))
    life.live(0, 30)
    seen = []
    for minute in range(30, 70):
        life.live(minute, minute + 1)
        state = life.evaluator.runs[life.rule.id].memory.state
        assert state is not None
        seen.append(weakref.ref(state.arrays["d.ring"]))
        del state
    gc.collect()
    assert [one() is not None for one in seen] == [False] * 39 + [True]
    assert life.spans(), "an episode was open meanwhile"


def test_a_rule_of_short_slots_keeps_what_spares_it_the_copy() -> None:
    """Where slots follow within seconds the two sets of arrays take turns; elsewhere the older one is let go."""
    model = Model(DetectorSpec("mad", PARAMS["mad"]), Grid(STEP))
    values = np.random.default_rng(1).normal(100, 5, size=(SERIES, 61))
    state = model.score(model.fit(block(0, values[:, :60])), block(60, values[:, 60:]), 3.0)[1]
    assert state.step is not None
    memory = replace(empty_memory("r"), state=state)
    assert rested(Rule("r", "g", "x", interval_ms=RESTS_MS - 1), memory) is memory
    after = rested(Rule("r", "g", "x", interval_ms=RESTS_MS), memory).state
    assert after is not None
    assert (after.step, after.as_of, after.shared) == (None, state.as_of, state.shared)
    assert all(after.arrays[name] is array for name, array in state.arrays.items())
