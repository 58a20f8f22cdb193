"""``evaluate(group, at)``: fetch, score, judge, advance episodes, and commit it all at once.

The one function that the daemon, the backtest, rule unit tests and the demo share. It takes the slot's time and never
asks a clock what time it is. Memories advance only when the commit succeeded (see ``memory.py``), so a slot that failed
is evaluated again from where it was. An error of one rule is that rule's outcome; the others of its group go on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, Labels, fingerprint
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.crashpoint import crashpoint
from anomalyd.detectors.base import Grid, State, join_states
from anomalyd.detectors.model import Model
from anomalyd.episode import Close, Episode, Phase, Seen, advance, begin, close_episode
from anomalyd.errors import AnomalydError, SourceUnavailable
from anomalyd.feedback import Heard, Unheard, apply, training_gaps
from anomalyd.incident import Incident, Notification
from anomalyd.judge import judge, uniform
from anomalyd.memory import Memory, align, empty_memory, keep_rows, registry_from_rows
from anomalyd.records import FeedbackLabel, Fence
from anomalyd.rule import Rule, RuleGroup
from anomalyd.score import Kind, Observation, Scores, Tier, Verdicts, Why
from anomalyd.shard import FitTask, blank_history, fit_shard
from anomalyd.slot import RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store
from anomalyd.stretch import (
    SAMPLES_AT_ONCE,
    Sheet,
    first_flagged,
    judge_sheet,
    last_seen,
    put_rows,
    rowwise,
    sheet_of,
    sheet_of_slot,
)
from anomalyd.tell import Annotate, Happened, Recipients, episode_id, named_receivers, tell
from anomalyd.threshold import NEVER, initial_threshold
from anomalyd.watch import SourceHealth, SourceSeen, source_rule, watch

CATCH_UP_MS = 6 * HOUR_MS
"""Slots missed for longer than this are not scored one by one: the model is fitted anew."""

EXPIRE_MS = DAY_MS
"""A series that has not reported for this long leaves the model; its episodes and scores stay in the store."""

REFIT_PAUSE_MS = 10 * MINUTE_MS
"""Fits of one rule that new series or accepted levels ask for are at least this far apart."""

FAR_MS = 1 << 62
"""Never."""

HISTORY_SAMPLES_MAX = 50_000_000
"""A history longer than this many samples is shortened: Prometheus itself refuses more by default."""


class Reply(Protocol):
    """A source's answer."""

    @property
    def block(self) -> Block: ...
    @property
    def partial(self) -> bool: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...


class Source(Protocol):
    """Where samples come from: Prometheus in the daemon, a recorded block in a replay."""

    def instant(self, expr: str, at_ms: int, *, limit: int | None = None) -> Reply: ...

    def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> Reply: ...


@dataclass(slots=True)
class RuleRun:
    """A rule with its memory; ``fitting`` is a fit in flight."""

    rule: Rule
    model: Model
    memory: Memory
    fitting: Future[Fitted] | None = None
    fit_started_at: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A fresh state for the series with these rows, learned from history up to ``until``."""

    rows: I64
    state: State
    until: int


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
    failure: Exception | None = None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How a group fared, for logs and metrics.

    ``committed`` is False when the slot had been written before; ``owed`` counts the notifications now in the outbox.
    """

    group: str
    at: int
    missed: int
    committed: bool
    owed: int
    rules: Mapping[str, Advanced]


@dataclass(slots=True)
class _Changes:
    """Collects what the columns of one answer change."""

    slots: list[RuleSlot] = field(default_factory=list)
    episodes: dict[str, Episode] = field(default_factory=dict)
    incidents: dict[str, Incident] = field(default_factory=dict)
    outbox: list[Notification] = field(default_factory=list)

    def take_in(self, later: _Changes) -> None:
        """Add what later columns changed."""
        self.slots += later.slots
        self.episodes |= later.episodes
        self.incidents |= later.incidents
        self.outbox += later.outbox


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
class _Stretch:
    """What living through several columns at once gives: as many changes as columns, without their slots."""

    memory: Memory
    sheet: Sheet
    changes: list[_Changes]
    cut: float


class Witness(Protocol):
    """Sees what ``Evaluator.live`` lives through."""

    def saw(self, sheet: Sheet) -> None:
        """Observations of one or several slots, before they are committed."""
        ...

    def committed(self, at: int, owed: int) -> None:
        """A slot in which something happened was committed; ``owed`` notifications were added to the outbox."""
        ...


class Evaluator:
    """Evaluates groups of rules against sources and a store; holds each rule's memory."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, Source],
        *,
        annotate: Annotate,
        links: Callable[[Rule], Mapping[str, str]],
        fit: Executor,
        background: Executor,
        operators: Sequence[str] = (),
        feedback: Heard | None = None,
        recipients: Recipients = named_receivers,
        fence: Callable[[], Fence | None] = lambda: None,
    ):
        """``fit`` computes fits; ``background`` reads the history for them (inline: both happen within the slot).

        ``operators`` are the receivers that are told when a source does not answer; ``fence`` is the proof of
        leadership for each commit, where several daemons share the store.
        """
        self._store, self._sources = store, sources
        self._annotate, self._links = annotate, links
        self._fit, self._background = fit, background
        self._operators, self.recipients, self.fence = operators, recipients, fence
        self._feedback = feedback or Unheard()
        self._sources_lock = threading.Lock()
        self.runs: dict[str, RuleRun] = {}
        self.health = {name: self._restored_health(name) for name in sources}

    def add(self, rule: Rule) -> None:
        """Take up a rule: its registry, live episodes and open incidents come from the store."""
        model = Model(rule.detector, Grid(rule.interval_ms, rule.timezone), rule.seed)
        registry = registry_from_rows(rule.id, self._store.series(rule.id))
        live = self._store.live_episodes(rule.id)
        episodes = {registry.index[e.labels]: e for e in live if e.labels in registry.index}
        incidents = {incident.key: incident for incident in self._store.open_incidents(rule.id)}
        last = self._store.last_rule_slot(rule.id) or 0
        memory = replace(empty_memory(rule.id), registry=registry, episodes=episodes, incidents=incidents, at=last)
        self.runs[rule.id] = RuleRun(rule, model, memory)

    def update(self, rule: Rule) -> None:
        """Change a rule whose learned state stays valid (same ``model_key``): tiers, direction, routing, texts."""
        run = self.runs[rule.id]
        run.rule = rule
        run.memory = replace(run.memory, cuts=cuts_of(rule, len(run.memory.active)))

    def remove(self, rule_id: str, at: int) -> None:
        """Let go of a rule that the files no longer name: close its episodes and tell whoever was told of them."""
        run = self.runs.pop(rule_id)
        ended = [Happened(*close_episode(e, at, Close.RULE_REMOVED)) for e in run.memory.episodes.values()]
        if ended:
            links = self._links(run.rule)
            told = tell(
                run.rule, at, ended, (), run.memory.incidents, lambda _: NEVER, self._annotate, links, self.recipients
            )
            self._store.save_episodes(told.episodes, told.incidents, told.outbox, fence=self.fence())

    def recall(self) -> None:
        """Forget every memory and take up all rules anew: another daemon has led since."""
        for run in list(self.runs.values()):
            self.add(run.rule)
        self.health = {name: self._restored_health(name) for name in self._sources}

    def use_sources(self, sources: Mapping[str, Source], operators: Sequence[str]) -> None:
        """Read from these from now on; what is known of a source's health stays."""
        self._sources, self._operators = sources, operators
        self.health = {name: self.health.get(name) or self._restored_health(name) for name in sources}

    def forget(self, rule_id: str) -> None:
        """Drop a rule's memory without a word: another process evaluates it now."""
        self.runs.pop(rule_id, None)

    def evaluate(self, group: RuleGroup, at: int, missed: int = 0) -> Evaluated:
        """Evaluate all rules of a group at a slot and commit; raise ``StoreError`` when nothing could be written."""
        advanced = {rule.id: self._evaluate_rule(self.runs[rule.id], at) for rule in group.rules}
        with self._sources_lock:
            return self._commit(group, at, missed, advanced)

    def _commit(self, group: RuleGroup, at: int, missed: int, advanced: Mapping[str, Advanced]) -> Evaluated:
        health, incidents, outbox = self._watch_sources(group, at, advanced)
        commit = SlotCommit(
            group=group.name,
            at=at,
            rules=tuple(slot for one in advanced.values() for slot in one.slots),
            missed=missed,
            series=tuple(row for one in advanced.values() for row in one.series),
            episodes=tuple(e for one in advanced.values() for e in one.episodes),
            incidents=(*incidents, *(i for one in advanced.values() for i in one.incidents)),
            outbox=(*outbox, *(n for one in advanced.values() for n in one.outbox)),
        )
        crashpoint("before_commit")
        committed = self._store.commit_slot(commit, fence=self.fence())
        crashpoint("after_commit")
        if committed:
            for rule_id, one in advanced.items():
                self.runs[rule_id].memory = one.memory
            self.health.update(health)
        return Evaluated(group.name, at, missed, committed, len(commit.outbox), advanced)

    def _watch_sources(
        self, group: RuleGroup, at: int, advanced: Mapping[str, Advanced]
    ) -> tuple[dict[str, SourceHealth], list[Incident], list[Notification]]:
        health: dict[str, SourceHealth] = {}
        incidents: list[Incident] = []
        outbox: list[Notification] = []
        for source in {rule.source for rule in group.rules}:
            rules = [rule for rule in group.rules if rule.source == source]
            failures = [advanced[rule.id].failure for rule in rules]
            down = next((f for f in failures if isinstance(f, SourceUnavailable)), None)
            seen = SourceSeen(source, down.reason if down else "", str(down or ""))
            hold_ms = min(rule.hold_ms for rule in rules)
            health[source], changed, owed = watch(self.health[source], seen, at, hold_ms, self._operators, {})
            incidents += changed
            outbox += owed
        return health, incidents, outbox

    def _restored_health(self, source: str) -> SourceHealth:
        """After a restart an incident that was told is still owed its end."""
        for incident in self._store.open_incidents(source_rule(source)):
            return SourceHealth(incident.opened_at, incident)
        return SourceHealth()

    # One rule ---------------------------------------------------------------------------------------------------

    def _evaluate_rule(self, run: RuleRun, at: int) -> Advanced:
        try:
            memory = self._adopt_fit(run, run.memory, at)
            reply = self._read(run.rule, memory, at)
            return self._advance(run, memory, reply, at)
        except AnomalydError as error:
            return _failed(run, at, error.reason, str(error), error)
        except Exception as error:  # a bug in one detector must not take its group down; it is logged with traceback
            return _failed(run, at, "internal", f"{type(error).__name__}: {error}", error)

    def _read(self, rule: Rule, memory: Memory, at: int) -> Reply:
        source = self._sources[rule.source]
        since = _as_of(memory)
        if since is None or at - since <= rule.interval_ms:
            return source.instant(rule.expr, at)
        return source.range(rule.expr, since + rule.interval_ms, at, rule.interval_ms)

    def _advance(self, run: RuleRun, memory: Memory, reply: Reply, at: int) -> Advanced:
        rule = run.rule
        aligned = align(memory, reply.block, rule.drop_labels, rule.max_series)
        memory, series = self._take_in(run, aligned.memory, aligned.added, at)
        values = np.concatenate([aligned.values, aligned.added_values])
        if memory.state is None:
            memory = self._first_fit(run, memory, at)
            if memory.state is not None and at - memory.state.as_of > rule.interval_ms:
                # After a restart: what was missed since the last slot is read and lived through.
                reply = self._read(rule, memory, at)
                values = align(memory, reply.block, rule.drop_labels, rule.max_series).values
        changes = _Changes()
        memory = self._hear(run, memory, at, changes)
        if reply.partial and rule.partial_response == "hold":
            changes.slots.append(_unknown(rule, memory, at, values[:, -1], Kind.PARTIAL, "partial", reply.warnings))
        elif memory.state is None:
            changes.slots.append(_unknown(rule, memory, at, values[:, -1], Kind.WARMING_UP, "", ()))
        else:
            memory = self._score(run, memory, Block(_labels(memory), reply.block.times, values), changes)
            memory = self._expire(memory, at)
        self._refit_if_due(run, memory, at)
        return Advanced(
            replace(memory, at=at) if changes.slots[-1].outcome == "ok" else memory,
            tuple(changes.slots), series, tuple(changes.episodes.values()), tuple(changes.incidents.values()),
            tuple(changes.outbox), reply.warnings, aligned.limited, aligned.duplicates,
        )  # fmt: skip

    def _hear(self, run: RuleRun, memory: Memory, at: int, changes: _Changes) -> Memory:
        """Take in what analysts said: move the cuts, close what they call the new normal."""
        heard = self._feedback(run.rule, at)
        cuts = cuts_of(run.rule, len(memory.active))
        if heard.moves_cuts:
            names = [memory.registry.rows[row].fingerprint for row in memory.active.tolist()]
            cuts = apply(heard, cuts, names, at, self._feedback.policy)
        memory = replace(memory, cuts=cuts)
        accepted = [e for e in memory.episodes.values() if heard.labels.get(e.id) == FeedbackLabel.NEW_NORMAL]
        closed = [Happened(*close_episode(e, at, Close.NEW_NORMAL)) for e in accepted]
        return self._tell(run.rule, memory, closed, at, changes)

    def _take_in(
        self, run: RuleRun, memory: Memory, added: tuple[Labels, ...], at: int
    ) -> tuple[Memory, tuple[SeriesRow, ...]]:
        """Make series that are new to the answer active: registered if need be, and joined to the state."""
        if not added:
            return memory, ()
        registry, rows = memory.registry.register([ls for ls in added if ls not in memory.registry.index], at)
        ids = np.array([registry.index[labels] for labels in added], np.int64)
        state = memory.state
        if state is not None:
            nothing = Block(added, np.zeros(0, np.int64), np.zeros((len(added), 0)))
            state = replace(run.model.join(state, nothing), as_of=state.as_of)
        active = np.concatenate([memory.active, ids])
        seen = np.concatenate([memory.last_seen, np.full(len(ids), at, np.int64)])
        cuts = cuts_of(run.rule, len(active))
        return replace(memory, registry=registry, active=active, last_seen=seen, cuts=cuts, state=state), rows

    def _score(self, run: RuleRun, memory: Memory, fresh: Block, changes: _Changes) -> Memory:
        """Score the answer's columns; judge and tell those that are newer than the newest slot evaluated.

        Columns are lived through one by one, because whether a sample may be learned depends on the verdict before it.
        """
        assert memory.state is not None, "only a fitted rule scores"
        known = int(np.searchsorted(fresh.times, memory.at, side="right"))
        if known:
            _, state = run.model.score(memory.state, fresh.window(0, known), _band_cut(memory), _hold(run.rule, memory))
            memory = replace(memory, state=state)
        fresh = fresh.window(known)
        if len(fresh.times) < 2 or not rowwise(run.model.detector):
            for column in range(len(fresh.times)):
                memory = self._live_column(run, memory, fresh.window(column, column + 1), changes, _band_cut(memory))
            return memory
        width = max(1, SAMPLES_AT_ONCE // max(1, len(fresh)))
        for first in range(0, len(fresh.times), width):
            stretch = self._live_stretch(run, memory, fresh.window(first, first + width))
            memory = stretch.memory
            for column, later in enumerate(stretch.changes):
                slot = _slot_of(run.rule, memory, stretch.sheet, column, stretch.cut)
                later.slots = [replace(slot, observation=stretch.sheet.observation(column))]
                changes.take_in(later)
        return memory

    def _live_column(self, run: RuleRun, memory: Memory, fresh: Block, changes: _Changes, cut: float) -> Memory:
        rule, before = run.rule, memory.state
        assert before is not None, "only a fitted rule scores"
        scores, after = run.model.score(before, fresh, cut, _hold(rule, memory))
        at, value = int(fresh.times[0]), fresh.values[:, 0]
        memory = self._judge_column(rule, replace(memory, state=after), value, scores, at, changes, cut)
        if rule.learn == "normal_only" and memory.last is not None:
            flagged = np.nonzero(memory.last.verdicts.kind == Kind.ANOMALOUS)[0]
            memory = replace(memory, state=_unlearn(after, before, flagged))
        return memory

    def _judge_column(
        self, rule: Rule, memory: Memory, value: F64, scores: Scores, at: int, changes: _Changes, cut: float
    ) -> Memory:
        expected, surprise = scores.expected[:, 0], scores.surprise[:, 0]
        verdicts = judge(rule, value, expected, surprise, memory.cuts)
        if memory.relearn:
            verdicts.kind[np.isin(memory.active, list(memory.relearn))] = Kind.WARMING_UP
        seen_at = np.where(np.isfinite(value), at, memory.last_seen)
        observation = Observation(
            at, memory.active, value, expected, scores.lower[:, 0], scores.upper[:, 0], surprise, verdicts
        )
        memory = replace(memory, last_seen=seen_at, last=observation)
        happened = _advance_episodes(rule, memory, observation)
        memory = self._tell(rule, memory, happened, at, changes)
        changes.slots.append(
            RuleSlot(rule.id, at, "ok", cut=cut, model=memory.model, observation=observation)
        )
        return memory

    # Several columns at once ------------------------------------------------------------------------------------

    def _live_stretch(self, run: RuleRun, memory: Memory, fresh: Block) -> _Stretch:
        """Live through columns: calm series in one go, the others slot by slot while they are not calm.

        The same, to the sample, as living through them one by one; see ``stretch.py``.
        """
        before, cut = memory.state, _band_cut(memory)
        assert before is not None, "only a fitted rule scores"
        scores, after = run.model.score(before, fresh, cut, np.zeros(len(fresh), np.bool_))
        verdicts = judge_sheet(run.rule, fresh.values, scores, memory.cuts)
        sheet = sheet_of(memory.active, fresh, scores, verdicts)
        changes = [_Changes() for _ in range(len(fresh.times))]
        flagged = first_flagged(verdicts, fresh.values.shape)
        restless = np.nonzero((flagged < len(fresh.times)) | np.isin(memory.active, _not_calm(memory)))[0]
        if len(restless):
            life = _Restless(self, run, memory, fresh, cut, sheet, changes)
            for row in restless.tolist():
                life.take_up(row, int(flagged[row]))
            memory, parts = life.live()
            after = put_rows(after, before, restless, parts)
        seen = last_seen(memory.last_seen, fresh)
        memory = replace(memory, state=after, last_seen=seen, last=sheet.observation(len(fresh.times) - 1))
        return _Stretch(memory, sheet, changes, cut)

    def live(self, group: RuleGroup, at: int, until: int, witness: Witness) -> int:
        """Live through one slot at least, and through as many of those up to ``until`` as can be taken together.

        For sources that have it all already: backtests. What happens is what ``evaluate`` would have done slot by slot,
        but slots in which nothing happened are not committed, and scores go to the witness and not into the store.
        Returns the slot that comes next. Only for groups of one rule; raises what a rule's evaluation raises.
        """
        (rule,) = group.rules
        run = self.runs[rule.id]
        last = self._calm_until(run, at, until)
        if last > at:
            block = self._whole_block(run, at, last)
            if block is not None:
                return self._live_together(group, run, block, witness)
        advanced = self._evaluate_rule(run, at)
        if advanced.failure is not None:
            raise advanced.failure
        for slot in advanced.slots:
            if slot.observation is not None:
                witness.saw(sheet_of_slot(slot.observation))
        self._commit_changes(group, at, advanced, witness)
        run.memory = advanced.memory
        return at + rule.interval_ms

    def _calm_until(self, run: RuleRun, at: int, until: int) -> int:
        """The last slot up to which no fit, no expiry and no gap can come between; ``at`` when nothing is known."""
        memory, rule = run.memory, run.rule
        due = memory.state is None or run.fitting is not None or bool(memory.relearn)
        if due or _as_of(memory) != at - rule.interval_ms or memory.at != at - rule.interval_ms:
            return at
        if not len(memory.active) or not rowwise(run.model.detector):
            return at
        ends = [until, _refit_at(run, memory), _expiry(rule, memory)]
        width = max(1, SAMPLES_AT_ONCE // len(memory.active))
        last = min(_slot_from(end, at, rule) for end in ends)
        return min(last, until, at + (width - 1) * rule.interval_ms)

    def _whole_block(self, run: RuleRun, at: int, last: int) -> Block | None:
        """The samples of the slots, as far as no series is new in them; None where the first slot has one."""
        rule, memory = run.rule, run.memory
        reply = self._sources[rule.source].range(rule.expr, at, last, rule.interval_ms)
        aligned = align(memory, reply.block, rule.drop_labels, rule.max_series)
        columns = len(reply.block.times)
        if aligned.duplicates or reply.partial or (aligned.added and aligned.limited):
            return None
        if aligned.added:
            columns = int(np.isfinite(aligned.added_values).any(axis=0).argmax())
        run.memory = self._hear(run, aligned.memory, at, _Changes())
        block = Block(_labels(memory), reply.block.times[:columns], aligned.values[:, :columns])
        return block if columns > 1 else None

    def _live_together(self, group: RuleGroup, run: RuleRun, block: Block, witness: Witness) -> int:
        stretch = self._live_stretch(run, run.memory, block)
        if stretch.memory.relearn:
            # A level was accepted within: the rule must be fitted at that very slot.
            ends = [i for i, c in enumerate(stretch.changes) if _accepts(c)]
            stretch = self._live_stretch(run, run.memory, block.window(0, ends[0] + 1))
        at = int(stretch.sheet.times[-1])
        witness.saw(stretch.sheet)
        for column in range(len(stretch.changes) - 1):
            self._commit_column(group, run, stretch, column, witness)
        run.memory = replace(self._expire(stretch.memory, at), at=at)
        self._refit_if_due(run, run.memory, at)  # before the slot is committed, as in ``evaluate``
        self._commit_column(group, run, stretch, len(stretch.changes) - 1, witness)
        return at + run.rule.interval_ms

    def _commit_column(self, group: RuleGroup, run: RuleRun, stretch: _Stretch, column: int, witness: Witness) -> None:
        changes = stretch.changes[column]
        if changes.episodes:
            slot = _slot_of(run.rule, stretch.memory, stretch.sheet, column, stretch.cut)
            advanced = Advanced(
                stretch.memory, (slot,), (), tuple(changes.episodes.values()), tuple(changes.incidents.values()),
                tuple(changes.outbox),
            )  # fmt: skip
            self._commit_changes(group, slot.at, advanced, witness)

    def _commit_changes(self, group: RuleGroup, at: int, one: Advanced, witness: Witness) -> None:
        if one.series or one.episodes or one.incidents or one.outbox:
            slots = tuple(replace(slot, observation=None) for slot in one.slots)
            commit = SlotCommit(
                group.name, at, slots, series=one.series, episodes=one.episodes, incidents=one.incidents,
                outbox=one.outbox,
            )  # fmt: skip
            self._store.commit_slot(commit)
            witness.committed(at, len(one.outbox))

    def _tell(self, rule: Rule, memory: Memory, happened: list[Happened], at: int, changes: _Changes) -> Memory:
        if not happened:
            return memory
        live = dict(memory.episodes)
        relearn = set(memory.relearn)
        for what in happened:
            row = memory.registry.index[what.episode.labels]
            live.pop(row, None)
            if what.episode.phase != Phase.CLOSED:
                live[row] = what.episode
            elif what.episode.close in (Close.NEW_LEVEL, Close.NEW_NORMAL):
                relearn.add(row)
        told = tell(
            rule, at, happened, live.values(), memory.incidents, lambda e: _cut_of(memory, e), self._annotate,
            self._links(rule), self.recipients,
        )  # fmt: skip
        by_id = {episode.id: episode for episode in told.episodes}
        changes.episodes.update(by_id)
        changes.incidents.update({incident.id: incident for incident in told.incidents})
        changes.outbox.extend(told.outbox)
        live = {row: by_id.get(episode.id, episode) for row, episode in live.items()}
        return replace(memory, episodes=live, incidents=told.open_incidents, relearn=frozenset(relearn))

    def _expire(self, memory: Memory, at: int) -> Memory:
        """Let go of series that have long vanished, and of absent ones whose absence was accepted."""
        accepted = (at > memory.last_seen) & np.isin(memory.active, list(memory.relearn))
        live = np.isin(memory.active, list(memory.episodes))
        drop = ((at - memory.last_seen >= EXPIRE_MS) | accepted) & ~live
        if not drop.any():
            return memory
        kept = keep_rows(memory, ~drop)
        return replace(kept, relearn=memory.relearn & frozenset(kept.active.tolist()))

    # Fits -------------------------------------------------------------------------------------------------------

    def _first_fit(self, run: RuleRun, memory: Memory, at: int) -> Memory:
        """Begin the fit a rule cannot score without; where it ends at once (inline), go on with it."""
        if run.fitting is None and len(memory.active):
            self._start_fit(run, memory, at)
        return self._adopt_fit(run, memory, at)

    def _start_fit(self, run: RuleRun, memory: Memory, at: int) -> None:
        until = at - run.rule.interval_ms
        if memory.state is None and 0 < memory.at < until and at - memory.at <= CATCH_UP_MS:
            until = memory.at  # after a restart: learn up to where we were, then live through what was missed
        run.fit_started_at = at
        live = frozenset(episode.id for episode in memory.episodes.values())
        run.fitting = self._background.submit(self._read_and_fit, run.rule, memory.active, _labels(memory), until, live)

    def _read_and_fit(
        self, rule: Rule, rows: I64, labels: tuple[Labels, ...], until: int, live: frozenset[str]
    ) -> Fitted:
        columns = max(1, min(rule.history_ms // rule.interval_ms, HISTORY_SAMPLES_MAX // max(1, len(rows))))
        start = until - (columns - 1) * rule.interval_ms
        reply = self._sources[rule.source].range(rule.expr, start, until, rule.interval_ms)
        known = replace(
            empty_memory(rule.id),
            active=np.arange(len(labels)),
            registry=replace(empty_memory(rule.id).registry, index={ls: i for i, ls in enumerate(labels)}),
        )
        values = align(known, reply.block, rule.drop_labels, len(labels)).values
        history = Block(labels, reply.block.times, values)
        hidden = self._hidden_spans(rule, {ls: i for i, ls in enumerate(labels)}, start, until, live)
        task = FitTask(rule.detector, Grid(rule.interval_ms, rule.timezone), rule.seed, blank_history(history, hidden))
        return Fitted(rows, replace(self._fit.submit(fit_shard, task).result(), as_of=until), until)

    def _hidden_spans(
        self, rule: Rule, position: Mapping[Labels, int], start: int, until: int, live: frozenset[str]
    ) -> list[tuple[int, int, int]]:
        """Spans of history not to learn from, by position: see ``training_gaps``.

        The slot in hand is not committed yet: of the episodes that the store takes for open, ``live`` ones still are.
        """
        rows = {fingerprint(labels): row for labels, row in position.items()}
        episodes = self._store.episodes(rule=rule.id, start=start, end=until + 1, limit=100_000)
        heard = self._feedback(rule, until)
        gaps = training_gaps(heard, episodes, start, until, live, rule.learn == "all")
        return [(rows[name], first, stop) for name, first, stop in gaps if name in rows]

    def _adopt_fit(self, run: RuleRun, memory: Memory, at: int) -> Memory:
        """Go on with a finished fit; forget a state that is too far behind to be caught up with."""
        since = _as_of(memory)
        if since is not None and at - since > CATCH_UP_MS:
            memory = replace(memory, state=None)
        if run.fitting is None or not run.fitting.done():
            return memory
        future, run.fitting = run.fitting, None
        fitted = future.result()
        if at - fitted.until > CATCH_UP_MS:
            return memory
        state = _arrange(run.model, fitted, memory)
        version = f"{run.model.version}-{fitted.until}"
        return replace(memory, state=state, fitted_at=fitted.until, model=version, relearn=frozenset())

    def _refit_if_due(self, run: RuleRun, memory: Memory, at: int) -> None:
        if run.fitting is None and memory.state is not None and at >= _refit_at(run, memory):
            self._start_fit(run, memory, at)


# Pure helpers -----------------------------------------------------------------------------------------------------


def cuts_of(rule: Rule, series: int) -> F64:
    """Each series' cut per tier [N, 3], before feedback."""
    return np.tile(np.array(initial_threshold(rule, max(1, series)).cuts), (series, 1))


def _hold(rule: Rule, memory: Memory) -> Bool:
    """Which series are in a live episode and therefore scored without being learned [N]."""
    return memory.hold() if rule.learn == "normal_only" else np.zeros(len(memory.active), np.bool_)


def _refit_at(run: RuleRun, memory: Memory) -> int:
    """When the next fit is due as things are."""
    soonest = run.fit_started_at + REFIT_PAUSE_MS
    registered = [memory.registry.rows[row].first_seen for row in memory.active[-1:].tolist()]
    newcomers = bool(registered) and registered[0] > memory.fitted_at + run.rule.interval_ms
    if memory.relearn or newcomers:
        return soonest
    return FAR_MS if run.model.streaming else max(soonest, memory.fitted_at + run.rule.refit_every_ms)


def _slot_from(time: int, at: int, rule: Rule) -> int:
    """The first slot not before a time, on the grid of the slot ``at``."""
    return at + max(0, -((at - time) // rule.interval_ms)) * rule.interval_ms


def _not_calm(memory: Memory) -> list[int]:
    """Rows of the series whose verdicts decide what they learn or say."""
    return [*memory.episodes, *memory.relearn]


def _slot_of(rule: Rule, memory: Memory, sheet: Sheet, column: int, cut: float) -> RuleSlot:
    """A column of a sheet as a slot, without its scores."""
    return RuleSlot(rule.id, int(sheet.times[column]), "ok", cut=cut, model=memory.model)


def _expiry(rule: Rule, memory: Memory) -> int:
    """The soonest time at which a series may expire."""
    may = memory.last_seen
    if rule.missing == "hold":
        # An episode of a series that is away stays open until it is back, and as long the series stays.
        may = may[~np.isin(memory.active, list(memory.episodes))]
    return int(may.min()) + EXPIRE_MS if len(may) else FAR_MS


def _accepts(changes: _Changes) -> bool:
    return any(episode.close == Close.NEW_LEVEL for episode in changes.episodes.values())


class _Restless:
    """Lives through a stretch for the series that are flagged in it or were not calm before it.

    In each column the ``live`` ones are lived through as any slot is; the ``ahead`` ones were scored in one go and join
    where they are flagged. ``memory`` is the whole rule's, but for the state.
    """

    def __init__(
        self, evaluator: Evaluator, run: RuleRun, memory: Memory, fresh: Block, cut: float, sheet: Sheet,
        changes: list[_Changes],
    ):  # fmt: skip
        self._evaluator, self._run, self._memory, self._fresh, self._cut = evaluator, run, memory, fresh, cut
        self._sheet, self._changes = sheet, changes
        self._live: dict[int, State] = {}
        self._ahead: dict[int, _Ahead] = {}
        self._rows: list[int] = []

    def take_up(self, row: int, flagged: int) -> None:
        """Begin with a series: its row in the block, and the first column in which it was flagged."""
        assert self._memory.state is not None, "only a fitted rule scores"
        state = self._memory.state.take([row])
        self._rows.append(row)
        if int(self._memory.active[row]) in self._watched():
            self._live[row] = state
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
        parts = [self._live[row] if row in self._live else self._ahead[row].after for row in self._rows]
        m = self._memory
        memory = replace(whole, episodes=m.episodes, incidents=m.incidents, relearn=m.relearn)
        return memory, join_states(parts)

    def _watched(self) -> set[int]:
        return {*self._memory.episodes, *self._memory.relearn}

    def _join(self, row: int, column: int) -> None:
        """A series is flagged: bring its state to the column before."""
        one = self._ahead.pop(row)
        state = one.state
        if one.column < column:
            past = self._fresh.take([row]).window(one.column, column)
            _, state = self._run.model.score(state, past, self._cut, np.zeros(1, np.bool_))
        self._live[row] = state

    def _column(self, column: int) -> None:
        rows = np.array(sorted(self._live), np.int64)
        whole = self._memory
        states = join_states([self._live[row] for row in rows.tolist()])
        part = replace(
            whole, active=whole.active[rows], last_seen=whole.last_seen[rows], cuts=whole.cuts[rows], state=states
        )
        fresh = self._fresh.take(rows).window(column, column + 1)
        after = self._evaluator._live_column(self._run, part, fresh, self._changes[column], self._cut)
        assert after.state is not None, "a column is scored"
        assert after.last is not None, "a column is judged"
        self._sheet.put_slot(rows, column, after.last)
        self._memory = replace(whole, episodes=after.episodes, incidents=after.incidents, relearn=after.relearn)
        watched = self._watched()
        for i, row in enumerate(rows.tolist()):
            self._live[row] = after.state.take([i])
            if int(whole.active[row]) not in watched:
                self._look_ahead(row, column + 1)

    def _look_ahead(self, row: int, column: int) -> None:
        """A series is calm again: score it up to where it is flagged next."""
        state, fresh = self._live.pop(row), self._fresh.take([row]).window(column)
        scores, after = self._run.model.score(state, fresh, self._cut, np.zeros(1, np.bool_))
        verdicts = judge_sheet(self._run.rule, fresh.values, scores, self._memory.cuts[[row]])
        self._sheet.put(np.array([row]), column, scores, verdicts)
        flagged = int(first_flagged(verdicts, fresh.values.shape)[0])
        self._ahead[row] = _Ahead(state, column, column + flagged, after)


def _unlearn(after: State, before: State, rows: I64) -> State:
    """Give the flagged series the state they had before the sample that was flagged."""
    if not len(rows):
        return after
    arrays = dict(after.arrays)
    for name, array in after.arrays.items():
        if name not in after.shared:
            mended = array.copy()
            mended[rows] = before.arrays[name][rows]
            arrays[name] = mended
    return replace(after, arrays=arrays)


def _labels(memory: Memory) -> tuple[Labels, ...]:
    rows = memory.registry.rows
    return tuple(rows[row].labels for row in memory.active.tolist())


def _as_of(memory: Memory) -> int | None:
    return memory.state.as_of if memory.state is not None else None


def _band_cut(memory: Memory) -> float:
    """The cut at which bands are drawn and anomaly scores are 1."""
    return float(memory.cuts.min()) if memory.cuts.size else NEVER


def _cut_of(memory: Memory, episode: Episode) -> float:
    row = memory.registry.index[episode.labels]
    position = np.nonzero(memory.active == row)[0]
    return float(memory.cuts[position[0]].min()) if len(position) else _band_cut(memory)


def _arrange(model: Model, fitted: Fitted, memory: Memory) -> State:
    """Bring a fitted state into the order of the active series; those it does not know join without a past."""
    place = {int(row): i for i, row in enumerate(fitted.rows)}
    active = memory.active.tolist()
    strangers = [row for row in active if row not in place]
    state = fitted.state
    if strangers:
        labels = tuple(memory.registry.rows[row].labels for row in strangers)
        state = model.join(state, Block(labels, np.zeros(0, np.int64), np.zeros((len(labels), 0))))
        place |= {row: len(fitted.rows) + i for i, row in enumerate(strangers)}
    return replace(state.take([place[row] for row in active]), as_of=fitted.until)


def _advance_episodes(rule: Rule, memory: Memory, seen: Observation) -> list[Happened]:
    """Move the live episodes by one slot and begin new ones; only series that are or were abnormal are touched."""
    verdicts = seen.verdicts
    position = {int(row): i for i, row in enumerate(memory.active)} if memory.episodes else {}
    happened: list[Happened] = []
    for row, episode in memory.episodes.items():
        at = position.get(row)
        what = _seen(seen, at) if at is not None else _NOT_SEEN
        happened.append(Happened(*advance(episode, rule, seen.at, what)))
    for i in np.nonzero(verdicts.kind == Kind.ANOMALOUS)[0].tolist():
        row = int(memory.active[i])
        if row in memory.episodes:
            continue
        series = memory.registry.rows[row]
        what = _seen(seen, i)
        identity = episode_id(rule.id, series.fingerprint, seen.at)
        fresh = begin(identity, rule, series.fingerprint, series.labels, seen.at, what)
        fresh = replace(fresh, model=memory.model)
        happened.append(Happened(*advance(fresh, rule, seen.at, what)))
    return happened


_NOT_SEEN = Seen(Kind.MISSING, Tier.NONE, Why.NOTHING, math.nan, math.nan, math.nan, math.nan, math.nan)


def _seen(o: Observation, i: int) -> Seen:
    return Seen(
        Kind(int(o.verdicts.kind[i])), Tier(int(o.verdicts.tier[i])), Why(int(o.verdicts.why[i])),
        float(o.value[i]), float(o.expected[i]), float(o.lower[i]), float(o.upper[i]), float(o.surprise[i]),
    )  # fmt: skip


def _unknown(
    rule: Rule, memory: Memory, at: int, value: F64, kind: Kind, reason: str, warnings: Sequence[str]
) -> RuleSlot:
    nan = np.full(len(value), np.nan)
    verdicts: Verdicts = uniform(kind, len(value))
    observation = Observation(at, memory.active, value, nan, nan, nan, nan, verdicts)
    outcome = "partial" if kind == Kind.PARTIAL else "warming_up"
    detail = "; ".join(warnings)[:1024]
    return RuleSlot(rule.id, at, outcome, reason, detail, model=memory.model, observation=observation)


def _failed(run: RuleRun, at: int, reason: str, detail: str, error: Exception) -> Advanced:
    """An unknown slot: episodes, baseline and memory stay as they were."""
    return Advanced(run.memory, (RuleSlot(run.rule.id, at, "error", reason, detail[:1024]),), failure=error)
