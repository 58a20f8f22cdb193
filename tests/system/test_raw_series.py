"""Rule tests with raw series: the user's own Prometheus evaluates the rule's expression."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from anomalyd.cli import main
from anomalyd.workbench.ruletest import returned, run_test
from anomalyd.workbench.testfile import RuleTest, read_tests
from anomalyd.yamlfile import read_yaml

pytestmark = pytest.mark.server("prometheus")

RULES = """\
groups:
  - name: g
    interval: 1m
    rules:
      - anomaly: Traffic
        expr: sum by (job) (rate(http_requests_total[5m]))
        detector: mad
        history: 1d
        direction: down
        for: 3m
        min_deviation: {relative: 20%}
        tiers: {warning: {budget: 1 per week}}
"""
HEAD = "rule_files: [r.yml]\ntests:\n  - name: t\n    rule: Traffic\n    scrape_interval: 30s\n    raw_series:\n"
OK = "      - {series: 'http_requests_total{job=\"a\",code=\"200\"}', counter: true, values: %s, noise: 1}\n"
FEW = "      - {series: 'http_requests_total{job=\"a\",code=\"500\"}', counter: true, values: 1x26h}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "r.yml").write_text(RULES)
    return tmp_path


def read(folder: Path, body: str) -> RuleTest:
    return read_tests(read_yaml(HEAD + body, str(folder / "x.test.yml")))[0]


def test_the_expression_is_evaluated_for_real(folder: Path) -> None:
    """Two counters become one rate, whose fall is found."""
    series = OK % "100x1d 100x1h 20x30m 100x30m" + FEW
    test = read(folder, series + "    expect: [{series: '{job=\"a\"}', opens: 1h4m..1h9m, closes: 1h33m..1h40m}]\n")
    assert run_test(test).diff == ()
    block = returned(test, "prometheus")
    assert [dict(labels) for labels in block.labels] == [{"job": "a"}]
    before = block.values[0, :1400]
    assert np.isnan(before[:6]).all(), "no rate over five minutes of which less has been seen"
    before = before[6:]
    assert np.abs(before - 101).max() < 2, "100 a second and 1 a second, the noise of ten samples apart"


def test_a_series_that_ends_is_gone_at_once_and_a_gap_is_bridged(folder: Path) -> None:
    """`stale` is Prometheus's own mark of an end; two missed scrapes are nothing to `rate` and a lookback."""
    rules = RULES.replace("sum by (job) (rate(http_requests_total[5m]))", "up")
    (folder / "r.yml").write_text(rules)
    body = "      - {series: 'up{i=\"gap\"}', values: 1x1d 1x10m _x1m 1x20m}\n"
    body += "      - {series: 'up{i=\"end\"}', values: 1x1d 1x10m stale}\n    expect: []\n"
    block = returned(read(folder, body), "prometheus")
    rows = {dict(labels)["i"]: np.isfinite(block.values[i, 1440:]) for i, labels in enumerate(block.labels)}
    assert rows["gap"].all()
    assert rows["end"][:10].all()
    assert not rows["end"][10:].any()


def test_an_expression_that_gives_nothing_is_told(folder: Path) -> None:
    """A test that passes because its series have other names would be worth nothing."""
    body = (OK % "1x26h").replace("http_requests_total", "http_request_total") + "    expect: []\n"
    assert run_test(read(folder, body)).diff == (
        "! the expression gives nothing for the raw series: compare names and labels with those in expr",
    )


def test_the_server_is_gone_afterwards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By command: it passes, and no process is left that we started."""
    before = children()
    (folder / "x.test.yml").write_text(HEAD + OK % "1x26h" + "    expect: []\n")
    assert command(str(folder / "x.test.yml")) == 0
    assert "1 of 1 tests pass" in capsys.readouterr().out
    assert children() == before


def command(*args: str) -> int:
    """Run `anomalyd test` in this process; its exit code."""
    argv, sys.argv = sys.argv, ["anomalyd", "test", *args]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = argv
    return 0


def children() -> set[str]:
    """Processes whose parent is this one."""
    mine = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            mine.add(stat.parent.name)
    return mine
