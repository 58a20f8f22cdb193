"""Statements to send, with everything overridable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anomalyd.block import fingerprint, make_labels
from anomalyd.incident import Alert, Notification, Reason, Statement
from anomalyd.score import Tier

START = 1_767_323_045_000
"""2026-01-02T03:04:05Z"""
MINUTE = 60_000


def an_alert(region: str = "eu", tier: Tier = Tier.CRITICAL, **changes: Any) -> Alert:
    labels = make_labels({"region": region})
    alert = Alert(
        episode=f"ep-{region}", fingerprint=fingerprint(labels), labels=labels, tier=tier, status="firing",
        why="surprise", value=1.93, expected=0.4, lower=0.31, upper=0.52, surprise=5.2, anomaly_score=1.7,
        started_at=START, opened_at=START,
    )  # fmt: skip
    return replace(alert, **changes)


def a_statement(
    reason: Reason = Reason.NEW, tier: Tier = Tier.CRITICAL, incident: str = "inc-1", **changes: Any
) -> Statement:
    """A statement on one series: incidents called ``inc-…`` are on the series eu, others each on their own."""
    at = START + (30 * MINUTE if reason == Reason.RESOLVED else 0)
    alert = an_alert("eu" if incident.startswith("inc-") else incident, tier=tier)
    if reason == Reason.RESOLVED:
        alert = replace(alert, status="resolved", closed_at=at, close="recovered", value=0.41)
    statement = Statement(
        incident=incident, key="3f5c" * 16, rule="checkout/CheckoutLatencyP99", group="checkout",
        name="CheckoutLatencyP99", expr="histogram_quantile(0.99, x)", detector="stl", reason=reason, tier=tier,
        at=at, opened_at=START, group_labels=(("region", "eu"),), labels={"team": "payments"},
        annotations={"summary": "p99 in eu is 1.93s", "runbook_url": "https://runbook.example/p99"},
        alerts=(alert,), total=1, links={"Episode": "https://anomalyd.example/episodes/ep-eu"},
        suppress_ms=30 * MINUTE,
    )  # fmt: skip
    return replace(statement, **changes)


def a_notification(statement: Statement | None = None, receiver: str = "r", **changes: Any) -> Notification:
    statement = statement or a_statement()
    number = f"{statement.incident}-{statement.reason}-{statement.at}-{receiver}"
    return replace(Notification(number, receiver, statement, statement.at), **changes)


HOSTILE = (
    "<!channel> <@U123> *bold* `code` & \x1b[31mred\x1b[0m \u202egnp.exe \x00 line\r\nX-Header: 1\n"
    "<script>alert(1)</script> {{ 7*7 }} \ud800 " + "A" * 10_000
)
"""A label value that tries everything at once."""


def hostile_statement(reason: Reason = Reason.NEW) -> Statement:
    """Sixty series with hostile labels and annotations, two hundred labels on the first."""
    many = tuple((f"l{i:03}", HOSTILE) for i in range(200))
    alerts = tuple(
        an_alert(labels=many if i == 0 else (("host", f"{i}{HOSTILE}"),), fingerprint=f"{i:016x}", episode=f"e{i}")
        for i in range(50)
    )
    return a_statement(
        reason, alerts=alerts, total=1_000, group_labels=(("tenant", HOSTILE),), name="Rule" + HOSTILE[:300],
        annotations={"summary": HOSTILE, "description": HOSTILE, "runbook_url": "javascript:alert(1)"},
        links={"Bad": "javascript:alert(1)", "Good": "https://good.example/x"},
    )  # fmt: skip
