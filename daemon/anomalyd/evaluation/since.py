"""What was evaluated after a snapshot was written: lived through as it was, so that the memory is that of now.

The same samples, from the source, and what was learned of them, from the stored verdicts. Where either is missing the
snapshot is of no use, and the rule learns anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from anomalyd.block import F64, I64, Block
from anomalyd.episode import Close, Episode
from anomalyd.errors import AnomalydError
from anomalyd.evaluation.advance import RECALLED_SLOTS, came_to_nothing, recalled_until
from anomalyd.evaluation.dataquality import observe
from anomalyd.evaluation.intake import expire
from anomalyd.evaluation.jointly import series_only
from anomalyd.evaluation.memory import Memory, align, empty_memory, keep_rows
from anomalyd.evaluation.rulerun import RuleRun, band_cut, cuts_of, hold_of
from anomalyd.rule import Rule
from anomalyd.score import REFUSED, Kind, Observation, Why
from anomalyd.sources import Source
from anomalyd.store import Store


class Unusable(AnomalydError):
    """The snapshot cannot be used; the message says why."""


def brought_up(run: RuleRun, memory: Memory, store: Store, source: Source) -> Memory:
    """Learn what was evaluated after the snapshot, just as it was learned then."""
    rule, since, until = run.rule, _as_of(memory), memory.at
    if since >= until:
        return memory
    slots = [slot for slot in store.rule_slots(rule.id, since + 1, until + 1) if slot.outcome == "ok"]
    seen = [series_only(memory.registry, o) for o in store.scores(rule.id, since + 1, until + 1)]
    if any(slot.model != memory.model for slot in slots):
        raise Unusable("another model has scored since")
    times = np.arange(since + rule.interval_ms, until + 1, rule.interval_ms, dtype=np.int64)
    if [o.at for o in seen if o.at in {slot.at for slot in slots}] != times.tolist():
        raise Unusable("not every slot since has scores")
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


def with_living(restored: Memory, memory: Memory) -> Memory:
    """What was restored, with the registry of now: who has gone since the snapshot was lived with, and is not here."""
    here = np.fromiter(memory.registry.rows, np.int64, len(memory.registry.rows))
    kept = keep_rows(restored, np.isin(restored.active, here))
    return replace(
        kept, registry=memory.registry, awaited=memory.awaited, awaited_until=memory.awaited_until
    )


def as_last_said(rule: Rule, memory: Memory, store: Store) -> Memory:
    """What the newest verdicts go on from: stretches that an analyst dismissed, news that was refused or lapsed."""
    for seen in store.scores(memory.registry.rule, memory.at, memory.at + 1):
        why = seen.verdicts.why
        units = memory.registry.unit(seen.series)
        dismissed, refused = units[why == Why.DISMISSED], units[np.isin(why, REFUSED)]
        memory = replace(memory, excused=frozenset(dismissed.tolist()), stirred=frozenset(refused.tolist()))
    return replace(memory, lapsed=_lapsed(rule, memory, store))


def _lapsed(rule: Rule, memory: Memory, store: Store) -> dict[int, int]:
    """The rows whose episodes came to nothing not long ago, and until when that is news."""
    start = memory.at - RECALLED_SLOTS * rule.interval_ms
    lapsed: dict[int, int] = {}
    over = store.episodes(rule=rule.id, start=start, end=memory.at + 1, limit=100_000)
    for episode in sorted(over, key=lambda e: e.closed_at):
        row = memory.registry.index.get(episode.labels)
        if row is not None and came_to_nothing(episode) and lapsed.get(row, 0) < episode.started_at:
            lapsed[row] = recalled_until(rule, episode)
    return lapsed


def _as_of(memory: Memory) -> int:
    assert memory.state is not None, "a snapshot has a state"
    return memory.state.as_of


def _samples(run: RuleRun, memory: Memory, source: Source, rows: I64, start: int, end: int) -> F64:
    """The samples [rows, T] of these slots."""
    rule = run.rule
    reply = source.range(rule.expr, start, end, rule.interval_ms)
    if reply.partial and rule.partial_response == "hold":
        raise Unusable("the source answers in part")
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
