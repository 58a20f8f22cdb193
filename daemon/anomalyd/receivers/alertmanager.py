"""Alertmanager, API v2: every alert of an incident, kept alive while it fires, resolved when it ends.

Alertmanager stores nothing across a restart and lets an alert end by itself when nobody repeats it. So what is firing
is posted again every minute (``keep_alive``) with an end five minutes ahead, and what has ended for a quarter of an
hour. Each server of a cluster is posted to; one that took it is enough. One bad alert in a batch makes Alertmanager
answer 400 although it stored the good ones: the batch is halved to find the bad ones, which are left out from then on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, model_validator

from anomalyd.clock import MINUTE_MS
from anomalyd.errors import ConfigError, DeliveryError
from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason, Statement
from anomalyd.receivers.base import HttpSettings, Pace, Reply, classify, failed, guarded, retry, to_json
from anomalyd.receivers.bodies import alert_annotations, alert_labels
from anomalyd.receivers.transport import Transport
from anomalyd.records import Matcher, Silence
from anomalyd.render import Rendered, rfc3339
from anomalyd.secret import Secret, either

BATCH = 256
RESEND_MS = MINUTE_MS
ALIVE_MS = 5 * MINUTE_MS
"""How far ahead the end of a firing alert is written: it survives three lost repeats."""
RESOLVED_KEPT_MS = 15 * MINUTE_MS
MAX_ALERTS = 20_000

Posted = dict[str, Any]


class AlertmanagerSettings(HttpSettings):
    """Alerts in Alertmanager."""

    kind: ClassVar[str] = "alertmanager"

    type: Literal["alertmanager"] = "alertmanager"
    urls: tuple[str, ...] = Field(min_length=1, description="every server of the cluster, with its route prefix")
    username: str = ""
    password: Secret | None = None
    password_file: str = ""
    bearer_token: Secret | None = None
    bearer_token_file: str = ""
    honour_silences: bool = Field(default=False, description="keep quiet everywhere about what is silenced there")

    @model_validator(mode="after")
    def _whole(self) -> AlertmanagerSettings:
        if any(not url.startswith(("http://", "https://")) or len(url.split()) != 1 for url in self.urls):
            raise ValueError("urls must be http or https addresses")
        password = either(self.password, self.password_file, "password")
        if password is not None and either(self.bearer_token, self.bearer_token_file, "bearer_token") is not None:
            raise ValueError("password and bearer_token exclude each other")
        return self


@dataclass(slots=True)
class _Kept:
    """An alert as it was last posted, and when it ended (0: it fires)."""

    incident: str
    body: Posted
    ended_at: int = 0


class Alertmanager:
    """Posts alerts to every server of a cluster and keeps them alive."""

    kind = AlertmanagerSettings.kind
    pace = Pace()

    def __init__(self, settings: AlertmanagerSettings):
        self.name = settings.name
        self.send_resolved = settings.send_resolved
        self.honours_silences = settings.honour_silences
        self._urls = tuple(url.rstrip("/") for url in settings.urls)
        self._user = settings.username
        self._password = either(settings.password, settings.password_file, "password")
        self._token = either(settings.bearer_token, settings.bearer_token_file, "bearer_token")
        self._transport = Transport(settings)
        self._kept: dict[str, _Kept] = {}
        self._bad: set[str] = set()
        self._next_beat = 0

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        return guarded(lambda: self._send(notification.statement, rendered, now))

    def _send(self, s: Statement, rendered: Rendered, now: int) -> Outcome:
        if s.reason == Reason.TEST:
            return self._post([self._alert(s, 0, rendered, now, ends_at=now + MINUTE_MS)], now)[0]
        changed = self._remember(s, rendered, now)
        if not changed:
            return Outcome(OutcomeKind.DELIVERED)
        outcome, bad = self._post([kept.body for kept in changed], now)
        self._bad |= bad
        if bad and outcome.kind == OutcomeKind.DELIVERED and len(bad) >= len(changed):
            return failed("client", "Alertmanager refuses every alert of this incident")
        return outcome

    def restore(self, s: Statement, rendered: Rendered, now: int) -> None:
        """Take up an open incident that was told before this process began."""
        self._remember(s, rendered, now)

    def _remember(self, s: Statement, rendered: Rendered, now: int) -> list[_Kept]:
        """Bring what is kept for an incident up to date; return what has to be posted."""
        bodies = [self._alert(s, i, rendered, now) for i in range(len(s.alerts))]
        stays = {_identity(b) for b, a in zip(bodies, s.alerts, strict=True) if a.status == "firing" and not s.resolved}
        changed: list[_Kept] = []
        for body, alert in zip(bodies, s.alerts, strict=True):
            identity = _identity(body)
            if identity in stays and len(self._kept) < MAX_ALERTS:
                self._kept[identity] = _Kept(s.incident, body)
            elif identity not in self._kept:
                # An end whose beginning this process has not seen (it began before a restart).
                body["endsAt"] = rfc3339(min(now, alert.closed_at or s.at))
                self._kept[identity] = _Kept(s.incident, body, now)
            changed += [self._kept[identity]] if identity in self._kept else []
        complete = s.resolved or s.total <= len(s.alerts)
        for identity, kept in self._kept.items():
            if complete and kept.incident == s.incident and identity not in stays and not kept.ended_at:
                kept.ended_at = now
                kept.body["endsAt"] = rfc3339(min(now, s.at))
                changed += [kept] if not any(kept is c for c in changed) else []
        return [kept for kept in changed if _identity(kept.body) not in self._bad]

    def beat_at(self) -> int | None:
        """When ``keep_alive`` is due; None when nothing is kept."""
        return self._next_beat if self._kept else None

    def keep_alive(self, now: int) -> Outcome:
        """Post again all that fires, and what ended a short while ago."""
        self._next_beat = now + RESEND_MS
        self._kept = {k: v for k, v in self._kept.items() if not v.ended_at or now - v.ended_at < RESOLVED_KEPT_MS}
        for kept in self._kept.values():
            if not kept.ended_at:
                kept.body["endsAt"] = rfc3339(now + ALIVE_MS)
        bodies = [kept.body for identity, kept in self._kept.items() if identity not in self._bad]
        outcome = Outcome(OutcomeKind.DELIVERED)
        for start in range(0, len(bodies), BATCH):
            batch = bodies[start : start + BATCH]
            outcome = guarded(partial(self._post_batch, batch, now))
            if outcome.kind != OutcomeKind.DELIVERED:
                return outcome
        return outcome

    def _post_batch(self, batch: list[Posted], now: int) -> Outcome:
        return self._post(batch, now)[0]

    def _alert(self, s: Statement, i: int, rendered: Rendered, now: int, ends_at: int = 0) -> Posted:
        alert = s.alerts[i]
        body: Posted = {
            "labels": alert_labels(s, alert),
            "annotations": alert_annotations(s, alert, rendered),
            "startsAt": rfc3339(alert.started_at),
            "endsAt": rfc3339(ends_at or now + ALIVE_MS),
        }
        if rendered.home:
            body["generatorURL"] = rendered.home
        if s.reason == Reason.TEST:
            body["labels"]["anomalyd_test"] = "true"
        return body

    def _post(self, alerts: list[Posted], now: int) -> tuple[Outcome, set[str]]:
        """Post to every server; delivered when one took it. Also the identities of alerts that it refuses for good."""
        best: Outcome | None = None
        bad: set[str] = set()
        for url in self._urls:
            outcome, refused = self._post_to(url, alerts, now)
            bad |= refused
            if best is None or outcome.kind == OutcomeKind.DELIVERED:
                best = outcome
        assert best is not None, "there is at least one server"
        return best, bad

    def _post_to(self, url: str, alerts: list[Posted], now: int) -> tuple[Outcome, set[str]]:
        try:
            reply = self._call("POST", url + "/api/v2/alerts", to_json(alerts))
        except DeliveryError as error:
            return retry(error.reason, str(error), error.retry_after_s), set()
        if reply.status in (400, 422) and len(alerts) > 1:
            half = len(alerts) // 2
            (first, bad), (second, more) = (self._post_to(url, part, now) for part in (alerts[:half], alerts[half:]))
            return (first if first.kind != OutcomeKind.DELIVERED else second), bad | more
        if reply.status in (400, 422):
            return Outcome(OutcomeKind.DELIVERED), {_identity(alerts[0])}
        return classify(reply, now), set()

    def silences(self, now: int) -> Sequence[Silence]:
        """The active silences of the first server that answers; raise ``DeliveryError`` when none does."""
        error: Exception | None = None
        for url in self._urls:
            try:
                reply = self._call("GET", url + "/api/v2/silences?active=true")
            except DeliveryError as failure:
                error = failure
                continue
            if reply.ok:
                return _silences(reply.json())
            error = DeliveryError("server", f"answered {reply.status} to the question for silences")
        raise error or ConfigError([])

    def _call(self, method: str, url: str, body: bytes | None = None) -> Reply:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token.get()}"
        elif self._password:
            pair = f"{self._user}:{self._password.get()}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        return self._transport.request(method, url, body=body, headers=headers)

    def close(self) -> None:
        self._transport.close()


def _identity(alert: Posted) -> str:
    return json.dumps(alert["labels"], sort_keys=True)


def _silences(answer: Any) -> list[Silence]:
    """Alertmanager's active silences in our terms; what cannot be read is left out (it then keeps nobody quiet)."""
    found = []
    for row in answer if isinstance(answer, list) else ():
        try:
            if row["status"]["state"] != "active":
                continue
            matchers = tuple(_matcher(m) for m in row["matchers"])
            ends = _milliseconds(row["endsAt"])
            identity = "alertmanager:" + quote(str(row["id"]), safe="")
            who, comment = str(row.get("createdBy", "")), str(row.get("comment", ""))
            found.append(Silence(identity, matchers, 0, ends, who, comment))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def _matcher(m: Any) -> Matcher:
    equal, regex = bool(m.get("isEqual", True)), bool(m["isRegex"])
    return Matcher(str(m["name"]), ("=~" if equal else "!~") if regex else ("=" if equal else "!="), str(m["value"]))


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def build(settings: AlertmanagerSettings) -> Alertmanager:
    return Alertmanager(settings)
