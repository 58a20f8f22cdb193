"""Slack as a receiver meets it: incoming webhook and Web API, with its limits, its 200 that means no, its rate."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fakes.sink import Answer, Request, Sink, answer

HOOK = "/services/T000/B000/hook-canary-secret"
TOKEN = "xoxb-canary-secret-token"
CHANNEL = "C0EXAMPLE"

_LIMITS = {"header": 150, "section": 3_000}


@dataclass
class Posted:
    """A message in the channel, as it reads now."""

    ts: str
    body: dict[str, Any]
    thread_ts: str = ""
    broadcast: bool = False
    edits: int = 0
    history: list[str] = field(default_factory=list)


class FakeSlack(Sink):
    """Keeps messages; ``now_ms`` switches on the rate limit of one message a second and channel.

    ``fetch`` gets the pictures of a message as Slack's servers do before they take it, status and type of the answer:
    what is no picture refuses the message. Without it every picture is there.
    """

    def __init__(
        self, now_ms: Callable[[], int] | None = None, fetch: Callable[[str], tuple[int, str]] | None = None,
        **sink: Any,
    ) -> None:  # fmt: skip
        self.messages: list[Posted] = []
        self.fetch = fetch
        self.now_ms = now_ms
        self.limited = 0
        self._last_post = -10_000
        super().__init__(**sink)

    @property
    def hook(self) -> str:
        return self.url + HOOK

    @property
    def api(self) -> str:
        return self.url + "/api"

    def handle(self, request: Request) -> Answer:
        if request.method != "POST":
            return Answer(405, b"")
        if request.path.startswith("/services/"):
            return self._webhook(request)
        return self._api(request)

    def _webhook(self, request: Request) -> Answer:
        if request.path != HOOK:
            return Answer(404, b"no_service", content_type="text/html")
        if self._over_rate():
            body = json.dumps({"retry_after": 1, "ok": False, "error": "rate_limited"}).encode()
            return Answer(429, body, {"Retry-After": "1"})
        try:
            body = request.json()
        except ValueError:
            return Answer(400, b"invalid_payload", content_type="text/html")
        if error := refusal(body) or self._unseen(body):
            return Answer(400, error.encode(), content_type="text/html")
        self.messages.append(Posted(f"170000{len(self.messages):04}.000100", body))
        return Answer(200, b"ok", content_type="text/html")

    def _api(self, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return answer(200, {"ok": False, "error": "invalid_auth"})
        if not request.headers.get("content-type", "").startswith("application/json"):
            return answer(200, {"ok": False, "error": "invalid_arguments"})
        body = request.json()
        method = request.path.removeprefix("/api/")
        if body.get("channel") != CHANNEL:
            return answer(200, {"ok": False, "error": "channel_not_found"})
        if error := refusal(body) or self._unseen(body):
            return answer(200, {"ok": False, "error": error})
        if method == "chat.postMessage":
            if self._over_rate():
                return answer(429, {"ok": False, "error": "ratelimited"}, Retry_After="1")
            return self._post(body)
        return self._update(body) if method == "chat.update" else answer(200, {"ok": False, "error": "unknown_method"})

    def _unseen(self, body: dict[str, Any]) -> str:
        """The error word for a message with a picture that cannot be fetched."""
        urls = [block["image_url"] for block in body.get("blocks", []) if block["type"] == "image"]
        seen = all(self.fetch(url) == (200, "image/png") for url in urls) if self.fetch else True
        return "" if seen else "invalid_blocks"

    def _post(self, body: dict[str, Any]) -> Answer:
        thread = body.get("thread_ts", "")
        if thread and self.find(thread) is None:
            return answer(200, {"ok": False, "error": "thread_not_found"})
        ts = f"170000{len(self.messages):04}.000100"
        self.messages.append(Posted(ts, body, thread, bool(body.get("reply_broadcast"))))
        return answer(200, {"ok": True, "channel": CHANNEL, "ts": ts, "message": body})

    def _update(self, body: dict[str, Any]) -> Answer:
        found = self.find(str(body.get("ts", "")))
        if found is None:
            return answer(200, {"ok": False, "error": "message_not_found"})
        found.history.append(json.dumps(found.body))
        found.body, found.edits = body, found.edits + 1
        return answer(200, {"ok": True, "channel": CHANNEL, "ts": found.ts, "text": body.get("text")})

    def find(self, ts: str) -> Posted | None:
        return next((m for m in self.messages if m.ts == ts), None)

    def _over_rate(self) -> bool:
        if self.now_ms is None:
            return False
        now = self.now_ms()
        if now - self._last_post < 1_000:
            self.limited += 1
            return True
        self._last_post = now
        return False


def refusal(body: Any) -> str:
    """The error word for a message beyond Slack's limits or rules; empty when it is fine."""
    if not isinstance(body, dict) or not (body.get("text") or body.get("blocks")):
        return "no_text"
    if len(body.get("text", "")) > 40_000:
        return "msg_too_long"
    blocks = body.get("blocks", [])
    if len(blocks) > 50 or any(_bad_block(block) for block in blocks):
        return "invalid_blocks"
    identities = [block["block_id"] for block in blocks if "block_id" in block]
    if len(identities) != len(set(identities)) or any(len(i) > 255 for i in identities):
        return "invalid_blocks"
    text = json.dumps(body, ensure_ascii=False)
    if re.search(r"<!(channel|here|everyone)|<@[UW]", text):
        return "invalid_blocks"  # the real one would ping everybody: no message of ours may
    total = sum(len(t.get("text", "")) for block in blocks for t in _texts(block))
    return "msg_blocks_too_long" if total > 13_200 else ""


def _texts(block: dict[str, Any]) -> list[dict[str, Any]]:
    text = block.get("text")
    return ([text] if isinstance(text, dict) else []) + block.get("fields", []) + (
        block.get("elements", []) if block.get("type") == "context" else []
    )  # fmt: skip


def _bad_block(block: dict[str, Any]) -> bool:
    kind = block.get("type")
    if kind not in ("header", "section", "context", "actions", "image", "divider"):
        return True
    for text in _texts(block):
        if text.get("type") not in ("plain_text", "mrkdwn") or not text.get("text"):
            return True
    if kind == "header":
        return block["text"]["type"] != "plain_text" or len(block["text"]["text"]) > 150
    if kind == "section":
        fields = block.get("fields", [])
        too_long = len(block.get("text", {}).get("text", "")) > 3_000 or any(len(f["text"]) > 2_000 for f in fields)
        return too_long or len(fields) > 10 or not (fields or "text" in block)
    if kind == "context":
        return not 1 <= len(block["elements"]) <= 10
    if kind == "image":
        return not block["image_url"].startswith("https://") or len(block["image_url"]) > 3_000 or not block["alt_text"]
    return kind == "actions" and _bad_actions(block["elements"])


def _bad_actions(elements: list[dict[str, Any]]) -> bool:
    names = [e.get("action_id", "") for e in elements]
    return (
        not 1 <= len(elements) <= 25
        or len(names) != len(set(names))
        or any(not 1 <= len(name) <= 255 for name in names)
        or any(_bad_button(e) if e["type"] == "button" else _bad_list(e) for e in elements)
    )


def _bad_button(e: dict[str, Any]) -> bool:
    return (
        not 1 <= len(e["text"]["text"]) <= 75
        or len(e.get("value", "")) > 2_000
        or len(e.get("url", "")) > 3_000
        or e.get("style", "primary") not in ("primary", "danger")
    )


def _bad_list(e: dict[str, Any]) -> bool:
    texts = [e["placeholder"], *(option["text"] for option in e["options"])]
    return (
        e["type"] != "static_select"
        or set(e) - {"type", "action_id", "placeholder", "options"} != set()
        or not 1 <= len(e["options"]) <= 100
        or any(text["type"] != "plain_text" or not 1 <= len(text["text"]) <= 75 for text in texts)
        or any(not 1 <= len(option["value"]) <= 150 for option in e["options"])
        or len({option["value"] for option in e["options"]}) != len(e["options"])
    )
