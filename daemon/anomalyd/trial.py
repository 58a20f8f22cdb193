"""The marked test message of ``anomalyd receivers test NAME``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from anomalyd.block import fingerprint, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.incident import Alert, Notification, Reason, Statement
from anomalyd.score import Tier

RULE = "anomalyd/ReceiverTest"


def trial(receiver: str, now: int, links: Mapping[str, str] | None = None) -> Notification:
    """A notification that says it is a test, with made-up numbers; it passes every window and silence."""
    labels = make_labels({"receiver": receiver})
    identity = hashlib.blake2b(f"test\0{receiver}\0{now}".encode(), digest_size=10).hexdigest()
    alert = Alert(
        episode=identity, fingerprint=fingerprint(labels), labels=labels, tier=Tier.WARNING, status="firing",
        why="surprise", value=1.93, expected=0.4, lower=0.31, upper=0.52, surprise=5.2, anomaly_score=1.7,
        started_at=now - 5 * MINUTE_MS, opened_at=now - 2 * MINUTE_MS,
    )  # fmt: skip
    statement = Statement(
        incident=identity, key=hashlib.sha256(identity.encode()).hexdigest(), rule=RULE, group="anomalyd",
        name="ReceiverTest", expr="", detector="", reason=Reason.TEST, tier=Tier.WARNING, at=now, opened_at=now,
        group_labels=labels, labels={}, annotations={"summary": f"Test of the receiver {receiver}: it works."},
        alerts=(alert,), total=1, links=dict(links or {}),
    )  # fmt: skip
    return Notification(identity, receiver, statement, now)
