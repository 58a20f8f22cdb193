"""The store: slots, scores, episodes, outbox, feedback and models in SQLite or Postgres.

SQL is written here and nowhere else, once for both engines.
"""

from __future__ import annotations

from anomalyd.store.engine import connect
from anomalyd.store.store import Store
from anomalyd.store.upgrade import examine, upgrade

__all__ = ["Store", "look", "open_store"]


def open_store(url: str, *, backup: bool = True, busy_timeout_ms: int = 5_000) -> Store:
    """Open a database and bring it to this version's schema.

    Args:
        url: ``sqlite:///path``, ``sqlite://`` (in memory, for tests and the demo) or ``postgresql://user@host/name``.
        backup: copy a SQLite file of an older schema beside itself before it is migrated.
        busy_timeout_ms: how long a statement waits for somebody else's lock.

    Raises:
        StoreError: `connect`, `foreign`, `corrupt`, `readonly`..., with the place and a remedy; nothing was written.
        SchemaTooNew: a newer anomalyd wrote it; nothing was written.
    """
    engines = connect(url, busy_timeout_ms)
    try:
        upgrade(engines, backup=backup)
        return Store(engines)
    except BaseException:  # whatever stops the opening, Ctrl-C too, must not leave connections and a lock behind
        engines.dispose()
        raise


def look(url: str, *, busy_timeout_ms: int = 5_000) -> None:
    """Raise what ``open_store`` would, as far as a look tells: no server is asked and no file is made or changed."""
    engines = connect(url, busy_timeout_ms)
    try:
        examine(engines)
    finally:
        engines.dispose()
