"""The deliver loop over the real store (SQLite in memory) and receivers without a network, on a virtual clock."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from anomalyd.clock import HOUR_MS, SECOND_MS, VirtualClock
from anomalyd.delivery.deliver import LEASE_MS, Deliverer
from anomalyd.delivery.needs import Delivery, Pass
from anomalyd.delivery.trouble import TROUBLE_RULE
from anomalyd.delivery.words import Words
from anomalyd.incident import Outcome, OutcomeKind, Reason, Statement
from anomalyd.receivers.base import Pace
from anomalyd.records import OutboxState
from anomalyd.render import Action
from anomalyd.score import Tier
from anomalyd.store import Store, open_store
from anomalyd.suppress import Hold, Subject
from fakes.receiver import DOWN, GONE, LOST, OK, FakeReceiver
from fakes.statements import MINUTE, START, a_notification, a_statement, an_alert


class World:
    """A store, one or more receivers, a deliverer and the time."""

    def __init__(self, store: Store, *receivers: FakeReceiver, **options: Any) -> None:
        self.store = store
        self.receivers = {r.name: r for r in receivers or (FakeReceiver(),)}
        self.now = START
        self.seen: list[Delivery] = []
        self.options = options
        self.restart()

    def restart(self) -> None:
        """A new process on the same database."""
        self.clock = VirtualClock(self.now)
        self.deliverer = Deliverer(
            self.store, self.receivers, observe=self.seen.append, clock=self.clock, rng=random.Random(1), **self.options
        )

    @property
    def r(self) -> FakeReceiver:
        return self.receivers["r"]

    def owe(self, *statements: Statement, receiver: str = "r") -> None:
        self.store.enqueue([a_notification(s, receiver, created_at=self.now) for s in statements])

    def go(self, receiver: str = "r") -> Pass:
        return self.deliverer.deliver_once(receiver, self.now)

    def run(self, ms: int, receiver: str = "r") -> None:
        """Live on for a while, passing whenever the deliverer wants to."""
        end = self.now + ms
        while True:
            again = self.go(receiver).next_at
            if again is None or again > end:
                self.now = end
                return
            self.now = max(again, self.now + 1)

    def reasons(self, state: OutboxState) -> list[str]:
        return [row.reason for row in reversed(self.store.notifications(state=state))]


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def later(statement: Statement, ms: int, **changes: Any) -> Statement:
    return replace(statement, at=statement.at + ms, **changes)


def test_delivers_and_settles(world: World) -> None:
    """What is owed is sent once, with the row's id, and nothing waits afterwards."""
    world.owe(a_statement())
    result = world.go()
    assert world.r.told == ["new critical inc-1"]
    assert (result.count("delivered"), result.next_at) == (1, None)
    world.run(10 * MINUTE)
    assert len(world.r.attempts) == 1
    assert world.store.notifications()[0].state == OutboxState.DELIVERED


def test_only_the_newest_is_sent(world: World) -> None:
    """Of several pending statements one goes out, worded as first news; the others are rows with a reason."""
    first = a_statement(tier=Tier.WARNING)
    world.owe(first, later(first, 1, reason=Reason.MORE), later(first, 2, reason=Reason.WORSE, tier=Tier.EMERGENCY))
    world.go()
    assert world.r.told == ["new emergency inc-1"]
    assert world.reasons(OutboxState.DROPPED) == ["superseded", "superseded"]


def test_resolved_follows_a_delivered_trigger(world: World) -> None:
    """The end is told to whom the beginning was told."""
    world.owe(a_statement())
    world.go()
    world.owe(a_statement(Reason.RESOLVED))
    world.go()
    assert world.r.told == ["new critical inc-1", "resolved critical inc-1"]


def test_never_told_is_never_resolved(world: World) -> None:
    """An incident that began and ended while the receiver was down is not told at all."""
    world.r.answers = [DOWN] * 3
    world.owe(a_statement())
    world.run(3 * SECOND_MS)
    world.owe(a_statement(Reason.RESOLVED))
    world.run(10 * MINUTE)
    assert world.r.told == []
    assert world.reasons(OutboxState.DROPPED) == ["never_told", "never_told"]


def test_in_doubt_is_resolved(world: World) -> None:
    """When an attempt may have arrived, the end is sent although the beginning is not known to be delivered."""
    world.r.answers = [LOST]
    world.owe(a_statement())
    world.go()
    world.owe(a_statement(Reason.RESOLVED))
    world.run(10 * MINUTE)
    assert world.r.told == ["resolved critical inc-1"]


def test_died_between_send_and_settle_is_in_doubt(store: Store) -> None:
    """A claim that was never settled is sent again after its lease, and the end is sent in any case."""
    world = World(store)
    world.owe(a_statement())
    assert store.claim("r", world.now, LEASE_MS, 16)  # and then the process died
    assert world.go().count("delivered") == 0
    world.now += LEASE_MS + 1
    world.restart()
    world.go()
    assert world.r.told == ["new critical inc-1"]


def test_resolved_off(store: Store) -> None:
    """A receiver that does not want the end of incidents has a row that says so."""
    world = World(store, FakeReceiver(send_resolved=False))
    world.owe(a_statement())
    world.go()
    world.owe(a_statement(Reason.RESOLVED))
    world.go()
    assert world.r.told == ["new critical inc-1"]
    assert world.reasons(OutboxState.DROPPED) == ["resolved_off"]


def test_retry_backs_off_and_recovers(world: World) -> None:
    """A receiver that is down for an hour is tried ever more slowly, and told when it is back."""
    end = START + HOUR_MS
    world.r.otherwise = lambda n, now: DOWN if now < end else OK
    world.owe(a_statement())
    world.run(HOUR_MS + 10 * MINUTE)
    times = [sent.now for sent in world.r.attempts]
    gaps = [b - a for a, b in pairwise(times)]
    assert 1_000 <= gaps[0] <= 2_000 + 1
    assert max(gaps) <= 5 * MINUTE + 1
    assert len(times) < 60
    assert world.r.told == ["new critical inc-1"]


def test_failed_is_final(world: World) -> None:
    """A permanent refusal is recorded and not tried again; the end of that incident is not sent."""
    world.r.answers = [GONE]
    world.owe(a_statement())
    world.run(HOUR_MS)
    assert len(world.r.attempts) == 1
    assert world.reasons(OutboxState.FAILED) == ["not_found"]
    world.owe(a_statement(Reason.RESOLVED))
    world.run(HOUR_MS)
    assert len(world.r.attempts) == 1


def test_rate_limit_closes_the_gate_and_emergencies_go_first(world: World) -> None:
    """After 429 nothing is sent before Retry-After; then the emergency that came last goes first."""
    world.r.answers = [Outcome(OutcomeKind.RETRY, "rate_limited", retry_after_s=30)]
    world.owe(a_statement(incident="a"), a_statement(incident="b"), a_statement(incident="c"))
    world.go()
    assert len(world.r.attempts) == 1
    world.owe(a_statement(incident="late", tier=Tier.EMERGENCY))
    world.run(29 * SECOND_MS)
    assert len(world.r.attempts) == 1
    world.run(5 * SECOND_MS)
    assert world.r.told[0] == "new emergency late"
    assert sorted(world.r.told[1:]) == [f"new critical {i}" for i in "abc"]


def test_absurd_retry_after_is_not_obeyed(world: World) -> None:
    """A receiver that asks for a year is asked again after five minutes."""
    world.r.answers = [Outcome(OutcomeKind.RETRY, "rate_limited", retry_after_s=3e7)]
    world.owe(a_statement())
    world.run(6 * MINUTE)
    assert world.r.told == ["new critical inc-1"]


def test_pace_is_kept(store: Store) -> None:
    """Never more than the documented rate, and no faster after a pause than the burst allows."""
    world = World(store, FakeReceiver(pace=Pace(1_000, 5)))
    world.owe(*(a_statement(incident=f"i{n}") for n in range(40)))
    world.run(2 * MINUTE)
    times = [sent.now for sent in world.r.attempts]
    assert len(times) == 40
    assert all(sum(1 for t in times if start <= t < start + 10_000) <= 15 for start in times)
    assert times[-1] - times[0] <= 36_000


def test_one_odd_message_does_not_stop_the_others(world: World) -> None:
    """A message that always fails waits for its turn while the others go out."""
    world.r.otherwise = lambda n, now: DOWN if n.statement.incident == "odd" else OK
    world.owe(a_statement(incident="odd"), *(a_statement(incident=f"i{n}") for n in range(20)))
    world.run(MINUTE)
    assert len(world.r.told) == 20


def test_a_receiver_that_is_down_is_not_asked_for_every_message(world: World) -> None:
    """With hundreds of messages owed, a dead receiver is asked now and then, not for each of them."""
    world.r.otherwise = DOWN
    world.owe(*(a_statement(incident=f"i{n}") for n in range(300)))
    world.run(10 * MINUTE)
    assert len(world.r.attempts) < 60


def test_a_fault_of_ours_in_one_message(world: World) -> None:
    """An exception inside a receiver is an outcome of that notification; the pass goes on."""
    world.r.answers = [KeyError("boom")]
    world.owe(a_statement(incident="a"), a_statement(incident="b"))
    world.go()
    assert world.r.told == ["new critical b"]
    world.run(MINUTE)
    assert world.r.told == ["new critical b", "new critical a"]


def test_a_message_that_cannot_be_rendered_is_sent(store: Store) -> None:
    """A fault in rendering is told in the message; the alert still goes out."""

    def broken(statement: Statement, receiver: str) -> tuple[Action, ...]:
        raise RuntimeError("no actions today")

    world = World(store, words=Words(actions=broken))
    world.owe(a_statement())
    world.go()
    assert world.r.told == ["new critical inc-1"]
    assert "could not be rendered" in world.r.delivered[0].rendered.text


def test_receivers_are_isolated(store: Store) -> None:
    """What one receiver does or refuses never shows at another."""
    world = World(store, FakeReceiver("r"), FakeReceiver("s"))
    world.r.otherwise = DOWN
    for receiver in ("r", "s"):
        world.owe(a_statement(), receiver=receiver)
    world.go("r")
    world.go("s")
    assert world.receivers["s"].told == ["new critical inc-1"]
    assert world.r.told == []


def test_a_receiver_that_refuses_for_good_is_told_through_the_others(store: Store) -> None:
    """A revoked token is news for the other receivers, once, and so is its end; a single bad message is not."""
    world = World(store, FakeReceiver("r"), FakeReceiver("s"))
    world.r.answers = [Outcome(OutcomeKind.FAILED, "client", "too long"), GONE, GONE]
    for name in ("a", "b", "c"):
        world.owe(a_statement(incident=name))
    world.go("r")
    world.run(MINUTE, "s")
    (told,) = world.receivers["s"].delivered
    assert told.rendered.title == "[CRITICAL] ReceiverFailing: r"
    assert "refuses notifications for good (not_found)" in told.rendered.summary
    world.owe(a_statement(incident="d"))
    world.go("r")
    world.run(MINUTE, "s")
    assert [s.rendered.title for s in world.receivers["s"].delivered][1:] == ["[RESOLVED] ReceiverFailing: r"]


def test_what_is_refused_for_good_goes_to_the_fallback_with_its_end(store: Store) -> None:
    """Fault 60: the second channel is told of the beginning, of what became worse and of the end, each once."""
    world = World(store, FakeReceiver("r"), FakeReceiver("s"), fallbacks={"r": "s"})
    world.r.otherwise = Outcome(OutcomeKind.FAILED, "client", "too long")
    for reason, tier in ((Reason.NEW, Tier.WARNING), (Reason.WORSE, Tier.EMERGENCY), (Reason.RESOLVED, Tier.EMERGENCY)):
        world.owe(a_statement(reason, tier))
        world.now += MINUTE
        world.run(MINUTE, "r")
        world.run(MINUTE, "s")
    assert world.r.told == []
    assert world.receivers["s"].told == ["new warning inc-1", "worse emergency inc-1", "resolved emergency inc-1"]
    assert not store.notifications(state=OutboxState.PENDING)


def test_a_fallback_that_is_told_anyway_is_not_told_twice(store: Store) -> None:
    """It is on the route too; and tests and news of trouble stay where they were."""
    world = World(store, FakeReceiver("r"), FakeReceiver("s"), fallbacks={"r": "s"})
    world.r.otherwise = Outcome(OutcomeKind.FAILED, "client", "too long")
    for reason in (Reason.NEW, Reason.RESOLVED):
        world.owe(a_statement(reason), receiver="s")
        world.owe(a_statement(reason))
        world.run(MINUTE, "r")
        world.run(MINUTE, "s")
    world.owe(a_statement(Reason.TEST, incident="t"))
    world.owe(a_statement(incident="x", rule=TROUBLE_RULE))
    world.run(MINUTE, "r")
    world.run(MINUTE, "s")
    assert world.receivers["s"].told == ["new critical inc-1", "resolved critical inc-1"]


def test_memory_reaches_the_next_statement(world: World) -> None:
    """What an outcome remembers comes back with the incident's next statement."""
    world.r.answers = [Outcome(OutcomeKind.DELIVERED, memory={"ts": "1.2"})]
    world.owe(a_statement())
    world.go()
    world.owe(a_statement(Reason.RESOLVED))
    world.go()
    assert world.r.delivered[1].memory == {"ts": "1.2"}


def test_expired(world: World) -> None:
    """A statement that a restored database or a long stop left behind is not sent, and has a row that says so."""
    world.owe(a_statement())
    world.now += 2 * HOUR_MS
    world.restart()
    world.go()
    assert world.r.told == []
    assert world.reasons(OutboxState.DROPPED) == ["expired"]


def test_an_outage_longer_than_the_page_age_loses_nothing(world: World) -> None:
    """While the daemon keeps trying, an incident that is still open is told however long the receiver was away."""
    world.r.otherwise = lambda n, now: DOWN if now < START + 3 * HOUR_MS else OK
    world.owe(a_statement())
    world.run(3 * HOUR_MS + 10 * MINUTE)
    assert world.r.told == ["new critical inc-1"]


# Suppression window ------------------------------------------------------------------------------------------------


def reopened(minutes: int, **changes: Any) -> Statement:
    """The same series abnormal again, as another incident."""
    at = START + minutes * MINUTE
    return a_statement(**{"incident": f"inc-{minutes}", "at": at, "opened_at": at} | changes)


def test_window_holds_and_ends(world: World) -> None:
    """A series told within the window stays quiet; if it is still abnormal when the window ends, it is told then."""
    world.owe(a_statement())
    world.go()
    world.owe(a_statement(Reason.RESOLVED, at=START + 5 * MINUTE))
    world.run(10 * MINUTE)
    world.owe(reopened(10))
    world.run(19 * MINUTE)
    assert world.r.told == ["new critical inc-1", "resolved critical inc-1"]
    world.run(2 * MINUTE)
    assert world.r.told[2:] == ["new critical inc-10"]
    assert world.r.attempts[-1].now == START + 30 * MINUTE


def test_window_swallows_what_ends_within(world: World) -> None:
    """What begins and ends within the window is never told; the rows say why."""
    world.owe(a_statement())
    world.run(10 * MINUTE)
    world.owe(reopened(10))
    world.run(5 * MINUTE)
    world.owe(reopened(10, reason=Reason.RESOLVED))
    world.run(HOUR_MS)
    assert world.r.told == ["new critical inc-1"]
    assert world.reasons(OutboxState.DROPPED) == ["suppressed", "never_told"]


def test_higher_tier_passes_the_window(world: World) -> None:
    """The same series at a higher tier is told at once, in the same incident and in another."""
    world.owe(a_statement(tier=Tier.WARNING))
    world.go()
    world.owe(reopened(5, tier=Tier.CRITICAL, alerts=(an_alert(tier=Tier.CRITICAL),)))
    world.run(MINUTE)
    assert world.r.told == ["new warning inc-1", "new critical inc-5"]
    world.owe(reopened(6, incident="inc-5", reason=Reason.WORSE, tier=Tier.EMERGENCY))
    world.run(MINUTE)
    assert world.r.told[2:] == ["worse emergency inc-5"]


def test_escalation_of_a_held_incident_is_told_within_a_minute(world: World) -> None:
    """An incident held by the window that becomes worse is told at the next look."""
    world.owe(a_statement())
    world.run(10 * MINUTE)
    world.owe(reopened(10))
    world.run(2 * MINUTE)
    alerts = (an_alert(tier=Tier.EMERGENCY),)
    world.owe(reopened(12, incident="inc-10", reason=Reason.WORSE, tier=Tier.EMERGENCY, alerts=alerts))
    world.run(MINUTE + 1)
    assert world.r.told == ["new critical inc-1", "new emergency inc-10"]


def test_window_is_per_series(world: World) -> None:
    """Another series of the same rule is news."""
    world.owe(a_statement())
    world.run(MINUTE)
    world.owe(reopened(1, incident="inc-1b", alerts=(an_alert("us"),)))
    world.run(MINUTE)
    assert world.r.told == ["new critical inc-1", "new critical inc-1b"]


def test_window_survives_a_restart(world: World) -> None:
    """A restart alone pages nobody."""
    world.owe(a_statement())
    world.go()
    world.restart()
    world.owe(reopened(5))
    world.run(10 * MINUTE)
    assert world.r.told == ["new critical inc-1"]


def test_more_series_at_most_every_five_minutes(world: World) -> None:
    """Ten series that join one after another are told in one message five minutes after the first."""
    world.owe(a_statement())
    world.go()
    for n in range(1, 11):
        alerts = tuple(an_alert(f"r{i}") for i in range(n + 1))
        at = START + n * 20 * SECOND_MS
        world.owe(a_statement(Reason.MORE, alerts=alerts, total=n + 1, at=at))
        world.run(20 * SECOND_MS)
    world.run(10 * MINUTE)
    assert world.r.told == ["new critical inc-1", "more critical inc-1"]
    assert world.r.delivered[1].notification.statement.total == 11
    assert world.r.delivered[1].now >= START + 5 * MINUTE


def test_no_window_without_suppress(world: World) -> None:
    """`suppress: 0s` tells everything."""
    world.owe(a_statement(suppress_ms=0))
    world.go()
    world.owe(reopened(1, suppress_ms=0))
    world.go()
    assert len(world.r.told) == 2


def test_clock_set_back_mutes_nobody(world: World) -> None:
    """A time of telling that lies in the future proves nothing."""
    world.now += HOUR_MS
    world.owe(a_statement())
    world.go()
    world.now -= HOUR_MS
    world.restart()
    world.owe(reopened(1))
    world.run(MINUTE)
    assert len(world.r.told) == 2


def test_a_test_passes_everything(store: Store) -> None:
    """A test message is sent whatever is muted."""
    world = World(store, stages=[lambda s: Hold("muted", s.now + HOUR_MS)])
    world.owe(a_statement(Reason.TEST, incident="test"), a_statement())
    world.run(MINUTE)
    assert world.r.told == ["test critical test"]


def test_a_stage_of_the_user_holds_until_it_lets_go(store: Store) -> None:
    """A stage that holds is asked again at least every minute, and what is still true is told when it lets go."""
    quiet_until = START + 2 * HOUR_MS

    def mute(subject: Subject) -> Hold | None:
        return Hold("muted", quiet_until) if subject.now < quiet_until else None

    world = World(store, stages=[mute])
    world.owe(a_statement())
    world.run(2 * HOUR_MS - 1)
    assert world.r.told == []
    assert world.seen[-1].outcome == "held"
    world.run(MINUTE)
    assert world.r.told == ["new critical inc-1"]


def test_random_lives_keep_the_promises(store: Store) -> None:
    """Over random incidents, outages and deaths: no end before its beginning, none forgotten, nothing told twice."""
    rng = random.Random(7)
    world = World(store)
    open_incidents: dict[str, Tier] = {}
    told_open: set[str] = set()
    in_doubt: set[str] = set()
    for step in range(150):
        world.r.otherwise = rng.choice([OK, OK, OK, DOWN])
        name = f"i{rng.randrange(12)}-{step}"
        if open_incidents and rng.random() < 0.5:
            name = rng.choice(sorted(open_incidents))
            if rng.random() < 0.5:
                tier = open_incidents.pop(name)
                world.owe(a_statement(Reason.RESOLVED, tier, name, at=world.now, alerts=()))
            else:
                open_incidents[name] = tier = Tier(min(3, open_incidents[name] + 1))
                world.owe(a_statement(Reason.WORSE, tier, name, at=world.now, alerts=(), suppress_ms=0))
        else:
            open_incidents[name] = Tier.WARNING
            world.owe(a_statement(Reason.NEW, Tier.WARNING, name, at=world.now, alerts=(), suppress_ms=0))
        if rng.random() < 0.1:
            in_doubt |= {row.statement.incident for row in store.claim("r", world.now, LEASE_MS, 2)}
            world.restart()
        world.run(rng.randrange(1, 60) * SECOND_MS)
    world.r.otherwise = OK
    world.run(20 * MINUTE)
    for sent in world.r.delivered:
        s = sent.notification.statement
        if s.resolved:
            assert s.incident in told_open | in_doubt
            told_open.discard(s.incident)
        else:
            told_open.add(s.incident)
    assert told_open == set(open_incidents)
    assert not world.store.notifications(state=OutboxState.PENDING)
    assert len({sent.notification.id for sent in world.r.delivered}) == len(world.r.delivered)


@pytest.mark.parametrize(("place", "code"), [("", 0), ("elsewhere", 0), ("after_claim", 137)])
def test_crashpoint_ends_the_process_only_where_it_is_named(place: str, code: int) -> None:
    """A named place ends the process as kill -9 would; any other leaves it alone."""
    program = "from anomalyd.crashpoint import crashpoint; crashpoint('after_claim')"
    environment = {**os.environ, "ANOMALYD_CRASHPOINT": place}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == code
