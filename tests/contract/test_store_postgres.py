"""Faults and races that only a server has: lost connections, unknown commits, deadlocks, limits, a read-only one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa

from anomalyd.errors import SchemaTooNew, StoreBusy, StoreError
from anomalyd.incident import Outcome, OutcomeKind
from anomalyd.records import Fence
from anomalyd.store import Store, open_store
from contract.store_kit import MINUTE, RULE, PostgresServer, episode, notification, slot, whole_slot
from servers import wait_until

pytestmark = pytest.mark.server("postgres")


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """A database with our schema."""
    return postgres.migrated()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store that waits 0.3 s for a lock."""
    opened = open_store(url, busy_timeout_ms=300)
    yield opened
    opened.close()


def direct(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection past the store."""
    return psycopg.connect(url.replace("+psycopg", ""))


@contextmanager
def listening(event: str, handler: Callable[..., object]) -> Iterator[None]:
    """Call the handler on an event of every engine meanwhile."""
    sa.event.listen(sa.Engine, event, handler)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, event, handler)


def test_claimers_never_share_a_row(url: str) -> None:
    """Four processes' worth of claimers on one receiver: each row once, the rows of an incident together."""
    stores = [open_store(url) for _ in range(4)]
    stores[0].enqueue([notification(f"{i}-{j}", told=f"i{i}", at=j) for i in range(40) for j in range(3)])
    claims: list[list[str]] = []

    def work(store: Store) -> None:
        while got := store.claim("slack", 10, 1000, 3):
            claims.append([one.id for one in got])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, stores))
    rows = [name for claim in claims for name in claim]
    assert sorted(rows) == sorted(f"{i}-{j}" for i in range(40) for j in range(3))
    for claim in claims:
        for name in {row.split("-")[0] for row in claim}:
            assert [row for row in claim if row.startswith(f"{name}-")] == [f"{name}-{j}" for j in range(3)]
    for store in stores:
        store.close()


def test_two_daemons_commit_a_slot_once(url: str) -> None:
    """Of all who commit the same slot at the same time one is told True, and each waits for the truth."""
    stores = [open_store(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for number in range(1, 11):
            answers = list(pool.map(lambda store, n=number: store.commit_slot(whole_slot(n)), stores))  # type: ignore[misc]
            assert sorted(answers) == [False, False, False, True]
    assert len(stores[0].notifications()) == 10
    for store in stores:
        store.close()


def test_one_of_many_becomes_the_leader(url: str) -> None:
    """Of four who ask at once one gets the lease; when it has run out, one of them gets it with the next number."""
    stores = [open_store(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for number in range(1, 6):
            now = number * 100

            def ask(i: int, now: int = now) -> Fence | None:
                return stores[i].acquire_lease("leader", f"d{i}-{now}", now, 100)

            got = list(pool.map(ask, range(4)))
            assert [fence.number for fence in got if fence is not None] == [number]
    for store in stores:
        store.close()


def test_a_connection_lost_in_the_middle(postgres: PostgresServer, store: Store) -> None:
    """The server drops the connection before the outbox is written: the whole slot is written on another one, once."""
    cut = []

    def drop(connection: sa.Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("INSERT INTO outbox") and not cut:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            cut.append(driver.info.backend_pid)
            with postgres.admin() as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (cut[0],))

    with listening("before_cursor_execute", drop):
        assert store.commit_slot(whole_slot(1))
    assert cut
    assert len(store.notifications()) == 1
    assert len(store.live_episodes(RULE)) == 1


def test_a_commit_with_an_unknown_outcome(store: Store) -> None:
    """The connection breaks after the server has committed, before it could say so: the answer is True, once."""
    lost = []

    def lose(connection: sa.Connection) -> None:
        if not lost:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            lost.append(True)
            driver.commit()
            driver.close()

    with listening("commit", lose):
        assert store.commit_slot(whole_slot(1))
    assert lost
    assert not store.commit_slot(whole_slot(1)), "somebody else's commit is told apart from our own"
    assert len(store.notifications()) == 1


def test_a_claim_with_an_unknown_outcome(store: Store) -> None:
    """A claim whose commit was not confirmed brings its rows all the same, and nobody else gets them."""
    store.enqueue([notification("n")])
    lost = []

    def lose(connection: sa.Connection) -> None:
        if not lost:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            lost.append(True)
            driver.commit()
            driver.close()

    with listening("commit", lose):
        assert [one.id for one in store.claim("slack", 0, 100, 1)] == ["n"]
    assert store.claim("slack", 0, 100, 1) == []


def test_a_server_that_was_restarted(postgres: PostgresServer, store: Store) -> None:
    """Idle connections that the server closed are noticed and replaced without an error."""
    store.commit_slot(slot(MINUTE))
    with postgres.admin() as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'anomalyd'"
        )
    assert store.commit_slot(slot(2 * MINUTE))


def test_no_server() -> None:
    """Nobody listens: `connect`, with the address and without the password."""
    with pytest.raises(StoreError) as caught:
        open_store("postgresql://ann:hunter2@127.0.0.1:1/anomalyd")
    assert caught.value.reason == "connect"
    assert "127.0.0.1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_row_locked_by_another(url: str, store: Store) -> None:
    """A row that somebody holds is `locked` after the timeout; afterwards the same call succeeds."""
    store.save_episodes([episode("e")])
    other = direct(url)
    other.execute("SELECT * FROM episodes FOR UPDATE")
    with pytest.raises(StoreBusy) as caught:
        store.save_episodes([episode("e", start=5)])
    assert caught.value.reason == "locked"
    other.rollback()
    other.close()
    store.save_episodes([episode("e", start=5)])
    changed = store.episode("e")
    assert changed is not None
    assert changed.started_at == 5


def test_a_deadlock_is_tried_again(url: str) -> None:
    """Two writers that wait for each other: ours gives way, begins again and succeeds."""
    store = open_store(url, busy_timeout_ms=20_000)
    store.save_episodes([episode("a"), episode("b")])
    other, watcher = direct(url), direct(url)
    watcher.autocommit = True
    other.execute("SET deadlock_timeout = '60s'")  # so that it is ours which notices
    other.execute("SELECT * FROM episodes WHERE id = 'b' FOR UPDATE")
    failures = []

    def note(context: sa.engine.ExceptionContext) -> None:
        failures.append(getattr(context.original_exception, "sqlstate", None))

    def ours_waits() -> bool:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return watcher.execute(waiting).fetchone() == (1,)

    with listening("handle_error", note), ThreadPoolExecutor(1) as pool:
        saved = pool.submit(store.save_episodes, [episode("b", start=7), episode("a", start=7)])
        wait_until(ours_waits, 10, "waiting for the other writer")
        other.execute("SELECT * FROM episodes WHERE id = 'a' FOR UPDATE")
        other.rollback()
        saved.result(30)
    assert failures == ["40P01"]
    assert [found.started_at for found in store.live_episodes(RULE)] == [7, 7]
    for connection in (other, watcher):
        connection.close()
    store.close()


def test_all_connections_in_use(url: str) -> None:
    """Whoever finds no free connection waits a while and is told `pool`; afterwards it works again."""
    store = open_store(url, busy_timeout_ms=100)
    release, busy = threading.Event(), threading.Semaphore(0)

    def hold(*_args: object) -> None:
        busy.release()
        release.wait(30)

    with ThreadPoolExecutor(10) as pool, listening("begin", hold):
        pings = [pool.submit(store.ping) for _ in range(10)]
        for _ in pings:
            assert busy.acquire(timeout=30)
        with pytest.raises(StoreBusy) as caught:
            store.ping()
        release.set()
        for ping in pings:
            ping.result(30)
    assert caught.value.reason == "pool"
    store.ping()
    store.close()


def test_too_many_connections(postgres: PostgresServer, url: str) -> None:
    """A server that has no connection left is `connections`, which passes."""
    name = url.rpartition("/")[2]
    with postgres.admin() as admin:
        admin.execute(f"CREATE ROLE small_{name} LOGIN CONNECTION LIMIT 0".encode())
    with pytest.raises(StoreBusy) as caught:
        open_store(url.replace("anomalyd@", f"small_{name}@"))
    assert caught.value.reason == "connections"


def test_a_role_without_rights(postgres: PostgresServer, url: str) -> None:
    """A role that may connect and nothing else is `auth`."""
    name = url.rpartition("/")[2]
    with postgres.admin() as admin:
        admin.execute(f"CREATE ROLE guest_{name} LOGIN".encode())
    with pytest.raises(StoreError) as caught:
        open_store(url.replace("anomalyd@", f"guest_{name}@"))
    assert caught.value.reason == "auth"


def test_a_primary_that_became_a_standby(postgres: PostgresServer, url: str) -> None:
    """A server that takes no writes is refused as `readonly`, even though it would answer."""
    name = url.rpartition("/")[2]
    with postgres.admin() as admin:
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert caught.value.reason == "readonly"


def test_a_newer_schema_is_refused(url: str) -> None:
    """A version nobody here knows is refused and stays."""
    with direct(url) as other:
        other.execute("UPDATE anomalyd_schema SET version_num = '9999'")
    with pytest.raises(SchemaTooNew):
        open_store(url)
    with direct(url) as other:
        assert other.execute("SELECT version_num FROM anomalyd_schema").fetchone() == ("9999",)


def test_a_plain_url_means_psycopg(url: str) -> None:
    """``postgresql://`` and ``postgres`` driver names lead to the driver we ship."""
    drivers: set[str] = set()
    with listening("checkout", lambda connection, *_: drivers.add(type(connection).__module__.partition(".")[0])):
        store = open_store(url.replace("postgresql+psycopg", "postgresql"))
        assert store.commit_slot(slot(0, first=True))
        store.close()
    with direct(url) as other:
        assert other.execute("SELECT at FROM slots").fetchall() == [(0,)], "written where the URL points"
    assert drivers == {"psycopg"}


def test_a_delivery_meets_a_claim(url: str) -> None:
    """Outcomes and claims of several daemons at once end without deadlock and with every row delivered."""
    stores = [open_store(url) for _ in range(3)]
    stores[0].enqueue([notification(f"n{i}", told=f"i{i % 5}") for i in range(30)])

    def work(store: Store) -> int:
        done = 0
        while store.outbox_stats(0):
            for one in store.claim("slack", 0, 1000, 2):
                done += store.settle(one.id, 0, Outcome(OutcomeKind.DELIVERED, memory={"ts": one.id}))
        return done

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, stores)) == 30
    for store in stores:
        store.close()
