"""Learned states survive the daemon: what follows a restart is what would have followed without one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anomalyd.block import Block
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Grid, State
from anomalyd.detectors.registry import make_detector
from anomalyd.errors import SourceUnavailable, StoreError
from anomalyd.evaluation.snapshot import HEAD, forget_gone
from anomalyd.records import SnapshotPolicy
from anomalyd.rule import DetectorSpec, Rule
from anomalyd.score import Observation
from anomalyd.store import Store, open_store
from life import HISTORY, RULE, START, Life, M, change, hosts, recorded

EVERY = SnapshotPolicy(10 * MINUTE_MS)
NAN = float("nan")
EMA: Rule = replace(RULE, detector=DetectorSpec("rls", {}))
"""A detector whose state depends on every sample since its first, so that a fit cannot hide a slot that was lost."""


def eventful(born: int = 41) -> Block:
    """An episode that closes, one that stays open, a series that comes late, one that goes."""
    block = change(change(recorded(5, 240), 1, 33, 38, 40.0), 0, 52, 130, 25.0)
    return change(change(block, 2, -HISTORY, born, NAN), 3, 55, 240, NAN)


def scores(life: Life, first: int, stop: int) -> list[Observation]:
    return life.store.scores(RULE.id, START + first * M, START + stop * M)


def assert_same(ours: list[Observation], theirs: list[Observation]) -> None:
    assert [o.at for o in ours] == [o.at for o in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.series, b.series)
        np.testing.assert_array_equal(a.surprise, b.surprise)
        np.testing.assert_array_equal(a.verdicts.kind, b.verdicts.kind)


def fits(life: Life) -> int:
    """How often the history was read: ranges longer than a catch-up."""
    return len({slot.model for slot in life.store.rule_slots(RULE.id, START, START + 300 * M) if slot.model})


@pytest.mark.parametrize("learn", ["normal_only", "all"])
@pytest.mark.parametrize("detector", ["rls", "mad", "half_space_trees", "auto"])
def test_a_daemon_killed_at_any_slot_goes_on_with_the_same_scores(detector: str, learn: Any) -> None:
    """Killed right after a snapshot, long after it, within an episode: as one that never stopped, without a fit."""
    rule = replace(RULE, detector=DetectorSpec(detector, {}), learn=learn, dont_learn=())
    block = eventful()
    never = Life(block, rule, snapshots=EVERY)
    never.live(0, 90)
    killed = Life(block, rule, snapshots=EVERY)
    for first, stop in ((0, 37), (37, 40), (40, 61), (61, 64), (64, 90)):
        killed.evaluator = killed.born()
        killed.live(first, stop)
    assert_same(scores(killed, 0, 90), scores(never, 0, 90))
    assert (killed.spans(), killed.told()) == (never.spans(), never.told())
    assert fits(killed) == fits(never)


def test_slots_missed_meanwhile_are_lived_through_from_the_snapshot() -> None:
    """Killed at minute 37 and back at minute 70: the snapshot, what was evaluated, then what nobody has seen."""
    block = eventful(born=10)
    never, killed = Life(block, EMA, snapshots=EVERY), Life(block, EMA, snapshots=EVERY)
    never.live(0, 75)
    killed.live(0, 37)
    killed.evaluator = killed.born()
    killed.live(70, 75)
    assert_same(scores(killed, 70, 75), scores(never, 70, 75))


def test_a_source_that_is_down_at_the_start_loses_no_snapshot() -> None:
    """While the source does not answer the rule holds; with its first answer the state is there again."""
    block = eventful(born=10)
    never, killed = Life(block, EMA, snapshots=EVERY), Life(block, EMA, snapshots=EVERY)
    never.live(0, 60)
    killed.live(0, 37)
    killed.evaluator = killed.born()
    killed.source.down = set(range(37, 45))
    killed.live(37, 60)
    assert_same(scores(killed, 46, 60), scores(never, 46, 60))
    assert fits(killed) == fits(never)


def overwrite(store: Store, version: str, **change: Any) -> None:
    row = store.model(RULE.id, version)
    assert row is not None
    fresh = replace(row, **change)
    store.save_model(fresh.rule, fresh.version, fresh.meta_json, fresh.blob, at=fresh.at)


def part_of(store: Store) -> str:
    head = store.model(RULE.id, HEAD)
    assert head is not None
    return f"{HEAD}/{head.at}/0"


@pytest.mark.parametrize(("harm", "cause"), [
    (lambda store: overwrite(store, part_of(store), blob=b"\x00" * 100), "damaged"),
    (lambda store: store.drop_models(RULE.id, f"{HEAD}/"), "missing"),
    (lambda store: overwrite(store, HEAD, meta_json="{"), "its head cannot be read"),
    (lambda store: overwrite(store, HEAD, meta_json='{"format": 99}'), "another format"),
    (lambda store: overwrite(store, HEAD, meta_json='{"format": 1, "parts": [], "relearn": []}'), "cannot be read"),
])  # fmt: skip
def test_a_damaged_snapshot_is_said_ignored_and_replaced(
    harm: Any, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule is fitted anew, as after a start without a snapshot, and the next snapshot is whole."""
    life = Life(recorded(), EMA, snapshots=EVERY)
    life.live(0, 15)
    harm(life.store)
    life.evaluator = life.born()
    life.live(15, 20)
    assert fits(life) == 2
    assert cause in capsys.readouterr().out
    life.evaluator = life.born()
    life.live(20, 22)
    assert fits(life) == 2, "the snapshot taken after the fit is used"


def test_a_rule_that_has_changed_learns_anew() -> None:
    """A snapshot of another detector, of another code or of a rule with another history is none of ours."""
    life = Life(recorded(), EMA, snapshots=EVERY)
    life.live(0, 15)
    life.rule = replace(EMA, seed=7)
    life.evaluator = life.born()
    life.live(15, 16)
    state = life.evaluator.runs[RULE.id].memory.state
    assert state is not None
    assert fits(life) == 2


def test_a_snapshot_of_other_code_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    """An update that changes what a state means, of a rule that has not changed at all, learns anew."""
    life = Life(recorded(), EMA, snapshots=EVERY)
    life.live(0, 15)
    head = life.store.model(RULE.id, HEAD)
    assert head is not None
    meta = json.loads(head.meta_json) | {"code": "of another release"}
    life.store.save_model(RULE.id, HEAD, json.dumps(meta), b"", at=head.at)
    life.evaluator = life.born()
    life.live(15, 16)
    assert fits(life) == 2
    assert "anomalyd has changed since" in capsys.readouterr().out


def test_a_snapshot_that_is_too_old_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond what is caught up with, history is read anew, and the log says so."""
    life = Life(recorded(minutes=600), EMA, snapshots=EVERY)
    life.live(0, 15)
    life.evaluator = life.born()
    life.live(500, 501)
    assert life.evaluator.runs[RULE.id].memory.fitted_at == START + 499 * M
    assert "minutes old" in capsys.readouterr().out


def test_snapshots_come_after_a_fit_then_every_ten_minutes_and_replace_each_other() -> None:
    """One head and the parts it names; a rule that goes takes its snapshot along, also while nobody looks."""
    life = Life(recorded(), EMA, snapshots=EVERY)
    at = []
    for minute in range(25):
        life.live(minute, minute + 1)
        head = life.store.model(RULE.id, HEAD)
        assert head is not None
        at.append((head.at - START) // M)
    assert at == [0] * 10 + [10] * 10 + [20] * 5
    assert life.store.model(RULE.id, f"{HEAD}/{START + 10 * M}/0") is None
    forget_gone(life.store, [RULE.id], START)
    assert life.store.rules_with_model(HEAD) == [RULE.id]
    forget_gone(life.store, [], START)
    assert life.store.model(RULE.id) is None
    life.live(25, 45)
    life.evaluator.remove(RULE.id, START + 45 * M)
    assert life.store.model(RULE.id) is None


def test_a_daemon_that_stops_keeps_its_newest_state() -> None:
    """After a clean stop nothing has to be read again but the slots to come."""
    life = Life(eventful(), EMA, snapshots=EVERY)
    life.live(0, 17)
    life.evaluator.snapshots.finish(life.evaluator.runs.values())
    head = life.store.model(RULE.id, HEAD)
    assert head is not None
    assert head.at == START + 16 * M
    life.evaluator = life.born()
    asked = len(life.source.asked)
    life.live(17, 18)
    assert [kind for kind, _ in life.source.asked[asked:]] == ["range"], "one look at the door, no history"


class Full:
    """A store on a disk that has room for so many more parts of snapshots."""

    def __init__(self, inner: Store):
        self.inner, self.room, self.refused = inner, 1_000_000, 0

    def save_model(self, *facts: Any, **more: Any) -> None:
        if not self.room:
            self.refused += 1
            raise StoreError("full", "database or disk is full")
        self.room -= 1
        self.inner.save_model(*facts, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_disk_that_is_full_costs_a_snapshot_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """The last whole snapshot stays, half-written ones leave nothing, it is said and tried again once a minute."""
    store: Any = Full(open_store("sqlite://"))
    life = Life(recorded(5), EMA, store, snapshots=replace(EVERY, part_bytes=1))
    life.live(0, 8)
    store.room = 2
    life.live(8, 15)
    head = store.model(RULE.id, HEAD)
    assert head.at == START
    assert store.refused == 5, "once a slot of a minute from the tenth on"
    assert all(store.model(RULE.id, f"{HEAD}/{START + minute * M}/0") is None for minute in range(8, 15))
    assert "database or disk is full" in capsys.readouterr().out
    life.evaluator.snapshots.finish(life.evaluator.runs.values())
    life.evaluator = life.born()
    asked = len(life.source.asked)
    store.room = 1_000
    life.live(15, 16)
    assert len(life.source.asked) - asked <= 2, "the snapshot that is there, and what came since: no history"
    assert store.model(RULE.id, HEAD).at == START + 15 * M


def test_a_full_disk_is_tried_once_a_minute_by_fast_rules() -> None:
    """A rule that is evaluated every ten seconds does not write its state ten times a minute in vain."""
    store: Any = Full(open_store("sqlite://"))
    store.room = 0
    life = Life(recorded(3), EMA, store, snapshots=EVERY)
    life.live(0, 1)
    run = life.evaluator.runs[RULE.id]
    for second in range(10, 180, 10):
        life.evaluator.snapshots.keep(run, START + second * 1000)
    assert store.refused == 3


def test_what_fails_otherwise_is_said_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Too little memory for a state's bytes: the slots go on, and the log has it."""

    class Narrow(Full):
        def save_model(self, *facts: Any, **more: Any) -> None:
            raise MemoryError

    store: Any = Narrow(open_store("sqlite://"))
    life = Life(recorded(3), EMA, store, snapshots=EVERY)
    life.live(0, 3)
    life.evaluator.snapshots.finish(life.evaluator.runs.values())
    assert "MemoryError" in capsys.readouterr().out


def test_a_state_that_is_too_large_is_not_written() -> None:
    """Above max_bytes nothing is kept, and nothing fails."""
    life = Life(recorded(), EMA, snapshots=SnapshotPolicy(10 * MINUTE_MS, 100))
    life.live(0, 15)
    life.evaluator.snapshots.finish(life.evaluator.runs.values())
    assert life.store.model(RULE.id) is None


def test_large_states_come_in_parts() -> None:
    """Five series in five parts are the same state again."""
    life = Life(eventful(), EMA, snapshots=replace(EVERY, part_bytes=1))
    life.live(0, 45)
    before = life.evaluator.runs[RULE.id].memory.state
    life.evaluator.snapshots.finish(life.evaluator.runs.values())
    life.evaluator = life.born()
    run = life.evaluator.runs[RULE.id]
    after = life.evaluator.snapshots.restore(run, run.memory, life.source, START + 45 * M).state
    assert before is not None
    assert after is not None
    assert before.arrays.keys() == after.arrays.keys()
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(array, after.arrays[name])


def test_half_space_trees_need_the_last_two_windows_only() -> None:
    """What the trees have counted before the last two windows is gone: replaying these gives the same next scores."""
    window, days = 60, 20
    block = recorded(2, 0)
    samples = window * days
    times = START + np.arange(samples + 30) * M
    rng = np.random.default_rng(4)
    block = Block(hosts(2), times, 10 + rng.normal(size=(2, samples + 30)))
    trees = make_detector(DetectorSpec("half_space_trees", {"window": window}), Grid(M, "UTC"))
    fitted = trees.fit(block.window(0, 0), 3)
    _, old = trees.score(fitted, block.window(0, samples - 2 * window))
    _, never = trees.score(old, block.window(samples - 2 * window, samples))
    counts = ("latest", "reference")
    assert any(old.arrays[name].any() for name in counts)
    nothing = {name: np.zeros_like(old.arrays[name]) for name in counts}
    emptied = State(dict(old.arrays) | nothing, old.shared, old.as_of)
    _, again = trees.score(emptied, block.window(samples - 2 * window, samples))
    ours, theirs = (trees.score(state, block.window(samples))[0].score for state in (again, never))
    assert np.isfinite(theirs).all()
    np.testing.assert_array_equal(ours, theirs)
    _, one = trees.score(emptied, block.window(samples - 2 * window, samples - window - 1))
    _, one = trees.score(replace(one, as_of=0), block.window(samples - window + 1, samples))
    assert not np.array_equal(trees.score(one, block.window(samples))[0].score, theirs), "less is not enough"


def test_an_error_of_the_source_while_restoring_is_the_sources() -> None:
    """It is told as such, and the next slot tries again."""
    life = Life(eventful(), EMA, snapshots=EVERY)
    life.live(0, 15)
    life.evaluator = life.born()
    life.source.down = {14}
    failure = life.evaluator.evaluate(life.group, START + 15 * M).rules[RULE.id].failure
    assert isinstance(failure, SourceUnavailable)
    life.live(16, 17)
    assert fits(life) == 1
