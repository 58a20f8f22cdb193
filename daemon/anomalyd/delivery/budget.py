"""A budget of messages per receiver and hour, and the digest that tells of what it holds back.

Emergencies and escalations pass and count; everything else waits when the hour's budget is used up, and goes out later
if it is still true. So that nobody is left in the dark, a digest names what is waiting, at most one every quarter of an
hour and only when it has something to name that the last one had not.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from anomalyd.clock import HOUR_MS, MINUTE_MS
from anomalyd.incident import MAX_ALERTS, Notification, OutcomeKind, Reason, Statement
from anomalyd.records import OutboxRow, OutboxState
from anomalyd.score import Tier
from anomalyd.suppress import Hold, Subject

DIGEST_RULE = "anomalyd/Digest"
DIGEST_EVERY_MS = 15 * MINUTE_MS
LOOK_AFTER_MS = 15 * MINUTE_MS
"""Thousands may wait for a budget: they are not looked at every minute. An emergency among them is due at once."""
BUDGET = "budget"


class History(Protocol):
    """What is asked of the store."""

    def notifications(
        self, *, incident: str | None = None, receiver: str | None = None, state: OutboxState | None = None,
        limit: int = 100,
    ) -> list[OutboxRow]: ...  # fmt: skip


@dataclass(slots=True)
class _Hour:
    """One receiver: when it was told within the last hour, what waits, and what of it a digest has named."""

    limit: int
    told: deque[int]
    waiting: dict[str, Statement] = field(default_factory=dict)
    named: dict[str, Tier] = field(default_factory=dict)
    next_digest: int = 0

    def has_news(self) -> bool:
        """Whether something waits that no digest has named yet, or only at a lower tier."""
        return any(s.tier > self.named.get(name, Tier.NONE) for name, s in self.waiting.items())


class Budget:
    """The stage of all receivers that have a budget; what was sent before a restart is read from the store.

    Args:
        limits: messages an hour by receiver; 0 and receivers without an entry have no limit.
    """

    def __init__(self, limits: Mapping[str, int], history: History):
        self._limits = {name: limit for name, limit in limits.items() if limit > 0}
        self._history = history
        self._hours: dict[str, _Hour] = {}

    def adopt(self, older: Budget) -> None:
        """Go on where another left off (a reload): what was told and what waits stays so, under the new limits."""
        for name, hour in older._hours.items():
            if name in self._limits:
                self._hours[name] = replace(hour, limit=self._limits[name])

    def stage(self, subject: Subject) -> Hold | None:
        """Hold what the budget does not cover."""
        hour = self._hour(subject.receiver, subject.now)
        s = subject.statement
        if hour is None or s.tier == Tier.EMERGENCY or subject.escalates or s.rule == DIGEST_RULE:
            return None
        if s.reason == Reason.ESCALATED:
            return None
        if len(hour.told) < hour.limit:
            return None
        hour.waiting[s.incident] = s
        return Hold(BUDGET, hour.told[0] + HOUR_MS, LOOK_AFTER_MS)

    def account(self, receiver: str, notification: Notification, outcome: str, now: int) -> None:
        """Hear of what became of a notification."""
        hour = self._hour(receiver, now)
        if hour is None or outcome == "held":
            return
        if outcome != OutcomeKind.RETRY:
            hour.waiting.pop(notification.statement.incident, None)
        if outcome == OutcomeKind.DELIVERED:
            hour.told.append(now)

    def digest(self, receiver: str, now: int) -> Notification | None:
        """The digest that is due to a receiver now, to be put into the outbox."""
        hour = self._hour(receiver, now)
        if hour is None or now < hour.next_digest or not hour.has_news():
            return None
        hour.next_digest = now + DIGEST_EVERY_MS
        hour.named = {name: s.tier for name, s in hour.waiting.items()}
        statement = digest_of(receiver, list(hour.waiting.values()), hour.limit, now)
        return Notification(statement.incident, receiver, statement, now)

    def _hour(self, receiver: str, now: int) -> _Hour | None:
        if receiver not in self._limits:
            return None
        hour = self._hours.get(receiver)
        if hour is None:
            limit = self._limits[receiver]
            rows = self._history.notifications(receiver=receiver, state=OutboxState.DELIVERED, limit=limit)
            hour = self._hours[receiver] = _Hour(limit, deque(sorted(row.settled_at for row in rows)))
        # Within a pass time goes on: what was sent a moment after its start counts. Far ahead: the clock was set back.
        while hour.told and not now - HOUR_MS < hour.told[0] <= now + MINUTE_MS:
            hour.told.popleft()
        return hour


def digest_of(receiver: str, waiting: Sequence[Statement], limit: int, now: int) -> Statement:
    """One statement about many incidents that wait for a receiver's budget; the worst first."""
    ranked = sorted(waiting, key=lambda s: (-s.tier, s.opened_at, s.incident))
    alerts = [alert for s in ranked for alert in s.alerts]
    by_tier = {tier: sum(1 for s in ranked if s.tier == tier) for tier in reversed(Tier) if tier}
    counts = ", ".join(f"{count} {tier.word}" for tier, count in by_tier.items() if count)
    identity = hashlib.blake2b(f"digest\0{receiver}\0{now}".encode(), digest_size=10).hexdigest()
    names = ", ".join(dict.fromkeys(s.name for s in ranked[:10]))
    return Statement(
        incident=identity, key=hashlib.sha256(identity.encode()).hexdigest(), rule=DIGEST_RULE, group="anomalyd",
        name="Digest", expr="", detector="", reason=Reason.NEW, tier=max(s.tier for s in ranked), at=now,
        opened_at=min(s.opened_at for s in ranked), group_labels=(), labels={},
        annotations={
            "summary": f"{len(ranked)} more open incidents wait ({counts}): the budget of {limit} messages an hour is "
            f"used up. Rules: {names}",
        },
        alerts=tuple(alerts[:MAX_ALERTS]), total=len(alerts), links=ranked[0].links,
    )  # fmt: skip
