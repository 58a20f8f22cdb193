"""A rule living through a recorded block, slot by slot: the kit of evaluation tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anomalyd.block import F64, Block, Labels, make_labels
from anomalyd.clock import HOUR_MS, MINUTE_MS
from anomalyd.episode import Close
from anomalyd.errors import SourceUnavailable
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.incident import Reason
from anomalyd.recorded import RecordedReply, RecordedSource
from anomalyd.records import NO_SNAPSHOTS, SnapshotPolicy
from anomalyd.rule import DetectorSpec, Rule, RuleGroup, TierPolicy
from anomalyd.score import Tier
from anomalyd.store import Store, open_store
from anomalyd.template import render_annotations

M = MINUTE_MS
START = 1_700_000_040_000 // M * M
HISTORY = 12 * 60
RULE = Rule(
    "Load", "g", "load", detector=DetectorSpec("mad", {"window": "4h"}), history_ms=HISTORY * M, query_delay_ms=0,
    for_ms=2 * M, keep_firing_for_ms=2 * M, accept_after_ms=3 * HOUR_MS, hold_ms=5 * M, receivers=("hook",),
    tiers=(TierPolicy(Tier.WARNING, surprise=3.5), TierPolicy(Tier.CRITICAL, surprise=6)),
    annotations={"summary": "load of {{ $labels.host }} is {{ $value }}"},
)  # fmt: skip


def hosts(n: int) -> tuple[Labels, ...]:
    return tuple(make_labels({"__name__": "load", "host": f"h{i}"}) for i in range(n))


def recorded(n: int = 3, minutes: int = 300, seed: int = 1) -> Block:
    """History and then ``minutes`` of live samples around 10, noise 1."""
    times = START + np.arange(-HISTORY, minutes) * M
    values = 10 + np.random.default_rng(seed).normal(size=(n, len(times)))
    return Block(hosts(n), times, values)


def change(block: Block, row: int, first: int, stop: int, value: float) -> Block:
    values: F64 = block.values.copy()
    values[row, HISTORY + first : HISTORY + stop] = value
    return Block(block.labels, block.times, values)


class Flaky:
    """A source that fails, or answers in part, at chosen minutes."""

    def __init__(self, inner: RecordedSource):
        self.inner, self.down, self.partial = inner, set[int](), set[int]()
        self.asked: list[tuple[str, int]] = []

    def _check(self, kind: str, at: int) -> None:
        minute = (at - START) // M
        self.asked.append((kind, minute))
        if minute in self.down:
            raise SourceUnavailable("connect", "refused")

    def instant(self, expr: str, at_ms: int, *, limit: int | None = None) -> RecordedReply:
        self._check("instant", at_ms)
        reply = self.inner.instant(expr, at_ms)
        return replace(reply, partial=(at_ms - START) // M in self.partial, warnings=("one store is away",))

    def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> RecordedReply:
        self._check("range", end_ms)
        reply = self.inner.range(expr, start_ms, end_ms, step_ms)
        return replace(reply, partial=(end_ms - START) // M in self.partial)


class Life:
    """A rule living through a recorded block, one minute a step."""

    def __init__(
        self, block: Block, rule: Rule = RULE, store: Store | None = None, snapshots: SnapshotPolicy = NO_SNAPSHOTS
    ):
        self.snapshots = snapshots
        self.store = store or open_store("sqlite://")
        self.source = Flaky(RecordedSource({"load": block}))
        self.group = RuleGroup("g", M, (rule,))
        self.rule = rule
        self.evaluator = self.born()

    def born(self) -> Evaluator:
        inline = InlineExecutor()
        evaluator = Evaluator(
            self.store, {"default": self.source}, annotate=render_annotations, links=lambda _: {}, fit=inline,
            background=inline, operators=("hook",), snapshots=self.snapshots,
        )  # fmt: skip
        evaluator.add(self.rule)
        return evaluator

    def live(self, first: int, stop: int) -> None:
        for minute in range(first, stop):
            evaluated = self.evaluator.evaluate(self.group, START + minute * M)
            failure = evaluated.rules[self.rule.id].failure
            assert failure is None or isinstance(failure, SourceUnavailable), failure

    def told(self) -> list[tuple[int, Reason]]:
        rows = self.store.notifications(limit=1000)
        found = [(row.notification.statement.at, row.notification.statement.reason) for row in rows]
        return sorted(((at - START) // M, reason) for at, reason in found)

    def spans(self) -> list[tuple[str, int, int, Close | None]]:
        episodes = [e for e in self.store.episodes(rule=self.rule.id) if e.opened_at]
        return sorted(
            (dict(e.labels)["host"], (e.opened_at - START) // M, max(-1, (e.closed_at - START) // M), e.close)
            for e in episodes
        )
