"""Precedence of the business facts over the score."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from anomalyd.judge import judge, uniform
from anomalyd.rule import MinDeviation, Rule, TierPolicy
from anomalyd.score import Kind, Tier, Why

RULE = Rule("r", "g", "up", tiers=(TierPolicy(Tier.WARNING, surprise=3), TierPolicy(Tier.CRITICAL, surprise=6)))
CUTS = (3.0, 6.0, math.inf)
NAN = math.nan


def one(rule: Rule, value: float, expected: float, surprise: float) -> tuple[Kind, Tier, Why]:
    cuts = np.array([CUTS])
    verdicts = judge(rule, np.array([value]), np.array([expected]), np.array([surprise]), cuts)
    return Kind(int(verdicts.kind[0])), Tier(int(verdicts.tier[0])), Why(int(verdicts.why[0]))


OK = (Kind.OK, Tier.NONE, Why.NOTHING)
WARNING = (Kind.ANOMALOUS, Tier.WARNING, Why.SURPRISE)


@pytest.mark.parametrize(
    ("facts", "value", "expected", "surprise", "verdict"),
    [
        ({}, 10, 1, 3.0, OK),
        ({}, 10, 1, 3.01, WARNING),
        ({}, 10, 1, 7.0, (Kind.ANOMALOUS, Tier.CRITICAL, Why.SURPRISE)),
        ({}, 10, 1, 1e9, (Kind.ANOMALOUS, Tier.CRITICAL, Why.SURPRISE)),
        ({}, NAN, 1, 9, (Kind.MISSING, Tier.NONE, Why.NOTHING)),
        ({}, math.inf, 1, 9, (Kind.MISSING, Tier.NONE, Why.NOTHING)),
        ({"missing": "alert"}, NAN, 1, NAN, (Kind.ANOMALOUS, Tier.WARNING, Why.ABSENT)),
        ({}, 10, 1, NAN, (Kind.WARMING_UP, Tier.NONE, Why.NOTHING)),
        ({"valid_range": (0, 5)}, 10, 1, NAN, (Kind.ANOMALOUS, Tier.WARNING, Why.OUT_OF_RANGE)),
        ({"valid_range": (0, 5)}, 10, 10, 0.0, (Kind.ANOMALOUS, Tier.WARNING, Why.OUT_OF_RANGE)),
        ({"valid_range": (0, 5)}, 10, 1, 7, (Kind.ANOMALOUS, Tier.CRITICAL, Why.OUT_OF_RANGE)),
        ({"valid_range": (0, 50)}, 10, 1, 4, WARNING),
        ({"valid_range": (0, 5), "direction": "down"}, 10, 1, 4, (Kind.ANOMALOUS, Tier.WARNING, Why.OUT_OF_RANGE)),
        ({"direction": "up"}, 10, 1, 4, WARNING),
        ({"direction": "down"}, 10, 1, 4, (Kind.OK, Tier.NONE, Why.DIRECTION)),
        ({"direction": "down"}, -10, 1, 4, WARNING),
        ({"min_deviation": MinDeviation(absolute=9.5)}, 10, 1, 4, (Kind.OK, Tier.NONE, Why.MIN_DEVIATION)),
        ({"min_deviation": MinDeviation(absolute=9.0)}, 10, 1, 4, WARNING),
        ({"min_deviation": MinDeviation(relative=0.2)}, 1.1, 1, 4, (Kind.OK, Tier.NONE, Why.MIN_DEVIATION)),
        ({"min_deviation": MinDeviation(relative=0.2)}, 1.3, 1, 4, WARNING),
        ({"min_deviation": MinDeviation(1.0, 0.2)}, 1.3, 1, 4, (Kind.OK, Tier.NONE, Why.MIN_DEVIATION)),
        ({"min_deviation": MinDeviation(absolute=9.5)}, 10, NAN, 4, WARNING),
        ({"direction": "up", "min_deviation": MinDeviation(99)}, -10, 1, 4, (Kind.OK, Tier.NONE, Why.DIRECTION)),
    ],
)  # fmt: skip
def test_verdict_of_one_sample(
    facts: dict[str, object], value: float, expected: float, surprise: float, verdict: tuple[Kind, Tier, Why]
) -> None:
    """Each business fact decides where the documented precedence says."""
    assert one(replace(RULE, **facts), value, expected, surprise) == verdict  # type: ignore[arg-type]


def test_the_side_that_a_score_speaks_of_counts() -> None:
    """Where a score has a side it decides, not the single sample; where it has none the sample does."""
    rule, n = replace(RULE, direction="up"), 4
    value, side = np.array([0.0, 2.0, 0.0, 2.0]), np.array([1.0, -1.0, NAN, 0.0])
    verdicts = judge(rule, value, np.ones(n), np.full(n, 4.0), np.array([CUTS] * n), side=side)
    assert verdicts.kind.tolist() == [Kind.ANOMALOUS, Kind.OK, Kind.OK, Kind.ANOMALOUS]
    assert verdicts.why.tolist() == [Why.SURPRISE, Why.DIRECTION, Why.DIRECTION, Why.SURPRISE]


def test_every_series_has_its_own_cut() -> None:
    """A cut moved for one series does not move its neighbour's."""
    value, expected, surprise = np.array([9.0, 9.0]), np.ones(2), np.array([4.0, 4.0])
    verdicts = judge(RULE, value, expected, surprise, np.array([CUTS, (5.0, 6.0, math.inf)]))
    assert verdicts.kind.tolist() == [Kind.ANOMALOUS, Kind.OK]


def test_counts_account_for_every_series() -> None:
    """Verdicts by kind add up to the number of series."""
    assert uniform(Kind.PARTIAL, 7).counts() == {kind.name.lower(): 7 * (kind == Kind.PARTIAL) for kind in Kind}


@pytest.mark.parametrize(
    ("surprise", "page", "live", "verdict"),
    [
        (4.0, 0.0, False, (Kind.OK, Tier.NONE, Why.NO_NEWS)),
        (4.0, NAN, False, (Kind.OK, Tier.NONE, Why.NO_NEWS)),
        (4.0, 3.0, False, (Kind.OK, Tier.NONE, Why.NO_NEWS)),
        (4.0, -math.inf, False, (Kind.OK, Tier.NONE, Why.DOUBTED)),
        (4.0, -math.inf, True, WARNING),
        (2.0, -math.inf, False, OK),
        (4.0, 3.1, False, WARNING),
        (7.0, 3.1, False, (Kind.ANOMALOUS, Tier.CRITICAL, Why.SURPRISE)),
        (4.0, 0.0, True, WARNING),
        (2.0, 0.0, True, OK),
        (NAN, NAN, False, (Kind.WARMING_UP, Tier.NONE, Why.NOTHING)),
    ],
)
def test_an_episode_opens_by_news_and_goes_on_by_surprise(
    surprise: float, page: float, live: bool, verdict: tuple[Kind, Tier, Why]
) -> None:
    """Where a detector tells news from what goes on, only news opens; the tier is the surprise's either way."""
    cuts = np.array([CUTS])
    found = judge(RULE, *(np.array([x]) for x in (10.0, 1.0, surprise)), cuts, np.array([page]), np.array([live]))
    assert (Kind(int(found.kind[0])), Tier(int(found.tier[0])), Why(int(found.why[0]))) == verdict


def test_news_is_no_condition_on_facts() -> None:
    """A value outside the range that the business allows opens an episode, news or not."""
    rule = replace(RULE, valid_range=(0, 5))
    found = judge(rule, np.array([10.0]), np.array([1.0]), np.array([4.0]), np.array([CUTS]), np.array([0.0]))
    assert (found.kind[0], found.why[0]) == (Kind.ANOMALOUS, Why.OUT_OF_RANGE)


def test_what_votes_have_raised_is_held_and_stays_news() -> None:
    """Between the rule's own cut and a moved one a sample is held; news above the own cut opens above the moved one."""
    cuts = np.array([[5.0, math.inf, math.inf]])
    each = np.ones(1)

    def said(surprise: float, page: float, live: bool = False) -> tuple[int, int]:
        verdicts = judge(RULE, each * 9, each, each * surprise, cuts, each * page, np.array([live]), own=3.0)
        return int(verdicts.kind[0]), int(verdicts.why[0])

    assert said(2.9, 9.0) == (Kind.OK, Why.NOTHING)
    assert said(4.0, 4.0) == (Kind.OK, Why.HELD)
    assert said(4.0, 0.0) == (Kind.OK, Why.NO_NEWS)
    assert said(4.0, 0.0, live=True) == (Kind.OK, Why.HELD)
    assert said(6.0, 3.5) == (Kind.ANOMALOUS, Why.SURPRISE)
    assert said(6.0, 0.0) == (Kind.OK, Why.NO_NEWS)
