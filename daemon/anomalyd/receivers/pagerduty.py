"""PagerDuty, Events API v2.

The ``dedup_key`` is a hash of the incident (its key and this occurrence): repeated triggers collapse, and the late end
of one occurrence cannot close the alert of the next. PagerDuty drops a resolve that comes through another routing key
than the trigger did: the outcome remembers which key was used (a hash, never the key), and ``old_routing_keys`` keeps a
replaced key at hand until its alerts are closed.

Whoever says here what an incident is (a button in Slack, a link, the API) has taken it up: it is acknowledged there
too. What is acknowledged over there comes back by webhook (``web.pagerduty_secret``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason, Statement
from anomalyd.receivers.base import HttpSettings, Pace, Reply, classify, failed, guarded, to_json
from anomalyd.receivers.transport import Transport
from anomalyd.render import Rendered, clean, cut, label_text, rfc3339
from anomalyd.secret import Secret, either

MAX_BODY = 512_000
MAX_SUMMARY = 1_024
OURS = "pagerduty"
"""The channel of what was said over there: it is known there."""
Severity = Literal["critical", "error", "warning", "info"]


class PagerDutySettings(HttpSettings):
    """Incidents in PagerDuty."""

    kind: ClassVar[str] = "pagerduty"

    type: Literal["pagerduty"] = "pagerduty"
    routing_key: Secret | None = Field(default=None, description="integration key of the service (32 characters)")
    routing_key_file: str = ""
    old_routing_keys: tuple[Secret, ...] = Field(
        default=(), description="replaced keys, kept until the alerts that they triggered are resolved"
    )
    url: str = Field(default="https://events.pagerduty.com/v2/enqueue", pattern=r"^https?://\S+$")
    severity: Mapping[Literal["warning", "critical", "emergency"], Severity] = Field(
        default={}, description="PagerDuty severity of each tier; warning, error, critical unless set"
    )
    client: str = "anomalyd"
    acknowledge: bool = Field(
        default=True, description="whoever says what it is, in Slack or by a link, has acknowledged it here too"
    )
    flaps_per_hour: int = Field(
        default=6, ge=0, description="openings an hour of one incident; then it is flapping, said once; 0: no limit"
    )

    @model_validator(mode="after")
    def _whole(self) -> PagerDutySettings:
        if either(self.routing_key, self.routing_key_file, "routing_key") is None:
            raise ValueError("pagerduty needs routing_key or routing_key_file")
        return self


_SEVERITY: Mapping[str, Severity] = {"warning": "warning", "critical": "error", "emergency": "critical"}


class PagerDuty:
    """Triggers and resolves alerts."""

    kind = PagerDutySettings.kind
    # 120 events in any 60 seconds are allowed a key: 110 a minute and a burst of 10 stay below.
    pace = Pace(every_ms=546, burst=10)

    def __init__(self, settings: PagerDutySettings):
        self.name = settings.name
        self.send_resolved = settings.send_resolved
        self._key = either(settings.routing_key, settings.routing_key_file, "routing_key") or Secret()
        self._old_keys = settings.old_routing_keys
        self._url = settings.url
        self._client = settings.client
        self.shows_verdicts = settings.acknowledge
        self._severity: dict[str, Severity] = dict(_SEVERITY) | {str(t): s for t, s in settings.severity.items()}
        self._transport = Transport(settings)

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        return guarded(lambda: self._enqueue(notification, rendered, now))

    def _enqueue(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        statement = notification.statement
        key = self._key_for(notification)
        if key is None:
            return failed(
                "config",
                "the alert was triggered through a routing key that is no longer in the settings, and PagerDuty drops "
                "a resolve through another one; add the replaced key to old_routing_keys",
            )
        event: dict[str, Any] = {"routing_key": key, "dedup_key": dedup_key(statement), "event_action": "resolve"}
        if statement.reason == Reason.JUDGED:
            said = rendered.verdicts[-1].via if rendered.verdicts else OURS
            if statement.resolved or said == OURS:
                return Outcome(OutcomeKind.DELIVERED)
            event["event_action"] = "acknowledge"
        elif not statement.resolved:
            event |= self._trigger(statement, rendered)
        reply = self._transport.request(
            "POST", self._url, body=_bounded(event), headers={"Content-Type": "application/json"}
        )
        outcome = _judge(reply, now)
        if outcome.kind == OutcomeKind.DELIVERED:
            return Outcome(OutcomeKind.DELIVERED, memory={"key": key_hash(key)})
        return outcome

    def _key_for(self, notification: Notification) -> str | None:
        """The key that triggered this incident, else the current one; None when that key is gone."""
        remembered = notification.memory.get("key")
        current = self._key.get()
        if remembered is None or remembered == key_hash(current):
            return current
        return next((k for k in (old.get() for old in self._old_keys) if key_hash(k) == remembered), None)

    def _trigger(self, s: Statement, rendered: Rendered) -> dict[str, Any]:
        where = label_text(s.group_labels, 200)
        event: dict[str, Any] = {
            "event_action": "trigger",
            "client": self._client,
            "payload": {
                "summary": cut(f"{rendered.title}: {rendered.brief}", MAX_SUMMARY),
                "source": where or clean(s.name, 200),
                "severity": self._severity.get(s.tier.word, "info"),
                "timestamp": rfc3339(s.at),
                "group": clean(s.group, 200),
                "class": "anomaly",
                "custom_details": _details(s, rendered),
            },
        }
        if rendered.home:
            event["client_url"] = rendered.home
        links = [{"href": link.url, "text": link.text} for link in rendered.links]
        links += [{"href": action.url, "text": action.text} for action in rendered.actions if action.url]
        if links:
            event["links"] = links
        if rendered.chart and rendered.chart.url.startswith("https://"):
            image = {"src": rendered.chart.url, "alt": cut(rendered.chart.alt, 200)}
            event["images"] = [image | ({"href": rendered.home} if rendered.home else {})]
        return event

    def close(self) -> None:
        self._transport.close()


def _details(s: Statement, rendered: Rendered) -> dict[str, Any]:
    details: dict[str, Any] = {"reason": rendered.sentence}
    if rendered.description:
        details["description"] = rendered.description
    details |= {name.lower(): value for name, value in rendered.fields}
    details["tier"] = s.tier.word
    if rendered.lines:
        details["series_list"] = list(rendered.lines) + ([f"…and {rendered.more} more"] if rendered.more else [])
    return details | {"rule": s.rule, "detector": s.detector, "query": cut(s.expr, 2_000), "incident": s.incident}


def _bounded(event: dict[str, Any]) -> bytes:
    body = to_json(event)
    if len(body) > MAX_BODY:
        event["payload"]["custom_details"] = {"note": "left out: the event was larger than PagerDuty takes"}
        body = to_json(event)
    return body


def _judge(reply: Reply, now: int) -> Outcome:
    if reply.status == 400:
        answer = reply.json()
        errors = answer.get("errors") if isinstance(answer, dict) else None
        said = "; ".join(map(str, errors)) if isinstance(errors, list) else reply.text()
        reason = "config" if "routing_key" in said or "routing key" in said.lower() else "client"
        return failed(reason, f"PagerDuty refused the event: {said}")
    return classify(reply, now)


def dedup_key(statement: Statement) -> str:
    """What PagerDuty knows the incident by: 64 hex digits, the same over restarts and retries."""
    return hashlib.sha256(f"{statement.key}\0{statement.incident}".encode("utf-8", "replace")).hexdigest()


def key_hash(key: str) -> str:
    """What is remembered of a routing key: enough to find it again, not to use it."""
    return hashlib.sha256(b"anomalyd routing key\0" + key.encode()).hexdigest()[:16]


def build(settings: PagerDutySettings) -> PagerDuty:
    return PagerDuty(settings)
