"""A rule in MetricsQL over a real VictoriaMetrics: check, query cost, backtest, and a daemon that lives a day."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalyd.app import build, open_sources
from anomalyd.cli import main
from anomalyd.clock import DAY_MS, MINUTE_MS, VirtualClock
from anomalyd.daemon import run_virtually
from anomalyd.rule import Rule
from anomalyd.rulefiles.read import RuleSet, load_rules
from anomalyd.settings import Settings, load_settings
from anomalyd.workbench.backtest import backtest, grid_span, read_history
from anomalyd.workbench.querycost import measure
from fakes.webhook import FakeWebhook
from servers import Series, running_victoriametrics
from system.kit import write_config

pytestmark = pytest.mark.server("victoria-metrics")

STEP = 5 * MINUTE_MS
START = 1_760_000_400_000 // DAY_MS * DAY_MS
LEARNED = 4 * DAY_MS
FIRST, LAST = START + LEARNED, START + LEARNED + DAY_MS - STEP
OUTAGE = (FIRST + 60 * STEP, FIRST + 90 * STEP)
EXPR = 'with (mine = load{core=~"[01]"}) median(mine) by (host)'
"""No PromQL: a template, and an aggregate that Prometheus does not have."""
RULES = {
    "groups": [
        {
            "name": "g",
            "interval": "5m",
            "rules": [
                {
                    "anomaly": "Load", "expr": EXPR, "detector": "mad", "history": "3d", "for": "10m",
                    "keep_firing_for": "15m", "tiers": {"warning": {"surprise": 2.8}},
                }
            ],
        }
    ]
}  # fmt: skip


def loads() -> list[Series]:
    """Three hosts of two cores each; one host has an outage. A third core is in no answer."""
    rng = np.random.default_rng(11)
    times = START + np.arange((LEARNED + DAY_MS) // STEP) * STEP
    outage = (times >= OUTAGE[0]) & (times < OUTAGE[1])
    found = []
    for host in range(3):
        for core in range(3):
            values = 50 + 8 * np.sin(2 * np.pi * times / DAY_MS) + rng.normal(size=len(times))
            values[outage] += 60 if host == 1 or core == 2 else 0
            found.append(Series("load", {"host": f"h{host}", "core": str(core)}, times.tolist(), values.tolist()))
    return found


@dataclass(frozen=True)
class Setup:
    """Files of a user, and the webhook that is told."""

    config: Path
    settings: Settings
    rules: RuleSet
    hook: FakeWebhook

    @property
    def rule(self) -> Rule:
        return self.rules.rules[0]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("metricsql")
    with running_victoriametrics(folder, series=loads()) as url, FakeWebhook() as hook:
        sources = {"default": {"url": str(url), "kind": "victoriametrics"}}
        receivers = {"hook": {"type": "webhook", "url": hook.url}}
        config = write_config(folder, url, RULES, receivers, sources=sources)
        settings = load_settings(config)
        yield Setup(config, settings, load_rules(settings.rule_files, settings), hook)


def command(setup: Setup, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command line in this process: its exit code, and what it printed."""
    argv = sys.argv
    sys.argv = ["anomalyd", *arguments, "--config", str(setup.config)]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = argv
    return code, capsys.readouterr().out


def test_check_leaves_metricsql_to_the_source(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    """It is noted and not refused, and the same rule is refused where the source speaks PromQL only."""
    code, out = command(setup, capsys, "check")
    assert (code, "is taken for MetricsQL" in out) == (0, True), out
    plain = setup.config.parent / "plain.yml"
    plain.write_text(setup.config.read_text().replace("kind: victoriametrics", "kind: prometheus"))
    assert command(setup, capsys, "check", str(plain))[0] == 2


def test_query_cost_asks_the_source(setup: Setup) -> None:
    """Three series; what the server refuses is said with its own words."""
    source = open_sources(setup.settings)["default"]
    cost = measure(setup.rule, source, LAST + setup.rule.query_delay_ms, VirtualClock(LAST), whole=True)
    assert (cost.word, cost.tick.series, cost.tick.samples) == ("ok", 3, 3), cost.verdicts
    assert cost.warm_up is not None
    assert (cost.warm_up.series, cost.warm_up.samples) == (3, 3 * 3 * 288)


def test_a_backtest_and_a_daemon_find_the_same(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    """One outage of one host: found by the command, by the daemon slot by slot, equal to the sample, and told."""
    span = [datetime.fromtimestamp(ms / 1000, UTC).isoformat() for ms in (FIRST, LAST)]
    code, out = command(setup, capsys, "backtest", "Load", "--since", span[0], "--until", span[1], "--json")
    assert code == 0
    (episode,) = json.loads(out)[0]["episodes"]
    assert episode["labels"] == {"host": "h1"}
    assert (episode["started_at"], episode["opened_at"]) == (OUTAGE[0], OUTAGE[0] + 2 * STEP)
    source = open_sources(setup.settings)["default"]
    start, end = grid_span(setup.rule, FIRST, LAST)
    found = backtest(setup.rule, read_history(source, setup.rule, start, end).block, start, end)
    clock = VirtualClock(FIRST + STEP // 2)
    app = build(setup.settings, setup.rules, clock, inline=True)
    try:
        run_virtually(app.daemon, clock, LAST + STEP // 2)
        theirs = [e for e in app.store.episodes(limit=100) if e.opened_at]
        slots = app.store.rule_slots(setup.rule.id, 0, 1 << 62)
    finally:
        app.close()
    assert [plain(e) for e in found.episodes] == [plain(e) for e in theirs]
    assert {slot.outcome for slot in slots} == {"ok"}
    assert [body["reason"] for body in setup.hook.bodies] == ["new", "resolved"]


def plain(episode: Any) -> dict[str, Any]:
    return asdict(episode)
