"""Replay: the scores of a past alert computed again, and held against those that were stored.

A model is fitted from the same history with the same parameters and seed, and lives through the same samples to the
end of the episode; which samples it learned is read from the stored verdicts. The scores must be equal but for the
seven digits that are stored. Where they are not, the causes that can be told apart are named: data rewritten at the
source or fallen out of its retention, scores fallen out of ours, a rule or a daemon that has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, Labels
from anomalyd.detectors.base import State, rowwise
from anomalyd.detectors.model import Model, model_of
from anomalyd.episode import Episode
from anomalyd.errors import AnomalydError
from anomalyd.evaluation.fits import HISTORY_SAMPLES_MAX, fit_task
from anomalyd.evaluation.jointly import rows_by_unit, series_only
from anomalyd.evaluation.memory import align, empty_memory
from anomalyd.evaluation.registry import registry_of
from anomalyd.evaluation.rulerun import score_and_learn, without_windows
from anomalyd.feedback.cuts import Heard, Unheard, training_gaps
from anomalyd.records import RuleSlotRow
from anomalyd.rule import Rule
from anomalyd.score import Kind, Observation
from anomalyd.shard import blank_history, unwatched_incidents
from anomalyd.sources import Source
from anomalyd.store import Store

TOLERANCE = 1e-5
"""Relative difference that float32 storage and another machine's arithmetic explain."""
COLUMNS = ("expected", "lower", "upper", "surprise")


class Finding(StrEnum):
    """What came of a replay."""

    EQUAL = "equal"
    DIFFERENT = "different"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Compared:
    """One slot: what was stored and what comes now."""

    at: int
    value: float
    value_now: float
    surprise: float
    surprise_now: float
    expected: float
    expected_now: float
    equal: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome; ``causes`` say what has changed, in words; ``largest`` is the largest relative difference."""

    episode: Episode
    finding: Finding
    causes: tuple[str, ...] = ()
    slots: tuple[Compared, ...] = ()
    largest: float = 0.0


@dataclass(slots=True)
class Peak:
    """What was there at an episode's worst: filled in by a replay for whoever wants to look into the model.

    Attributes:
        state: what was learned before that slot.
        fresh: its samples; ``places``: those of the episode among them.
    """

    model: Model | None = None
    state: State | None = None
    fresh: Block | None = None
    places: I64 = field(default_factory=lambda: np.zeros(0, np.int64))


class _Cannot(AnomalydError):
    """The replay cannot be made; the message is the cause."""


def replay(
    episode: Episode, rule: Rule | None, store: Store, source: Source, feedback: Heard | None = None,
    peak: Peak | None = None,
) -> Replay:  # fmt: skip
    """Compute an episode's scores again, and note its ``peak``; raises ``SourceError`` and ``StoreError`` only."""
    try:
        if rule is None:
            raise _Cannot(f"the rule {episode.rule} is not in the rules files any more")
        return _Past(episode, rule, store, source, feedback or Unheard(), peak or Peak()).replay()
    except _Cannot as error:
        return Replay(episode, Finding.IMPOSSIBLE, (str(error),))


class _Past:
    """One episode's past on its way to scores."""

    def __init__(self, episode: Episode, rule: Rule, store: Store, source: Source, feedback: Heard, peak: Peak):
        self._episode, self._rule, self._store, self._source, self._feedback = episode, rule, store, source, feedback
        self._model, self._peak = model_of(rule), peak
        self._registry = registry_of(rule, store.series(rule.id))
        self._labels = {row.row: row.labels for row in self._registry.rows.values()}
        self._row = next((row for row, labels in self._labels.items() if labels == episode.labels), -1)
        self._causes: list[str] = []

    def replay(self) -> Replay:
        until = self._fitted_until()
        slots = self._slots(until)
        first, last = slots[0].at, slots[-1].at
        whole = self._store.scores(self._rule.id, first, first + 1)
        if not whole:
            raise _Cannot("the scores of that time are gone: the daemon's retention has passed")
        rows = series_only(self._registry, whole[0]).series
        if not len(self._places(rows)):
            if self._rule.detector.joint:
                raise _Cannot("the group was not there when its model was fitted")
            return self._joined_later(until, slots, rows)
        mine = self._store.scores(self._rule.id, first, last + 1, [self._row])
        fresh = self._read(rows, until + self._rule.interval_ms, last)
        state = self._fit(rows, until)
        if rowwise(self._model.detector):
            place = int(np.flatnonzero(rows == self._row)[0])
            state, fresh, rows = state.take([place]), fresh.take([place]), np.array([self._row])
            others = mine
        else:
            others = self._store.scores(self._rule.id, first, last + 1)
        cuts = {slot.at: slot.cut for slot in slots}
        expected, lower, upper, surprise, _ = self._live(state, fresh, rows, first, others, cuts)
        return self._compare(fresh, rows, mine, expected, lower, upper, surprise)

    def _places(self, rows: I64) -> I64:
        """Where the episode's series are among these rows: one, or all of a group."""
        return np.flatnonzero(self._registry.unit(rows) == self._row)

    def _joined_later(self, until: int, slots: list[RuleSlotRow], rows: I64) -> Replay:
        """Of a series that came after the fit: its siblings live up to its coming, then it joins them as it did then.

        A newcomer's scores are calibrated by those of its siblings, so these must be where they were.
        """
        first, last = slots[0].at, slots[-1].at
        stored = {o.at: o for o in self._store.scores(self._rule.id, first, last + 1)}
        mine = self._store.scores(self._rule.id, first, last + 1, [self._row])
        came = next((o.at for o in mine if len(o.series)), 0)
        if not came or came > self._episode.started_at:
            raise _Cannot("the scores of the series' first slots are gone: the daemon's retention has passed")
        state, cuts = self._fit(rows, until), {slot.at: slot.cut for slot in slots}
        marks = [at for at in sorted(stored) if at <= came and set(stored[at].series.tolist()) - set(rows.tolist())]
        begins = until + self._rule.interval_ms
        for at in marks:
            if at > begins:
                state = self._lived(state, rows, begins, at - self._rule.interval_ms, first, stored, cuts)
            newcomers = [row for row in stored[at].series.tolist() if row not in rows]
            nothing = Block(tuple(self._labels[row] for row in newcomers), np.zeros(0, np.int64),
                            np.zeros((len(newcomers), 0)))  # fmt: skip
            state = replace(self._model.join(state, nothing), as_of=at - self._rule.interval_ms)
            rows, begins = np.concatenate([rows, np.array(newcomers, np.int64)]), at
        others: Iterable[Observation] = stored.values()
        if rowwise(self._model.detector):
            state, rows, others = state.take([int(np.flatnonzero(rows == self._row)[0])]), np.array([self._row]), mine
        fresh = self._read(rows, came, last)
        expected, lower, upper, surprise, _ = self._live(state, fresh, rows, came, others, cuts)
        return self._compare(fresh, rows, mine, expected, lower, upper, surprise)

    def _lived(
        self, state: State, rows: I64, begins: int, ends: int, first: int, stored: dict[int, Observation],
        cuts: dict[int, float],
    ) -> State:  # fmt: skip
        """The state after the slots from ``begins`` to ``ends``; of those before ``first`` nothing was stored."""
        fresh = self._read(rows, begins, ends)
        return self._live(state, fresh, rows, max(first, begins), stored.values(), cuts)[4]

    def _fitted_until(self) -> int:
        version, _, until = self._episode.model.rpartition("-")
        if not version or not until.isdigit():
            raise _Cannot("the episode does not name the model that scored it")
        if version != self._model.version:
            raise _Cannot(
                f"the model has changed: the episode was scored by {version}, the rule now makes {self._model.version}"
                " (another detector, parameter, interval, time zone, calendar, seed or version of anomalyd)"
            )
        return int(until)

    def _slots(self, until: int) -> list[RuleSlotRow]:
        """The slots that the episode's model scored, from its first to the end of the episode."""
        stop = (self._episode.closed_at or self._episode.seen_at) + 1
        rows = self._store.rule_slots(self._rule.id, until, stop)
        slots = [s for s in rows if s.model == self._episode.model and s.outcome == "ok" and s.series]
        if not slots or slots[-1].at < self._episode.started_at:
            raise _Cannot("the scores of that time are gone: the daemon's retention has passed")
        if slots[0].at - until > 60 * self._rule.interval_ms and not self._model.streaming:
            self._causes.append("the first scores of the model are gone: the daemon's retention has passed")
        return slots

    def _read(self, rows: I64, start: int, end: int) -> Block:
        labels = tuple(self._labels[row] for row in rows.tolist())
        reply = self._source.range(self._rule.expr, start, end, self._rule.interval_ms)
        known = replace(
            empty_memory(self._rule.id),
            active=np.arange(len(labels)),
            registry=replace(empty_memory(self._rule.id).registry, index={ls: i for i, ls in enumerate(labels)}),
        )
        values = align(known, reply.block, self._rule.drop_labels, len(labels)).values
        return Block(labels, reply.block.times, values)

    def _fit(self, rows: I64, until: int) -> State:
        rule = self._rule
        columns = max(1, min(rule.history_ms // rule.interval_ms, HISTORY_SAMPLES_MAX // max(1, len(rows))))
        start = until - (columns - 1) * rule.interval_ms
        history = self._read(rows, start, until)
        mine = history.values[self._places(rows)]
        if not np.isfinite(mine).any():
            self._causes.append("the source has no sample of the series before the fit: its retention has passed")
        elif not np.isfinite(mine[:, : max(1, columns // 20)]).any():
            self._causes.append("the source has nothing of the beginning of the history: its retention may have passed")
        hidden = self._gaps(history.labels, start, until)
        learned = blank_history(without_windows(rule, history), hidden)
        first_seen = [self._registry.rows[row].first_seen for row in rows.tolist()]
        unwatched = unwatched_incidents(fit_task(rule, learned, first_seen))
        state = self._model.fit(blank_history(learned, unwatched))
        if any(choice.stopped for choice in self._model.choices(state)):
            self._causes.append("training is stopped by its limit of time (train_time), elsewhere in another round")
        return replace(state, as_of=until)

    def _gaps(self, labels: Sequence[Labels], start: int, until: int) -> list[tuple[int, int, int]]:
        """What the fit did not learn from, as the store now knows it."""
        rows = rows_by_unit(self._rule, labels)
        slot = until + self._rule.interval_ms
        episodes = self._store.episodes(rule=self._rule.id, start=start, end=slot, limit=100_000)
        as_then = [replace(e, closed_at=0, close=None) if e.closed_at > until else e for e in episodes]
        live = frozenset(e.id for e in as_then if not e.closed_at and e.started_at <= until)
        # An episode that closed in the slot of the fit was neither live nor known to be closed.
        live -= {e.id for e in episodes if e.closed_at == slot}
        heard = self._feedback(self._rule, until)
        gaps = training_gaps(heard, as_then, start, until, live, self._rule.learn == "all")
        return [(i, a, b) for name, a, b in gaps for i in rows.get(name, ())]

    def _live(
        self, state: State, fresh: Block, rows: I64, first: int, stored: Iterable[Observation],
        cuts: dict[int, float],
    ) -> tuple[F64, F64, F64, F64, State]:  # fmt: skip
        """Score the samples, those that were flagged not learned, as then; also the state after them."""
        kinds = {o.at: dict(zip(o.series.tolist(), o.verdicts.kind.tolist(), strict=True)) for o in stored}
        held = self._held(fresh, rows)
        learn_all = self._rule.learn == "all"
        out = [np.full(fresh.values.shape, np.nan) for _ in COLUMNS]
        known = int(np.searchsorted(fresh.times, first))
        cut = cuts.get(first, next(iter(cuts.values())))
        if known:
            hold = held[:, known] if known < held.shape[1] else held[:, -1]
            _, state = score_and_learn(self._rule, self._model, state, fresh.window(0, known), cut, hold)
        for column in range(known, len(fresh.times)):
            at = int(fresh.times[column])
            cut = cuts.get(at, cut)
            one = fresh.window(column, column + 1)
            if at == self._episode.peak_at:
                p = self._peak
                p.model, p.state, p.fresh, p.places = self._model, state, one, self._places(rows)
            scores, after = score_and_learn(self._rule, self._model, state, one, cut, held[:, column])
            for array, name in zip(out, COLUMNS, strict=True):
                array[:, column] = getattr(scores, name)[:, 0]
            flagged = np.array([kinds.get(at, {}).get(row) == Kind.ANOMALOUS for row in rows.tolist()], np.bool_)
            if not learn_all and flagged.any():
                _, after = score_and_learn(self._rule, self._model, state, one, cut, held[:, column] | flagged)
            state = after
        return out[0], out[1], out[2], out[3], state

    def _held(self, fresh: Block, rows: I64) -> Bool:
        """Which series were in a live episode before each column, and so were not learned [N, T]."""
        held = np.zeros(fresh.values.shape, np.bool_)
        if self._rule.learn == "all":
            return held
        first, last = int(fresh.times[0]), int(fresh.times[-1])
        rows_of = rows_by_unit(self._rule, fresh.labels)
        for e in self._store.episodes(rule=self._rule.id, start=first, end=last + 1, limit=100_000):
            for row in rows_of.get(e.fingerprint, ()):
                held[row] |= (fresh.times > e.started_at) & (fresh.times <= (e.closed_at or last))
        return held

    def _compare(
        self, fresh: Block, rows: I64, mine: list[Observation], expected: F64, lower: F64, upper: F64, surprise: F64
    ) -> Replay:
        places, joint = self._places(rows), self._rule.detector.joint
        compared: list[Compared] = []
        largest, rewritten = 0.0, 0
        for o in mine:
            if o.at < self._episode.started_at or not len(o.series):
                continue
            column = int(np.searchsorted(fresh.times, o.at))
            now = [float(array[places[0], column]) for array in (expected, lower, upper, surprise)]
            then = [float(getattr(o, name)[0]) for name in COLUMNS]
            value = float(fresh.values[places[0], column])
            if joint:  # all that a group has is its surprise; its value is that over a cut that votes may have moved
                now, value = [*then[:3], float(np.fmax.reduce(surprise[places, column]))], float(o.value[0])
            away = max(difference(a, b) for a, b in zip(then, now, strict=True))
            moved = difference(float(o.value[0]), value) > TOLERANCE
            rewritten += moved
            largest = max(largest, away)
            compared.append(Compared(o.at, float(o.value[0]), value, then[3], now[3], then[0], now[0],
                                     away <= TOLERANCE and not moved))  # fmt: skip
        if rewritten:
            self._causes.append(f"the source now gives other samples in {rewritten} of {len(compared)} slots")
        equal = all(one.equal for one in compared)
        if not equal and not self._causes:
            self._causes.append("samples before the episode, its siblings or earlier votes have changed since")
        finding = Finding.EQUAL if equal else Finding.DIFFERENT
        return Replay(self._episode, finding, () if equal else tuple(self._causes), tuple(compared), largest)


def difference(a: float, b: float) -> float:
    """Relative difference of two numbers; 0 where both are not numbers or both are the same infinity."""
    if a == b or (np.isnan(a) and np.isnan(b)):
        return 0.0
    if not (np.isfinite(a) and np.isfinite(b)):
        return float("inf")
    return abs(a - b) / max(abs(a), abs(b), 1e-3)
