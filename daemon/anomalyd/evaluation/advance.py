"""One slot of a rule's series once it is judged: episodes move on, and who is excused, stirred or not learned. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from anomalyd.block import F64, Block, Bool
from anomalyd.detectors.base import State, rowwise
from anomalyd.episode import Close, Episode, Phase, Seen, advance, begin
from anomalyd.evaluation.memory import Memory
from anomalyd.evaluation.rulerun import RuleRun
from anomalyd.records import FeedbackLabel
from anomalyd.rule import Rule
from anomalyd.score import REFUSED, Kind, Observation, Tier, Verdicts, Why
from anomalyd.stretch import put_rows
from anomalyd.tell import Happened, episode_id

RECALLED_SLOTS = 60
"""So long, in slots, what came to nothing is news still: `auto` holds what it has shown for 25 samples, and then takes
about as many again to show the like."""


def stirred_by(memory: Memory, verdicts: Verdicts) -> frozenset[int]:
    """Rows whose news the rule refused just now, or a missing sample ago."""
    refused = np.isin(verdicts.why, REFUSED)
    absent = verdicts.kind == Kind.MISSING
    units = memory.units
    here = frozenset(units[~absent].tolist())
    return (memory.stirred - here) | frozenset(units[refused].tolist())


def came_to_nothing(episode: Episode) -> bool:
    """Whether an episode was over before its `for`, so that nobody was told of it."""
    return episode.phase == Phase.CLOSED and not episode.opened_at and episode.close == Close.RECOVERED


def recalled_until(rule: Rule, episode: Episode) -> int:
    """Until when the news that an episode began with, and nobody was told, is news still."""
    return episode.closed_at + RECALLED_SLOTS * rule.interval_ms


def excuse(memory: Memory, surprise: F64, verdicts: Verdicts) -> frozenset[int]:
    """Let be what an analyst dismissed until it is over, but for emergencies; the rows that stay excused."""
    units = memory.units
    here = np.isin(units, list(memory.excused))
    let_be = here & (verdicts.kind == Kind.ANOMALOUS) & (verdicts.tier < Tier.EMERGENCY)
    verdicts.kind[let_be], verdicts.tier[let_be], verdicts.why[let_be] = Kind.OK, Tier.NONE, Why.DISMISSED
    over = here & ~let_be & np.isfinite(surprise) & (surprise <= memory.cuts.min(axis=1))
    return memory.excused - frozenset(units[over].tolist())


def unlearned(
    run: RuleRun, before: State, after: State, fresh: Block, cut: float, held: Bool, flagged: Bool
) -> State:
    """The state after a column, the flagged series seen as held already: what opens an episode belongs to it."""
    if not flagged.any():
        return after
    if not rowwise(run.model.detector):
        return run.score(before, fresh, cut, held | flagged)[1]
    rows = np.nonzero(flagged)[0]
    parts = run.score(before.take(rows), fresh.take(rows), cut, np.ones(len(rows), np.bool_))[1]
    return put_rows(after, before, rows, parts)


def advance_episodes(rule: Rule, memory: Memory, seen: Observation) -> list[Happened]:
    """Move the live episodes by one slot and begin new ones; only series that are or were abnormal are touched."""
    verdicts = seen.verdicts
    position = {int(row): i for i, row in enumerate(seen.series)} if memory.episodes else {}
    lowest = _lowest_cuts(memory, seen)
    happened: list[Happened] = []
    for row, episode in memory.episodes.items():
        at = position.get(row)
        what = _seen(seen, at, float(lowest[at])) if at is not None else _NOT_SEEN
        happened.append(Happened(*advance(episode, rule, seen.at, what)))
    for i in np.nonzero(verdicts.kind == Kind.ANOMALOUS)[0].tolist():
        row = int(seen.series[i])
        if row in memory.episodes:
            continue
        series = memory.registry.rows[row]
        what = _seen(seen, i, float(lowest[i]))
        identity = episode_id(rule.id, series.fingerprint, seen.at)
        fresh = begin(identity, rule, series.fingerprint, series.labels, seen.at, what)
        fresh = replace(fresh, model=memory.model)
        happened.append(Happened(*advance(fresh, rule, seen.at, what)))
    return happened


def _lowest_cuts(memory: Memory, seen: Observation) -> F64:
    """The cut where anything begins, of each series or group that was seen."""
    lowest: F64 = memory.cuts.min(axis=1)
    if not memory.registry.joint:
        return lowest
    first = np.unique(memory.units, return_index=True)[1]  # in the order of ``groups_seen``
    return lowest[first]


_NOT_SEEN = Seen(Kind.MISSING, Tier.NONE, Why.NOTHING, math.nan, math.nan, math.nan, math.nan, math.nan)


def _seen(o: Observation, i: int, cut: float) -> Seen:
    news = o.opens is not None and bool(o.opens[i] > cut)
    return Seen(
        Kind(int(o.verdicts.kind[i])), Tier(int(o.verdicts.tier[i])), Why(int(o.verdicts.why[i])),
        float(o.value[i]), float(o.expected[i]), float(o.lower[i]), float(o.upper[i]), float(o.surprise[i]),
        0 if o.learned is None else int(o.learned[i]), news,
    )  # fmt: skip


_CLOSED_BY = {
    FeedbackLabel.NEW_NORMAL: Close.NEW_NORMAL,
    FeedbackLabel.FALSE: Close.DISMISSED,
    FeedbackLabel.EXPECTED: Close.DISMISSED,
}
"""What is said of an open episode, and why it ends by that."""


def ended_by_word(memory: Memory, said: Mapping[str, FeedbackLabel]) -> list[tuple[Episode, Close]]:
    """The episodes that end by what was said of them, and why."""
    labels = [(e, said.get(e.id)) for e in memory.episodes.values()]
    ends = [(e, _CLOSED_BY[label]) for e, label in labels if label is not None and label in _CLOSED_BY]
    return [(e, why) for e, why in ends if _over(e, why)]


def _over(episode: Episode, why: Close) -> bool:
    """Whether a word ends an episode: an emergency is not dismissed while it lasts."""
    return why != Close.DISMISSED or (episode.phase == Phase.OPEN and episode.tier < Tier.EMERGENCY)
