"""Query cost against a source that counts, and what the daemon says of a cost that is too high."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from structlog.testing import capture_logs

from anomalyd.block import Block, make_labels
from anomalyd.cli.querycost import print_costs
from anomalyd.clock import DAY_MS, MINUTE_MS, VirtualClock
from anomalyd.daemon import Daemon
from anomalyd.delivery.deliver import Deliverer
from anomalyd.errors import SourceUnavailable
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.metrics import Metrics
from anomalyd.recorded import RecordedReply, RecordedSource
from anomalyd.rule import DetectorSpec, Rule, RuleGroup
from anomalyd.store import open_store
from anomalyd.template import render_annotations
from anomalyd.workbench.querycost import measure

START = 1_760_054_400_000
RULE = Rule("Load", "g", "load", detector=DetectorSpec("ewma"), history_ms=DAY_MS, query_delay_ms=0)


class Slow(RecordedSource):
    """Answers from a block, takes its time on a virtual clock, and counts what it reads."""

    def __init__(self, series: int, clock: VirtualClock, seconds: float = 0.25):
        times = np.arange(START - DAY_MS, START + 30 * MINUTE_MS, MINUTE_MS, dtype=np.int64)
        values = 5 + np.random.default_rng(1).normal(size=(series, len(times)))
        labels = tuple(make_labels({"host": f"h{i}"}) for i in range(series))
        super().__init__({"load": Block(labels, times, values)})
        self.clock, self.seconds = clock, seconds
        self.refuses = False

    def instant(self, expr: str, at_ms: int, *, limit: int | None = None) -> RecordedReply:
        self.clock.advance_to(self.clock.now_ms() + int(1000 * self.seconds))
        return super().instant(expr, at_ms)

    def touched(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> int | None:
        if self.refuses:
            raise SourceUnavailable("server", "stats are not known here")
        return 1_000_000 * ((end_ms - start_ms) // step_ms + 1)


class SlowInAll(Slow):
    """As slow in ranges, by which slots that were missed are read."""

    def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> RecordedReply:
        self.clock.advance_to(self.clock.now_ms() + int(1000 * self.seconds))
        return super().range(expr, start_ms, end_ms, step_ms)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


def test_a_tick_and_a_scaled_warm_up_are_counted(clock: VirtualClock) -> None:
    """Six hours are measured and a day is told; time is the clock's."""
    cost = measure(RULE, Slow(3, clock), START, clock)
    assert (cost.word, cost.scaled) == ("ok", 4.0)
    assert cost.tick is not None
    assert cost.warm_up is not None
    assert (cost.tick.series, cost.tick.samples, cost.tick.read, cost.tick.seconds) == (3, 3, 1_000_000, 0.25)
    assert (cost.warm_up.samples, cost.warm_up.read) == (3 * 1440, 1_440_000_000)
    assert measure(RULE, Slow(3, clock), START, clock, whole=True).scaled == 1.0


def test_a_server_without_stats_is_counted_by_what_it_sends(clock: VirtualClock) -> None:
    """A refusal of the statistics is no refusal of the rule."""
    source = Slow(3, clock)
    source.refuses = True
    cost = measure(RULE, source, START, clock)
    assert cost.tick is not None
    assert (cost.word, cost.tick.read, cost.tick.samples) == ("ok", None, 3)


def test_a_source_that_is_away_is_told_as_what_it_is(clock: VirtualClock) -> None:
    """Nothing was measured, and nothing is blamed on the rule."""

    class Away(Slow):
        def instant(self, expr: str, at_ms: int, *, limit: int | None = None) -> RecordedReply:
            raise SourceUnavailable("connect", "source default: Connection refused")

    cost = measure(RULE, Away(3, clock), START, clock)
    assert cost.verdicts == ("not measured: source default: Connection refused",)
    assert cost.tick is None


@pytest.mark.parametrize(("rule", "series", "seconds", "word", "verdict"), [
    (replace(RULE, max_series=2), 3, 0.1, "over", "1 series beyond max_series 2 are not scored; aggregate or raise it"),
    (RULE, 3, 40.0, "heavy", "a tick takes 40.0 s of 60 s; slots will be skipped"),
    (replace(RULE, history_ms=100_000 * DAY_MS), 3, 0.1, "heavy", "history is shortened to 11574.1 d: 50,000,000"),
    (RULE, 0, 0.1, "over", "no series answer: check the metric's name and the labels"),
])  # fmt: skip
def test_what_is_beyond_a_cap_is_said(
    rule: Rule, series: int, seconds: float, word: str, verdict: str, clock: VirtualClock
) -> None:
    """Each verdict says what is too much and what to do."""
    cost = measure(rule, Slow(series, clock, seconds), START, clock)
    assert cost.word == word
    assert cost.verdicts[0].startswith(verdict)


@pytest.fixture
def daemon(clock: VirtualClock) -> Iterator[Daemon]:
    store, inline = open_store("sqlite://"), InlineExecutor()
    rule = replace(RULE, max_series=2)
    evaluator = Evaluator(
        store, {"default": SlowInAll(3, clock, 90.0)}, annotate=render_annotations, links=lambda _: {}, fit=inline,
        background=inline,
    )  # fmt: skip
    evaluator.add(rule)
    group = RuleGroup("g", MINUTE_MS, (rule,))
    clock.advance_to(START + MINUTE_MS // 2)
    yield Daemon(store, evaluator, Deliverer(store, {}, clock=clock), Metrics(), clock, [group])
    store.close()


def test_a_slow_source_is_spared_and_the_log_says_so(daemon: Daemon) -> None:
    """A tick of 90 s on a minute skips slots, counts it and warns; series left out are told once, not each slot."""
    with capture_logs() as logs:
        for _ in range(3):
            daemon.clock.wait(threading.Event(), 60)
            daemon.tick("g")
    events = [entry["event"] for entry in logs]
    assert sum("longer than its interval" in event for event in events) >= 2
    assert sum("beyond max_series" in event for event in events) == 1
    value = daemon.metrics.registry.get_sample_value("anomalyd_slots_overrun_total", {"group": "g"})
    missed = daemon.metrics.registry.get_sample_value("anomalyd_slots_missed_total", {"group": "g"})
    assert value is not None
    assert value >= 2
    assert missed is not None
    assert missed >= 1


def test_the_table_shows_whole_names_on_a_narrow_terminal(clock: VirtualClock) -> None:
    """Eighty columns hold a long rule's name, on two lines if need be, and no column is cut."""
    rule = replace(RULE, name="CheckoutPaymentLatencyP99", group="payments-and-refunds")
    cost = replace(measure(RULE, Slow(3, clock), START, clock), rule=rule.id)
    out = io.StringIO()
    print_costs(Console(file=out, width=80), [cost])
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    cells = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert "".join(cells) == rule.id
