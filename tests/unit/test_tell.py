"""Incidents and statements from what happened to episodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anomalyd.block import Labels, fingerprint
from anomalyd.clock import MINUTE_MS
from anomalyd.episode import Close, Episode, Event, Phase
from anomalyd.incident import MAX_ALERTS, Incident, Reason
from anomalyd.rule import Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.tell import Happened, Told, count_siblings, tell

M = MINUTE_MS
RULE = Rule("Latency", "shop", "up", receivers=("slack", "pager"), labels={"team": "pay"}, suppress_ms=5 * M)


def episode(name: str, tier: Tier = Tier.WARNING, at: int = M, surprise: float = 4.0, region: str = "eu") -> Episode:
    labels: Labels = (("instance", name), ("region", region))
    return Episode(
        f"ep-{name}", RULE.id, fingerprint(labels), labels, Phase.OPEN, tier, at, at, opened_at=at,
        surprise=surprise, peak_surprise=surprise, peak_at=at, value=9.0, expected=1.0, lower=0.0, upper=2.0,
    )  # fmt: skip


def opened(one: Episode) -> Happened:
    return Happened(one, Event.OPENED)


def closed(one: Episode, at: int) -> Happened:
    return Happened(replace(one, phase=Phase.CLOSED, closed_at=at, close=Close.RECOVERED), Event.CLOSED)


def run(
    rule: Rule, at: int, happened: list[Happened], live: list[Episode], incidents: dict[str, Incident] | None = None
) -> Told:
    return tell(rule, at, happened, live, incidents or {}, lambda _: 2.0, lambda r, a: dict(r.annotations), {})


def reasons(told: Told) -> list[tuple[str, Reason]]:
    return [(n.receiver, n.statement.reason) for n in told.outbox]


def test_episodes_that_open_together_are_one_incident_told_once_a_receiver() -> None:
    """Two series in one slot give one statement with both, the more surprising first."""
    a, b = episode("a"), episode("b", surprise=9.0)
    told = run(RULE, M, [opened(a), opened(b)], [a, b])
    assert reasons(told) == [("slack", Reason.NEW), ("pager", Reason.NEW)]
    statement = told.outbox[0].statement
    assert [dict(alert.labels)["instance"] for alert in statement.alerts] == ["b", "a"]
    assert (statement.total, statement.suppress_ms) == (2, 5 * M)
    assert statement.alerts[0].anomaly_score == 4.5
    assert len({e.incident for e in told.episodes}) == 1


def test_group_by_makes_an_incident_of_each_value() -> None:
    """Regions are told apart when the rule groups by region, and every series when it groups by `...`."""
    a, b = episode("a", region="eu"), episode("b", region="us")
    assert len(run(replace(RULE, group_by=("region",)), M, [opened(a), opened(b)], [a, b]).incidents) == 2
    c = episode("c", region="eu")
    assert len(run(replace(RULE, group_by=("...",)), M, [opened(a), opened(c)], [a, c]).incidents) == 2


def follow(first: Told, at: int, happened: list[Happened], live: list[Episode]) -> Told:
    return run(RULE, at, happened, live, dict(first.open_incidents))


def test_the_life_of_an_incident() -> None:
    """New, more, worse, and resolved when the last episode closes; one that closes while others stay says nothing."""
    a = episode("a")
    first = run(RULE, M, [opened(a)], [a])
    a = first.episodes[0]
    b = episode("b", at=2 * M)
    second = follow(first, 2 * M, [opened(b)], [a, b])
    assert reasons(second)[0] == ("slack", Reason.MORE)
    b = second.episodes[0]
    assert b.incident == a.incident
    worse = replace(b, tier=Tier.CRITICAL)
    third = follow(second, 3 * M, [Happened(worse, Event.WORSENED)], [a, worse])
    assert reasons(third)[0] == ("slack", Reason.WORSE)
    assert third.outbox[0].statement.tier == Tier.CRITICAL
    fourth = follow(third, 4 * M, [closed(worse, 4 * M)], [a])
    assert reasons(fourth) == []
    assert fourth.open_incidents
    fifth = follow(fourth, 5 * M, [closed(a, 5 * M)], [])
    assert reasons(fifth) == [("slack", Reason.RESOLVED), ("pager", Reason.RESOLVED)]
    assert fifth.open_incidents == {}
    assert fifth.outbox[0].statement.alerts[0].status == "resolved"


def test_a_surge_is_told_as_worse_at_the_same_tier() -> None:
    """An episode that goes far beyond what it was is told although no tier was reached."""
    a = episode("a")
    first = run(RULE, M, [opened(a)], [a])
    a = replace(first.episodes[0], surprise=7.0, peak_surprise=7.0)
    told = follow(first, 60 * M, [Happened(a, Event.SURGED)], [a])
    assert reasons(told) == [("slack", Reason.WORSE), ("pager", Reason.WORSE)]
    assert told.outbox[0].statement.tier == first.outbox[0].statement.tier


def test_a_reopening_is_a_new_incident() -> None:
    """The key stays, so PagerDuty's dedup key is stable; the id is new."""
    a = episode("a")
    first = run(RULE, M, [opened(a)], [a])
    ended = follow(first, 2 * M, [closed(first.episodes[0], 2 * M)], [])
    again = follow(ended, 3 * M, [opened(episode("a", at=3 * M))], [episode("a", at=3 * M)])
    old, new = first.incidents[0], again.incidents[0]
    assert old.key == new.key
    assert old.id != new.id


def test_a_shadow_rule_owes_nobody_anything() -> None:
    """Shadow mode stores episodes and incidents and writes no outbox row."""
    a = episode("a")
    told = run(replace(RULE, mode="shadow"), M, [opened(a)], [a])
    assert told.outbox == ()
    assert len(told.incidents) == 1


def test_a_storm_is_one_statement_with_the_worst_and_the_count() -> None:
    """A thousand series at once are one row a receiver that carries the most surprising."""
    many = [episode(f"i{i}", surprise=float(i)) for i in range(1000)]
    told = run(RULE, M, [opened(e) for e in many], many)
    assert len(told.outbox) == 2
    statement = told.outbox[0].statement
    assert (statement.total, len(statement.alerts)) == (1000, MAX_ALERTS)
    assert statement.alerts[0].surprise == 999.0
    assert len(told.episodes) == 1000


def test_the_same_slot_told_twice_gives_the_same_rows() -> None:
    """Ids depend on what is told, not on when: re-running a slot cannot double a notification."""
    a = episode("a")
    one, two = run(RULE, M, [opened(a)], [a]), run(RULE, M, [opened(a)], [a])
    assert [n.id for n in one.outbox] == [n.id for n in two.outbox]
    assert len({n.id for n in one.outbox}) == 2


def spread(rule: Rule, names: list[str], total: int, incidents: dict[str, Incident] | None = None, at: int = M) -> Told:
    """``names`` open together, of a rule that watches ``total`` series in eu."""
    found = [episode(name, at=at) for name in names]
    series = [found[0].labels] * total
    counted = count_siblings(rule, total, lambda: series)
    return tell(
        rule, at, [opened(e) for e in found], found, incidents or {}, lambda _: 2.0, lambda r, a: {}, {},
        siblings=counted,
    )  # fmt: skip


WIDE = replace(RULE, tiers=(TierPolicy(Tier.WARNING, surprise=3), TierPolicy(Tier.EMERGENCY, spread=0.3)))


@pytest.mark.parametrize(
    ("names", "total", "tier"),
    [(["a", "b"], 10, Tier.WARNING), (["a", "b", "c"], 10, Tier.EMERGENCY), (["a"], 1, Tier.WARNING)],
)
@pytest.mark.parametrize("group_by", [(), ("region",)])
def test_spread_raises_the_tier(names: list[str], total: int, tier: Tier, group_by: tuple[str, ...]) -> None:
    """A share of the group's series in open episodes is a tier of its own; one series alone is no spread."""
    told = spread(replace(WIDE, group_by=group_by), names, total)
    assert [incident.tier for incident in told.incidents] == [tier]
    assert {(n.statement.reason, n.statement.tier) for n in told.outbox} == {(Reason.NEW, tier)}
    assert told.outbox[0].statement.siblings == total


def test_what_spreads_later_becomes_worse_and_stays_so() -> None:
    """An incident that was told becomes worse when it spreads, and is not told again when it shrinks."""
    first = spread(WIDE, ["a", "b"], 10)
    a, b = first.episodes
    c = episode("c", at=2 * M)
    links: dict[str, str] = {}
    wider = tell(
        WIDE, 2 * M, [opened(c)], [a, b, c], dict(first.open_incidents), lambda _: 2.0, lambda r, a: {}, links,
        siblings=lambda labels: 10,
    )  # fmt: skip
    assert [(n.statement.reason, n.statement.tier) for n in wider.outbox][:1] == [(Reason.WORSE, Tier.EMERGENCY)]
    (c,) = wider.episodes
    calmer = tell(
        WIDE, 3 * M, [closed(b, 3 * M)], [a, c], dict(wider.open_incidents), lambda _: 2.0, lambda r, a: {}, links,
        siblings=lambda labels: 10,
    )  # fmt: skip
    assert calmer.outbox == ()
    assert [incident.tier for incident in calmer.open_incidents.values()] == [Tier.EMERGENCY]


def test_siblings_are_those_of_the_group() -> None:
    """A rule that groups by region counts each region's series; one that does not counts all; `...` counts one."""
    series = [episode(n, region=r).labels for n, r in (("a", "eu"), ("b", "eu"), ("c", "us"))]
    by_region = count_siblings(replace(RULE, group_by=("region",)), 3, lambda: series)
    assert by_region((("region", "eu"),)) == 2
    assert by_region((("region", "asia"),)) == 0
    assert count_siblings(RULE, 3, lambda: series)(()) == 3
    assert count_siblings(replace(RULE, group_by=("...",)), 3, lambda: series)(series[0]) == 1
