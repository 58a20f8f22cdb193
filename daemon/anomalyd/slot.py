"""``SlotCommit``: everything one evaluation of one group wants written, in one transaction or not at all.

Pure values. What was not committed is evaluated again; what is in the outbox is still owed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from anomalyd.block import Fingerprint, Labels
from anomalyd.episode import Episode
from anomalyd.incident import Incident, Notification
from anomalyd.score import Observation


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A series in a rule's registry: ``row`` is its small integer id, unique within the rule, never reused."""

    rule: str
    row: int
    fingerprint: Fingerprint
    labels: Labels
    first_seen: int


@dataclass(frozen=True, slots=True)
class RuleSlot:
    """How one rule fared in one slot.

    Attributes:
        outcome: ok, partial or error.
        reason: closed set, a metric label; empty for ok.
        detail: for people, at most 1 kB; may quote the source.
        cut: the lowest tier's cut on surprise (what ``anomaly_score`` is measured in).
        model: version of the model that scored.
        observation: the scores; None when nothing could be scored.
    """

    rule: str
    at: int
    outcome: str
    reason: str = ""
    detail: str = ""
    duration_s: float = 0.0
    cut: float = 0.0
    model: str = ""
    observation: Observation | None = None


@dataclass(frozen=True, slots=True)
class SlotCommit:
    """One group, one slot."""

    group: str
    at: int
    rules: tuple[RuleSlot, ...]
    missed: int = 0
    series: tuple[SeriesRow, ...] = ()
    episodes: tuple[Episode, ...] = ()
    incidents: tuple[Incident, ...] = ()
    outbox: tuple[Notification, ...] = field(default=())
