"""Silences, inhibition, budgets, reminders and keep-alive through the whole delivery, over the real store."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from anomalyd.clock import HOUR_MS, VirtualClock
from anomalyd.delivery.budget import DIGEST_EVERY_MS, DIGEST_RULE, Budget
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.hush import InhibitRule
from anomalyd.delivery.quiet import Known, Wishes, stages
from anomalyd.delivery.remind import reminders
from anomalyd.errors import DeliveryError
from anomalyd.incident import Incident, Outcome, OutcomeKind, Reason, Statement
from anomalyd.matcher import parse_matchers
from anomalyd.records import OutboxState, Silence
from anomalyd.render import Rendered
from anomalyd.score import Tier
from anomalyd.slot import SlotCommit
from anomalyd.store import Store, open_store
from anomalyd.suppress import Subject
from fakes.receiver import DOWN, OK, FakeReceiver
from fakes.statements import MINUTE, START, a_notification, a_statement


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


class Elsewhere:
    """An Alertmanager's silences."""

    name = "am"

    def __init__(self, *found: Silence) -> None:
        self.found, self.asked, self.down = list(found), 0, False

    def silences(self, now: int) -> Sequence[Silence]:
        self.asked += 1
        if self.down:
            raise DeliveryError("connect", "nobody listens")
        return self.found


class World:
    """A store, one receiver and the wishes of its people."""

    def __init__(
        self, store: Store, receiver: FakeReceiver | None = None, wishes: Wishes | None = None, *elsewhere: Elsewhere
    ):
        self.store, self.now = store, START
        self.r = receiver or FakeReceiver()
        self.wishes, self.elsewhere = wishes or Wishes(), elsewhere
        self.restart()

    def restart(self) -> None:
        known = Known(self.store, lambda rule: {"team": "payments"}, self.elsewhere)
        self.budget = Budget(self.wishes.budget_per_hour, self.store)
        self.deliverer = Deliverer(
            self.store, {"r": self.r}, stages=stages(self.wishes, known, self.budget), budget=self.budget,
            clock=VirtualClock(self.now), rng=random.Random(1),
        )  # fmt: skip

    def owe(self, *statements: Statement) -> None:
        self.store.enqueue([a_notification(s, created_at=self.now) for s in statements])

    def open(self, *statements: Statement) -> None:
        """Open incidents as an evaluation does: with their rows in the same commit."""
        incidents = tuple(
            Incident(s.incident, s.key, s.rule, s.group_labels, s.tier, s.opened_at, episodes=1) for s in statements
        )
        rows = tuple(a_notification(s, created_at=self.now) for s in statements)
        self.store.commit_slot(SlotCommit("checkout", self.now, (), incidents=incidents, outbox=rows))

    def run(self, ms: int) -> None:
        end = self.now + ms
        while True:
            again = self.deliverer.deliver_once("r", self.now).next_at
            if again is None or again > end:
                self.now = end
                return
            self.now = max(again, self.now + 1)


def a_silence(text: str, minutes: int) -> Silence:
    return Silence(f"s{minutes}", parse_matchers(text), START, START + minutes * MINUTE, "ana", created_at=START)


def test_silence_added_lifted_and_over(store: Store) -> None:
    """While a silence holds nothing is told; when it is lifted, what is still true is told within a minute."""
    world = World(store)
    store.add_silence(a_silence("region=eu", 60))
    world.owe(a_statement())
    world.run(20 * MINUTE)
    assert world.r.told == []
    assert store.notifications()[0].reason == "silenced"
    store.expire_silence("s60", world.now)
    world.run(MINUTE + 6_000)
    assert world.r.told == ["new critical inc-1"]


def test_what_ends_while_silenced_is_never_told(store: Store) -> None:
    """Both rows end, with the silence as the reason."""
    world = World(store)
    store.add_silence(a_silence("region=eu", 60))
    world.owe(a_statement())
    world.run(5 * MINUTE)
    world.owe(a_statement(Reason.RESOLVED))
    world.run(2 * HOUR_MS)
    assert world.r.told == []
    assert [row.reason for row in store.notifications(state=OutboxState.DROPPED)] == ["never_told", "silenced"]


def test_end_passes_a_silence(store: Store) -> None:
    """Whoever was told of the beginning is told of the end, silenced or not."""
    world = World(store)
    world.owe(a_statement())
    world.run(MINUTE)
    store.add_silence(a_silence("region=eu", 60))
    world.run(MINUTE)
    world.owe(a_statement(Reason.RESOLVED))
    world.run(MINUTE)
    assert world.r.told == ["new critical inc-1", "resolved critical inc-1"]


def test_silences_of_an_alertmanager(store: Store) -> None:
    """They hold here too, are asked for twice a minute, and are not believed for long when it stops answering."""
    elsewhere = Elsewhere(a_silence("region=eu", 600))
    world = World(store, None, None, elsewhere)
    world.owe(a_statement())
    world.run(10 * MINUTE)
    assert world.r.told == []
    assert elsewhere.asked <= 21
    elsewhere.down = True
    world.run(9 * MINUTE)
    assert world.r.told == []
    world.run(3 * MINUTE)
    assert world.r.told == ["new critical inc-1"]


def test_inhibited_until_the_source_closes(store: Store) -> None:
    """While the greater incident is open the lesser one waits; afterwards it is told if it is still there."""
    rule = InhibitRule(parse_matchers("alertname=ClusterDown"), parse_matchers("tier=warning"), ("region",))
    world = World(store, None, Wishes(inhibit_rules=(rule,)))
    down = a_statement(tier=Tier.EMERGENCY, incident="down", rule="infra/ClusterDown", name="ClusterDown")
    world.open(down)
    world.owe(a_statement(tier=Tier.WARNING))
    world.run(10 * MINUTE)
    assert world.r.told == ["new emergency down"]
    (incident,) = store.open_incidents()
    store.commit_slot(
        SlotCommit("checkout", world.now, (), incidents=(replace(incident, closed_at=world.now),))
    )  # fmt: skip
    world.run(2 * MINUTE)
    assert world.r.told == ["new emergency down", "new warning inc-1"]


def test_lowest_tier_of_a_receiver(store: Store) -> None:
    """Below it nothing is sent, not even the end; above it the incident is new."""
    world = World(store, None, Wishes(min_tier={"r": Tier.CRITICAL}))
    world.owe(a_statement(tier=Tier.WARNING))
    world.run(MINUTE)
    world.owe(a_statement(Reason.WORSE, Tier.CRITICAL, at=START + MINUTE))
    world.run(MINUTE)
    world.owe(a_statement(Reason.RESOLVED))
    world.run(MINUTE)
    assert world.r.told == ["new critical inc-1", "resolved critical inc-1"]


# Budget ---------------------------------------------------------------------------------------------------------


def test_budget_and_digest(store: Store) -> None:
    """Beyond the budget only emergencies pass; a digest names what waits; the rest goes out later if still true."""
    world = World(store, None, Wishes(budget_per_hour={"r": 10}))
    world.owe(*(a_statement(incident=f"i{n:02}") for n in range(30)))
    world.run(MINUTE)
    digests = [s for s in world.r.delivered if s.notification.statement.rule == DIGEST_RULE]
    assert len(world.r.told) == 11
    assert len(digests) == 1
    assert "more open incidents wait" in digests[0].rendered.summary
    world.owe(a_statement(incident="fire", tier=Tier.EMERGENCY))
    world.run(MINUTE)
    assert world.r.told[-1] == "new emergency fire"
    world.owe(*(a_statement(Reason.RESOLVED, incident=f"i{n:02}") for n in range(20, 30)))
    world.run(3 * HOUR_MS)
    begun = [t for t in world.r.told if t.startswith("new critical i")]
    assert begun == [f"new critical i{n:02}" for n in range(20)]
    hours = [s.now for s in world.r.delivered]
    assert all(sum(1 for t in hours if a <= t < a + HOUR_MS) <= 10 + 1 + 4 for a in hours)
    assert not store.notifications(state=OutboxState.PENDING)


def test_budget_survives_a_restart(store: Store) -> None:
    """What was sent before a restart counts."""
    world = World(store, None, Wishes(budget_per_hour={"r": 5}))
    world.owe(*(a_statement(incident=f"i{n}") for n in range(5)))
    world.run(MINUTE)
    world.restart()
    world.owe(a_statement(incident="later"))
    world.run(DIGEST_EVERY_MS)
    assert "new critical later" not in world.r.told
    world.run(HOUR_MS)
    assert "new critical later" in world.r.told


def test_digest_is_not_lost(store: Store) -> None:
    """The digest is a row of the outbox like any other: a receiver that is down gets it later."""
    world = World(store, None, Wishes(budget_per_hour={"r": 1}))
    world.owe(a_statement(incident="a"))
    world.run(1)
    world.r.otherwise = lambda n, now: DOWN if now < START + 5 * MINUTE else OK
    world.owe(a_statement(incident="b"))
    world.run(12 * MINUTE)
    assert [s.notification.statement.rule for s in world.r.delivered][1:] == [DIGEST_RULE]


# Reminders ------------------------------------------------------------------------------------------------------


def test_reminders(store: Store) -> None:
    """An open incident is told again after the interval, once; a closed one never."""
    world = World(store)
    world.open(a_statement())
    for _ in range(60):
        world.run(10 * MINUTE)
        store.enqueue(reminders(store, {"r": 4 * HOUR_MS, "other": HOUR_MS, "off": 0}, world.now))
        store.enqueue(reminders(store, {"r": 4 * HOUR_MS}, world.now))
    assert world.r.told == ["new critical inc-1", "repeat critical inc-1", "repeat critical inc-1"]
    assert world.r.delivered[1].rendered.title.startswith("[STILL CRITICAL]")
    (incident,) = store.open_incidents()
    world.owe(a_statement(Reason.RESOLVED, at=world.now))
    store.commit_slot(SlotCommit("checkout", world.now, (), incidents=(replace(incident, closed_at=world.now),)))
    world.run(MINUTE)
    assert reminders(store, {"r": 1}, world.now + HOUR_MS) == []


# Keep-alive -----------------------------------------------------------------------------------------------------


class FakeKeeper(FakeReceiver):
    """A receiver whose peer forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.beats: list[int] = []
        self.restored: list[str] = []
        self.next = 0

    def beat_at(self) -> int | None:
        return self.next if self.restored or self.delivered else None

    def keep_alive(self, now: int) -> Outcome:
        self.beats.append(now)
        self.next = now + MINUTE
        return Outcome(OutcomeKind.DELIVERED)

    def restore(self, statement: Statement, rendered: Rendered, now: int) -> None:
        self.restored.append(statement.incident)


def test_keep_alive_every_minute_and_after_a_restart(store: Store) -> None:
    """What was told is repeated every minute, also by the next process, which takes it up from the store."""
    world = World(store, FakeKeeper())
    world.open(a_statement(), a_statement(incident="other"))
    world.run(1)
    world.run(10 * MINUTE)
    assert isinstance(world.r, FakeKeeper)
    assert 10 <= len(world.r.beats) <= 12
    world.r = FakeKeeper()
    world.restart()
    world.run(3 * MINUTE)
    assert isinstance(world.r, FakeKeeper)
    assert sorted(world.r.restored) == ["inc-1", "other"]
    assert len(world.r.beats) >= 3


def test_a_pass_that_takes_time_counts_what_it_sent(store: Store) -> None:
    """The digest is asked for with the time at which the pass began: what was sent after that is not forgotten."""
    budget = Budget({"r": 1}, store)
    row = a_notification(created_at=START)
    budget.account("r", row, OutcomeKind.DELIVERED, START + 2_000)
    assert budget.digest("r", START) is None
    s = a_statement(incident="inc-2")
    verdict = budget.stage(Subject(a_notification(s), s, "r", START + 3_000, None, {}, START))
    assert verdict is not None
    assert verdict.reason == "budget"


def test_a_reload_keeps_the_hour(store: Store) -> None:
    """What was told and the digest that was sent carry over; the new limit holds."""
    older, newer = Budget({"r": 2}, store), Budget({"r": 1}, store)
    older.account("r", a_notification(created_at=START), OutcomeKind.DELIVERED, START)
    newer.adopt(older)
    s = a_statement(incident="inc-2")
    assert newer.stage(Subject(a_notification(s), s, "r", START + 3_000, None, {}, START)) is not None
    assert newer.digest("r", START + 4_000) is not None
    third = Budget({"r": 1}, store)
    third.adopt(newer)
    assert third.digest("r", START + 5_000) is None
