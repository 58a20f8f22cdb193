"""Columns: what happens to a rule's series in each slot once its samples are there. Score, judge, advance, tell.

The samples of an answer are lived through column by column, or many columns at once where that gives the same
(``stretch.py``). Nothing here reads a source, a store or a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.detectors.base import State, join_states, rowwise
from anomalyd.detectors.drift import new_drifts
from anomalyd.episode import Close, Event, Phase
from anomalyd.evaluation.advance import (
    advance_episodes,
    came_to_nothing,
    excuse,
    recalled_until,
    stirred_by,
    unlearned,
)
from anomalyd.evaluation.dataquality import doubted
from anomalyd.evaluation.jointly import furthest_of, groups_seen, sheet_with_groups, with_groups
from anomalyd.evaluation.memory import Memory
from anomalyd.evaluation.rulerun import Changes, RuleRun, band_cut, cut_of, hold_of
from anomalyd.judge import judge
from anomalyd.rule import Rule
from anomalyd.score import Kind, Observation, Scores
from anomalyd.slot import NoticeKind, RuleSlot, make_notice
from anomalyd.stretch import (
    SAMPLES_AT_ONCE,
    Sheet,
    first_flagged,
    judge_sheet,
    last_seen,
    put_rows,
    sheet_of,
)
from anomalyd.tell import Annotate, Happened, Recipients, count_siblings, tell


@dataclass(frozen=True, slots=True, eq=False)
class _Ahead:
    """A calm series scored ahead of the others.

    Attributes:
        state: before the column ``column``.
        flagged: the first column with an anomalous verdict, or the number of columns.
        after: the state after all columns; valid where none is flagged.
    """

    state: State
    column: int
    flagged: int
    after: State


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """What living through several columns at once gives: as many changes as columns, without their slots."""

    memory: Memory
    sheet: Sheet
    changes: list[Changes]
    cut: float


def separable(run: RuleRun, memory: Memory) -> bool:
    """Whether calm series may be scored ahead of the others: each by itself, and every live episode is on one of them.

    After a restart an episode may be on a series that has not answered yet; it is moved on in each slot all the same.
    """
    return rowwise(run.model.detector) and bool(np.isin(list(memory.episodes), memory.active).all())


def calm(memory: Memory) -> bool:
    """Whether nothing goes on in any series: then even those that are scored together only have to be scored."""
    return not _not_calm(memory)


class Columns:
    """Lives through the columns of answers."""

    def __init__(self, annotate: Annotate, links: Callable[[Rule], Mapping[str, str]], recipients: Recipients):
        self.annotate, self.links, self.recipients = annotate, links, recipients

    def score(self, run: RuleRun, memory: Memory, fresh: Block, changes: Changes) -> Memory:
        """Score the answer's columns; judge and tell those that are newer than the newest slot evaluated.

        Columns are lived through one by one, because whether a sample may be learned depends on the verdict before it.
        """
        assert memory.state is not None, "only a fitted rule scores"
        known = int(np.searchsorted(fresh.times, memory.at, side="right"))
        if known:
            hold = hold_of(run.rule, memory)
            _, state = run.score(memory.state, fresh.window(0, known), band_cut(memory), hold)
            memory = replace(memory, state=state)
        fresh = fresh.window(known)
        if len(fresh.times) < 2 or not separable(run, memory):
            for column in range(len(fresh.times)):
                one, before = fresh.window(column, column + 1), memory.state
                memory = self.live_column(run, memory, one, changes, band_cut(memory))
                memory = _note_drifts(run, before, memory, one.times, [changes])
            return memory
        width = max(1, SAMPLES_AT_ONCE // max(1, len(fresh)))
        for first in range(0, len(fresh.times), width):
            stretch = self.live_stretch(run, memory, fresh.window(first, first + width))
            memory = stretch.memory
            for column, later in enumerate(stretch.changes):
                slot = slot_of(run.rule, memory, stretch.sheet, column, stretch.cut)
                later.slots = [replace(slot, observation=stretch.sheet.observation(column))]
                changes.take_in(later)
        return memory

    def live_column(self, run: RuleRun, memory: Memory, fresh: Block, changes: Changes, cut: float) -> Memory:
        rule, before = run.rule, memory.state
        assert before is not None, "only a fitted rule scores"
        held = hold_of(rule, memory)
        scores, after = run.score(before, fresh, cut, held)
        scores = doubted(memory.doubt, memory.active, fresh.times, scores, memory.cuts)
        at, value = int(fresh.times[0]), fresh.values[:, 0]
        memory = self._judge_column(rule, replace(memory, state=after), value, scores, at, changes, cut)
        if rule.learn == "normal_only" and memory.last is not None:
            flagged = (memory.last.verdicts.kind == Kind.ANOMALOUS) & ~held
            memory = replace(memory, state=unlearned(run, before, after, fresh, cut, held, flagged))
        return memory

    def _judge_column(
        self, rule: Rule, memory: Memory, value: F64, scores: Scores, at: int, changes: Changes, cut: float
    ) -> Memory:
        expected, surprise = scores.expected[:, 0], scores.surprise[:, 0]
        page = None if scores.page is None else scores.page[:, 0]
        live = None if page is None else _goes_on(memory, at)
        learned = None if scores.learned is None else scores.learned[:, 0]
        young = None if learned is None else learned > 0
        side = None if scores.side is None else scores.side[:, 0]
        verdicts = judge(rule, value, expected, surprise, memory.cuts, page, live, young, side, memory.own)
        if memory.relearn:
            verdicts.kind[np.isin(memory.units, list(memory.relearn))] = Kind.WARMING_UP
        if memory.excused:
            memory = replace(memory, excused=excuse(memory, surprise, verdicts))
        stirred = stirred_by(memory, verdicts) if page is not None else frozenset()
        memory = replace(memory, stirred=stirred)
        seen_at = np.where(np.isfinite(value), at, memory.last_seen)
        observation = Observation(
            at, memory.active, value, expected, scores.lower[:, 0], scores.upper[:, 0], surprise, verdicts,
            learned=learned, opens=page,
        )  # fmt: skip
        memory = replace(memory, last_seen=seen_at, last=observation)
        groups = groups_seen(memory, observation)
        happened = advance_episodes(rule, memory, groups)
        memory = self.tell(rule, memory, happened, at, changes)
        kept = with_groups(memory, observation, groups)
        changes.slots.append(RuleSlot(rule.id, at, "ok", cut=cut, model=memory.model, observation=kept))
        return memory

    def live_stretch(self, run: RuleRun, memory: Memory, fresh: Block) -> Stretch:
        """Live through columns: calm series in one go, the others slot by slot while they are not calm.

        The same, to the sample, as living through them one by one; see ``stretch.py``.
        """
        before, cut = memory.state, band_cut(memory)
        assert before is not None, "only a fitted rule scores"
        scores, after = run.score(before, fresh, cut, np.zeros(len(fresh), np.bool_))
        scores = doubted(memory.doubt, memory.active, fresh.times, scores, memory.cuts)
        verdicts = judge_sheet(run.rule, fresh.values, scores, memory.cuts, memory.own)
        sheet = sheet_of(memory.active, fresh, scores, verdicts)
        changes = [Changes() for _ in range(len(fresh.times))]
        flagged = first_flagged(verdicts, scores, fresh.times, memory.recalled(memory.active))
        restless = np.nonzero((flagged < len(fresh.times)) | np.isin(memory.active, _not_calm(memory)))[0]
        if len(restless):
            life = _Restless(self, run, memory, fresh, cut, sheet, changes)
            for row in restless.tolist():
                life.take_up(row, int(flagged[row]))
            memory, parts = life.live()
            after = put_rows(after, before, restless, parts)
        seen = last_seen(memory.last_seen, fresh)
        memory = replace(memory, state=after, last_seen=seen, last=sheet.observation(len(fresh.times) - 1))
        memory = _note_drifts(run, before, memory, fresh.times, changes)
        return Stretch(memory, sheet_with_groups(memory, sheet), changes, cut)

    def calm_columns(self, run: RuleRun, memory: Memory, fresh: Block) -> int:
        """How many columns come before the first in which a series is flagged, from a memory that is calm.

        So many may be lived through together where series are not separable.
        """
        assert memory.state is not None, "only a fitted rule scores"
        scores, _ = run.score(memory.state, fresh, band_cut(memory), np.zeros(len(fresh), np.bool_))
        scores = doubted(memory.doubt, memory.active, fresh.times, scores, memory.cuts)
        verdicts = judge_sheet(run.rule, fresh.values, scores, memory.cuts, memory.own)
        flagged = first_flagged(verdicts, scores, fresh.times, memory.recalled(memory.active))
        return int(flagged.min(initial=len(fresh.times)))

    def tell(self, rule: Rule, memory: Memory, happened: list[Happened], at: int, changes: Changes) -> Memory:
        if not happened:
            return memory
        live = dict(memory.episodes)
        relearn, excused = set(memory.relearn), set(memory.excused)
        lapsed = {row: until for row, until in memory.lapsed.items() if until > at}
        for what in happened:
            row = memory.registry.index[what.episode.labels]
            live.pop(row, None)
            if what.episode.phase != Phase.CLOSED:
                live[row] = what.episode
            elif what.episode.close in (Close.NEW_LEVEL, Close.NEW_NORMAL):
                relearn.add(row)
            elif what.episode.close == Close.DISMISSED:
                excused.add(row)
            if what.event == Event.OPENED:
                lapsed.pop(row, None)
            elif came_to_nothing(what.episode) and memory.lapsed.get(row, 0) < what.episode.started_at:
                lapsed[row] = recalled_until(rule, what.episode)
        total = len(memory.unit_labels()) if memory.registry.joint else len(memory.siblings)
        told = tell(
            rule, at, happened, live.values(), memory.incidents, lambda e: cut_of(memory, e), self.annotate,
            self.links(rule), self.recipients, count_siblings(rule, total, memory.unit_labels),
            lambda labels: furthest_of(memory, labels),
        )  # fmt: skip
        by_id = {episode.id: episode for episode in told.episodes}
        changes.episodes.update(by_id)
        changes.incidents.update({incident.id: incident for incident in told.incidents})
        changes.outbox.extend(told.outbox)
        live = {row: by_id.get(episode.id, episode) for row, episode in live.items()}
        return replace(
            memory, episodes=live, incidents=told.open_incidents, relearn=frozenset(relearn),
            excused=frozenset(excused), lapsed=lapsed,
        )  # fmt: skip


class _Restless:
    """Lives through a stretch for the series that are flagged in it or were not calm before it.

    In each column the ``live`` ones are lived through as any slot is; the ``ahead`` ones were scored in one go and join
    where they are flagged. ``memory`` is the whole rule's, but for the state.
    """

    def __init__(
        self, columns: Columns, run: RuleRun, memory: Memory, fresh: Block, cut: float, sheet: Sheet,
        changes: list[Changes],
    ):  # fmt: skip
        self._columns, self._run, self._memory, self._fresh, self._cut = columns, run, memory, fresh, cut
        self._sheet, self._changes = sheet, changes
        self._live: dict[int, tuple[State, list[int]]] = {}  # a state that holds the series, and all rows it holds
        self._ahead: dict[int, _Ahead] = {}
        self._rows: list[int] = []

    def take_up(self, row: int, flagged: int) -> None:
        """Begin with a series: its row in the block, and the first column in which it was flagged."""
        assert self._memory.state is not None, "only a fitted rule scores"
        state = self._memory.state.take([row])
        self._rows.append(row)
        if int(self._memory.active[row]) in self._watched():
            self._live[row] = state, [row]
        else:
            self._ahead[row] = _Ahead(state, 0, flagged, state)

    def live(self) -> tuple[Memory, State]:
        """Live through all columns; return the memory with its whole state as it was, and the states of the rows."""
        columns, column = len(self._fresh.times), 0
        whole = self._memory
        while True:
            if not self._live:
                column = min((one.flagged for one in self._ahead.values()), default=columns)
            if column >= columns:
                break
            for row in [row for row, one in self._ahead.items() if one.flagged == column]:
                self._join(row, column)
            self._column(column)
            column += 1
        parts = [self._state(row) if row in self._live else self._ahead[row].after for row in self._rows]
        m = self._memory
        return _after(whole, m), join_states(parts)

    def _watched(self) -> set[int]:
        return set(_not_calm(self._memory))

    def _join(self, row: int, column: int) -> None:
        """A series is flagged: bring its state to the column before."""
        one = self._ahead.pop(row)
        state = one.state
        if one.column < column:
            past = self._fresh.window(one.column, column).take([row])
            _, state = self._run.score(state, past, self._cut, np.zeros(1, np.bool_))
        self._live[row] = state, [row]

    def _state(self, row: int) -> State:
        """The state of one of the live series by itself."""
        state, held = self._live[row]
        return state if held == [row] else state.take([held.index(row)])

    def _states(self, rows: list[int]) -> State:
        """The states of the live series as one: that of the column before, while they are the same series."""
        first, held = self._live[rows[0]]
        if held == rows and all(self._live[row][0] is first for row in rows):
            return first
        return join_states([self._state(row) for row in rows])

    def _column(self, column: int) -> None:
        live, whole = sorted(self._live), self._memory
        rows, states = np.array(live, np.int64), self._states(live)
        part = replace(
            whole, active=whole.active[rows], last_seen=whole.last_seen[rows], cuts=whole.cuts[rows], state=states,
            whole=whole.active,
        )  # fmt: skip
        fresh = self._fresh.window(column, column + 1).take(rows)
        after = self._columns.live_column(self._run, part, fresh, self._changes[column], self._cut)
        assert after.state is not None, "a column is scored"
        assert after.last is not None, "a column is judged"
        self._sheet.put_slot(rows, column, after.last)
        self._memory = _after(whole, after)
        watched = self._watched()
        for row in live:
            self._live[row] = after.state, live
        for row in live:
            if int(whole.active[row]) not in watched:
                self._look_ahead(row, column + 1)

    def _look_ahead(self, row: int, column: int) -> None:
        """A series is calm again: score it up to where it is flagged next."""
        state, fresh = self._state(row), self._fresh.window(column).take([row])
        del self._live[row]
        scores, after = self._run.score(state, fresh, self._cut, np.zeros(1, np.bool_))
        m, chosen = self._memory, np.array([row])
        scores = doubted(m.doubt, m.active[chosen], fresh.times, scores, m.cuts[chosen])
        verdicts = judge_sheet(self._run.rule, fresh.values, scores, m.cuts[chosen], m.own)
        self._sheet.put(chosen, column, scores, verdicts)
        flagged = int(first_flagged(verdicts, scores, fresh.times, m.recalled(m.active[chosen]))[0])
        self._ahead[row] = _Ahead(state, column, column + flagged, after)


def slot_of(rule: Rule, memory: Memory, sheet: Sheet, column: int, cut: float) -> RuleSlot:
    """A column of a sheet as a slot, without its scores."""
    return RuleSlot(rule.id, int(sheet.times[column]), "ok", cut=cut, model=memory.model)


def _goes_on(memory: Memory, at: int) -> Bool:
    """Which series [N] need no news for what is above the cut to matter."""
    return memory.hold() | np.isin(memory.units, list(memory.stirred)) | (memory.recalled(memory.active) >= at)


def _not_calm(memory: Memory) -> list[int]:
    """Rows of the series whose verdicts decide what they learn or say."""
    return [*memory.episodes, *memory.relearn, *memory.excused, *memory.stirred]


def _after(whole: Memory, lived: Memory) -> Memory:
    """The whole rule's memory after some of its series were lived through."""
    return replace(
        whole, episodes=lived.episodes, incidents=lived.incidents, relearn=lived.relearn, excused=lived.excused,
        stirred=lived.stirred, lapsed=lived.lapsed,
    )  # fmt: skip


def _note_drifts(
    run: RuleRun, before: State | None, memory: Memory, times: I64, changes: Sequence[Changes]
) -> Memory:
    """Write down the drifts that were found in these columns, each with the changes of its own; nobody is paged."""
    if before is None or memory.state is None:
        return memory
    for drift in new_drifts(before, memory.state):
        series = memory.registry.rows[int(memory.active[drift.row])]
        notice = make_notice(
            NoticeKind.DRIFT, run.rule.id, drift.at, _LEVEL_DRIFTS if drift.of_level else _SURPRISE_DRIFTS,
            since=drift.since, fingerprint=series.fingerprint, labels=series.labels,
        )  # fmt: skip
        changes[int(np.searchsorted(times, drift.at))].notices.append(notice)
        memory = replace(memory, drifted_at=max(memory.drifted_at, drift.at))
    return memory


_LEVEL_DRIFTS = "the level has moved away from what was learned, and is learned anew"
_SURPRISE_DRIFTS = "samples are more surprising, and stay so, than what was learned explains"
