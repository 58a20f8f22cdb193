"""A statement as Slack's Block Kit, within Slack's limits whatever the statement holds.

Untrusted text goes into ``plain_text`` objects, where nothing is interpreted, or into code spans; Slack's three special
characters are escaped before limits are applied. Addresses of buttons come from the configuration only.
"""

from __future__ import annotations

from typing import Any

from anomalyd.incident import Notification, Reason
from anomalyd.render import Action, Rendered, clean, clock_time, cut, tells_more
from anomalyd.score import Tier

MAX_HEADER = 150
MAX_SECTION = 3_000
MAX_FIELD = 2_000
MAX_BLOCKS_TEXT = 12_000
"""Slack's limit on all blocks together is not documented; it was seen at 13,200 characters."""
MAX_FALLBACK = 4_000
MAX_BUTTONS = 5
MAX_BUTTON_TEXT = 75
MAX_NAME = 255
"""Of a block or of something in it."""
VOTES_BLOCK = "anomalyd_votes"
MAX_VERDICTS = 6
SNOOZE_LIST = "anomalyd_snooze:"
"""How the name of a list begins whose token is the rest of it: what a list's options carry is too short for one."""

_SIGNS = {Tier.NONE: "⚪", Tier.WARNING: "🟡", Tier.CRITICAL: "🟠", Tier.EMERGENCY: "🔴"}

Block = dict[str, Any]


def message(notification: Notification, rendered: Rendered) -> dict[str, Any]:
    """Fallback text and blocks of one message; the same for incoming webhooks and the Web API."""
    return {
        "text": escape(cut(f"{rendered.title}: {rendered.brief}", 600), MAX_FALLBACK),
        "blocks": blocks(notification, rendered),
        "unfurl_links": False,
        "unfurl_media": False,
        "parse": "none",
        "link_names": False,
    }


def blocks(notification: Notification, rendered: Rendered) -> list[Block]:
    """The message in the order of reading: how bad and where, why, the numbers, the series, what to do."""
    s = notification.statement
    sign = "✅" if s.resolved else "🧪" if s.reason == Reason.TEST else _SIGNS[s.tier]
    out: list[Block] = [_header(f"{sign} {rendered.title}"), _plain(rendered.brief, 1_000)]
    if tells_more(s, rendered):
        out.append(_plain(rendered.sentence, 1_000))
    if rendered.description:
        out.append(_plain(rendered.description, 1_500))
    if rendered.fields and not s.resolved:
        fields = [_markdown(f"*{escape(k, 60)}*\n{_value(v, 300)}") for k, v in rendered.fields[:10]]
        out.append({"type": "section", "fields": fields})
    if rendered.lines:
        more = f"\n…and {rendered.more} more" if rendered.more else ""
        listed = "\n".join(f"• {line}" for line in rendered.lines)
        out.append(_plain(cut(listed, MAX_SECTION - 40) + more, MAX_SECTION))
    if has_picture(rendered):
        assert rendered.chart is not None, "it has a picture"
        alt = cut(rendered.chart.alt or rendered.title, 1_000)
        out.append({"type": "image", "image_url": rendered.chart.url, "alt_text": alt})
    out.append({"type": "context", "elements": [_markdown(f"rule {code(s.rule, 200)} · {code(s.detector, 60)}")]})
    if rendered.verdicts:
        said = [_markdown(verdict_line(v.word, v.who, v.at)) for v in rendered.verdicts[-MAX_VERDICTS:]]
        out.append({"type": "context", "block_id": VOTES_BLOCK, "elements": said})
    if places := _places(rendered):
        out.append({"type": "actions", "block_id": f"places_{notification.id}"[:MAX_NAME], "elements": places})
    if buttons := _buttons(rendered):
        out.append({"type": "actions", "block_id": f"anomalyd_{notification.id}"[:MAX_NAME], "elements": buttons})
    return _within(out)


def has_picture(rendered: Rendered) -> bool:
    """Whether the message shows a chart, which Slack fetches from the daemon."""
    return rendered.chart is not None and rendered.chart.url.startswith("https://")


def verdict_line(word: str, who: str, at: int) -> str:
    """What somebody said, as markup: below the message, whoever puts it there."""
    return f"*{escape(word, 60)}*, says {code(who, 80)}, {clock_time(at, at)}"


def _buttons(rendered: Rendered) -> list[Block]:
    actions: list[Block] = []
    for action in rendered.actions[:MAX_BUTTONS]:
        if action.options and action.value and len(SNOOZE_LIST + action.value) <= MAX_NAME:
            actions.append(_list(action))
            continue
        button: Block = {
            "type": "button", "action_id": f"anomalyd_{action.id}"[:255], "text": _text(action.text, MAX_BUTTON_TEXT),
        }  # fmt: skip
        if action.value:
            button["value"] = action.value[:2_000]
        elif action.url.startswith("https://"):
            button["url"] = action.url
        else:
            continue
        if action.style in ("primary", "danger"):
            button["style"] = action.style
        actions.append(button)
    return actions


def _places(rendered: Rendered) -> list[Block]:
    """What to do about it, which comes before saying what it was: the runbook, the daemon's page, the raw numbers."""
    links = [link for link in rendered.links if len(link.url) <= 3_000]
    return [
        {"type": "button", "action_id": f"link_{i}", "text": _text(link.text, MAX_BUTTON_TEXT), "url": link.url}
        for i, link in enumerate(links[:MAX_BUTTONS])
    ]


def _list(action: Action) -> Block:
    options = [{"text": _text(text, MAX_BUTTON_TEXT), "value": value[:150]} for value, text in action.options[:100]]
    return {
        "type": "static_select", "action_id": SNOOZE_LIST + action.value, "options": options,
        "placeholder": _text(f"{action.text}…", MAX_BUTTON_TEXT),
    }  # fmt: skip


def _within(out: list[Block]) -> list[Block]:
    """Cut the longest texts until all blocks together are short enough."""
    while (total := sum(len(t["text"]) for t in _texts(out))) > MAX_BLOCKS_TEXT:
        longest = max(_texts(out), key=lambda t: len(t["text"]))
        longest["text"] = cut(longest["text"], max(100, len(longest["text"]) - (total - MAX_BLOCKS_TEXT)))
    return out


def _texts(out: list[Block]) -> list[Block]:
    texts = []
    for block in out:
        texts += [block["text"]] if isinstance(block.get("text"), dict) else []
        texts += block.get("fields", [])
        if block["type"] == "context":
            texts += block["elements"]
    return texts


def _header(text: str) -> Block:
    return {"type": "header", "text": _text(clean(text, MAX_HEADER), MAX_HEADER)}


def _plain(text: str, limit: int) -> Block:
    return {"type": "section", "text": _text(text, limit)}


def _text(text: str, limit: int) -> Block:
    # Slack counts its plain text after escaping, as it does its markup.
    return {"type": "plain_text", "text": escape(text, limit) or " ", "emoji": False}


def _markdown(text: str) -> Block:
    return {"type": "mrkdwn", "text": cut(text, MAX_FIELD), "verbatim": True}


def _value(text: str, limit: int) -> str:
    """A short fact; as code where it could be taken for markup or a link."""
    return code(text, limit) if set(text) & set("*_~`\n") or "://" in text else escape(text, limit)


def escape(text: str, limit: int) -> str:
    """Escape Slack's three special characters, then cut without leaving half an entity."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if len(escaped) <= limit:
        return escaped
    kept = escaped[: limit - 1]
    start = kept.rfind("&")
    if start >= 0 and ";" not in kept[start:]:
        kept = kept[:start]
    return kept + "…"


def code(text: str, limit: int) -> str:
    """Untrusted text as a code span: nothing in it is markup."""
    return "`" + (escape(text.replace("`", "'").replace("\n", " "), limit) or " ") + "`"
