"""Bring a database to this version's schema, or refuse.

Under the engine's own lock (SQLite: an immediate transaction, Postgres: an advisory lock of the transaction), in one
transaction: a process killed half-way leaves the old schema, a second process waits and then finds the work done.
An older SQLite file is copied beside itself first. A newer schema, or somebody else's file, is left untouched.
Alembic is loaded only where there is something to do.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from anomalyd.errors import StoreBusy
from anomalyd.store.engine import APPLICATION_ID, Engines, read_header, reading_only, refuse_network_file_system
from anomalyd.store.faults import Place, store_error, translated


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema versions a program knows, oldest first, and the folder of the scripts that lead there."""

    revisions: tuple[str, ...]
    folder: Path

    @property
    def head(self) -> str:
        return self.revisions[-1]


SCHEMA = Schema(("0001", "0002", "0003", "0004"), Path(__file__).parent / "migrations")
VERSION_TABLE = "anomalyd_schema"

_VERSION_QUERY = "SELECT version_num FROM anomalyd_schema"
_ADVISORY_KEY = 0x616E6F6D616C7964
_PATIENCE = 24
"""How many busy timeouts to wait for another process's migration: two minutes by default."""


def examine(engines: Engines, schema: Schema = SCHEMA) -> None:
    """Refuse a SQLite file that cannot be ours, from a newer version, or where none can be made. Looks only."""
    path = engines.place.path
    if path is None:
        return
    _refuse_foreign(engines)
    _refuse_newer(engines.place, _version_of_file(engines.place, engines.busy_timeout_ms), schema)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        cause = "cannot be written to" if path.parent.is_dir() else "does not exist"
        raise store_error(engines.place, "connect", f"its directory {cause}")


def _refuse_foreign(engines: Engines) -> None:
    refuse_network_file_system(engines.place)
    header = read_header(engines.place, engines.busy_timeout_ms)
    if header is not None and header.foreign:
        raise store_error(engines.place, "foreign", f"it has {header.tables} tables of another program")


def upgrade(engines: Engines, *, backup: bool, schema: Schema = SCHEMA) -> None:
    """Migrate to the schema's head; SchemaTooNew or StoreError (`foreign`, `readonly`...) without any write."""
    _refuse_foreign(engines)
    if _settled(engines, schema):
        return
    for remaining in range(_PATIENCE - 1, -1, -1):
        try:
            _migrate(engines, backup, schema)
            return
        except StoreBusy:
            if remaining == 0:
                raise


def current_version(connection: sa.Connection) -> str | None:
    """The schema version a database carries, None for an empty one."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(sa.text(_VERSION_QUERY)).scalar()
    return None if found is None else str(found)


def _settled(engines: Engines, schema: Schema) -> bool:
    """Whether there is nothing to do; refuses a newer schema. Looks only."""
    if engines.place.path is not None:
        version = _version_of_file(engines.place, engines.busy_timeout_ms)
    else:
        with translated(engines.place), engines.reading.begin() as connection:
            version = current_version(connection)
    _refuse_newer(engines.place, version, schema)
    return version == schema.head


def _version_of_file(place: Place, busy_timeout_ms: int) -> str | None:
    if place.path is None or not place.path.exists():
        return None
    with translated(place), reading_only(place.path, busy_timeout_ms) as connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchone()
        row = connection.execute(_VERSION_QUERY).fetchone() if known else None
    return None if row is None else str(row[0])


def _refuse_newer(place: Place, version: str | None, schema: Schema) -> None:
    if version is not None and version not in schema.revisions:
        raise store_error(place, "too_new", f"schema {version}, this anomalyd knows up to {schema.head}")


def _migrate(engines: Engines, backup: bool, schema: Schema) -> None:
    place = engines.place
    with translated(place), engines.writing.begin() as connection:
        if not place.sqlite:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
        version = current_version(connection)
        _refuse_newer(place, version, schema)
        if version == schema.head:
            return
        if backup and version is not None and place.path is not None:
            _copy(place.path, place.path.with_name(f"{place.path.name}.before-{schema.head}-from-{version}"))
        _run_scripts(connection, schema)
        if place.sqlite:
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")


def _copy(source: Path, target: Path) -> None:
    """Copy a live SQLite file with the backup interface (plain copying would tear it); an earlier copy is kept."""
    if target.exists():
        return
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    reader, writer = sqlite3.connect(source), sqlite3.connect(partial)
    try:
        reader.backup(writer)
    finally:
        writer.close()
        reader.close()
    partial.rename(target)


def _run_scripts(connection: sa.Connection, schema: Schema) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext, RevisionStep
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(schema.folder).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)

    def steps(revision: tuple[str, ...] | str, _context: MigrationContext) -> list[RevisionStep]:
        return list(scripts._upgrade_revs(schema.head, revision))  # type: ignore[arg-type]

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE, render_as_batch=True)
        environment.run_migrations()
