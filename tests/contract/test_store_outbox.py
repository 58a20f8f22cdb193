"""The outbox: who gets what, in which order, how often, and what is known to have arrived."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anomalyd.incident import Outcome, OutcomeKind, Reason
from anomalyd.records import OutboxStat, OutboxState, Told
from anomalyd.score import Tier
from anomalyd.store import Store
from anomalyd.suppress import Quiet
from contract.store_kit import RULE, alert, episode, notification

DELIVERED = Outcome(OutcomeKind.DELIVERED)
RETRY = Outcome(OutcomeKind.RETRY, "connect", "refused")
LEASE = 100


def claimed(store: Store, now: int, *, receiver: str = "slack", limit: int = 10) -> list[str]:
    """Ids of what a claim brings."""
    return [one.id for one in store.claim(receiver, now, LEASE, limit)]


def test_a_claimed_row_is_nobody_elses_until_its_lease_expires(store: Store) -> None:
    """A second claim finds nothing; when the lease has expired the row comes again with its attempts counted."""
    store.enqueue([notification("n")])
    [first] = store.claim("slack", 0, LEASE, 10)
    assert first.attempt == 0
    assert claimed(store, LEASE - 1) == []
    [again] = store.claim("slack", LEASE, LEASE, 10)
    assert (again.id, again.attempt) == ("n", 1)


def test_the_attempt_is_written_before_it_is_made(store: Store) -> None:
    """What a crash between claim and send leaves behind is a counted attempt and a lease."""
    store.enqueue([notification("n")])
    store.claim("slack", 5, LEASE, 10)
    [row] = store.notifications()
    assert (row.attempts, row.lease_until, row.state) == (1, 5 + LEASE, OutboxState.PENDING)


def test_receivers_do_not_see_each_others_rows(store: Store) -> None:
    """Each receiver has its own queue."""
    store.enqueue([notification("a", receiver="slack"), notification("b", receiver="pagerduty")])
    assert claimed(store, 0) == ["a"]
    assert claimed(store, 0, receiver="pagerduty") == ["b"]
    assert claimed(store, 0, receiver="nobody") == []


def test_rows_of_an_incident_come_together_and_in_order(store: Store) -> None:
    """Incidents are not interleaved, and within one the order is that of creation."""
    rows = [("a1", "i1"), ("b1", "i2"), ("a2", "i1"), ("b2", "i2")]
    store.enqueue([notification(name, told=told, at=9 - i) for i, (name, told) in enumerate(rows)])
    assert claimed(store, 10) == ["a1", "a2", "b1", "b2"]


def test_nothing_overtakes_a_row_in_flight(store: Store) -> None:
    """A resolve written while its trigger is being delivered waits for the end of that."""
    store.enqueue([notification("trigger")])
    assert claimed(store, 0) == ["trigger"]
    store.enqueue([notification("resolve", reason=Reason.RESOLVED, at=1)])
    assert claimed(store, 1) == []
    store.settle("trigger", 2, DELIVERED)
    assert claimed(store, 2) == ["resolve"]


def test_nothing_overtakes_a_row_that_waits_for_its_retry(store: Store) -> None:
    """The rows of an incident wait for its oldest one, and then come together."""
    store.enqueue([notification("trigger")])
    claimed(store, 0)
    store.settle("trigger", 1, RETRY, next_at=50)
    store.enqueue([notification("resolve", reason=Reason.RESOLVED, at=2)])
    assert claimed(store, 49) == []
    assert claimed(store, 50) == ["trigger", "resolve"]


def test_an_emergency_does_not_wait_for_a_retry(store: Store) -> None:
    """An incident that became an emergency is due at once, older rows first."""
    store.enqueue([notification("warning")])
    claimed(store, 0)
    store.settle("warning", 1, RETRY, next_at=1000)
    store.enqueue([notification("emergency", reason=Reason.WORSE, tier=Tier.EMERGENCY, at=2)])
    assert claimed(store, 2) == ["warning", "emergency"]


def test_nothing_waits_for_a_row_that_is_suppressed(store: Store) -> None:
    """What comes after a suppressed row takes its place and is due when it says, not when the window ends."""
    store.enqueue([notification("more")])
    claimed(store, 0)
    store.settle("more", 1, Outcome(OutcomeKind.RETRY, Quiet.SUPPRESSED), next_at=1000)
    assert claimed(store, 500) == []
    store.enqueue([notification("end", reason=Reason.RESOLVED, at=600)])
    assert store.next_due("slack") == 600
    assert claimed(store, 600) == ["more", "end"]


def test_emergencies_first_then_the_oldest(store: Store) -> None:
    """Order of incidents: emergencies, then by age; a limit counts incidents."""
    store.enqueue([
        notification("w1", told="a"), notification("c1", told="b", tier=Tier.CRITICAL), notification("w2", told="a"),
        notification("e1", told="c", tier=Tier.EMERGENCY), notification("e2", told="d", tier=Tier.EMERGENCY),
    ])  # fmt: skip
    assert claimed(store, 0, limit=3) == ["e1", "e2", "w1", "w2"]
    assert claimed(store, 0, limit=3) == ["c1"]


def test_what_is_not_due_is_not_claimed(store: Store) -> None:
    """A notification of the future waits."""
    store.enqueue([notification("n", at=100)])
    assert claimed(store, 99) == []
    assert store.next_due("slack") == 100
    assert claimed(store, 100) == ["n"]


def test_the_next_claim_is_known(store: Store) -> None:
    """Next due is the retry, the end of a lease, or nothing."""
    assert store.next_due("slack") is None
    store.enqueue([notification("a", told="i1"), notification("b", told="i2", at=70)])
    assert store.next_due("slack") == 0
    claimed(store, 0)
    assert store.next_due("slack") == 70
    store.settle("a", 1, RETRY, next_at=40)
    assert store.next_due("slack") == 40
    store.settle("a", 2, DELIVERED)
    claimed(store, 70)
    assert store.next_due("slack") == 70 + LEASE
    store.drop("b", 80, "silenced")
    assert store.next_due("slack") is None


def test_outcomes(store: Store) -> None:
    """Delivered and failed are final; a retry stays owed with its reason, message and time, and is free again."""
    store.enqueue([notification(name, told=name) for name in ("d", "f", "r")])
    claimed(store, 0)
    assert store.settle("d", 5, DELIVERED)
    assert store.settle("f", 6, Outcome(OutcomeKind.FAILED, "auth", "403" + "x" * 5000))
    assert store.settle("r", 7, RETRY, next_at=60)
    rows = {row.notification.id: row for row in store.notifications()}
    assert (rows["d"].state, rows["d"].reason, rows["d"].settled_at) == (OutboxState.DELIVERED, "ok", 5)
    assert (rows["f"].state, rows["f"].reason, rows["f"].settled_at) == (OutboxState.FAILED, "auth", 6)
    assert len(rows["f"].message) == 1000
    assert (rows["r"].state, rows["r"].message, rows["r"].next_at) == (OutboxState.PENDING, "refused", 60)
    assert (rows["r"].lease_until, rows["r"].settled_at) == (0, 0)
    assert claimed(store, 60) == ["r"]


def test_a_final_row_stays_final(store: Store) -> None:
    """A late retry, drop or failure of somebody whose lease had expired does not owe the row again."""
    store.enqueue([notification("n")])
    claimed(store, 0)
    store.settle("n", 1, DELIVERED)
    assert not store.settle("n", 2, RETRY, next_at=3)
    assert not store.settle("n", 2, Outcome(OutcomeKind.FAILED, "auth"))
    assert not store.drop("n", 2, "silenced")
    assert not store.settle("unknown", 2, DELIVERED)
    assert claimed(store, 1000) == []


def test_a_late_claimer_cannot_free_the_row_of_the_next(store: Store) -> None:
    """An outcome that names its attempt counts until somebody else claims the row; a delivery counts always."""
    store.enqueue([notification("n")])
    [slow] = store.claim("slack", 0, LEASE, 10)
    [quick] = store.claim("slack", LEASE, LEASE, 10)
    assert not store.settle("n", LEASE + 1, RETRY, LEASE + 1, attempt=slow.attempt)
    assert claimed(store, LEASE + 2) == []
    assert store.settle("n", LEASE + 3, DELIVERED, attempt=slow.attempt)
    assert not store.settle("n", LEASE + 4, RETRY, 0, attempt=quick.attempt)


def test_a_drop_carries_its_reason(store: Store) -> None:
    """What was deliberately not sent is a row that says why."""
    store.enqueue([notification("n")])
    assert store.drop("n", 4, "muted")
    [row] = store.notifications(state=OutboxState.DROPPED)
    assert (row.reason, row.settled_at) == ("muted", 4)
    assert claimed(store, 9) == []
    assert store.told("slack", "i1") is None


def test_a_receiver_remembers(store: Store) -> None:
    """What a delivery remembered comes with the next row of the same incident and receiver, and only there."""
    store.enqueue([notification("a"), notification("other", receiver="pagerduty")])
    claimed(store, 0)
    store.settle("a", 1, Outcome(OutcomeKind.DELIVERED, memory={"ts": "1.2", "n": [1, {"x": None}]}))
    store.enqueue([notification("b", reason=Reason.RESOLVED), notification("c", told="i2")])
    memories = {one.id: one.memory for one in store.claim("slack", 2, LEASE, 10)}
    assert memories == {"b": {"ts": "1.2", "n": [1, {"x": None}]}, "c": {}}
    assert store.claim("pagerduty", 2, LEASE, 10)[0].memory == {}
    store.settle("b", 3, Outcome(OutcomeKind.DELIVERED, memory={"ts": "9"}))
    rows = store.notifications(incident="i1", receiver="slack")
    assert {row.notification.id: row.notification.memory for row in rows} == {"a": {"ts": "9"}, "b": {"ts": "9"}}


def test_what_was_told_for_certain(store: Store) -> None:
    """The time of the last and the tier of the highest delivered trigger; a resolve does not count."""
    assert store.told("slack", "i1") is None
    store.enqueue([
        notification("new", tier=Tier.CRITICAL), notification("more", reason=Reason.MORE, at=1),
        notification("end", reason=Reason.RESOLVED, tier=Tier.CRITICAL, at=2),
    ])  # fmt: skip
    claimed(store, 5)
    assert store.told("slack", "i1") is None, "an attempt under way is the asker's own"
    store.settle("new", 6, DELIVERED)
    assert store.told("slack", "i1") == Told(6, Tier.CRITICAL, True, False)
    store.settle("more", 7, DELIVERED)
    store.settle("end", 8, DELIVERED)
    assert store.told("slack", "i1") == Told(7, Tier.CRITICAL, True, False)
    assert store.told("pagerduty", "i1") is None


@pytest.mark.parametrize(
    ("reason", "doubt"),
    [
        ("timeout", True), ("server", True), ("cut", True), ("internal", True),
        ("connect", False), ("rate_limited", False), ("auth", False),
    ],
)  # fmt: skip
def test_doubt_after_an_attempt(store: Store, reason: str, doubt: bool) -> None:
    """A timeout or a cut answer may have arrived; a refused connection has not."""
    store.enqueue([notification("n")])
    claimed(store, 0)
    store.settle("n", 1, Outcome(OutcomeKind.RETRY, reason), next_at=5)
    assert store.told("slack", "i1") == (Told(0, Tier.NONE, False, True) if doubt else None)
    claimed(store, 5)
    store.settle("n", 6, Outcome(OutcomeKind.FAILED, "auth"))
    assert (store.told("slack", "i1") is not None) == doubt, "doubt does not go away by a later failure"


def test_doubt_after_a_crash(store: Store) -> None:
    """A lease that expired was an attempt without an outcome: the resolve is owed even if the trigger is dropped."""
    store.enqueue([notification("n")])
    claimed(store, 0)
    claimed(store, LEASE)
    store.drop("n", LEASE + 1, "expired")
    assert store.told("slack", "i1") == Told(0, Tier.NONE, False, True)


def test_series_told(store: Store) -> None:
    """Each firing series of a delivered statement is known to that receiver; resolves and tests teach nothing."""
    listed = (alert("fp1", Tier.CRITICAL), alert("fp2"), alert("fp3", status="resolved"))
    store.enqueue([notification("n", alerts=listed), notification("t", told="i2", reason=Reason.TEST)])
    claimed(store, 0)
    asked = ["fp1", "fp2", "fp3", "fp9"]
    assert store.series_told("slack", RULE, asked) == {}
    store.settle("n", 7, DELIVERED)
    store.settle("t", 8, DELIVERED)
    assert store.series_told("slack", RULE, asked) == {"fp1": (7, Tier.CRITICAL), "fp2": (7, Tier.WARNING)}
    store.enqueue([notification("end", reason=Reason.RESOLVED, at=8)])
    claimed(store, 8)
    store.settle("end", 9, DELIVERED)
    assert store.series_told("slack", RULE, asked)["fp1"] == (7, Tier.CRITICAL)
    assert store.series_told("pagerduty", RULE, asked) == {}


def test_series_beyond_the_top_list_are_told_too(store: Store) -> None:
    """A storm's statement lists the top series only; all episodes of its incident count as told."""
    more = [episode(str(i), incident="i1", opened_at=5, fingerprint=f"s{i}") for i in range(3)]
    late = episode("late", incident="i1", opened_at=99, fingerprint="late")
    store.save_episodes([*more, late], (), [notification("n", at=5, alerts=(alert("s0", Tier.EMERGENCY),), total=3)])
    claimed(store, 5)
    store.settle("n", 6, DELIVERED)
    told = store.series_told("slack", RULE, ["s0", "s1", "s2", "late"])
    assert told == {"s0": (6, Tier.EMERGENCY), "s1": (6, Tier.WARNING), "s2": (6, Tier.WARNING)}


def test_enqueue_is_idempotent(store: Store) -> None:
    """The id is the key: a row known already is left as it is."""
    first = notification("n")
    store.enqueue([first])
    store.enqueue([replace(first, receiver="other"), notification("m")])
    assert [row.notification.id for row in store.notifications()] == ["m", "n"]
    assert {row.notification.receiver for row in store.notifications()} == {"slack"}


def test_outbox_stats(store: Store) -> None:
    """Number and age of what is owed, by receiver; a clock that was set back gives no negative age."""
    store.enqueue([notification("a", at=10), notification("b", at=30), notification("c", receiver="pd", at=50)])
    assert store.outbox_stats(40) == {"slack": OutboxStat(2, 30), "pd": OutboxStat(1, 0)}
    store.drop("a", 40, "silenced")
    assert store.outbox_stats(40)["slack"] == OutboxStat(1, 10)


def test_a_clock_set_back_does_not_hold_a_lease_for_an_hour(store: Store) -> None:
    """A lease that ends later than any given now could end is not believed."""
    hour = 3_600_000
    store.enqueue([notification("n")])
    assert claimed(store, hour) == ["n"]
    assert claimed(store, 0) == ["n"]


def test_notifications_by_what_is_asked(store: Store) -> None:
    """Rows are found by incident, receiver and state, newest first, up to a limit."""
    store.enqueue([notification(f"n{i}", told=f"i{i % 2}", receiver=("slack", "pd")[i // 2]) for i in range(4)])
    store.drop("n3", 1, "muted")
    assert [row.notification.id for row in store.notifications()] == ["n3", "n2", "n1", "n0"]
    assert [row.notification.id for row in store.notifications(incident="i1")] == ["n3", "n1"]
    assert [row.notification.id for row in store.notifications(receiver="slack", limit=1)] == ["n1"]
    assert [row.notification.id for row in store.notifications(state=OutboxState.DROPPED)] == ["n3"]
