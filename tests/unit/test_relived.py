"""What surrounded a rule in the past: receivers and all that the settings say of them, other rules, silences, votes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalyd.arrangement import Arrangement
from anomalyd.block import Block, fingerprint, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.delivery.escalate import Step
from anomalyd.delivery.hush import InhibitRule, MuteWindow
from anomalyd.delivery.routing import Route
from anomalyd.delivery.together import Company
from anomalyd.feedback.cuts import Detail, FeedbackPolicy, write_detail
from anomalyd.intervals import Interval
from anomalyd.matcher import parse_matchers
from anomalyd.receivers.webhook import WebhookSettings
from anomalyd.records import Feedback, FeedbackLabel, Silence, ThresholdChange
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.store import open_store
from anomalyd.threshold import NEVER
from anomalyd.workbench.backtest import Backtest, backtest, lived, told_with
from anomalyd.workbench.relived import Surroundings, concerns, may_inhibit, remembering
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


def alone(around: Surroundings) -> Backtest:
    return backtest(RULE, history(), START, END, around=around)


def with_hook(**more: object) -> Surroundings:
    settings = hook(**more)
    return Surroundings(Arrangement({settings.name: settings}, Route((settings.name,))))


def but(around: Surroundings, **more: object) -> Surroundings:
    return replace(around, arrangement=replace(around.arrangement, **more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain() -> Backtest:
    return alone(with_hook())


RACK = replace(
    RULE, name="Rack", expr="rack", labels={"layer": "rack"}, for_ms=0, keep_firing_for_ms=0,
    tiers=(TierPolicy(Tier.WARNING, surprise=4),),
)
"""What is wrong with a rack: the same wherever a host is told by."""


def rack(first: int, last: int, around: Surroundings, host: str = "c") -> Backtest:
    """A rack's rule that lived through the same day, down from one slot to another."""
    calm = history()
    values = 20 + np.random.default_rng(5).normal(size=(1, len(calm.times)))
    live = int(np.searchsorted(calm.times, START))
    values[0, live + first : live + last] += 30
    return lived(RACK, Block((make_labels({"host": host}),), calm.times, values), START, END, around=around)


def beside(around: Surroundings, *others: Backtest) -> Backtest:
    """The rule, delivered together with others."""
    mine = lived(RULE, history(), START, END, around=around)
    return told_with((mine,), others, around)[0]


def test_without_wishes_everybody_is_told_as_it_happens(plain: Backtest) -> None:
    """Three incidents, three beginnings, at the receiver that the route leads to."""
    assert told(plain) == [("a", 41), ("b", 43), ("c", 201)]
    assert plain.told == (("hook", 3),)
    assert plain.included == ()


def test_receivers_have_their_budget_tier_and_route() -> None:
    """One message an hour: a second incident is held until it has ended; a deafer receiver hears nothing."""
    calm = hook("calm", min_tier="critical")
    found = alone(
        Surroundings(Arrangement({"hook": hook(budget_per_hour=1), "calm": calm}, Route(("hook", "calm"))))
    )
    assert {s.receiver for s in found.sent} == {"hook"}
    assert ("b", 43) not in told(found)
    assert {"below_tier"} <= set(found.held)
    assert any(reason.startswith("budget") for reason in found.held)
    assert found.included == ("the receivers' budgets",)


def test_a_mute_window_holds_what_is_still_true_after_it(plain: Backtest) -> None:
    """Muted from 16:00 to 18:00: what ends before is never told, what outlasts it is told then."""
    window = MuteWindow("works", (Interval(times=((16 * 60, 18 * 60),)),))
    found = alone(but(with_hook(), mute_windows=(window,)))
    assert told(found) == [("a", 41), ("b", 43), ("c", 18 * 12)]
    assert found.episodes == plain.episodes, "quiet is no calm"
    assert "mute windows" in found.included


def test_reminders_are_counted(plain: Backtest) -> None:
    """An hour after it was told, and an hour after that, as long as it is open."""
    found = alone(with_hook(repeat_interval="1h"))
    assert found.included == ("reminders",)
    assert told(found, "repeat") == [("a", 53), ("b", 55), ("c", 213), ("c", 225), ("c", 237)]
    assert told(plain, "repeat") == []


def test_an_open_incident_of_another_rule_keeps_quiet_what_agrees_with_it() -> None:
    """While the rack is down, its host is not told; the inhibition ends with it."""
    rule = InhibitRule(parse_matchers('alertname="Rack"'), parse_matchers('alertname="Load"'), ("host",))
    around = but(with_hook(), inhibit_rules=(rule,))
    found = beside(around, rack(190, 230, around))
    assert told(found) == [("a", 41), ("b", 43), ("c", 230)]
    assert {s.incident for s in found.sent} == {e.incident for e in found.episodes}, "what others told is not its own"
    assert "inhibition" in found.included
    assert told(beside(around, rack(190, 230, around, "b"))) == [("a", 41), ("b", 43), ("c", 201)]


def test_incidents_about_one_service_are_told_as_one() -> None:
    """The rack's incident is told first; the host's joins it, and is told for itself when it outlasts it."""
    around = but(with_hook(), together=Company(("host",)))
    first = rack(199, 220, around)
    found, other = told_with((lived(RULE, history(), START, END, around=around), first), (), around)
    assert told(found) == [("a", 41), ("b", 43), ("c", 220)]
    assert [(s.reason, (s.at - START) // STEP) for s in other.sent] == [("new", 199), ("more", 201), ("resolved", 220)]
    assert found.included == ("incidents told together",)
    later = but(around, together=Company(("host",), within_ms=MINUTE_MS))
    assert told(beside(later, rack(190, 220, later))) == [("a", 41), ("b", 43), ("c", 201)]


def escalating(**more: object) -> Surroundings:
    """The hook at once, the chief after two hours."""
    receivers = {"hook": hook(), "chief": hook("chief")}
    steps = (Step(120 * MINUTE_MS, ("chief",), Tier.WARNING),)
    return Surroundings(Arrangement(receivers, Route(("hook",)), escalation=steps), **more)  # type: ignore[arg-type]


def test_what_nobody_acknowledges_is_escalated() -> None:
    """Two hours after it was told; what was over by then is not."""
    found = alone(escalating())
    chief = [(s.reason, (s.at - START) // STEP) for s in found.sent if s.receiver == "chief"]
    assert chief == [("escalated", 201 + 24), ("resolved", 242)]
    assert told(found) == [("a", 41), ("b", 43), ("c", 201)]
    assert found.included == ("escalation, as if nobody had acknowledged",)


@pytest.mark.parametrize(("slot", "undone", "escalated"), [(210, 0, []), (226, 0, [225]), (210, 230, [230])])
def test_acknowledgements_count_from_when_they_were_made(
    plain: Backtest, slot: int, undone: int, escalated: list[int]
) -> None:
    """In time, too late, and taken back."""
    episode = plain.episodes[-1]
    store = open_store("sqlite://")
    try:
        at, back = START + slot * STEP, START + undone * STEP if undone else 0
        vote = Feedback("v", FeedbackLabel.ACKNOWLEDGED, RULE.id, at, "ann", "pagerduty", episode.id,
                        episode.fingerprint, undone_at=back)  # fmt: skip
        store.add_feedback(vote)
        found = alone(remembering(escalating(), store, FeedbackPolicy()))
    finally:
        store.close()
    assert [(s.at - START) // STEP for s in found.sent if s.reason == "escalated"] == escalated
    assert "escalation" in found.included


def test_an_acknowledgement_counts_for_what_another_version_of_the_rule_opened(plain: Backtest) -> None:
    """The daemon's episode began elsewhere; it is about the same series at the same time."""
    theirs = replace(plain.episodes[-1], id="theirs", started_at=START + 190 * STEP)
    store = open_store("sqlite://")
    try:
        store.save_episodes([theirs])
        store.add_feedback(Feedback("v", FeedbackLabel.TRUE, RULE.id, START + 205 * STEP, "ann", "cli", "theirs",
                                    theirs.fingerprint))  # fmt: skip
        found = alone(remembering(escalating(), store, FeedbackPolicy()))
    finally:
        store.close()
    assert [s.reason for s in found.sent if s.receiver == "chief"] == []


def test_a_rule_in_the_shadow_is_told_of_as_if_it_were_live() -> None:
    """In the place of the one that it is a version of, and without taking anything from that."""
    around = but(with_hook(), together=Company(("host",)))
    shadow = replace(RULE, name="Later", mode="shadow")
    tests = [lived(rule, history(), START, END, around=around) for rule in (RULE, shadow)]
    mine, beside_it = told_with(tests, (), around)
    assert told(mine) == [("a", 41), ("b", 43), ("c", 201)]
    assert told(beside_it) == [("a", 41), ("b", 43), ("c", 201)]
    down = rack(199, 220, around)
    assert told(told_with(tests[1:], (tests[0], down), around)[0])[-1] == ("c", 220), "others count for it too"


def test_which_rules_may_inhibit_is_told_from_what_is_known() -> None:
    """Names and labels of a rule are known before it has lived; tiers and labels of series are not."""
    rack = replace(RULE, name="Rack", labels={"layer": "rack"})
    rule = InhibitRule(parse_matchers('layer="rack",tier="critical"'), parse_matchers('team="web"'))
    around = Surroundings(Arrangement(inhibit_rules=(rule,)))
    assert may_inhibit(rack, RULE, around)
    assert concerns(rack, RULE, around)
    assert not may_inhibit(replace(rack, labels={"layer": "host"}), RULE, around)
    assert not may_inhibit(rack, replace(RULE, labels={"team": "db"}), around)
    assert not may_inhibit(rack, rack, around)


def test_which_rules_may_be_told_together_is_told_from_what_is_known() -> None:
    """Both have the labels, of their series or their own, and where both are their own they are equal."""
    around = Surroundings(Arrangement(together=Company(("host", "team"))))
    other = replace(RULE, name="Other")
    assert concerns(other, RULE, around)
    assert concerns(replace(other, labels={}, group_by=("host", "team")), RULE, around)
    assert not concerns(replace(other, labels={"team": "db"}), RULE, around)
    assert not concerns(replace(other, labels={}), RULE, around)
    assert not concerns(RULE, RULE, around)


def test_silences_count_from_when_they_were_made() -> None:
    """One was there in time; one was made an hour too late to keep anybody quiet from the beginning."""
    store = open_store("sqlite://")
    try:
        c = parse_matchers('host="c"')
        store.add_silence(Silence("s1", c, START, START + 220 * STEP, "ann", "", START))
        a = parse_matchers('host="a"')
        store.add_silence(Silence("s2", a, START, START + DAY_MS, "ann", "", START + 100 * STEP))
        found = alone(remembering(with_hook(), store, FeedbackPolicy()))
        assert told(found) == [("a", 41), ("b", 43), ("c", 220)]
        assert "the silences, votes and acknowledgements of that time" in found.included
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
