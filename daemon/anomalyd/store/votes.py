"""What people say and what follows from it: feedback, threshold history, silences."""

from __future__ import annotations

import sqlalchemy as sa

from anomalyd.records import Feedback, Silence, ThresholdChange
from anomalyd.store import tables
from anomalyd.store.rows import (
    feedback_of,
    feedback_row,
    insert_new,
    insert_or_update,
    silence_of,
    silence_row,
    threshold_of,
    threshold_row,
)


def add_feedback(connection: sa.Connection, vote: Feedback) -> bool:
    """Add a vote; False if its id is known already."""
    return insert_new(connection, tables.feedback, [feedback_row(vote)], ("id",)) > 0


def undo_feedback(connection: sa.Connection, number: str, now: int) -> bool:
    """Take a vote back; it stays in the record."""
    table = tables.feedback
    changed = sa.update(table).where(table.c.id == number, table.c.undone_at == 0).values(undone_at=now)
    return connection.execute(changed).rowcount > 0


def find_feedback(connection: sa.Connection, rule: str | None, episode: str | None) -> list[Feedback]:
    """Votes, undone ones too, oldest first."""
    table = tables.feedback
    chosen = sa.select(table).order_by(table.c.at, table.c.id)
    if rule is not None:
        chosen = chosen.where(table.c.rule == rule)
    if episode is not None:
        chosen = chosen.where(table.c.episode == episode)
    return [feedback_of(row) for row in connection.execute(chosen)]


def stamp(connection: sa.Connection) -> tuple[int, ...]:
    """Numbers that change whenever a vote or a threshold is added or taken back."""
    chosen = []
    for table in (tables.feedback, tables.thresholds):
        count = sa.select(sa.func.count()).select_from(table).scalar_subquery()
        undone = sa.select(sa.func.coalesce(sa.func.sum(table.c.undone_at), 0)).scalar_subquery()
        chosen += [count, undone]
    return tuple(int(number) for number in connection.execute(sa.select(*chosen)).one())


def save_threshold(connection: sa.Connection, change: ThresholdChange, nonce: str) -> int:
    """Append to the history, once for a nonce; return the number of the entry."""
    table = tables.thresholds
    insert_new(connection, table, [threshold_row(change) | {"nonce": nonce}], ("nonce",))
    return int(connection.execute(sa.select(table.c.id).where(table.c.nonce == nonce)).scalar_one())


def undo_threshold(connection: sa.Connection, number: int, now: int) -> bool:
    """Take an entry back; it stays in the record."""
    table = tables.thresholds
    changed = sa.update(table).where(table.c.id == number, table.c.undone_at == 0).values(undone_at=now)
    return connection.execute(changed).rowcount > 0


def find_thresholds(connection: sa.Connection, rule: str) -> list[ThresholdChange]:
    """The whole history of a rule and its series, oldest first."""
    table = tables.thresholds
    chosen = sa.select(table).where(table.c.rule == rule).order_by(table.c.id)
    return [threshold_of(row) for row in connection.execute(chosen)]


def save_silence(connection: sa.Connection, silence: Silence) -> None:
    """Add a silence, or replace the one with its id."""
    insert_or_update(connection, tables.silences, [silence_row(silence)])


def expire_silence(connection: sa.Connection, number: str, now: int) -> bool:
    """End a silence now; False if there is none or it has ended."""
    table = tables.silences
    starts = sa.case((table.c.starts_at > now, now), else_=table.c.starts_at)
    changed = sa.update(table).where(table.c.id == number, table.c.ends_at > now).values(ends_at=now, starts_at=starts)
    return connection.execute(changed).rowcount > 0


def find_silences(connection: sa.Connection, now: int | None) -> list[Silence]:
    """Silences that have not ended at ``now``, or all; in order of their start."""
    table = tables.silences
    chosen = sa.select(table).order_by(table.c.starts_at, table.c.id)
    if now is not None:
        chosen = chosen.where(table.c.ends_at > now)
    return [silence_of(row) for row in connection.execute(chosen)]
