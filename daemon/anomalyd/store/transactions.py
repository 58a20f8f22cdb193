"""``Transactions``: how a store's work is done: in one transaction, by one writer at a time, tried again when busy.

What a work gives may be computed more than once: every one of them can be repeated without harm.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa

from anomalyd.errors import StoreError
from anomalyd.records import Fence
from anomalyd.store import slots
from anomalyd.store.engine import Engines, FileIdentity, identity
from anomalyd.store.faults import store_error, translated

T = TypeVar("T")

_TRIES = {"deadlock": 5, "locked": 2, "connect": 2, "conflict": 2}
"""How often a transaction that failed so is begun in all."""


class Transactions:
    """What every method of a store stands on."""

    def __init__(self, engines: Engines):
        self._engines = engines
        self._place = engines.place
        self._file: FileIdentity | None = identity(self._place.path) if self._place.path else None
        self._memory = self._place.sqlite and self._place.path is None
        self._writer = threading.Lock()
        self._pause = threading.Event()

    def _check_fence(self, connection: sa.Connection, fence: Fence | None) -> None:
        if fence is not None and not slots.holds_fence(connection, fence):
            raise store_error(self._place, "fenced", f"lease {fence.name} number {fence.number} is lost")

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        def once() -> T:
            with self._turn(self._place.sqlite), translated(self._place), self._engines.writing.begin() as connection:
                self._check_file()
                result = work(connection)
                self._check_file()
                return result

        return self._persist(once)

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        def once() -> T:
            with self._turn(self._memory), translated(self._place), self._engines.reading.begin() as connection:
                self._check_file()
                return work(connection)

        return self._persist(once)

    @contextmanager
    def _turn(self, needed: bool) -> Iterator[None]:
        """SQLite has one writer, and in memory one connection: wait here, where waiting is fair."""
        if not needed:
            yield
            return
        if not self._writer.acquire(timeout=4 * self._engines.busy_timeout_ms / 1000 + 1):
            raise store_error(self._place, "locked", "another thread of this daemon has been writing for too long")
        try:
            yield
        finally:
            self._writer.release()

    def _persist(self, once: Callable[[], T]) -> T:
        tried = 0
        while True:
            tried += 1
            try:
                return once()
            except StoreError as error:
                if tried >= _TRIES.get(error.reason, 1):
                    raise
            self._pause.wait(random.uniform(0.01, 0.05) * tried)

    def _check_file(self) -> None:
        """A file deleted or replaced under us would swallow every write without a word."""
        if self._file is not None and self._place.path is not None and identity(self._place.path) != self._file:
            raise store_error(self._place, "moved", "the file is not the one that was opened")
