"""How series come into a rule's memory and leave it again, and how far ahead nothing of the kind can happen.

Pure, but for the model that makes room in a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anomalyd.block import I64, Block, Labels, fingerprint
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.evaluation.advance import ended_by_word
from anomalyd.evaluation.columns import calm, separable
from anomalyd.evaluation.door import Terms
from anomalyd.evaluation.fits import FAR_MS, refit_at
from anomalyd.evaluation.memory import Memory, keep_rows
from anomalyd.evaluation.rulerun import RuleRun, as_of, cuts_of
from anomalyd.feedback.cuts import RuleFeedback
from anomalyd.rule import Rule
from anomalyd.slot import Notice, NoticeKind, SeriesRow, make_notice
from anomalyd.stretch import SAMPLES_AT_ONCE

EXPIRE_MS = DAY_MS
"""A series that has not reported for this long goes for good; its episodes and scores stay in the store."""

EXPIRE_SLOTS = 288
"""And not before it was missed in so many slots: what an hourly rule has learned in months is not lost by a day."""

AT_ONCE = 10_000
"""No more series than this that were awaited in vain go in one slot: an old database may have very many."""

FADING_MS = HOUR_MS
"""What people said fades over weeks: ``Evaluator.live`` looks at it this often."""

RETURNS = 10
"""When more series than this are back in one slot, one notice tells of all."""

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


Gone = Callable[[Sequence[Labels]], Mapping[Labels, tuple[int, int]]]
"""Of label sets those that a rule had and that have gone: row id, and when they went."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Who was taken in: rows to write, of new series and of those that are back, and what is to be noted of these."""

    rows: tuple[SeriesRow, ...] = ()
    notices: tuple[Notice, ...] = ()


def take_in(
    run: RuleRun, memory: Memory, added: tuple[Labels, ...], at: int, gone: Gone
) -> tuple[Memory, Taken]:
    """Make series active that are to be added: registered if need be, and joined to the state.

    One that has gone and is back is a new series under its old row: its stored history goes on, nothing is remembered.
    """
    if not added:
        return memory, Taken()
    unknown = memory.registry.unknown(added, run.rule.unit_of) if memory.registry.gone else []
    back = gone(unknown) if unknown else {}
    registry, rows = memory.registry.register(
        added, at, run.rule.unit_of, {labels: row for labels, (row, _) in back.items()}
    )
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
    return memory, Taken(rows, _returns(run.rule, [(one, back[one][1]) for one in added if one in back], at))


def _returns(rule: Rule, back: Sequence[tuple[Labels, int]], at: int) -> tuple[Notice, ...]:
    """What is noted of series that are back: each by itself, or all in one where they are many."""
    if len(back) > RETURNS:
        text = f"{len(back)} series are back that had gone, and are learned anew"
        return (make_notice(NoticeKind.RETURNED, rule.id, at, text, since=min(left for _, left in back)),)
    text = "the series is back after it had gone, and is learned anew"
    return tuple(
        make_notice(NoticeKind.RETURNED, rule.id, at, text, since=left, fingerprint=fingerprint(one), labels=one)
        for one, left in back
    )


def comings(rule: Rule, memory: Memory) -> tuple[int, bool]:
    """When the newest series came, and whether a series that is away is missed: none has ever gone for good."""
    registry = memory.registry
    steady = rule.missing == "hold" and not registry.gone and registry.series <= len(memory.active)
    return registry.newest, steady


def expires_after(rule: Rule) -> int:
    """How long a series of a rule may be away before it goes for good, milliseconds."""
    return max(EXPIRE_MS, EXPIRE_SLOTS * rule.interval_ms)


def expire(rule: Rule, memory: Memory, at: int) -> tuple[Memory, tuple[int, ...]]:
    """Let go of series that have long vanished, and of absent ones whose absence was accepted; the rows that went."""
    units = memory.units
    accepted = (at > memory.last_seen) & np.isin(units, list(memory.relearn))
    live = np.isin(units, list(memory.episodes))
    drop = ((at - memory.last_seen >= expires_after(rule)) | accepted) & ~live
    late = np.zeros(len(memory.awaited), np.bool_)
    late[np.flatnonzero(memory.awaited_until <= at)[:AT_ONCE]] = True
    if not drop.any() and not late.any():
        return memory, ()
    kept = keep_rows(memory, ~drop)
    stay = frozenset(kept.units.tolist())
    needed = np.concatenate([kept.active, kept.units, np.fromiter(memory.episodes, np.int64, len(memory.episodes))])
    registry, gone = memory.registry.without(np.concatenate([memory.active[drop], memory.awaited[late]]), needed)
    lapsed = {row: until for row, until in memory.lapsed.items() if row in stay and until >= at}
    kept = replace(
        kept, registry=registry, relearn=memory.relearn & stay, excused=memory.excused & stay,
        stirred=memory.stirred & stay, lapsed=lapsed, awaited=memory.awaited[~late],
        awaited_until=memory.awaited_until[~late],
    )  # fmt: skip
    return kept, gone


def awaiting(rule: Rule, memory: Memory, scored_since: Callable[[int], I64]) -> Memory:
    """A memory that was taken up from the store: by when its series have to report, or have gone.

    It is not known when each reported last, but those without a score for as long as a series may be away have gone.

    Args:
        scored_since: which rows there are scores of since a time.
    """
    rows = np.fromiter(memory.registry.rows, np.int64, len(memory.registry.rows))
    if not memory.at or not len(rows):
        return memory
    may = expires_after(rule)
    never = np.array([one.first_seen <= memory.at - may for one in memory.registry.rows.values()], np.bool_)
    if never.any():
        never &= ~np.isin(rows, scored_since(memory.at - may))
    return replace(memory, awaited=rows, awaited_until=np.where(never, memory.at, memory.at + may))


def expiry(rule: Rule, memory: Memory) -> int:
    """The soonest time at which a series may expire."""
    may = memory.last_seen
    if rule.missing == "hold":
        # An episode of a series that is away stays open until it is back, and as long the series stays.
        may = may[~np.isin(memory.units, list(memory.episodes))]
    soonest = int(may.min()) + expires_after(rule) if len(may) else FAR_MS
    return min(soonest, int(memory.awaited_until.min(initial=FAR_MS)))


def calm_until(run: RuleRun, at: int, until: int, heard: RuleFeedback) -> int:
    """The last slot up to which no fit, no expiry and no gap can come between; ``at`` when nothing is known."""
    memory, rule = run.memory, run.rule
    due = memory.state is None or run.fitting is not None or bool(memory.relearn)
    if due or as_of(memory) != at - rule.interval_ms or memory.at != at - rule.interval_ms:
        return at
    if not len(memory.active) or not (separable(run, memory) or calm(memory)):
        return at
    if heard.recurring or "" in heard.moved:
        return at  # cuts change from slot to slot
    if ended_by_word(memory, heard.labels):
        return at  # what is over by a word is told in the slot that hears it
    ends = [until, refit_at(run, memory), expiry(rule, memory)]
    width = max(1, SAMPLES_AT_ONCE // len(memory.active))
    if heard.moves_cuts:
        width = max(1, min(width, FADING_MS // rule.interval_ms))
    last = min(_slot_from(end, at, rule) for end in ends)
    return min(last, until, at + (width - 1) * rule.interval_ms)


def _slot_from(time: int, at: int, rule: Rule) -> int:
    """The first slot not before a time, on the grid of the slot ``at``."""
    return at + max(0, -((at - time) // rule.interval_ms)) * rule.interval_ms
