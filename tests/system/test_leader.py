"""Two daemons on one database: one leads, the other stands by, and nobody is told twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from anomalyd.leader import TTL_MS, Leadership
from anomalyd.store import open_store
from fakes.prometheus import FakePrometheus
from fakes.webhook import FakeWebhook
from servers import new_database, running_postgres, wait_until
from system.kit import Running, running_daemon, wait_ready, write_config
from system.test_process import RANGED, hook_settings, out_of_range


@pytest.fixture
def database() -> Iterator[str]:
    with running_postgres() as server:
        yield new_database(server, "anomalyd")


def leads(daemon: Running) -> bool:
    return daemon.get("/-/ready")[1].strip() == "ready"


@pytest.mark.server("postgres")
def test_a_standby_takes_over_and_a_leader_that_wakes_up_late_stays_quiet(database: str, tmp_path: Path) -> None:
    """SIGSTOP of the leader past its lease hands over; when it goes on, its commits and sends are refused."""
    with ExitStack() as stack:
        source = stack.enter_context(FakePrometheus([out_of_range(50.0)]))
        hook = stack.enter_context(FakeWebhook("s3cret"))
        daemons = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            config = write_config(tmp_path / name, source.url, RANGED, {"hook": hook_settings(hook)}, database)
            daemons.append(stack.enter_context(running_daemon(config)))
            wait_ready(daemons[-1])
        first, second = daemons
        wait_until(lambda: leads(first) != leads(second), 30, "one leader")
        leader, standby = (first, second) if leads(first) else (second, first)
        wait_until(lambda: len(hook.keys) == 1, 60, "the alert")
        leader.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: leads(standby), 60, "the standby's leadership")
            slots = standby.metric("anomalyd_slots_total")
            wait_until(lambda: standby.metric("anomalyd_slots_total") >= slots + 2, 60, "slots of the new leader")
        finally:
            leader.process.send_signal(signal.SIGCONT)
        wait_until(lambda: "standing by" in leader.log.read_text(), 60, "the old leader stepping down")
        assert not leads(leader)
        slots = standby.metric("anomalyd_slots_total")
        wait_until(lambda: standby.metric("anomalyd_slots_total") >= slots + 2, 60, "the new leader going on")
        assert len(set(hook.keys)) == len(hook.keys) == 1, "nobody was told twice"
        assert leader.stop() == 0
        assert standby.stop() == 0


def test_the_lease_passes_when_it_is_given_back_or_runs_out() -> None:
    """Release hands over at once, silence after the lease's time, and a fence never comes back."""
    store = open_store("sqlite://")
    one, two = Leadership(store), Leadership(store)
    assert one.step(0)
    assert not one.step(1_000), "leading already"
    assert not two.step(2_000)
    one.release()
    assert two.step(3_000)
    assert not one.step(4_000)
    assert one.step(3_000 + TTL_MS + 1)
    assert not two.step(4_000 + TTL_MS)
    assert not two.leading
    assert one.fence is not None
    store.close()
