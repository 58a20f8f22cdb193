"""The two JSON bodies of the generic webhook: our own (schema 1) and Alertmanager's version 4."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from anomalyd.block import Labels
from anomalyd.incident import Alert, Notification, Reason, Statement
from anomalyd.render import Rendered, clean, cut, rfc3339

SCHEMA = 1
MAX_LABEL_NAME = 128
MAX_LABEL_VALUE = 1_024
ZERO_TIME = "0001-01-01T00:00:00Z"
"""How Alertmanager writes "not ended yet"."""

_EVENTS: Mapping[Reason, str] = {
    Reason.NEW: "firing",
    Reason.WORSE: "update",
    Reason.MORE: "update",
    Reason.REPEAT: "update",
    Reason.ESCALATED: "firing",
    Reason.FLAPPING: "firing",
    Reason.JUDGED: "update",
    Reason.RESOLVED: "resolved",
    Reason.TEST: "test",
}


def event_of(reason: Reason) -> str:
    """firing, update, resolved or test."""
    return _EVENTS[reason]


def own_body(notification: Notification, rendered: Rendered) -> dict[str, Any]:
    """Schema 1: the statement with its numbers as numbers and its words ready to show."""
    s = notification.statement
    return {
        "schema": SCHEMA,
        "id": notification.id,
        "event": event_of(s.reason),
        "reason": s.reason.value,
        "tier": s.tier.word,
        "title": rendered.title,
        "summary": rendered.summary,
        "brief": rendered.brief,
        "sentence": rendered.sentence,
        "at": rfc3339(s.at),
        "incident": {
            "id": s.incident,
            "key": s.key,
            "opened_at": rfc3339(s.opened_at),
            "closed_at": rfc3339(s.at) if s.resolved else None,
            "labels": _shown(s.group_labels),
        },
        "rule": {
            "id": s.rule,
            "name": s.name,
            "group": s.group,
            "expr": s.expr,
            "detector": s.detector,
            "labels": dict(s.labels),
        },
        "annotations": dict(s.annotations),
        "links": {link.text: link.url for link in rendered.links},
        "actions": {action.id: action.url for action in rendered.actions if action.url},
        "chart_url": rendered.chart.url if rendered.chart else "",
        "chart_png": base64.b64encode(rendered.chart.png).decode() if rendered.chart else "",
        "past": rendered.past,
        "like": rendered.like,
        "total": s.total,
        "truncated": max(0, s.total - len(s.alerts)),
        "alerts": [_own_alert(alert) for alert in s.alerts],
    }


def _own_alert(alert: Alert) -> dict[str, Any]:
    return {
        "episode": alert.episode,
        "fingerprint": alert.fingerprint,
        "status": alert.status,
        "tier": alert.tier.word,
        "why": alert.why,
        "labels": _shown(alert.labels),
        "value": alert.value,
        "expected": alert.expected,
        "lower": alert.lower,
        "upper": alert.upper,
        "surprise": alert.surprise,
        "anomaly_score": alert.anomaly_score,
        "started_at": rfc3339(alert.started_at),
        "opened_at": rfc3339(alert.opened_at) if alert.opened_at else None,
        "closed_at": rfc3339(alert.closed_at) if alert.closed_at else None,
        "close": alert.close,
    }


def alertmanager_body(notification: Notification, rendered: Rendered) -> dict[str, Any]:
    """What Alertmanager's webhook sends (version 4), so that its receivers work unchanged."""
    s = notification.statement
    labels = [alert_labels(s, alert) for alert in s.alerts]
    annotations = [alert_annotations(s, alert, rendered) for alert in s.alerts]
    status = "resolved" if s.resolved else "firing"
    return {
        "version": "4",
        "groupKey": f"{s.rule}:{s.key}",
        "truncatedAlerts": max(0, s.total - len(s.alerts)),
        "status": status,
        "receiver": notification.receiver,
        "groupLabels": {"alertname": s.name, **_shown(s.group_labels)},
        "commonLabels": _common(labels),
        "commonAnnotations": _common(annotations),
        "externalURL": rendered.home,
        "notification_reason": s.reason.value,
        "alerts": [
            {
                "status": "resolved" if s.resolved else alert.status,
                "labels": own,
                "annotations": notes,
                "startsAt": rfc3339(alert.started_at),
                "endsAt": rfc3339(alert.closed_at or s.at) if s.resolved or alert.closed_at else ZERO_TIME,
                "generatorURL": rendered.home,
                "fingerprint": alert.fingerprint,
            }
            for alert, own, notes in zip(s.alerts, labels, annotations, strict=True)
        ],
    }


def alert_labels(s: Statement, alert: Alert) -> dict[str, str]:
    """The labels that identify an alert to Alertmanager: the series', the rule's, alertname and rule; none changes."""
    own = {name: value for name, value in _shown(alert.labels).items() if name != "__name__"}
    merged = {**own, **s.labels, "alertname": s.name, "rule": s.rule}
    return {name: value for name, value in merged.items() if value}


def alert_annotations(s: Statement, alert: Alert, rendered: Rendered) -> dict[str, str]:
    """Everything about an alert that changes with time, as text."""
    numbers = {
        "value": alert.value, "expected": alert.expected, "lower": alert.lower, "upper": alert.upper,
        "anomaly_score": alert.anomaly_score,
    }  # fmt: skip
    shown = {name: f"{value:.6g}" for name, value in numbers.items() if value is not None}
    own = {clean(k, 128): clean(v, 4_000, lines=True) for k, v in s.annotations.items()}
    chart = rendered.chart.urls.get(alert.episode, "") if rendered.chart else ""
    shown |= {"chart_url": chart} if chart else {}
    shown |= {"like": rendered.like} if rendered.like and alert == s.alerts[0] else {}
    return {"tier": alert.tier.word, "reason": rendered.sentence, "summary": rendered.summary, **shown, **own}


def _shown(labels: Labels) -> dict[str, str]:
    """Labels for programs: as they are, only not without end."""
    return {cut(name, MAX_LABEL_NAME): cut(value, MAX_LABEL_VALUE) for name, value in labels}


def _common(maps: list[dict[str, str]]) -> dict[str, str]:
    if not maps:
        return {}
    first = maps[0]
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in maps[1:])}
