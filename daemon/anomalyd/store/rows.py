"""Values to rows and back. Every bound string and number passes a column type of ``columns.py``, which cleans it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from anomalyd.episode import Close, Episode, Phase
from anomalyd.errors import StoreError
from anomalyd.incident import Incident, Notification, Statement
from anomalyd.records import Feedback, FeedbackLabel, Matcher, OutboxRow, OutboxState, Silence, ThresholdChange
from anomalyd.score import Tier, Why
from anomalyd.slot import Notice, NoticeKind
from anomalyd.store.text import clean_json

_SCALARS = (
    "id", "rule", "fingerprint", "labels", "started_at", "seen_at", "opened_at", "calm_since", "closed_at", "value",
    "expected", "lower", "upper", "surprise", "peak_at", "peak_value", "peak_expected", "peak_surprise", "incident",
    "model",
)  # fmt: skip


def insert_or_update(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows; where the primary key exists, replace all other columns. Both dialects spell it alike."""
    if rows:
        connection.execute(_insert_or_update(connection.dialect.name, table), list(rows))


@cache
def _insert_or_update(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """The statement, made once: making it takes longer than running it."""
    statement = _dialect_insert(dialect, table)
    keys = [column.name for column in table.primary_key]
    rest = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=rest)


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]], key: Sequence[str]) -> int:
    """Insert the rows whose ``key`` is not there yet; return their number where one row was given."""
    if not rows:
        return 0
    statement = dialect_insert(connection, table).on_conflict_do_nothing(index_elements=list(key))
    if len(rows) == 1:
        return connection.execute(statement, rows[0], execution_options={"preserve_rowcount": True}).rowcount
    connection.execute(statement, list(rows))
    return len(rows)


def dialect_insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """The INSERT that knows ON CONFLICT."""
    return _dialect_insert(connection.dialect.name, table)


def _dialect_insert(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def episode_row(episode: Episode) -> dict[str, Any]:
    """An episode as a row of ``episodes``."""
    row = {name: getattr(episode, name) for name in _SCALARS}
    warning, critical, emergency = episode.reached
    return row | {
        "phase": episode.phase.value,
        "tier": int(episode.tier),
        "reached_warning": warning,
        "reached_critical": critical,
        "reached_emergency": emergency,
        "close": episode.close.value if episode.close else "",
        "why": int(episode.why),
        "learned_ms": episode.learned_ms,
    }


def episode_of(row: sa.Row[Any]) -> Episode:
    """Inverse of ``episode_row``."""
    scalars = {name: getattr(row, name) for name in _SCALARS}
    return Episode(
        **scalars,
        phase=Phase(row.phase),
        tier=Tier(row.tier),
        reached=(row.reached_warning, row.reached_critical, row.reached_emergency),
        close=Close(row.close) if row.close else None,
        why=Why(row.why),
        learned_ms=row.learned_ms or 0,
    )


def incident_row(incident: Incident) -> dict[str, Any]:
    """An incident as a row of ``incidents``."""
    return {
        "id": incident.id,
        "key": incident.key,
        "rule": incident.rule,
        "group_labels": incident.group_labels,
        "tier": int(incident.tier),
        "opened_at": incident.opened_at,
        "closed_at": incident.closed_at,
        "episodes": incident.episodes,
    }


def incident_of(row: sa.Row[Any]) -> Incident:
    """Inverse of ``incident_row``."""
    return Incident(
        row.id, row.key, row.rule, row.group_labels, Tier(row.tier), row.opened_at, row.closed_at, row.episodes
    )


def notice_row(notice: Notice) -> dict[str, Any]:
    """A notice as a row of ``notices``."""
    return {name: getattr(notice, name) for name in Notice.__dataclass_fields__} | {"kind": notice.kind.value}


def notice_of(row: sa.Row[Any]) -> Notice:
    """Inverse of ``notice_row``."""
    values = {name: getattr(row, name) for name in Notice.__dataclass_fields__}
    return Notice(**values | {"kind": NoticeKind(row.kind)})


def encode_statement(statement: Statement) -> str:
    """A statement as JSON; a number that JSON does not have becomes null."""
    return msgspec.json.encode(clean_json(msgspec.to_builtins(statement))).decode()


def decode_statement(text: str) -> Statement:
    """Inverse of ``encode_statement``; StoreError `corrupt` for anything else."""
    try:
        return msgspec.json.decode(text.encode(), type=Statement)
    except msgspec.MsgspecError as error:
        raise StoreError("corrupt", f"a stored notification cannot be read: {error}") from error


def outbox_row(notification: Notification) -> dict[str, Any]:
    """A new notification as a row of ``outbox``, due at once."""
    statement = notification.statement
    return {
        "id": notification.id,
        "receiver": notification.receiver,
        "incident": statement.incident,
        "rule": statement.rule,
        "kind": statement.reason.value,
        "tier": int(statement.tier),
        "created_at": notification.created_at,
        "statement": encode_statement(statement),
        "state": OutboxState.PENDING.value,
        "reason": "",
        "message": "",
        "attempts": notification.attempt,
        "next_at": notification.created_at,
        "lease_until": 0,
        "lease_token": "",
        "in_doubt": 0,
        "settled_at": 0,
    }


def notification_of(row: sa.Row[Any], memory: dict[str, Any] | None) -> Notification:
    """A row of ``outbox`` as the notification it owes; ``attempt`` is what the row says now."""
    statement = decode_statement(row.statement)
    return Notification(row.id, row.receiver, statement, row.created_at, row.attempts, memory or {})


def outbox_of(row: sa.Row[Any], memory: dict[str, Any] | None) -> OutboxRow:
    """A row of ``outbox`` with what became of it."""
    return OutboxRow(
        notification=notification_of(row, memory),
        state=OutboxState(row.state),
        reason=row.reason,
        message=row.message,
        attempts=row.attempts,
        next_at=row.next_at,
        lease_until=row.lease_until,
        in_doubt=bool(row.in_doubt),
        settled_at=row.settled_at,
    )


def feedback_row(vote: Feedback) -> dict[str, Any]:
    """A vote as a row of ``feedback``."""
    row = {name: getattr(vote, name) for name in Feedback.__dataclass_fields__}
    return row | {"label": vote.label.value}


def feedback_of(row: sa.Row[Any]) -> Feedback:
    """Inverse of ``feedback_row``."""
    values = {name: getattr(row, name) for name in Feedback.__dataclass_fields__}
    return Feedback(**values | {"label": FeedbackLabel(row.label)})


def silence_row(silence: Silence) -> dict[str, Any]:
    """A silence as a row of ``silences``."""
    row = {name: getattr(silence, name) for name in Silence.__dataclass_fields__}
    return row | {"matchers": [[m.name, m.op, m.value] for m in silence.matchers]}


def silence_of(row: sa.Row[Any]) -> Silence:
    """Inverse of ``silence_row``."""
    values = {name: getattr(row, name) for name in Silence.__dataclass_fields__}
    return Silence(**values | {"matchers": tuple(Matcher(*parts) for parts in row.matchers)})


def threshold_row(change: ThresholdChange) -> dict[str, Any]:
    """A threshold change as a row of ``thresholds``, without its number."""
    warning, critical, emergency = change.cuts
    names = [name for name in ThresholdChange.__dataclass_fields__ if name not in ("id", "cuts")]
    row = {name: getattr(change, name) for name in names}
    return row | {"warning": warning, "critical": critical, "emergency": emergency}


def threshold_of(row: sa.Row[Any]) -> ThresholdChange:
    """Inverse of ``threshold_row``, with its number."""
    names = [name for name in ThresholdChange.__dataclass_fields__ if name != "cuts"]
    values = {name: getattr(row, name) for name in names}
    return ThresholdChange(**values, cuts=(row.warning, row.critical, row.emergency))


def chunks(values: Iterable[Any], size: int = 500) -> Iterable[list[Any]]:
    """Split into lists short enough for the engines' limits on bound parameters."""
    batch: list[Any] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
