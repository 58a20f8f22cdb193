"""The workbench over a real Prometheus: backtest, replay, shadow report and query cost against a daemon that lived."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalyd.app import build, open_sources
from anomalyd.backtest import backtest, grid_span, read_history
from anomalyd.clock import DAY_MS, MINUTE_MS, VirtualClock
from anomalyd.episode import Episode
from anomalyd.replay import Finding, replay
from anomalyd.rules import load_rules
from anomalyd.run import run_virtually
from anomalyd.settings import Settings, load_settings
from anomalyd.store import open_store
from servers import Series, openmetrics, running_prometheus
from system.kit import write_config

STEP = 5 * MINUTE_MS
START = 1_760_000_400_000 // DAY_MS * DAY_MS
LEARNED, LIVED = 4, 2
RULE = {
    "expr": "avg by (host) (load)", "detector": "mad", "history": "3d", "for": "10m", "keep_firing_for": "15m",
    "refit_every": "1d", "tiers": {"warning": {"surprise": 2.8}, "critical": {"surprise": 5}},
}  # fmt: skip
RULES = {
    "groups": [
        {
            "name": "g",
            "interval": "5m",
            "rules": [
                {"anomaly": "Load", **RULE},
                {"anomaly": "LoadUp", **RULE, "direction": "up", "mode": "shadow"},
            ],
        }
    ]
}


def loads() -> list[Series]:
    """Four hosts: two with an outage each, one that is away for hours, one that is only noisy."""
    rng = np.random.default_rng(11)
    times = START + np.arange((LEARNED + LIVED) * DAY_MS // STEP) * STEP
    values = 50 + 8 * np.sin(2 * np.pi * times / DAY_MS) + rng.normal(size=(4, len(times)))
    live = LEARNED * DAY_MS // STEP
    values[0, live + 60 : live + 90] += 60
    values[1, live + 200 : live + 320] = 2
    keep = np.ones((4, len(times)), bool)
    keep[2, live + 100 : live + 160] = False
    return [
        Series("load", {"host": f"h{i}", "core": "0"}, times[keep[i]].tolist(), values[i, keep[i]].tolist())
        for i in range(4)
    ]


@dataclass(frozen=True)
class Lived:
    """A daemon's life over the real Prometheus: its files and what it found."""

    config: Path
    settings: Settings
    episodes: tuple[Episode, ...]
    first: int
    last: int


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    folder = tmp_path_factory.mktemp("workbench")
    with running_prometheus(folder, blocks=openmetrics(loads())) as url:
        config = write_config(folder, url, json.loads(json.dumps(RULES)), {})  # a copy without aliases
        settings = load_settings(config)
        first, last = START + LEARNED * DAY_MS, START + (LEARNED + LIVED) * DAY_MS - STEP
        clock = VirtualClock(first + STEP // 2)
        app = build(settings, load_rules(settings.rule_files, settings), clock, inline=True)
        try:
            run_virtually(app.daemon, clock, last + STEP // 2)
            found = tuple(e for e in app.store.episodes(limit=1000) if e.opened_at)
        finally:
            app.close()
        yield Lived(config, settings, found, first, last)


def rows(episodes: Any) -> list[dict[str, Any]]:
    """What must be the same of episodes; incidents are told, and a shadow rule tells nobody."""
    return sorted((asdict(e) for e in episodes), key=lambda e: str(e["started_at"]) + str(e["labels"]))


def command(lived: Lived, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "anomalyd", *arguments, "--config", str(lived.config)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.server("prometheus")
@pytest.mark.parametrize("name", ["g/Load", "g/LoadUp"])
def test_a_backtest_finds_what_the_daemon_found(lived: Lived, name: str) -> None:
    """Over the same hours of the same Prometheus the episodes are equal: times, tiers, peaks and models."""
    rule = load_rules(lived.settings.rule_files, lived.settings).rule(name)
    assert rule is not None
    source = open_sources(lived.settings)[rule.source]
    start, end = grid_span(rule, lived.first, lived.last)
    found = backtest(rule, read_history(source, rule, start, end).block, start, end)
    theirs = [e for e in lived.episodes if e.rule == name]
    assert len(theirs) >= 1
    assert rows(found.episodes) == rows(theirs)


@pytest.mark.server("prometheus")
def test_every_alert_can_be_computed_again(lived: Lived) -> None:
    """The scores of all episodes come out as they were stored; a rewritten past or another rule is found out."""
    store = open_store(lived.settings.database.get())
    rules = load_rules(lived.settings.rule_files, lived.settings)
    source = open_sources(lived.settings)["default"]
    try:
        for episode in lived.episodes:
            again = replay(episode, rules.rule(episode.rule), store, source)
            assert (again.finding, again.causes) == (Finding.EQUAL, ()), episode
            assert len(again.slots) >= 3
    finally:
        store.close()


@pytest.mark.server("prometheus")
def test_the_commands_say_so_too(lived: Lived, tmp_path: Path) -> None:
    """backtest writes a report and replays equal; an unknown episode is refused with its reason."""
    report = tmp_path / "report.html"
    first, last = (datetime.fromtimestamp(ms / 1000, UTC).isoformat() for ms in (lived.first, lived.last))
    span = ["--since", first, "--until", last]
    done = command(lived, "backtest", "Load", *span, "--report", str(report), "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    assert answer["rule"] == "g/Load"
    assert "<svg" in report.read_text()
    ours = command(lived, "replay", lived.episodes[0].id)
    assert (ours.returncode, "equal" in ours.stdout) == (0, True), ours.stderr
    unknown = command(lived, "replay", "nosuch")
    assert unknown.returncode == 1
    assert "no episode 'nosuch'" in unknown.stderr
