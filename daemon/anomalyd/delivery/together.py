"""``Together``: incidents of several rules about one service that begin together are one notification.

The first that a receiver is told of leads. Another of the same service (equal values of the chosen labels) that began
within a few minutes of it waits while the leader is open, unless it is of a higher tier than was told. It is named in
every message about the leader; if it came after the last one, an update says so. What outlasts its leader is told then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from anomalyd.clock import MINUTE_MS
from anomalyd.delivery.hush import Firing
from anomalyd.incident import Notification, Reason, Statement
from anomalyd.matcher import statement_labels
from anomalyd.records import OutboxRow, OutboxState, Told
from anomalyd.render import clean
from anomalyd.suppress import RECHECK_MS, Hold, Subject

TOGETHER = "together"
NAMED = 5
"""Companions named in a message; the rest are counted."""
MAX_WAITING = 1_000

Service = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Company:
    """What makes incidents one: equal values of all ``labels``, none empty, begun within ``within_ms`` of another."""

    labels: tuple[str, ...]
    within_ms: int = 10 * MINUTE_MS


class Book(Protocol):
    """What is asked of the store."""

    def told(self, receiver: str, incident: str) -> Told | None: ...

    def notifications(
        self, *, incident: str | None = None, receiver: str | None = None, state: OutboxState | None = None,
        limit: int = 100,
    ) -> list[OutboxRow]: ...  # fmt: skip


class Together:
    """The stage, the words and the updates.

    Args:
        terms: None: every incident is told by itself.
        firing: the open incidents as of a time; the same list as long as nothing was read anew.
    """

    def __init__(self, terms: Company | None, book: Book, firing: Callable[[int], Sequence[Firing]]):
        self._terms, self._book, self._firing = terms, book, firing
        self._read: tuple[Sequence[Firing], dict[Service, list[Firing]]] = ((), {})

    def stage(self, subject: Subject) -> Hold | None:
        """Hold what belongs to an incident that the receiver knows of already."""
        if self._terms is None or subject.told is not None:
            return None
        leader = self._leader(subject.statement, subject.receiver, subject.now)
        return Hold(TOGETHER, subject.now + RECHECK_MS) if leader is not None else None

    def words(self, s: Statement, now: int) -> str:
        """The other open incidents that began together with this one, the worst first; empty when it is alone."""
        others = sorted(self._company(s, now), key=lambda one: (-one.tier, one.opened_at, one.incident))
        named = [f"{clean(one.labels['alertname'], 60)} ({one.labels['tier']})" for one in others[:NAMED]]
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        return ", ".join(named) + more

    def updates(self, receivers: Collection[str], now: int) -> list[Notification]:
        """What receivers are owed about leaders whose company has grown; enqueuing it twice changes nothing."""
        owed: list[Notification] = []
        for receiver in receivers if self._terms is not None else ():
            rows = self._book.notifications(receiver=receiver, state=OutboxState.PENDING, limit=MAX_WAITING)
            made = (self._update(row, receiver, now) for row in rows if row.reason == TOGETHER)
            owed += [update for update in made if update is not None]
        return owed

    def _update(self, row: OutboxRow, receiver: str, now: int) -> Notification | None:
        s = row.notification.statement
        leader = self._leader(s, receiver, now)
        told = (
            self._book.notifications(incident=leader.incident, receiver=receiver, state=OutboxState.DELIVERED, limit=1)
            if leader is not None else []
        )  # fmt: skip
        if not told or told[0].settled_at >= row.notification.created_at:
            return None  # its newest message names the companion
        note = f"{clean(s.name, 80)} ({s.tier.word}) has begun too"
        last = told[0].notification.statement
        statement = replace(last, reason=Reason.MORE, at=now, suppress_ms=0, note=note)
        identity = f"{last.incident}\0together\0{receiver}\0{s.incident}".encode("utf-8", "replace")
        return Notification(hashlib.blake2b(identity, digest_size=12).hexdigest(), receiver, statement, now)

    def _leader(self, s: Statement, receiver: str, now: int) -> Firing | None:
        """The incident that this receiver was told of, at this tier or a higher one."""
        for other in self._company(s, now):
            told = self._book.told(receiver, other.incident)
            if told is not None and told.delivered and told.tier >= s.tier:
                return other
        return None

    def _company(self, s: Statement, now: int) -> list[Firing]:
        terms = self._terms
        service = self._service(statement_labels(s))
        if terms is None or service is None:
            return []
        known = self._by_service(now).get(service, [])
        return [
            one for one in known
            if one.incident != s.incident and abs(one.opened_at - s.opened_at) <= terms.within_ms
        ]  # fmt: skip

    def _service(self, labels: Mapping[str, str]) -> Service | None:
        values = tuple(labels.get(name, "") for name in self._terms.labels) if self._terms else ()
        return values if values and all(values) else None

    def _by_service(self, now: int) -> dict[Service, list[Firing]]:
        firing = self._firing(now)
        if self._read[0] is not firing:
            found: dict[Service, list[Firing]] = {}
            for one in firing:
                if (service := self._service(one.labels)) is not None:
                    found.setdefault(service, []).append(one)
            self._read = firing, found
        return self._read[1]
