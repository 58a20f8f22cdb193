"""Doorkeeper: short-lived series cost no model, no row and no fit; what lasts is let in; nothing found is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.episode import Close
from anomalyd.evaluation.door import FORGET_MS, Door, Terms, knock
from anomalyd.rule import RuleGroup
from anomalyd.stretch import Sheet
from life import HISTORY, RULE, START, Life, M, change, recorded

NAMES = [make_labels({"pod": f"p{i}"}) for i in range(3)]
TERMS = Terms(3)
NAN = float("nan")


def seen(*rows: list[float]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return np.array(rows), np.arange(1, len(rows[0]) + 1, dtype=np.int64) * MINUTE_MS


def test_a_series_is_let_in_the_third_time_it_is_seen() -> None:
    """Gaps between the sightings do not matter; a series seen twice goes on waiting."""
    values, times = seen([1.0, NAN, 1.0, NAN, 1.0], [1.0, 1.0, NAN, NAN, NAN])
    knocked = knock(Door(), NAMES[:2], values, times, TERMS)
    assert (knocked.admitted, len(knocked.door.seen)) == ((0,), 1)
    again = knock(knocked.door, NAMES[1:2], np.array([[1.0]]), times[-1:] + MINUTE_MS, TERMS)
    assert (again.admitted, len(again.door.seen)) == ((0,), 0)


def test_a_slot_is_counted_once() -> None:
    """Columns that were counted before, read again after a fault of the source, add nothing."""
    values, times = seen([1.0, 1.0])
    once = knock(Door(), NAMES[:1], values, times, TERMS)
    twice = knock(once.door, NAMES[:1], values, times, TERMS)
    assert (twice.admitted, dict(twice.door.seen)) == ((), dict(once.door.seen))


def test_a_value_outside_the_valid_range_opens_the_door_at_once() -> None:
    """What is a fault without any past is not made to wait; a value inside the range is."""
    knocked = knock(Door(), NAMES[:2], *seen([500.0], [5.0]), Terms(3, (0.0, 100.0)))
    assert knocked.admitted == (0,)


def test_who_was_away_for_long_begins_anew() -> None:
    """Two sightings, a day of absence, one sighting: that is one."""
    times = np.array([0, MINUTE_MS, MINUTE_MS + FORGET_MS, 2 * MINUTE_MS + FORGET_MS])
    knocked = knock(Door(), NAMES[:1], np.ones((1, 4)), times, TERMS)
    assert knocked.admitted == ()
    assert list(knocked.door.seen.values()) == [(2, int(times[-1]))]


def test_the_door_forgets_and_is_bounded() -> None:
    """Who was not seen for a day is forgotten, and when the room is full the longest unseen makes room."""
    door, small = Door(), replace(TERMS, room=2)
    for i, labels in enumerate(NAMES):
        door = knock(door, [labels], np.array([[1.0]]), np.array([i + 1]), small).door
    assert list(door.seen) == [hash(NAMES[1]), hash(NAMES[2])]
    assert knock(door, [], np.zeros((0, 1)), np.array([FORGET_MS + 3]), TERMS).door.seen == {}


@given(
    st.lists(st.lists(st.sampled_from([NAN, 1.0, 500.0]), min_size=6, max_size=6), min_size=1, max_size=3),
    st.integers(1, 4),
)
def test_slots_one_by_one_are_slots_together(rows: list[list[float]], after: int) -> None:
    """However columns are cut, the same series are let in, in the same slot, and the same wait afterwards."""
    terms = Terms(after, (0.0, 100.0))
    values, times = seen(*rows)
    whole = knock(Door(), NAMES[: len(rows)], values, times, terms)
    door, entered = Door(), dict[int, int]()
    for column in range(values.shape[1]):
        waiting = [i for i in range(len(rows)) if i not in entered]
        one = knock(door, [NAMES[i] for i in waiting], values[waiting, column : column + 1], times[[column]], terms)
        door = one.door
        entered |= {waiting[i]: column for i in one.admitted}
    assert whole.admitted == tuple(sorted(entered))
    assert dict(whole.door.seen) == dict(door.seen)
    stopped = knock(Door(), NAMES[: len(rows)], values, times, terms, stop=True)
    assert stopped.columns == min(entered.values(), default=values.shape[1])


def churning(minutes: int, pods: int) -> Block:
    """Three hosts that stay, and in each minute ``pods`` others that are seen in that minute alone."""
    stable = recorded(minutes=minutes)
    names = tuple(make_labels({"__name__": "load", "host": f"pod-{i}"}) for i in range(minutes * pods))
    values = np.full((len(names), len(stable.times)), np.nan)
    born = HISTORY + np.repeat(np.arange(minutes), pods)
    values[np.arange(len(names)), born] = 10.0
    return Block(stable.labels + names, stable.times, np.concatenate([stable.values, values]))


def test_ten_thousand_series_of_one_slot_leave_no_trace() -> None:
    """State, registry and fits are those of the three series that last; the others are counted while they are there."""
    life = Life(churning(20, 500))
    fitted = []
    for minute in range(20):
        one = life.evaluator.evaluate(life.group, START + minute * M).rules[RULE.id]
        assert one.waiting == 500
        fitted.append(one.memory.fitted_at)
    memory = life.evaluator.runs[RULE.id].memory
    assert memory.state is not None
    assert {len(a) for n, a in memory.state.arrays.items() if n not in memory.state.shared} == {3}
    assert (len(memory.active), len(life.store.series(RULE.id)), len(set(fitted))) == (3, 3, 1)
    assert len(memory.door.seen) == 10_000


def test_churn_beside_an_anomaly_loses_nothing() -> None:
    """The episode of a series that lasts is the same with and without five hundred strangers a minute."""
    spans = []
    for block in (recorded(minutes=60), churning(60, 20)):
        life = Life(change(block, 1, 20, 40, 40.0))
        life.live(0, 60)
        spans.append(life.spans())
    assert spans[0] == spans[1] == [("h1", 22, 42, Close.RECOVERED)]


def test_a_new_series_out_of_range_is_told_as_soon_as_without_a_door() -> None:
    """The door never delays an alert: what needs no past is let in with the sample that shows it."""
    block = change(recorded(), 2, -HISTORY, 20, NAN)
    rule = replace(RULE, valid_range=(0.0, 100.0))
    spans = []
    for admit_after in (1, 3):
        life = Life(change(block, 2, 20, 40, 500.0), replace(rule, admit_after=admit_after))
        life.live(0, 60)
        spans.append(life.spans())
    assert spans[0] == spans[1]
    assert spans[0][0][:2] == ("h2", 22)


def test_a_restart_asks_the_source_who_waited() -> None:
    """A series seen twice before the daemon died is let in at its third slot, as if nothing had been."""
    block = change(recorded(), 2, -HISTORY, 20, NAN)
    life = Life(block)
    life.live(0, 22)
    assert len(life.store.series(RULE.id)) == 2
    again = Life(block, store=life.store)
    again.live(22, 23)
    assert [row.first_seen for row in life.store.series(RULE.id)][2:] == [START + 22 * M]


class Listening:
    """Remembers the kinds and surprises of all that a backtest saw."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], tuple[float, int]] = {}

    def saw(self, sheet: Sheet) -> None:
        for column, at in enumerate(sheet.times.tolist()):
            for i, row in enumerate(sheet.series.tolist()):
                said = float(np.nan_to_num(sheet.surprise[i, column], nan=-1.0)), int(sheet.kind[i, column])
                self.seen[at, row] = said

    def committed(self, at: int, owed: int) -> None:
        """Nothing is delivered here."""


def test_a_backtest_lets_in_whom_the_daemon_lets_in() -> None:
    """Many slots at once give the scores of slot by slot, with strangers that come, go, return and stay."""
    block = churning(90, 2)
    block = change(change(block, 2, -HISTORY, 20, NAN), 1, 40, 60, NAN)
    slots = Life(block)
    slots.live(0, 90)
    once, listening, at = Life(block), Listening(), START
    while at < START + 90 * M:
        at = once.evaluator.live(RuleGroup("g", M, (RULE,)), at, START + 89 * M, listening)
    expected = {
        (o.at, row): (float(np.nan_to_num(o.surprise[i], nan=-1.0)), int(o.verdicts.kind[i]))
        for o in slots.store.scores(RULE.id, START, START + 90 * M)
        for i, row in enumerate(o.series.tolist())
    }
    assert listening.seen.keys() == expected.keys()
    for key, (surprise, kind) in expected.items():
        assert listening.seen[key] == (pytest.approx(surprise, rel=1e-6), kind)
    doors = [life.evaluator.runs[RULE.id].memory.door for life in (slots, once)]
    assert dict(doors[0].seen) == dict(doors[1].seen)


def test_the_state_shrinks_when_series_vanish() -> None:
    """A day after a host is gone its part of the state is gone too, and its row stays for its return."""
    block = recorded(minutes=26 * 60)
    life = Life(change(block, 2, 30, 26 * 60, NAN))
    group, at, witness = RuleGroup("g", M, (RULE,)), START, Listening()
    sizes = set()
    while at < START + 26 * 60 * M:
        at = life.evaluator.live(group, at, START + (26 * 60 - 1) * M, witness)
        memory = life.evaluator.runs[RULE.id].memory
        assert memory.state is not None
        sizes.add(sum(a.nbytes for n, a in memory.state.arrays.items() if n not in memory.state.shared))
    large, small = max(sizes), min(sizes)
    assert small * 3 == large * 2, "two series of three are left"
    assert (len(life.evaluator.runs[RULE.id].memory.active), len(life.store.series(RULE.id))) == (2, 3)


def test_a_pod_label_that_is_dropped_makes_one_series_of_many_pods() -> None:
    """A new pod name every ten minutes: one row, one model, no fit, and the spike is found across names."""
    times = START + np.arange(-HISTORY, 120) * M
    line = 10 + np.random.default_rng(1).normal(size=len(times))
    line[HISTORY + 60 : HISTORY + 80] = 40.0
    names = [f"api-{i}" for i in range(-(-len(times) // 10))]
    labels = tuple(make_labels({"__name__": "load", "host": "h0", "pod": name}) for name in names)
    values = np.full((len(names), len(times)), np.nan)
    values[np.arange(len(times)) // 10, np.arange(len(times))] = line
    life = Life(Block(labels, times, values), replace(RULE, drop_labels=("pod",)))
    life.live(0, 120)
    assert life.spans() == [("h0", 62, 82, Close.RECOVERED)]
    assert len(life.store.series(RULE.id)) == 1
