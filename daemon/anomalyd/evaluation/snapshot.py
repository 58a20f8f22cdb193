"""Snapshots: a rule's learned state in the store, so that a daemon that starts goes on where another one ended.

A snapshot is a cache: what is missing, stale or damaged is learned anew from the source. It is written after each fit
and every few minutes, in parts of some megabytes, each an NPZ (never a pickle) in a transaction of its own; the row
that names the parts and their digests comes last, so that a snapshot is whole or it is not there. A start reads it and
lives through what was evaluated since as it was: the same samples, from the source, and what was learned of them, from
the stored verdicts. So the scores that follow are those of a daemon that never stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anomalyd.block import F64, I64, Block
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import STATE_FORMAT, State, join_states, state_from_bytes
from anomalyd.episode import Close, Episode
from anomalyd.errors import AnomalydError, DetectorError, StoreError
from anomalyd.evaluation.dataquality import observe
from anomalyd.evaluation.fits import CATCH_UP_MS
from anomalyd.evaluation.intake import expire
from anomalyd.evaluation.jointly import series_only
from anomalyd.evaluation.memory import Memory, align, empty_memory, keep_rows
from anomalyd.evaluation.registry import registry_of
from anomalyd.evaluation.rulerun import RuleRun, band_cut, cuts_of, hold_of
from anomalyd.logs import get_logger
from anomalyd.records import Fence, SnapshotPolicy
from anomalyd.score import REFUSED, Kind, Observation, Why
from anomalyd.sources import Source
from anomalyd.store import Store

FORMAT = 1
HEAD = "state"
BYTES_PER_S = 256 << 10
"""Large states are written less often, so that all writing stays below this rate: 22 GB a day."""

STOP_BYTES = 256 << 20
"""A daemon that stops writes no more than this on its way out, the smallest states first."""

log = get_logger("snapshot")


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule's newest snapshot: the slot it is as of, its size, the model; and when the next one is due."""

    at: int
    bytes: int
    model: str
    next_at: int


@dataclass(frozen=True, slots=True)
class _Head:
    """The row that makes parts a snapshot."""

    model_key: str
    code: str
    model: str
    as_of: int
    fitted_at: int
    fit_started_at: int
    drifted_at: int
    relearn: tuple[int, ...]
    parts: tuple[str, ...]
    bytes: int


class _Unusable(AnomalydError):
    """The snapshot cannot be used; the message says why."""


class Snapshots:
    """Keeps and restores the states of an evaluator's rules."""

    def __init__(
        self, store: Store, background: Executor, policy: SnapshotPolicy,
        fence: Callable[[], Fence | None] = lambda: None,
    ):  # fmt: skip
        """``background`` does the writing (inline: within the slot)."""
        self._store, self._background, self.policy, self._fence = store, background, policy, fence
        self._waiting: set[str] = set()
        self._writing: dict[str, Future[None]] = {}
        self._stopped = threading.Event()
        self.kept: dict[str, Kept] = {}

    def expect(self, rule_id: str) -> None:
        """A rule was taken up: the next slot looks for its snapshot."""
        self.kept.pop(rule_id, None)
        if self.policy.every_ms:
            self._waiting.add(rule_id)

    def drop(self, rule_id: str) -> None:
        """A rule is gone."""
        self.kept.pop(rule_id, None)
        self._waiting.discard(rule_id)
        self._store.drop_models(rule_id, HEAD, fence=self._fence())

    # Writing ----------------------------------------------------------------------------------------------------

    def keep(self, run: RuleRun, at: int) -> None:
        """Write a rule's state if that is due; called when the slot was committed."""
        memory, rule = run.memory, run.rule.id
        busy = self._writing.get(rule)
        if not self.policy.every_ms or memory.state is None or (busy is not None and not busy.done()):
            return
        last = self.kept.get(rule)
        if last is None or last.model != memory.model or at >= last.next_at:
            self._writing[rule] = self._background.submit(self._write_or_say, run, memory, at)

    def finish(self, runs: Iterable[RuleRun]) -> None:
        """Write what has changed since its snapshot, as far as stopping may take."""
        self._stopped.set()
        if not self.policy.every_ms:
            return
        changed = [run for run in runs if run.memory.state is not None and not self._is_kept(run)]
        left = STOP_BYTES
        for run in sorted(changed, key=lambda run: _size(run.memory)):
            left -= _size(run.memory)
            if left < 0:
                return
            self._write_or_say(run, run.memory, run.memory.at, last=True)

    def _is_kept(self, run: RuleRun) -> bool:
        last = self.kept.get(run.rule.id)
        return last is not None and run.memory.state is not None and last.at == run.memory.state.as_of

    def _write_or_say(self, run: RuleRun, memory: Memory, at: int, last: bool = False) -> None:
        try:
            self._write(run, memory, at, last)
        except StoreError as error:
            log.warning("state not kept; it is tried again", rule=run.rule.id, reason=error.reason, error=str(error))

    def _write(self, run: RuleRun, memory: Memory, at: int, last: bool) -> None:
        state, rule, size = memory.state, run.rule.id, _size(memory)
        assert state is not None, "only a fitted rule is kept"
        if size > self.policy.max_bytes:
            if rule not in self.kept:
                log.warning("state is too large to be kept; a restart learns anew", rule=rule, bytes=size)
            self.kept[rule] = Kept(0, 0, memory.model, at + self.policy.every_ms)
            return
        series, generation, fence = len(memory.active), f"{HEAD}/{state.as_of}/", self._fence()
        whole = _with_memory(state, memory)
        rows = max(1, series * self.policy.part_bytes // max(1, size))
        digests: list[str] = []
        written = 0
        for number, first in enumerate(range(0, max(1, series), rows)):
            if self._stopped.is_set() and not last:
                return
            blob = _part(whole, first, min(first + rows, series), with_shared=number == 0)
            digests.append(_digest(blob))
            written += len(blob)
            self._store.save_model(rule, f"{generation}{number}", "{}", blob, at=state.as_of, fence=fence)
        head = _Head(
            run.rule.model_key, run.model.version, memory.model, state.as_of, memory.fitted_at, run.fit_started_at,
            memory.drifted_at, tuple(sorted(memory.relearn)), tuple(digests), written,
        )  # fmt: skip
        meta = json.dumps({"format": FORMAT} | {name: getattr(head, name) for name in _Head.__dataclass_fields__})
        self._store.save_model(rule, HEAD, meta, b"", at=state.as_of, fence=fence)
        self._store.drop_models(rule, f"{HEAD}/", but=generation, fence=fence)
        pause = max(self.policy.every_ms, written * 1000 // BYTES_PER_S)
        self.kept[rule] = Kept(state.as_of, written, memory.model, at + pause)

    # Reading ----------------------------------------------------------------------------------------------------

    def restore(self, run: RuleRun, memory: Memory, source: Source, at: int) -> Memory:
        """The memory with the state it had, brought up to its newest slot; as it is where there is none to be used.

        Raises ``SourceError`` when the source does not answer; the next slot tries again.
        """
        rule = run.rule.id
        if rule not in self._waiting or memory.state is not None:
            return memory
        try:
            head = self._head(run, memory, at)
            if head is not None:
                restored = _brought_up(run, self._load(run, self._whole(run, memory), head), self._store, source)
                restored = _with_living(_as_last_said(restored, self._store), memory)
                run.fit_started_at = head.fit_started_at
                self.kept[rule] = Kept(head.as_of, head.bytes, head.model, at)
                log.info("state restored", rule=rule, series=len(restored.active), as_of=head.as_of, model=head.model)
                memory = restored
        except (_Unusable, DetectorError) as error:
            log.warning("snapshot not used; the rule is fitted anew", rule=rule, cause=str(error))
        self._waiting.discard(rule)
        return memory

    def _whole(self, run: RuleRun, memory: Memory) -> Memory:
        """The memory with the series that have gone too: the snapshot may be of a time when they were there."""
        registry = memory.registry
        if registry.gone:
            registry = registry_of(run.rule, self._store.series(run.rule.id))
        return replace(memory, registry=registry, awaited=_NONE, awaited_until=_NONE)

    def _head(self, run: RuleRun, memory: Memory, at: int) -> _Head | None:
        row = self._store.model(run.rule.id, HEAD)
        if row is None:
            return None
        try:
            meta = json.loads(row.meta_json)
            if meta.pop("format") != FORMAT:
                raise _Unusable("it has another format")
            head = _Head(**meta | {"relearn": tuple(meta["relearn"]), "parts": tuple(meta["parts"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _Unusable(f"its head cannot be read: {error}") from error
        if head.model_key != run.rule.model_key or head.code != run.model.version:
            raise _Unusable("the rule, its detector or anomalyd has changed since")
        if at - head.as_of > CATCH_UP_MS:
            raise _Unusable(f"it is {(at - head.as_of) // MINUTE_MS} minutes old")
        if head.as_of > memory.at:
            raise _Unusable("it is newer than the newest slot in the database")
        return head

    def _load(self, run: RuleRun, memory: Memory, head: _Head) -> Memory:
        states = []
        for number, digest in enumerate(head.parts):
            row = self._store.model(run.rule.id, f"{HEAD}/{head.as_of}/{number}")
            if row is None or _digest(row.blob) != digest:
                raise _Unusable(f"part {number} of {len(head.parts)} is {'missing' if row is None else 'damaged'}")
            states.append(state_from_bytes(row.blob))
        return _memory_of(run, memory, join_states(states), head)


def forget_gone(store: Store, rules: Collection[str], at: int) -> None:
    """Drop the snapshots of rules that are not among these, and let their series go."""
    store.let_series_go(rules, at, but=True)
    for rule in set(store.rules_with_model(HEAD)) - set(rules):
        store.drop_models(rule, HEAD)


# Bytes ------------------------------------------------------------------------------------------------------------

_NONE: I64 = np.zeros(0, np.int64)
_STATE, _MEMORY = "s.", "m."
_KNOWN = ("active", "last_seen", "lines", "bits", "told")
"""What a memory knows of each series beside its state."""


def _size(memory: Memory) -> int:
    return sum(array.nbytes for array in memory.state.arrays.values()) if memory.state is not None else 0


def _with_memory(state: State, memory: Memory) -> State:
    """The state and what else a memory knows of each series, as one."""
    arrays: dict[str, Any] = {_STATE + name: array for name, array in state.arrays.items()}
    quality = memory.quality
    told = np.isin(memory.active, list(quality.told))
    known = (memory.active, memory.last_seen, quality.lines, quality.bits, told)
    arrays |= {_MEMORY + name: array for name, array in zip(_KNOWN, known, strict=True)}
    return State(arrays, frozenset(_STATE + name for name in state.shared), state.as_of)


def _part(whole: State, first: int, stop: int, with_shared: bool) -> bytes:
    """Some series of a state as ``state_from_bytes`` reads it; not compressed: noise does not shrink."""
    fields: dict[str, Any] = {}
    for name, array in whole.arrays.items():
        if name not in whole.shared:
            fields["a." + name] = array[first:stop]
        elif with_shared:
            fields["a." + name] = array
    shared = sorted(whole.shared) if with_shared else []
    header = json.dumps({"format": STATE_FORMAT, "shared": shared, "as_of": whole.as_of}).encode()
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(header, np.uint8), **fields)
    return buffer.getvalue()


def _digest(blob: bytes) -> str:
    return hashlib.blake2b(blob, digest_size=16).hexdigest()


def _memory_of(run: RuleRun, memory: Memory, whole: State, head: _Head) -> Memory:
    cut = len(_STATE)
    arrays = {name[cut:]: array for name, array in whole.arrays.items() if name.startswith(_STATE)}
    active, last_seen, lines, bits, told = (whole.arrays[_MEMORY + name] for name in _KNOWN)
    if any(row not in memory.registry.rows for row in active.tolist()):
        raise _Unusable("it has series that the database does not know")
    state = State(arrays, frozenset(name[cut:] for name in whole.shared), whole.as_of)
    q = memory.quality
    quality = replace(
        q, lines=lines, bits=bits, as_of=whole.as_of, told=frozenset(active[told].tolist()) if q.incident else q.told
    )
    cuts = cuts_of(run.rule, memory.registry.unit(active))
    return replace(
        memory, active=active, last_seen=last_seen, cuts=cuts, state=state, quality=quality,
        fitted_at=head.fitted_at, drifted_at=head.drifted_at, model=head.model,
        relearn=frozenset(head.relearn), source_labels=(),
    )  # fmt: skip


# What was lived through since ---------------------------------------------------------------------------------------


def _brought_up(run: RuleRun, memory: Memory, store: Store, source: Source) -> Memory:
    """Learn what was evaluated after the snapshot, just as it was learned then."""
    rule, since, until = run.rule, _as_of(memory), memory.at
    if since >= until:
        return memory
    slots = [slot for slot in store.rule_slots(rule.id, since + 1, until + 1) if slot.outcome == "ok"]
    seen = [series_only(memory.registry, o) for o in store.scores(rule.id, since + 1, until + 1)]
    if any(slot.model != memory.model for slot in slots):
        raise _Unusable("another model has scored since")
    times = np.arange(since + rule.interval_ms, until + 1, rule.interval_ms, dtype=np.int64)
    if [o.at for o in seen if o.at in {slot.at for slot in slots}] != times.tolist():
        raise _Unusable("not every slot since has scores")
    rows = np.unique(np.concatenate([o.series for o in seen]))
    values = _samples(run, memory, source, rows, int(times[0]), until)
    episodes = store.episodes(rule=rule.id, start=since, end=until + 1, limit=100_000)
    by_at = {o.at: o for o in seen}
    for column, at in enumerate(times.tolist()):
        o, live = by_at[at], _live_at(episodes, memory, at)
        memory = _relived(run, memory, o, values[np.searchsorted(rows, o.series), column], live)
    ended = [e for e in episodes if since < e.closed_at <= until and e.close in (Close.NEW_LEVEL, Close.NEW_NORMAL)]
    memory = replace(memory, relearn=memory.relearn | {memory.registry.index[e.labels] for e in ended})
    return replace(expire(rule, memory, until)[0], registry=memory.registry)


def _with_living(restored: Memory, memory: Memory) -> Memory:
    """What was restored, with the registry of now: who has gone since the snapshot was lived with, and is not here."""
    here = np.fromiter(memory.registry.rows, np.int64, len(memory.registry.rows))
    kept = keep_rows(restored, np.isin(restored.active, here))
    return replace(
        kept, registry=memory.registry, awaited=memory.awaited, awaited_until=memory.awaited_until
    )


def _as_last_said(memory: Memory, store: Store) -> Memory:
    """What the newest verdicts go on from: stretches that an analyst dismissed, news that the rule refused."""
    for seen in store.scores(memory.registry.rule, memory.at, memory.at + 1):
        why = seen.verdicts.why
        units = memory.registry.unit(seen.series)
        dismissed, refused = units[why == Why.DISMISSED], units[np.isin(why, REFUSED)]
        memory = replace(memory, excused=frozenset(dismissed.tolist()), stirred=frozenset(refused.tolist()))
    return memory


def _as_of(memory: Memory) -> int:
    assert memory.state is not None, "a snapshot has a state"
    return memory.state.as_of


def _samples(run: RuleRun, memory: Memory, source: Source, rows: I64, start: int, end: int) -> F64:
    """The samples [rows, T] of these slots."""
    rule = run.rule
    reply = source.range(rule.expr, start, end, rule.interval_ms)
    if reply.partial and rule.partial_response == "hold":
        raise _Unusable("the source answers in part")
    known = replace(
        empty_memory(rule.id), registry=memory.registry, active=rows, last_seen=np.zeros(len(rows), np.int64)
    )
    return align(known, reply.block, rule.drop_labels, len(rows)).values


def _live_at(episodes: Iterable[Episode], memory: Memory, at: int) -> dict[int, Episode]:
    """The episodes that were live before the slot ``at``, by row."""
    live = {}
    for e in episodes:
        # What an analyst closed was closed before the slot was scored; what recovered in it, after.
        until = e.closed_at - (e.close == Close.NEW_NORMAL) if e.closed_at else at
        if e.started_at < at <= until:
            live[memory.registry.index[e.labels]] = e
    return live


def _relived(run: RuleRun, memory: Memory, seen: Observation, value: F64, live: dict[int, Episode]) -> Memory:
    """One slot: the series that were there, and of them learned what was learned."""
    memory = _with_series(run, memory, seen.series, seen.at)
    state, rule = memory.state, run.rule
    assert state is not None, "a snapshot has a state"
    hold = hold_of(rule, replace(memory, episodes=live))
    if rule.learn == "normal_only":
        hold = hold | (seen.verdicts.kind == Kind.ANOMALOUS)
    labels = tuple(memory.registry.rows[row].labels for row in seen.series.tolist())
    fresh = Block(labels, np.array([seen.at], np.int64), value[:, None])
    _, state = run.score(state, fresh, band_cut(memory), hold)
    quality, _ = observe(rule, memory.quality, fresh)
    last_seen = np.where(np.isfinite(value), seen.at, memory.last_seen)
    return replace(memory, state=state, quality=quality, last_seen=last_seen)


def _with_series(run: RuleRun, memory: Memory, rows: I64, at: int) -> Memory:
    """The memory with exactly these series, in this order; those it has not join as newcomers do."""
    if np.array_equal(memory.active, rows):
        return memory
    state = memory.state
    assert state is not None, "a snapshot has a state"
    place = {int(row): i for i, row in enumerate(memory.active)}
    fresh = [row for row in rows.tolist() if row not in place]
    if fresh:
        labels = tuple(memory.registry.rows[row].labels for row in fresh)
        nothing = Block(labels, np.zeros(0, np.int64), np.zeros((len(labels), 0)))
        state = replace(run.model.join(state, nothing), as_of=state.as_of)
        place |= {row: len(memory.active) + i for i, row in enumerate(fresh)}
    last_seen = np.concatenate([memory.last_seen, np.full(len(fresh), at, np.int64)])
    order = np.array([place[row] for row in rows.tolist()], np.int64)
    cuts = cuts_of(run.rule, memory.registry.unit(rows))
    return replace(
        memory, active=rows, last_seen=last_seen[order], state=state.take(order), cuts=cuts,
        quality=memory.quality.grown(len(fresh)).take(order), source_labels=(),
    )  # fmt: skip
