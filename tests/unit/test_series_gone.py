"""Series that go for good: a cluster with pod churn, lived through for weeks, costs what its living series cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from anomalyd.ballot import base_cuts
from anomalyd.block import Block, Labels, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.errors import StoreError
from anomalyd.evaluation.intake import AT_ONCE, RETURNS, expires_after
from anomalyd.evaluation.memory import Memory
from anomalyd.evaluation.registry import Registry, registry_of
from anomalyd.records import NO_SNAPSHOTS, Feedback, FeedbackLabel, Fence, SnapshotPolicy
from anomalyd.rule import Budget, DetectorSpec, Rule, RuleGroup, TierPolicy
from anomalyd.score import Tier
from anomalyd.slot import NoticeKind, SeriesRow, SlotCommit
from anomalyd.store import Store, open_store
from anomalyd.threshold import initial_threshold
from life import START, Life, hosts

H = HOUR_MS
GONE_SLOTS = 288
"""Hours after which an hourly rule lets a series go."""
PAST = 48
RULE = Rule(
    "Load", "g", "load", interval_ms=H, detector=DetectorSpec("mad", {"window": "1d"}), history_ms=PAST * H,
    query_delay_ms=0, for_ms=2 * H, keep_firing_for_ms=2 * H, accept_after_ms=96 * H, receivers=("hook",),
    admit_after=1, tiers=(TierPolicy(Tier.WARNING, surprise=3.5), TierPolicy(Tier.CRITICAL, surprise=6)),
)  # fmt: skip
NAN = float("nan")
Spans = dict[str, tuple[int, int]]
"""From which hour to which a pod lives."""


def pod(name: str) -> Labels:
    return make_labels({"__name__": "load", "host": name})


def cluster(hours: int, pods: Spans, stable: int = 3, seed: int = 1) -> Block:
    """Stable series around 10 with noise 1, and pods that live for a span of hours each."""
    times = START + np.arange(-PAST, hours) * H
    values = np.full((stable + len(pods), len(times)), NAN)
    values[:stable] = 10 + np.random.default_rng(seed).normal(size=(stable, len(times)))
    rng = np.random.default_rng(seed + 1)
    for i, (first, stop) in enumerate(pods.values()):
        values[stable + i, PAST + first : PAST + stop] = 10 + rng.normal(size=stop - first)
    return Block((*hosts(stable), *(pod(name) for name in pods)), times, values)


def churn(hours: int, every: int = 12, lives: int = 30) -> Spans:
    return {f"pod-{i}": (first, min(hours, first + lives)) for i, first in enumerate(range(0, hours, every))}


class Hourly(Life):
    """The kit's rule, with a step of an hour."""

    def __init__(
        self, block: Block, rule: Rule = RULE, snapshots: SnapshotPolicy = NO_SNAPSHOTS, store: Store | None = None
    ):
        super().__init__(block, rule, store, snapshots)
        self.group = RuleGroup("g", H, (rule,))

    def hours(self, first: int, stop: int) -> None:
        for hour in range(first, stop):
            evaluated = self.evaluator.evaluate(self.group, START + hour * H)
            failure = evaluated.rules[self.rule.id].failure
            assert failure is None, failure

    @property
    def memory(self) -> Memory:
        return self.evaluator.runs[self.rule.id].memory

    def living(self) -> set[str]:
        rows, _ = self.store.living_series(self.rule.id)
        assert {row.row for row in rows} == set(self.memory.registry.rows), "the store and the memory agree"
        return {dict(row.labels)["host"] for row in rows}

    def surprises(self, row: int, first: int, stop: int) -> list[float]:
        seen = self.store.scores(self.rule.id, START + first * H, START + stop * H, [row])
        return [float(o.surprise[0]) for o in seen if len(o.series)]


@pytest.fixture(params=["slot by slot", "together"])
def weeks(request: pytest.FixtureRequest) -> Iterator[tuple[Hourly, int]]:
    """A month of a cluster in which a pod comes every twelve hours; retention of a week."""
    hours, keep = 30 * 24, 7 * DAY_MS
    life = Hourly(cluster(hours, churn(hours)))
    if request.param == "slot by slot":
        for first in range(0, hours, 24):
            life.hours(first, first + 24)
            life.store.delete_before(START + (first + 24) * H - keep)
    else:
        at = START
        while at < START + hours * H:
            at = life.evaluator.live(life.group, at, START + (hours - 1) * H, Blind())
            life.store.delete_before(at - keep)
    yield life, hours
    life.store.close()


class Blind:
    """A witness that looks away."""

    def saw(self, sheet: object) -> None:
        """Nothing."""

    def committed(self, at: int, owed: int) -> None:
        """Nothing."""


def test_weeks_of_churn_leave_what_the_living_need(weeks: tuple[Hourly, int]) -> None:
    """Of 60 pods the last ones are in memory, and in the database those of whom scores are kept."""
    life, hours = weeks
    away = (GONE_SLOTS + 30) // 12 + 2
    memory = life.memory
    assert len(memory.registry.rows) == len(memory.registry.index) == len(life.living()) <= 3 + away
    assert memory.state is not None
    assert {len(array) for name, array in memory.state.arrays.items() if name not in memory.state.shared} == {
        len(memory.active)
    }
    assert len(life.store.series(RULE.id)) <= 3 + away + 7 * 24 // 12 + 2
    assert memory.registry.next_row == 3 + len(churn(hours)), "an id is never given out twice"


def test_what_is_kept_of_scores_has_its_labels() -> None:
    """Every score within the retention names a series that the store knows, gone or not."""
    hours = GONE_SLOTS + 90
    life = Hourly(cluster(hours, churn(hours)))
    life.hours(0, hours)
    since = START + (hours - 60) * H
    life.store.delete_before(since)
    known = {row.row for row in life.store.series(RULE.id)}
    scored = {row for o in life.store.scores(RULE.id, since, START + hours * H) for row in o.series.tolist()}
    assert scored <= known
    assert known - set(life.memory.registry.rows), "some of them have gone"


def test_scores_and_episodes_are_those_of_a_registry_that_only_grows() -> None:
    """Bit by bit: that some have been let go changes nothing for those who stay, episodes on them included."""
    hours = GONE_SLOTS + 110
    block = cluster(hours, churn(hours))
    values = block.values.copy()
    values[1, PAST + 300 : PAST + 315] = 60.0
    values[2, PAST + GONE_SLOTS + 60 :] = 40.0
    block = Block(block.labels, block.times, values)
    lean, whole = Hourly(block), Hourly(block)
    lean.hours(0, hours)
    whole.hours(0, GONE_SLOTS)
    for hour in range(GONE_SLOTS, hours):
        whole.hours(hour, hour + 1)
        run = whole.evaluator.runs[RULE.id]
        run.memory = replace(run.memory, registry=registry_of(RULE, whole.store.series(RULE.id)))
    assert len(lean.memory.registry.rows) < len(whole.memory.registry.rows)
    ours, theirs = (life.store.scores(RULE.id, START, START + hours * H) for life in (lean, whole))
    for one, other in zip(ours, theirs, strict=True):
        for name in ("series", "value", "expected", "lower", "upper", "surprise"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(one.verdicts.kind, other.verdicts.kind)
    assert lean.store.episodes(rule=RULE.id) == whole.store.episodes(rule=RULE.id)
    assert {"h1", "h2"} <= {span[0] for span in lean.spans()}


def test_a_series_that_comes_back_is_new_under_its_old_row() -> None:
    """It goes through the door, remembers nothing, is noted, and what is stored of it is one history."""
    back = 60 + GONE_SLOTS + 40
    block = cluster(back + 60, {"a": (-PAST, 60), "b": (0, back + 60)})
    values = block.values.copy()
    values[3, PAST + back :] = 500.0 + np.random.default_rng(5).normal(size=60)
    rule = replace(RULE, admit_after=3)
    life = Hourly(Block(block.labels, block.times, values), rule)
    life.hours(0, back)
    row = next(one.row for one in life.store.series(rule.id) if one.labels == pod("a"))
    assert "a" not in life.living()
    life.hours(back, back + 2)
    assert "a" not in life.living(), "it waits at the door"
    life.hours(back + 2, back + 60)
    assert life.memory.registry.index[pod("a")] == row
    assert life.memory.registry.rows[row].first_seen == START + (back + 2) * H
    [said] = life.store.notices(rule=rule.id, kind=NoticeKind.RETURNED)
    assert (said.labels, said.at) == (pod("a"), START + (back + 2) * H)
    assert said.since == START + (59 + GONE_SLOTS) * H
    assert life.surprises(row, 20, 60)
    assert life.surprises(row, back + 2, back + 60)
    assert life.spans() == [], "500 is no anomaly to a series that remembers nothing"
    registry = registry_of(rule, *life.store.living_series(rule.id))
    assert (registry.rows, registry.next_row) == (life.memory.registry.rows, life.memory.registry.next_row)


def test_many_that_come_back_are_one_notice() -> None:
    """A job that was away for weeks is one line, not one for each of its series."""
    pods = {f"job-{i}": (-PAST, 20) for i in range(RETURNS + 1)}
    back = 20 + GONE_SLOTS + 10
    block = cluster(back + 3, pods)
    values = block.values.copy()
    values[3:, PAST + back :] = 10.0
    life = Hourly(Block(block.labels, block.times, values))
    life.hours(0, back + 3)
    [said] = life.store.notices(rule=RULE.id, kind=NoticeKind.RETURNED)
    assert f"{RETURNS + 1} series are back" in said.text
    assert (said.fingerprint, said.labels) == ("", ())


def test_a_series_that_comes_back_after_its_last_score_was_forgotten_has_a_new_row() -> None:
    """Then nothing stored refers to it, and nobody is told that it is back."""
    back = 60 + GONE_SLOTS + 100
    block = cluster(back + 5, {"a": (-PAST, 60), "b": (0, back + 5)})
    values = block.values.copy()
    values[3, PAST + back :] = 10.0
    life = Hourly(Block(block.labels, block.times, values))
    life.hours(0, back)
    life.store.delete_before(START + (back - 10) * H)
    assert pod("a") not in {row.labels for row in life.store.series(RULE.id)}
    life.hours(back, back + 2)
    assert life.memory.registry.index[pod("a")] == 5
    assert life.store.notices(rule=RULE.id, kind=NoticeKind.RETURNED) == []


def test_a_slot_that_was_not_written_lets_nobody_go() -> None:
    """Who goes is written with the slot: a commit that fails changes neither the memory nor the store."""
    gone = 20 + GONE_SLOTS - 1
    life = Hourly(cluster(gone + 2, {"a": (-PAST, 20)}))
    life.hours(0, gone)
    life.evaluator.fence = lambda: Fence("leader", 99)
    with pytest.raises(StoreError):
        life.evaluator.evaluate(life.group, START + gone * H)
    assert "a" in life.living()
    life.evaluator.fence = lambda: None
    life.hours(gone, gone + 1)
    assert "a" not in life.living()


def test_a_daemon_killed_while_series_go_is_as_one_that_never_stopped() -> None:
    """Killed between a snapshot and the slot in which series go, and after it: the same scores and registry."""
    hours = GONE_SLOTS + 50
    rule = replace(RULE, detector=DetectorSpec("rls"))
    block, every = cluster(hours, churn(hours, every=7, lives=9)), SnapshotPolicy(5 * H)
    never, killed = Hourly(block, rule, every), Hourly(block, rule, every)
    never.hours(0, hours)
    killed.hours(0, GONE_SLOTS + 5)
    for first in range(GONE_SLOTS + 5, hours, 3):
        killed.evaluator = killed.born()
        killed.hours(first, min(hours, first + 3))
    assert never.memory.registry.gone
    assert (killed.memory.registry.rows, killed.living()) == (never.memory.registry.rows, never.living())
    start, end = START + (hours - 40) * H, START + hours * H
    ours, theirs = killed.store.scores(rule.id, start, end), never.store.scores(rule.id, start, end)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.series, b.series)
        np.testing.assert_array_equal(a.surprise, b.surprise)


def test_a_daemon_that_starts_every_night_without_snapshots_lets_go_too() -> None:
    """Nobody knows when a series that is not there after a start was there last; it goes all the same."""
    hours = 2 * GONE_SLOTS
    life = Hourly(cluster(hours, churn(hours)))
    for first in range(0, hours, 24):
        life.evaluator = life.born()
        life.hours(first, first + 24)
    assert len(life.living()) <= 3 + (GONE_SLOTS + 30) // 12 + 4
    assert set(life.living()) >= {"h0", "h1", "h2"}


def test_a_start_waits_for_series_that_were_there_lately() -> None:
    """What was scored within the time a series may be away has that time again to come back, and comes back at once."""
    life = Hourly(cluster(100, {"a": (-PAST, 40)}), replace(RULE, admit_after=3))
    life.hours(0, 50)
    life.evaluator = life.born()
    life.hours(50, 52)
    assert "a" in life.living()
    until = life.memory.awaited_until
    assert set(until.tolist()) == {START + 49 * H + expires_after(RULE)}


def test_a_database_of_before_lets_its_ghosts_go_with_the_first_slots() -> None:
    """Series of months ago that nobody let go: in the first slot as many as one may take, in the next the others."""
    life = Hourly(cluster(10, {}))
    life.hours(0, 2)
    long_ago = START - 90 * DAY_MS
    ghosts = tuple(SeriesRow(RULE.id, 3 + i, f"f{i}", pod(f"ghost-{i}"), long_ago) for i in range(AT_ONCE + 2))
    life.store.commit_slot(SlotCommit("before", START, (), series=ghosts))
    life.evaluator = life.born()
    life.hours(2, 3)
    assert len(life.living()) == 5
    life.hours(3, 4)
    assert life.living() == {"h0", "h1", "h2"}
    life.hours(4, 5)
    assert life.memory.registry.next_row == 3 + AT_ONCE + 2


def test_an_episode_keeps_a_series_that_is_away() -> None:
    """With ``missing: hold`` what is open stays open until the series is back, however long that takes."""
    hours = 30 + GONE_SLOTS + 20
    block = cluster(hours, {"a": (-PAST, 30)})
    values = block.values.copy()
    values[3, PAST + 20 : PAST + 30] = 90.0
    life = Hourly(Block(block.labels, block.times, values), replace(RULE, missing="hold"))
    life.hours(0, hours)
    assert "a" in life.living()
    memory = life.memory
    kept = {dict(memory.registry.rows[row].labels)["host"] for row in memory.active.tolist()}
    assert "a" in kept, "and what was learned of it stays too"
    assert [span[0] for span in life.spans()] == ["a"]


def test_a_rule_that_goes_lets_its_series_go() -> None:
    """Removed from the files, its series are forgotten with their last score; back in time, they are the same rows."""
    life = Hourly(cluster(60, {"a": (-PAST, 60)}))
    life.hours(0, 20)
    life.evaluator.remove(RULE.id, START + 20 * H)
    assert life.store.living_series(RULE.id) == ([], 4)
    life.evaluator.add(RULE)
    life.hours(21, 23)
    assert {row: one.labels for row, one in life.memory.registry.rows.items()} == {
        row.row: row.labels for row in life.store.series(RULE.id)
    }
    assert life.living() == {"h0", "h1", "h2", "a"}


def test_a_budget_of_a_rule_is_not_divided_among_ghosts() -> None:
    """Of forty pods three are left: votes move the cuts that the rule has now, not those of forty."""
    budget = (TierPolicy(Tier.WARNING, Budget(1, DAY_MS, "rule")),)
    rule, hours = replace(RULE, tiers=budget), 20 + GONE_SLOTS + 5
    life = Hourly(cluster(hours, {f"p{i}": (-PAST, 20) for i in range(37)}), rule)
    life.hours(0, 10)
    assert base_cuts(life.store, rule) == initial_threshold(rule, 40).cuts
    life.hours(10, hours)
    assert base_cuts(life.store, rule) == initial_threshold(rule, 3).cuts
    assert life.memory.cuts[0].tolist() == list(initial_threshold(rule, 3).cuts)


def test_a_vote_keeps_the_labels_it_is_about() -> None:
    """A span that somebody called missed names its series for as long as the vote counts."""
    hours = 60 + GONE_SLOTS + 60
    life = Hourly(cluster(hours, {"a": (-PAST, 60), "b": (-PAST, 60), "z": (0, hours)}))
    life.hours(0, 50)
    name = next(row.fingerprint for row in life.store.series(RULE.id) if row.labels == pod("a"))
    span = (START + 9 * H, START + 10 * H)
    life.store.add_feedback(Feedback("v", FeedbackLabel.MISSED, RULE.id, START + 50 * H, "ann", "cli", "", name, *span))
    life.hours(50, hours)
    life.store.delete_before(START + (hours - 5) * H)
    assert {dict(row.labels)["host"] for row in life.store.series(RULE.id)} == {"h0", "h1", "h2", "a", "z"}


def test_groups_go_with_their_last_series() -> None:
    """A group of a joint rule has a row of its own, which stays as long as one of its series or its episode does."""
    rule = Rule("R", "g", "x", detector=DetectorSpec("isolation_forest", {"joint": True}), group_by=("host",))

    def core(host: int, number: int) -> Labels:
        return make_labels({"host": f"h{host}", "core": f"c{number}"})

    def let_go(registry: Registry, *rows: int, keep: tuple[int, ...] = ()) -> tuple[Registry, tuple[int, ...]]:
        return registry.without(np.array(rows, np.int64), np.array(keep, np.int64))

    fresh, _ = registry_of(rule, []).register([core(0, 0), core(0, 1), core(1, 0)], 5, rule.unit_of)
    assert (fresh.series, len(fresh.rows)) == (3, 5)
    one, two, other = (fresh.index[core(*which)] for which in ((0, 0), (0, 1), (1, 0)))
    group = int(fresh.unit(np.array([one]))[0])
    left, gone = let_go(fresh, one)
    assert (gone, left.unit(np.array([two])).tolist()) == ((one,), [group])
    assert let_go(left, two, keep=(group,))[1] == (two,), "an episode keeps the group"
    last, gone = let_go(left, two)
    assert set(gone) == {two, group}
    assert (last.series, last.unit(np.array([other])).tolist()) == (1, fresh.unit(np.array([other])).tolist())
    again, added = last.register([core(0, 0)], 9, rule.unit_of, {core(0, 0): one})
    assert [row.row for row in added] == [one, 5], "the series has its old row, its group a new one"
    assert again.unit(np.array([one])).tolist() == [5]


def test_the_store_of_a_rule_without_scores_counts_the_living() -> None:
    """Before the first slot, and after retention has taken all scores, a rule has the series that have not gone."""
    store = open_store("sqlite://")
    assert store.scored_series(RULE.id) == []
    assert store.living_series(RULE.id) == ([], 0)
    assert store.scored_since(RULE.id, 0).tolist() == []
