"""Living through many slots at once is living through them one by one: to the sample, the episode and the message."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from anomalyd.block import Block, Labels, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.detectors.base import Grid, rowwise
from anomalyd.detectors.registry import detector_names, make_detector
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.intervals import Interval
from anomalyd.judge import judge
from anomalyd.recorded import RecordedSource
from anomalyd.rule import DetectorSpec, MinDeviation, Rule, RuleGroup, TierPolicy
from anomalyd.score import REFUSED, Kind, Scores, Tier, Why
from anomalyd.store import open_store
from anomalyd.stretch import Sheet, first_flagged, judge_sheet, sheet_of_slot
from anomalyd.template import render_annotations

STEP = 5 * MINUTE_MS
START = 1_700_000_400_000 // STEP * STEP
PAST, SLOTS = 300, 360
FIELDS = ("opens", "value", "expected", "lower", "upper", "surprise", "kind", "tier", "why")

CHEAP: dict[str, dict[str, Any]] = {
    "forecast": {"limit": 400.0},
    "lstm": {"hidden": 8, "window": 16, "windows": 256},
    "autoencoder": {"window": 12, "windows": 256},
}
"""What a detector must be given, or what makes its fit short."""

RULE = Rule(
    "Load", "g", "load", detector=DetectorSpec("mad", {"window": "12h"}), interval_ms=STEP, history_ms=PAST * STEP,
    query_delay_ms=0, for_ms=2 * STEP, keep_firing_for_ms=2 * STEP, accept_after_ms=10 * HOUR_MS,
    refit_every_ms=15 * HOUR_MS, receivers=("hook",), group_by=("host",),
    tiers=(TierPolicy(Tier.WARNING, surprise=2.5), TierPolicy(Tier.CRITICAL, surprise=5)),
)  # fmt: skip


WINDOWS = (Interval(times=((240, 390),), timezone="Europe/Berlin"), Interval(times=((1_320, 15),)))
"""Times not to learn from; the first of them covers the spike's end, the other runs past midnight."""


def labels(n: int) -> tuple[Labels, ...]:
    return tuple(make_labels({"host": f"h{i}"}) for i in range(n))


def eventful() -> Block:
    """Noise and rhythm; spikes, an outage, a new level, gaps, a series that is born and one that dies."""
    rng = np.random.default_rng(5)
    times = START + np.arange(-PAST, SLOTS) * STEP
    values = 50 + rng.normal(size=(7, len(times))) + 5 * np.sin(2 * np.pi * times / DAY_MS)
    at = PAST
    values[0, at + 60 : at + 80] += 40
    values[1, at + 70 : at + 110] = 5
    values[2, at + 120 :] += 60
    values[3, at + 140 : at + 150] = np.nan
    values[3, at + 150 : at + 160] += 30
    values[4, : at + 170] = np.nan
    values[5, at + 40 :] = np.nan
    values[5, at + 30 : at + 40] += 50
    values[6, rng.integers(0, len(times), 60)] = np.nan
    values[6, at + 300 : at + 303] += 15
    return Block(labels(7), times, values)


class Life:
    """A rule that lives, and everything that can be seen of it."""

    def __init__(self, rule: Rule, block: Block):
        self.rule, self.group = rule, RuleGroup("g", STEP, (rule,))
        self.store = open_store("sqlite://")
        inline = InlineExecutor()
        self.evaluator = Evaluator(
            self.store, {"default": RecordedSource({"load": block})}, annotate=render_annotations,
            links=lambda _: {}, fit=inline, background=inline,
        )  # fmt: skip
        self.evaluator.add(rule)
        self.seen: dict[int, dict[int, tuple[Any, ...]]] = {}
        self.steps = 0

    def saw(self, sheet: Sheet) -> None:
        for column, at in enumerate(sheet.times.tolist()):
            rows = sheet.series.tolist()
            values = np.array([getattr(sheet, name)[:, column] for name in FIELDS], np.float64)
            self.seen[at] = {row: tuple(values[:, i].tolist()) for i, row in enumerate(rows)}

    def committed(self, at: int, owed: int) -> None:
        pass

    def one_by_one(self) -> Life:
        for minute in range(SLOTS):
            advanced = self.evaluator.evaluate(self.group, START + minute * STEP).rules[self.rule.id]
            assert advanced.failure is None, advanced.failure
            for slot in advanced.slots:
                assert slot.observation is not None
                self.saw(sheet_of_slot(slot.observation))
        return self

    def together(self) -> Life:
        at, last = START, START + (SLOTS - 1) * STEP
        while at <= last:
            at = self.evaluator.live(self.group, at, last, self)
            self.steps += 1
        return self

    def episodes(self) -> list[dict[str, Any]]:
        found = [asdict(e) for e in self.store.episodes(rule=self.rule.id, limit=10_000)]
        return sorted(found, key=lambda e: (e["started_at"], e["id"]))

    def owed(self) -> list[str]:
        rows = self.store.notifications(limit=10_000)
        return sorted(f"{r.notification.statement.at} {r.notification.statement}" for r in rows)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        state = self.evaluator.runs[self.rule.id].memory.state
        assert state is not None
        return dict(state.arrays)


def same(a: Life, b: Life) -> None:
    assert a.episodes() == b.episodes()
    assert a.owed() == b.owed()
    assert a.seen.keys() == b.seen.keys()
    for at, rows in a.seen.items():
        assert rows.keys() == b.seen[at].keys()
        for row, values in rows.items():
            place = f"series {row} in slot {(at - START) // STEP}"
            np.testing.assert_array_equal(values, b.seen[at][row], err_msg=place)
    for name, array in a.arrays().items():
        np.testing.assert_array_equal(array, b.arrays()[name], err_msg=name)


@pytest.mark.parametrize("change", [
    {}, {"missing": "resolve"}, {"missing": "alert", "direction": "up"}, {"missing": "skip", "learn": "all"},
    {"valid_range": (20.0, 100.0), "group_by": (), "tiers": (*RULE.tiers[:1], TierPolicy(Tier.CRITICAL, spread=0.25))},
    {"accept_after_ms": 0, "max_series": 5}, {"dont_learn": WINDOWS}, {"dont_learn": WINDOWS[:1], "learn": "all"},
    {"detector": DetectorSpec("iqr", {"window": "12h"}), "history_ms": 250 * STEP}, {"detector": DetectorSpec("ewma")},
    {"detector": DetectorSpec("auto", {"contexts": 64})},
], ids=str)  # fmt: skip
def test_many_slots_at_once_are_the_slots_one_by_one(change: dict[str, Any]) -> None:
    """Scores, verdicts, episodes, messages and what was learned are equal, and it takes far fewer steps."""
    rule, block = replace(RULE, **change), eventful()
    slow, fast = Life(rule, block).one_by_one(), Life(rule, block).together()
    assert slow.episodes(), "there is something to compare"
    same(slow, fast)
    assert fast.steps < SLOTS / 4


def machines() -> Block:
    """Machines of three, three and one channel; a spike, a relation that breaks, gaps, a channel that is born."""
    rng = np.random.default_rng(9)
    times = START + np.arange(-PAST, SLOTS) * STEP
    common = rng.normal(size=len(times)) + 5 * np.sin(2 * np.pi * times / DAY_MS)
    values = 50 + common + rng.normal(size=(7, len(times))) * 0.3
    at = PAST
    values[0, at + 60 : at + 70] += 40
    values[3, at + 200 : at + 215] = 100 - values[3, at + 200 : at + 215]
    values[6, at + 201 : at + 203] += 30
    values[1, at + 20 : at + 23] = np.nan
    values[4:6, at + 90] = np.nan
    values[2, : at + 120] = np.nan
    names = tuple(make_labels({"host": f"h{i // 3}", "core": f"c{i}"}) for i in range(7))
    return Block(names, times, values)


@pytest.mark.parametrize("change", [
    {"detector": DetectorSpec("auto", {"joint": True})},
    {"detector": DetectorSpec("auto", {"joint": True}), "group_by": (), "missing": "alert", "learn": "all"},
    {"detector": DetectorSpec("knn", {"joint": True, "contexts": 128}), "min_deviation": MinDeviation(2.0)},
    {"detector": DetectorSpec("ensemble", {"members": [
        {"type": "auto", "params": {"joint": True}}, {"type": "ewma"},
    ]}), "dont_learn": WINDOWS[1:]},
], ids=str)  # fmt: skip
def test_series_that_are_scored_together_are_lived_through_at_once_while_all_is_calm(change: dict[str, Any]) -> None:
    """Of vectors too scores, verdicts of series and groups, episodes, messages and states are equal, in fewer steps."""
    rule, block = replace(RULE, **change), machines()
    slow, fast = Life(rule, block).one_by_one(), Life(rule, block).together()
    assert slow.episodes(), "there is something to compare"
    same(slow, fast)
    assert fast.steps < SLOTS / 2


def test_what_is_caught_up_with_is_lived_through_slot_by_slot() -> None:
    """A daemon that evaluates every fiftieth slot writes the scores and episodes of one that missed none."""
    rule = replace(RULE, detector=DetectorSpec("ewma"), accept_after_ms=0, group_by=())
    block = eventful().take([0, 1, 3, 6])
    slow, late = Life(rule, block).one_by_one(), Life(rule, block)
    for minute in [0, *range(49, SLOTS, 50), SLOTS - 1]:
        for slot in late.evaluator.evaluate(late.group, START + minute * STEP).rules[rule.id].slots:
            assert slot.observation is not None
            late.saw(sheet_of_slot(slot.observation))
    spans = [[(e["id"], e["opened_at"], e["closed_at"], e["tier"]) for e in one.episodes()] for one in (slow, late)]
    assert spans[0] == spans[1]
    for at, rows in slow.seen.items():
        np.testing.assert_array_equal(list(rows.values()), list(late.seen[at].values()))


@pytest.mark.parametrize("name", detector_names())
def test_a_rowwise_detector_scores_any_subset_alike(name: str) -> None:
    """What a detector says of two series does not depend on the others beside them."""
    grid = Grid(STEP)
    detector = make_detector(DetectorSpec(name, CHEAP.get(name, {})), grid)
    if not rowwise(detector):
        assert detector.multivariate
        return
    block = eventful().take([0, 1, 2, 3, 6])
    whole = detector.fit(block.window(0, PAST), 1)
    fresh = block.window(PAST, PAST + 60)
    some = [1, 3]
    raw, after = detector.score(whole, fresh)
    raw_some, after_some = detector.score(whole.take(some), fresh.take(some))
    for field in ("score", "expected", "unit"):
        np.testing.assert_array_equal(getattr(raw, field)[some], getattr(raw_some, field))
    for array, part in after.arrays.items():
        if array not in after.shared:
            np.testing.assert_array_equal(part[some], after_some.arrays[array], err_msg=array)


def test_an_episode_on_a_series_that_is_away_is_moved_on_in_each_slot() -> None:
    """After a restart in an episode whose series does not answer, catching up ends it as slot by slot would."""
    block = eventful().take([0, 2])
    block.values[0, PAST + 70 :] = np.nan
    tiers = (TierPolicy(Tier.WARNING, surprise=3.5),)
    rule = replace(RULE, detector=DetectorSpec("ewma"), missing="resolve", tiers=tiers)

    def restarted(slots: list[int]) -> list[dict[str, Any]]:
        life = Life(rule, block)
        for slot in range(71):
            life.evaluator.evaluate(life.group, START + slot * STEP)
        assert [dict(e.labels)["host"] for e in life.store.live_episodes(rule.id)] == ["h0"]
        life.evaluator.recall()
        for slot in slots:
            failure = life.evaluator.evaluate(life.group, START + slot * STEP).rules[rule.id].failure
            assert failure is None, failure
        return life.episodes()

    slow = restarted(list(range(71, 100)))
    assert "ended" in {str(e["close"]) for e in slow if ("host", "h0") in e["labels"]}
    assert restarted([80, 99]) == slow


@pytest.mark.parametrize("missing", ["ignore", "alert"])
@pytest.mark.parametrize("paged", [True, False])
@pytest.mark.parametrize("own", [1.0, float("inf")])
def test_what_is_calm_need_not_be_judged(missing: str, paged: bool, own: float) -> None:
    """A sheet's verdicts are those of judging every sample, and so is the first column in which each is flagged."""
    rng = np.random.default_rng(3)
    n, slots = 40, 60
    odd = np.array([np.nan, np.inf, -np.inf])

    def some(scale: float, share: float) -> npt.NDArray[np.float64]:
        found = rng.normal(scale=scale, size=(n, slots))
        return np.where(rng.random((n, slots)) < share, rng.choice(odd, (n, slots)), found)

    values, surprise = some(4.0, 0.02), np.abs(some(1.0, 0.0))
    surprise[rng.random((n, slots)) < 0.05] = np.nan
    page = np.where(rng.random((n, slots)) < 0.7, surprise, -np.inf) if paged else None
    scores = Scores(
        surprise, rng.normal(size=(n, slots)), values, values, surprise, page,
        learned=(rng.random((n, slots)) < 0.1).astype(np.int64), side=rng.normal(size=(n, slots)),
    )  # fmt: skip
    cuts = np.tile([1.5, np.inf, 2.5], (n, 1)) + rng.random((n, 1))
    rule = replace(RULE, direction="up", valid_range=(-9.0, 9.0), missing=missing)
    found = judge_sheet(rule, values, scores, cuts, own)
    each = [None if a is None else a.ravel() for a in (page, scores.learned, scores.side)]
    whole = judge(
        rule, values.ravel(), scores.expected.ravel(), surprise.ravel(), np.repeat(cuts, slots, axis=0), each[0],
        young=each[1] > 0, side=each[2], own=own,
    )  # fmt: skip
    for one, other in ((found.kind, whole.kind), (found.tier, whole.tier), (found.why, whole.why)):
        assert np.array_equal(one, other)
    flagged = (whole.kind == Kind.ANOMALOUS) | (np.isin(whole.why, REFUSED) & paged)
    there = flagged.reshape(n, slots)
    assert there.any()
    times, never = np.arange(slots, dtype=np.int64), np.zeros(n, np.int64)
    first = np.where(there.any(axis=1), there.argmax(axis=1), slots).tolist()
    assert first_flagged(found, scores, times, never).tolist() == first
    until = rng.integers(0, slots, n)
    unheard = (whole.why == Why.NO_NEWS).reshape(n, slots) & (times <= until[:, None]) & (until[:, None] > 0) & paged
    there |= unheard
    first = np.where(there.any(axis=1), there.argmax(axis=1), slots).tolist()
    assert first_flagged(found, scores, times, until).tolist() == first
