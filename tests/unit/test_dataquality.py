"""Data quality: faults of the data are told as such, once for many series, and before they look like anomalies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.block import F64, I8, Block
from anomalyd.clock import DAY_MS, HOUR_MS, WEEK_MS
from anomalyd.demo.shop import STEP_MS, shop
from anomalyd.episode import Close
from anomalyd.evaluation.dataquality import FAULTS, NAME, Quality, names_of, observe, quality_rule
from anomalyd.evaluation.orphans import close_orphans
from anomalyd.incident import Reason, Statement
from anomalyd.render import render
from anomalyd.rule import DataQuality, Rule, RuleGroup, TierPolicy
from anomalyd.score import Kind, Tier, Why
from life import RULE, START, Life, M, hosts
from unit.test_door import Listening

PAST = 2 * 1440
NAN = float("nan")
WATCHED = replace(RULE, history_ms=PAST * M, tiers=(TierPolicy(Tier.WARNING, surprise=5),), accept_after_ms=0)
Fault = Callable[[F64], Any]


def long(n: int = 4, minutes: int = 240, seed: int = 1) -> Block:
    """Two days of history and then ``minutes`` live, around 10 with noise 1."""
    times = START + np.arange(-PAST, minutes) * M
    values = 10 + np.random.default_rng(seed).normal(size=(n, len(times)))
    return Block(hosts(n), times, values)


def spoiled(block: Block, fault: Fault, first: int = 30, stop: int = 150, rows: tuple[int, ...] = (1,)) -> Block:
    """The block with a fault in some series between two minutes."""
    values: F64 = block.values.copy()
    for row in rows:
        part = values[row, PAST + first : PAST + stop]
        part[:] = fault(part)
    return Block(block.labels, block.times, values)


def frozen(part: F64) -> F64:
    return np.full(len(part), part[0])


def gappy(part: F64) -> F64:
    return np.where(np.random.default_rng(7).random(len(part)) < 0.5, NAN, part)


def coarse(part: F64) -> F64:
    return np.round(part / 4) * 4


def repeated(part: F64) -> F64:
    return np.repeat(part[::2], 2)[: len(part)]


def enlarged(part: F64) -> F64:
    return part * 1000


def silent(part: F64) -> F64:
    return np.full(len(part), NAN)


CASES: dict[str, tuple[Fault, str, int]] = {
    "frozen": (frozen, "frozen", 30),
    "gaps": (gappy, "gaps", 40),
    "coarse": (coarse, "repeats", 130),
    "longer interval": (repeated, "repeats", 60),
    "another unit": (enlarged, "range", 6),
    "silent": (silent, "stale", 30),
}


def statements(life: Life) -> list[Statement]:
    """What was told of the data's quality, oldest first."""
    rows = life.store.notifications(limit=1000)
    return sorted((r.notification.statement for r in rows if r.notification.statement.name == NAME), key=lambda s: s.at)


@pytest.mark.parametrize("name", CASES)
def test_a_fault_of_the_data_is_told_and_ends(name: str) -> None:
    """Each fault is told by name within its time, as a warning of the rule's data, and once more when it is over."""
    fault, word, within = CASES[name]
    life = Life(spoiled(long(), fault, 70, 150), WATCHED)
    life.live(0, 240)
    told = statements(life)
    assert [s.reason for s in told] == [Reason.NEW, Reason.RESOLVED]
    opened, closed = told
    assert opened.alerts[0].why == word
    assert dict(opened.alerts[0].labels)["host"] == "h1"
    assert 70 <= (opened.at - START) // M <= 70 + within
    assert (opened.tier, opened.total, opened.rule) == (Tier.WARNING, 1, quality_rule(RULE.id))
    assert closed.at - START >= 150 * M
    assert life.store.open_incidents() == []


def test_lost_resolution_is_told_where_neighbours_still_differ() -> None:
    """Four values in turn where there were always sixty of 64: no sample repeats the one before, and it is told."""

    def few(part: F64) -> F64:
        return np.resize(np.array([9.0, 10.0, 11.0, 10.5]), len(part))

    life = Life(spoiled(long(minutes=480), few, 70, 230), WATCHED)
    life.live(0, 480)
    opened, closed = statements(life)
    assert [alert.why for alert in opened.alerts] == ["resolution"]
    assert 70 < (opened.at - START) // M <= 70 + 2 * 64
    assert (closed.reason, closed.at >= START + 230 * M) == (Reason.RESOLVED, True)


def test_many_series_are_one_notification() -> None:
    """Twenty frozen hosts and a gappy one are one incident, worst first; what joins later is told hourly at most."""
    block = spoiled(long(30, 300), frozen, rows=tuple(range(20)))
    block = spoiled(block, gappy, 100, 200, (25,))
    life = Life(block, WATCHED)
    life.live(0, 300)
    told = statements(life)
    assert [(s.reason, s.total) for s in told] == [(Reason.NEW, 20), (Reason.MORE, 21), (Reason.RESOLVED, 1)]
    assert told[1].at - told[0].at >= HOUR_MS
    assert [a.why for a in told[1].alerts[:2]] == ["gaps", "frozen"]
    assert "20 series stuck on one value" in told[0].annotations["summary"]


def test_ordinary_series_say_nothing() -> None:
    """Noise, a rhythm with zeros at night, counts, steps, a spike, a short gap and a level shift are no faults."""
    rng = np.random.default_rng(3)
    n = 5 * 1440
    t = np.arange(n)
    noise = 10 + rng.normal(size=n)
    night = np.where(np.sin(2 * np.pi * t / 1440) < 0, 0.0, noise)
    counts, seldom = rng.poisson(20, n).astype(float), rng.poisson(0.05, n).astype(float)
    stairs = np.floor(t / 200.0)
    spike, gap, shift = noise.copy(), noise.copy(), noise.copy()
    spike[6000:6010] = 500
    gap[6000:6020] = NAN
    shift[6000:] += 300
    flat = np.full(n, 3.0)
    outage = noise.copy()
    outage[6000:6400] = 0.0
    values = np.stack([noise, night, counts, seldom, stairs, spike, gap, shift, flat, outage])
    _, flags = observe(WATCHED, Quality().grown(len(values)), Block(hosts(len(values)), t * M + M, values))
    assert not flags.any(), [(i, names_of(int(flags[i].max()))) for i in np.nonzero(flags.any(axis=1))[0]]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_four_weeks_of_the_shop_are_sound(seed: int) -> None:
    """Deploys, scrape gaps, a nightly job and all planted incidents are no faults of the data."""
    block = shop(START // DAY_MS * DAY_MS - 4 * WEEK_MS, 4, seed).block
    rule = replace(WATCHED, interval_ms=STEP_MS)
    _, flags = observe(rule, Quality().grown(len(block)), block)
    assert not flags.any()


def test_what_lasts_becomes_usual() -> None:
    """A coarser sensor, a longer interval and another unit are told for a day, not for ever."""
    rng = np.random.default_rng(3)
    values = 10 + rng.normal(size=(3, 6 * 1440))
    new = slice(3 * 1440, None)
    values[0, new], values[1, new], values[2, new] = (f(values[0, new]) for f in (coarse, repeated, enlarged))
    times = START + np.arange(values.shape[1]) * M
    _, flags = observe(WATCHED, Quality().grown(3), Block(hosts(3), times, values))
    assert (flags[:, 3 * 1440 + 200] > 0).all()
    assert (flags[:, -1] == 0).all()


def test_the_same_freeze_is_told_again() -> None:
    """A fault widens what is usual a little, so that a sensor that sticks every week is told every week."""
    values = 10 + np.random.default_rng(3).normal(size=(1, 6 * 1440))
    for day in (2, 3, 4, 5):
        values[0, day * 1440 : day * 1440 + 120] = 7.5
    _, flags = observe(WATCHED, Quality().grown(1), Block(hosts(1), START + np.arange(values.shape[1]) * M, values))
    begun = np.nonzero((flags[0, 1:] > 0) & (flags[0, :-1] == 0))[0] // 1440
    assert begun.tolist() == [2, 3, 4, 5]


def test_anomalies_of_series_with_sudden_gaps_wait_and_emergencies_do_not() -> None:
    """With hold a spike among gaps opens nothing unless it is an emergency; with tell and ignore it opens."""
    tiers = (TierPolicy(Tier.WARNING, surprise=3.5), TierPolicy(Tier.EMERGENCY, surprise=40))
    block = spoiled(spoiled(long(), gappy, 30, 200), lambda part: np.where(np.isfinite(part), 25.0, NAN), 120, 140)
    found = {}
    for mode in ("hold", "tell", "ignore"):
        rule = replace(WATCHED, tiers=tiers, for_ms=0, data_quality=DataQuality(mode))  # type: ignore[arg-type]
        life = Life(block, rule)
        life.live(0, 200)
        found[mode] = life.spans(), len(statements(life))
        if mode == "hold":
            seen = life.store.scores(RULE.id, START + 120 * M, START + 140 * M)
            why = {(Kind(int(o.verdicts.kind[1])), Why(int(o.verdicts.why[1]))) for o in seen if o.value[1] > 20}
            assert (Kind.OK, Why.DOUBTED) in why
            assert {kind for kind, _ in why} == {Kind.OK}
    assert found["hold"] == ([], 1)
    assert [span[0] for span in found["tell"][0]] == ["h1"]
    assert found["ignore"] == (found["tell"][0], 0)
    worse = spoiled(spoiled(long(), gappy, 30, 200), lambda part: np.where(np.isfinite(part), 1e6, NAN), 120, 140)
    life = Life(worse, replace(WATCHED, tiers=(TierPolicy(Tier.EMERGENCY, surprise=4),), for_ms=0))
    life.live(0, 200)
    assert [(host, close) for host, _, _, close in life.spans()] == [("h1", Close.RECOVERED)]


def test_an_episode_that_is_open_goes_on_through_gaps() -> None:
    """An outage that begins before the gaps is told, stays open, and ends when it recovers."""
    block = spoiled(long(), lambda part: part + 30, 40, 150)
    block = spoiled(block, gappy, 60, 200)
    life = Life(block, WATCHED)
    life.live(0, 220)
    (span,) = life.spans()
    assert span[:2] == ("h1", 42)
    assert 150 <= span[2] <= 160


def test_many_slots_at_once_tell_what_the_slots_one_by_one_tell() -> None:
    """A backtest finds the same faults in the same slots, doubts the same samples, and gives the same scores."""
    block = spoiled(spoiled(long(), frozen, 20, 90, (2,)), gappy, 60, 200)
    block = spoiled(block, lambda part: np.where(np.isfinite(part), 25.0, NAN), 120, 140)
    slots, once, listening, at = Life(block, WATCHED), Life(block, WATCHED), Listening(), START
    slots.live(0, 240)
    while at < START + 240 * M:
        at = once.evaluator.live(RuleGroup("g", M, (WATCHED,)), at, START + 239 * M, listening)
    assert slots.told() == once.told()
    assert [s.reason for s in statements(slots)] == [Reason.NEW, Reason.MORE]
    for o in slots.store.scores(RULE.id, START, START + 240 * M):
        for i, row in enumerate(o.series.tolist()):
            assert listening.seen[o.at, row][1] == o.verdicts.kind[i]
    ours, theirs = (life.evaluator.runs[RULE.id].memory.quality for life in (slots, once))
    np.testing.assert_array_equal(ours.lines, theirs.lines)
    np.testing.assert_array_equal(ours.bits, theirs.bits)


def test_a_restart_tells_nothing_twice_and_forgets_no_end() -> None:
    """A daemon born again within a fault goes on with its incident: no second notice, one end."""
    block = spoiled(long(), frozen)
    life = Life(block, WATCHED)
    life.live(0, 80)
    again = Life(block, WATCHED, store=life.store)
    again.live(80, 240)
    assert [s.reason for s in statements(again)] == [Reason.NEW, Reason.RESOLVED]


def test_a_rule_that_goes_ends_its_incident() -> None:
    """Removed while the daemon runs, or while it does not: whoever was told hears the end."""
    block = spoiled(long(), frozen)
    life = Life(block, WATCHED)
    life.live(0, 80)
    assert close_orphans(life.store, [RULE.id], ["default"], START + 80 * M) == []
    life.evaluator.remove(RULE.id, START + 80 * M)
    assert [s.reason for s in statements(life)] == [Reason.NEW, Reason.RESOLVED]
    other = Life(block, WATCHED)
    other.live(0, 80)
    assert len(close_orphans(other.store, [], ["default"], START + 80 * M)) == 1
    assert [s.reason for s in statements(other)] == [Reason.NEW, Reason.RESOLVED]


@pytest.mark.parametrize("rule", [
    replace(WATCHED, data_quality=DataQuality("ignore")),
    replace(WATCHED, mode="shadow"),
    replace(WATCHED, data_quality=DataQuality(at_least_ms=4 * HOUR_MS)),
], ids=["ignore", "shadow", "patient"])  # fmt: skip
def test_nobody_is_told_when_the_rule_says_so(rule: Rule) -> None:
    """ignore looks at nothing, shadow tells nobody, and a longer at_least waits for longer."""
    life = Life(spoiled(long(), frozen), rule)
    life.live(0, 150)
    assert statements(life) == []


def test_hosts_that_are_replaced_are_not_missed() -> None:
    """A rolling deploy, and then a smaller number of hosts, are no faults; the first loss ever of a host is."""
    block = spoiled(long(4, 400), silent, 60, 400, (0, 1))
    values = block.values.copy()
    values[2, : PAST + 50] = NAN
    values[3, : PAST + 55] = NAN
    deployed = Life(Block(block.labels, block.times, values), WATCHED)
    deployed.live(0, 300)
    assert statements(deployed) == []
    lost = Life(spoiled(long(4, 400), silent, 90, 400), WATCHED)
    lost.live(0, 300)
    assert [s.alerts[0].why for s in statements(lost)] == ["stale"]
    for missing in ("alert", "skip", "resolve"):
        told = Life(spoiled(long(4, 400), silent, 90, 400), replace(WATCHED, missing=missing))  # type: ignore[arg-type]
        told.live(0, 300)
        assert statements(told) == [], "the rule itself says what absence means"


def test_the_notice_reads_well() -> None:
    """The message says which series, what is wrong with it, and asks nobody whether that was right."""
    life = Life(spoiled(long(), frozen), WATCHED)
    life.live(0, 100)
    (told,) = statements(life)
    text = render(told, told.at).text
    assert "stuck on one value" in text
    assert "h1" in text
    assert "expected" not in text
    assert told.annotations["summary"].startswith("Data of Load: 1 series stuck on one value (")


def block_of(rows: list[list[float]]) -> Block:
    return Block(hosts(len(rows)), START + np.arange(len(rows[0])) * M, np.array(rows, np.float64))


VALUES = st.one_of(st.just(NAN), st.just(0.0), st.just(1.0), st.floats(-1e308, 1e308), st.sampled_from([2.0, 2.5, 1e6]))


@settings(max_examples=40)
@given(st.lists(st.lists(VALUES, min_size=30, max_size=30), min_size=1, max_size=3), st.integers(1, 29))
def test_cuts_do_not_matter(rows: list[list[float]], cut: int) -> None:
    """Any samples, however cut into blocks, give the same faults and the same memory, and nothing but numbers."""
    block = block_of(rows)
    whole, flags = observe(WATCHED, Quality().grown(len(rows)), block)
    first, a = observe(WATCHED, Quality().grown(len(rows)), block.window(0, cut))
    second, b = observe(WATCHED, first, block.window(cut))
    np.testing.assert_array_equal(np.concatenate([a, b], axis=1), flags)
    np.testing.assert_array_equal(second.lines, whole.lines)
    np.testing.assert_array_equal(second.bits, whole.bits)
    again, none = observe(WATCHED, whole, block)
    assert again is whole
    assert not none.any()
    flag: I8 = flags
    assert set(np.unique(flag)) <= set(range(sum(FAULTS) + 1))
