"""Notices to receivers that ask for them: drift, fits that failed and what else pages nobody, in few messages.

Nobody is told of notices unless the settings name receivers under ``notices``. These get one message for all that has
come together, one per ``every`` at most and one thread a day. It is no alert: it has no end, does not escalate, is not
repeated and goes to no fallback.

Invariant: what a receiver was owed names the notices it was about, so nothing is told twice and nothing that was found
late, by a daemon that caught up, is passed over. Pure.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from anomalyd.block import fingerprint, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.incident import MAX_ALERTS, NOTICE, NOTICES, NOTICES_RULE, Alert, Notification, Reason, Statement
from anomalyd.records import OutboxRow, OutboxState
from anomalyd.render import clean, clock_time, label_text
from anomalyd.score import Tier
from anomalyd.slot import Notice, NoticeKind

GATHER_MS = 5 * MINUTE_MS
"""What a release makes drift, drifts within minutes: the newest notice is this old before a message goes out."""

SHOWN = 20
"""Notices that a message spells out."""

USUAL = (NoticeKind.DRIFT, NoticeKind.FIT, NoticeKind.REMOTE_WRITE, NoticeKind.SERIES)
"""Kinds that say that something may be wrong."""


@dataclass(frozen=True, slots=True)
class NoticePolicy:
    """Who is told of which notices, and how often at most."""

    receivers: tuple[str, ...] = ()
    kinds: tuple[NoticeKind, ...] = USUAL
    every_ms: int = HOUR_MS


class Book(Protocol):
    """What is asked of the store."""

    def notices(
        self, *, rule: str | None = None, fingerprint: str | None = None, kind: NoticeKind | None = None,
        start: int | None = None, end: int | None = None, limit: int = 100,
    ) -> list[Notice]: ...  # fmt: skip

    def notifications(
        self, *, incident: str | None = None, receiver: str | None = None, state: OutboxState | None = None,
        limit: int = 100,
    ) -> list[OutboxRow]: ...  # fmt: skip


def notices_owed(policy: NoticePolicy, book: Book, live: Callable[[str], bool], now: int) -> list[Notification]:
    """What receivers are owed about notices of the last day; asked about once a minute.

    Args:
        live: whether a rule (by its id; "" for none) may tell anybody.
    """
    if not policy.receivers:
        return []
    found = [
        one for one in book.notices(start=now - DAY_MS, end=now + 1, limit=1_000)
        if one.kind in policy.kinds and live(one.rule)
    ]  # fmt: skip
    if not found:
        return []
    owed = (_owed(policy, book, receiver, found, now) for receiver in policy.receivers)
    return [one for one in owed if one is not None]


def _owed(
    policy: NoticePolicy, book: Book, receiver: str, found: Sequence[Notice], now: int
) -> Notification | None:
    days = (now // DAY_MS, now // DAY_MS - 1)
    today, before = (
        book.notifications(incident=_incident(receiver, day), receiver=receiver, limit=1_000) for day in days
    )
    said = [row.notification for row in (*today, *before)]
    known = {alert.episode for one in said for alert in one.statement.alerts}
    fresh = [one for one in found if one.id not in known]
    if not fresh or any(now - one.created_at < policy.every_ms for one in said):
        return None
    if now - fresh[0].at < GATHER_MS and now - fresh[-1].at < policy.every_ms:
        return None
    fresh = fresh[:MAX_ALERTS]
    incident = _incident(receiver, days[0])
    identity = hashlib.blake2b(f"{incident}\0{fresh[0].id}".encode(), digest_size=12).hexdigest()
    reason = Reason.MORE if today else Reason.NEW
    return Notification(identity, receiver, statement_of(fresh, incident, reason, now), now)


def _incident(receiver: str, day: int) -> str:
    return hashlib.blake2b(f"{NOTICES_RULE}\0{receiver}\0{day}".encode(), digest_size=10).hexdigest()


def statement_of(notices: Sequence[Notice], incident: str, reason: Reason, now: int) -> Statement:
    """One statement about notices, newest first."""
    counts = Counter(one.kind.value for one in notices)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    lines = [_line(one, now) for one in notices[:SHOWN]]
    if len(notices) > SHOWN:
        lines.append(f"and {len(notices) - SHOWN} more: anomalyd notices")
    return Statement(
        incident=incident, key=hashlib.sha256(incident.encode()).hexdigest(), rule=NOTICES_RULE, group="anomalyd",
        name=NOTICES, expr="", detector="", reason=reason, tier=Tier.WARNING, at=now,
        opened_at=min(one.at for one in notices), group_labels=make_labels({"kind": "notices"}), labels={},
        annotations={"summary": f"{kinds}; nobody was paged", "description": "\n".join(lines)},
        alerts=tuple(_alert(one) for one in notices), total=len(notices),
    )  # fmt: skip


def _line(one: Notice, now: int) -> str:
    series = f" {{{label_text(one.labels, 120)}}}" if one.labels else ""
    since = f", since {clock_time(one.since, now)}" if one.since else ""
    return f"{clock_time(one.at, now)} {one.kind.value} {clean(one.rule, 80)}{series}: {clean(one.text, 300)}{since}"


def _alert(one: Notice) -> Alert:
    labels: Mapping[str, str] = {"kind": one.kind.value, "rule": one.rule} | dict(one.labels)
    made = make_labels(labels)
    return Alert(
        episode=one.id, fingerprint=one.fingerprint or fingerprint(made), labels=made, tier=Tier.WARNING,
        status="firing", why=NOTICE, value=None, expected=None, lower=None, upper=None, surprise=None,
        anomaly_score=None, started_at=one.since or one.at, opened_at=one.at,
    )  # fmt: skip
