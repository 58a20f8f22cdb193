"""Model snapshots and the lease that makes one daemon the leader."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from anomalyd.records import Fence, ModelSnapshot
from anomalyd.store import tables
from anomalyd.store.rows import dialect_insert, insert_new


def save_model(connection: sa.Connection, snapshot: ModelSnapshot) -> None:
    """Store a snapshot; the same (rule, version) again replaces its content."""
    row = {
        "rule": snapshot.rule,
        "version": snapshot.version,
        "at": snapshot.at,
        "meta": snapshot.meta_json,
        "blob": snapshot.blob,
    }
    statement = dialect_insert(connection, tables.models)
    replaced = {name: statement.excluded[name] for name in ("at", "meta", "blob")}
    connection.execute(statement.on_conflict_do_update(index_elements=["rule", "version"], set_=replaced), row)


def model(connection: sa.Connection, rule: str, version: str | None) -> ModelSnapshot | None:
    """A snapshot by version, or the newest one of a rule."""
    table = tables.models
    chosen = sa.select(table).where(table.c.rule == rule).order_by(table.c.at.desc(), table.c.id.desc()).limit(1)
    if version is not None:
        chosen = chosen.where(table.c.version == version)
    row = connection.execute(chosen).first()
    return None if row is None else _snapshot(row)


def drop_models(connection: sa.Connection, rule: str, prefix: str, but: str | None) -> int:
    """Delete a rule's snapshots whose version begins with ``prefix``, but for those that begin with ``but``."""
    table = tables.models
    mine = sa.delete(table).where(table.c.rule == rule, table.c.version.startswith(prefix, autoescape=True))
    if but is not None:
        mine = mine.where(~table.c.version.startswith(but, autoescape=True))
    return connection.execute(mine).rowcount


def rules_with(connection: sa.Connection, version: str) -> list[str]:
    """The rules that have a snapshot of this version."""
    table = tables.models
    chosen = sa.select(table.c.rule).where(table.c.version == version).order_by(table.c.rule)
    return [row.rule for row in connection.execute(chosen)]


def _snapshot(row: sa.Row[Any]) -> ModelSnapshot:
    return ModelSnapshot(row.rule, row.version, row.meta, bytes(row.blob), row.at)


def acquire_lease(connection: sa.Connection, name: str, owner: str, now: int, ttl_ms: int) -> Fence | None:
    """Take the lease if it is free, expired or ours; a grant to a new owner carries a larger number."""
    insert_new(connection, tables.leases, [{"name": name, "owner": "", "fence": 0, "expires_at": 0}], ("name",))
    table = tables.leases
    row = connection.execute(sa.select(table).where(table.c.name == name).with_for_update()).one()
    free = row.owner in ("", owner) or row.expires_at <= now
    if not free:
        return None
    number = row.fence if row.owner == owner and now < row.expires_at else row.fence + 1
    values = {"owner": owner, "fence": number, "expires_at": now + ttl_ms}
    connection.execute(sa.update(table).where(table.c.name == name).values(values))
    return Fence(name, number)


def renew_lease(connection: sa.Connection, fence: Fence, now: int, ttl_ms: int) -> bool:
    """Prolong a lease that nobody else has taken; False when it is lost."""
    table = tables.leases
    held = sa.update(table).where(table.c.name == fence.name, table.c.fence == fence.number, table.c.owner != "")
    return connection.execute(held.values(expires_at=now + ttl_ms)).rowcount > 0


def release_lease(connection: sa.Connection, fence: Fence) -> bool:
    """Give a lease back, so that another daemon need not wait for it to expire."""
    table = tables.leases
    held = sa.update(table).where(table.c.name == fence.name, table.c.fence == fence.number)
    return connection.execute(held.values(owner="", expires_at=0)).rowcount > 0
