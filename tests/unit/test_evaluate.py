"""``evaluate`` against a recorded source and a real store: what a rule lives through, slot by slot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.episode import Close, Phase
from anomalyd.errors import StoreError
from anomalyd.evaluation.orphans import close_orphans
from anomalyd.incident import Reason
from anomalyd.intervals import Interval
from anomalyd.rule import DetectorSpec, TierPolicy
from anomalyd.score import Kind, Tier
from life import HISTORY, RULE, START, Life, M, change, recorded


def test_an_anomaly_opens_after_for_and_resolves_after_recovery() -> None:
    """A spike of half an hour on one host is one episode, one alert and one resolve; quiet elsewhere."""
    life = Life(change(recorded(), 1, 60, 90, 40.0))
    life.live(0, 120)
    assert life.spans() == [("h1", 62, 92, Close.RECOVERED)]
    assert life.told() == [(62, Reason.NEW), (92, Reason.RESOLVED)]
    statement = life.store.notifications(limit=9)[-1].notification.statement
    assert statement.annotations["summary"].startswith("load of h1 is ")
    assert statement.alerts[0].lower is not None


def test_every_slot_of_every_series_is_accounted() -> None:
    """Scores of each slot come back from the store with the verdicts of all series."""
    life = Life(recorded())
    life.live(0, 30)
    observations = life.store.scores(RULE.id, START, START + 30 * M)
    assert [len(o.series) for o in observations] == [3] * 30
    assert {kind for o in observations for kind in o.verdicts.kind.tolist()} <= {Kind.OK, Kind.ANOMALOUS}


def test_an_outage_stays_open_until_recovery() -> None:
    """A drop that lasts two hours does not resolve itself: while an episode is open its points are not learned."""
    life = Life(change(recorded(), 0, 60, 180, 1.0))
    life.live(0, 200)
    assert life.spans() == [("h0", 62, 182, Close.RECOVERED)]


def test_a_level_that_lasts_is_accepted_and_then_normal() -> None:
    """After accept_after the episode closes as the new level, and the new level pages nobody again."""
    block = change(recorded(minutes=600), 0, 60, 600, 30.0)
    noise = np.random.default_rng(3).normal(size=540)
    block.values[0, HISTORY + 60 :] += noise
    life = Life(block)
    life.live(0, 600)
    assert life.spans() == [("h0", 62, 240, Close.NEW_LEVEL)]
    assert life.told() == [(62, Reason.NEW), (240, Reason.RESOLVED)]


@pytest.mark.parametrize("detector", [DetectorSpec("ewma"), DetectorSpec("mad", {"window": "1h"})], ids=str)
def test_times_not_to_learn_from_are_scored_and_not_learned(detector: DetectorSpec) -> None:
    """A job of an hour that trebles the level is scored in its window, and afterwards expected is what it was."""
    rule = replace(RULE, detector=detector, learn="all", tiers=(TierPolicy(Tier.WARNING, surprise=99),))
    window = Interval(times=((22 * 60 + 44, 23 * 60 + 44),))
    block = change(recorded(), 1, 30, 90, 30.0)
    after = {}
    for name, windows in (("learned", ()), ("left out", (window,))):
        life = Life(block, replace(rule, dont_learn=windows))
        life.live(0, 95)
        seen = life.store.scores(rule.id, START + 30 * M, START + 95 * M, [1])
        assert all(np.isfinite(o.surprise).all() for o in seen)
        after[name] = float(seen[-1].expected[0])
    assert 8 < after["left out"] < 12
    assert after["learned"] > after["left out"] + 0.2


def test_a_source_that_is_down_holds_the_episode_and_the_baseline() -> None:
    """No slot of an outage resolves or opens anything; afterwards the missed samples are read and scored."""
    life = Life(change(recorded(), 1, 60, 90, 40.0))
    life.source.down = set(range(70, 74))
    life.live(0, 120)
    assert life.spans() == [("h1", 62, 92, Close.RECOVERED)]
    assert ("range", 74) in life.source.asked, "the gap is healed by one range query"
    kinds = [row.outcome for row in life.store.rule_slots(RULE.id, START, START + 120 * M)]
    assert kinds == ["ok"] * 120, "the slots of the outage were scored after all"


def test_a_long_outage_of_the_source_is_told_once_as_the_sources_own() -> None:
    """After `hold` there is one alert for the source, and one resolve when it answers."""
    life = Life(recorded())
    life.source.down = set(range(20, 40))
    life.live(0, 60)
    assert life.told() == [(25, Reason.NEW), (40, Reason.RESOLVED)]
    assert life.spans() == []


def test_a_partial_answer_is_unknown_and_never_learned() -> None:
    """Partial slots neither open nor close and leave the state where it was."""
    life = Life(change(recorded(), 1, 60, 90, 40.0))
    life.source.partial = set(range(60, 64)) | set(range(80, 100))
    life.live(0, 80)
    assert life.spans() == [("h1", 62, -1, None)], "the partial slots were scored when the whole answer came"
    before = life.evaluator.runs[RULE.id].memory.state
    life.live(80, 100)
    assert life.evaluator.runs[RULE.id].memory.state is before
    assert life.spans() == [("h1", 62, -1, None)]
    life.live(100, 104)
    assert life.spans() == [("h1", 62, 92, Close.RECOVERED)]


@pytest.mark.parametrize(("policy", "spans"), [
    ("hold", [("h1", 62, 92, Close.RECOVERED)]),
    ("resolve", [("h1", 62, 77, Close.ENDED), ("h1", 87, 92, Close.RECOVERED)]),
])  # fmt: skip
def test_a_vanished_series_follows_its_rule(policy: str, spans: list[object]) -> None:
    """`hold` keeps the episode through a scrape gap; `resolve` ends it with its own reason."""
    rule = replace(RULE, missing=policy)  # type: ignore[arg-type]
    life = Life(change(change(recorded(), 1, 60, 90, 40.0), 1, 75, 85, np.nan), rule)
    life.live(0, 120)
    assert life.spans() == spans


def test_absence_can_be_the_alert() -> None:
    """With `missing: alert` a series that stops reporting opens an episode and closes when it is back."""
    life = Life(change(recorded(), 2, 50, 70, np.nan), replace(RULE, missing="alert"))
    life.live(0, 90)
    assert life.spans() == [("h2", 52, 72, Close.RECOVERED)]
    assert life.store.episodes(rule=RULE.id)[0].why.name == "ABSENT"


def test_a_restart_alone_tells_nobody_and_forgets_no_resolve() -> None:
    """A daemon born again in the middle of an episode goes on with it."""
    block = change(recorded(), 1, 60, 90, 40.0)
    life = Life(block)
    life.live(0, 75)
    again = Life(block, store=life.store)
    again.live(75, 120)
    assert again.spans() == [("h1", 62, 92, Close.RECOVERED)]
    assert again.told() == [(62, Reason.NEW), (92, Reason.RESOLVED)]


def test_slots_missed_while_the_daemon_was_away_are_lived_through() -> None:
    """After a pause of half an hour the missed samples are scored, and the episode has its true times."""
    block = change(recorded(), 1, 60, 90, 40.0)
    life = Life(block)
    life.live(0, 50)
    again = Life(block, store=life.store)
    again.live(80, 120)
    assert again.spans() == [("h1", 62, 92, Close.RECOVERED)]


def test_a_slot_that_did_not_commit_is_evaluated_again_from_the_same_memory() -> None:
    """When the commit fails nothing is learned, and the next try gives what the first would have."""
    life, other = Life(recorded()), Life(recorded())
    life.live(0, 5)
    other.live(0, 10)
    commit = life.store.commit_slot

    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(life.store, name)

        def commit_slot(self, *_: object, **__: object) -> bool:
            raise StoreError("full", "disk full")

    life.evaluator._store = Broken()  # type: ignore[assignment]
    with pytest.raises(StoreError):
        life.evaluator.evaluate(life.group, START + 5 * M)
    life.evaluator._store = life.store
    assert life.store.commit_slot == commit
    life.live(5, 10)
    ours, theirs = (one.store.scores(RULE.id, START, START + 10 * M) for one in (life, other))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.surprise, b.surprise)


def test_new_series_warm_up_and_then_are_watched() -> None:
    """A host that appears later is scored once it has a history, and finds its own anomaly."""
    block = recorded(minutes=700)
    block = change(block, 2, -HISTORY, 20, np.nan)
    block = change(block, 2, 600, 650, 40.0)
    life = Life(block)
    life.live(0, 30)
    waiting, warming = (life.store.scores(RULE.id, START + m * M, START + (m + 1) * M)[0] for m in (21, 22))
    assert len(waiting.series) == 2, "seen twice, it waits at the door"
    assert warming.verdicts.kind.tolist()[2] == Kind.WARMING_UP
    life.live(30, 700)
    assert life.spans() == [("h2", 602, 652, Close.RECOVERED)]


def test_series_beyond_the_limit_are_counted_not_scored() -> None:
    """A rule with room for two series watches two and says how many it leaves."""
    life = Life(recorded(n=5), replace(RULE, max_series=2))
    evaluated = life.evaluator.evaluate(life.group, START)
    assert evaluated.rules[RULE.id].limited == 3
    assert len(life.evaluator.runs[RULE.id].memory.active) == 2


def test_a_rule_that_is_removed_closes_its_episodes_and_tells() -> None:
    """Removing the rule resolves what was told, with its own reason."""
    life = Life(change(recorded(), 1, 60, 90, 40.0))
    life.live(0, 70)
    life.evaluator.remove(RULE.id, START + 70 * M)
    assert life.spans() == [("h1", 62, 70, Close.RULE_REMOVED)]
    assert life.told()[-1] == (70, Reason.RESOLVED)
    assert life.store.live_episodes(RULE.id) == []


def test_a_rule_that_went_while_the_daemon_was_away_is_closed_at_the_next_start() -> None:
    """Its open incident is closed and whoever was told gets a resolve; other rules' incidents stay."""
    life = Life(change(recorded(), 1, 60, 90, 40.0))
    life.live(0, 70)
    at = START + 75 * M
    assert close_orphans(life.store, [RULE.id], ["default"], at) == []
    assert [i.rule for i in close_orphans(life.store, ["g/Other"], ["default"], at)] == [RULE.id]
    assert life.spans() == [("h1", 62, 75, Close.RULE_REMOVED)]
    assert life.told() == [(62, Reason.NEW), (75, Reason.RESOLVED)]
    assert close_orphans(life.store, ["g/Other"], ["default"], at) == []


def test_the_same_slot_is_never_committed_twice() -> None:
    """Evaluating a slot again writes nothing and does not advance the memory."""
    life = Life(recorded())
    life.live(0, 3)
    memory = life.evaluator.runs[RULE.id].memory
    assert not life.evaluator.evaluate(life.group, START + 2 * M).committed
    assert life.evaluator.runs[RULE.id].memory is memory


def test_confirmed_quiet_data_stays_quiet() -> None:
    """Five hours of plain noise on ten hosts open nothing at a surprise of 6."""
    rule = replace(RULE, tiers=(TierPolicy(Tier.WARNING, surprise=6),))
    life = Life(recorded(n=10, seed=7), rule)
    life.live(0, 300)
    assert life.spans() == []
    assert all(e.phase == Phase.CLOSED for e in life.store.episodes(rule=RULE.id))
