"""Forget what is old, a few rows at a time, so that nobody waits long for the writer.

Kept whatever their age: open episodes and incidents and all their notifications, pending notifications, feedback and
the episodes it is about, threshold history, the series that have not gone, the last slot of each
group, the newest model of each rule and those that live or judged episodes name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import sqlalchemy as sa

from anomalyd.store import tables

Step: TypeAlias = Callable[[sa.Connection, int, int], int]
"""Delete at most so many rows older than a time; return how many there were."""


def _rule_slots(connection: sa.Connection, before: int, batch: int) -> int:
    table = tables.rule_slots
    return _delete(connection, table, sa.select(table.c.rule_id, table.c.at).where(table.c.at < before), batch)


def _slots(connection: sa.Connection, before: int, batch: int) -> int:
    table, newer = tables.slots, tables.slots.alias("newer")
    later = sa.exists().where(newer.c.grp == table.c.grp, newer.c.at > table.c.at)
    return _delete(connection, table, sa.select(table.c.grp, table.c.at).where(table.c.at < before, later), batch)


def _series_sets(connection: sa.Connection, _before: int, batch: int) -> int:
    table, used = tables.series_sets, tables.rule_slots
    unused = ~sa.exists().where(used.c.series_set == table.c.id)
    return _delete(connection, table, sa.select(table.c.id).where(unused), batch)


def _series(connection: sa.Connection, before: int, batch: int) -> int:
    """Series that went so long ago that no score is left; not the newest row of a rule, nor what people spoke of."""
    table, newer, names = tables.series, tables.series.alias("newer"), tables.rule_names

    def named_by(other: sa.Table) -> sa.Exists:
        its_rule = sa.and_(names.c.id == table.c.rule_id, names.c.name == other.c.rule)
        return sa.exists().where(its_rule, other.c.fingerprint == table.c.fingerprint)

    judged, told = named_by(tables.feedback), named_by(tables.episodes)
    later = sa.exists().where(newer.c.rule_id == table.c.rule_id, newer.c.row > table.c.row)
    old = sa.select(table.c.rule_id, table.c.row).where(table.c.gone_at < before, later, ~judged, ~told)
    return _delete(connection, table, old, batch)


def _episodes(connection: sa.Connection, before: int, batch: int) -> int:
    table, votes, told = tables.episodes, tables.feedback, tables.incidents
    judged = sa.exists().where(votes.c.episode == table.c.id)
    still_open = sa.exists().where(told.c.id == table.c.incident, told.c.closed_at == 0)
    old = sa.select(table.c.id).where(
        table.c.phase == "closed", table.c.closed_at < before, table.c.started_at < before, ~judged, ~still_open
    )
    return _delete(connection, table, old, batch)


def _outbox(connection: sa.Connection, before: int, batch: int) -> int:
    table, told = tables.outbox, tables.incidents
    still_open = sa.exists().where(told.c.id == table.c.incident, told.c.closed_at == 0)
    old = sa.select(table.c.seq).where(table.c.created_at < before, table.c.state != "pending", ~still_open)
    return _delete(connection, table, old, batch)


def _incidents(connection: sa.Connection, before: int, batch: int) -> int:
    table, parts, owed = tables.incidents, tables.episodes, tables.outbox
    in_use = sa.or_(
        sa.exists().where(parts.c.incident == table.c.id), sa.exists().where(owed.c.incident == table.c.id)
    )  # fmt: skip
    old = sa.select(table.c.id).where(table.c.closed_at > 0, table.c.closed_at < before, ~in_use)
    return _delete(connection, table, old, batch)


def _memories(connection: sa.Connection, _before: int, batch: int) -> int:
    table, told, owed = tables.memories, tables.incidents, tables.outbox
    in_use = sa.or_(
        sa.exists().where(told.c.id == table.c.incident), sa.exists().where(owed.c.incident == table.c.incident)
    )  # fmt: skip
    return _delete(connection, table, sa.select(table.c.incident, table.c.receiver).where(~in_use), batch)


def _series_told(connection: sa.Connection, before: int, batch: int) -> int:
    table, live = tables.series_told, tables.episodes
    firing = sa.exists().where(
        live.c.rule == table.c.rule, live.c.fingerprint == table.c.fingerprint, live.c.phase != "closed"
    )
    keys = sa.select(table.c.receiver, table.c.rule, table.c.fingerprint)
    return _delete(connection, table, keys.where(table.c.at < before, ~firing), batch)


def _notices(connection: sa.Connection, before: int, batch: int) -> int:
    table = tables.notices
    return _delete(connection, table, sa.select(table.c.id).where(table.c.at < before), batch)


def _silences(connection: sa.Connection, before: int, batch: int) -> int:
    table = tables.silences
    return _delete(connection, table, sa.select(table.c.id).where(table.c.ends_at < before), batch)


def _models(connection: sa.Connection, before: int, batch: int) -> int:
    table, newer, named = tables.models, tables.models.alias("newer"), tables.episodes
    superseded = sa.exists().where(
        newer.c.rule == table.c.rule,
        sa.or_(newer.c.at > table.c.at, sa.and_(newer.c.at == table.c.at, newer.c.id > table.c.id)),
    )
    wanted = sa.exists().where(named.c.rule == table.c.rule, named.c.model == table.c.version)
    old = sa.select(table.c.id).where(table.c.at < before, superseded, ~wanted)
    return _delete(connection, table, old, batch)


STEPS: tuple[Step, ...] = (
    _rule_slots, _slots, _series_sets, _episodes, _outbox, _incidents, _memories, _series_told, _notices, _silences,
    _models, _series,
)  # fmt: skip
"""In this order: what refers to a row goes before the row."""


def _delete(connection: sa.Connection, table: sa.Table, old: sa.Select[Any], batch: int) -> int:
    keys = list(table.primary_key)
    target = keys[0] if len(keys) == 1 else sa.tuple_(*keys)
    return connection.execute(sa.delete(table).where(target.in_(old.limit(batch)))).rowcount
