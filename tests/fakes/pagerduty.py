"""PagerDuty's Events API v2: the dedup state machine, what it drops in silence, its limits and its rate."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fakes.sink import Answer, Request, Sink, answer

KEY = "R0CANARYSECRET000000000000000000"
OTHER_KEY = "R1CANARYSECRET111111111111111111"


@dataclass
class PagedAlert:
    """One alert: open, acknowledged or resolved, with everything that was appended to it."""

    routing_key: str
    dedup_key: str
    state: str = "open"
    triggers: list[dict[str, Any]] = field(default_factory=list)


class FakePagerDuty(Sink):
    """Keeps alerts; ``now_ms`` switches on the limit of 120 events in any 60 seconds and key."""

    def __init__(self, now_ms: Callable[[], int] | None = None, **sink: Any) -> None:
        self.alerts: list[PagedAlert] = []
        self.dropped: list[dict[str, Any]] = []
        self.now_ms = now_ms
        self.limited = 0
        self._recent: dict[str, deque[int]] = {}
        super().__init__(**sink)

    @property
    def enqueue(self) -> str:
        return self.url + "/v2/enqueue"

    def open_alert(self, routing_key: str, dedup_key: str) -> PagedAlert | None:
        alerts = (a for a in self.alerts if (a.routing_key, a.dedup_key) == (routing_key, dedup_key))
        return next((a for a in alerts if a.state != "resolved"), None)

    def handle(self, request: Request) -> Answer:
        if (request.method, request.path) != ("POST", "/v2/enqueue"):
            return Answer(404, b"")
        if len(request.body) > 512_000:
            return Answer(413, b"")
        event = request.json()
        if errors := refusals(event):
            return answer(400, {"status": "invalid event", "message": "Event object is invalid", "errors": errors})
        if self._over_rate(event["routing_key"]):
            return answer(429, {"status": "throttle exceeded", "message": "Requests for this service are arriving"})
        self._take(event)
        return answer(202, {"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]})

    def _take(self, event: dict[str, Any]) -> None:
        known = self.open_alert(event["routing_key"], event["dedup_key"])
        if event["event_action"] == "trigger":
            if known is None:
                known = PagedAlert(event["routing_key"], event["dedup_key"])
                self.alerts.append(known)
            known.triggers.append(event)
        elif known is None:
            self.dropped.append(event)
        else:
            known.state = "resolved" if event["event_action"] == "resolve" else "acknowledged"

    def _over_rate(self, key: str) -> bool:
        if self.now_ms is None:
            return False
        now, recent = self.now_ms(), self._recent.setdefault(key, deque())
        while recent and now - recent[0] >= 60_000:
            recent.popleft()
        if len(recent) >= 120:
            self.limited += 1
            return True
        recent.append(now)
        return False


def refusals(event: Any) -> list[str]:
    """What PagerDuty would list as wrong with an event."""
    errors = []
    if len(str(event.get("routing_key", ""))) != 32:
        errors.append("'routing_key' is invalid: length must be 32")
    action = event.get("event_action")
    if action not in ("trigger", "acknowledge", "resolve"):
        errors.append("'event_action' is invalid")
    if len(event.get("dedup_key", "")) > 255 or (action != "trigger" and not event.get("dedup_key")):
        errors.append("'dedup_key' is invalid")
    if action == "trigger":
        errors += _payload_refusals(event)
    elif set(event) - {"routing_key", "event_action", "dedup_key"}:
        errors.append("unexpected fields")
    return errors


def _payload_refusals(event: dict[str, Any]) -> list[str]:
    payload = event.get("payload", {})
    errors = [f"'payload.{k}' is missing or blank" for k in ("summary", "source", "severity") if not payload.get(k)]
    if len(payload.get("summary", "")) > 1_024:
        errors.append("'payload.summary' is too long")
    if payload.get("severity") not in ("critical", "error", "warning", "info"):
        errors.append("'payload.severity' is invalid")
    if "timestamp" in payload and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", payload["timestamp"]):
        errors.append("'payload.timestamp' is invalid")
    if not isinstance(payload.get("custom_details", {}), dict):
        errors.append("'payload.custom_details' must be an object")
    errors += ["'links' need href" for link in event.get("links", []) if not link.get("href", "").startswith("http")]
    errors += ["'images' need https" for i in event.get("images", []) if not i.get("src", "").startswith("https://")]
    return errors
