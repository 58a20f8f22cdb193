"""Tuning: what is tried, what wins and what must not change."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.block import Block
from anomalyd.cli.tune import verdict
from anomalyd.durations import parse_budget
from anomalyd.errors import ConfigError
from anomalyd.rule import Budget, DetectorSpec, MinDeviation, Rule, RuleGroup, TierPolicy
from anomalyd.rulefiles.read import RuleSet, read_rules
from anomalyd.rulefiles.write import write_rules
from anomalyd.score import Tier
from anomalyd.threshold import initial_threshold
from anomalyd.workbench.backtest import Backtest, backtest
from anomalyd.workbench.report.figures import Span
from anomalyd.workbench.truth import Truth
from anomalyd.workbench.tuneview import around, consequence, peaks, sparkline, threshold_lines, yaml_diff
from anomalyd.workbench.tuning import (
    Trial,
    Tuned,
    allowed,
    better,
    candidates,
    holds,
    leading,
    live_within,
    lowest_budget,
    rank,
    spec_of,
    split_of,
    tune,
    usable,
    weigh,
    with_budget,
)
from anomalyd.yamlfile import read_yaml
from life import RULE, START, M, change, hosts, recorded

MINUTES = 360
WEEKLY = Budget(1, 7 * 1440 * M)
LOOSE = replace(
    RULE, tiers=(TierPolicy(Tier.WARNING, surprise=1.2),), for_ms=0, keep_firing_for_ms=0, direction="up",
    min_deviation=MinDeviation(absolute=0.5), valid_range=(-100.0, 100.0), where="rules.yml:7",
)  # fmt: skip
"""A rule that alerts on noise."""


def history() -> Block:
    block = change(recorded(n=2, minutes=MINUTES), 0, 60, 75, 30.0)
    return change(block, 1, 200, 215, 25.0)


def real() -> Truth:
    return Truth(tuple(
        Span(START + first * M, START + (first + 14) * M, hosts(2)[row]) for row, first in ((0, 60), (1, 200))
    ))  # fmt: skip


@cache
def loose() -> Backtest:
    return backtest(LOOSE, history(), START, START + (MINUTES - 1) * M)


def few(n: int) -> Callable[[], bool]:
    """Time that is over after ``n`` questions."""
    left = iter(range(n))
    return lambda: next(left, None) is not None


@cache
def tuned() -> Tuned:
    return tune(loose(), real(), WEEKLY, few(12))


def test_a_loose_rule_gets_a_change_that_keeps_what_is_real() -> None:
    """Under the asked budget the false alarms go, both real anomalies stay, and the sentence says so."""
    found = tuned()
    assert found.base.alerts > 10
    assert found.best is not None
    assert found.best.alerts < found.base.alerts
    assert found.best.f1 > found.base.f1 + 0.1
    assert found.best.found == found.base.found == frozenset({0, 1})
    words = consequence(found)
    assert words.startswith("would have removed")
    assert words.endswith("kept both labelled ones")
    assert found.untried


@cache
def split_in_two() -> Tuned:
    return tune(loose(), real(), WEEKLY, few(12), held_out=0.5)


def test_what_is_chosen_on_one_part_is_told_by_the_other() -> None:
    """Each version is weighed on the first half; the second half stands beside it and has its own anomaly."""
    found = split_in_two()
    assert found.split == START + 180 * M
    assert found.best is not None
    for trial in (found.base, *found.trials):
        assert trial.later is not None
        assert trial.test.end < found.split == trial.later.test.start
        assert trial.alerts + trial.later.alerts == len(trial.whole.episodes)
        assert all(e.opened_at < found.split for e in trial.test.episodes)
    assert found.base.found == found.base.later.found == frozenset({0}) if found.base.later else False
    assert consequence(found).endswith("kept the labelled one")


def test_what_wins_by_luck_is_not_proposed() -> None:
    """A winner that misses what the rule found later, raises more alerts there, or is less right, does not hold."""
    won, own = split_in_two().best, split_in_two().base
    assert won is not None and won.later is not None and own.later is not None  # noqa: PT018
    assert holds(won, own)
    for worse in (
        replace(won.later, found=frozenset()), replace(won.later, excess=own.later.excess + 1),
        replace(won.later, f1=own.later.f1 - 0.1),
    ):  # fmt: skip
        assert not holds(replace(won, later=worse), own)
    assert holds(replace(won, later=replace(won.later, f1=math.nan)), own)


def test_a_span_too_short_to_be_parted_is_used_whole() -> None:
    """Half of an hour and a half says nothing by itself."""
    short = replace(loose(), end=START + 90 * M)
    assert split_of(short, 0.5) is None
    assert split_of(loose(), 0.0) is None
    assert split_of(loose(), 0.25) == START + 270 * M


def test_business_facts_stay() -> None:
    """No version differs from the rule in anything but detector and tiers."""
    for trial in tuned().trials:
        assert replace(trial.rule, detector=LOOSE.detector, tiers=LOOSE.tiers) == LOOSE


def test_the_diff_turns_the_rule_into_the_better_one() -> None:
    """Applied to the rule in YAML the diff gives a file that loads as the better rule."""
    best = tuned().best
    assert best is not None
    lines = yaml_diff(LOOSE, best.rule)
    assert lines[:2] == ["--- rules.yml", "+++ rules.yml (tuned)"]
    old, new = (write_rules(RuleSet((RuleGroup("g", M, (r,)),))).splitlines() for r in (LOOSE, best.rule))
    assert [x[2:] for x in difflib.ndiff(old, new) if x[0] == "+"] == [x[1:] for x in lines[2:] if x[0] == "+"]
    document = read_yaml("\n".join(new), "rules.yml")
    (loaded,) = read_rules([document]).rules
    assert (loaded.detector, loaded.tiers) == (best.rule.detector, best.rule.tiers)


def test_a_version_that_misses_a_confirmed_anomaly_never_wins() -> None:
    """However few alerts it raises, losing what the rule found is not better."""
    base = weigh("base", loose(), real(), WEEKLY)
    mute = weigh("mute", replace(loose(), episodes=loose().episodes[:0]), real(), WEEKLY)
    assert not better(mute, base, real())
    assert rank(mute, base, real()) > rank(base, base, real())
    assert not better(base, base, real())


def test_without_labels_budget_comes_first_and_clarity_second() -> None:
    """Fewer alerts beyond the budget win, then the clearer scores, and only by a margin."""
    nothing = Truth((), complete=False)
    base = weigh("base", loose(), nothing, WEEKLY)
    assert math.isnan(base.f1)
    assert base.excess == base.alerts - base.allowed
    calmer = replace(base, excess=base.excess - 3)
    clearer = replace(base, clarity=replace(base.clarity, separation=base.clarity.separation + 0.11))
    barely = replace(base, clarity=replace(base.clarity, separation=base.clarity.separation + 0.09))
    silent = replace(base, clarity=replace(base.clarity, separation=math.nan))
    calm = weigh("calm", replace(loose(), episodes=()), nothing, WEEKLY)
    assert better(calm, base, nothing)
    assert not better(calmer, base, nothing)
    assert better(clearer, base, nothing)
    assert not better(barely, base, nothing)
    assert not better(silent, base, nothing)


@pytest.mark.parametrize(("mine", "theirs", "wins"), [(0, 4, True), (1, 5, False), (0, 2, False), (3, 16, True)])
def test_without_labels_a_few_alerts_less_are_chance(mine: int, theirs: int, wins: bool) -> None:
    """Nobody said that they were wrong, so the rule stays unless the counts differ by more than two deviations."""
    nothing = Truth((), complete=False)
    base = weigh("base", loose(), nothing, WEEKLY)

    def raising(n: int) -> Trial:
        return replace(base, test=replace(base.test, episodes=base.test.episodes[:n]), excess=float(n))

    assert better(raising(mine), raising(theirs), nothing) == wins


def test_without_labels_clearer_scores_must_exceed_what_the_parts_differ_by() -> None:
    """And hold on the part that was held out: where it is less clear there, it was luck."""
    nothing = Truth((), complete=False)
    base = weigh("base", loose(), nothing, WEEKLY)

    def speaking(first: float, later: float) -> Trial:
        parts = [replace(base, clarity=replace(base.clarity, separation=one)) for one in (first, later)]
        return replace(parts[0], later=parts[1])

    own = speaking(0.30, 0.38)
    assert better(speaking(0.39, 0.40), own, nothing)
    assert not better(speaking(0.37, 0.40), own, nothing)
    assert not better(speaking(0.45, 0.25), own, nothing)
    assert holds(speaking(0.45, 0.39), own)
    assert not holds(speaking(0.45, 0.37), own)


def test_what_looks_better_by_chance_is_named_and_not_proposed() -> None:
    """Without labels the rule stays, and the sentence says by how little it was beaten."""
    nothing = Truth((), complete=False)
    base = weigh("base", loose(), nothing, WEEKLY)
    luckier = replace(base, name="mad, window 6h", excess=base.excess - 1)
    assert leading([base, luckier], base, nothing) is luckier
    assert leading([base], base, nothing) is leading([], base, nothing) is leading([luckier], base, real()) is None
    words = verdict(Tuned(base, (luckier,), (), None, nothing, WEEKLY, thin=luckier))
    assert words.startswith(f"mad, window 6h looks better ({base.alerts} alerts for {base.alerts}, separation 0.")
    assert words.endswith("by no more than chance gives: the rule stays as it is")


def test_time_that_is_over_is_said() -> None:
    """Without time nothing is tried, all is named, and nothing is proposed."""
    found = tune(loose(), real(), None, lambda: False)
    assert found.trials == ()
    assert found.best is None
    assert len(found.untried) >= 5
    assert live_within(LOOSE, history(), START, START + 10 * M, few(1)) is None


def test_candidates_differ_and_can_learn() -> None:
    """No version is tried twice, the rule's own is not among them, and each can learn from the history there is."""
    specs = list(candidates(RULE, 5))
    assert RULE.detector not in specs
    assert all(specs.count(spec) == 1 for spec in specs)
    assert {"zscore", "peer"} <= {spec.type for spec in specs}
    assert all(usable(spec, RULE) for spec in specs)
    assert "peer" not in {spec.type for spec in candidates(RULE, 2)}
    assert not usable(DetectorSpec("mad", {"window": "no"}), RULE)
    assert not usable(DetectorSpec("mad"), replace(RULE, history_ms=M))
    with pytest.raises(ConfigError, match="did you mean 'mad'"):
        spec_of("madd")


@given(
    count=st.integers(1, 5), period=st.sampled_from(["day", "week", "month"]),
    higher=st.sampled_from([Budget(1, 365 * 1440 * M), None]), surprise=st.floats(2, 9),
)  # fmt: skip
def test_higher_tiers_stay_rarer(count: int, period: str, higher: Budget | None, surprise: float) -> None:
    """Whatever the new budget, a higher tier begins above the lowest, and a budget keeps its ratio."""
    low = TierPolicy(Tier.WARNING, Budget(1, 7 * 1440 * M))
    high = TierPolicy(Tier.CRITICAL, higher, None if higher else surprise)
    budget = parse_budget(f"{count} per {period}")
    cuts = initial_threshold(with_budget(replace(RULE, tiers=(low, high)), budget)).cuts
    assert cuts[0] == initial_threshold(replace(RULE, tiers=(TierPolicy(Tier.WARNING, budget),))).cuts[0]
    assert cuts[1] > cuts[0]
    assert lowest_budget(with_budget(replace(RULE, tiers=(low, high)), budget)) == budget


def test_a_tier_by_spread_alone_is_left_as_it_is() -> None:
    """A tier that begins by the share of abnormal series has no cut to move."""
    low, wide = TierPolicy(Tier.WARNING, surprise=1.2), TierPolicy(Tier.CRITICAL, spread=0.5)
    tiers = with_budget(replace(RULE, tiers=(low, wide)), WEEKLY).tiers
    assert tiers == (TierPolicy(Tier.WARNING, WEEKLY), wide)
    assert lowest_budget(replace(RULE, tiers=tiers)) == WEEKLY


def test_a_budget_grants_by_series_and_time() -> None:
    """A budget per series grants as many times more as there are series; never less than one alert."""
    test = replace(loose(), end=START + 14 * 1440 * M)
    assert allowed(WEEKLY, test) == pytest.approx(4, abs=0.01)
    assert allowed(replace(WEEKLY, per="rule"), test) == pytest.approx(2, abs=0.01)
    assert allowed(WEEKLY, loose()) == 1.0


def test_peaks_are_the_planted_ones() -> None:
    """The two highest places are the planted anomalies, each named once, with a picture of what is around."""
    found = peaks(loose())
    assert {(p.row, 60 <= (p.at - START) // M < 75) for p in found[:2]} == {(0, True), (1, False)}
    assert all(p.paged for p in found[:2])
    assert len({(p.row, p.at // (60 * M)) for p in found}) >= len(found) - 2
    picture = sparkline(around(loose(), found[0]))
    assert len(picture) == 32
    assert {"▁", "█"} <= set(picture)


def test_sparkline() -> None:
    """Low is low, high is high, absent is blank, and a level is a line."""
    assert sparkline([0.0, 1.0, math.nan, 2.0]) == "▁▅ █"
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([math.nan]) == " "


def test_thresholds_page_less_the_rarer_they_are() -> None:
    """The rule as it is comes first; a smaller budget pages no more, and the real ones are counted."""
    own, *others = threshold_lines(loose(), real())
    assert (own.name, own.alerts, own.found) == ("this rule", len(loose().episodes), 2)
    cuts = [line.cut for line in others]
    assert cuts == sorted(cuts)
    assert others[-1].found == 2
    assert others[-1].alerts < own.alerts
    assert threshold_lines(loose(), Truth(()))[0].found is None


def test_rules_stay_rules() -> None:
    """A rule with another budget is one that the loader accepts."""
    rule: Rule = with_budget(replace(LOOSE, tiers=RULE.tiers), parse_budget("1 per month"))
    (loaded,) = read_rules([read_yaml(write_rules(RuleSet((RuleGroup("g", M, (rule,)),))), "r.yml")]).rules
    assert loaded.tiers == rule.tiers
    assert np.isfinite(initial_threshold(loaded).cuts[:2]).all()
