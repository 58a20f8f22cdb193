"""Reminders: an incident that stays open is told again after the receiver's repeat interval."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from anomalyd.clock import MINUTE_MS
from anomalyd.episode import Episode, Phase
from anomalyd.incident import Alert, Incident, Notification, Reason, Statement
from anomalyd.records import OutboxRow, OutboxState, Told

MAX_INCIDENTS = 1_000


class Memory(Protocol):
    """What is asked of the store."""

    def open_incidents(self, rule: str | None = None) -> list[Incident]: ...

    def live_episodes(self, rule: str) -> list[Episode]: ...

    def told(self, receiver: str, incident: str) -> Told | None: ...

    def notifications(
        self, *, incident: str | None = None, receiver: str | None = None, state: OutboxState | None = None,
        limit: int = 100,
    ) -> list[OutboxRow]: ...  # fmt: skip


def reminders(store: Memory, every_ms: Mapping[str, int], now: int) -> list[Notification]:
    """The reminders that are due at ``now``; enqueuing them twice changes nothing.

    Args:
        every_ms: repeat interval by receiver; 0 and receivers without an entry are not reminded.
    """
    wanted = {name: every for name, every in every_ms.items() if every > 0}
    owed: list[Notification] = []
    if not wanted:
        return owed
    for incident in store.open_incidents()[:MAX_INCIDENTS]:
        # Nobody can have been told before it opened: the cheap question spares most of the dear ones.
        if now - incident.opened_at < min(wanted.values()):
            continue
        for receiver, every in wanted.items():
            told = store.told(receiver, incident.id)
            if told is not None and told.delivered and now - told.at >= every:
                owed += _reminder(store, incident, receiver, told.at, now)
    return owed


def next_look(store: Memory, every_ms: Mapping[str, int], now: int) -> int | None:
    """When a reminder may be due next, as far as is known at ``now``; None where nothing that is open was told.

    The same as looking every minute, for whoever lives faster than time: to be asked again after each delivery.
    """
    wanted = {name: every for name, every in every_ms.items() if every > 0}
    known = (
        (store.told(receiver, incident.id), every)
        for incident in (store.open_incidents()[:MAX_INCIDENTS] if wanted else ())
        for receiver, every in wanted.items()
    )
    due = min((told.at + every for told, every in known if told is not None and told.delivered), default=None)
    return None if due is None else max(now + MINUTE_MS, now - (now - due) // MINUTE_MS * MINUTE_MS)


def _reminder(store: Memory, incident: Incident, receiver: str, told_at: int, now: int) -> list[Notification]:
    if store.notifications(incident=incident.id, receiver=receiver, state=OutboxState.PENDING, limit=1):
        return []  # something newer is on its way already
    rows = store.notifications(incident=incident.id, receiver=receiver, state=OutboxState.DELIVERED, limit=1)
    if not rows or rows[0].notification.statement.resolved:
        return []
    statement = _refreshed(rows[0].notification.statement, store.live_episodes(incident.rule), incident, now)
    identity = hashlib.blake2b(f"{incident.id}\0repeat\0{told_at}\0{receiver}".encode(), digest_size=12).hexdigest()
    return [Notification(identity, receiver, statement, now)]


def _refreshed(s: Statement, live: Sequence[Episode], incident: Incident, now: int) -> Statement:
    """The statement as of now: the values of series that are still open, those that closed left out."""
    still = {e.id: e for e in live if e.phase == Phase.OPEN and e.incident == incident.id}
    alerts = tuple(_now(alert, still[alert.episode]) for alert in s.alerts if alert.episode in still) or s.alerts
    total = max(len(still), len(alerts))
    return replace(s, reason=Reason.REPEAT, at=now, tier=incident.tier, alerts=alerts, total=total)


def _now(alert: Alert, e: Episode) -> Alert:
    cut = alert.surprise / alert.anomaly_score if alert.surprise and alert.anomaly_score else 0.0
    return replace(
        alert, tier=e.tier, value=e.value, expected=e.expected, lower=e.lower, upper=e.upper, surprise=e.surprise,
        anomaly_score=e.surprise / cut if cut else None,
    )  # fmt: skip
