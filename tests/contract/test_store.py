"""The store's contract, held by SQLite in memory, SQLite in a file and Postgres alike."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from anomalyd.episode import Close, Episode, Phase
from anomalyd.errors import StoreError
from anomalyd.records import Feedback, FeedbackLabel, Matcher, OutboxState, Silence, ThresholdChange
from anomalyd.score import Kind, Tier, Why
from anomalyd.slot import NoticeKind, RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store
from contract.store_kit import (
    MINUTE,
    RULE,
    episode,
    fence,
    incident,
    notice,
    notification,
    observation,
    slot,
    whole_slot,
)


def test_a_slot_is_written_whole(store: Store) -> None:
    """Every table a slot touches can be read back after its commit."""
    commit = replace(whole_slot(1), series=slot(MINUTE, first=True).series, missed=2)
    assert store.commit_slot(commit)
    assert store.last_slot("shop") == MINUTE
    assert store.series(RULE) == list(commit.series)
    assert store.live_episodes(RULE) == list(commit.episodes)
    assert store.open_incidents(RULE) == list(commit.incidents)
    assert store.episode("e1") == commit.episodes[0]
    assert store.incident("i1") == commit.incidents[0]
    [row] = store.notifications()
    assert row.notification == commit.outbox[0]
    assert (row.state, row.attempts, row.settled_at) == (OutboxState.PENDING, 0, 0)


def test_a_slot_is_committed_once(store: Store) -> None:
    """The second commit of a (group, slot) says False and changes nothing, whatever it carries."""
    assert store.commit_slot(slot(MINUTE, values=(1.0, 2.0)))
    other = slot(MINUTE, values=(7.0, 8.0), episodes=(episode("late"),), outbox=(notification("late"),))
    assert not store.commit_slot(other)
    assert store.scores(RULE, 0, 2 * MINUTE)[0].value.tolist() == [1.0, 2.0]
    assert store.episode("late") is None
    assert store.notifications() == []


def test_a_failing_commit_leaves_nothing(store: Store) -> None:
    """A slot that breaks in its last statement leaves no row of the statements before it."""
    store.commit_slot(slot(MINUTE, first=True))
    clash = replace(whole_slot(2), series=(SeriesRow(RULE, 0, "other", (("pod", "other"),), 0),))
    with pytest.raises(StoreError) as caught:
        store.commit_slot(clash)
    assert caught.value.reason == "conflict"
    assert store.last_slot("shop") == MINUTE
    assert store.live_episodes(RULE) == []
    assert store.notifications() == []


def test_slots_of_groups_do_not_mix(store: Store) -> None:
    """The last slot is the group's own."""
    store.commit_slot(slot(MINUTE))
    store.commit_slot(SlotCommit("other", 5 * MINUTE, ()))
    assert store.last_slot("shop") == MINUTE
    assert store.last_slot("other") == 5 * MINUTE
    assert store.last_slot("none") is None


def test_rule_slots_tell_how_a_rule_fared(store: Store) -> None:
    """Outcome, reason, detail, duration, cut, model and counts come back, in a half-open span, oldest first."""
    failed = RuleSlot(RULE, 2 * MINUTE, "error", "timeout", "x" * 5000)
    store.commit_slot(slot(MINUTE))
    store.commit_slot(SlotCommit("shop", 2 * MINUTE, (failed,)))
    store.commit_slot(slot(3 * MINUTE))
    good, bad = store.rule_slots(RULE, MINUTE, 3 * MINUTE)
    assert (good.at, good.outcome, good.duration_s, good.cut, good.model) == (MINUTE, "ok", 0.25, 3.5, "m1")
    assert (good.counts, good.series) == ({"anomalous": 2}, 2)
    assert (bad.outcome, bad.reason, len(bad.detail), bad.counts, bad.series) == ("error", "timeout", 1000, {}, 0)
    assert store.last_rule_slot(RULE) == 3 * MINUTE


def test_the_last_slot_of_a_rule_is_one_that_succeeded(store: Store) -> None:
    """A failed slot does not move what the rule has taken in."""
    store.commit_slot(slot(MINUTE))
    store.commit_slot(SlotCommit("shop", 2 * MINUTE, (RuleSlot(RULE, 2 * MINUTE, "error", "timeout"),)))
    assert store.last_rule_slot(RULE) == MINUTE
    assert store.last_rule_slot("shop/Unknown") is None


def test_scores_keep_nan_and_infinity(store: Store) -> None:
    """Values come back with float32 precision, NaN as NaN, infinity as infinity, verdicts exactly."""
    values = [1.5, math.nan, math.inf, -math.inf, 1e308, -0.0, 0.1]
    store.commit_slot(slot(MINUTE, values=values))
    [back] = store.scores(RULE, 0, 2 * MINUTE)
    expected = np.array([1.5, math.nan, math.inf, -math.inf, 3.4028235e38, 0.0, 0.1])
    np.testing.assert_allclose(back.value, expected, rtol=1e-7)
    shifted = [5.5, math.nan, math.inf, -math.inf, 3.4028235e38, 4.0, 4.1]
    np.testing.assert_allclose(back.surprise, shifted, rtol=1e-7)
    assert set(back.verdicts.kind.tolist()) == {Kind.ANOMALOUS}
    assert set(back.verdicts.tier.tolist()) == {Tier.CRITICAL}
    assert set(back.verdicts.why.tolist()) == {Why.SURPRISE}
    assert back.series.tolist() == list(range(7))
    assert back.at == MINUTE


def test_scores_of_some_series(store: Store) -> None:
    """Only the series asked for come back, in each slot where they were scored."""
    for at, rows in ((1, [0, 1, 2]), (2, [2, 0]), (3, [5])):
        rule = RuleSlot(RULE, at * MINUTE, "ok", observation=observation(at * MINUTE, [10.0 * r for r in rows], rows))
        store.commit_slot(SlotCommit("shop", at * MINUTE, (rule,)))
    back = store.scores(RULE, 0, 10 * MINUTE, rows=[2, 5])
    assert [one.series.tolist() for one in back] == [[2], [2], [5]]
    assert [one.value.tolist() for one in back] == [[20.0], [20.0], [50.0]]


def test_a_rescored_slot_replaces_the_row(store: Store) -> None:
    """Late samples: a rule's older slot written again with a newer group slot replaces its scores."""
    store.commit_slot(slot(MINUTE, values=(1.0,)))
    again = RuleSlot(RULE, MINUTE, "ok", observation=observation(MINUTE, (9.0,)))
    store.commit_slot(SlotCommit("shop", 2 * MINUTE, (again,)))
    assert [one.value.tolist() for one in store.scores(RULE, 0, 9 * MINUTE)] == [[9.0]]


def test_an_empty_observation_is_a_slot_without_series(store: Store) -> None:
    """A rule whose query found nothing has a row with no series."""
    store.commit_slot(slot(MINUTE, values=()))
    assert [one.series.tolist() for one in store.scores(RULE, 0, 9 * MINUTE)] == [[]]
    assert store.rule_slots(RULE, 0, 9 * MINUTE)[0].series == 0


def test_every_field_of_an_episode_survives(store: Store) -> None:
    """An episode with all fields set, NaN and infinity among them, is read back equal."""
    full = Episode(
        id="e", rule=RULE, fingerprint="f", labels=(("a", "1"), ("b", "2")), phase=Phase.CLOSED, tier=Tier.EMERGENCY,
        started_at=1, seen_at=2, reached=(3, 4, 5), opened_at=6, calm_since=7, closed_at=8, close=Close.NEW_LEVEL,
        why=Why.OUT_OF_RANGE, value=0.1, expected=1e308, lower=-math.inf, upper=math.inf, surprise=300.0, peak_at=9,
        peak_value=5e-324, peak_expected=-2.5, peak_surprise=310.25, incident="i", model="m",
        learned_ms=40 * MINUTE,
    )  # fmt: skip
    store.save_episodes([full])
    assert store.episode("e") == full
    store.save_episodes([replace(full, value=math.nan)])
    changed = store.episode("e")
    assert changed is not None
    assert math.isnan(changed.value)


def test_notices_are_written_once_and_found_by_rule_series_kind_and_span(store: Store) -> None:
    """A notice comes back whole, newest first; what is written again stays one; retention takes the old ones."""
    early, late = notice(MINUTE), notice(5 * MINUTE, fingerprint="fp1")
    other = notice(3 * MINUTE, rule="shop/Other")
    store.commit_slot(SlotCommit("shop", 2 * MINUTE, (), notices=(early, late)))
    store.commit_slot(SlotCommit("shop", 3 * MINUTE, (), notices=(other, early)))
    assert store.notices() == [late, other, early]
    assert store.notices(rule=RULE) == [late, early]
    assert store.notices(fingerprint="fp1", kind=NoticeKind.DRIFT) == [late]
    assert store.notices(start=2 * MINUTE, end=5 * MINUTE) == [other]
    assert store.notices(limit=1) == [late]
    store.delete_before(4 * MINUTE)
    assert store.notices() == [late]


def test_live_episodes_are_pending_or_open(store: Store) -> None:
    """A closed episode is not live; one that closes leaves the list."""
    one, two = episode("a", phase=Phase.PENDING, start=2), episode("b", start=1)
    store.save_episodes([one, two, episode("c", phase=Phase.CLOSED, closed_at=9), episode("d", rule="other")])
    assert store.live_episodes(RULE) == [two, one]
    store.save_episodes([replace(one, phase=Phase.CLOSED, closed_at=5)])
    assert store.live_episodes(RULE) == [two]


def test_episodes_by_span_rule_phase_and_incident(store: Store) -> None:
    """A span finds what overlaps it, an open episode reaches to the present, newest first."""
    store.save_episodes([
        episode("old", phase=Phase.CLOSED, start=10, closed_at=20, incident="i1"),
        episode("open", start=15, incident="i1"),
        episode("new", phase=Phase.CLOSED, start=30, closed_at=40, rule="other"),
    ])  # fmt: skip

    def ids(**asked: object) -> list[str]:
        return [found.id for found in store.episodes(**asked)]  # type: ignore[arg-type]

    assert ids() == ["new", "open", "old"]
    assert ids(start=21) == ["new", "open"]
    assert ids(end=30) == ["open", "old"]
    assert ids(start=16, end=20) == ["open", "old"]
    assert ids(rule=RULE) == ["open", "old"]
    assert ids(phase=Phase.OPEN) == ["open"]
    assert ids(incident="i1") == ["old", "open"]
    assert ids(limit=1) == ["new"]


def test_incidents_by_span_and_rule(store: Store) -> None:
    """A span finds what overlaps it, open ones reach to the present, newest first."""
    store.save_episodes([], [
        incident("old", opened_at=10, closed_at=20), incident("open", opened_at=15),
        incident("new", opened_at=30, closed_at=40, rule="other"),
    ])  # fmt: skip
    assert [one.id for one in store.incidents()] == ["new", "open", "old"]
    assert [one.id for one in store.incidents(start=21)] == ["new", "open"]
    assert [one.id for one in store.incidents(start=16, end=20)] == ["open", "old"]
    assert [one.id for one in store.incidents(rule=RULE, limit=1)] == ["open"]


def test_changes_outside_slots_are_whole(store: Store) -> None:
    """Episodes, incidents and notifications of one call are written together."""
    store.save_episodes([episode("e")], [incident("i")], [notification("n", told="i")])
    assert store.episode("e") == episode("e")
    assert store.open_incidents() == [incident("i")]
    store.save_episodes([], [replace(incident("i"), closed_at=5)])
    assert store.open_incidents() == []
    assert [row.notification.id for row in store.notifications()] == ["n"]


def test_threshold_history(store: Store) -> None:
    """Changes come back in order with infinite cuts; an undone one stays in the record."""
    first = ThresholdChange(RULE, 1, (3.0, math.inf, math.inf), "budget")
    second = ThresholdChange(RULE, 2, (4.0, 5.0, 6.0), "feedback", "fp", "ann", "3 votes", "v1")
    one, two = store.save_threshold(first), store.save_threshold(second)
    assert one < two
    assert store.thresholds(RULE) == [replace(first, id=one), replace(second, id=two)]
    assert store.undo_threshold(two, 9)
    assert not store.undo_threshold(two, 10)
    assert [change.undone_at for change in store.thresholds(RULE)] == [0, 9]
    assert store.thresholds("other") == []


def test_whatever_is_said_or_taken_back_changes_the_stamp(store: Store) -> None:
    """Votes, threshold changes and their undoing each give another stamp; reading gives the same."""
    stamps = [store.feedback_stamp()]
    assert store.feedback_stamp() == stamps[0]
    store.add_feedback(Feedback("v1", FeedbackLabel.FALSE, RULE, 5, "ann", "slack", "e1", "fp", 1, 4))
    stamps.append(store.feedback_stamp())
    number = store.save_threshold(ThresholdChange(RULE, 1, (1.0, 2.0, 3.0), "manual"))
    stamps.append(store.feedback_stamp())
    store.undo_feedback("v1", 7)
    stamps.append(store.feedback_stamp())
    store.undo_threshold(number, 9)
    stamps.append(store.feedback_stamp())
    assert len(set(stamps)) == len(stamps)


def test_feedback(store: Store) -> None:
    """A vote is added once, found by rule and by episode, and can be taken back once."""
    vote = Feedback("v1", FeedbackLabel.FALSE, RULE, 5, "ann", "slack", "e1", "fp", 1, 4, "deploy", "known")
    missed = Feedback("v2", FeedbackLabel.MISSED, RULE, 6, "bob", "cli", start=1, end=2)
    assert store.add_feedback(vote)
    assert not store.add_feedback(replace(vote, label=FeedbackLabel.TRUE))
    store.add_feedback(missed)
    assert store.feedback(rule=RULE) == [vote, missed]
    assert store.feedback(episode="e1") == [vote]
    assert store.undo_feedback("v1", 7)
    assert not store.undo_feedback("v1", 8)
    assert store.feedback(episode="e1") == [replace(vote, undone_at=7)]


def test_silences(store: Store) -> None:
    """A silence lasts up to its end, can be ended early, and one that has not begun never begins then."""
    running = Silence("s1", (Matcher("a", "=~", "x|y"), Matcher("b", "!=", "")), 0, 100, "ann", "works", 1)
    coming = Silence("s2", (Matcher("a", "=", "x"),), 50, 100, "ann")
    store.add_silence(running)
    store.add_silence(coming)
    assert store.silences(10) == [running, coming]
    assert store.expire_silence("s1", 20)
    assert not store.expire_silence("s1", 21)
    assert store.expire_silence("s2", 20)
    assert store.silences(20) == []
    assert store.silences() == [replace(running, ends_at=20), replace(coming, starts_at=20, ends_at=20)]


def test_models(store: Store) -> None:
    """A snapshot is found by version or as the newest; saving a version again replaces it."""
    blob = bytes(range(256)) * 500
    store.save_model(RULE, "v1", '{"n": 1}', blob, at=1)
    store.save_model(RULE, "v2", "{}", b"two", at=2)
    store.save_model("other", "v9", "{}", b"", at=3)
    found = store.model(RULE, "v1")
    assert found is not None
    assert (found.meta_json, found.blob, found.at) == ('{"n": 1}', blob, 1)
    newest = store.model(RULE)
    assert newest is not None
    assert newest.version == "v2"
    store.save_model(RULE, "v1", "{}", b"again", at=5)
    newest = store.model(RULE)
    assert newest is not None
    assert (newest.version, newest.blob) == ("v1", b"again")
    assert store.model("unknown") is None


def test_snapshots_are_dropped_by_prefix(store: Store) -> None:
    """Parts of an older snapshot go, the newer one, other versions and other rules stay."""
    for version in ("state", "state/1/0", "state/1/1", "state/2/0", "st_te/1/0", "v1"):
        store.save_model(RULE, version, "{}", version.encode(), at=1)
    store.save_model("other", "state/1/0", "{}", b"")
    assert store.drop_models(RULE, "state/", but="state/2/") == 2
    assert store.rules_with_model("state") == [RULE]
    assert [store.model(RULE, v) is None for v in ("state", "state/1/0", "state/2/0", "st_te/1/0", "v1")] == [
        False, True, False, False, False,
    ]  # fmt: skip
    assert store.model("other", "state/1/0") is not None
    assert store.drop_models(RULE, "state") == 2
    assert store.rules_with_model("state") == []


def test_a_snapshot_of_a_leader_that_is_none_any_more_is_refused(store: Store) -> None:
    """Nothing is written or deleted under a lease that another holds."""
    mine = store.acquire_lease("leader", "a", 0, 10)
    store.save_model(RULE, "state", "{}", b"mine", fence=mine)
    assert store.acquire_lease("leader", "b", 20, 10) is not None
    for act in (
        lambda: store.save_model(RULE, "state", "{}", b"late", fence=mine),
        lambda: store.drop_models(RULE, "state", fence=mine),
    ):
        with pytest.raises(StoreError) as caught:
            act()
        assert caught.value.reason == "fenced"
    kept = store.model(RULE, "state")
    assert kept is not None
    assert kept.blob == b"mine"


def test_one_leader_at_a_time(store: Store) -> None:
    """A lease is refused to others until it expires or is given back, and each new owner has a larger number."""
    assert store.acquire_lease("leader", "a", 0, 100) == fence(1)
    assert store.acquire_lease("leader", "b", 99, 100) is None
    assert store.acquire_lease("leader", "a", 50, 100) == fence(1)
    assert store.renew_lease(fence(1), 80, 100)
    assert store.acquire_lease("leader", "b", 150, 100) is None
    assert store.acquire_lease("leader", "b", 180, 100) == fence(2)
    assert not store.renew_lease(fence(1), 181, 100)
    assert not store.release_lease(fence(1))
    assert store.release_lease(fence(2))
    assert store.acquire_lease("leader", "a", 182, 100) == fence(3)
    assert store.acquire_lease("leader", "a", 500, 100) == fence(4), "an owner that overslept is a new leader"


def test_a_fenced_daemon_writes_nothing(store: Store) -> None:
    """A leader that was paused past its lease cannot commit, claim or change episodes."""
    old = store.acquire_lease("leader", "a", 0, 100)
    new = store.acquire_lease("leader", "b", 100, 100)
    assert old is not None
    assert new is not None
    store.enqueue([notification("n")])
    for attempt in (
        lambda: store.commit_slot(slot(MINUTE), fence=old),
        lambda: store.claim("slack", 0, 10, 5, fence=old),
        lambda: store.save_episodes([episode("e")], fence=old),
    ):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert caught.value.reason == "fenced"
    assert store.last_slot("shop") is None
    assert store.episode("e") is None
    assert store.commit_slot(slot(MINUTE), fence=new)
    assert [one.id for one in store.claim("slack", 0, 10, 5, fence=new)] == ["n"]


def test_retention_forgets_in_batches_and_keeps_what_matters(store: Store) -> None:
    """Old slots, scores, closed episodes and settled notifications go; the open, the judged and the owed stay."""
    for number in range(1, 8):
        store.commit_slot(slot(number * MINUTE, values=[1.0] * number, first=False))
    store.save_episodes(
        [
            episode("gone", phase=Phase.CLOSED, start=1, closed_at=2, incident="past"),
            episode("judged", phase=Phase.CLOSED, start=1, closed_at=2),
            episode("open", start=1, incident="now"),
            episode("recent", phase=Phase.CLOSED, start=1, closed_at=6 * MINUTE),
        ],
        [incident("past", closed_at=2), incident("now")],
        [notification("past-n", told="past"), notification("owed", told="past2"), notification("now-n", told="now")],
    )
    store.add_feedback(Feedback("v", FeedbackLabel.FALSE, RULE, 1, "ann", "cli", "judged"))
    store.drop("past-n", 1, "silenced")
    store.drop("now-n", 1, "silenced")
    store.save_model(RULE, "v1", "{}", b"", at=1)
    store.save_model(RULE, "v2", "{}", b"", at=2)
    store.add_silence(Silence("s", (), 0, 1, "ann"))
    assert store.delete_before(5 * MINUTE, batch=2) > 0
    assert [row.at for row in store.rule_slots(RULE, 0, 99 * MINUTE)] == [5 * MINUTE, 6 * MINUTE, 7 * MINUTE]
    assert [len(one.series) for one in store.scores(RULE, 0, 99 * MINUTE)] == [5, 6, 7]
    assert {found.id for found in store.episodes()} == {"judged", "open", "recent"}
    assert {row.notification.id for row in store.notifications()} == {"owed", "now-n"}
    assert store.incident("past") is None
    assert store.incident("now") is not None
    assert len(store.feedback(rule=RULE)) == 1
    assert store.model(RULE, "v1") is None
    assert store.model(RULE) is not None
    assert store.silences() == []
    assert store.delete_before(5 * MINUTE) == 0


def test_retention_keeps_the_last_slot_of_a_group(store: Store) -> None:
    """However old it is, the last slot is known: nothing is evaluated twice after a long stop."""
    store.commit_slot(slot(MINUTE))
    store.commit_slot(slot(2 * MINUTE))
    store.delete_before(99 * MINUTE)
    assert store.last_slot("shop") == 2 * MINUTE
    assert not store.commit_slot(slot(2 * MINUTE))


def test_a_store_says_that_it_is_well(store: Store) -> None:
    """Ping, integrity check and schema version answer."""
    store.commit_slot(whole_slot(1))
    store.ping()
    assert store.integrity_check() == []
    assert store.schema_version == "0004"
