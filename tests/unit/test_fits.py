"""When rules are fitted anew: each at its own time, few at once, and never from times not to be learned from."""

from __future__ import annotations

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
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.evaluation.fits import DRIFT_LASTS_MS, DRIFT_PAUSE_MS, REFIT_PAUSE_MS, Fits, refit_at, scheduled
from anomalyd.evaluation.memory import empty_memory
from anomalyd.evaluation.rulerun import RuleRun
from anomalyd.executors import InlineExecutor
from anomalyd.feedback.cuts import Unheard
from anomalyd.intervals import Interval
from anomalyd.recorded import RecordedReply, RecordedSource
from anomalyd.rule import DetectorSpec, Rule, RuleGroup
from anomalyd.store import open_store
from anomalyd.template import render_annotations
from life import HISTORY, START, M, hosts, recorded

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
