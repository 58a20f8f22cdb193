"""Backtest: a rule lives through history as the daemon would have lived it, hundreds of times faster.

History is read once, in chunks, the warm-up before the span included. Then the daemon's own ``Evaluator`` lives
through it on a recorded source and a store in memory: causal, refits at their cadence. Who would have been told, and
what would have kept them quiet, is in ``relived``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from anomalyd.block import F32, F64, I64, Block, Bool, Labels
from anomalyd.episode import Episode
from anomalyd.errors import QueryRejected
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.evaluation.jointly import count_units, rows_needed
from anomalyd.evaluation.registry import Registry, registry_of
from anomalyd.executors import InlineExecutor
from anomalyd.recorded import RecordedSource
from anomalyd.rule import Rule, RuleGroup
from anomalyd.score import Kind
from anomalyd.slot import SeriesRow
from anomalyd.sources import Source
from anomalyd.store import Store, open_store
from anomalyd.stretch import Sheet
from anomalyd.template import render_annotations
from anomalyd.threshold import initial_threshold
from anomalyd.workbench.letters import Letter, Noting
from anomalyd.workbench.relived import NOTHING_AROUND, Sent, Surroundings, Told, deliver

POINTS_PER_REQUEST = 11_000
SAMPLES_PER_REQUEST = 4_000_000
TAPE_SAMPLES = 8_000_000
"""Scores are kept for charts at a resolution of at most this many samples."""
SLOTS_AT_ONCE = 4_000
"""After an episode the rest of what is lived through together is scored again: so much and not more."""
LEAST_SURPRISE = 2.0
"""Samples less surprising than this are not kept for the table of budgets."""

Progress = Callable[[int, int], None]
"""Told how much of how much is done."""


def _quiet(done: int, total: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What was read: samples on the rule's grid, and what the source said beside them."""

    block: Block
    partial: bool = False
    warnings: tuple[str, ...] = ()
    bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Samples that would be anomalous if the cut were low enough, in order of time: row, time and surprise [H].

    ``opens`` is the surprise with which an alert may begin by the sample, NaN where none may: what is above a cut and
    no news goes on with an alert, and makes none.
    """

    row: I64
    at: I64
    surprise: F32
    opens: F32

    def take(self, chosen: Bool) -> Hits:
        """Some of them."""
        return Hits(self.row[chosen], self.at[chosen], self.surprise[chosen], self.opens[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Tape:
    """What was seen and said, several slots a column where there are many; arrays [N, C], NaN where nothing was.

    ``times`` is the first slot of each column.
    """

    times: I64
    low: F32
    high: F32
    expected: F32
    lower: F32
    upper: F32
    surprise: F32


@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """What came of one rule in one span.

    Attributes:
        labels: label sets by row of the rule's registry.
        episodes: those that opened, by time.
        held: notifications that were not sent, by reason.
        kinds: verdicts by kind.
        cut: the lowest tier's cut on surprise.
        included: what besides the rule counted, in words.
        letters: what it came to owe, slot by slot.
    """

    rule: Rule
    start: int
    end: int
    history: Block
    labels: tuple[Labels, ...]
    episodes: tuple[Episode, ...]
    sent: tuple[Sent, ...]
    held: Mapping[str, int]
    kinds: Mapping[str, int]
    hits: Hits
    tape: Tape
    cut: float
    included: tuple[str, ...] = ()
    letters: tuple[Letter, ...] = ()

    @property
    def told(self) -> tuple[tuple[str, int], ...]:
        """Notifications by receiver, ends not counted, most first."""
        return tuple(Counter(s.receiver for s in self.sent if s.reason != "resolved").most_common())

    @property
    def weeks(self) -> float:
        """Length of the span."""
        return (self.end - self.start + self.rule.interval_ms) / (7 * 86_400_000)


def grid_span(rule: Rule, since: int, until: int) -> tuple[int, int]:
    """First and last slot of a span."""
    step = rule.interval_ms
    return -(-since // step) * step, until // step * step


def read_history(source: Source, rule: Rule, start: int, end: int, progress: Progress = _quiet) -> History:
    """Read a rule's expression from its warm-up before ``start`` to ``end``, both slots, in chunks of one grid."""
    first = start - rule.history_ms - rule.interval_ms
    times = np.arange(first, end + 1, rule.interval_ms, dtype=np.int64)
    parts: list[tuple[int, Block]] = []
    warnings: dict[str, None] = {}
    partial, size, column, points = False, 0, 0, min(POINTS_PER_REQUEST, 1_440)
    while column < len(times):
        chunk = times[column : column + points]
        reply = source.range(rule.expr, int(chunk[0]), int(chunk[-1]), rule.interval_ms)
        parts.append((column, reply.block))
        partial |= reply.partial
        warnings |= dict.fromkeys(reply.warnings)
        size += getattr(reply, "bytes", 0)
        column += len(chunk)
        points = max(60, min(POINTS_PER_REQUEST, SAMPLES_PER_REQUEST // max(1, len(reply.block))))
        progress(min(column, len(times)), len(times))
    return History(_joined(parts, times), partial, tuple(warnings), size)


def _joined(parts: list[tuple[int, Block]], times: I64) -> Block:
    place: dict[Labels, int] = {}
    for _, block in parts:
        for labels in block.labels:
            place.setdefault(labels, len(place))
    values: F64 = np.full((len(place), len(times)), np.nan)
    for first, block in parts:
        rows = np.array([place[labels] for labels in block.labels], np.int64)
        values[rows, first : first + len(block.times)] = block.values
    return Block(tuple(place), times, values)


def backtest(
    rule: Rule, history: Block, start: int, end: int, progress: Progress = _quiet,
    around: Surroundings = NOTHING_AROUND,
) -> Backtest:  # fmt: skip
    """Live through the slots from ``start`` to ``end`` and tell of it; raise what evaluating the rule raises.

    Nothing is known of other rules: see ``told_with``.
    """
    test = lived(rule, history, start, end, progress, around)
    return told_with((test,), (), around)[0]


def lived(
    rule: Rule, history: Block, start: int, end: int, progress: Progress = _quiet,
    around: Surroundings = NOTHING_AROUND,
) -> Backtest:  # fmt: skip
    """Live through the slots from ``start`` to ``end`` and tell nobody as yet."""
    if not len(history):
        raise QueryRejected("bad_data", f"{rule.where or rule.id}: the expression gives no series in this span")
    life = Life(rule, history, start, end, around)
    try:
        for now in life.run():
            progress(now - start, end - start + rule.interval_ms)
        return life.result()
    finally:
        life.close()


def told_with(tests: Sequence[Backtest], others: Sequence[Backtest], around: Surroundings) -> list[Backtest]:
    """The same backtests, with what was told: delivered together, in order of time.

    A rule that tells nobody (``mode: shadow``) is told of as if it were live, in the place of the one it is to replace.

    Args:
        others: rules that were lived through only because they may change who is told.
    """
    live = [test for test in (*tests, *others) if test.rule.mode == "live"]
    together = _delivered(live, around)
    found = []
    for test in tests:
        rest = [one for one in live if not _replaces(test.rule, one.rule)]
        told = together if test.rule.mode == "live" else _delivered([*rest, test], around)
        mine = told.get(test.rule.id, Told((), {}))
        found.append(replace(test, sent=mine.sent, held=mine.held))
    return found


def _replaces(shadow: Rule, live: Rule) -> bool:
    """Whether a rule in the shadow looks like a version of a live one: by its name or by what it reads."""
    return shadow.name.startswith(live.name) or shadow.expr == live.expr


def _delivered(tests: Sequence[Backtest], around: Surroundings) -> Mapping[str, Told]:
    if not tests:
        return {}
    letters = (letter for test in tests for letter in test.letters)
    rules = {**around.rules, **{test.rule.id: test.rule for test in tests}}
    end = max(test.end + test.rule.interval_ms + test.rule.query_delay_ms for test in tests)
    return deliver(letters, replace(around, rules=rules), min(test.start for test in tests), end)


class Life:
    """One rule living through history."""

    def __init__(
        self, rule: Rule, history: Block, start: int, end: int, around: Surroundings = NOTHING_AROUND
    ):
        # It always tells, whatever its mode: what would be told is the question.
        self._asked, self._around = rule, around
        self.rule = replace(rule, mode="live")
        self.start, self.end = start, end
        self._history = history
        self._group = RuleGroup(rule.group, rule.interval_ms, (self.rule,))
        self._store = open_store("sqlite://")
        self._noted = Noting(self._store, self.rule)
        inline = InlineExecutor()
        self._evaluator = Evaluator(
            cast(Store, self._noted), {rule.source: RecordedSource({rule.expr: history})}, annotate=render_annotations,
            links=_no_links, fit=inline, background=inline, recipients=around.recipients, feedback=around.heard,
        )  # fmt: skip
        self._evaluator.add(self.rule)
        self._recorder = Recorder(self.rule, rows_needed(self.rule, history), start, end)

    def run(self) -> Iterator[int]:
        """Live, and give the next slot after each step."""
        at = self.start
        while at <= self.end:
            until = min(self._until(at), at + SLOTS_AT_ONCE * self.rule.interval_ms)
            at = self._evaluator.live(self._group, at, until, self)
            yield at

    def _until(self, at: int) -> int:
        """The last slot of which the same had been said as in ``at``."""
        word, step = self._around.next_word(at), self.rule.interval_ms
        return self.end if word is None else min(self.end, max(at, (word - 1) // step * step))

    def saw(self, sheet: Sheet) -> None:
        self._recorder.saw(sheet)

    def committed(self, at: int, owed: int) -> None:
        """What was committed is noted by the store."""

    def result(self) -> Backtest:
        """All that came of it."""
        self._noted.write()
        episodes = [e for e in self._store.episodes(rule=self.rule.id, limit=1_000_000) if e.opened_at]
        rows = self._store.series(self.rule.id)  # those that have gone since too
        registry = registry_of(self.rule, rows)
        return Backtest(
            self._asked, self.start, self.end, self._history, tuple(row.labels for row in rows),
            tuple(sorted(episodes, key=lambda e: (e.opened_at, e.labels))), (), {}, self._recorder.kinds(),
            of_units(registry, self._recorder.hits()), self._recorder.tape(), _lowest_cut(self.rule, rows),
            self._around.included(), tuple(self._noted.letters),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()


def of_units(registry: Registry, hits: Hits) -> Hits:
    """Those by which alerts may begin: of a joint rule they are of its groups, not of the series in them."""
    return hits.take(registry.unit(hits.row) == hits.row) if registry.joint else hits


def _lowest_cut(rule: Rule, rows: Sequence[SeriesRow]) -> float:
    return initial_threshold(rule, max(1, count_units(rule, [row.labels for row in rows]))).lowest


def _no_links(rule: Rule) -> Mapping[str, str]:
    return {}


class Recorder:
    """Keeps what the report shows of all that was seen."""

    def __init__(self, rule: Rule, series: int, start: int, end: int):
        self._rule, self._start = rule, start
        slots = (end - start) // rule.interval_ms + 1
        self._per = max(1, -(-series * slots // TAPE_SAMPLES))
        columns = -(-slots // self._per)
        self._columns = {
            name: np.full((series, columns), np.nan, np.float32)
            for name in ("low", "high", "expected", "lower", "upper", "surprise")
        }
        self._hits: list[tuple[I64, I64, F32, F32]] = []
        self._kinds = np.zeros(len(Kind), np.int64)

    def saw(self, sheet: Sheet) -> None:
        """Take note of some slots."""
        self._kinds += np.bincount(sheet.kind.ravel(), minlength=len(Kind))
        self._note_hits(sheet)
        slot = (sheet.times - self._start) // self._rule.interval_ms
        column = slot // self._per
        edges = [0, *(np.nonzero(np.diff(column))[0] + 1).tolist()]
        there = column[edges]
        for name, values, reduce in (
            ("low", sheet.value, np.fmin), ("high", sheet.value, np.fmax), ("lower", sheet.lower, np.fmin),
            ("upper", sheet.upper, np.fmax), ("surprise", sheet.surprise, np.fmax),
            ("expected", sheet.expected, np.fmax),
        ):  # fmt: skip
            reduced = values if self._per == 1 else reduce.reduceat(values, edges, axis=1)
            place = np.ix_(sheet.series, there)
            with np.errstate(over="ignore"):
                self._columns[name][place] = reduce(self._columns[name][place], reduced.astype(np.float32))

    def _note_hits(self, sheet: Sheet) -> None:
        """Which samples a lower cut would have flagged: the side and the size are right, and it is surprising."""
        far = sheet.surprise > LEAST_SURPRISE
        if not far.any():
            return
        row, column = np.nonzero(far)
        keep = of_interest(self._rule, sheet.value[row, column], sheet.expected[row, column])
        row, column = row[keep], column[keep]
        surprise, opens = (a[row, column].astype(np.float32) for a in (sheet.surprise, sheet.opens))
        self._hits.append((sheet.series[row], sheet.times[column], surprise, opens))

    def kinds(self) -> Mapping[str, int]:
        """Verdicts by kind."""
        return {kind.name.lower(): int(self._kinds[kind]) for kind in Kind if self._kinds[kind]}

    def hits(self) -> Hits:
        """All hits in order of time."""
        if not self._hits:
            nothing = np.zeros(0, np.float32)
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), nothing, nothing.copy())
        row, at, surprise, opens = (np.concatenate(parts) for parts in zip(*self._hits, strict=True))
        order = np.lexsort((row, at))
        return Hits(row[order], at[order], surprise[order], opens[order])

    def tape(self) -> Tape:
        """The tape as it was recorded."""
        columns = self._columns["low"].shape[1]
        times = self._start + np.arange(columns, dtype=np.int64) * self._per * self._rule.interval_ms
        return Tape(times, **self._columns)


def of_interest(rule: Rule, value: F64, expected: F64) -> Bool:
    """Which samples are on the rule's side and far enough from what was expected, whatever their score."""
    deviation = np.abs(value - expected)
    floor = rule.min_deviation
    enough: Bool = ~((deviation < floor.absolute) | (deviation < floor.relative * np.abs(expected)))
    if rule.direction == "up":
        return enough & ~(value < expected)
    return enough & ~(value > expected) if rule.direction == "down" else enough
