"""Delivery under a storm: 10,000 episodes open in one minute, receivers at their documented rate limits.

The real store and deliver loop on a virtual clock; the receivers refuse what goes beyond their limits. By default the
episodes are told in incidents of ten series, as a rule's ``group_by`` does; ``FULL=1`` gives each its own.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory

from anomalyd.block import fingerprint, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS, SECOND_MS, VirtualClock
from anomalyd.console.links import Signer, link_actions, link_charts, link_places
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.past import Past
from anomalyd.delivery.words import Words
from anomalyd.incident import Alert, Notification, Outcome, OutcomeKind, Reason, Statement
from anomalyd.logs import configure
from anomalyd.receivers.base import Pace
from anomalyd.receivers.pagerduty import PagerDuty
from anomalyd.receivers.slack import Slack
from anomalyd.records import OutboxState
from anomalyd.render import Rendered
from anomalyd.score import Tier
from anomalyd.store import Store, open_store
from bench.harness import Context, Figure, limit, quality, timed

EPISODES = 10_000
START = 1_767_323_040_000
EMERGENCIES = 0.02
WEEK_MS = 7 * DAY_MS
ENDS_BY = START + 30 * MINUTE_MS


@dataclass
class Limited:
    """A receiver that takes ``most`` messages in any ``within_ms`` and answers 429 beyond; 0 is no limit."""

    name: str
    pace: Pace
    most: int
    within_ms: int
    send_resolved: bool = True
    kind: str = "bench"
    refused: int = 0
    delivered: list[tuple[int, str, Reason, Tier]] = field(default_factory=list)
    recent: deque[int] = field(default_factory=deque)

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        while self.recent and now - self.recent[0] >= self.within_ms:
            self.recent.popleft()
        if self.most and len(self.recent) >= self.most:
            self.refused += 1
            return Outcome(OutcomeKind.RETRY, "rate_limited", retry_after_s=1.0)
        self.recent.append(now)
        s = notification.statement
        self.delivered.append((now, s.incident, s.reason, s.tier))
        return Outcome(OutcomeKind.DELIVERED)

    def close(self) -> None:
        """Nothing is open."""


def run(context: Context) -> Iterable[Figure]:
    """Open, let half end, and deliver until nothing is owed."""
    size = 1 if context.full else 10
    receivers = [
        Limited("slack", Slack.pace, 1, 1_000), Limited("pagerduty", PagerDuty.pace, 120, 60_000),
        Limited("webhook", Pace(), 0, 0),
    ]  # fmt: skip
    with TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/anomalyd.db")
        storms = [list(_storm(r.name, EPISODES // size, size)) for r in receivers]
        rows = sum(len(storm) for storm in storms)
        configure("error")
        before = getrusage(RUSAGE_SELF).ru_maxrss
        with timed() as timing:
            for receiver, storm in zip(receivers, storms, strict=True):
                _live(store, receiver, storm)
        grown = getrusage(RUSAGE_SELF).ru_maxrss - before
        yield from _judge(store, receivers, rows)
        store.close()
    messages = sum(len(r.delivered) for r in receivers)
    yield Figure(f"{messages:,} messages of {EPISODES:,} episodes, CPU s", timing.cpu_s)
    yield Figure("CPU ms a message", 1_000 * timing.cpu_s / messages)
    yield limit("growth of the process's memory, peak MB", grown / 1e3, at_most=100)


def _storm(receiver: str, incidents: int, size: int) -> Iterator[tuple[int, Notification]]:
    """When what is owed: the beginnings within one minute, half of the ends within half an hour."""
    rng = random.Random(5)
    for n in range(incidents):
        tier = Tier.EMERGENCY if rng.random() < EMERGENCIES else rng.choice((Tier.WARNING, Tier.CRITICAL))
        at = START + rng.randrange(MINUTE_MS)
        for s in _story(n, size, tier, at, rng.randrange(at, ENDS_BY) if n % 2 else 0):
            yield s.at, Notification(f"{s.incident}-{s.reason}-{receiver}", receiver, s, s.at)


def _story(n: int, size: int, tier: Tier, at: int, ends_at: int) -> Iterator[Statement]:
    key = hashlib.sha256(str(n).encode()).hexdigest()
    for reason, when in ((Reason.NEW, at), (Reason.RESOLVED, ends_at)):
        if not when:
            continue
        status = "firing" if reason == Reason.NEW else "resolved"
        alerts = tuple(_alert(n, i, tier, status, at) for i in range(size))
        yield Statement(
            incident=f"i{n:05}", key=key, rule=f"bench/r{n % 50}", group="bench", name=f"r{n % 50}", expr="x",
            detector="mad", reason=reason, tier=tier, at=when, opened_at=at, group_labels=(("pod", str(n)),),
            labels={}, annotations={"summary": "out of its band"}, alerts=alerts, total=size, suppress_ms=1_800_000,
        )  # fmt: skip


def _alert(n: int, i: int, tier: Tier, status: str, at: int) -> Alert:
    labels = make_labels({"pod": f"pod-{n}-{i}", "namespace": "shop"})
    return Alert(
        f"e{n}-{i}", fingerprint(labels), labels, tier, status, "surprise", 1.9, 0.4, 0.3, 0.5, 5.0, 1.4, at, at
    )


def _words(store: Store) -> Words:
    """Whole messages as the daemon makes them: signed buttons, links, addresses of charts, the past of the series."""
    signer, url = Signer(b"a key of the benchmark"), "https://anomalyd.example"
    buttons, places = link_actions(signer, url, WEEK_MS, True), link_places(signer, url, WEEK_MS)
    return Words(buttons, places, None, link_charts(signer, url, WEEK_MS), Past(store))


def _live(store: Store, receiver: Limited, storm: list[tuple[int, Notification]]) -> None:
    """Let the storm happen and deliver until nothing is owed."""
    clock = VirtualClock(START)
    deliverer = Deliverer(
        store, {receiver.name: receiver}, words=_words(store), clock=clock, rng=random.Random(1)
    )
    storm.sort(key=lambda event: event[0])
    done = 0
    while True:
        now = clock.now_ms()
        upto = bisect_right(storm, now, lo=done, key=lambda event: event[0])
        if upto > done:
            store.enqueue([notification for _, notification in storm[done:upto]])
            done = upto
        again = deliverer.deliver_once(receiver.name, now).next_at
        # What happens is committed once a second, as a group's evaluation commits.
        happens = [(storm[done][0] // SECOND_MS + 1) * SECOND_MS] if done < len(storm) else []
        times = [*happens, *([] if again is None else [max(again, now + 1)])]
        if not times:
            return
        clock.advance_to(max(now, min(times)))


def _judge(store: Store, receivers: list[Limited], rows: int) -> Iterator[Figure]:
    pending = len(store.notifications(state=OutboxState.PENDING, limit=rows))
    states = [len(store.notifications(state=state, limit=rows)) for state in OutboxState]
    yield limit("rows without an end (nothing lost)", pending + rows - sum(states), at_most=0)
    yield limit("messages refused by a rate limit", sum(r.refused for r in receivers), at_most=0)
    wrong = 0
    for receiver in receivers:
        told: set[str] = set()
        for _, incident, reason, _ in receiver.delivered:
            wrong += (incident in told) == (reason == Reason.NEW)
            told.add(incident)
    yield limit("messages out of order or twice within an incident", wrong, at_most=0)
    for receiver in receivers:
        last = max(now for now, _, reason, tier in receiver.delivered if reason == Reason.NEW)
        urgent = max(
            (now for now, _, reason, tier in receiver.delivered if reason == Reason.NEW and tier == Tier.EMERGENCY),
            default=START,
        )
        yield Figure(f"{receiver.name}: last message after, s", (last - START) / 1_000)
        share = (last - START) / max(1, urgent - START)
        yield quality(f"{receiver.name}: last emergency out before the last of all, times", share, at_least=1.0)
