"""Joint rules in the daemon: one episode and one alert for a group, which names the series that are furthest away."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from anomalyd.block import Block, Labels, make_labels
from anomalyd.episode import Close, Episode
from anomalyd.evaluation.jointly import groups_seen, with_groups
from anomalyd.evaluation.memory import empty_memory
from anomalyd.evaluation.registry import Registry, registry_of
from anomalyd.explain import explain
from anomalyd.incident import Reason, Statement
from anomalyd.metrics import Exported, ScoreCollector
from anomalyd.recorded import RecordedSource
from anomalyd.records import SnapshotPolicy
from anomalyd.render import render
from anomalyd.replay import Finding, replay
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.score import Kind, Tier
from anomalyd.workbench.backtest import backtest
from console_kit import Console, data
from life import HISTORY, RULE, START, Life, M

WIDE, HOSTS = 4, 2
JOINT = replace(
    RULE, detector=DetectorSpec("knn", {"joint": True, "contexts": 512}), group_by=("host",), missing="skip",
    tiers=(TierPolicy(Tier.WARNING, surprise=2.5), TierPolicy(Tier.CRITICAL, surprise=300.0)),
)  # fmt: skip
FIRST, STOP = 60, 80
ENDED = STOP + 3
"""The way back is a change like no other: one slot more, and two of `keep_firing_for`."""


def label(host: int, core: int) -> Labels:
    return make_labels({"__name__": "load", "host": f"h{host}", "core": f"c{core}"})


def machines(minutes: int = 150, broken: bool = True) -> Block:
    """Two hosts of four cores each, around 10; on h1 two cores jump for twenty minutes."""
    times = START + np.arange(-HISTORY, minutes) * M
    values = 10 + np.random.default_rng(1).normal(size=(HOSTS * WIDE, len(times)))
    if broken:
        values[WIDE, HISTORY + FIRST : HISTORY + STOP] += 60
        values[WIDE + 2, HISTORY + FIRST : HISTORY + STOP] += 30
    return Block(tuple(label(h, c) for h in range(HOSTS) for c in range(WIDE)), times, values)


def statements(life: Life) -> list[Statement]:
    rows = life.store.notifications(limit=100)
    return sorted((row.notification.statement for row in rows), key=lambda s: s.at)


def told(life: Life) -> list[Episode]:
    return [e for e in life.store.episodes(rule=life.rule.id) if e.opened_at]


def test_one_group_is_one_episode_and_one_alert() -> None:
    """Eight series of two hosts, one host breaks: one episode under the host's label, one page and one resolve."""
    life = Life(machines(), JOINT)
    life.live(0, 110)
    assert life.spans() == [("h1", FIRST + 2, ENDED, Close.RECOVERED)]
    assert told(life)[0].labels == (("host", "h1"),)
    assert life.told() == [(FIRST + 2, Reason.NEW), (ENDED, Reason.RESOLVED)]


def test_the_alert_names_the_series_that_are_furthest_away() -> None:
    """The message says that the host is unusual as a whole and lists the two cores that jumped, the farther first."""
    life = Life(machines(), JOINT)
    life.live(0, 70)
    (statement,) = statements(life)
    (alert,) = statement.alerts
    assert (statement.total, alert.labels, alert.width) == (1, (("host", "h1"),), WIDE)
    assert [dict(one.labels)["core"] for one in alert.channels[:2]] == ["c0", "c2"]
    assert alert.channels[0].value == pytest.approx(70, abs=4)
    assert alert.channels[0].expected == pytest.approx(10, abs=1)
    assert (alert.channels[0].away or 0) > (alert.channels[1].away or 0) > 10
    seen = render(statement, statement.at)
    assert seen.title == "[WARNING] Load: h1"
    assert "Load h1 is unusual as a whole, 4 series seen together" in seen.sentence
    assert seen.lines[0].startswith("load (core=c0) is ")
    assert "usual deviations away" in seen.lines[0]
    assert ("Series", "4, judged together") in seen.fields


def test_a_broken_combination_is_told_as_one() -> None:
    """Where no series is far from usual by itself the message says that their combination is."""
    block = machines(broken=False)
    rng = np.random.default_rng(5)
    common = rng.normal(size=block.values.shape[1])
    block.values[WIDE:] = 10 + common + rng.normal(size=(WIDE, block.values.shape[1])) * 0.02
    there = slice(HISTORY + FIRST, HISTORY + STOP)
    block.values[WIDE, there] = 20 - block.values[WIDE, there] + np.sign(10 - block.values[WIDE, there]) * 0.5
    life = Life(block, replace(JOINT, for_ms=0))
    life.live(0, STOP)
    assert statements(life), "the relation is seen to break"
    assert "their combination is" in render(statements(life)[0], START).sentence


def test_groups_have_scores_of_their_own_in_the_store() -> None:
    """Each slot holds the series and behind them the groups, whose value is the score: above 1 is an alert."""
    life = Life(machines(), JOINT)
    life.live(0, 70)
    rows = {row.row: row.labels for row in life.store.series(JOINT.id)}
    groups = {labels: row for row, labels in rows.items() if len(labels) == 1}
    assert set(groups) == {(("host", "h0"),), (("host", "h1"),)}
    seen = life.store.scores(JOINT.id, START + FIRST * M, START + FIRST * M + 1, [groups[(("host", "h1"),)]])
    assert seen[0].value[0] > 1
    assert seen[0].value[0] == pytest.approx(seen[0].surprise[0] / 2.5, rel=1e-5)
    assert seen[0].verdicts.kind[0] == Kind.ANOMALOUS


def test_a_group_without_one_of_its_series_goes_on() -> None:
    """A core that is missing neither opens nor closes anything, not even the one that is furthest away."""
    block = machines()
    block.values[WIDE + 1, HISTORY + 20 : HISTORY + 40] = np.nan
    block.values[WIDE, HISTORY + 70 :] = np.nan
    life = Life(block, JOINT)
    life.live(0, 110)
    assert life.spans() == [("h1", FIRST + 2, STOP + 2, Close.RECOVERED)]


def test_a_series_that_joins_is_taken_into_its_group_when_it_has_a_past() -> None:
    """A new core has no score at first and disturbs nobody; the fit that finds enough of it makes it a channel."""
    block = machines(minutes=260, broken=False)
    values = np.vstack([block.values, 10 + np.random.default_rng(8).normal(size=(1, len(block.times)))])
    values[-1, : HISTORY + 30] = np.nan
    values[-1, HISTORY + 220 : HISTORY + 230] += 60
    life = Life(Block((*block.labels, label(0, 9)), block.times, values), JOINT)
    life.live(0, 150)
    memory = life.evaluator.runs[JOINT.id].memory
    assert len(memory.active) == HOSTS * WIDE + 1
    seen = life.store.scores(JOINT.id, START + 149 * M, START + 149 * M + 1)[0]
    newcomer = next(r.row for r in life.store.series(JOINT.id) if dict(r.labels).get("core") == "c9")
    at = seen.series.tolist().index(newcomer)
    assert seen.verdicts.kind[at] == Kind.OK, "a hundred samples after it came it is in the vector"
    assert not told(life)
    life.live(150, 260)
    assert [(e.labels, (e.opened_at - START) // M) for e in told(life)] == [((("host", "h0"),), 222)]
    last = next(s for s in statements(life) if s.reason == Reason.NEW)
    assert dict(last.alerts[0].channels[0].labels)["core"] == "c9"


def test_a_group_that_comes_later_has_a_model_of_its_own() -> None:
    """A host that appears is scored from the fit on that finds enough of its past; the others never notice."""
    block = machines(minutes=200)
    values = block.values.copy()
    values[:WIDE, : HISTORY + 10] = np.nan
    life = Life(Block(block.labels, block.times, values), JOINT)
    life.live(0, 180)
    assert life.spans() == [("h1", FIRST + 2, ENDED, Close.RECOVERED)]
    seen = life.store.scores(JOINT.id, START + 179 * M, START + 179 * M + 1)[0]
    assert (seen.verdicts.kind == Kind.OK).all()
    assert len(seen.series) == HOSTS * (WIDE + 1)


@pytest.mark.parametrize("detector", [
    DetectorSpec("knn", {"joint": True, "contexts": 512}), DetectorSpec("auto", {"joint": True}),
    DetectorSpec("half_space_trees", {"joint": True, "trees": 8, "height": 5, "window": 100}),
], ids=lambda spec: spec.type)  # fmt: skip
def test_a_replay_says_the_same(detector: DetectorSpec) -> None:
    """The surprises of a group's alert come out as they were stored."""
    block, rule = machines(), replace(JOINT, detector=detector)
    life = Life(block, rule)
    life.live(0, 110)
    assert told(life), "there is something to replay"
    for episode in told(life):
        again = replay(episode, rule, life.store, RecordedSource({"load": block}))
        assert (again.finding, again.causes) == (Finding.EQUAL, ())
        assert len(again.slots) == ((episode.closed_at or episode.seen_at) - episode.started_at) // M + 1


def test_a_daemon_that_starts_again_says_the_same() -> None:
    """With a snapshot, in the midst of an episode and after a series has joined, the scores go on as if nothing was."""
    block = machines()
    block.values[1, : HISTORY + 5] = np.nan
    whole = Life(block, JOINT)
    whole.live(0, 110)
    life = Life(block, JOINT, snapshots=SnapshotPolicy(7 * M))
    life.live(0, FIRST + 10)
    life.evaluator = life.born()
    life.live(FIRST + 10, 110)
    assert life.spans() == whole.spans()
    one, other = (each.store.scores(JOINT.id, START, START + 110 * M) for each in (whole, life))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.series, b.series)
        np.testing.assert_array_equal(a.surprise, b.surprise)


def test_a_backtest_counts_groups() -> None:
    """What it would have paged is one alert of one host, and so says the table of budgets."""
    found = backtest(JOINT, machines(), START, START + 110 * M)
    assert [e.labels for e in found.episodes] == [(("host", "h1"),)]
    hosts = {found.labels[row] for row in found.hits.row.tolist()}
    assert hosts <= {(("host", "h0"),), (("host", "h1"),)}


def test_an_explanation_takes_groups_and_ensembles_apart() -> None:
    """It names the series that were furthest from usual and what each member said at the worst."""
    members = [{"type": "knn", "params": {"joint": True, "contexts": 512}}, {"type": "auto", "params": {"joint": True}}]
    block, rule = machines(), replace(JOINT, detector=DetectorSpec("ensemble", {"members": members}))
    life = Life(block, rule)
    life.live(0, 110)
    episode = told(life)[0]
    found = explain(episode, rule, life.store, RecordedSource({"load": block}), START)
    assert found.replayed.finding == Finding.EQUAL
    assert [m.name for m in found.members] == ["knn (joint True, contexts 512)", "auto (joint True)"]
    assert np.mean([m.surprise for m in found.members]) == pytest.approx(episode.peak_surprise, rel=1e-4)
    assert dict(found.channels[0].labels)["core"] == "c0"


def test_a_budget_for_the_rule_is_shared_by_its_groups() -> None:
    """Eight series of two hosts share a budget as two, since there are two scores."""
    from anomalyd.rule import Budget
    from anomalyd.threshold import initial_threshold

    tier = TierPolicy(Tier.WARNING, Budget(1, 7 * 86_400_000, "rule"))
    rule = replace(JOINT, tiers=(tier,))
    life = Life(machines(), rule)
    life.live(0, 3)
    assert life.evaluator.runs[rule.id].memory.cuts[0, 0] == initial_threshold(rule, HOSTS).lowest
    assert initial_threshold(rule, HOSTS).lowest < initial_threshold(rule, HOSTS * WIDE).lowest


def test_rows_of_groups_are_no_series() -> None:
    """A registry counts series without groups, whatever order they came in, also when it is read back."""
    rule = Rule("R", "g", "x", detector=JOINT.detector, group_by=("host",))
    registry = registry_of(rule, [])
    registry, added = registry.register([label(0, 0), label(1, 0)], 5, rule.unit_of)
    registry, more = registry.register([label(0, 1)], 6, rule.unit_of)
    assert (len(added), len(more), registry.series) == (4, 1, 3)
    again = registry_of(rule, list(registry.rows.values()))
    assert again.joint
    assert again.unit(np.arange(5)).tolist() == [1, 1, 3, 3, 1]
    assert again.series == 3
    assert Registry("r").register([label(0, 0)], 1)[0].series == 1
    assert empty_memory("r").units.tolist() == []


def test_the_page_and_the_api_name_the_series_too() -> None:
    """Who opens the alert reads that the group is unusual, how much, and which series were furthest at its worst."""
    life = Life(machines(), JOINT)
    life.live(0, 110)
    episode = told(life)[0]
    client = Console(rule=JOINT, store=life.store).client()
    page = client.get(f"/episodes/{episode.id}").text
    assert "The group as a whole was unusual: its score was " in page
    assert re.search(r"load \(core=c0\) is [\d.]+, usually [\d.]+ \([\d.]+ usual deviations away\)", page)
    assert "<svg" in page, "the score over time"
    found = data(client.get(f"/api/v1/episodes/{episode.id}"))
    assert [one["labels"]["core"] for one in found["channels"][:2]] == ["c0", "c2"]
    assert found["channels"][0]["away"] > found["channels"][1]["away"] > 10
    assert data(client.get("/api/v1/episodes/e1"))["channels"] == [], "of another rule"


def test_groups_are_exported_beside_their_series() -> None:
    """`/metrics` has a score for each series and one for each group, under the group's labels."""
    life = Life(machines(), JOINT)
    life.live(0, FIRST + 3)
    memory = life.evaluator.runs[JOINT.id].memory
    assert memory.last is not None
    seen = with_groups(memory, memory.last, groups_seen(memory, memory.last))
    labels = tuple(memory.registry.rows[row].labels for row in seen.series.tolist())
    registry = CollectorRegistry()
    registry.register(ScoreCollector(lambda: [Exported("g", "Load", labels, seen, 2.5)]))
    score = registry.get_sample_value("anomaly_score", {"host": "h1", "rule": "Load", "group": "g"})
    assert score is not None
    assert score > 1
    assert registry.get_sample_value("anomaly_score", {"host": "h1", "core": "c1", "rule": "Load", "group": "g"}) == (
        pytest.approx(score)
    )
