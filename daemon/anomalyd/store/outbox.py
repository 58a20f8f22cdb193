"""The outbox: what is owed to receivers, who is delivering it, and what they know.

Invariants: rows of one (receiver, incident) are delivered in the order of their creation and by one claimer at a time;
an attempt is counted and its lease committed before anything is sent; a final row never becomes pending again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason
from anomalyd.records import OutboxRow, OutboxStat, OutboxState, Told
from anomalyd.score import Tier
from anomalyd.store import tables
from anomalyd.store.rows import (
    chunks,
    decode_statement,
    insert_new,
    insert_or_update,
    notification_of,
    outbox_of,
    outbox_row,
)
from anomalyd.suppress import Quiet

_TABLE = tables.outbox
_PENDING: sa.ColumnElement[str] = sa.literal_column("'pending'")
_UNCERTAIN = frozenset({"timeout", "server", "cut", "internal"})
"""Reasons after which the receiver may have got the message all the same."""

_MESSAGE_CHARS = 1000


def enqueue(connection: sa.Connection, notifications: Sequence[Notification]) -> None:
    """Owe notifications; one whose id is known already is left as it is."""
    insert_new(connection, _TABLE, [outbox_row(notification) for notification in notifications], ("id",))


def claim(
    connection: sa.Connection, receiver: str, now: int, lease_ms: int, limit: int, token: str
) -> list[Notification]:
    """Lease the pending rows of at most ``limit`` incidents that are due; see ``Store.claim``."""
    insert_new(connection, tables.receivers, [{"name": receiver}], ("name",))
    connection.execute(sa.select(tables.receivers).where(tables.receivers.c.name == receiver).with_for_update())
    order = {incident: i for i, incident in enumerate(_due(connection, receiver, now, lease_ms, limit, token))}
    rows = _pending_rows(connection, receiver, list(order))
    rows.sort(key=lambda row: (order[row.incident], row.seq))
    for part in chunks([row.seq for row in rows]):
        connection.execute(
            sa.update(_TABLE)
            .where(_TABLE.c.seq.in_(part))
            .values(
                attempts=_TABLE.c.attempts + 1,
                in_doubt=sa.case((_TABLE.c.lease_until > 0, 1), else_=_TABLE.c.in_doubt),
                lease_until=now + lease_ms,
                lease_token=token,
            )
        )
    memories = _memories(connection, {(row.incident, row.receiver) for row in rows})
    return [notification_of(row, memories.get((row.incident, row.receiver))) for row in rows]


def _due(connection: sa.Connection, receiver: str, now: int, lease_ms: int, limit: int, token: str) -> list[str]:
    """Incidents with something due that nobody is delivering, emergencies first, then the oldest.

    An incident is due when its oldest pending row is, so that nothing overtakes a row that waits for its retry; an
    emergency does not wait for anybody, and nothing waits for a row that is suppressed: what is newer takes its place.
    A lease that ends later than any lease given now could is not believed: the clock was set back.
    """
    held = sa.and_(
        _TABLE.c.lease_until > now, _TABLE.c.lease_until <= now + 2 * lease_ms, _TABLE.c.lease_token != token
    )
    pending = _pending_incidents(receiver, held)
    urgent = sa.case((pending.c.tier == int(Tier.EMERGENCY), 0), else_=1)
    chosen = (
        sa.select(pending.c.incident)
        .where(pending.c.held == 0, pending.c.due_at <= now)
        .order_by(urgent, pending.c.first)
        .limit(limit)
    )
    return [str(row.incident) for row in connection.execute(chosen)]


def _pending_incidents(receiver: str, held: sa.ColumnElement[bool]) -> sa.Subquery:
    """Per incident with pending rows: the oldest one, the highest tier, when it is due, whether and until when held."""
    emergency = _TABLE.c.tier == int(Tier.EMERGENCY)
    grouped = (
        sa.select(
            _TABLE.c.incident,
            sa.func.min(_TABLE.c.seq).label("first"),
            sa.func.max(_TABLE.c.tier).label("tier"),
            sa.func.min(_TABLE.c.next_at).label("soonest"),
            sa.func.min(sa.case((emergency, _TABLE.c.next_at))).label("emergency_at"),
            sa.func.max(sa.case((held, 1), else_=0)).label("held"),
            sa.func.max(_TABLE.c.lease_until).label("lease_until"),
        )
        .where(_TABLE.c.receiver == receiver, _TABLE.c.state == _PENDING)
        .group_by(_TABLE.c.incident)
        .subquery()
    )
    head = _TABLE.alias("head")
    sooner = sa.case(
        (head.c.reason == Quiet.SUPPRESSED.value, grouped.c.soonest),
        (grouped.c.emergency_at < head.c.next_at, grouped.c.emergency_at),
        else_=head.c.next_at,
    )
    return sa.select(grouped, sooner.label("due_at")).join(head, head.c.seq == grouped.c.first).subquery()


def next_due(connection: sa.Connection, receiver: str) -> int | None:
    """The earliest time at which a claim finds something; None when nothing is owed."""
    pending = _pending_incidents(receiver, sa.false())
    later = sa.case((pending.c.lease_until > pending.c.due_at, pending.c.lease_until), else_=pending.c.due_at)
    found = connection.execute(sa.select(sa.func.min(later))).scalar()
    return None if found is None else int(found)


def _pending_rows(connection: sa.Connection, receiver: str, incidents: list[str]) -> list[sa.Row[Any]]:
    rows: list[sa.Row[Any]] = []
    for part in chunks(incidents):
        chosen = sa.select(_TABLE).where(
            _TABLE.c.receiver == receiver, _TABLE.c.state == _PENDING, _TABLE.c.incident.in_(part)
        )
        rows += connection.execute(chosen.order_by(_TABLE.c.seq).with_for_update()).all()
    return rows


def _memories(connection: sa.Connection, keys: set[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    table = tables.memories
    for part in chunks(sorted({incident for incident, _ in keys})):
        for row in connection.execute(sa.select(table).where(table.c.incident.in_(part))):
            if (row.incident, row.receiver) in keys:
                found[row.incident, row.receiver] = row.memory
    return found


def settle(
    connection: sa.Connection, number: str, now: int, outcome: Outcome, next_at: int | None, attempt: int | None
) -> bool:
    """Record how an attempt ended; see ``Store.settle``."""
    row = connection.execute(sa.select(_TABLE).where(_TABLE.c.id == number).with_for_update()).first()
    if row is None or not _applies(row, outcome, attempt):
        return False
    state = _state_after(outcome)
    final = state != OutboxState.PENDING
    doubt = row.in_doubt or outcome.reason in _UNCERTAIN
    values = {
        "state": state.value,
        "reason": outcome.reason,
        "message": outcome.message[:_MESSAGE_CHARS],
        "next_at": row.next_at if final else (now if next_at is None else next_at),
        "lease_until": 0,
        "lease_token": "",
        "in_doubt": 0 if state == OutboxState.DELIVERED else int(doubt),
        "settled_at": now if final else 0,
    }
    connection.execute(sa.update(_TABLE).where(_TABLE.c.seq == row.seq).values(values))
    if outcome.memory is not None:
        memory = {"incident": row.incident, "receiver": row.receiver, "memory": dict(outcome.memory)}
        insert_or_update(connection, tables.memories, [memory])
    if state == OutboxState.DELIVERED:
        _remember_series(connection, row, now)
    return True


def _applies(row: sa.Row[Any], outcome: Outcome, attempt: int | None) -> bool:
    """A delivery counts whoever made it; other outcomes only from the one who holds the row, while it is pending."""
    if outcome.kind == OutcomeKind.DELIVERED:
        return bool(row.state != OutboxState.DELIVERED)
    return bool(row.state == OutboxState.PENDING and (attempt is None or row.attempts == attempt + 1))


def _state_after(outcome: Outcome) -> OutboxState:
    if outcome.kind == OutcomeKind.DELIVERED:
        return OutboxState.DELIVERED
    return OutboxState.FAILED if outcome.kind == OutcomeKind.FAILED else OutboxState.PENDING


def _remember_series(connection: sa.Connection, row: sa.Row[Any], now: int) -> None:
    """Note for each series of the statement that this receiver was told of it, those beyond its top list too."""
    if row.kind in (Reason.RESOLVED, Reason.JUDGED, Reason.TEST):
        return
    statement = decode_statement(row.statement)
    tiers = {alert.fingerprint: int(alert.tier) for alert in statement.alerts if alert.status == "firing"}
    if statement.total > len(statement.alerts):
        told = tables.episodes
        beyond = sa.select(told.c.fingerprint, told.c.tier).where(
            told.c.incident == row.incident, told.c.opened_at > 0, told.c.opened_at <= statement.at
        )
        tiers = {found.fingerprint: found.tier for found in connection.execute(beyond)} | tiers
    keys = {"receiver": row.receiver, "rule": row.rule, "at": now}
    insert_or_update(
        connection, tables.series_told, [keys | {"fingerprint": f, "tier": t} for f, t in sorted(tiers.items())]
    )


def drop(connection: sa.Connection, number: str, now: int, reason: str) -> bool:
    """Close a pending row without sending it."""
    values = {
        "state": OutboxState.DROPPED.value, "reason": reason, "settled_at": now, "lease_until": 0, "lease_token": "",
    }  # fmt: skip
    changed = sa.update(_TABLE).where(_TABLE.c.id == number, _TABLE.c.state == _PENDING).values(values)
    return connection.execute(changed).rowcount > 0


def told(connection: sa.Connection, receiver: str, incident: str) -> Told | None:
    """What a receiver knows of an incident; None when certainly nothing."""
    delivered = _TABLE.c.state == OutboxState.DELIVERED.value
    asked = sa.select(
        sa.func.max(sa.case((delivered, _TABLE.c.settled_at))).label("at"),
        sa.func.max(sa.case((delivered, _TABLE.c.tier))).label("tier"),
        sa.func.max(_TABLE.c.in_doubt).label("in_doubt"),
    ).where(
        _TABLE.c.receiver == receiver, _TABLE.c.incident == incident,
        _TABLE.c.kind.not_in((Reason.RESOLVED.value, Reason.JUDGED.value)),
    )  # fmt: skip
    row = connection.execute(asked).one()
    if row.at is None and not row.in_doubt:
        return None
    return Told(int(row.at or 0), Tier(row.tier or 0), row.at is not None, bool(row.in_doubt))


def series_told(
    connection: sa.Connection, receiver: str, rule: str, fingerprints: Sequence[str]
) -> dict[str, tuple[int, Tier]]:
    """When and at which tier a receiver was last told of each series."""
    table = tables.series_told
    found: dict[str, tuple[int, Tier]] = {}
    for part in chunks(fingerprints):
        chosen = sa.select(table).where(
            table.c.receiver == receiver, table.c.rule == rule, table.c.fingerprint.in_(part)
        )  # fmt: skip
        found |= {row.fingerprint: (int(row.at), Tier(row.tier)) for row in connection.execute(chosen)}
    return found


def stats(connection: sa.Connection, now: int) -> dict[str, OutboxStat]:
    """What each receiver is owed."""
    asked = (
        sa.select(_TABLE.c.receiver, sa.func.count().label("pending"), sa.func.min(_TABLE.c.created_at).label("oldest"))
        .where(_TABLE.c.state == _PENDING)
        .group_by(_TABLE.c.receiver)
    )
    return {
        row.receiver: OutboxStat(int(row.pending), max(0, now - int(row.oldest))) for row in connection.execute(asked)
    }


def find(
    connection: sa.Connection, incident: str | None, receiver: str | None, state: OutboxState | None, limit: int
) -> list[OutboxRow]:
    """Outbox rows, newest first."""
    chosen = sa.select(_TABLE).order_by(_TABLE.c.seq.desc()).limit(limit)
    if incident is not None:
        chosen = chosen.where(_TABLE.c.incident == incident)
    if receiver is not None:
        chosen = chosen.where(_TABLE.c.receiver == receiver)
    if state is not None:
        chosen = chosen.where(_TABLE.c.state == state.value)
    rows = connection.execute(chosen).all()
    memories = _memories(connection, {(row.incident, row.receiver) for row in rows})
    return [outbox_of(row, memories.get((row.incident, row.receiver))) for row in rows]
