"""Incidents and statements from what happened to episodes."""

from __future__ import annotations

from dataclasses import replace

from anomalyd.block import Labels, fingerprint
from anomalyd.clock import MINUTE_MS
from anomalyd.episode import Close, Episode, Event, Phase
from anomalyd.incident import MAX_ALERTS, Incident, Reason
from anomalyd.rule import Rule
from anomalyd.score import Tier
from anomalyd.tell import Happened, Told, tell

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
