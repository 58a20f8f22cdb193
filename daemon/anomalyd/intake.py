"""How series come into a rule's memory and leave it again. Pure, but for the model that makes room in a state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anomalyd.block import Block, Labels
from anomalyd.clock import DAY_MS
from anomalyd.door import Terms
from anomalyd.fits import FAR_MS
from anomalyd.memory import Memory, keep_rows
from anomalyd.rule import Rule
from anomalyd.rulerun import RuleRun, as_of, cuts_of
from anomalyd.slot import SeriesRow

EXPIRE_MS = DAY_MS
"""A series that has not reported for this long leaves the model; its episodes and scores stay in the store."""

EXPIRE_SLOTS = 288
"""And not before it was missed in so many slots: what an hourly rule has learned in months is not lost by a day."""

LOOK_BACK = 4
"""A rule that has just been taken up looks back this many times ``admit_after`` slots for the series at its door."""


def terms_of(rule: Rule) -> Terms:
    """On what terms a rule lets new series in."""
    return Terms(rule.admit_after, rule.valid_range)


def read_from(rule: Rule, memory: Memory, at: int) -> int:
    """The first slot whose samples are needed at the slot ``at``: missed ones are read too.

    A rule that has just been taken up knows nobody who waited at its door, and asks the source who has been there.
    """
    since = as_of(memory)
    first = at if since is None else min(at, since + rule.interval_ms)
    if memory.door.at >= 0 or rule.admit_after == 1:
        return first
    return min(first, at - (LOOK_BACK * rule.admit_after - 1) * rule.interval_ms)


def take_in(
    run: RuleRun, memory: Memory, added: tuple[Labels, ...], at: int
) -> tuple[Memory, tuple[SeriesRow, ...]]:
    """Make series active that are to be added: registered if need be, and joined to the state."""
    if not added:
        return memory, ()
    registry, rows = memory.registry.register(added, at, run.rule.unit_of)
    ids = np.array([registry.index[labels] for labels in added], np.int64)
    state = memory.state
    if state is not None:
        nothing = Block(added, np.zeros(0, np.int64), np.zeros((len(added), 0)))
        state = replace(run.model.join(state, nothing), as_of=state.as_of)
    active = np.concatenate([memory.active, ids])
    seen = np.concatenate([memory.last_seen, np.full(len(ids), at, np.int64)])
    cuts = cuts_of(run.rule, registry.unit(active))
    quality = memory.quality.grown(len(added))
    memory = replace(memory, registry=registry, active=active, last_seen=seen, cuts=cuts, state=state, quality=quality)
    return memory, rows


def comings(rule: Rule, memory: Memory) -> tuple[int, bool]:
    """When the newest series came, and whether a series that is away is missed: none has ever gone for good."""
    newest = memory.registry.rows[-1].first_seen if memory.registry.rows else 0
    return newest, rule.missing == "hold" and memory.registry.series <= len(memory.active)


def expires_after(rule: Rule) -> int:
    """How long a series of a rule may be away before it leaves the model, milliseconds."""
    return max(EXPIRE_MS, EXPIRE_SLOTS * rule.interval_ms)


def expire(rule: Rule, memory: Memory, at: int) -> Memory:
    """Let go of series that have long vanished, and of absent ones whose absence was accepted."""
    units = memory.units
    accepted = (at > memory.last_seen) & np.isin(units, list(memory.relearn))
    live = np.isin(units, list(memory.episodes))
    drop = ((at - memory.last_seen >= expires_after(rule)) | accepted) & ~live
    if not drop.any():
        return memory
    kept = keep_rows(memory, ~drop)
    here = frozenset(kept.units.tolist())
    return replace(
        kept, relearn=memory.relearn & here, excused=memory.excused & here, stirred=memory.stirred & here
    )


def expiry(rule: Rule, memory: Memory) -> int:
    """The soonest time at which a series may expire."""
    may = memory.last_seen
    if rule.missing == "hold":
        # An episode of a series that is away stays open until it is back, and as long the series stays.
        may = may[~np.isin(memory.units, list(memory.episodes))]
    return int(may.min()) + expires_after(rule) if len(may) else FAR_MS
