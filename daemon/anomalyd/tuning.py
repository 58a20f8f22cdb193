"""Tuning: which detector and parameters would have served a rule better on its own history, under its budget.

Every candidate lives through history as the daemon would have (``backtest``). What the business has decided stays as it
is: expression, direction, min_deviation, valid_range, for, missing, routing. With labels or votes a candidate is judged
by them, and one that misses a confirmed anomaly that the rule found never wins; without, by how few alerts it raises
beyond the budget and how clearly its scores separate. History is one sample of the future: a change has to win by a
margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from anomalyd.appraise import Unlabelled, look_at
from anomalyd.backtest import Backtest, Life
from anomalyd.block import Block
from anomalyd.clock import HOUR_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.registry import detector_info, make_detector
from anomalyd.durations import format_budget, parse_duration
from anomalyd.errors import AnomalydError, ConfigError, DetectorError, Problem
from anomalyd.quality import f1
from anomalyd.report.figures import BUDGETS, alarms_of, score
from anomalyd.rule import Budget, DetectorSpec, Rule, TierPolicy
from anomalyd.threshold import initial_threshold
from anomalyd.truth import Truth, touches

WINDOWS = ("2h", "6h", "1d", "1w")
LEAST_SAMPLES = 60
"""Shorter windows are not tried."""
MARGIN_F1 = 0.02
MARGIN_SEPARATION = 0.05

Still = Callable[[], bool]
"""Whether there is time left."""


def spec_of(name: str) -> DetectorSpec:
    """A detector without parameters; ``ConfigError`` where there is none of that name."""
    try:
        detector_info(name)
    except DetectorError as error:
        raise ConfigError([Problem(name, 0, 0, str(error))]) from None
    return DetectorSpec(name)


def usable(spec: DetectorSpec, rule: Rule) -> bool:
    """Whether a detector is installed, takes these parameters, and can learn from the rule's history."""
    try:
        detector = make_detector(spec, Grid(rule.interval_ms, rule.timezone))
    except DetectorError:
        return False
    return detector.min_history * rule.interval_ms <= rule.history_ms


def live_within(rule: Rule, history: Block, start: int, end: int, still: Still) -> Backtest | None:
    """Live through history as long as there is time; None where it ran out, or the rule cannot be evaluated."""
    if not still():
        return None
    life = Life(rule, history, start, end)
    try:
        for _ in life.run():
            if not still():
                return None
        return life.result()
    except AnomalydError:
        return None
    finally:
        life.close()


# Candidates ----------------------------------------------------------------------------------------------------------


def name_of(spec: DetectorSpec) -> str:
    """A detector for people: its type and what was given."""
    given = ", ".join(f"{name} {value}" for name, value in spec.params.items())
    return f"{spec.type}, {given}" if given else spec.type


def candidates(rule: Rule, series: int) -> Iterator[DetectorSpec]:
    """Detectors to try, the most promising first; the rule's own is not among them."""
    windows = [w for w in WINDOWS if LEAST_SAMPLES <= parse_duration(w) // rule.interval_ms <= 2_880]
    windows = [w for w in windows if parse_duration(w) <= rule.history_ms]
    specs = [DetectorSpec("auto"), DetectorSpec("stl"), DetectorSpec("mad")]
    if rule.detector.type in ("mad", "zscore", "iqr"):
        specs += [DetectorSpec(rule.detector.type, {"window": w}) for w in windows]
    specs += [DetectorSpec("mad", {"window": w}) for w in windows if w != "1d"]
    specs += [DetectorSpec("zscore"), DetectorSpec("iqr")]
    if series >= 3:
        specs.append(DetectorSpec("peer"))
    specs += [DetectorSpec("ewma"), DetectorSpec("cusum"), DetectorSpec("ewma", {"weight": 0.05})]
    specs += [DetectorSpec("half_space_trees"), DetectorSpec("isolation_forest")]
    tried = [rule.detector]
    for spec in specs:
        if spec not in tried and usable(spec, rule):
            tried.append(spec)
            yield spec


def with_budget(rule: Rule, budget: Budget) -> Rule:
    """The rule with another budget for its lowest tier; higher ones stay as much rarer as they are."""
    lowest, *higher = _by_score(rule)
    tiers = [replace(lowest, budget=budget, surprise=None, sigma=None)]
    for policy in higher:
        before = tiers[-1]
        if policy.budget is not None and lowest.budget is not None:
            ratio = _rate(lowest.budget) / _rate(policy.budget)
            rarer = Budget(budget.count, round(budget.period_ms * max(1.0, ratio)), budget.per)
            tiers.append(replace(policy, budget=rarer))
            continue
        cut = initial_threshold(replace(rule, tiers=(policy,))).lowest
        least = initial_threshold(replace(rule, tiers=(before,))).lowest
        tiers.append(policy if cut > least else replace(policy, budget=None, sigma=None, surprise=round(least + 1, 2)))
    others = [policy for policy in rule.tiers if policy not in (lowest, *higher)]
    return replace(rule, tiers=tuple(sorted([*tiers, *others], key=lambda policy: policy.tier)))


def _by_score(rule: Rule) -> list[TierPolicy]:
    """The tiers that begin at a cut, the lowest first."""
    stated = [p for p in rule.tiers if p.budget is not None or p.surprise is not None or p.sigma is not None]
    return sorted(stated, key=lambda policy: policy.tier)


def _rate(budget: Budget) -> float:
    return budget.count / budget.period_ms


def lowest_budget(rule: Rule) -> Budget | None:
    """The budget of the lowest tier, if that is how it is stated."""
    return next((policy.budget for policy in _by_score(rule)), None)


# Trials --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A version of the rule that has lived through history.

    Attributes:
        allowed: alerts that the budget grants in the span while nothing is wrong.
        excess: alerts beyond that; with labels only those that are known to be wrong count.
        found: indices of the real anomalies that had an alert.
        f1, delay_ms: by event; NaN without labels.
    """

    name: str
    rule: Rule
    test: Backtest
    allowed: float
    excess: float
    found: frozenset[int]
    f1: float
    delay_ms: float
    clarity: Unlabelled

    @property
    def alerts(self) -> int:
        return len(self.test.episodes)


def weigh(name: str, test: Backtest, truth: Truth, budget: Budget) -> Trial:
    """Hold what came of a version against the budget and against what is known."""
    slack = test.rule.for_ms + test.rule.interval_ms
    raised = alarms_of(test.episodes, test.end)
    granted = allowed(budget, test)
    wrong, harmony, late = len(raised), math.nan, math.nan
    if truth:
        known = [alarm for alarm in raised if truth.known(alarm, slack)]
        events = score(known, truth.real, test.start, test.end, slack)
        wrong = events.episodes - events.right
        if events.spans:
            harmony = f1(events.precision or 0.0, events.recall or 0.0)
        late = math.nan if events.delay_ms is None else float(events.delay_ms)
    found = frozenset(i for i, span in enumerate(truth.real) if any(touches(a, span, slack) for a in raised))
    return Trial(name, test.rule, test, granted, max(0.0, wrong - granted), found, harmony, late, look_at(test))


def allowed(budget: Budget, test: Backtest) -> float:
    """How many alerts a budget grants in the span, at least one."""
    of = len(test.labels) if budget.per == "series" else 1
    return max(1.0, _rate(budget) * (test.end - test.start + test.rule.interval_ms) * of)


def rank(trial: Trial, base: Trial, truth: Truth) -> tuple[float, ...]:
    """Smaller is better: confirmed anomalies lost, alerts beyond the budget, then how right or how clear it is."""
    lost = len(base.found - trial.found)
    if truth.real:
        late = math.inf if math.isnan(trial.delay_ms) else trial.delay_ms
        return (lost, trial.excess, -round(trial.f1, 6), late)
    separation = trial.clarity.separation
    return (lost, trial.excess, 1.0 if math.isnan(separation) else -separation)


def better(trial: Trial, base: Trial, truth: Truth) -> bool:
    """Whether a trial beats the rule as it is by enough to be worth a change."""
    mine, theirs = rank(trial, base, truth), rank(base, base, truth)
    if mine[0] > 0 or mine[1] > theirs[1] or mine >= theirs:
        return False
    if theirs[1] - mine[1] >= 1:
        return True
    if not truth.real:
        return theirs[2] - mine[2] >= MARGIN_SEPARATION
    sooner = mine[2] <= theirs[2] and theirs[3] - mine[3] >= base.rule.interval_ms
    return theirs[2] - mine[2] >= MARGIN_F1 or sooner


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What tuning has found.

    Attributes:
        trials: best first, without the rule as it is.
        untried: what there was no time for.
        best: a trial that beats the rule by a margin, if one does.
    """

    base: Trial
    trials: tuple[Trial, ...]
    untried: tuple[str, ...]
    best: Trial | None
    truth: Truth
    budget: Budget


def tune(base: Backtest, truth: Truth, asked: Budget | None, still: Still) -> Tuned:
    """Try versions of the rule until all were tried or there is no time left.

    Args:
        base: the rule as it is, lived through.
        asked: the budget that candidates get; without one they keep the rule's, and where something is known of the
            past the best of them is tried with others.
    """
    rule = base.rule
    budget = asked or lowest_budget(rule) or Budget(1, 7 * 24 * HOUR_MS)
    start = rule if asked is None or asked == lowest_budget(rule) else with_budget(rule, asked)
    own = weigh("this rule", base, truth, budget)
    trials: list[Trial] = []
    untried: list[str] = []

    def attempt(name: str, version: Rule) -> None:
        test = live_within(version, base.history, base.start, base.end, still)
        if test is not None:
            trials.append(weigh(name, replace(test, rule=version), truth, budget))
        elif not still():
            untried.append(name)

    if start != rule:
        attempt(f"this rule, {format_budget(budget)}", start)
    for spec in candidates(rule, len(base.labels)):
        attempt(name_of(spec), replace(start, detector=spec))
    if asked is None and truth.real:
        for name, version in _other_budgets(min([own, *trials], key=lambda t: rank(t, own, truth))):
            attempt(name, version)
    trials.sort(key=lambda trial: rank(trial, own, truth))
    best = next((trial for trial in trials if better(trial, own, truth)), None)
    return Tuned(own, tuple(trials), tuple(untried), best, truth, budget)


def _other_budgets(best: Trial) -> list[tuple[str, Rule]]:
    """The best version with other cuts: where it is known what is real, the cut may move too."""
    own = lowest_budget(best.rule)
    if own is None:
        return []
    step = best.rule.interval_ms
    others = [replace(budget, per=own.per) for budget in BUDGETS if budget.count * step <= budget.period_ms]
    return [(f"{best.name}, {format_budget(b)}", with_budget(best.rule, b)) for b in others if b != own]
