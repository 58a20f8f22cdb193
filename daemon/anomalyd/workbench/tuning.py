"""Tuning: which detector and parameters would have served a rule better on its own history, under its budget.

Every candidate lives through history as the daemon would have (``backtest``). What the business has decided stays as it
is: expression, direction, min_deviation, valid_range, for, missing, routing. With labels or votes a candidate is judged
by them, and one that misses a confirmed anomaly that the rule found never wins; without, by how few alerts it raises
beyond the budget and how clearly its scores separate. History is one sample of the future, and the best of many is the
best by luck too: versions are chosen on the first part of history, by a margin, and the one that won must hold on the
rest, which nothing was chosen on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anomalyd.block import Block
from anomalyd.clock import HOUR_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.registry import detector_info, make_detector
from anomalyd.durations import format_budget, parse_duration
from anomalyd.errors import AnomalydError, ConfigError, DetectorError, Problem
from anomalyd.quality import f1
from anomalyd.rule import Budget, DetectorSpec, Rule, TierPolicy
from anomalyd.threshold import initial_threshold
from anomalyd.workbench.appraise import Unlabelled, look_at
from anomalyd.workbench.backtest import Backtest, Life, Tape
from anomalyd.workbench.report.figures import BUDGETS, Span, alarms_of, score
from anomalyd.workbench.truth import Truth, touches

WINDOWS = ("2h", "6h", "1d", "1w")
LEAST_SAMPLES = 60
"""Shorter windows are not tried."""
MARGIN_F1 = 0.02
MARGIN_SEPARATION = 0.05
CLEAR = 2.0
"""Without labels fewer alerts count from so many standard deviations of the difference of two chance counts on."""

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
        test: what came of it in the part that it is judged by.
        allowed: alerts that the budget grants in the span while nothing is wrong.
        excess: alerts beyond that; with labels only those that are known to be wrong count.
        found: indices of the real anomalies that had an alert.
        f1, delay_ms: by event; NaN without labels.
        whole: all that it has lived through.
        later: the same of the part that was held out; None where none was.
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
    whole: Backtest
    later: Trial | None = None

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
    excess = max(0.0, wrong - granted)
    return Trial(name, test.rule, test, granted, excess, found, harmony, late, look_at(test), test)


def weigh_apart(name: str, test: Backtest, truth: Truth, budget: Budget, split: int | None) -> Trial:
    """Weigh what came before ``split`` (a slot, the first of the rest), and the rest by itself."""
    if split is None:
        return weigh(name, test, truth, budget)
    parts = part(test, test.start, split - test.rule.interval_ms), part(test, split, test.end)
    first, later = (weigh(name, one, within(truth, one), budget) for one in parts)
    return replace(first, whole=test, later=later)


def part(test: Backtest, start: int, end: int) -> Backtest:
    """What came of a span of it, both slots included."""
    t, h = test.tape, test.hits
    columns = (t.times >= start) & (t.times <= end)
    tape = Tape(
        t.times[columns], t.low[:, columns], t.high[:, columns], t.expected[:, columns], t.lower[:, columns],
        t.upper[:, columns], t.surprise[:, columns],
    )  # fmt: skip
    inside = (h.at >= start) & (h.at <= end)
    hits = h.take(inside)
    episodes = tuple(e for e in test.episodes if start <= e.opened_at <= end)
    return replace(test, start=start, end=end, episodes=episodes, hits=hits, tape=tape)


def within(truth: Truth, test: Backtest) -> Truth:
    """What is known of a span."""
    def inside(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple(span for span in spans if span.end >= test.start and span.start <= test.end)

    return replace(truth, real=inside(truth.real), refuted=inside(truth.refuted))


def split_of(test: Backtest, held_out: float) -> int | None:
    """The first slot of what is held out; None where either part would be too short to say anything."""
    step = test.rule.interval_ms
    slots = (test.end - test.start) // step + 1
    later = round(slots * held_out)
    if min(later, slots - later) < LEAST_SAMPLES:
        return None
    split = test.start + (slots - later) * step
    # Scores are kept by columns of several slots: a column belongs to one part.
    times = test.tape.times
    return int(times[min(int(np.searchsorted(times, split)), len(times) - 1)]) if len(times) else None


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


def holds(trial: Trial, base: Trial) -> bool:
    """Whether what won is no worse than the rule on the part that was held out; True where none was."""
    mine, theirs = trial.later, base.later
    if mine is None or theirs is None:
        return True
    if theirs.found - mine.found or mine.excess > theirs.excess:
        return False
    if math.isnan(mine.f1) and mine.excess == theirs.excess and mine.clarity.separation < theirs.clarity.separation:
        return False
    return not theirs.f1 - mine.f1 > MARGIN_F1  # also where nothing is known of that part


def better(trial: Trial, base: Trial, truth: Truth) -> bool:
    """Whether a trial beats the rule as it is by enough to be worth a change."""
    mine, theirs = rank(trial, base, truth), rank(base, base, truth)
    if mine[0] > 0 or mine[1] > theirs[1] or mine >= theirs:
        return False
    if not truth.real:
        return _clear_of_chance(trial, base)
    if theirs[1] - mine[1] >= 1:
        return True
    sooner = mine[2] <= theirs[2] and theirs[3] - mine[3] >= base.rule.interval_ms
    return theirs[2] - mine[2] >= MARGIN_F1 or sooner


def _clear_of_chance(trial: Trial, base: Trial) -> bool:
    """Whether so many fewer alerts, or so much clearer scores, are more than two spans of the same rule differ by."""
    fewer = base.excess - trial.excess
    if fewer >= 1 and fewer >= CLEAR * math.sqrt(base.alerts + trial.alerts):
        return True
    gain = trial.clarity.separation - base.clarity.separation
    return gain >= max(MARGIN_SEPARATION, _wobble(trial), _wobble(base))


def _wobble(trial: Trial) -> float:
    """How far a version's separation differs between the two parts; twice the margin where that is not known."""
    later = trial.later.clarity.separation if trial.later is not None else math.nan
    apart = abs(trial.clarity.separation - later)
    return 2 * MARGIN_SEPARATION if math.isnan(apart) else apart


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What tuning has found.

    Attributes:
        trials: best first, without the rule as it is.
        untried: what there was no time for.
        best: the trial that beats the rule by a margin and holds, if it does.
        split: the first slot of what was held out; None where nothing was.
        refuted: the trial that won and did not hold on what was held out.
        thin: where nothing won and nothing is known of the past, the trial that looks best by no more than chance.
    """

    base: Trial
    trials: tuple[Trial, ...]
    untried: tuple[str, ...]
    best: Trial | None
    truth: Truth
    budget: Budget
    split: int | None = None
    refuted: Trial | None = None
    thin: Trial | None = None


def tune(base: Backtest, truth: Truth, asked: Budget | None, still: Still, held_out: float = 0.0) -> Tuned:
    """Try versions of the rule until all were tried or there is no time left.

    Args:
        base: the rule as it is, lived through.
        asked: the budget that candidates get; without one they keep the rule's, and where something is known of the
            past the best of them is tried with others.
        held_out: the share of the span, at its end, that nothing is chosen on.
    """
    rule = base.rule
    budget = asked or lowest_budget(rule) or Budget(1, 7 * 24 * HOUR_MS)
    start = rule if asked is None or asked == lowest_budget(rule) else with_budget(rule, asked)
    split = split_of(base, held_out)
    own = weigh_apart("this rule", base, truth, budget, split)
    known = within(truth, own.test)
    trials: list[Trial] = []
    untried: list[str] = []

    def attempt(name: str, version: Rule) -> None:
        test = live_within(version, base.history, base.start, base.end, still)
        if test is not None:
            trials.append(weigh_apart(name, replace(test, rule=version), truth, budget, split))
        elif not still():
            untried.append(name)

    if start != rule:
        attempt(f"this rule, {format_budget(budget)}", start)
    for spec in candidates(rule, len(base.labels)):
        attempt(name_of(spec), replace(start, detector=spec))
    if asked is None and known.real:
        for name, version in _other_budgets(min([own, *trials], key=lambda t: rank(t, own, known))):
            attempt(name, version)
    trials.sort(key=lambda trial: rank(trial, own, known))
    # Only the winner is held against the rest: to go on to the next would be to choose on it.
    won = next((trial for trial in trials if better(trial, own, known)), None)
    held = won is not None and holds(won, own)
    return Tuned(
        own, tuple(trials), tuple(untried), won if held else None, truth, budget, split, None if held else won,
        leading(trials, own, known) if won is None else None,
    )  # fmt: skip


def leading(trials: Sequence[Trial], own: Trial, known: Truth) -> Trial | None:
    """Without labels the trial that ranks before the rule as it is, however little that says."""
    first = min(trials, key=lambda trial: rank(trial, own, known), default=None)
    if first is None or known.real or rank(first, own, known) >= rank(own, own, known):
        return None
    return first


def _other_budgets(best: Trial) -> list[tuple[str, Rule]]:
    """The best version with other cuts: where it is known what is real, the cut may move too."""
    own = lowest_budget(best.rule)
    if own is None:
        return []
    step = best.rule.interval_ms
    others = [replace(budget, per=own.per) for budget in BUDGETS if budget.count * step <= budget.period_ms]
    return [(f"{best.name}, {format_budget(b)}", with_budget(best.rule, b)) for b in others if b != own]
