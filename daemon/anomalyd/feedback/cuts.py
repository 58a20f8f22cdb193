"""Votes in, cuts out: what analysts say about episodes moves each series' thresholds. Pure.

Who counts is settled in ``votes.py`` and how far a cut should move in ``belief.py``; here is how fast it may go, and
what becomes of it.

Invariants: few votes move nothing; a day moves a cut by a bounded factor, and never beyond ``max_factor`` nor below
``floor``; an emergency's cut moves by a tenth at most and no cut is ever above it, so a value that surprising still
pages whatever was voted. A moved cut that nobody votes on any more fades.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from anomalyd.block import F64, Fingerprint
from anomalyd.clock import DAY_MS, WEEK_MS
from anomalyd.episode import Close, Episode
from anomalyd.feedback.belief import ALONE as ALONE
from anomalyd.feedback.belief import TOGETHER_MS as TOGETHER_MS
from anomalyd.feedback.belief import FeedbackPolicy as FeedbackPolicy
from anomalyd.feedback.belief import Judged as Judged
from anomalyd.feedback.belief import believe as believe
from anomalyd.feedback.belief import factors as factors
from anomalyd.feedback.recurring import Recurring
from anomalyd.feedback.votes import began_alone, fading
from anomalyd.records import Feedback, FeedbackLabel, ThresholdChange
from anomalyd.rule import Rule
from anomalyd.threshold import NEVER

STEP_MIN = 0.01
"""A change of a factor that is smaller than this share is not written down."""
EMERGENCY_FACTOR = 1.1


@dataclass(frozen=True, slots=True)
class Moved:
    """A factor on the rule's own cuts, as of ``at``; it fades towards 1."""

    factor: float
    at: int


@dataclass(frozen=True, slots=True)
class RuleFeedback:
    """All that feedback says about one rule.

    Attributes:
        moved: by fingerprint; the empty one is for the series that have none of their own.
        recurring: the exceptions.
        labels: the verdict on each judged episode.
        missed: spans (fingerprint, start, end) that should have been told.
    """

    moved: Mapping[Fingerprint, Moved] = field(default_factory=dict)
    recurring: tuple[Recurring, ...] = ()
    labels: Mapping[str, FeedbackLabel] = field(default_factory=dict)
    missed: tuple[tuple[Fingerprint, int, int], ...] = ()

    @property
    def moves_cuts(self) -> bool:
        return bool(self.moved or self.recurring)


NO_FEEDBACK = RuleFeedback()


def policy_of(rule: Rule, policy: FeedbackPolicy) -> FeedbackPolicy:
    """How far feedback may go on a rule: the settings, but for what the rule says itself."""
    own = rule.feedback
    return replace(
        policy,
        min_votes=policy.min_votes if own.min_votes is None else own.min_votes,
        max_factor=policy.max_factor if own.max_factor is None else own.max_factor,
        floor=policy.floor if own.floor is None else own.floor,
        half_life_ms=policy.half_life_ms if own.half_life_ms is None else own.half_life_ms,
    )


# From judgements to factors ------------------------------------------------------------------------------------------


def faded(moved: Moved, at: int, policy: FeedbackPolicy) -> float:
    """A factor as it is at a later time."""
    return float(moved.factor ** fading(at - moved.at, policy))


def steps(
    asked: Mapping[Fingerprint, tuple[float, int]],
    history: Sequence[ThresholdChange],
    now: int,
    policy: FeedbackPolicy,
) -> dict[Fingerprint, tuple[float, float]]:
    """What may be changed now: (factor before, factor after) by fingerprint, bounded by what it was within a day.

    A series that was moved and that no judgement asks for any more goes back to its rule.
    """
    current = moved_of(history)
    changes = {}
    for name in sorted(asked.keys() | current.keys()):
        before = faded(current[name], now, policy) if name in current else 1.0
        wanted = asked.get(name, (asked.get("", (1.0, 0))[0] if name else 1.0, 0))[0]
        lowest = min([before, *_within_a_day(name, history, now, policy)])
        after = min(wanted, max(lowest * policy.max_factor_per_day, before) if wanted > before else wanted)
        if abs(after / before - 1) > STEP_MIN:
            changes[name] = (before, after)
    return changes


def _within_a_day(
    name: Fingerprint, history: Sequence[ThresholdChange], now: int, policy: FeedbackPolicy
) -> list[float]:
    """The factors a series had within the last day, also those that were taken back: undoing buys no second step."""
    mine = [change for change in history if change.fingerprint == name]
    recent = [read_detail(change).factor for change in mine if change.at > now - DAY_MS]
    older = [change for change in mine if change.at <= now - DAY_MS]
    if not recent:
        return []
    start = faded(Moved(read_detail(older[-1]).factor, older[-1].at), now - DAY_MS, policy) if older else 1.0
    return [start, *recent]


def moved_of(history: Sequence[ThresholdChange]) -> dict[Fingerprint, Moved]:
    """The factors that hold: the newest entry of each series that was not taken back."""
    return {
        change.fingerprint: Moved(read_detail(change).factor, change.at)
        for change in history
        if not change.undone_at and read_detail(change).factor > 0
    }


def moved_cuts(base: tuple[float, float, float], factor: float, policy: FeedbackPolicy) -> tuple[float, float, float]:
    """Apply a factor to a rule's own cuts (warning, critical, emergency), within the floor and below the emergency."""
    array = _bounded(np.array([base]), np.array([factor]), policy)[0]
    return float(array[0]), float(array[1]), float(array[2])


def _bounded(base: F64, factor: F64, policy: FeedbackPolicy) -> F64:
    """Cuts [N, 3] of own cuts [N, 3] times factors [N]."""
    floor = np.minimum(base, policy.floor)
    cuts = np.maximum(base * factor[:, None], floor)
    cuts[:, 2] = np.clip(cuts[:, 2], floor[:, 2], base[:, 2] * EMERGENCY_FACTOR)
    # A raise belongs to where alerts begin; a higher tier follows only as far as it must, and a lower one never
    # passes the emergency.
    rises = factor > 1
    lowest = np.where(np.isfinite(base), cuts, np.inf).min(axis=1)
    first = base == base.min(axis=1, keepdims=True)
    for tier in (0, 1):
        raised = np.where(first[:, tier], cuts[:, tier], np.maximum(base[:, tier], lowest))
        cuts[:, tier] = np.minimum(np.where(rises, raised, cuts[:, tier]), cuts[:, 2])
    return np.where(np.isfinite(base), cuts, np.inf)


def apply(
    feedback: RuleFeedback, base: F64, fingerprints: Sequence[Fingerprint], at: int, policy: FeedbackPolicy,
    alone: bool = True,
) -> F64:  # fmt: skip
    """Each series' cuts [N, 3] in the slot ``at``, from the rule's own [N, 3].

    What votes say of a rule as a whole holds while what is abnormal is ``alone`` (at most ``ALONE`` series).
    """
    known = {name: i for i, name in enumerate(fingerprints)}
    factor = np.ones(len(fingerprints))
    if alone and (whole := feedback.moved.get("")) is not None and whole.at <= at:
        factor[:] = faded(whole, at, policy)
    for name, moved in feedback.moved.items():
        if name in known and moved.at <= at:
            factor[known[name]] = faded(moved, at, policy)
    for one in feedback.recurring:
        if one.fingerprint in known and at < one.until and one.interval.holds(at):
            row = known[one.fingerprint]
            factor[row] = max(factor[row], one.factor)
    return _bounded(base, np.clip(factor, policy.min_factor, policy.max_factor), policy)


# The record ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Detail:
    """What a row of the threshold history says beyond its cuts.

    Attributes:
        factor: the factor on the rule's own cuts; 0 where the row was not written by feedback.
        before: the cuts until then.
        why: in words.
    """

    factor: float = 0.0
    before: tuple[float, float, float] = (NEVER, NEVER, NEVER)
    why: str = ""


def write_detail(detail: Detail) -> str:
    """A detail as the text that is stored."""
    before = [None if cut == NEVER else round(cut, 4) for cut in detail.before]
    return json.dumps({"factor": round(detail.factor, 5), "before": before, "why": detail.why})


def read_detail(change: ThresholdChange) -> Detail:
    """The detail of a stored row; a row of another origin keeps its text as the reason."""
    try:
        data = json.loads(change.detail)
        before = [NEVER if cut is None else float(cut) for cut in data["before"]]
        return Detail(float(data["factor"]), (before[0], before[1], before[2]), str(data["why"]))
    except (ValueError, TypeError, KeyError, IndexError):
        return Detail(why=change.detail)


def changes_of(
    rule: str,
    base: tuple[float, float, float],
    moves: Mapping[Fingerprint, tuple[float, float]],
    judged: Sequence[Judged],
    vote: Feedback,
    now: int,
    policy: FeedbackPolicy,
    reason: str = "feedback",
) -> list[ThresholdChange]:
    """The rows that record the moves; ``vote`` is what caused them."""
    rows = []
    for name, (before, after) in moves.items():
        mine = [one for one in judged if not name or one.fingerprint == name]
        real = sum(one.real >= 0.5 and not one.missed for one in mine)
        missed = sum(one.missed for one in mine)
        why = f"{len(mine) - real - missed} false, {real} real, {missed} missed of {len(mine)} judged; × {after:.2f}"
        why += "" if name else f" for series without votes, while at most {ALONE} are abnormal at once"
        detail = write_detail(Detail(after, moved_cuts(base, before, policy), why))
        cuts = moved_cuts(base, after, policy)
        rows.append(ThresholdChange(rule, now, cuts, reason, name, vote.who, detail, vote.id))
    return rows


@dataclass(frozen=True, slots=True)
class Preview:
    """What a change of cuts would have done to the past.

    Attributes:
        removed: alerts that would not have been; ``confirmed`` of them were called real.
        kept: alerts that would have been all the same.
    """

    days: int
    removed: int
    kept: int
    confirmed: int
    exceptions: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """One sentence for people."""
        if not self.removed and not self.exceptions:
            return f"would have changed nothing in {self.days} days"
        real = "no confirmed one" if not self.confirmed else f"{self.confirmed} confirmed"
        alerts = "1 alert" if self.removed == 1 else f"{self.removed} alerts"
        said = f"would have removed {alerts} and {real} in {self.days} days"
        return said + (f"; expects {', '.join(self.exceptions)}" if self.exceptions else "")


def preview(
    after: RuleFeedback, episodes: Sequence[Episode], base: tuple[float, float, float], now: int,
    policy: FeedbackPolicy, days: int = 30,
) -> Preview:  # fmt: skip
    """What feedback would have made of the episodes told within ``days``, had its cuts been in effect all along."""
    told = [e for e in episodes if e.opened_at and e.started_at >= now - days * DAY_MS]
    standing, ever = in_effect(after, now, policy)
    removed, alone = [], began_alone(told)
    for episode in told:
        at = episode.peak_at or episode.started_at
        cuts = apply(standing, np.array([base]), [episode.fingerprint], at, ever, episode.id in alone)
        if episode.peak_surprise <= cuts.min():
            removed.append(episode)
    confirmed = sum(after.labels.get(e.id) == FeedbackLabel.TRUE for e in removed)
    words = tuple(one.words for one in after.recurring)
    return Preview(days, len(removed), len(told) - len(removed), confirmed, words)


def in_effect(feedback: RuleFeedback, now: int, policy: FeedbackPolicy) -> tuple[RuleFeedback, FeedbackPolicy]:
    """What holds at ``now`` as if it had always held, with the policy to apply it by."""
    moved = {name: Moved(faded(one, max(now, one.at), policy), 0) for name, one in feedback.moved.items()}
    return RuleFeedback(moved, feedback.recurring), replace(policy, half_life_ms=10**6 * WEEK_MS)


# For the evaluation --------------------------------------------------------------------------------------------------


class Heard(Protocol):
    """Where an evaluation asks for the feedback on a rule as of a slot."""

    @property
    def policy(self) -> FeedbackPolicy: ...

    def __call__(self, rule: Rule, at: int) -> RuleFeedback: ...


@dataclass(frozen=True, slots=True)
class Unheard:
    """No feedback at all: backtests, rule tests."""

    policy: FeedbackPolicy = field(default_factory=FeedbackPolicy)

    def __call__(self, rule: Rule, at: int) -> RuleFeedback:
        return NO_FEEDBACK


def training_gaps(
    feedback: RuleFeedback, episodes: Iterable[Episode], start: int, until: int, live: frozenset[str], learn_all: bool
) -> list[tuple[Fingerprint, int, int]]:
    """Spans (fingerprint, from, up to) of history that are not to be learned from.

    Episodes that opened, unless their level was accepted or an analyst called them false or expected; all that was
    called real or missed; and everything before the moment from which a level is the new normal.

    Args:
        live: ids of the episodes that are open now, whatever the store says of them.
        learn_all: the rule learns from episodes too; what was before a new normal is left out even so.
    """
    gaps = []
    for e in episodes:
        label = feedback.labels.get(e.id)
        accepted = e.close in (Close.NEW_LEVEL, Close.NEW_NORMAL) or label in _LEARNED
        told = bool(e.opened_at) and (bool(e.closed_at) or e.id in live)
        if e.close == Close.NEW_NORMAL:
            gaps.append((e.fingerprint, start, e.started_at))
        elif told and not learn_all and (label == FeedbackLabel.TRUE or not accepted):
            gaps.append((e.fingerprint, e.started_at, e.closed_at or until + 1))
    return gaps if learn_all else [*gaps, *((name, a, b + 1) for name, a, b in feedback.missed)]


_LEARNED = (FeedbackLabel.FALSE, FeedbackLabel.EXPECTED, FeedbackLabel.NEW_NORMAL)
