"""The daemon as a process: live beside a real node_exporter, signals, crashes, reload."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomalyd.evaluation.snapshot import HEAD
from anomalyd.settings import Executors, load_settings
from anomalyd.store import open_store
from fakes.faultproxy import BlackHole, FaultProxy
from fakes.prometheus import FakePrometheus, FakeSeries
from fakes.webhook import FakeWebhook
from servers import running_node_exporter, running_prometheus, wait_until
from system.kit import running_daemon, wait_ready, write_config


def rules(expr: str, **facts: Any) -> dict[str, Any]:
    rule = {
        "anomaly": "Watched", "expr": expr, "detector": {"type": "mad", "window": "10m"}, "history": "1h",
        "tiers": {"warning": {"budget": "1 per week"}}, **facts,
    }  # fmt: skip
    return {"groups": [{"name": "live", "interval": "1s", "query_delay": "0s", "rules": [rule]}]}


@pytest.mark.server("prometheus", "node-exporter")
def test_the_daemon_lives_beside_a_real_node_exporter(tmp_path: Path) -> None:
    """It scores live samples every second, says so in its metrics, stays quiet, and stops cleanly on SIGTERM."""
    with running_node_exporter(tmp_path) as exporter:
        target = exporter.removeprefix("http://")
        with (
            running_prometheus(tmp_path, scrape={"node": target}) as prometheus,
            FakeWebhook("s3cret") as hook,
        ):
            config = write_config(
                tmp_path, prometheus, rules("node_memory_MemTotal_bytes"), receivers={"hook": hook_settings(hook)}
            )
            with running_daemon(config) as daemon:
                wait_ready(daemon)
                wait_until(lambda: daemon.metric("anomaly_value") > 0, 60, "a scored sample on /metrics")
                wait_until(lambda: daemon.metric("anomalyd_slots_total") >= 5, 60, "five slots")
                assert daemon.get("/-/healthy")[0] == 200
                assert daemon.metric("anomalyd_source_up") == 1
                assert daemon.stop(signal.SIGTERM) == 0
                assert "level=error" not in daemon.log.read_text()
            assert hook.bodies == []


def hook_settings(hook: FakeWebhook) -> dict[str, Any]:
    return {"type": "webhook", "url": hook.url, "secret": "s3cret"}


def out_of_range(value: float) -> FakeSeries:
    """An hour of history around now and the coming minutes, at a level outside the rule's range."""
    now = int(time.time()) * 1000
    return FakeSeries({"__name__": "level"}, {now + s * 1000: value for s in range(-600, 600)})


RANGED = rules("level", valid_range=[0, 10])


@pytest.mark.parametrize("crashpoint", ["after_commit", "after_claim", "after_send"])
def test_killed_between_commit_and_record_the_alert_is_delivered(tmp_path: Path, crashpoint: str) -> None:
    """kill -9 between commit, claim, send and record loses nothing: one notification by its key."""
    with FakePrometheus([out_of_range(50.0)]) as source, FakeWebhook("s3cret") as hook:
        config = write_config(tmp_path, source.url, RANGED, {"hook": hook_settings(hook)})
        with running_daemon(config, crashpoint=crashpoint) as daemon:
            assert daemon.process.wait(90) == 137, daemon.log.read_text()
        before = len(hook.keys)
        assert before == (1 if crashpoint == "after_send" else 0)
        with running_daemon(config, log="again.log") as daemon:
            wait_until(lambda: len(hook.keys) > before, 120, "the delivery after the restart")
            wait_until(lambda: daemon.metric("anomalyd_outbox_pending") == 0, 60, "an empty outbox")
            assert daemon.stop(signal.SIGTERM) == 0
        assert {body["event"] for body in hook.bodies} == {"firing"}
        assert len(set(hook.keys)) == 1, "a repeat carries the same idempotency key"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_was_killed_or_stopped_goes_on_with_its_model(tmp_path: Path, how: signal.Signals) -> None:
    """The learned state is in the database: the process that follows restores it, scores with it and fits nothing."""
    with FakePrometheus([out_of_range(5.0)]) as source:
        config = write_config(tmp_path, source.url, RANGED, {}, snapshots={"every": "1s"})
        with running_daemon(config) as daemon:
            wait_ready(daemon)
            wait_until(lambda: daemon.metric("anomaly_value") > 0, 120, "a scored sample on /metrics")
            store = open_store(f"sqlite:///{tmp_path / 'anomalyd.db'}")
            wait_until(lambda: store.rules_with_model(HEAD) == ["live/Watched"], 60, "a snapshot")
            daemon.stop(how, 30)
        last = store.last_rule_slot("live/Watched")
        assert last is not None
        with running_daemon(config, log="again.log") as daemon:
            wait_until(lambda: (store.last_rule_slot("live/Watched") or 0) > last, 120, "a slot after the restart")
            assert daemon.stop() == 0
        assert "state restored" in (tmp_path / "again.log").read_text()
        models = {slot.model for slot in store.rule_slots("live/Watched", 0, 2**62) if slot.model}
        store.close()
    assert len(models) == 1, "one fit, before the restart"


def test_ctrl_c_stops_within_ten_seconds_while_the_source_hangs(tmp_path: Path) -> None:
    """SIGINT ends the daemon with 0 although a query is in flight that nobody answers."""
    with FakePrometheus([out_of_range(5.0)]) as source, FaultProxy(source.url) as proxy:
        proxy.fault = BlackHole()
        config = write_config(tmp_path, proxy.url, RANGED, {})
        with running_daemon(config) as daemon:
            wait_ready(daemon)
            assert daemon.stop(signal.SIGINT, 10) == 0


def test_reload_swaps_what_is_right_and_keeps_what_is_running_otherwise(tmp_path: Path) -> None:
    """SIGHUP with a broken file keeps the old rules and says so; a good one adds its rule without a restart."""
    with FakePrometheus([out_of_range(5.0)]) as source:
        config = write_config(tmp_path, source.url, RANGED, {}, web={"enable_lifecycle": True})
        with running_daemon(config) as daemon:
            wait_ready(daemon)
            wait_until(lambda: daemon.metric("anomalyd_slots_total") >= 1, 60, "a slot")
            (tmp_path / "rules.yml").write_text("groups: [{name: live, rulez: []}]")
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: daemon.metric("anomalyd_config_last_reload_successful") == 0, 20, "a refused reload")
            assert "rules.yml:1:" in daemon.log.read_text()
            more = {"groups": [RANGED["groups"][0], {**deepcopy(RANGED["groups"][0]), "name": "second"}]}
            (tmp_path / "rules.yml").write_text(yaml.safe_dump(more))
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: 'group="second"' in daemon.get("/metrics")[1], 30, "the new group's slots")
            assert daemon.metric("anomalyd_config_last_reload_successful") == 1
            assert daemon.stop() == 0


def test_fits_in_processes_are_the_default_and_work(tmp_path: Path) -> None:
    """Without an executor in the settings models are fitted in spawned processes, and samples are scored."""
    with FakePrometheus([out_of_range(5.0)]) as source:
        config = write_config(tmp_path, source.url, RANGED, {}, executor={"fit": "processes"})
        assert load_settings(config).executor == Executors()
        with running_daemon(config) as daemon:
            wait_ready(daemon)
            wait_until(lambda: daemon.metric("anomaly_value") > 0, 120, "a scored sample on /metrics")
            assert daemon.stop() == 0
        log = daemon.log.read_text()
        assert "level=error" not in log
        assert "leaked" not in log, "what multiprocessing says of pools that were not ended"


def test_an_address_in_use_is_said_in_words(tmp_path: Path) -> None:
    """A taken port ends the start with exit 2 and names the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = write_config(tmp_path, "http://127.0.0.1:1", RANGED, {}, web={"listen": f"127.0.0.1:{port}"})
        command = [sys.executable, "-m", "anomalyd", "run", "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
