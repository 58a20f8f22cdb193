"""The workbench over a real Prometheus: backtest, replay, shadow report and query cost against a daemon that lived."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalyd.app import App, build, open_sources
from anomalyd.ballot import Ballot
from anomalyd.cli import main
from anomalyd.clock import DAY_MS, MINUTE_MS, VirtualClock
from anomalyd.daemon import run_virtually
from anomalyd.episode import Close, Episode, Phase
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.replay import Finding, replay
from anomalyd.rulefiles.read import load_rules
from anomalyd.settings import Settings, load_settings
from anomalyd.store import open_store
from anomalyd.workbench.backtest import Backtest, backtest, grid_span, read_history, told_with
from anomalyd.workbench.backtest import lived as lived_through
from anomalyd.workbench.querycost import Query, measure
from anomalyd.workbench.relived import remembering, surroundings
from fakes.webhook import FakeWebhook
from servers import Series, openmetrics, running_prometheus
from system.kit import write_config

STEP = 5 * MINUTE_MS
START = 1_760_000_400_000 // DAY_MS * DAY_MS
QUIET = {
    "mute_windows": {"lunch": {"intervals": [{"times": ["05:00-07:00"]}]}},
    "inhibit_rules": [{"source_matchers": ["layer=host"], "target_matchers": ["alertname=Load"], "equal": ["host"]}],
}  # fmt: skip
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
                {"anomaly": "Host", **RULE, "direction": "down", "labels": {"layer": "host"}, "group_by": ["host"]},
                {
                    "anomaly": "Visits", "expr": "avg by (page) (visits)", "history": "3d", "for": "10m",
                    "keep_firing_for": "15m", "group_by": ["page"],
                    "tiers": {
                        "warning": {"budget": "10 per day per rule"}, "critical": {"budget": "1 per week per rule"},
                    },
                },
            ],
        }
    ]
}  # fmt: skip


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


def visits() -> list[Series]:
    """Three pages: an hour twice as high every noon, the same spike every hour of a day, outages; one page is new."""
    rng = np.random.default_rng(5)
    times = START + np.arange((LEARNED + LIVED) * DAY_MS // STEP) * STEP
    slot, live = np.arange(len(times)), LEARNED * DAY_MS // STEP
    values = 100 + 40 * np.sin(2 * np.pi * times / DAY_MS) + 3 * rng.normal(size=(3, len(times)))
    values[0, (slot % 288 >= 144) & (slot % 288 < 156)] += 80
    for again in range(110, 310, 12):
        values[1, live + again : live + again + 1] += 60
    for row, first, length, height in (
        (0, 40, 20, -70), (0, 90, 12, 90), (0, 250, 12, 90), (0, 400, 12, 90), (0, 500, 12, 160),
        (1, 60, 6, 40), (1, 330, 60, 60), (1, 450, 30, -80), (2, 420, 20, 120),
    ):  # fmt: skip
        values[row, live + first : live + first + length] += height
    begins = (0, 0, live + 200)
    return [
        Series("visits", {"page": f"p{i}"}, times[begins[i]:].tolist(), values[i, begins[i]:].tolist())
        for i in range(3)
    ]


class Analysts:
    """They vote on what was told of the rule Visits: each alert of p0 is false a while after it ended, until the third
    is called back; an open one of p1 is the new normal."""

    def __init__(self, app: App):
        self._store, self._rule = app.store, "g/Visits"
        self._ballot = Ballot(
            app.store, lambda: {rule.id: rule for rule in app.rules.rules}, app.settings.feedback, app.feedback.changed
        )
        self.votes: list[Feedback] = []

    def __call__(self, now: int) -> None:
        """Look at the alerts after a step."""
        for e in self._store.episodes(rule=self._rule, limit=100):
            if not e.opened_at or any(vote.episode == e.id for vote in self.votes):
                continue
            if dict(e.labels)["page"] == "p0" and e.closed_at and now > e.closed_at + 3 * STEP:
                self._vote(e, FeedbackLabel.FALSE, now)
            elif dict(e.labels)["page"] == "p1" and e.phase == Phase.OPEN and now > e.opened_at + 4 * STEP:
                self._vote(e, FeedbackLabel.NEW_NORMAL, now)

    def _vote(self, episode: Episode, label: FeedbackLabel, now: int) -> None:
        vote = self._ballot.vote_on(episode.id, label, "ann", "cli", now)
        self._ballot.cast(vote, now)
        self.votes.append(vote)
        if len(self.votes) == 3:
            self._ballot.undo(self.votes[0].id, "bob", now)


@dataclass(frozen=True)
class Lived:
    """A daemon's life over the real Prometheus: its files and what it found."""

    config: Path
    settings: Settings
    episodes: tuple[Episode, ...]
    first: int
    last: int
    told: tuple[tuple[str, str, str, int], ...]
    votes: tuple[Feedback, ...]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    folder = tmp_path_factory.mktemp("workbench")
    with running_prometheus(folder, blocks=openmetrics([*loads(), *visits()])) as url, FakeWebhook() as hook:
        receivers = {"hook": {"type": "webhook", "url": hook.url, "repeat_interval": "1h"}}
        # a copy without aliases
        config = write_config(folder, url, json.loads(json.dumps(RULES)), receivers, **json.loads(json.dumps(QUIET)))
        settings = load_settings(config)
        first, last = START + LEARNED * DAY_MS, START + (LEARNED + LIVED) * DAY_MS - STEP
        clock = VirtualClock(first + STEP // 2)
        app = build(settings, load_rules(settings.rule_files, settings), clock, inline=True)
        try:
            analysts = Analysts(app)
            run_virtually(app.daemon, clock, last + STEP // 2, analysts)
            found = tuple(e for e in app.store.episodes(limit=1000) if e.opened_at)
            told = tuple(statement(body) for body in hook.bodies)
        finally:
            app.close()
        yield Lived(config, settings, found, first, last, told, tuple(analysts.votes))


def statement(body: Any) -> tuple[str, str, str, int]:
    """What a webhook was told: rule, why, tier and when it happened."""
    at = datetime.fromisoformat(body["at"].replace("Z", "+00:00"))
    return body["rule"]["name"], body["reason"], body["tier"], int(at.timestamp() * 1000)


def rows(episodes: Any) -> list[dict[str, Any]]:
    """What must be the same of episodes; incidents are told, and a shadow rule tells nobody."""
    return sorted((asdict(e) for e in episodes), key=lambda e: str(e["started_at"]) + str(e["labels"]))


class Command:
    """Runs the command line in this process, with the files of the life."""

    def __init__(self, lived: Lived, capsys: pytest.CaptureFixture[str]):
        self.lived, self.capsys = lived, capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        argv = sys.argv
        sys.argv = ["anomalyd", *arguments, "--config", str(self.lived.config)]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = argv
        self.out, self.err = self.capsys.readouterr()
        return code


@pytest.fixture
def command(lived: Lived, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(lived, capsys)


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
def test_a_backtest_with_the_votes_of_the_time_finds_what_the_daemon_found(lived: Lived) -> None:
    """Detector auto with budgets for the whole rule: only news opens, a new page and every vote move the cuts, a vote
    that is taken back moves them back, a new normal is learned anew. Equal to the sample, and only with the votes."""
    rule = load_rules(lived.settings.rule_files, lived.settings).rule("g/Visits")
    assert rule is not None
    assert {vote.label for vote in lived.votes} == {FeedbackLabel.FALSE, FeedbackLabel.NEW_NORMAL}
    source = open_sources(lived.settings)[rule.source]
    start, end = grid_span(rule, lived.first, lived.last)
    history = read_history(source, rule, start, end).block
    store = open_store(lived.settings.database.get())
    try:
        around = remembering(surroundings(lived.settings, (rule,)), store, lived.settings.feedback)
        found = backtest(rule, history, start, end, around=around)
        moves = store.thresholds(rule.id)
    finally:
        store.close()
    theirs = [e for e in lived.episodes if e.rule == rule.id]
    assert rows(found.episodes) == rows(theirs)
    assert (found.hits.opens < found.hits.surprise).any(), "what opens an episode is not what keeps it open"
    assert {dict(e.labels)["page"] for e in theirs} == {"p0", "p1", "p2"}
    assert {Close.NEW_NORMAL, Close.RECOVERED} <= {e.close for e in theirs}
    assert moves
    assert rows(backtest(rule, history, start, end).episodes) != rows(theirs), "votes did matter"


@pytest.mark.server("prometheus")
def test_a_backtest_tells_what_the_daemon_told(lived: Lived) -> None:
    """With a mute window, reminders and inhibition by another rule: the same statements of its incidents."""
    rules = load_rules(lived.settings.rule_files, lived.settings)
    around = surroundings(lived.settings, rules.rules)
    source = open_sources(lived.settings)["default"]

    def relive(name: str) -> Backtest:
        rule = rules.rule(name)
        assert rule is not None
        start, end = grid_span(rule, lived.first, lived.last)
        return lived_through(rule, read_history(source, rule, start, end).block, start, end, around=around)

    mine = relive("g/Load")
    load, host = told_with((mine, relive("g/Host")), (), around)
    (free,) = told_with((mine,), (), around)
    assert len(free.sent) > len(load.sent), "the host's incident keeps the other rule quiet"
    for found, name in ((host, "Host"), (load, "Load")):
        theirs = sorted((reason, tier) for rule, reason, tier, _ in lived.told if rule == name)
        mine = {e.incident for e in found.episodes}  # beside them it is told of data that are unsound
        assert sorted((s.reason, s.tier) for s in found.sent if s.incident in mine) == theirs
        assert {reason for reason, _ in theirs} >= {"new", "resolved"}
    assert "repeat" in {s.reason for s in load.sent}


@pytest.mark.server("prometheus")
def test_every_alert_can_be_computed_again(lived: Lived) -> None:
    """The scores of all episodes come out as they were stored; a rewritten past or another rule is found out."""
    store = open_store(lived.settings.database.get())
    rules = load_rules(lived.settings.rule_files, lived.settings)
    source = open_sources(lived.settings)["default"]
    try:
        for episode in [e for e in lived.episodes if e.rule != "g/Visits"]:  # votes have moved its model since
            again = replay(episode, rules.rule(episode.rule), store, source)
            assert (again.finding, again.causes) == (Finding.EQUAL, ()), episode
            assert len(again.slots) >= 3
    finally:
        store.close()


def span(lived: Lived) -> list[str]:
    first, last = (datetime.fromtimestamp(ms / 1000, UTC).isoformat() for ms in (lived.first, lived.last))
    return ["--since", first, "--until", last]


@pytest.mark.server("prometheus")
def test_backtest_as_a_command(lived: Lived, command: Command, tmp_path: Path) -> None:
    """It prints what came, writes a report, scores labels, and stops CI for what another version finds or loses."""
    report, labels, old = tmp_path / "report.html", tmp_path / "labels.csv", tmp_path / "old.yml"
    outage = lived.first + 60 * STEP, lived.first + 90 * STEP
    labels.write_text(f"start,end,host\n{outage[0]},{outage[1]},h0\n")
    assert command("backtest", "Load", *span(lived), "--labels", str(labels), "--report", str(report), "--json") == 0
    (answer,) = json.loads(command.out)
    assert answer["rule"] == "g/Load"
    assert answer["included"] == ["mute windows", "inhibition", "reminders"]
    assert (answer["labels"]["found"], answer["labels"]["spans"]) == (1, 1)
    assert answer["labels"]["delay_ms"] == 2 * STEP
    assert "<svg" in report.read_text()
    deaf = {"anomaly": "Load", **RULE, "min_deviation": {"absolute": 1000}}
    old.write_text(json.dumps({"groups": [{"name": "g", "interval": "5m", "rules": [deaf]}]}))
    assert command("backtest", "Load", *span(lived), "--diff", str(old), "--fail-on-more", "0") == 1
    assert "episodes more, 0 allowed" in command.err
    assert "gained" in command.out
    (tmp_path / "deaf.yml").write_text(old.read_text())
    rules, labels_too = str(lived.config.parent / "rules.yml"), ["--labels", str(labels)]
    assert command("backtest", str(tmp_path / "deaf.yml"), *span(lived), "--diff", rules, *labels_too) == 1
    assert "1 confirmed episodes are lost" in command.err


@pytest.mark.server("prometheus")
def test_replay_shadow_and_query_cost_as_commands(lived: Lived, command: Command) -> None:
    """Each says what is, exits 0 where all is well, and says what is wrong otherwise."""
    load = next(e for e in lived.episodes if e.rule == "g/Load")
    assert command("replay", load.id) == 0, command.err
    assert "equal" in command.out
    assert command("replay", "nosuch") == 1
    assert "no episode 'nosuch'" in command.err
    assert command("shadow", "report", "--since", "5y", "--json") == 0, command.err
    (beside,) = json.loads(command.out)
    assert (beside["live"], beside["shadow"]) == ("g/Load", "g/LoadUp")
    assert beside["both"] >= 1
    assert [dict(e["labels"])["host"] for e in beside["lost"]] == ["h1"], "down is not what the shadow rule asks for"
    assert command("shadow", "promote", "LoadUp") == 0, command.err
    assert "-    mode: shadow" in command.out
    assert command("query-cost", "--json") == 1
    cost = json.loads(command.out)[0]
    assert cost["verdict"] == "over", "years later no series answers"


@pytest.mark.server("prometheus")
def test_query_cost_is_what_the_source_counts(lived: Lived) -> None:
    """Series, samples returned and samples read are exact, and caps are named."""
    rule = load_rules(lived.settings.rule_files, lived.settings).rule("g/Load")
    assert rule is not None
    source = open_sources(lived.settings)["default"]
    now = lived.last + rule.query_delay_ms
    cost = measure(rule, source, now, VirtualClock(now), whole=True)
    assert cost.word == "ok", cost.verdicts
    assert cost.tick == Query(4, 4, 4, 0.0)
    assert cost.warm_up is not None
    assert (cost.warm_up.series, cost.scaled) == (4, 1.0)
    # The first missing sample may still be seen: servers differ on whether the lookback includes its edge.
    assert cost.warm_up.samples == cost.warm_up.read
    assert cost.warm_up.samples in (4 * 3 * 288 - 60, 4 * 3 * 288 - 59)
    tight = measure(replace(rule, max_series=3), source, now, VirtualClock(now))
    assert (tight.word, tight.scaled) == ("over", 12.0)
    assert tight.verdicts == ("1 series beyond max_series 3 are not scored; aggregate or raise it",)
    broken = measure(replace(rule, expr="no_such_function(load)"), source, now, VirtualClock(now))
    assert broken.over
    assert "rejects the query" in broken.verdicts[0]
