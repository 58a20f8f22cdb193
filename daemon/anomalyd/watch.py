"""One alert per source that does not answer, never one per series or rule. Pure.

While a source fails, its rules hold: nothing opens, nothing resolves. When it has failed for as long as the most
impatient of its rules holds, the source itself is told as an incident; the first good answer closes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from anomalyd.incident import Alert, Incident, Notification, Reason, Statement
from anomalyd.score import Tier

GROUP, NAME = "anomalyd", "SourceUnavailable"


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """How a source fares: failing since that slot (0: it answers), with its open incident if it was told."""

    failing_since: int = 0
    incident: Incident | None = None


@dataclass(frozen=True, slots=True)
class SourceSeen:
    """What one group saw of a source in one slot; ``reason`` is empty when it answered."""

    source: str
    reason: str = ""
    detail: str = ""


def source_rule(source: str) -> str:
    """The rule id under which a source's incidents are stored."""
    return f"{GROUP}/{NAME}/{source}"


def watch(
    health: SourceHealth, seen: SourceSeen, at: int, hold_ms: int, receivers: Sequence[str], links: Mapping[str, str]
) -> tuple[SourceHealth, tuple[Incident, ...], tuple[Notification, ...]]:
    """Move a source's health by one slot; return it with the changed incident and what is owed to receivers."""
    if not seen.reason:
        if health.incident is None:
            return SourceHealth(), (), ()
        closed = replace(health.incident, closed_at=at)
        statement = _statement(closed, Reason.RESOLVED, seen, at, health.failing_since, links)
        return SourceHealth(), (closed,), _outbox(statement, receivers)
    since = health.failing_since or at
    if health.incident is not None or at - since < hold_ms:
        return replace(health, failing_since=since), (), ()
    key = hashlib.sha256(source_rule(seen.source).encode()).hexdigest()
    identity = hashlib.blake2b(f"{key}\0{at}".encode(), digest_size=10).hexdigest()
    labels = (("source", seen.source),)
    incident = Incident(identity, key, source_rule(seen.source), labels, Tier.CRITICAL, at, episodes=1)
    statement = _statement(incident, Reason.NEW, seen, at, since, links)
    return SourceHealth(since, incident), (incident,), _outbox(statement, receivers)


def _statement(
    incident: Incident, reason: Reason, seen: SourceSeen, at: int, since: int, links: Mapping[str, str]
) -> Statement:
    resolved = reason == Reason.RESOLVED
    alert = Alert(
        episode=incident.id, fingerprint=incident.key[:16], labels=incident.group_labels, tier=incident.tier,
        status="resolved" if resolved else "firing", why="source", value=None, expected=None, lower=None, upper=None,
        surprise=None, anomaly_score=None, started_at=since, opened_at=incident.opened_at,
        closed_at=incident.closed_at, close="recovered" if resolved else "",
    )  # fmt: skip
    summary = (
        f"Source {seen.source} answers again; its rules are evaluated."
        if resolved
        else f"Source {seen.source} does not answer ({seen.reason}): its rules hold, no new anomaly can be found."
    )
    annotations = {"summary": summary} | ({"description": seen.detail[:1024]} if seen.detail else {})
    return Statement(
        incident=incident.id, key=incident.key, rule=incident.rule, group=GROUP, name=NAME, expr="", detector="",
        reason=reason, tier=incident.tier, at=at, opened_at=incident.opened_at, group_labels=incident.group_labels,
        labels={}, annotations=annotations, alerts=(alert,), total=1, links=links,
    )  # fmt: skip


def _outbox(statement: Statement, receivers: Sequence[str]) -> tuple[Notification, ...]:
    def identity(receiver: str) -> str:
        parts = f"{statement.incident}\0{statement.reason}\0{receiver}"
        return hashlib.blake2b(parts.encode(), digest_size=12).hexdigest()

    return tuple(Notification(identity(receiver), receiver, statement, statement.at) for receiver in receivers)
