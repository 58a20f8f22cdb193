"""What surrounded a rule in the past: receivers, budgets, mute windows, inhibition, reminders, silences and votes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalyd.backtest import Backtest, backtest
from anomalyd.block import Block, fingerprint, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.feedback import Detail, FeedbackPolicy, write_detail
from anomalyd.hush import Firing, InhibitRule, MuteWindow
from anomalyd.intervals import Interval
from anomalyd.matcher import parse_matchers
from anomalyd.receivers.webhook import WebhookSettings
from anomalyd.records import Feedback, FeedbackLabel, Silence, ThresholdChange
from anomalyd.relived import Surroundings, Timeline, may_inhibit, remembering
from anomalyd.routing import Route
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.store import open_store
from anomalyd.threshold import NEVER
from system.command import command

STEP = 5 * MINUTE_MS
START = 1_760_054_400_000
END = START + DAY_MS - STEP
RULE = Rule(
    "Load", "g", "load", detector=DetectorSpec("mad", {"window": "12h"}), interval_ms=STEP, history_ms=DAY_MS,
    query_delay_ms=0, for_ms=STEP, keep_firing_for_ms=2 * STEP, suppress_ms=0, group_by=("host",), routed=True,
    tiers=(TierPolicy(Tier.WARNING, surprise=2.6),), labels={"team": "web"},
)  # fmt: skip
OUTAGES = {"a": (40, 52), "b": (42, 54), "c": (200, 240)}
"""First and last slot of an outage, by host."""


def history() -> Block:
    times = np.arange(START - DAY_MS - STEP, END + 1, STEP, dtype=np.int64)
    rng = np.random.default_rng(3)
    values = 20 + rng.normal(size=(len(OUTAGES), len(times)))
    live = int(np.searchsorted(times, START))
    for row, (first, last) in enumerate(OUTAGES.values()):
        values[row, live + first : live + last] += 30
    return Block(tuple(make_labels({"host": name}) for name in OUTAGES), times, values)


def hook(name: str = "hook", **more: object) -> WebhookSettings:
    return WebhookSettings.model_validate({"name": name, "type": "webhook", "url": "http://127.0.0.1:9/", **more})


def told(found: Backtest, reason: str = "new") -> list[tuple[str, int]]:
    """Host and slot of each notification of a kind."""
    hosts = {e.incident: dict(e.labels)["host"] for e in found.episodes}
    mine = [s for s in found.sent if s.reason == reason and s.incident in hosts]
    return [(hosts[s.incident], (s.at - START) // STEP) for s in mine]


def lived(around: Surroundings) -> Backtest:
    return backtest(RULE, history(), START, END, around=around)


def with_hook(**more: object) -> Surroundings:
    settings = hook(**more)
    return Surroundings({settings.name: settings}, Route((settings.name,)))


@pytest.fixture(scope="module")
def plain() -> Backtest:
    return lived(with_hook())


def test_without_wishes_everybody_is_told_as_it_happens(plain: Backtest) -> None:
    """Three incidents, three beginnings, at the receiver that the route leads to."""
    assert told(plain) == [("a", 41), ("b", 43), ("c", 201)]
    assert plain.told == (("hook", 3),)
    assert plain.included == ()


def test_receivers_have_their_budget_tier_and_route() -> None:
    """One message an hour: a second incident is held until it has ended; a deafer receiver hears nothing."""
    calm = hook("calm", min_tier="critical")
    found = lived(Surroundings({"hook": hook(budget_per_hour=1), "calm": calm}, Route(("hook", "calm"))))
    assert {s.receiver for s in found.sent} == {"hook"}
    assert ("b", 43) not in told(found)
    assert {"below_tier"} <= set(found.held)
    assert any(reason.startswith("budget") for reason in found.held)
    assert found.included == ("the receivers' budgets",)


def test_a_mute_window_holds_what_is_still_true_after_it(plain: Backtest) -> None:
    """Muted from 16:00 to 18:00: what ends before is never told, what outlasts it is told then."""
    window = MuteWindow("works", (Interval(times=((16 * 60, 18 * 60),)),))
    found = lived(replace(with_hook(), mute_windows=(window,)))
    assert told(found) == [("a", 41), ("b", 43), ("c", 18 * 12)]
    assert found.episodes == plain.episodes, "quiet is no calm"
    assert "mute windows" in found.included


def test_reminders_are_counted(plain: Backtest) -> None:
    """An hour after it was told, and an hour after that."""
    found = lived(with_hook(repeat_interval="1h"))
    assert told(found, "repeat") == [("c", 213), ("c", 225), ("c", 237)]
    assert told(plain, "repeat") == []


def test_an_open_incident_of_another_rule_keeps_quiet_what_agrees_with_it() -> None:
    """While the rack is down, its hosts are not told; the inhibition ends with it."""
    rule = InhibitRule(parse_matchers('alertname="Rack"'), parse_matchers('alertname="Load"'), ("host",))
    down = Firing("rack", {"alertname": "Rack", "host": "c"})
    line = Timeline((START + 190 * STEP, START + 230 * STEP), ((down,), ()))
    found = lived(replace(with_hook(), inhibit_rules=(rule,), others={"g/Rack": line}))
    assert told(found) == [("a", 41), ("b", 43), ("c", 230)]
    assert "inhibition" in found.included


def test_which_rules_may_inhibit_is_told_from_what_is_known() -> None:
    """Names and labels of a rule are known before it has lived; tiers and labels of series are not."""
    rack = replace(RULE, name="Rack", labels={"layer": "rack"})
    around = Surroundings(
        inhibit_rules=(InhibitRule(parse_matchers('layer="rack",tier="critical"'), parse_matchers('team="web"')),)
    )
    assert may_inhibit(rack, RULE, around)
    assert not may_inhibit(replace(rack, labels={"layer": "host"}), RULE, around)
    assert not may_inhibit(rack, replace(RULE, labels={"team": "db"}), around)
    assert not may_inhibit(rack, rack, around)


def test_a_rules_own_timeline_says_when_what_was_open() -> None:
    """What other rules are inhibited by."""
    around = replace(with_hook(), inhibit_rules=(InhibitRule(parse_matchers('a="b"'), parse_matchers('c="d"')),))
    line = lived(around).timeline
    hosts = [sorted(one.labels["host"] for one in line.on(START + slot * STEP)) for slot in (30, 41, 50, 100, 220, 287)]
    assert hosts == [[], ["a"], ["a", "b"], [], ["c"], []]
    assert line.on(START + 220 * STEP)[0].labels["team"] == "web"


def test_silences_count_from_when_they_were_made() -> None:
    """One was there in time; one was made an hour too late to keep anybody quiet from the beginning."""
    store = open_store("sqlite://")
    try:
        c = parse_matchers('host="c"')
        store.add_silence(Silence("s1", c, START, START + 220 * STEP, "ann", "", START))
        a = parse_matchers('host="a"')
        store.add_silence(Silence("s2", a, START, START + DAY_MS, "ann", "", START + 100 * STEP))
        found = lived(remembering(with_hook(), store, FeedbackPolicy()))
        assert told(found) == [("a", 41), ("b", 43), ("c", 220)]
        assert "the silences and votes of that time" in found.included
    finally:
        store.close()


def test_votes_count_from_when_they_were_given(plain: Backtest) -> None:
    """A threshold that a vote raised after the first incident spares the series its later one, and not its first."""
    twice = history()
    values = twice.values.copy()
    live = int(np.searchsorted(twice.times, START))
    values[0, live + 150 : live + 160] += 7
    block = Block(twice.labels, twice.times, values)
    store = open_store("sqlite://")
    try:
        mark = fingerprint(make_labels({"host": "a"}))
        vote = Feedback("v", FeedbackLabel.FALSE, RULE.id, START + 60 * STEP, "ann", "cli", plain.episodes[0].id, mark)
        store.add_feedback(vote)
        raised, detail = (2.6 * 2.5, NEVER, NEVER), write_detail(Detail(2.5, (2.6, NEVER, NEVER), "false"))
        store.save_threshold(ThresholdChange(RULE.id, vote.at, raised, "feedback", mark, "ann", detail, "v"))
        around = remembering(with_hook(), store, FeedbackPolicy())
        with_votes = backtest(RULE, block, START, END, around=around)
        without = backtest(RULE, block, START, END, around=with_hook())
    finally:
        store.close()
    hosts = [[dict(e.labels)["host"] for e in found.episodes] for found in (without, with_votes)]
    assert hosts == [["a", "b", "a", "c"], ["a", "b", "c"]]


def test_as_lived_needs_the_database(tmp_path: Path) -> None:
    """Before anything is read: exit code 2, and what to do instead."""
    (tmp_path / "r.yml").write_text("groups: [{name: g, rules: [{anomaly: A, expr: up}]}]\n")
    settings = tmp_path / "anomalyd.yml"
    settings.write_text(
        "sources: {default: {url: 'http://127.0.0.1:9'}}\nrule_files: [r.yml]\ndatabase: {url: 'sqlite:///none.db'}\n"
    )
    done = command("backtest", "--as-lived", "--config", str(settings))
    assert done.returncode == 2
    assert "there is no database" in done.stderr
    assert "leave the option out" in done.stderr
