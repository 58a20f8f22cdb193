"""Notices: what is worth reading and pages nobody."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from anomalyd.slot import Notice, NoticeKind
from anomalyd.store import tables
from anomalyd.store.rows import insert_new, notice_of, notice_row


def save(connection: sa.Connection, notices: Sequence[Notice]) -> None:
    """Add notices; one that is known already stays as it is."""
    insert_new(connection, tables.notices, [notice_row(notice) for notice in notices], ("id",))


def find(
    connection: sa.Connection, rule: str | None, fingerprint: str | None, kind: NoticeKind | None, start: int | None,
    end: int | None, limit: int,
) -> list[Notice]:  # fmt: skip
    """Notices found in ``start <= at < end``, newest first."""
    table = tables.notices
    chosen = sa.select(table).order_by(table.c.at.desc(), table.c.id).limit(limit)
    for column, value in ((table.c.rule, rule), (table.c.fingerprint, fingerprint), (table.c.kind, kind)):
        if value is not None:
            chosen = chosen.where(column == str(value))
    if start is not None:
        chosen = chosen.where(table.c.at >= start)
    if end is not None:
        chosen = chosen.where(table.c.at < end)
    return [notice_of(row) for row in connection.execute(chosen)]
