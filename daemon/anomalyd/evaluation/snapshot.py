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
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anomalyd.block import I64
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import STATE_FORMAT, State, join_states, state_from_bytes
from anomalyd.errors import DetectorError, StoreError
from anomalyd.evaluation.fits import CATCH_UP_MS
from anomalyd.evaluation.memory import Memory
from anomalyd.evaluation.registry import registry_of
from anomalyd.evaluation.rulerun import RuleRun, cuts_of
from anomalyd.evaluation.since import Unusable, as_last_said, brought_up, with_living
from anomalyd.logs import get_logger
from anomalyd.records import Fence, SnapshotPolicy
from anomalyd.sources import Source
from anomalyd.store import Store

FORMAT = 1
HEAD = "state"
BYTES_PER_S = 256 << 10
"""Large states are written less often, so that all writing stays below this rate: 22 GB a day."""

STOP_BYTES = 256 << 20
"""A daemon that stops writes no more than this on its way out, the smallest states first."""

STOP_WAIT_S = 2.0
"""How long stopping waits for what is being written; it ends with the part in hand."""

RETRY_MS = MINUTE_MS
"""A snapshot that could not be written is tried again after this: a full disk has better use for what is left of it."""

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
        self._again_at: dict[str, int] = {}
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
        if at < self._again_at.get(rule, at):
            return
        last = self.kept.get(rule)
        if last is None or last.model != memory.model or at >= last.next_at:
            self._writing[rule] = self._background.submit(self._write_or_say, run, memory, at)

    def finish(self, runs: Iterable[RuleRun]) -> None:
        """Write what has changed since its snapshot, as far as stopping may take."""
        self._stopped.set()
        if not self.policy.every_ms:
            return
        wait(list(self._writing.values()), STOP_WAIT_S)  # an older state must not be finished over a newer one
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
        rule = run.rule.id
        try:
            self._write(run, memory, at, last)
        except Exception as error:  # too little memory, say: nobody asks for what became of it
            reason = getattr(error, "reason", "internal")
            log.warning("state not kept; it is tried again", rule=rule, reason=reason, error=str(error) or repr(error))
            self._again_at[rule] = at + RETRY_MS
            self._take_back(rule, memory)
        else:
            self._again_at.pop(rule, None)

    def _take_back(self, rule: str, memory: Memory) -> None:
        """Drop the parts that were written before it failed: the slots need the room, and each try would leave more."""
        if memory.state is None:
            return
        try:
            head = self._store.model(rule, HEAD)
            if head is None or head.at != memory.state.as_of:
                self._store.drop_models(rule, f"{HEAD}/{memory.state.as_of}/", fence=self._fence())
        except StoreError as error:
            log.debug("parts of a state are left; the next one that is kept drops them", rule=rule, error=str(error))

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
        pause = max(self.policy.every_ms, written * 1000 // BYTES_PER_S)
        self.kept[rule] = Kept(state.as_of, written, memory.model, at + pause)
        self._store.drop_models(rule, f"{HEAD}/", but=generation, fence=fence)

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
                restored = brought_up(run, self._load(run, self._whole(run, memory), head), self._store, source)
                restored = with_living(as_last_said(run.rule, restored, self._store), memory)
                run.fit_started_at = head.fit_started_at
                self.kept[rule] = Kept(head.as_of, head.bytes, head.model, at)
                log.info("state restored", rule=rule, series=len(restored.active), as_of=head.as_of, model=head.model)
                memory = restored
        except (Unusable, DetectorError) as error:
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
                raise Unusable("it has another format")
            head = _Head(**meta | {"relearn": tuple(meta["relearn"]), "parts": tuple(meta["parts"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unusable(f"its head cannot be read: {error}") from error
        if head.model_key != run.rule.model_key or head.code != run.model.version:
            raise Unusable("the rule, its detector or anomalyd has changed since")
        if at - head.as_of > CATCH_UP_MS:
            raise Unusable(f"it is {(at - head.as_of) // MINUTE_MS} minutes old")
        if head.as_of > memory.at:
            raise Unusable("it is newer than the newest slot in the database")
        return head

    def _load(self, run: RuleRun, memory: Memory, head: _Head) -> Memory:
        states = []
        for number, digest in enumerate(head.parts):
            row = self._store.model(run.rule.id, f"{HEAD}/{head.as_of}/{number}")
            if row is None or _digest(row.blob) != digest:
                raise Unusable(f"part {number} of {len(head.parts)} is {'missing' if row is None else 'damaged'}")
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
        raise Unusable("it has series that the database does not know")
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
