"""A rule between two slots, and what evaluating it in one slot gives. Values, and small questions about memories."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, Labels
from anomalyd.clock import HOUR_MS, MINUTE_MS, SECOND_MS
from anomalyd.detectors.base import Choice, State
from anomalyd.detectors.model import Model
from anomalyd.episode import Episode
from anomalyd.errors import AnomalydError
from anomalyd.evaluation.dataquality import Found, Quality
from anomalyd.evaluation.memory import Memory
from anomalyd.feedback.cuts import ALONE
from anomalyd.incident import Incident, Notification
from anomalyd.judge import uniform
from anomalyd.rule import Rule
from anomalyd.score import Kind, Observation, Scores, Verdicts, Why, join_scores
from anomalyd.slot import Notice, RuleSlot, SeriesRow
from anomalyd.threshold import NEVER, initial_threshold


@dataclass(frozen=True, slots=True)
class Failures:
    """Fits of a rule that have failed since the last one that did not: how many, when the newest, and why."""

    times: int = 0
    at: int = 0
    text: str = ""

    def again(self, at: int, error: Exception) -> Failures:
        """With one more."""
        said = str(error) if isinstance(error, AnomalydError) else f"{type(error).__name__}: {error}"
        return Failures(self.times + 1, at, said[:400])

    @property
    def pause_ms(self) -> int:
        """How long to wait before the next try: twice as long each time."""
        return min(LONGEST_PAUSE_MS, MINUTE_MS << min(self.times - 1, 10)) if self.times else 0


NEVER_FAILED = Failures()

LONGEST_PAUSE_MS = 2 * HOUR_MS
"""A rule whose fits fail on and on is tried this often."""


@dataclass(slots=True)
class RuleRun:
    """A rule with its memory; ``fitting`` is a fit in flight, ``failed`` what became of those before it.

    ``left_out`` are the incidents that the newest fit did not learn, ``told`` those of fits before it.
    """

    rule: Rule
    model: Model
    memory: Memory
    fitting: Future[Fitted] | None = None
    fit_started_at: int = 0
    attendance: Attendance | None = None
    failed: Failures = NEVER_FAILED
    left_out: frozenset[LeftOut] = frozenset()
    told: frozenset[LeftOut] = frozenset()

    def score(self, state: State, fresh: Block, cut: float, hold: Bool) -> tuple[Scores, State]:
        """Score samples, then learn those that may be learned: of series without ``hold`` [N], at times that count."""
        return score_and_learn(self.rule, self.model, state, fresh, cut, hold)


@dataclass(frozen=True, slots=True, order=True)
class LeftOut:
    """An incident of the history that was not learned: samples from ``start`` to ``end``, both included."""

    start: int
    end: int
    labels: Labels

    def meets(self, other: LeftOut) -> bool:
        """Whether they have a time in common: another fit may cut the same incident a sample shorter."""
        return self.start <= other.end and other.start <= self.end


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A fresh state for the series with these rows, learned from history up to ``until``, and what they are as data.

    ``left_out`` are the incidents of the history that were not learned.
    """

    rows: I64
    state: State
    until: int
    quality: Quality
    left_out: frozenset[LeftOut] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Advanced:
    """What evaluating one rule in one slot gives: rows to write, and the memory to go on with once they are written.

    ``failure`` is the exception behind the outcome ``error``.
    """

    memory: Memory
    slots: tuple[RuleSlot, ...]
    series: tuple[SeriesRow, ...] = ()
    episodes: tuple[Episode, ...] = ()
    incidents: tuple[Incident, ...] = ()
    outbox: tuple[Notification, ...] = ()
    warnings: tuple[str, ...] = ()
    limited: int = 0
    duplicates: int = 0
    waiting: int = 0
    notices: tuple[Notice, ...] = ()
    gone: tuple[int, ...] = ()
    failure: Exception | None = None


@dataclass(frozen=True, slots=True)
class Attendance:
    """What became of a rule's series in its newest slot.

    Attributes:
        watched, waiting, limited, duplicate: how many are scored, wait at the door, are beyond the limit, are twins.
        faulty: those whose data are faulty, with the faults, worst first.
        choices: which models run, where the detector had a choice.
        model, fitted_at: the version that scores, and where the history that it was fitted to ends; empty before.
    """

    watched: int
    waiting: int
    limited: int
    duplicate: int
    faulty: tuple[tuple[Labels, tuple[str, ...]], ...] = ()
    choices: tuple[Choice, ...] = ()
    model: str = ""
    fitted_at: int = 0


def attendance_of(one: Advanced, model: Model) -> Attendance:
    """Counts of a slot, the faults that its memory knows of, and what its state runs."""
    memory = one.memory
    rows, active = memory.registry.rows, memory.active
    faulty = tuple((rows[int(active[i])].labels, names) for i, names in memory.quality.faults().items())
    choices = model.choices(memory.state) if memory.state is not None else ()
    counts = (len(active), one.waiting, one.limited, one.duplicates)
    return Attendance(*counts, faulty, choices, memory.model, memory.fitted_at)


@dataclass(slots=True)
class Changes:
    """Collects what the columns of one answer change."""

    slots: list[RuleSlot] = field(default_factory=list)
    episodes: dict[str, Episode] = field(default_factory=dict)
    incidents: dict[str, Incident] = field(default_factory=dict)
    outbox: list[Notification] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def add_found(self, found: Sequence[Found]) -> None:
        """Add what is to be told of the data's quality."""
        self.incidents |= {one.incident.id: one.incident for one in found}
        self.outbox += [notification for one in found for notification in one.outbox]

    def take_in(self, later: Changes) -> None:
        """Add what later columns changed."""
        self.slots += later.slots
        self.episodes |= later.episodes
        self.incidents |= later.incidents
        self.outbox += later.outbox
        self.notices += later.notices


def cuts_of(rule: Rule, units: I64) -> F64:
    """Each series' cut per tier [N, 3], before feedback; a budget stated per rule is shared by all ``units`` [N]."""
    share = len(np.unique(units)) if rule.detector.joint else len(units)
    return np.tile(np.array(initial_threshold(rule, max(1, share)).cuts), (len(units), 1))


def hold_of(rule: Rule, memory: Memory) -> Bool:
    """Which series are in a live episode and therefore scored without being learned [N]."""
    return memory.hold() if rule.learn == "normal_only" else np.zeros(len(memory.active), np.bool_)


def learnable(rule: Rule, times: I64) -> Bool:
    """Which times may be learned from [T]: those outside the rule's ``dont_learn``."""
    if not rule.dont_learn:
        return np.ones(len(times), np.bool_)
    return np.array([rule.learns_at(at) for at in times.tolist()], np.bool_)


def score_and_learn(
    rule: Rule, model: Model, state: State, fresh: Block, cut: float, hold: Bool
) -> tuple[Scores, State]:
    """As ``Model.score``, with all series held in the times that the rule does not learn from."""
    learned = learnable(rule, fresh.times)
    if learned.all():
        return model.score(state, fresh, cut, hold)
    edges = [0, *(np.nonzero(np.diff(learned))[0] + 1).tolist(), len(learned)]
    parts = []
    for first, stop in itertools.pairwise(edges):
        held = hold if learned[first] else np.ones(len(fresh), np.bool_)
        scores, state = model.score(state, fresh.window(first, stop), cut, held)
        parts.append(scores)
    return join_scores(parts), state


def without_windows(rule: Rule, history: Block) -> Block:
    """A history whose samples that are not to be learned from are missing."""
    learned = learnable(rule, history.times)
    if learned.all():
        return history
    return Block(history.labels, history.times, np.where(learned, history.values, np.nan))


def labels_of(memory: Memory) -> tuple[Labels, ...]:
    rows = memory.registry.rows
    return tuple(rows[row].labels for row in memory.active.tolist())


def as_of(memory: Memory) -> int | None:
    return memory.state.as_of if memory.state is not None else None


def band_cut(memory: Memory) -> float:
    """The cut at which bands are drawn and anomaly scores are 1."""
    return float(memory.cuts.min()) if memory.cuts.size else NEVER


def cut_of(memory: Memory, episode: Episode) -> float:
    row = memory.registry.index[episode.labels]
    position = np.nonzero(memory.units == row)[0]
    return float(memory.cuts[position[0]].min()) if len(position) else band_cut(memory)


RESTS_MS = 15 * SECOND_MS
"""Between slots that are at least so far apart a rule's learned state is in memory once."""


def rested(rule: Rule, memory: Memory) -> Memory:
    """The memory until the next slot: the arrays that its state was made from are let go.

    They spare the next slot a copy (``detectors/stepping.py``), some microseconds a series, and are as large as the
    state itself. That is worth it only where slots follow one another soon.
    """
    state = memory.state
    if state is None or state.step is None or rule.interval_ms < RESTS_MS:
        return memory
    return replace(memory, state=State(state.arrays, state.shared, state.as_of))


def newer_than(block: Block, time: int) -> Block:
    """The columns of a block after a time."""
    return block.window(int(np.searchsorted(block.times, time, side="right")))


def crowded(memory: Memory) -> bool:
    """Whether more series than ``ALONE`` were in an episode in the newest slot, or held from one by a moved cut."""
    held = () if memory.last is None else memory.last.series[memory.last.verdicts.why == Why.HELD]
    return len({*memory.episodes, *memory.registry.unit(np.asarray(held, np.int64)).tolist()}) > ALONE


def unknown(
    rule: Rule, memory: Memory, at: int, value: F64, kind: Kind, reason: str, warnings: Sequence[str]
) -> RuleSlot:
    nan = np.full(len(value), np.nan)
    verdicts: Verdicts = uniform(kind, len(value))
    observation = Observation(at, memory.active, value, nan, nan, nan, nan, verdicts)
    outcome = "partial" if kind == Kind.PARTIAL else "warming_up"
    detail = "; ".join(warnings)[:1024]
    return RuleSlot(rule.id, at, outcome, reason, detail, model=memory.model, observation=observation)


def failed(run: RuleRun, at: int, reason: str, detail: str, error: Exception) -> Advanced:
    """An unknown slot: episodes, baseline and memory stay as they were."""
    return Advanced(run.memory, (RuleSlot(run.rule.id, at, "error", reason, detail[:1024]),), failure=error)
