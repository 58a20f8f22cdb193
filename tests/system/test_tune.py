"""``anomalyd tune`` as a user runs it: a rule that alerts on noise, its history in a Prometheus, labels or votes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from anomalyd.block import Block
from anomalyd.durations import parse_budget
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.rule import TierPolicy
from anomalyd.rulefiles.read import read_rules
from anomalyd.score import Tier
from anomalyd.store import open_store
from anomalyd.yamlfile import read_file
from fakes.prometheus import FakePrometheus, FakeSeries
from life import RULE, START, Life, M, change, recorded
from system.command import Done, command
from system.kit import write_config

MINUTES = 240
RULES = {
    "groups": [
        {
            "name": "g",
            "interval": "1m",
            "rules": [
                {
                    "anomaly": "Load", "expr": "load", "detector": {"type": "mad", "window": "4h"}, "history": "12h",
                    "direction": "both", "min_deviation": {"absolute": 0.5}, "tiers": {"warning": {"surprise": 1.2}},
                }
            ],
        }
    ]
}  # fmt: skip


def planted() -> Block:
    block = change(recorded(n=2, minutes=MINUTES), 0, 60, 75, 30.0)
    return change(block, 1, 150, 165, -10.0)


def moment(minute: int) -> str:
    return datetime.fromtimestamp((START + minute * M) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """Settings for a Prometheus that has the planted history."""
    block = planted()
    times = block.times.tolist()
    rows = zip(block.labels, block.values.tolist(), strict=True)
    with FakePrometheus([FakeSeries(dict(ls), dict(zip(times, values, strict=True))) for ls, values in rows]) as fake:
        yield write_config(tmp_path, fake.url, RULES, {}, f"sqlite:///{tmp_path / 'anomalyd.db'}")


def anomalyd_tune(config: Path, *arguments: str) -> Done:
    """The command on the recorded span; few versions are tried, so that the test is short."""
    span = ("--since", moment(0), "--until", moment(MINUTES - 1), "--time", "6s")
    return command("tune", *arguments, "--config", str(config), *span)


def test_a_noisy_rule_with_labels(config: Path) -> None:
    """Peaks with pictures, thresholds, what was tried, a change as a diff, and what it would have done; then HTML."""
    spans = config.parent / "spans.csv"
    spans.write_text(f"series,start,end\nhost=h0,{moment(60)},{moment(74)}\nhost=h1,{moment(150)},{moment(164)}\n")
    report = config.parent / "tune.html"
    done = anomalyd_tune(config, "Load", "--budget", "1 per week", "--labels", str(spans), "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert "█" in done.stdout
    assert "What each threshold would have paged" in done.stdout
    assert "kept the labelled one on the part that was held out, from " in done.stdout
    assert "which nothing was chosen on" in done.stdout
    assert "surprise: 1.2" in next(line for line in done.stdout.splitlines() if line.startswith("-  "))
    assert "budget: 1 per week" in next(line for line in done.stdout.splitlines() if line.startswith("+  "))
    assert "Left as they are: direction both, for " in done.stdout
    page = report.read_text(encoding="utf-8")
    assert page.count("<svg") >= 8
    assert 'class="plus"' in page


def test_votes_are_labels_too(config: Path) -> None:
    """Alerts that somebody judged in the daemon's database stand in for a file, and are kept."""
    store = open_store(f"sqlite:///{config.parent / 'anomalyd.db'}")
    rule = replace(RULE, tiers=(TierPolicy(Tier.WARNING, surprise=1.2),), for_ms=0)
    life = Life(planted(), rule, store)
    life.live(0, MINUTES)
    for episode in store.episodes(rule=rule.id):
        if episode.opened_at:
            label = FeedbackLabel.TRUE if episode.peak_value > 25 else FeedbackLabel.FALSE
            store.add_feedback(Feedback(episode.id, label, rule.id, START, "ann", "cli", episode.id))
    store.close()
    done = anomalyd_tune(config, "Load", "--budget", "1 per week", "--held-out", "0", "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)
    assert one["labels_from"] == "feedback"
    assert one["tried"][0]["found"] == 1
    assert one["best"] is not None
    assert one["held_out_from"] is None
    assert "kept the confirmed one" in one["words"]
    assert one["tried"][1]["excess"] <= one["tried"][0]["excess"]


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed")
def test_the_patch_changes_the_file_and_the_result_passes_the_check(config: Path) -> None:
    """The change is written as a patch of the user's own file; applied, the rule has the budget, comments and all."""
    rules = config.parent / "rules.yml"
    text = f"# Ask Ada.\n{rules.read_text()}"
    rules.write_text(text)
    file = config.parent / "tune.patch"
    done = anomalyd_tune(config, "Load", "--budget", "1 per week", "--patch", str(file))
    assert done.returncode == 0, done.stderr
    subprocess.run(["patch", "-p1", "-d", "/", "-i", str(file)], check=True, capture_output=True, timeout=60)
    assert rules.read_text() != text
    assert rules.read_text().startswith("# Ask Ada.\n")
    assert command("check", str(config)).returncode == 0
    (rule,) = read_rules([read_file(rules)]).rules
    assert rule.tiers == (TierPolicy(Tier.WARNING, parse_budget("1 per week")),)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Lode",), "Lode: no rule has this name (did you mean 'Load'?)"),
        (("Traffic",), "Traffic: no rule has this name (known: g/Load)"),
        (("Load", "--budget", "lots"), "--budget: 'lots' is not a budget"),
        (("Load", "--budget", "9 per 1m"), "--budget: allows more alerts than g/Load has samples"),
        (("Load", "--labels", "absent.csv"), "absent.csv: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(config: Path, arguments: tuple[str, ...], says: str) -> None:
    """A slip is told in words, with exit code 2."""
    done = anomalyd_tune(config, *arguments)
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
