"""PagerDuty's webhooks v3: ``POST /pagerduty/webhook``, there only when ``web.pagerduty_secret`` is set.

An acknowledgement or a resolution over there is recorded on the episodes of the incident here, with who did it; it
is no verdict and moves no threshold. An event that was recorded before is taken again without harm; kinds of event that
mean nothing to us are answered 200. A store that does not answer gives 503, and PagerDuty comes again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from anomalyd.clock import DAY_MS
from anomalyd.console.inbound import Seen, is_from_pagerduty
from anomalyd.console.parts import BadRequest, Parts, body_of
from anomalyd.errors import StoreError
from anomalyd.incident import Incident
from anomalyd.logs import get_logger
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.render import clean
from anomalyd.secret import Secret

REMEMBER_MS = 2 * DAY_MS
LOOK_BACK_MS = 90 * DAY_MS
MAX_INCIDENTS = 10_000

_LABELS: Mapping[str, FeedbackLabel] = {
    "incident.acknowledged": FeedbackLabel.ACKNOWLEDGED,
    "incident.resolved": FeedbackLabel.RESOLVED,
}

log = get_logger("pagerduty")


def add_pagerduty(web: FastAPI, parts: Parts, secret: Secret) -> None:
    """Mount the endpoint."""
    seen = Seen(REMEMBER_MS)

    @web.post("/pagerduty/webhook", include_in_schema=False)
    async def webhook(request: Request) -> Response:
        body = await body_of(request)
        if not is_from_pagerduty(secret.get(), request.headers.get("x-pagerduty-signature", ""), body):
            return Response(status_code=401)
        event = event_of(body)
        now = parts.clock.now_ms()
        number = clean(str(event.get("id", "")), 100)
        label = _LABELS.get(str(event.get("event_type")))
        if label is None or not number or not seen.first_time(number, now):
            return Response(status_code=200)
        try:
            await run_in_threadpool(record, parts, event, label, number, now)
        except StoreError:
            seen.forget(number)
            raise
        return Response(status_code=202)


def event_of(body: bytes) -> Mapping[str, Any]:
    """The event of a signed body; raise ``BadRequest`` for anything that holds none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    event = document.get("event") if isinstance(document, dict) else None
    if not isinstance(event, dict):
        raise BadRequest("the body holds no event")
    return event


def record(parts: Parts, event: Mapping[str, Any], label: FeedbackLabel, number: str, now: int) -> int:
    """Record an acknowledgement or resolution on the incident's episodes; return how many there were."""
    data = event.get("data")
    key = str(data.get("incident_key", "")) if isinstance(data, dict) else ""
    incident = incident_of(parts, key, now)
    if incident is None:
        log.info("PagerDuty tells of an incident that is not ours", id=number)
        return 0
    agent = event.get("agent")
    agent = agent if isinstance(agent, dict) else {}
    who = clean(str(agent.get("summary") or agent.get("id") or ""), 100) or "somebody"
    episodes = parts.store.episodes(incident=incident.id, limit=1_000)
    for e in episodes:
        parts.store.add_feedback(
            Feedback(
                id=f"pd-{number}-{e.id}", label=label, rule=e.rule, at=now, who=who, via="pagerduty", episode=e.id,
                fingerprint=e.fingerprint, start=e.started_at, end=e.closed_at or e.seen_at,
            )
        )
    log.info("PagerDuty", what=label.value, incident=incident.id, who=who)
    return len(episodes)


def incident_of(parts: Parts, key: str, now: int) -> Incident | None:
    """The incident behind a ``dedup_key``: a hash, so it is found by hashing those that may be meant."""
    if len(key) != 64:
        return None
    recent = parts.store.incidents(start=now - LOOK_BACK_MS, limit=MAX_INCIDENTS)
    return next((i for i in recent if hashed(i) == key), None)


def hashed(incident: Incident) -> str:
    """What PagerDuty knows an incident by; the same as ``receivers.pagerduty.dedup_key``, which a test holds it to."""
    return hashlib.sha256(f"{incident.key}\0{incident.id}".encode("utf-8", "replace")).hexdigest()
