"""The rule packs in ``rules/``: they load, they explain themselves, and the exporters have the metrics they name."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from anomalyd.rule import Rule
from anomalyd.rulefiles.read import load_rules
from servers import Server, running_alertmanager, running_node_exporter, running_prometheus, wait_until

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
        assert len(rule.annotations["runbook"]) > 60, rule.id
        assert rule.group_by, rule.id
        assert all(policy.budget for policy in rule.tiers), rule.id


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


def exposition(server: Server, wanted: str) -> set[str]:
    """The metrics that a server exposes, as soon as ``wanted`` is among them."""
    known: set[str] = set()

    def there() -> bool:
        with urllib.request.urlopen(f"{server}/metrics", timeout=10) as answer:
            known.update(exposed(answer.read().decode()))
        return wanted in known

    wait_until(there, 60, f"{wanted} in {server}")
    return known


def exposed(text: str) -> set[str]:
    return set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)", text, re.MULTILINE))


@pytest.mark.server("node-exporter")
def test_the_metrics_of_the_node_pack_exist(tmp_path: Path) -> None:
    """Asked of a real node_exporter."""
    with running_node_exporter(tmp_path) as server:
        known = exposition(server, "node_cpu_seconds_total")
    missing = metrics_of(rules_of("node.yml")) - known
    if not any(name.startswith("node_disk_") for name in known):
        missing = {name for name in missing if not name.startswith("node_disk_")}  # a container without a disk
    assert missing == set()


@pytest.mark.server("prometheus")
def test_the_metrics_of_the_prometheus_pack_exist(tmp_path: Path) -> None:
    """Asked of a real Prometheus."""
    (tmp_path / "r.yml").write_text("groups: [{name: g, interval: 1s, rules: [{record: a, expr: vector(1)}]}]\n")
    with running_prometheus(tmp_path, config=f"rule_files: ['{tmp_path}/r.yml']") as server:
        known = exposition(server, "prometheus_tsdb_head_samples_appended_total")
    assert metrics_of(rules_of("prometheus.yml")) - known - MADE_BY_SCRAPES == set()


@pytest.mark.server("alertmanager")
def test_the_metrics_of_the_alertmanager_pack_exist(tmp_path: Path) -> None:
    """Asked of a real Alertmanager."""
    with running_alertmanager(tmp_path) as server:
        known = exposition(server, "alertmanager_alerts")
    assert metrics_of(rules_of("alertmanager.yml")) - known == set()
