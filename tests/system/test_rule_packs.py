"""The rule packs in ``rules/``: they load, they explain themselves, and the exporters have the metrics they name."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import requests

from anomalyd.rule import Rule
from anomalyd.rules import load_rules

ROOT = Path(__file__).parents[2]
PACKS = sorted(p for p in (ROOT / "rules").glob("*.yml") if not p.name.endswith(".test.yml"))
MADE_BY_SCRAPES = {"up", "scrape_samples_scraped", "scrape_duration_seconds"}
"""Series that Prometheus makes itself and that no exposition has."""


def rules_of(name: str) -> tuple[Rule, ...]:
    return load_rules([str(ROOT / "rules" / name)]).rules


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_every_pack_loads_and_explains_itself(pack: Path) -> None:
    """A rule of a pack has a floor below which nobody is called, waits before it calls, and says what it saw."""
    rules = rules_of(pack.name)
    assert rules
    for rule in rules:
        assert rule.min_deviation.absolute or rule.min_deviation.relative, rule.id
        assert rule.for_ms >= rule.interval_ms, rule.id
        assert "{{ $value" in rule.annotations["summary"], rule.id
        assert pack.name == "shop.yml" or len(rule.annotations["runbook"]) > 60, rule.id


def test_all_packs_can_be_loaded_together() -> None:
    """`rule_files: [rules/*.yml]` is what people will write."""
    rules = load_rules([str(ROOT / "rules" / "*.yml")]).rules
    assert len({rule.id for rule in rules}) == len(rules)


def metrics_of(rules: tuple[Rule, ...]) -> set[str]:
    """The names of all metrics in the rules' expressions."""
    names: set[str] = set()

    def visit(node: Any) -> bool:
        if type(node).__name__ == "VectorSelector":
            names.add(node.name)
        return True

    for rule in rules:
        promql_parser.walk(promql_parser.parse(rule.expr), visit)
    return names


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """A server on loopback, stopped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def exposition(port: int, wanted: str) -> str:
    """What a server exposes, as soon as the metric ``wanted`` is in it."""
    deadline = time.monotonic() + 30
    while True:
        with suppress(requests.ConnectionError):
            text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
            if wanted in exposed(text) or time.monotonic() > deadline:
                return text
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.05)


def exposed(text: str) -> set[str]:
    return set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)", text, re.MULTILINE))


@pytest.mark.server("node-exporter")
def test_the_metrics_of_the_node_pack_exist() -> None:
    """Asked of a real node_exporter."""
    port = free_port()
    program = shutil.which("prometheus-node-exporter") or ""
    with running([program, f"--web.listen-address=127.0.0.1:{port}"]):
        known = exposed(exposition(port, "node_cpu_seconds_total"))
    missing = metrics_of(rules_of("node.yml")) - known
    if not any(name.startswith("node_disk_") for name in known):
        missing = {name for name in missing if not name.startswith("node_disk_")}  # a container without a disk
    assert missing == set()


@pytest.mark.server("prometheus")
def test_the_metrics_of_the_prometheus_pack_exist(tmp_path: Path) -> None:
    """Asked of a real Prometheus."""
    port = free_port()
    (tmp_path / "p.yml").write_text("global: {evaluation_interval: 1s}\nrule_files: [r.yml]\n")
    (tmp_path / "r.yml").write_text("groups: [{name: g, rules: [{record: a, expr: vector(1)}]}]\n")
    command = [
        shutil.which("prometheus") or "", f"--config.file={tmp_path}/p.yml", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with running(command):
        known = exposed(exposition(port, "prometheus_tsdb_head_samples_appended_total"))
    assert metrics_of(rules_of("prometheus.yml")) - known - MADE_BY_SCRAPES == set()
