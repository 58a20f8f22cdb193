"""Scores by remote write to real servers, and a daemon that loses none of them over an outage and a kill -9."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalyd.block import fingerprint, make_labels
from anomalyd.clock import MINUTE_MS, SystemClock
from anomalyd.episode import Episode, Phase
from anomalyd.export import RemoteWrite
from anomalyd.metrics import Metrics
from anomalyd.prometheus.writer import RemoteWriter
from anomalyd.rulefiles.read import load_rules
from anomalyd.score import Observation, Tier, Verdicts
from anomalyd.settings import load_settings
from anomalyd.slot import RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store, open_store
from fakes.prometheus import FakePrometheus, FakeSeries
from fakes.remotewrite import RemoteWriteReceiver
from servers import running_prometheus, running_victoriametrics, wait_until
from system.kit import running_daemon, wait_ready, write_config

RULES = {"groups": [{"name": "g", "interval": "1s", "rules": [{"anomaly": "R", "expr": "up", "detector": "mad"}]}]}
PODS = tuple(make_labels({"__name__": "latency", "job": "web", "pod": name}) for name in ("a", "b", "ü"))


def ask(url: str, query: str, at: int) -> list[dict[str, Any]]:
    told = urllib.parse.urlencode({"query": query, "time": at / 1000})
    with urllib.request.urlopen(f"{url}/api/v1/query?{told}", timeout=10) as answer:
        return list(json.load(answer)["data"]["result"])


def commit(store: Store, at: int, pods: int, first: bool = False) -> None:
    """A slot in which the first ``pods`` are seen, and one of them is in an episode."""
    value, calm = np.arange(1.0, pods + 1), Verdicts(*(np.zeros(pods, np.int8) for _ in range(3)))
    seen = Observation(at, np.arange(pods), value, value, value - 1, value + 1, value * 3, calm)
    rows = tuple(SeriesRow("g/R", i, fingerprint(one), one, at) for i, one in enumerate(PODS)) if first else ()
    episode = Episode("e", "g/R", fingerprint(PODS[0]), PODS[0], Phase.OPEN, Tier.CRITICAL, at, at, opened_at=at)
    slot = RuleSlot("g/R", at, "ok", cut=3.0, observation=seen)
    assert store.commit_slot(SlotCommit("g", at, (slot,), series=rows, episodes=(episode,)))


def write_three_slots(folder: Path, url: str, at: int) -> Metrics:
    """Three slots, a minute apart up to ``at``; in the last one the third pod is gone."""
    config = write_config(folder, "http://127.0.0.1:9", RULES, {}, remote_write=[{"url": url, "name": "t"}])
    settings = load_settings(config)
    store, metrics, clock = open_store("sqlite://"), Metrics(), SystemClock()
    (target,) = settings.remote_write
    rules = load_rules(settings.rule_files, settings).rules
    remote = RemoteWrite(store, target, lambda: rules, metrics, RemoteWriter(target), clock)
    try:
        for lane in remote.lanes:
            lane.step(at)
        commit(store, at - 2 * MINUTE_MS, 3, first=True)
        commit(store, at - MINUTE_MS, 3)
        commit(store, at, 2)
        remote.notify(["g/R"])
        assert [lane.step(at) for lane in remote.lanes] == [None] * len(remote.lanes)
    finally:
        remote.close()
        store.close()
    return metrics


def check_read_back(url: str, at: int, metrics: Metrics) -> None:
    """What the server gives is what was written, at the slots' own times, and the third pod has ended."""
    assert metrics.remote_write_samples.labels("t", "refused")._value.get() == 0
    [series] = ask(url, 'anomaly_score{pod="b"}[5m]', at)
    labels = {"__name__": "anomaly_score", "job": "web", "pod": "b", "rule": "R", "group": "g"}
    assert series["metric"] == labels
    times = [(at - 2 * MINUTE_MS) / 1000, (at - MINUTE_MS) / 1000, at / 1000]
    assert [(t, float(v)) for t, v in series["values"]] == [(t, 2.0) for t in times]
    for name, value in (("value", 2), ("expected", 2), ("lower", 1), ("upper", 3)):
        [one] = ask(url, f'anomaly_{name}{{pod="b"}}', at)
        assert float(one["value"][1]) == value
    assert [float(one["value"][1]) for one in ask(url, "anomaly_threshold", at)] == [3.0]
    assert [one["metric"]["tier"] for one in ask(url, 'anomaly_episode{pod="a"} == 1', at)] == ["critical"]
    assert len(ask(url, 'anomaly_score{pod="ü"}', at - MINUTE_MS)) == 1
    assert ask(url, 'anomaly_score{pod="ü"}', at) == []


@pytest.mark.server("prometheus")
def test_prometheus_takes_it(tmp_path: Path) -> None:
    """Prometheus with its receiver switched on, samples of the last minutes."""
    at = SystemClock().now_ms() // 1000 * 1000
    with running_prometheus(tmp_path) as url:
        metrics = write_three_slots(tmp_path, f"{url}/api/v1/write", at)
        check_read_back(url, at, metrics)


@pytest.mark.server("victoria-metrics")
def test_victoriametrics_takes_it(tmp_path: Path) -> None:
    """VictoriaMetrics, which knows the mark of an end as well."""
    at = SystemClock().now_ms() // 1000 * 1000 - 10 * MINUTE_MS
    with running_victoriametrics(tmp_path) as url:
        metrics = write_three_slots(tmp_path, f"{url}/api/v1/write", at)
        urllib.request.urlopen(f"{url}/internal/force_flush", timeout=10).close()
        wait_until(lambda: bool(ask(url, 'anomaly_score{pod="b"}', at)), 30, "the samples")
        check_read_back(url, at, metrics)


@pytest.fixture
def source() -> Iterator[FakePrometheus]:
    """A source with one series, from an hour ago to half an hour ahead."""
    now = SystemClock().now_ms() // 1000 * 1000
    times = range(now - 60 * MINUTE_MS, now + 30 * MINUTE_MS, 5_000)
    with FakePrometheus([FakeSeries({"__name__": "up", "job": "web"}, {at: 1.0 + at % 7 for at in times})]) as fake:
        yield fake


def test_a_daemon_loses_no_slot_over_an_outage_and_a_kill(tmp_path: Path, source: FakePrometheus) -> None:
    """It dies with a request answered and no cursor moved, then it stops while the target is down: all arrives."""
    with RemoteWriteReceiver() as receiver:
        target = {"url": receiver.write_url, "queue": {"min_backoff": "100ms", "max_backoff": "300ms"}}
        config = write_config(tmp_path, source.url, RULES, {}, remote_write=[target])
        with running_daemon(config, crashpoint="before_export_moved", log="first.log") as daemon:
            assert daemon.process.wait(60) == 137
        assert receiver.of("anomaly_value")
        receiver.down = True
        with running_daemon(config, log="second.log") as daemon:
            wait_ready(daemon)
            wait_until(lambda: daemon.metric("anomalyd_remote_write_lag_seconds") > 3, 60, "the target's lag")
            assert daemon.metric("anomalyd_slots_total") >= 3
            assert daemon.stop() == 0
        receiver.down = False
        with running_daemon(config, log="third.log") as daemon:
            wait_ready(daemon)
            wait_until(lambda: daemon.metric("anomalyd_remote_write_samples_total") > 0, 60, "the first samples")
            wait_until(lambda: daemon.metric("anomalyd_remote_write_lag_seconds") < 3, 60, "the target's catching up")
            assert daemon.stop() == 0
        check_slots(config.parent, receiver)


def check_slots(folder: Path, receiver: RemoteWriteReceiver) -> None:
    """From the first sample on, every slot of the database up to the cursor has arrived, and no request was broken."""
    [samples] = receiver.of("anomaly_value").values()
    times = [at for at, _ in samples]
    store = open_store(f"sqlite:///{folder}/anomalyd.db")
    slots = [slot.at for slot in store.rule_slots("g/R", times[0], times[-1] + 1) if slot.series]
    [cursor] = store.exports.cursors(receiver.url.removeprefix("http://")).values()
    store.close()
    assert times == slots
    assert cursor == times[-1]
    assert len(times) >= 4
    assert receiver.broken == []
