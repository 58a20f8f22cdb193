"""``SlotCommit``: everything one evaluation of one group wants written, in one transaction or not at all.

Pure values. What was not committed is evaluated again; what is in the outbox is still owed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

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


class NoticeKind(StrEnum):
    """What a notice is about; a metric label."""

    DRIFT = "drift"
    """A series does not behave as the model learned it, without being abnormal enough to alert."""
    FIT = "fit"
    """A fit failed; the rule goes on with the model it has."""
    MODEL = "model"
    """What a fit has put to work, where the detector had a choice: its net, or the simpler model it falls back to."""
    REMOTE_WRITE = "remote_write"
    """A target that scores are written to has taken none for long."""
    LEFT_OUT = "left_out"
    """A fit did not learn what looks like incidents of the time before series were watched."""
    RETURNED = "returned"
    """A series came back that had long been gone; it is learned anew."""
    SERIES = "series"
    """A rule's series ended together and others came in their place: another source at the same address, a release."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about a model or a series that people should be able to read, and that pages nobody.

    Attributes:
        id: stable, so that a slot that is evaluated again notes nothing twice.
        since: when what it tells of began, as far as that is known; 0 where it is not.
        fingerprint, labels: the series; empty for the rule as a whole.
        text: one sentence.
    """

    id: str
    kind: NoticeKind
    rule: str
    at: int
    text: str
    since: int = 0
    fingerprint: Fingerprint = ""
    labels: Labels = ()


def make_notice(
    kind: NoticeKind, rule: str, at: int, text: str, *, since: int = 0, fingerprint: Fingerprint = "",
    labels: Labels = (),
) -> Notice:  # fmt: skip
    """A notice with the id that follows from what it is about and when it was found."""
    parts = f"{kind}\0{rule}\0{fingerprint}\0{at}"
    identity = hashlib.blake2b(parts.encode("utf-8", "replace"), digest_size=10).hexdigest()
    return Notice(identity, kind, rule, at, text, since, fingerprint, labels)


@dataclass(frozen=True, slots=True)
class SlotCommit:
    """One group, one slot.

    Attributes:
        series: new rows, and those of series that had gone and are back.
        gone: by rule, the rows of series that have gone for good.
    """

    group: str
    at: int
    rules: tuple[RuleSlot, ...]
    missed: int = 0
    series: tuple[SeriesRow, ...] = ()
    episodes: tuple[Episode, ...] = ()
    incidents: tuple[Incident, ...] = ()
    outbox: tuple[Notification, ...] = field(default=())
    notices: tuple[Notice, ...] = ()
    gone: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
