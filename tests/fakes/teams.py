"""A Power Automate flow that posts adaptive cards into Teams, with its size limit."""

from __future__ import annotations

from typing import Any

from fakes.sink import Answer, Request, Sink

HOOK = "/workflows/canary/triggers/manual/paths/invoke"


class FakeTeams(Sink):
    """Keeps cards."""

    def __init__(self, **sink: Any) -> None:
        self.cards: list[dict[str, Any]] = []
        super().__init__(**sink)

    def handle(self, request: Request) -> Answer:
        if request.path != HOOK or request.method != "POST":
            return Answer(404, b"")
        if len(request.body) > 28_000:
            return Answer(413, b"request entity too large")
        body = request.json()
        cards = [a["content"] for a in body.get("attachments", [])]
        if body.get("type") != "message" or len(cards) != 1 or _bad(cards[0]):
            return Answer(400, b"bad card")
        self.cards.append(cards[0])
        return Answer(202, b"")


def _bad(card: dict[str, Any]) -> bool:
    kinds = {"TextBlock", "FactSet", "Image"}
    return (
        card["type"] != "AdaptiveCard"
        or card["version"] not in ("1.2", "1.3", "1.4")
        or any(block["type"] not in kinds for block in card["body"])
        or any("<at>" in block.get("text", "") for block in card["body"])
        or len(card.get("actions", [])) > 6
        or any(not a["url"].startswith("http") or not a["title"] for a in card.get("actions", []))
    )
