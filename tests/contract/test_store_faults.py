"""Faults of a SQLite file, each provoked: locked, full, read-only, moved, corrupt, foreign, an endless reader."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from anomalyd.errors import StoreBusy, StoreError
from anomalyd.incident import Outcome, OutcomeKind
from anomalyd.records import OutboxState
from anomalyd.store import Store, look, open_store
from contract.store_kit import MINUTE, RULE, notification, slot, whole_slot

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "anomalyd.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A store in a file with one slot, that waits 0.1 s for a lock."""
    opened = open_store(f"sqlite:///{path}", busy_timeout_ms=100)
    opened.commit_slot(whole_slot(1))
    yield opened
    opened.close()


@contextmanager
def connections() -> Iterator[list[sqlite3.Connection]]:
    """The driver's connections that are opened meanwhile."""
    opened: list[sqlite3.Connection] = []

    def note(connection: sqlite3.Connection, _record: object) -> None:
        opened.append(connection)

    sa.event.listen(sa.Engine, "connect", note)
    try:
        yield opened
    finally:
        sa.event.remove(sa.Engine, "connect", note)


def test_locked_by_another_writer(store: Store, path: Path) -> None:
    """While somebody else writes, a commit is `locked`, nothing is lost, and it goes through afterwards."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for attempt in (lambda: store.commit_slot(whole_slot(2)), lambda: store.claim("slack", 0, 10, 1)):
        with pytest.raises(StoreBusy) as caught:
            attempt()
        assert caught.value.reason == "locked"
        assert str(path) in str(caught.value)
    assert store.last_slot("shop") == MINUTE, "readers go on"
    other.execute("ROLLBACK")
    other.close()
    assert store.commit_slot(whole_slot(2))
    assert len(store.notifications()) == 2


def test_a_writer_waits_for_a_short_lock(path: Path) -> None:
    """A lock that is let go within the timeout costs nothing but time."""
    store = open_store(f"sqlite:///{path}", busy_timeout_ms=20_000)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    begun = threading.Event()

    def commit() -> bool:
        begun.set()
        return store.commit_slot(slot(MINUTE))

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(commit)
        assert begun.wait(10)
        other.execute("COMMIT")
        assert done.result(20)
    other.close()
    store.close()


def test_a_reader_never_breaks_a_writer(store: Store, path: Path) -> None:
    """Nobody meets SQLITE_BUSY_SNAPSHOT: with readers in old snapshots and writers side by side all commits succeed."""
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("BEGIN")
    old.execute("SELECT count(*) FROM slots").fetchone()

    def work(number: int) -> bool:
        store.live_episodes(RULE)
        committed = store.commit_slot(whole_slot(number))
        store.claim("slack", number * MINUTE, 10, 1)
        return committed

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(2, 34)))
    assert old.execute("SELECT count(*) FROM slots").fetchone()[0] == 1
    old.close()
    assert len(store.rule_slots(RULE, 0, 99 * MINUTE)) == 33


def test_disk_full(path: Path) -> None:
    """A full disk rolls the slot back and says `full`; reading goes on, and writing too once there is room."""
    with connections() as opened:
        store = open_store(f"sqlite:///{path}")
        store.commit_slot(whole_slot(1))
        for connection in opened:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages + 1}")
        big = slot(2 * MINUTE, values=[float(i) * 1.1 for i in range(5000)], outbox=(notification("n2"),))
        with pytest.raises(StoreError) as caught:
            store.commit_slot(big)
        assert caught.value.reason == "full"
        assert not isinstance(caught.value, StoreBusy)
        assert store.last_slot("shop") == MINUTE
        assert [row.notification.id for row in store.notifications()] == ["n1"]
        assert store.integrity_check() == []
        for connection in opened:
            connection.execute("PRAGMA max_page_count=1000000")
        assert store.commit_slot(big)
        store.close()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder with a database that everybody may read and nobody may write."""
    folder = Path(tempfile.mkdtemp(prefix="anomalyd-closed-"))
    store = open_store(f"sqlite:///{folder}/anomalyd.db")
    store.commit_slot(slot(MINUTE))
    store.close()
    (folder / "anomalyd.db").chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_file_nobody_may_write(closed_folder: Path) -> None:
    """A store over a read-only file cannot be used, and says which file and what is missing."""

    def use() -> None:
        store = open_store(f"sqlite:///{closed_folder}/anomalyd.db")
        try:
            store.commit_slot(slot(2 * MINUTE))
        finally:
            store.close()

    with unprivileged(), pytest.raises(StoreError) as caught:
        use()
    assert caught.value.reason in ("readonly", "connect")
    assert str(closed_folder) in str(caught.value)
    assert "access" in str(caught.value) or "directory" in str(caught.value)


def test_a_folder_nobody_may_write(closed_folder: Path) -> None:
    """A new database in a folder without write access is refused at once."""
    with unprivileged(), pytest.raises(StoreError) as caught:
        open_store(f"sqlite:///{closed_folder}/new.db")
    assert caught.value.reason == "connect"
    assert "directory" in str(caught.value)


@pytest.mark.parametrize("place", ["missing/anomalyd.db", "."])
def test_a_path_that_cannot_be_a_file(tmp_path: Path, place: str) -> None:
    """A folder that does not exist, or is one where the file should be, is an error with the path."""
    with pytest.raises(StoreError) as caught:
        open_store(f"sqlite:///{tmp_path}/{place}")
    assert caught.value.reason == "connect"
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("replaced", [False, True])
def test_the_file_is_deleted_or_replaced(store: Store, path: Path, replaced: bool) -> None:
    """A file that is gone, or another file in its place, is noticed before anything is acknowledged."""
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        name.unlink()
    if replaced:
        open_store(f"sqlite:///{path}").close()
    attempts = (lambda: store.commit_slot(slot(2 * MINUTE)), store.ping, lambda: store.claim("slack", 0, 1, 1))
    for attempt in attempts:
        with pytest.raises(StoreError) as caught:
            attempt()
        assert caught.value.reason == "moved"
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"hello, world\n" * 1000, b"SQLite format 3\x00" + b"\xff" * 4096, b"x", b"SQLite"]
)
def test_garbage_is_refused_untouched(path: Path, content: bytes) -> None:
    """A file that is no database is not opened, not overwritten, and named with what to do."""
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        open_store(f"sqlite:///{path}")
    assert caught.value.reason in ("foreign", "corrupt")
    assert str(path) in str(caught.value)
    assert "not changed" in str(caught.value)
    assert path.read_bytes() == content


def test_somebody_elses_database_is_refused_untouched(path: Path) -> None:
    """Another program's SQLite database is not ours to migrate."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        open_store(f"sqlite:///{path}")
    assert caught.value.reason == "foreign"
    assert path.read_bytes() == before


def test_a_look_at_a_database_in_use_keeps_its_locks(store: Store, path: Path) -> None:
    """After a look (a reload), another program that opens and closes the file does not take the log from under us."""
    elsewhere = "import sys; from anomalyd.store import open_store; s = open_store(sys.argv[1]); {}; s.close()"

    def run(what: str) -> str:
        command = [sys.executable, "-c", elsewhere.format(what), f"sqlite:///{path}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    look(f"sqlite:///{path}")
    run("s.ping()")
    store.commit_slot(slot(2 * MINUTE))
    assert run("print(s.last_slot('shop'))") == f"{2 * MINUTE}\n"


def test_a_damaged_page(path: Path) -> None:
    """Damage inside the file is `corrupt` where it is met, and the integrity check tells of it."""
    store = open_store(f"sqlite:///{path}")
    for number in range(1, 60):
        store.commit_slot(whole_slot(number))
    store.close()
    with sqlite3.connect(path) as raw:
        size = raw.execute("PRAGMA page_size").fetchone()[0]
        root = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'outbox'").fetchone()[0]
    raw.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xde\xad" * (size // 2))
    store = open_store(f"sqlite:///{path}")
    with pytest.raises(StoreError) as caught:
        store.notifications()
    assert caught.value.reason == "corrupt"
    assert store.integrity_check() != []
    store.close()


def test_a_commit_is_durable_and_checked(path: Path) -> None:
    """Each connection syncs every commit, keeps foreign keys, writes ahead, and waits for locks."""
    with connections() as opened:
        store = open_store(f"sqlite:///{path}", busy_timeout_ms=1234)
        store.ping()
        for pragma, value in (("synchronous", 2), ("foreign_keys", 1), ("journal_mode", "wal"), ("busy_timeout", 1234)):
            assert {one.execute(f"PRAGMA {pragma}").fetchone()[0] for one in opened} == {value}
        store.close()


def test_a_reader_that_never_ends_is_visible(store: Store, path: Path) -> None:
    """The log grows while an old snapshot is held, writing goes on, and the log is used anew afterwards."""
    stuck = sqlite3.connect(path, isolation_level=None)
    stuck.execute("BEGIN")
    stuck.execute("SELECT count(*) FROM slots").fetchone()
    values = [float(i) * 1.1 for i in range(3000)]
    for number in range(2, 80):
        store.commit_slot(slot(number * MINUTE, values=values))
    held = store.wal_bytes()
    assert held > 4_000_000 + 1_000_000, "the log is larger than the 1,000 pages after which it is written back"
    stuck.close()
    for number in range(80, 90):
        store.commit_slot(slot(number * MINUTE, values=values))
    assert store.wal_bytes() < held + 100_000, "one more slot, then from the start again"
    assert store.last_slot("shop") == 89 * MINUTE


def test_threads_share_a_store(store: Store) -> None:
    """Slots, claims and outcomes from many threads: each slot once, each notification delivered once."""
    delivered: list[str] = []

    def write(number: int) -> bool:
        return store.commit_slot(whole_slot(number % 20 + 2))

    def deliver(_: int) -> None:
        for one in store.claim("slack", 99 * MINUTE, 1000, 2):
            store.settle(one.id, 99 * MINUTE, Outcome(OutcomeKind.DELIVERED))
            delivered.append(one.id)

    with ThreadPoolExecutor(8) as pool:
        committed = list(pool.map(write, range(40)))
        list(pool.map(deliver, range(40)))
    assert sum(committed) == 20
    assert sorted(delivered) == sorted(f"n{number}" for number in range(1, 22))
    assert store.notifications(state=OutboxState.PENDING) == []


def test_a_restored_copy_opens(store: Store, path: Path, tmp_path: Path) -> None:
    """A copy made by the backup interface is a store of its own that knows what it knew then."""
    copy = tmp_path / "restored.db"
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()
    store.commit_slot(whole_slot(2))
    restored = open_store(f"sqlite:///{copy}")
    assert restored.last_slot("shop") == MINUTE
    assert restored.told("slack", "i1") is None
    assert restored.commit_slot(whole_slot(2))
    restored.close()
