"""What the store hands back and what people add: slot rows, outbox rows, votes, silences, thresholds, snapshots.

Pure values, no SQL. Times are int64 milliseconds; 0 means "not yet". Spans are half open: ``start <= t < end``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from anomalyd.block import Fingerprint
from anomalyd.clock import MINUTE_MS
from anomalyd.incident import Notification
from anomalyd.score import Observation, Tier


@dataclass(frozen=True, slots=True)
class RuleSlotRow:
    """How one rule fared in one slot, as stored (see ``slot.RuleSlot``), without its scores.

    Attributes:
        counts: number of series by kind of verdict, kinds with none left out; empty when nothing was scored.
        series: number of series with a score row.
    """

    rule: str
    at: int
    outcome: str
    reason: str
    detail: str
    duration_s: float
    cut: float
    model: str
    counts: Mapping[str, int]
    series: int


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSlot:
    """One rule in one slot with its scores, as stored; ``seen`` is None where its series are unknown (an error)."""

    at: int
    outcome: str
    cut: float
    seen: Observation | None


class OutboxState(StrEnum):
    """Where a notification is in its life; all but PENDING are final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"
    """Deliberately not sent; the row's ``reason`` says why (silenced, muted, inhibited, duplicate, expired...)."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A notification with what became of it.

    Attributes:
        reason: of the last attempt (see ``incident.Outcome.reason``) or of the drop; empty before any.
        message: of the last attempt, for people.
        attempts: attempts begun so far.
        next_at: not tried before this time, while pending.
        lease_until: somebody is delivering it until then; 0 when nobody is.
        in_doubt: some attempt ended without a known outcome, the receiver may have it.
        settled_at: when it became final; 0 while pending.
    """

    notification: Notification
    state: OutboxState
    reason: str
    message: str
    attempts: int
    next_at: int
    lease_until: int
    in_doubt: bool
    settled_at: int


@dataclass(frozen=True, slots=True)
class OutboxStat:
    """What one receiver is owed: the number of pending rows and the age of the oldest."""

    pending: int
    oldest_age_ms: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a receiver knows of an incident, resolves left out.

    Attributes:
        at: when it was last told for certain; 0 when nothing was delivered for certain.
        tier: the highest tier it was told for certain.
        delivered: something was delivered for certain.
        in_doubt: some attempt ended without a known outcome. In doubt a new statement is sent again and a resolve is
            owed, so ``at`` and ``tier`` leave such attempts out.
    """

    at: int
    tier: Tier
    delivered: bool
    in_doubt: bool


class FeedbackLabel(StrEnum):
    """An analyst's verdict."""

    TRUE = "true"
    FALSE = "false"
    EXPECTED = "expected"
    """Abnormal, but known: a job, a deploy, a holiday."""
    NEW_NORMAL = "new_normal"
    MISSED = "missed"
    """Nothing was said about this span, and something should have been."""
    ACKNOWLEDGED = "acknowledged"
    """Not a verdict: somebody has taken it up, elsewhere (PagerDuty)."""
    RESOLVED = "resolved"
    """Not a verdict: somebody has closed it elsewhere."""


VERDICTS = (FeedbackLabel.TRUE, FeedbackLabel.FALSE, FeedbackLabel.EXPECTED, FeedbackLabel.NEW_NORMAL)
"""The labels that judge an episode."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One vote on an episode, or on a span of a series where there was none.

    Attributes:
        id: also makes a repeated click harmless.
        episode: empty for a `missed` span.
        fingerprint: the series; empty for the rule as a whole.
        start, end: the span the vote is about; equal to the episode's where there is one.
        who: the person, as the channel knows it.
        via: channel the vote came by: slack, pagerduty, link, console, api, cli.
        undone_at: when it was taken back; 0 while it counts.
    """

    id: str
    label: FeedbackLabel
    rule: str
    at: int
    who: str
    via: str
    episode: str = ""
    fingerprint: Fingerprint = ""
    start: int = 0
    end: int = 0
    cause: str = ""
    text: str = ""
    undone_at: int = 0


MatchOp: TypeAlias = Literal["=", "!=", "=~", "!~"]


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label; ``=~`` and ``!~`` are anchored regular expressions, as in Alertmanager."""

    name: str
    op: MatchOp
    value: str


@dataclass(frozen=True, slots=True)
class Silence:
    """Do not notify about alerts whose labels meet all matchers, from ``starts_at`` up to ``ends_at``."""

    id: str
    matchers: tuple[Matcher, ...]
    starts_at: int
    ends_at: int
    created_by: str
    comment: str = ""
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class ThresholdChange:
    """One step in the history of a threshold; the newest one of a (rule, series) that was not undone holds.

    Attributes:
        id: number given by the store, increasing; 0 before it is saved.
        fingerprint: the series; empty for the rule as a whole.
        cuts: by tier, warning, critical, emergency; infinity where there is none.
        reason: closed set: feedback, budget, undo, manual.
        feedback: id of the vote that caused it, if one did.
        undone_at: when it was taken back; 0 while it counts.
    """

    rule: str
    at: int
    cuts: tuple[float, float, float]
    reason: str
    fingerprint: Fingerprint = ""
    who: str = ""
    detail: str = ""
    feedback: str = ""
    undone_at: int = 0
    id: int = 0


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A stored model: ``meta_json`` describes it, ``blob`` holds its arrays (NPZ, never pickle)."""

    rule: str
    version: str
    meta_json: str
    blob: bytes = field(repr=False)
    at: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """How often learned states are kept (0: never), and how large one may be.

    They are written in parts of about ``part_bytes``: none keeps the database's writer for long.
    """

    every_ms: int = 10 * MINUTE_MS
    max_bytes: int = 2 << 30
    part_bytes: int = 32 << 20


NO_SNAPSHOTS = SnapshotPolicy(0)


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of leadership: the lease's name and the number under which it was granted; a later grant is larger."""

    name: str
    number: int
