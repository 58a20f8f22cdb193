"""What delivering needs and gives: the store as seen from here, receivers that keep alive, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from anomalyd.incident import Incident, Notification, Outcome, OutcomeKind, Statement
from anomalyd.logs import get_logger
from anomalyd.records import Fence, OutboxRow, OutboxState, Told
from anomalyd.render import Rendered
from anomalyd.score import Tier

HELD = "held"
DROPPED = "dropped"

log = get_logger("deliver")


class Outbox(Protocol):
    """What is asked of the store (see ``store.Store``)."""

    def claim(
        self, receiver: str, now: int, lease_ms: int, limit: int, *, fence: Fence | None = None
    ) -> list[Notification]: ...

    def settle(
        self, id: str, now: int, outcome: Outcome, next_at: int | None = None, *, attempt: int | None = None
    ) -> bool: ...

    def drop(self, id: str, now: int, reason: str) -> bool: ...

    def told(self, receiver: str, incident: str) -> Told | None: ...

    def series_told(self, receiver: str, rule: str, fingerprints: Sequence[str]) -> dict[str, tuple[int, Tier]]: ...

    def enqueue(self, notifications: Sequence[Notification]) -> None: ...

    def open_incidents(self, rule: str | None = None) -> list[Incident]: ...

    def notifications(
        self, *, incident: str | None = None, receiver: str | None = None, state: OutboxState | None = None,
        limit: int = 100,
    ) -> list[OutboxRow]: ...  # fmt: skip


@runtime_checkable
class KeepsAlive(Protocol):
    """A receiver whose peer forgets what is not repeated (Alertmanager)."""

    def beat_at(self) -> int | None: ...

    def keep_alive(self, now: int) -> Outcome: ...

    def restore(self, statement: Statement, rendered: Rendered, now: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one notification in a pass, for metrics and logs.

    Attributes:
        outcome: delivered, retry, failed, held or dropped.
        reason: closed set, a metric label.
    """

    receiver: str
    notification: Notification
    outcome: str
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over one receiver's outbox; ``next_at`` is when to come again, None when nothing is known to wait."""

    deliveries: tuple[Delivery, ...] = ()
    next_at: int | None = None

    def count(self, outcome: str) -> int:
        return sum(1 for delivery in self.deliveries if delivery.outcome == outcome)


def note(delivery: Delivery) -> None:
    """Write to the log what became of a notification."""
    s = delivery.notification.statement
    facts = {
        "receiver": delivery.receiver, "rule": s.rule, "incident": s.incident, "statement": s.reason.value,
        "tier": s.tier.word, "reason": delivery.reason, "notification": delivery.notification.id,
    }  # fmt: skip
    if delivery.outcome == OutcomeKind.FAILED:
        log.error("notification failed for good", **facts, error=delivery.message)
    elif delivery.outcome == OutcomeKind.RETRY:
        log.warning("notification not delivered, will be tried again", **facts, error=delivery.message)
    elif delivery.outcome == OutcomeKind.DELIVERED:
        log.info("notification delivered", **facts)
    else:
        log.debug(f"notification {delivery.outcome}", **facts)
