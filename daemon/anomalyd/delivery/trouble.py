"""A receiver that refuses for good (revoked token, archived channel): the others are told so, and what it refused goes
to its fallback. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from anomalyd.block import fingerprint, make_labels
from anomalyd.incident import NOTICES_RULE, Alert, Notification, Reason, Statement
from anomalyd.records import OutboxRow
from anomalyd.render import clean
from anomalyd.score import Tier

TROUBLE_RULE = "anomalyd/ReceiverFailing"
REASONS = frozenset({"auth", "not_found", "config"})
"""Failures that somebody has to mend; others concern one message only."""


def trouble(
    receiver: str, since: int, now: int, reason: str, message: str, others: Sequence[str], over: bool = False
) -> list[Notification]:
    """What the other receivers are owed when one fails for good, and again when it works (``over``).

    Args:
        since: when it began; the same in both, so that the end finds its beginning.
    """
    identity = hashlib.blake2b(f"trouble\0{receiver}\0{since}".encode(), digest_size=10).hexdigest()
    labels = make_labels({"receiver": receiver})
    summary = (
        f"Receiver {receiver} works again."
        if over
        else f"Receiver {receiver} refuses notifications for good ({reason}): it gets no alerts until it is mended."
    )
    alert = Alert(
        episode=identity, fingerprint=fingerprint(labels), labels=labels, tier=Tier.CRITICAL,
        status="resolved" if over else "firing", why="source", value=None, expected=None, lower=None, upper=None,
        surprise=None, anomaly_score=None, started_at=since, opened_at=since, closed_at=now if over else 0,
        close="recovered" if over else "",
    )  # fmt: skip
    statement = Statement(
        incident=identity, key=hashlib.sha256(identity.encode()).hexdigest(), rule=TROUBLE_RULE, group="anomalyd",
        name="ReceiverFailing", expr="", detector="", reason=Reason.RESOLVED if over else Reason.NEW,
        tier=Tier.CRITICAL, at=now, opened_at=since, group_labels=labels, labels={},
        annotations={"summary": summary} | ({"description": clean(message, 500)} if message and not over else {}),
        alerts=(alert,), total=1,
    )  # fmt: skip
    return [Notification(f"{identity}-{statement.reason}-{name}", name, statement, now) for name in others]


def instead(row: Notification, other: str, known: Sequence[OutboxRow], now: int) -> Notification | None:
    """What a fallback is owed for a notification that was refused for good; None when it is told of it anyway.

    Args:
        known: what the fallback was ever owed about the incident.
    """
    s = row.statement
    if s.reason in (Reason.TEST, Reason.JUDGED) or s.rule in (TROUBLE_RULE, NOTICES_RULE):
        return None
    for theirs in known:
        t = theirs.notification.statement
        if t.resolved == s.resolved and t.tier >= s.tier and t.at >= s.at:
            return None
    id = hashlib.blake2b(f"{row.id}\0instead\0{other}".encode("utf-8", "replace"), digest_size=12).hexdigest()
    return Notification(id, other, s, now)
