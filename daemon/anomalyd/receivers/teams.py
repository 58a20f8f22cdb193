"""Microsoft Teams, by a Workflows (Power Automate) address: one adaptive card a statement.

The flow answers 202 before it shows anything, so delivered means accepted. A card over 28 kB is refused, sometimes
only after the 202: what is long is cut before.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from anomalyd.incident import Notification, Outcome, Reason, Statement
from anomalyd.receivers.base import HttpSettings, Pace, PeopleSettings, classify, guarded, to_json
from anomalyd.receivers.transport import Transport
from anomalyd.render import Rendered, cut, tells_more
from anomalyd.score import Tier
from anomalyd.secret import Secret, either

MAX_BODY = 26_000
MAX_VERDICTS = 6


class TeamsSettings(PeopleSettings, HttpSettings):
    """Cards in a Teams channel."""

    kind: ClassVar[str] = "teams"

    type: Literal["teams"] = "teams"
    webhook_url: Secret | None = Field(default=None, description="address of a workflow that posts cards")
    webhook_url_file: str = ""

    @model_validator(mode="after")
    def _whole(self) -> TeamsSettings:
        if either(self.webhook_url, self.webhook_url_file, "webhook_url") is None:
            raise ValueError("teams needs webhook_url or webhook_url_file")
        return self


_COLORS = {Tier.NONE: "Default", Tier.WARNING: "Warning", Tier.CRITICAL: "Attention", Tier.EMERGENCY: "Attention"}


class Teams:
    """Posts cards."""

    kind = TeamsSettings.kind
    pace = Pace(every_ms=1_000, burst=4)

    def __init__(self, settings: TeamsSettings):
        self.name = settings.name
        self.send_resolved = settings.send_resolved
        self._url = either(settings.webhook_url, settings.webhook_url_file, "webhook_url") or Secret()
        self._transport = Transport(settings)

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        return guarded(lambda: self._post(notification, rendered, now))

    def _post(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        body = to_json(card(notification.statement, rendered))
        if len(body) > MAX_BODY:
            body = to_json(card(notification.statement, rendered, short=True))
        reply = self._transport.request(
            "POST", self._url.get(), body=body, headers={"Content-Type": "application/json"}
        )  # fmt: skip
        return classify(reply, now)

    def close(self) -> None:
        self._transport.close()


def card(s: Statement, rendered: Rendered, short: bool = False) -> dict[str, Any]:
    """The message around an adaptive card; ``short`` leaves out what is long."""
    color = "Good" if s.resolved else "Accent" if s.reason == Reason.TEST else _COLORS[s.tier]
    body: list[dict[str, Any]] = [
        _text(rendered.title, 200, size="Large", weight="Bolder", color=color),
        _text(rendered.brief, 500),
    ]
    if tells_more(s, rendered):
        body.append(_text(rendered.sentence, 500, isSubtle=True))
    if rendered.description and not short:
        body.append(_text(rendered.description, 2_000))
    if not s.resolved and rendered.fields:
        facts = [{"title": name, "value": _plain(value, 200)} for name, value in rendered.fields]
        body.append({"type": "FactSet", "facts": facts})
    if rendered.lines and not short:
        more = f"\n\n…and {rendered.more} more" if rendered.more else ""
        body.append(_text("\n\n".join(f"- {_plain(line, 300)}" for line in rendered.lines) + more, 5_000))
    if rendered.chart and rendered.chart.url.startswith("https://") and not short:
        body.append({"type": "Image", "url": rendered.chart.url, "altText": cut(rendered.chart.alt, 200)})
    said = [f"{_plain(v.word, 60)}, says {_plain(v.who, 80)}" for v in rendered.verdicts[-MAX_VERDICTS:]]
    if said:
        body.append({"type": "TextBlock", "text": "\n\n".join(said), "wrap": True, "isSubtle": True})
    # A card shows at most six buttons: they are for what can be done, places to look are links in the text.
    places = [f"[{_plain(link.text, 60)}]({link.url})" for link in rendered.links[:6] if _fits(link.url)]
    if places:
        body.append({"type": "TextBlock", "text": " · ".join(places), "wrap": True})
    actions = [
        {"type": "Action.OpenUrl", "title": cut(a.text, 60), "url": a.url} for a in rendered.actions[:6] if _fits(a.url)
    ]
    content: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.2",
        "body": body,
        "msteams": {"width": "full"},
    }
    if actions:
        content["actions"] = actions
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": content}
    return {"type": "message", "attachments": [attachment]}


def _fits(url: str) -> bool:
    """Whether an address can be written into a card, also where parentheses end it."""
    return 0 < len(url) < 1_500 and not set(url) & set("()[] ")


def _text(text: str, limit: int, **style: Any) -> dict[str, Any]:
    return {"type": "TextBlock", "text": _plain(text, limit), "wrap": True, **style}


def _plain(text: str, limit: int) -> str:
    """Without what a card takes for markup: links, emphasis, mentions and code."""
    for mark in "[]*_`":
        text = text.replace(mark, "\\" + mark)
    return cut(text.replace("<at>", "(at)"), limit)


def build(settings: TeamsSettings) -> Teams:
    return Teams(settings)
