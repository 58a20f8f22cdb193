"""``Incident`` and ``Notification``: episodes told together, and one statement about them to one receiver.

Pure values. An incident gathers the open episodes of one rule that share the values of its `group_by` labels; a
notification is what the outbox owes a receiver. The statement is a snapshot: what is sent later is what was true when
it was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from anomalyd.block import Labels
from anomalyd.rule import Rule
from anomalyd.score import Tier


class Reason(StrEnum):
    """Why a receiver is told."""

    NEW = "new"
    WORSE = "worse"
    """A higher tier, or far beyond what it was within its tier: passes every suppression window."""
    MORE = "more"
    """Further series joined an incident that is already known."""
    REPEAT = "repeat"
    ESCALATED = "escalated"
    """News to a receiver that hears of it because nobody has acknowledged."""
    FLAPPING = "flapping"
    """News of something that opens over and over, and is left alone from now on."""
    JUDGED = "judged"
    """Somebody has said what it was: for receivers that keep one message and can write it in; no news to anybody."""
    RESOLVED = "resolved"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Incident:
    """Episodes told together. ``key`` is stable over time and restarts, ``id`` is unique to one occurrence."""

    id: str
    key: str
    rule: str
    group_labels: Labels
    tier: Tier
    opened_at: int
    closed_at: int = 0
    episodes: int = 0

    @property
    def open(self) -> bool:
        return self.closed_at == 0


def group_of(rule: Rule, labels: Labels) -> Labels:
    """The labels by which a rule groups a series."""
    return labels if rule.group_by == ("...",) else tuple((k, v) for k, v in labels if k in rule.group_by)


def incident_key(rule: Rule, labels: Labels) -> tuple[str, Labels]:
    """The key and group labels of the incident that an episode of ``rule`` on the series ``labels`` belongs to.

    ``group_by: ["..."]`` gives each series its own incident, as in Alertmanager.
    """
    chosen = group_of(rule, labels)
    digest = hashlib.sha256(repr((rule.id, chosen)).encode("utf-8", "replace")).hexdigest()
    return digest, chosen


DATA_FAULTS: Mapping[str, str] = {
    "gaps": "with gaps where there were none",
    "stale": "silent for longer than ever",
    "frozen": "stuck on one value",
    "repeats": "repeating samples, as after a longer scrape interval",
    "resolution": "with far fewer different values than ever",
    "range": "of another order of magnitude",
}
"""What can be wrong with a series as data, in words that follow "is" or "series"; also the ``why`` of such an alert."""

NOTICE = "notice"
"""The ``why`` of what is no alert at all."""

NOTICES = "Notices"
NOTICES_RULE = f"anomalyd/{NOTICES}"

UNJUDGED = frozenset({"source", NOTICE, *DATA_FAULTS})
"""The ``why`` of alerts that are no episode: nobody can say whether they were right."""


MAX_CHANNELS = 5
"""Series of a group that are named."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One series of a group that was judged as a whole.

    Attributes:
        away: how far it is from its expected value, in its usual deviations; None where that is not known.
    """

    labels: Labels
    value: float | None
    expected: float | None
    away: float | None


@dataclass(frozen=True, slots=True)
class Alert:
    """One episode as a reader needs it: where, how far from normal, since when, why."""

    episode: str
    fingerprint: str
    labels: Labels
    tier: Tier
    status: str
    """firing or resolved"""
    why: str
    value: float | None
    expected: float | None
    lower: float | None
    upper: float | None
    surprise: float | None
    anomaly_score: float | None
    started_at: int
    opened_at: int
    closed_at: int = 0
    close: str = ""
    learned_ms: int = 0
    """How much past a young series was learned from when it became abnormal; 0: it was not young."""
    channels: tuple[Channel, ...] = ()
    """Of a group that was judged as a whole: its series that are furthest from usual, the furthest first."""
    width: int = 0
    """How many series such a group has; 0 for a single series."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said about an incident at one time, before any receiver's formatting.

    Attributes:
        at: the slot in which it became true, milliseconds.
        alerts: ranked, most surprising first; at most ``MAX_ALERTS`` of ``total``.
        labels, annotations: the rule's, annotations rendered.
        links: name to URL, from configuration only.
        suppress_ms: the rule's suppression window: how long a series that was told stays quiet at the same tier.
        note: why this receiver is told now, where that is not plain from the reason; a clause in our own words.
        siblings: how many series the rule watches in this group; 0 where that is not known.
    """

    incident: str
    key: str
    rule: str
    group: str
    name: str
    expr: str
    detector: str
    reason: Reason
    tier: Tier
    at: int
    opened_at: int
    group_labels: Labels
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    alerts: tuple[Alert, ...]
    total: int
    links: Mapping[str, str] = field(default_factory=dict)
    suppress_ms: int = 0
    note: str = ""
    siblings: int = 0

    @property
    def resolved(self) -> bool:
        """Whether it tells of the end, or of what was said after it."""
        if self.reason == Reason.JUDGED:
            return bool(self.alerts) and all(alert.status == "resolved" for alert in self.alerts)
        return self.reason == Reason.RESOLVED


MAX_ALERTS = 50


class OutcomeKind(StrEnum):
    """How an attempt to deliver ended."""

    DELIVERED = "delivered"
    RETRY = "retry"
    FAILED = "failed"
    """Permanent: recorded with its reason, not tried again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one attempt.

    Attributes:
        reason: closed set, a metric label: ok, connect, timeout, tls, rate_limited, server, client, auth, not_found,
            config, template, cut.
        retry_after_s: what the receiver asked for, already clamped.
        memory: what the receiver must remember to update or resolve later (message ts, annotation id, routing key);
            replaces what was remembered for (incident, receiver).
    """

    kind: OutcomeKind
    reason: str = "ok"
    message: str = ""
    retry_after_s: float | None = None
    memory: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A row of the outbox: one statement owed to one receiver.

    Attributes:
        id: also the idempotency key of every attempt.
        attempt: how many attempts were made before this one.
        memory: what the receiver remembered of this incident (see ``Outcome.memory``).
    """

    id: str
    receiver: str
    statement: Statement
    created_at: int
    attempt: int = 0
    memory: Mapping[str, Any] = field(default_factory=dict)
