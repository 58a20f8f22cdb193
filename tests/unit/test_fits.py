"""When rules are fitted anew: each at its own time, few at once, and never from times not to be learned from."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anomalyd.block import Block
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.episode import Close
from anomalyd.errors import DetectorError
from anomalyd.evaluation.dataquality import Quality
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.evaluation.fits import (
    CATCH_UP_MS,
    DRIFT_LASTS_MS,
    DRIFT_PAUSE_MS,
    REFIT_PAUSE_MS,
    Fits,
    refit_at,
    scheduled,
)
from anomalyd.evaluation.memory import empty_memory
from anomalyd.evaluation.rulerun import Fitted, RuleRun
from anomalyd.executors import InlineExecutor
from anomalyd.feedback.cuts import Unheard
from anomalyd.intervals import Interval
from anomalyd.recorded import RecordedReply, RecordedSource
from anomalyd.rule import DetectorSpec, Rule, RuleGroup
from anomalyd.score import Kind
from anomalyd.slot import NoticeKind
from anomalyd.store import open_store
from anomalyd.template import render_annotations
from life import HISTORY, RULE, START, M, change, hosts, recorded

RULES = [Rule(f"R{i}", "g", "load", detector=DetectorSpec("isolation_forest")) for i in range(500)]


def run_of(rule: Rule, **memory: Any) -> RuleRun:
    """A rule whose model was fitted at ``START`` and that was not fitted since."""
    model = Model(rule.detector, Grid(rule.interval_ms, rule.timezone), rule.seed)
    return RuleRun(rule, model, replace(empty_memory(rule.id), fitted_at=START, **memory), fit_started_at=START)


def test_rules_fitted_together_are_refitted_apart() -> None:
    """Of 500 rules fitted at one moment no hour of the next day and a half has more than 50 refits, nor any none."""
    due = [refit_at(run, run.memory) for run in map(run_of, RULES)]
    assert all(DAY_MS / 2 <= at - START < 3 * DAY_MS / 2 for at in due)
    by_hour = Counter((at - START) // HOUR_MS for at in due)
    assert max(by_hour.values()) <= 50
    assert len(by_hour) == 24
    per_minute = Counter((at - START) // MINUTE_MS for at in due)
    assert max(per_minute.values()) <= 5


@pytest.mark.parametrize("late", [0, 7 * MINUTE_MS, 3 * HOUR_MS])
def test_a_rule_keeps_its_time_of_day(late: int) -> None:
    """Whether a fit came at once or was held up, the next is due at the same time of the next day."""
    for rule in RULES[:50]:
        first = scheduled(rule, START)
        assert scheduled(rule, first + late - rule.interval_ms) == first + DAY_MS


def test_a_streaming_model_is_not_refitted() -> None:
    """What learns with every sample has no cadence."""
    run = run_of(Rule("R", "g", "load", detector=DetectorSpec("ewma")))
    assert refit_at(run, run.memory) > START + 1000 * DAY_MS


def test_drift_asks_for_a_fit_unless_the_rule_says_no() -> None:
    """A drift that lasts brings the next fit forward, at most every six hours, and not all rules to the same minute."""
    at = START + 8 * HOUR_MS
    due = []
    for rule in RULES:
        run = run_of(rule, drifted_at=at)
        due.append(refit_at(run, run.memory))
        assert at <= due[-1] - DRIFT_LASTS_MS < at + REFIT_PAUSE_MS
        soon = run_of(rule, drifted_at=START + HOUR_MS)
        assert refit_at(soon, soon.memory) == START + DRIFT_PAUSE_MS
        deaf = run_of(replace(rule, refit_on_drift=False), drifted_at=at)
        assert refit_at(deaf, deaf.memory) == scheduled(rule, START)
    assert len({(moment - at) // MINUTE_MS for moment in due}) == REFIT_PAUSE_MS // MINUTE_MS


class Held(Executor):
    """An executor whose work is done when the test says so."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.futures.append(future)
        return future


def test_refits_wait_for_each_other_and_first_fits_for_none() -> None:
    """Of 20 rules due at once two are refitted at a time; a rule without a model begins at once beside them."""
    held = Held()
    fits = Fits(open_store("sqlite://"), lambda name: RecordedSource({}), InlineExecutor(), held, Unheard())
    runs = [run_of(rule) for rule in RULES[:20]]
    for run in runs:
        run.memory = replace(run.memory, state=run.model.fit(Block((), np.zeros(0, np.int64), np.zeros((0, 0)))))
    late = START + 2 * DAY_MS
    for started in range(2, 21, 2):
        for run in runs:
            fits.start_if_due(run, run.memory, late)
        assert len(held.futures) == started
        blind = run_of(RULES[30])
        fits.first(blind, replace(blind.memory, active=np.arange(1), registry=_one(blind.rule)), late)
        assert blind.fitting is held.futures.pop()
        for run in runs:
            if run.fitting is not None and not run.fitting.done():
                run.fitting.set_result(None)  # type: ignore[arg-type]
                run.memory = replace(run.memory, fitted_at=late)
                run.fitting = None


def _one(rule: Rule) -> Any:
    return empty_memory(rule.id).registry.register(list(hosts(1)), START)[0]


class Counting:
    """A recorded source that notes when histories are read."""

    def __init__(self, block: Block):
        self.inner, self.reads = RecordedSource({"load": block}), list[int]()

    def instant(self, expr: str, at_ms: int, *, limit: int | None = None) -> RecordedReply:
        return self.inner.instant(expr, at_ms)

    def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> RecordedReply:
        if end_ms - start_ms > HOUR_MS:
            self.reads.append(end_ms)
        return self.inner.range(expr, start_ms, end_ms, step_ms)


def test_a_restart_spreads_the_next_fits_of_living_rules() -> None:
    """12 rules started in one slot: all are fitted in it, and in no slot of the next interval more than three."""
    rules = tuple(
        Rule(f"R{i}", "g", "load", detector=DetectorSpec("isolation_forest", {"trees": 5}), history_ms=6 * HOUR_MS,
             refit_every_ms=100 * M, query_delay_ms=0)
        for i in range(12)
    )  # fmt: skip
    source, inline = Counting(recorded(1, minutes=200)), InlineExecutor()
    evaluator = Evaluator(
        open_store("sqlite://"), {"default": source}, annotate=render_annotations, links=lambda _: {}, fit=inline,
        background=inline,
    )  # fmt: skip
    group = RuleGroup("g", M, rules)
    for rule in rules:
        evaluator.add(rule)
    for minute in range(151):
        evaluator.evaluate(group, START + minute * M)
    reads = Counter((end - START) // M for end in source.reads)
    assert reads.pop(-1) == 12
    assert sum(reads.values()) == 12
    assert max(reads.values()) <= 3
    assert min(reads) >= 49


def test_a_fit_does_not_learn_from_times_that_the_rule_leaves_out() -> None:
    """An afternoon's job, four times the level and in a window not to learn from, leaves no trace in the state."""
    window = Interval(times=((900, 960),), timezone="Europe/Berlin")
    rule = Rule(
        "Load", "g", "load", detector=DetectorSpec("mad", {"window": "4h"}), history_ms=HISTORY * M, query_delay_ms=0,
        dont_learn=(window,), timezone="Europe/Berlin",
    )  # fmt: skip
    clean, noisy = recorded(2, minutes=2), recorded(2, minutes=2)
    inside = np.array([window.holds(at) for at in noisy.times.tolist()])
    assert inside.sum() == 60
    noisy.values[:, inside] *= 4
    states = []
    for block in (clean, noisy):
        inline = InlineExecutor()
        evaluator = Evaluator(
            open_store("sqlite://"), {"default": RecordedSource({"load": block})}, annotate=render_annotations,
            links=lambda _: {}, fit=inline, background=inline,
        )  # fmt: skip
        evaluator.add(rule)
        evaluator.evaluate(RuleGroup("g", M, (rule,)), START)
        states.append(evaluator.runs[rule.id].memory.state)
    assert states[0] is not None
    assert states[1] is not None
    for name, array in states[0].arrays.items():
        np.testing.assert_array_equal(array, states[1].arrays[name], err_msg=name)


class Mortal(InlineExecutor):
    """An inline executor whose next tasks may die."""

    def __init__(self) -> None:
        self.deaths, self.tasks = 0, list[Any]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append(fn)
        if not self.deaths:
            return super().submit(fn, *args, **kwargs)
        self.deaths -= 1
        future: Future[Any] = Future()
        future.set_exception(DetectorError("worker", "the process that computed it died"))
        return future


def _mortal_life(rule: Rule, minutes: int = 400) -> tuple[Evaluator, RuleGroup, Mortal]:
    fit = Mortal()
    source = RecordedSource({"load": recorded(1, minutes=minutes)})
    evaluator = Evaluator(
        open_store("sqlite://"), {"default": source}, annotate=render_annotations, links=lambda _: {}, fit=fit,
        background=InlineExecutor(),
    )  # fmt: skip
    evaluator.add(rule)
    return evaluator, RuleGroup("g", M, (rule,)), fit


FITTED = Rule(
    "R", "g", "load", detector=DetectorSpec("isolation_forest", {"trees": 5}), history_ms=6 * HOUR_MS,
    refit_every_ms=60 * M, query_delay_ms=0,
)  # fmt: skip


def test_a_refit_that_fails_costs_no_slot_and_is_noted() -> None:
    """The model there is goes on in every slot; it is noted why, and tried again later and later until it works."""
    evaluator, group, fit = _mortal_life(FITTED)
    run = evaluator.runs["g/R"]
    evaluator.evaluate(group, START)
    first, fit.deaths = run.memory.model, 3
    tried: list[int] = []
    for minute in range(1, 300):
        before = len(fit.tasks)
        slot = evaluator.evaluate(group, START + minute * M).rules["g/R"]
        assert slot.slots[-1].outcome == "ok"
        if len(fit.tasks) > before:
            tried.append(minute)
        assert (slot.memory.model == first) == (len(tried) < 4 or minute == tried[3])
        if len(tried) > 3 and minute > tried[3]:
            break
    notices = evaluator._store.notices(kind=NoticeKind.FIT)
    assert len(notices) == 3
    assert all("the process that computed it died" in one.text and one.rule == "g/R" for one in notices)
    assert all(later - sooner >= REFIT_PAUSE_MS // M for sooner, later in itertools.pairwise(tried))
    assert run.failed.times == 0


def test_a_first_fit_that_fails_is_tried_again_after_a_while_and_not_in_each_slot() -> None:
    """A history that kills its worker must not do so every minute: after one, two, four minutes, and then it works."""
    evaluator, group, fit = _mortal_life(FITTED)
    fit.deaths = 3
    failed = []
    for minute in range(12):
        slot = evaluator.evaluate(group, START + minute * M).rules["g/R"]
        if slot.failure is not None:
            failed.append((minute, slot.slots[-1].reason))
    assert len(fit.tasks) == 4
    assert [minute for minute, reason in failed if reason == "worker"] == [0, 1, 3]
    assert [minute for minute, reason in failed if reason == "fit"] == [2, 4, 5, 6]


def test_a_fit_that_comes_too_late_is_not_taken_up() -> None:
    """A worker that was asleep for seven hours has learned what nobody can catch up with: the rule learns anew."""
    held = Held()
    fits = Fits(open_store("sqlite://"), lambda name: RecordedSource({}), InlineExecutor(), held, Unheard())
    run = run_of(FITTED)
    state = run.model.fit(Block((), np.zeros(0, np.int64), np.zeros((0, 0))))
    for late, taken in ((CATCH_UP_MS, True), (CATCH_UP_MS + M, False)):
        run.fitting = Future()
        run.fitting.set_result(Fitted(np.zeros(0, np.int64), replace(state, as_of=START), START, Quality()))
        memory = fits.adopt(run, replace(run.memory, state=None, fitted_at=0), START + late)
        assert (memory.state is not None) == taken
        assert run.fitting is None


def test_a_state_too_old_to_be_caught_up_with_is_let_go() -> None:
    """A daemon that stood still for longer than it may catch up does not score the slots of a day one by one."""
    fits = Fits(open_store("sqlite://"), lambda name: RecordedSource({}), InlineExecutor(), Held(), Unheard())
    run = run_of(FITTED)
    state = replace(run.model.fit(Block((), np.zeros(0, np.int64), np.zeros((0, 0)))), as_of=START)
    memory = replace(run.memory, state=state)
    assert fits.adopt(run, memory, START + CATCH_UP_MS).state is not None
    assert fits.adopt(run, memory, START + CATCH_UP_MS + M).state is None


def test_what_new_series_and_levels_ask_for_waits_for_the_last_fit() -> None:
    """An accepted level asks for a fit at once, but ten minutes after the begin of the last one at the soonest."""
    run = run_of(FITTED, relearn=frozenset({0}))
    assert refit_at(run, run.memory) == START + REFIT_PAUSE_MS


class Gated(InlineExecutor):
    """An inline executor that stops working when it is closed."""

    closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future() if self.closed else super().submit(fn, *args, **kwargs)


def test_a_series_whose_level_was_accepted_says_nothing_until_it_is_learned() -> None:
    """The model still knows the old level: until the fit is there the series is warming up, and opens nothing."""
    rule = replace(RULE, accept_after_ms=60 * M, learn="normal_only")
    source, gate = RecordedSource({"load": change(recorded(2), 0, 30, 300, 60.0)}), Gated()
    store = open_store("sqlite://")
    evaluator = Evaluator(
        store, {"default": source}, annotate=render_annotations, links=lambda _: {}, fit=InlineExecutor(),
        background=gate,
    )  # fmt: skip
    evaluator.add(rule)
    kinds = []
    for minute in range(120):
        slot = evaluator.evaluate(RuleGroup("g", M, (rule,)), START + minute * M).rules[rule.id].slots[-1]
        gate.closed = True
        assert slot.observation is not None
        kinds.append(Kind(int(slot.observation.verdicts.kind[0])))
    (episode,) = store.episodes(rule=rule.id)
    accepted = (episode.closed_at - START) // M
    assert episode.close == Close.NEW_LEVEL
    assert set(kinds[accepted + 1 :]) == {Kind.WARMING_UP}
