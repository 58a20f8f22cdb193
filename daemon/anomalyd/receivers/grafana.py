"""Grafana annotations: one region an incident, opened as a point and given its ``timeEnd`` when it ends.

Grafana has no idempotency, so each annotation carries a tag of its own (``incident:<id>``), and before one is created
the tag is looked for: an attempt whose answer was lost does not leave two. Texts are shown as HTML, so what comes from
labels is escaped, and links come from the configuration only. What people say of an incident is added to the text of
its annotation, and what counts of it to the tags (``verdict:real``), also long after it has ended.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason, Statement
from anomalyd.receivers.base import HttpSettings, Pace, Reply, classify, failed, guarded, retry, to_json
from anomalyd.receivers.transport import Transport
from anomalyd.render import Rendered, clean, clock_time, cut, tells_more
from anomalyd.secret import Secret, either

MAX_TAG = 100
MAX_VERDICTS = 6
MAX_TAGS_TOTAL = 450
"""Grafana refuses more than 500 characters of tags, counted with their quotes and commas."""


class GrafanaSettings(HttpSettings):
    """Regions on Grafana's dashboards."""

    kind: ClassVar[str] = "grafana"

    type: Literal["grafana"] = "grafana"
    url: str = Field(pattern=r"^https?://\S+$", description="Grafana's address, with the path prefix if it has one")
    token: Secret | None = Field(default=None, description="service account token (annotations read, create, write)")
    token_file: str = ""
    dashboard_uid: str = Field(default="", description="only on this dashboard; else wherever tags are queried")
    panel_id: int | None = None
    tags: tuple[str, ...] = Field(default=(), description="further tags of every annotation")

    @model_validator(mode="after")
    def _whole(self) -> GrafanaSettings:
        if either(self.token, self.token_file, "token") is None:
            raise ValueError("grafana needs token or token_file")
        if self.panel_id is not None and not self.dashboard_uid:
            raise ValueError("panel_id needs dashboard_uid")
        return self


class _Refused(Exception):
    """An answer other than success, as an outcome."""

    def __init__(self, outcome: Outcome):
        self.outcome = outcome


class Grafana:
    """Keeps one annotation an incident up to date."""

    kind = GrafanaSettings.kind
    pace = Pace()
    shows_verdicts = True

    def __init__(self, settings: GrafanaSettings):
        self.name = settings.name
        self.send_resolved = settings.send_resolved
        self._base = settings.url.rstrip("/") + "/api/annotations"
        self._token = either(settings.token, settings.token_file, "token") or Secret()
        self._place: dict[str, Any] = {"dashboardUID": settings.dashboard_uid} if settings.dashboard_uid else {}
        if settings.panel_id is not None:
            self._place["panelId"] = settings.panel_id
        self._tags = settings.tags
        self._transport = Transport(settings)

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        return guarded(lambda: self._send(notification, rendered, now))

    def _send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        statement = notification.statement
        try:
            number = self._find(notification, now)
            if number is not None and self._patch(number, statement, rendered, now):
                return Outcome(OutcomeKind.DELIVERED, memory={"annotation": number})
            return Outcome(OutcomeKind.DELIVERED, memory={"annotation": self._create(statement, rendered, now)})
        except _Refused as refused:
            return refused.outcome

    def _find(self, notification: Notification, now: int) -> int | None:
        remembered = notification.memory.get("annotation")
        if isinstance(remembered, int):
            return remembered
        s = notification.statement
        params = [
            ("from", str(_start(s) - DAY_MS)), ("to", str(max(now, s.at) + HOUR_MS)), ("limit", "10"),
            ("type", "annotation"), ("tags", "anomalyd"), ("tags", _own_tag(s)),
        ]  # fmt: skip
        found = self._call("GET", "", now, params=params).json()
        if not isinstance(found, list):
            raise _Refused(failed("config", "the address answers, but not as Grafana does"))
        numbers = [row.get("id") for row in found if isinstance(row, dict)]
        return min((n for n in numbers if isinstance(n, int)), default=None)

    def _patch(self, number: int, s: Statement, rendered: Rendered, now: int) -> bool:
        """Bring an annotation up to date; False when somebody deleted it."""
        change: dict[str, Any] = {"text": _text(s, rendered), "tags": self._all_tags(s, rendered)}
        if s.resolved:
            change |= {"time": _start(s), "timeEnd": max(s.at, _start(s) + 1)}
        try:
            self._call("PATCH", f"/{number}", now, body=change)
        except _Refused as refused:
            if refused.outcome.reason == "not_found":
                return False
            raise
        return True

    def _create(self, s: Statement, rendered: Rendered, now: int) -> int:
        body = {"text": _text(s, rendered), "tags": self._all_tags(s, rendered), "time": _start(s), **self._place}
        if s.resolved:
            body["timeEnd"] = max(s.at, _start(s) + 1)
        answer = self._call("POST", "", now, body=body).json()
        number = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(number, int):
            raise _Refused(retry("server", "Grafana did not say the annotation's number"))
        return number

    def _call(
        self, method: str, path: str, now: int, *, body: Any = None, params: list[tuple[str, str]] | None = None
    ) -> Reply:
        reply = self._transport.request(
            method, self._base + path, body=None if body is None else to_json(body), params=params or (),
            headers={"Authorization": f"Bearer {self._token.get()}", "Content-Type": "application/json"},
        )  # fmt: skip
        if reply.ok:
            return reply
        # Grafana answers 500 with "not found" for an annotation that is gone (seen in several versions).
        if reply.status == 500 and b"not found" in reply.body.lower():
            raise _Refused(failed("not_found", reply.text()))
        raise _Refused(classify(reply, now))

    def _all_tags(self, s: Statement, rendered: Rendered) -> list[str]:
        wanted = [
            "anomalyd", _own_tag(s), f"tier:{s.tier.word}", f"state:{'resolved' if s.resolved else 'open'}",
            f"verdict:{rendered.verdict.replace(' ', '_')}" if rendered.verdict else "",
            "test" if s.reason == Reason.TEST else "", f"rule:{s.name}", *self._tags,
            *(f"{k}:{v}" for k, v in s.group_labels),
        ]  # fmt: skip
        tags: list[str] = []
        room = MAX_TAGS_TOTAL
        for tag in (cut(clean(t, MAX_TAG * 2), MAX_TAG) for t in wanted):
            room -= len(tag) + 3
            if tag and tag not in tags and room >= 0:
                tags.append(tag)
        return tags

    def close(self) -> None:
        self._transport.close()


def _start(s: Statement) -> int:
    return min((alert.started_at for alert in s.alerts if alert.started_at), default=s.opened_at)


def _own_tag(s: Statement) -> str:
    return f"incident:{s.incident}"


def _text(s: Statement, rendered: Rendered) -> str:
    parts = [f"<b>{_escape(rendered.title)}</b>", _escape(rendered.brief)]
    if tells_more(s, rendered) or rendered.summary != rendered.sentence:
        parts.append(_escape(rendered.sentence))
    parts += [_escape(line) for line in rendered.lines[:5]]
    said = [f"{v.word}, says {v.who}, {clock_time(v.at, v.at)}" for v in rendered.verdicts[-MAX_VERDICTS:]]
    parts += [_escape(line) for line in said]
    parts = [cut("\n".join(parts), 4_000)]
    links = [(link.text, link.url) for link in rendered.links]
    links += [(action.text, action.url) for action in rendered.actions if action.url]
    if links:
        parts.append(" · ".join(f'<a href="{_escape(url)}">{_escape(text)}</a>' for text, url in links))
    return "\n".join(parts)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def build(settings: GrafanaSettings) -> Grafana:
    return Grafana(settings)
