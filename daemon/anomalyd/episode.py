"""``Episode``: one contiguous abnormal span of one series, and the machine that moves it.

Pure: ``advance`` takes what is, what was seen in one slot and the rule's policy, and returns what is next and what
happened. The table of every (state, input) pair is in ``tests/unit/test_episode.py``.

Invariants: an unknown (error, partial, limited, or missing under `hold`) never opens, never closes and never counts
towards a `for`; the tier of an open episode only rises; an episode that was told is closed by exactly one transition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from anomalyd.block import Fingerprint, Labels
from anomalyd.rule import Rule
from anomalyd.score import Kind, Tier, Why

SURGE = 1.0
"""An open episode has surged when there is news in it that is ten times rarer than its peak, and the peak was no part
of the same rise: it has stood for the rule's `suppress`."""


class Phase(StrEnum):
    """Where an episode is in its life."""

    PENDING = "pending"
    """Abnormal, but not yet for the rule's `for`."""
    OPEN = "open"
    CLOSED = "closed"


class Close(StrEnum):
    """Why an episode ended."""

    RECOVERED = "recovered"
    ENDED = "ended"
    """The series stopped reporting and the rule says `missing: resolve`."""
    NEW_LEVEL = "new_level"
    """It lasted longer than `accept_after`: the level is the new normal now."""
    RULE_REMOVED = "rule_removed"
    NEW_NORMAL = "new_normal"
    """An analyst said so."""
    DISMISSED = "dismissed"
    """An analyst called it false or expected: it is learned, and no page until it is over."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One abnormal span of one series. Times are slot times in milliseconds.

    Attributes:
        reached: for each tier, since when the series has been at or above it without a break (0: it is not).
        calm_since: since when it has been back to normal (0: it is not); closes after `keep_firing_for`.
        peak_*: the slot with the largest surprise.
        learned_ms: how much past was learned from when a young series' episode began; 0: it was not young.
    """

    id: str
    rule: str
    fingerprint: Fingerprint
    labels: Labels
    phase: Phase
    tier: Tier
    started_at: int
    seen_at: int
    reached: tuple[int, int, int] = (0, 0, 0)
    opened_at: int = 0
    calm_since: int = 0
    closed_at: int = 0
    close: Close | None = None
    why: Why = Why.SURPRISE
    value: float = 0.0
    expected: float = 0.0
    lower: float = 0.0
    upper: float = 0.0
    surprise: float = 0.0
    peak_at: int = 0
    peak_value: float = 0.0
    peak_expected: float = 0.0
    peak_surprise: float = 0.0
    incident: str = ""
    model: str = ""
    learned_ms: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One series in one slot, as the episode machine needs it.

    ``learned`` is above 0 while the series is young: how many slots of its past were learned from. ``news``: the
    detector would open an episode by it, were none open.
    """

    kind: Kind
    tier: Tier
    why: Why
    value: float
    expected: float
    lower: float
    upper: float
    surprise: float
    learned: int = 0
    news: bool = False


class Event(StrEnum):
    """What happened to an episode in a slot; ``NOTHING`` means that nobody has to be told."""

    NOTHING = "nothing"
    OPENED = "opened"
    WORSENED = "worsened"
    """It has reached a higher tier."""
    SURGED = "surged"
    """It has gone far beyond what it was, within its tier."""
    CLOSED = "closed"
    DROPPED = "dropped"
    """A pending episode went back to normal before its `for`."""


def begin(episode_id: str, rule: Rule, fingerprint: Fingerprint, labels: Labels, at: int, seen: Seen) -> Episode:
    """Make the pending episode of a series that is abnormal at ``at``; call ``advance`` with the same slot next."""
    return Episode(
        id=episode_id, rule=rule.id, fingerprint=fingerprint, labels=labels, phase=Phase.PENDING, tier=Tier.NONE,
        started_at=at, seen_at=at, why=seen.why, learned_ms=seen.learned * rule.interval_ms,
    )  # fmt: skip


def advance(episode: Episode, rule: Rule, at: int, seen: Seen) -> tuple[Episode, Event]:
    """Move an episode that is pending or open by one slot."""
    if seen.kind == Kind.MISSING and rule.missing == "resolve":
        return _calm(episode, rule, at, seen, Close.ENDED)
    if seen.kind == Kind.MISSING and rule.missing == "skip":
        return _calm(episode, rule, at, seen, Close.RECOVERED)
    if seen.kind not in (Kind.OK, Kind.ANOMALOUS):
        return episode, Event.NOTHING
    if seen.kind == Kind.OK:
        return _calm(episode, rule, at, seen, Close.RECOVERED)
    return _abnormal(episode, rule, at, seen)


def close_episode(episode: Episode, at: int, why: Close) -> tuple[Episode, Event]:
    """End an episode from outside: its rule went, or an analyst called it the new normal."""
    told = episode.phase == Phase.OPEN
    return replace(episode, phase=Phase.CLOSED, closed_at=at, close=why), Event.CLOSED if told else Event.DROPPED


def _calm(episode: Episode, rule: Rule, at: int, seen: Seen, why: Close) -> tuple[Episode, Event]:
    if episode.phase == Phase.PENDING:
        return replace(episode, phase=Phase.CLOSED, closed_at=at, close=why), Event.DROPPED
    calm_since = episode.calm_since or at
    if at - calm_since < rule.keep_firing_for_ms:
        return replace(episode, calm_since=calm_since, seen_at=at), Event.NOTHING
    closed = replace(
        episode, phase=Phase.CLOSED, closed_at=at, close=why, seen_at=at, calm_since=calm_since,
        value=seen.value, expected=seen.expected, lower=seen.lower, upper=seen.upper, surprise=seen.surprise,
    )  # fmt: skip
    return closed, Event.CLOSED


def _abnormal(episode: Episode, rule: Rule, at: int, seen: Seen) -> tuple[Episode, Event]:
    first, second, third = episode.reached
    reached = (
        (first or at) if seen.tier >= Tier.WARNING else 0,
        (second or at) if seen.tier >= Tier.CRITICAL else 0,
        (third or at) if seen.tier >= Tier.EMERGENCY else 0,
    )
    tier = max((p.tier for p in rule.tiers if _held(reached, p.tier, rule, at)), default=Tier.NONE)
    peak = seen.surprise > episode.peak_surprise or episode.peak_at == 0
    after = replace(
        episode, seen_at=at, reached=reached, calm_since=0, why=seen.why,
        value=seen.value, expected=seen.expected, lower=seen.lower, upper=seen.upper, surprise=seen.surprise,
        peak_at=at if peak else episode.peak_at,
        peak_value=seen.value if peak else episode.peak_value,
        peak_expected=seen.expected if peak else episode.peak_expected,
        peak_surprise=seen.surprise if peak else episode.peak_surprise,
    )  # fmt: skip
    if episode.phase == Phase.PENDING:
        if tier == Tier.NONE:
            return after, Event.NOTHING
        return replace(after, phase=Phase.OPEN, tier=tier, opened_at=at), Event.OPENED
    # A value outside the range that the business allows never becomes normal, however long it lasts.
    acceptable = rule.accept_after_ms and seen.why != Why.OUT_OF_RANGE
    if acceptable and at - episode.started_at >= rule.accept_after_ms:
        return replace(after, phase=Phase.CLOSED, closed_at=at, close=Close.NEW_LEVEL), Event.CLOSED
    if tier > episode.tier:
        return replace(after, tier=tier), Event.WORSENED
    return after, Event.SURGED if _surges(episode, rule, at, seen) else Event.NOTHING


def _surges(episode: Episode, rule: Rule, at: int, seen: Seen) -> bool:
    stood = at - episode.peak_at >= rule.suppress_ms
    return seen.news and stood and seen.surprise > episode.peak_surprise + SURGE


def _held(reached: tuple[int, int, int], tier: Tier, rule: Rule, at: int) -> bool:
    since = reached[tier - 1]
    policy_for = next((p.for_ms for p in rule.tiers if p.tier == tier and p.for_ms is not None), rule.for_ms)
    return since > 0 and at - since >= policy_for
