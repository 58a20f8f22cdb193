"""Replay of past alerts: equal scores where nothing changed, and the cause where something did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.episode import Episode
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.recorded import RecordedSource
from anomalyd.replay import Finding, difference, replay
from anomalyd.rule import DetectorSpec, Rule, RuleGroup, TierPolicy
from anomalyd.score import Tier
from anomalyd.store import Store, open_store
from anomalyd.template import render_annotations

STEP = 5 * MINUTE_MS
START = 1_760_054_400_000
PAST, SLOTS = 200, 150
RULE = Rule(
    "Load", "g", "load", detector=DetectorSpec("ewma"), interval_ms=STEP, history_ms=PAST * STEP, query_delay_ms=0,
    for_ms=STEP, keep_firing_for_ms=2 * STEP, refit_every_ms=90 * STEP,
    tiers=(TierPolicy(Tier.WARNING, surprise=2.5),),
)  # fmt: skip


def loads() -> Block:
    rng = np.random.default_rng(2)
    times = START + np.arange(-PAST - 1, SLOTS) * STEP
    values = 30 + rng.normal(size=(4, len(times)))
    values[0, PAST + 41 : PAST + 50] += 25
    values[1, PAST + 101 : PAST + 120] = 2
    return Block(tuple(make_labels({"host": f"h{i}"}) for i in range(4)), times, values)


@dataclass(frozen=True)
class Past:
    store: Store
    block: Block
    rule: Rule
    episodes: tuple[Episode, ...]


def lived(rule: Rule, block: Block | None = None) -> Past:
    """A daemon's past, scores and all."""
    store, block, inline = open_store("sqlite://"), block or loads(), InlineExecutor()
    evaluator = Evaluator(
        store, {"default": RecordedSource({"load": block})}, annotate=render_annotations, links=lambda _: {},
        fit=inline, background=inline,
    )  # fmt: skip
    evaluator.add(rule)
    group = RuleGroup("g", STEP, (rule,))
    for slot in range(SLOTS):
        failure = evaluator.evaluate(group, START + slot * STEP).rules[rule.id].failure
        assert failure is None, failure
    episodes = tuple(sorted((e for e in store.episodes(limit=100) if e.opened_at), key=lambda e: e.opened_at))
    return Past(store, block, rule, episodes)


@pytest.fixture(scope="module")
def past() -> Iterator[Past]:
    one = lived(RULE)
    assert len(one.episodes) >= 2
    yield one
    one.store.close()


@pytest.mark.parametrize("change", [
    {}, {"learn": "all"}, {"detector": DetectorSpec("mad", {"window": "8h"})},
    {"detector": DetectorSpec("peer")},
], ids=str)  # fmt: skip
def test_scores_come_out_as_they_were_stored(change: dict[str, object]) -> None:
    """For streaming detectors, refitted ones, and one that looks at all series together."""
    one = lived(replace(RULE, **change))  # type: ignore[arg-type]
    assert one.episodes, "there is something to replay"
    for episode in one.episodes:
        again = replay(episode, one.rule, one.store, RecordedSource({"load": one.block}))
        assert (again.finding, again.causes) == (Finding.EQUAL, ())
        assert again.largest < 1e-6
        assert len(again.slots) == (episode.closed_at - episode.started_at) // STEP + 1
    one.store.close()


def with_newcomers() -> Block:
    """Two hosts that come after the fit, ten slots apart, of which the later one fails before the next fit."""
    block, rng = loads(), np.random.default_rng(5)
    values = np.vstack([block.values, 30 + rng.normal(size=(2, len(block.times)))])
    values[4, : PAST + 10] = np.nan
    values[5, : PAST + 20] = np.nan
    values[5, PAST + 71 : PAST + 80] += 25
    return Block((*block.labels, *(make_labels({"host": f"h{i}"}) for i in (4, 5))), block.times, values)


@pytest.mark.parametrize("detector", [
    DetectorSpec("ewma"), DetectorSpec("mad", {"window": "8h"}), DetectorSpec("peer"),
], ids=str)  # fmt: skip
def test_a_series_that_joined_later_is_computed_again(detector: DetectorSpec) -> None:
    """Its siblings live up to its coming, it joins them, and its scores come out as they were stored."""
    one = lived(replace(RULE, detector=detector), with_newcomers())
    joined = [e for e in one.episodes if dict(e.labels)["host"] == "h5"]
    assert joined, "there is something to replay"
    for episode in joined:
        again = replay(episode, one.rule, one.store, RecordedSource({"load": one.block}))
        assert (again.finding, again.causes) == (Finding.EQUAL, ()), again.largest
        assert len(again.slots) >= 3
    one.store.close()


def test_rewritten_samples_are_found_out(past: Past) -> None:
    """A sample of the episode that now reads otherwise is named as the cause."""
    values = past.block.values.copy()
    values[0, PAST + 45] += 1
    again = replay(past.episodes[0], RULE, past.store, source_of(past, values))
    assert again.finding == Finding.DIFFERENT
    assert again.causes == (f"the source now gives other samples in 1 of {len(again.slots)} slots",)
    assert next(slot.at for slot in again.slots if not slot.equal) == START + 44 * STEP


def test_a_rewritten_history_is_found_out(past: Past) -> None:
    """Other samples before the episode change its scores and not its values."""
    values = past.block.values.copy()
    values[0, 50:150] *= 3
    again = replay(past.episodes[0], RULE, past.store, source_of(past, values))
    assert again.finding == Finding.DIFFERENT
    assert "have changed since" in again.causes[0]


def test_passed_retention_of_the_source_is_named(past: Past) -> None:
    """A history that has gone, in part or whole, is told from one that was rewritten."""
    values = past.block.values.copy()
    values[:, : PAST // 2] = np.nan
    again = replay(past.episodes[0], RULE, past.store, source_of(past, values))
    assert again.finding == Finding.DIFFERENT
    assert "retention may have passed" in again.causes[0]
    values[:, : PAST + 1] = np.nan
    gone = replay(past.episodes[0], RULE, past.store, source_of(past, values))
    assert gone.finding == Finding.DIFFERENT
    assert "its retention has passed" in gone.causes[0]


def source_of(past: Past, values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> RecordedSource:
    return RecordedSource({"load": Block(past.block.labels, past.block.times, values)})


def test_what_cannot_be_computed_says_why(past: Past) -> None:
    """A rule that changed or went, an episode without a model, and scores that were deleted."""
    source, episode = RecordedSource({"load": past.block}), past.episodes[0]
    cases = [
        (episode, replace(RULE, detector=DetectorSpec("mad")), "the model has changed"),
        (episode, None, "not in the rules files any more"),
        (replace(episode, model=""), RULE, "does not name the model"),
    ]
    for one, rule, cause in cases:
        again = replay(one, rule, past.store, source)
        assert again.finding == Finding.IMPOSSIBLE
        assert cause in again.causes[0]
    other = lived(RULE)
    other.store.delete_before(START + SLOTS * STEP)
    again = replay(episode, RULE, other.store, source)
    assert again.finding == Finding.IMPOSSIBLE
    assert "the daemon's retention has passed" in again.causes[0]
    other.store.close()


def test_differences_are_relative() -> None:
    """Missing equals missing, small numbers are not divided by nothing."""
    nan, inf = float("nan"), float("inf")
    assert [difference(a, b) for a, b in [(nan, nan), (inf, inf), (1.0, 1.0), (0.0, 0.0)]] == [0, 0, 0, 0]
    assert difference(nan, 1.0) == inf
    assert difference(100.0, 101.0) == pytest.approx(1 / 101)
    assert difference(0.0, 1e-9) == pytest.approx(1e-6)
