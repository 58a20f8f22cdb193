"""``evaluate(group, at)``: fetch, score, judge, advance episodes, and commit it all at once.

The one function that the daemon, the backtest, rule unit tests and the demo share. It takes the slot's time and never
asks a clock what time it is. Memories advance only when the commit succeeded (see ``memory.py``), so a slot that failed
is evaluated again from where it was. An error of one rule is that rule's outcome; the others of its group go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from anomalyd.block import Block
from anomalyd.crashpoint import crashpoint
from anomalyd.detectors.base import rowwise
from anomalyd.detectors.model import model_of
from anomalyd.episode import Close, close_episode
from anomalyd.errors import AnomalydError, SourceUnavailable
from anomalyd.evaluation.advance import ended_by_word
from anomalyd.evaluation.columns import Columns, Stretch, slot_of
from anomalyd.evaluation.dataquality import Found, Quality, Ward, end_quality, look_over, quality_rule
from anomalyd.evaluation.fits import Fits, news_of_models
from anomalyd.evaluation.intake import awaiting, calm_until, comings, expire, read_from, take_in, terms_of
from anomalyd.evaluation.memory import Memory, align, empty_memory
from anomalyd.evaluation.registry import registry_of
from anomalyd.evaluation.rulerun import (
    Advanced,
    Changes,
    RuleRun,
    attendance_of,
    crowded,
    cuts_of,
    failed,
    labels_of,
    newer_than,
    rested,
    unknown,
)
from anomalyd.evaluation.snapshot import Snapshots
from anomalyd.evaluation.swap import swapped
from anomalyd.feedback.cuts import TOGETHER_MS, Heard, Unheard, apply, policy_of
from anomalyd.incident import Incident, Notification
from anomalyd.records import NO_SNAPSHOTS, Fence, SnapshotPolicy
from anomalyd.rule import Rule, RuleGroup
from anomalyd.score import Kind
from anomalyd.slot import SlotCommit
from anomalyd.sources import Reply, Source
from anomalyd.store import Store
from anomalyd.stretch import Sheet, sheet_of_slot
from anomalyd.tell import Annotate, Happened, Recipients, named_receivers, tell
from anomalyd.threshold import NEVER
from anomalyd.watch import SourceHealth, SourceSeen, source_rule, watch


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
        snapshots: SnapshotPolicy = NO_SNAPSHOTS,
    ):
        """``fit`` computes fits; ``background`` reads the history for them (inline: both happen within the slot).

        ``operators`` are the receivers that are told when a source does not answer; ``fence`` is the proof of
        leadership for each commit, where several daemons share the store; ``snapshots`` says how states are kept.
        """
        self._store, self._sources = store, sources
        self._operators, self.fence = operators, fence
        self._feedback = feedback or Unheard()
        self._columns = Columns(annotate, links, recipients)
        self._fits = Fits(store, lambda name: self._sources[name], fit, background, self._feedback)
        self.snapshots = Snapshots(store, background, snapshots, self.fence)
        self._sources_lock = threading.Lock()
        self.runs: dict[str, RuleRun] = {}
        self.health = {name: self._restored_health(name) for name in sources}

    def add(self, rule: Rule) -> None:
        """Take up a rule: its registry, live episodes and open incidents come from the store."""
        model = model_of(rule)
        registry = registry_of(rule, *self._store.living_series(rule.id))
        live = self._store.live_episodes(rule.id)
        episodes = {registry.index[e.labels]: e for e in live if e.labels in registry.index}
        incidents = {incident.key: incident for incident in self._store.open_incidents(rule.id)}
        last = self._store.last_rule_slot(rule.id) or 0
        faulty = next(iter(self._store.open_incidents(quality_rule(rule.id))), None)
        memory = replace(
            empty_memory(rule.id), registry=registry, episodes=episodes, incidents=incidents, at=last,
            quality=Quality(incident=faulty),
        )  # fmt: skip
        memory = awaiting(rule, memory, lambda since: self._store.scored_since(rule.id, since))
        self.runs[rule.id] = RuleRun(rule, model, memory)
        self.snapshots.expect(rule.id)

    def update(self, rule: Rule) -> None:
        """Change a rule whose learned state stays valid (same ``model_key``): tiers, direction, routing, texts."""
        run = self.runs[rule.id]
        run.rule = rule
        run.memory = replace(run.memory, cuts=cuts_of(rule, run.memory.units))

    def remove(self, rule_id: str, at: int) -> None:
        """Let go of a rule that the files no longer name: close its episodes and tell whoever was told of them."""
        run = self.runs.pop(rule_id)
        self.snapshots.drop(rule_id)
        self._store.let_series_go([rule_id], at, fence=self.fence())
        ended = [Happened(*close_episode(e, at, Close.RULE_REMOVED)) for e in run.memory.episodes.values()]
        if ended:
            c, links = self._columns, self._columns.links(run.rule)
            told = tell(run.rule, at, ended, (), run.memory.incidents, lambda _: NEVER, c.annotate, links, c.recipients)
            self._store.save_episodes(told.episodes, told.incidents, told.outbox, fence=self.fence())
        c, quality = self._columns, run.memory.quality
        if (over := end_quality(quality, Ward(run.rule, run.memory.active, (), c.recipients, {}), at)) is not None:
            self._store.save_episodes((), [over.incident], over.outbox, fence=self.fence())

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
            notices=tuple(n for one in advanced.values() for n in one.notices),
            gone={rule_id: one.gone for rule_id, one in advanced.items() if one.gone},
        )
        crashpoint("before_commit")
        committed = self._store.commit_slot(commit, fence=self.fence())
        crashpoint("after_commit")
        if committed:
            for rule_id, one in advanced.items():
                self.runs[rule_id].memory = rested(self.runs[rule_id].rule, one.memory)
                if one.failure is None:
                    self.runs[rule_id].attendance = attendance_of(one, self.runs[rule_id].model)
                self.snapshots.keep(self.runs[rule_id], at)
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
            run.memory = self.snapshots.restore(run, run.memory, self._sources[run.rule.source], at)
            memory = self._fits.adopt(run, run.memory, at)
            reply = self._read(run.rule, memory, at)
            return self._advance(run, memory, reply, at)
        except AnomalydError as error:
            return failed(run, at, error.reason, str(error), error)
        except Exception as error:  # a bug in one detector must not take its group down; it is logged with traceback
            return failed(run, at, "internal", f"{type(error).__name__}: {error}", error)

    def _read(self, rule: Rule, memory: Memory, at: int) -> Reply:
        source, first = self._sources[rule.source], read_from(rule, memory, at)
        if first >= at:
            return source.instant(rule.expr, at)
        return source.range(rule.expr, first, at, rule.interval_ms)

    def _advance(self, run: RuleRun, memory: Memory, reply: Reply, at: int) -> Advanced:
        rule = run.rule
        aligned = align(memory, reply.block, rule.drop_labels, rule.max_series, terms_of(rule))
        other = swapped(rule, memory, aligned, at)
        memory, taken = take_in(
            run, aligned.memory, aligned.added, at, lambda labels: self._store.gone_series(rule.id, labels)
        )
        values = np.concatenate([aligned.values, aligned.added_values])
        if memory.state is None:
            memory = self._fits.first(run, memory, at)
            if memory.state is not None and at - memory.state.as_of > rule.interval_ms:
                # After a restart: what was missed since the last slot is read and lived through.
                reply = self._read(rule, memory, at)
                values = align(memory, reply.block, rule.drop_labels, rule.max_series).values
        gone: tuple[int, ...] = ()
        changes = Changes()
        changes.notices += [*([other] if other else ()), *taken.notices, *news_of_models(run, memory, at)]
        memory = self._hear(run, memory, at, changes)
        if reply.partial and rule.partial_response == "hold":
            changes.slots.append(unknown(rule, memory, at, values[:, -1], Kind.PARTIAL, "partial", reply.warnings))
        elif memory.state is None:
            changes.slots.append(unknown(rule, memory, at, values[:, -1], Kind.WARMING_UP, "", ()))
        else:
            fresh = newer_than(Block(labels_of(memory), reply.block.times, values), memory.state.as_of)
            memory, found = self._look_over(rule, memory, fresh)
            changes.add_found(found)
            memory = replace(self._columns.score(run, memory, fresh, changes), doubt=None)
            memory, gone = expire(rule, memory, at)
        self._fits.start_if_due(run, memory, at)
        return Advanced(
            replace(memory, at=at) if changes.slots[-1].outcome == "ok" else memory,
            tuple(changes.slots), taken.rows, tuple(changes.episodes.values()), tuple(changes.incidents.values()),
            tuple(changes.outbox), reply.warnings, aligned.limited, aligned.duplicates, waiting=aligned.waiting,
            notices=tuple(changes.notices), gone=gone,
        )  # fmt: skip

    def _look_over(self, rule: Rule, memory: Memory, fresh: Block) -> tuple[Memory, list[Found]]:
        ward = Ward(rule, memory.active, fresh.labels, self._columns.recipients, self._columns.links(rule))
        found = look_over(memory.quality, ward, fresh, memory.last_seen, *comings(rule, memory))
        return replace(memory, quality=found[0], doubt=found[1]), found[2]

    def _hear(self, run: RuleRun, memory: Memory, at: int, changes: Changes) -> Memory:
        """Take in what analysts said: move the cuts, close what they call the new normal, false or expected."""
        heard = self._feedback(run.rule, at)
        cuts = cuts_of(run.rule, memory.units)
        own = NEVER
        if heard.moves_cuts and cuts.size:
            own, policy = float(cuts.min()), policy_of(run.rule, self._feedback.policy)
            if crowded(memory):
                memory = replace(memory, crowd_at=memory.at)
            names = [memory.registry.rows[row].fingerprint for row in memory.units.tolist()]
            cuts = apply(heard, cuts, names, at, policy, alone=at - memory.crowd_at > TOGETHER_MS)
        memory = replace(memory, cuts=cuts, own=own)
        closed = [Happened(*close_episode(e, at, why)) for e, why in ended_by_word(memory, heard.labels)]
        return self._columns.tell(run.rule, memory, closed, at, changes)

    def live(self, group: RuleGroup, at: int, until: int, witness: Witness) -> int:
        """Live through one slot at least, and through as many of those up to ``until`` as can be taken together.

        For sources that have it all already: backtests. What happens is what ``evaluate`` would have done slot by slot,
        but slots in which nothing happened are not committed, and scores go to the witness and not into the store.
        Returns the slot that comes next. Only for groups of one rule; raises what a rule's evaluation raises.
        """
        (rule,) = group.rules
        run = self.runs[rule.id]
        last = calm_until(run, at, until, self._feedback(rule, at))
        if last > at:
            block = self._whole_block(run, at, last)
            if block is not None and len(block.times):
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

    def _whole_block(self, run: RuleRun, at: int, last: int) -> Block | None:
        """The samples of the slots that can be lived through together; None where a series is added at once.

        Those before a series is added; of series that are scored together those before one is flagged, maybe none.
        """
        rule, memory = run.rule, run.memory
        reply = self._sources[rule.source].range(rule.expr, at, last, rule.interval_ms)
        aligned = align(memory, reply.block, rule.drop_labels, rule.max_series, terms_of(rule), stop=True)
        columns = aligned.columns
        if aligned.duplicates or reply.partial or columns < 2:
            return None
        run.memory = self._hear(run, aligned.memory, at, Changes())
        block = Block(labels_of(memory), reply.block.times[:columns], aligned.values[:, :columns])
        if rowwise(run.model.detector):
            return block
        seen, _ = self._look_over(rule, run.memory, block)
        return block.window(0, self._columns.calm_columns(run, seen, block))

    def _live_together(self, group: RuleGroup, run: RuleRun, block: Block, witness: Witness) -> int:
        memory, found = self._look_over(run.rule, run.memory, block)
        stretch = self._columns.live_stretch(run, memory, block)
        refits = run.rule.refit_on_drift and not run.model.streaming
        # Where a level was accepted or a drift asks for a fit, the rule may have to be fitted at that very slot.
        ends = [i for i, c in enumerate(stretch.changes) if _accepts(c) or (refits and c.notices)]
        if ends and ends[0] + 1 < len(stretch.changes):
            block = block.window(0, ends[0] + 1)
            memory, found = self._look_over(run.rule, run.memory, block)
            stretch = self._columns.live_stretch(run, memory, block)
        for one in found:
            stretch.changes[one.column].add_found([one])
        at = int(stretch.sheet.times[-1])
        witness.saw(stretch.sheet)
        for column in range(len(stretch.changes) - 1):
            self._commit_column(group, run, stretch, column, witness)
        memory, gone = expire(run.rule, stretch.memory, at)
        run.memory = replace(memory, at=at, doubt=None)
        self._fits.start_if_due(run, run.memory, at)  # before the slot is committed, as in ``evaluate``
        self._commit_column(group, run, stretch, len(stretch.changes) - 1, witness, gone)
        return at + run.rule.interval_ms

    def _commit_column(
        self, group: RuleGroup, run: RuleRun, stretch: Stretch, column: int, witness: Witness,
        gone: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        changes = stretch.changes[column]
        if changes.episodes or changes.incidents or changes.notices or gone:
            slot = slot_of(run.rule, stretch.memory, stretch.sheet, column, stretch.cut)
            advanced = Advanced(
                stretch.memory, (slot,), (), tuple(changes.episodes.values()), tuple(changes.incidents.values()),
                tuple(changes.outbox), notices=tuple(changes.notices), gone=gone,
            )  # fmt: skip
            self._commit_changes(group, slot.at, advanced, witness)

    def _commit_changes(self, group: RuleGroup, at: int, one: Advanced, witness: Witness) -> None:
        if one.series or one.episodes or one.incidents or one.outbox or one.notices or one.gone:
            slots = tuple(replace(slot, observation=None) for slot in one.slots)
            commit = SlotCommit(
                group.name, at, slots, series=one.series, episodes=one.episodes, incidents=one.incidents,
                outbox=one.outbox, notices=one.notices, gone={one.slots[0].rule: one.gone} if one.gone else {},
            )  # fmt: skip
            self._store.commit_slot(commit)
            witness.committed(at, len(one.outbox))


# Pure helpers -----------------------------------------------------------------------------------------------------


def _accepts(changes: Changes) -> bool:
    return any(episode.close == Close.NEW_LEVEL for episode in changes.episodes.values())
