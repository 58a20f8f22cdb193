"""Engines: everything in which SQLite and Postgres differ before the first statement.

SQLite: WAL, synchronous=FULL (a commit survives loss of power), foreign keys on, every writing transaction begins with
BEGIN IMMEDIATE, because in WAL a reader that turns writer fails at once whatever the timeout.
Postgres: psycopg 3, read committed, the primary only; limits are set per transaction and statements are not prepared on
the server, so a transaction-pooling proxy in between does no harm.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from anomalyd.store.faults import Place, store_error, translated

APPLICATION_ID = 0x616E6F6D
"""``anom`` in the header of our SQLite files: tells them from anybody else's."""

_SMALLEST = 512
"""Bytes of the smallest page."""
_JOURNAL_LIMIT = 64 * 1024 * 1024
_PG_LIMITS = "SET LOCAL lock_timeout = '{lock}ms'; SET LOCAL statement_timeout = '120s'"


@dataclass(frozen=True, slots=True)
class Engines:
    """One pool of connections, two ways to begin a transaction."""

    reading: sa.Engine
    writing: sa.Engine
    place: Place
    busy_timeout_ms: int

    def dispose(self) -> None:
        self.reading.dispose()


def connect(url: str, busy_timeout_ms: int) -> Engines:
    """Make the engines for a URL without touching the database; StoreError `connect` for a URL nobody understands."""
    shown = sa.engine.url.make_url(url) if _is_url(url) else None
    backend = shown.get_backend_name() if shown is not None else ""
    if shown is not None and backend == "sqlite":
        return _sqlite(shown, busy_timeout_ms)
    if shown is not None and backend == "postgresql":
        return _postgres(shown.set(drivername="postgresql+psycopg"), busy_timeout_ms)
    place = Place("", None, f"{url.partition(':')[0]}:...")
    raise store_error(place, "connect", "the URL must begin with sqlite:/// or postgresql://")


def _is_url(url: str) -> bool:
    try:
        sa.engine.url.make_url(url).get_backend_name()
    except sa.exc.ArgumentError:
        return False
    return True


def _sqlite(url: sa.URL, busy_timeout_ms: int) -> Engines:
    memory = url.database in (None, "", ":memory:")
    path = None if memory else Path(os.path.abspath(str(url.database)))
    place = Place("sqlite", path, ":memory:" if path is None else str(path))
    arguments = {"check_same_thread": False, "timeout": busy_timeout_ms / 1000}
    if path is None:
        engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args=arguments)
    else:
        file = sa.URL.create("sqlite", database=str(path))
        engine = sa.create_engine(file, connect_args=arguments, **_pool(busy_timeout_ms))
    sa.event.listen(engine, "connect", _set_pragmas)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return Engines(engine, engine.execution_options(writing=True), place, busy_timeout_ms)


def _pool(busy_timeout_ms: int) -> dict[str, Any]:
    """Ten connections at most; who finds none waits twice as long as for a lock."""
    return {"pool_size": 5, "max_overflow": 5, "pool_timeout": 2 * busy_timeout_ms / 1000}


NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "fuse.glusterfs"})
"""Where SQLite's write-ahead log, which is shared memory, breaks."""


def file_system(path: Path, mounts: str) -> str:
    """Type of the file system a path lies on, by the text of ``/proc/self/mounts``; empty when unknown."""
    best, found = -1, ""
    for line in mounts.splitlines():
        _, point, kind, *_ = [*line.split(" "), "", "", ""]
        folder = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), point))
        if path.is_relative_to(folder) and len(folder.parts) >= best:
            best, found = len(folder.parts), kind
    return found


def refuse_network_file_system(place: Place, mounts: Path = Path("/proc/self/mounts")) -> None:
    """StoreError `network` when a SQLite file lies where its locks and its log do not work."""
    if place.path is None or not mounts.exists():
        return
    kind = file_system(place.path.resolve(), mounts.read_text(errors="replace"))
    if kind in NETWORK_FILE_SYSTEMS:
        raise store_error(place, "network", f"it lies on a network file system ({kind})")


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, see _begin_sqlite
    cursor = connection.cursor()
    _enter_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA trusted_schema=OFF")
    cursor.execute("PRAGMA cell_size_check=ON")
    cursor.execute(f"PRAGMA journal_size_limit={_JOURNAL_LIMIT}")
    cursor.close()


def _enter_wal(cursor: sqlite3.Cursor) -> None:
    """Two processes that open a new file at once both switch to WAL, and SQLite does not wait there by itself."""
    pause = threading.Event()
    for remaining in range(200, -1, -1):
        try:
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
                cursor.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if remaining == 0 or not str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY"):
                raise
            pause.wait(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _postgres(url: sa.URL, busy_timeout_ms: int) -> Engines:
    place = Place("postgresql", None, url.set(query={}).render_as_string(hide_password=True))
    arguments = {
        "connect_timeout": 10,
        "application_name": "anomalyd",
        "target_session_attrs": "read-write",
        "prepare_threshold": None,
    }
    named = {key: value for key, value in arguments.items() if key not in url.query}
    try:
        engine = sa.create_engine(
            url, connect_args=named, pool_pre_ping=True, **_pool(busy_timeout_ms)
        )
    except ImportError as error:
        raise store_error(place, "connect", "Postgres needs the driver: pip install 'anomalyd[postgres]'") from error
    limits = _PG_LIMITS.format(lock=busy_timeout_ms)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(limits))
    return Engines(engine, engine.execution_options(writing=True), place, busy_timeout_ms)


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Device and inode of a file: a file of the same name is not the same file."""

    device: int
    inode: int


def identity(path: Path) -> FileIdentity | None:
    """The identity of the file at a path, None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileIdentity(found.st_dev, found.st_ino)


@dataclass(frozen=True, slots=True)
class Header:
    """What a SQLite file says of itself before we touch it: whose it is, how full it is."""

    application_id: int
    tables: int

    @property
    def foreign(self) -> bool:
        return self.tables > 0 and self.application_id != APPLICATION_ID


def read_header(place: Place, busy_timeout_ms: int) -> Header | None:
    """Read a SQLite file's header without changing it; None when there is no file or it is empty.

    The file is opened by SQLite alone: who opens and closes it by other means in a process that has a store on it lets
    go of all locks that this process holds on it (POSIX), and the next program that closes the database would delete
    the write-ahead log under the store, with all that is committed from then on.
    """
    if place.path is None:
        return None
    try:
        found = place.path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error(place, "connect", str(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise store_error(place, "connect", "it is not a file")
    if not found.st_size:
        return None
    if found.st_size < _SMALLEST:  # SQLite would take a file of a few bytes for an empty database, and write over it
        raise store_error(place, "foreign", "the file does not begin like a SQLite database")
    with translated(place), reading_only(place.path, busy_timeout_ms) as connection:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return Header(int(application_id), int(tables))


@contextmanager
def reading_only(path: Path, busy_timeout_ms: int) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write: our engine would switch the file to write-ahead mode, which is a write."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=busy_timeout_ms / 1000)
    try:
        yield connection
    finally:
        connection.close()
