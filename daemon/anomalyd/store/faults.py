"""Database failures as our errors: which are worth another try, and what a person can do about the others.

Closed set of reasons: locked, deadlock, timeout, pool, connections (all ``StoreBusy``); full, readonly, moved, corrupt,
foreign, network, io, connect, auth, conflict, fenced, internal (``StoreError``); too_new (``SchemaTooNew``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from anomalyd.errors import SchemaTooNew, StoreBusy, StoreError, redact_urls

BUSY = frozenset({"locked", "deadlock", "timeout", "pool", "connections"})

_REMEDIES = {
    "locked": "another process holds it; find it, or raise the busy timeout",
    "deadlock": "two writers met; it is safe to try again",
    "timeout": "the database is overloaded",
    "pool": "all connections of the pool are in use",
    "connections": "raise max_connections of the server or close other clients",
    "full": "free space on the volume; nothing was written and nothing is damaged",
    "readonly": "give this user write access to the file and its directory, or connect to the primary",
    "moved": "the file was deleted or replaced while in use; stop, put the right file in place, start again",
    "corrupt": "restore the backup beside it or move the file away to start afresh; it was not changed",
    "foreign": "it is not an anomalyd database; name another file; it was not changed",
    "network": "put it on a local disk, or use Postgres",
    "io": "look at the volume and the system log",
    "connect": "look at address, name and directory, and whether the server runs",
    "auth": "look at user, password and grants",
    "too_new": "it was written by a newer anomalyd; run that version, or restore the backup made before the upgrade",
    "conflict": "the row exists already with other content; another daemon may be writing",
    "fenced": "another daemon leads now; this one must stand by",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the database lies.

    Attributes:
        engine: `sqlite` or `postgresql`.
        path: the SQLite file; None in memory and on Postgres.
        shown: for messages, without credentials.
    """

    engine: str
    path: Path | None
    shown: str

    @property
    def sqlite(self) -> bool:
        return self.engine == "sqlite"


def store_error(place: Place, reason: str, cause: str) -> StoreError:
    """Build the error for a reason: where, what, what to do."""
    remedy = _REMEDIES.get(reason, "")
    message = f"database {place.shown}: {redact_urls(cause).strip()}" + (f" ({remedy})" if remedy else "")
    if reason == "too_new":
        return SchemaTooNew(reason, message)
    return StoreBusy(reason, message) if reason in BUSY else StoreError(reason, message)


@contextmanager
def translated(place: Place) -> Iterator[None]:
    """Turn the drivers' exceptions into ours."""
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise store_error(place, "pool", str(error)) from error
    except sa.exc.DBAPIError as error:
        raise store_error(place, _reason(error), _first_line(error.orig)) from error
    except sqlite3.Error as error:
        raise store_error(place, _sqlite_reason(error), _first_line(error)) from error


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if error is not None and str(error).strip() else type(error).__name__


def _reason(error: sa.exc.DBAPIError) -> str:
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_reason(error.orig)
    state = getattr(error.orig, "sqlstate", None)
    if state:
        return _postgres_reason(str(state))
    words = str(error.orig)
    for said, reason in _REFUSALS:
        if said in words:
            return reason
    return "connect" if isinstance(error, sa.exc.OperationalError) or error.connection_invalidated else "internal"


_SQLITE = (
    ("SQLITE_BUSY", "locked"),
    ("SQLITE_LOCKED", "locked"),
    ("SQLITE_FULL", "full"),
    ("SQLITE_READONLY_DBMOVED", "moved"),
    ("SQLITE_READONLY", "readonly"),
    ("SQLITE_PERM", "readonly"),
    ("SQLITE_CORRUPT", "corrupt"),
    ("SQLITE_NOTADB", "foreign"),
    ("SQLITE_CANTOPEN", "connect"),
    ("SQLITE_IOERR", "io"),
    ("SQLITE_CONSTRAINT", "conflict"),
)


def _sqlite_reason(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    return next((reason for prefix, reason in _SQLITE if name.startswith(prefix)), "internal")


_POSTGRES = (
    ("40P01", "deadlock"),
    ("40", "deadlock"),
    ("55P03", "locked"),
    ("57014", "timeout"),
    ("53300", "connections"),
    ("53100", "full"),
    ("53", "timeout"),
    ("25006", "readonly"),
    ("57P", "connect"),
    ("08", "connect"),
    ("3D000", "connect"),
    ("28", "auth"),
    ("42501", "auth"),
    ("23", "conflict"),
    ("58", "io"),
    ("XX001", "corrupt"),
    ("XX002", "corrupt"),
)


_REFUSALS = (
    ("too many connections", "connections"),
    ("remaining connection slots", "connections"),
    ("authentication failed", "auth"),
    ("no password supplied", "auth"),
    ("session is read-only", "readonly"),
)
"""A refused connection carries no code, only words."""


def _postgres_reason(state: str) -> str:
    return next((reason for prefix, reason in _POSTGRES if state.startswith(prefix)), "internal")
