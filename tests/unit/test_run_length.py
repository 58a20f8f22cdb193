"""Control charts take their run length from the rule's budget, and spend it; an explicit one wins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anomalyd.block import F64, Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors.ensemble import Ensemble
from anomalyd.detectors.model import grid_of, model_of
from anomalyd.rule import Budget, DetectorSpec, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.threshold import initial_threshold

STEP = 5 * MINUTE_MS
DAY = DAY_MS // STEP
SERIES, DAYS = 80, 28
ONE_ALARM = 6
"""Samples above the limit that are no farther apart belong to one alarm."""


def rule_of(detector: str, period: int, **params: Any) -> Rule:
    """A rule that allows one false alarm a period."""
    spec = DetectorSpec(detector, params)
    tiers = (TierPolicy(Tier.WARNING, Budget(1, period)), TierPolicy(Tier.CRITICAL, Budget(1, 30 * DAY_MS)))
    return Rule("Load", "g", "load", interval_ms=STEP, detector=spec, tiers=tiers)


def alarms(said: F64, cut: float) -> int:
    """How often something passes a cut in all series."""
    places = [np.flatnonzero(row > cut) for row in said]
    return sum(int((np.diff(at) > ONE_ALARM).sum()) + 1 for at in places if len(at))


@pytest.mark.parametrize("period", [DAY_MS, WEEK_MS], ids=["1 a day", "1 a week"])
@pytest.mark.parametrize("detector", ["ewma", "cusum"])
def test_the_budget_is_spent(detector: str, period: int) -> None:
    """On noise with a daily rhythm the score passes 1 as often as the budget allows, within a factor of two.

    What pages is calibrated by samples, not by alarms of several samples: it may spend less, and no more.
    """
    rng = np.random.default_rng(5)
    t = np.arange(DAYS * DAY)
    values = rng.normal(size=(SERIES, len(t))) + 5 * np.sin(2 * np.pi * t / DAY)
    labels = tuple(make_labels({"i": str(i)}) for i in range(SERIES))
    block = Block(labels, 1_760_054_400_000 + STEP * t, values)
    rule = rule_of(detector, period)
    model, cut, half = model_of(rule), initial_threshold(rule).lowest, len(t) // 2
    scores, _ = model.score(model.fit(block.window(0, half)), block.window(half), cut)
    allowed = SERIES * (len(t) - half) * STEP / period
    assert 0.5 < alarms(scores.raw, 1.0) / allowed < 2.0
    assert 0.3 < alarms(scores.surprise, cut) / allowed < 1.3


@pytest.mark.parametrize("detector", ["ewma", "cusum"])
def test_the_run_length_is_what_the_budget_allows_unless_it_is_given(detector: str) -> None:
    """The first tier decides, as a budget or as a surprise; a given length wins; then the budget is no part of it."""
    limits = [model_of(rule_of(detector, period)).detector.limit for period in (DAY_MS, WEEK_MS)]  # type: ignore[attr-defined]
    assert limits[0] < 0.95 * limits[1]
    given = [model_of(rule_of(detector, period, run_length="1w")) for period in (DAY_MS, WEEK_MS)]
    assert [model.detector.limit for model in given] == [limits[1]] * 2  # type: ignore[attr-defined]
    by_surprise = replace(rule_of(detector, DAY_MS), tiers=(TierPolicy(Tier.WARNING, surprise=np.log10(7.0 * DAY)),))
    assert model_of(by_surprise).detector.limit == limits[1]  # type: ignore[attr-defined]
    spread = replace(rule_of(detector, DAY_MS), tiers=(TierPolicy(Tier.WARNING, spread=0.5),))
    assert model_of(spread).detector.limit == limits[1]  # type: ignore[attr-defined]


def test_a_cut_that_nothing_reaches_still_has_a_limit() -> None:
    """A surprise of 200 asks for a run length that no chart has: the limit is the longest that there is."""
    rule = replace(rule_of("cusum", DAY_MS), tiers=(TierPolicy(Tier.WARNING, surprise=200.0),))
    assert grid_of(rule).run_length == 10**12
    assert 20 < model_of(rule).detector.limit < 40  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "depends"),
    [
        (DetectorSpec("ewma"), True),
        (DetectorSpec("ewma", {"run_length": "1w"}), False),
        (DetectorSpec("mad"), False),
        (DetectorSpec("ensemble", {"members": [{"type": "mad"}, {"type": "cusum"}]}), True),
        (DetectorSpec("ensemble", {"members": [{"type": "mad"}, {"type": "cusum", "params": {"shift": 2}}]}), True),
        (DetectorSpec("ensemble", {"members": [{"type": "cusum", "params": {"run_length": 500}}]}), False),
    ],
)
def test_a_budget_changes_only_models_whose_scores_it_decides(spec: DetectorSpec, depends: bool) -> None:
    """Another budget of the first tier is another model of a chart, and of what asks one, and the same of all else."""
    rules = [replace(rule_of("mad", period), detector=spec) for period in (DAY_MS, WEEK_MS)]
    later = replace(rules[0], tiers=(rules[0].tiers[0], TierPolicy(Tier.CRITICAL, Budget(1, 90 * DAY_MS))))
    assert (rules[0].model_key != rules[1].model_key) is depends
    assert (model_of(rules[0]).version != model_of(rules[1]).version) is depends
    assert later.model_key == rules[0].model_key
    assert model_of(later).version == model_of(rules[0]).version


def test_a_member_of_an_ensemble_has_the_rules_run_length() -> None:
    """A chart asked by an ensemble has the limit that it has alone."""
    rule = replace(rule_of("ewma", DAY_MS), detector=DetectorSpec("ensemble", {"members": [{"type": "ewma"}]}))
    detector = model_of(rule).detector
    assert isinstance(detector, Ensemble)
    (member,) = detector.models
    assert member.detector.limit == model_of(rule_of("ewma", DAY_MS)).detector.limit  # type: ignore[attr-defined]
