"""Charts at signed addresses: ``GET /c/{token}.png``, for whatever shows a message with a picture in it.

Slack, Teams and PagerDuty fetch it with no login of ours: the signature is all the leave they need, and it is for one
picture. It is drawn when it is first asked for, within a few seconds, and kept; what it shows never changes, so whoever
fetched it may keep it too.
"""

from __future__ import annotations

import hashlib

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from anomalyd.clock import SECOND_MS
from anomalyd.console.parts import Parts
from anomalyd.delivery.picture import Late, scene_at
from anomalyd.render import clock_time

PATIENCE_S = 3.0
"""How long somebody waits while another picture is drawn; then as long again for their own."""
MAX_AGE_S = 86_400


def add_charts(web: FastAPI, parts: Parts) -> None:
    """Mount the endpoint on the application."""

    @web.api_route("/c/{token}.png", methods=["GET", "HEAD"], include_in_schema=False)
    def chart(request: Request, token: str) -> Response:
        return _chart(parts, token, request.headers.get("if-none-match", ""))


def _chart(parts: Parts, token: str, known: str) -> Response:
    now = parts.clock.now_ms()
    ticket = parts.signer.chart_ticket(token)
    if ticket is None:
        return _said(404, "there is no such chart")
    if now >= ticket.expires_at:
        return _said(410, f"the address of this chart has expired: {clock_time(ticket.expires_at, now)}")
    left_s = min(MAX_AGE_S, (ticket.expires_at - now) // SECOND_MS)
    headers = {
        "ETag": f'"{hashlib.sha256(token.encode()).hexdigest()[:24]}"', "Cache-Control": f"max-age={left_s}, immutable",
        "Cross-Origin-Resource-Policy": "cross-origin", "X-Robots-Tag": "noindex",
    }  # fmt: skip
    if headers["ETag"] in known:
        return Response(status_code=304, headers=headers)
    episode = parts.store.episode(ticket.episode)
    if episode is None:
        return _said(404, "this alert is not kept any more")
    if parts.pictures is None:
        return _said(404, "charts need matplotlib: pip install 'anomalyd[images]'")
    try:
        made = parts.pictures.of(scene_at(episode, ticket.at), PATIENCE_S)
    except Late:
        return _said(503, "the chart is being drawn; ask again", {"Retry-After": "5"})
    if made is None:
        return _said(404, "no scores are kept for this time, so there is no chart")
    return Response(made.png, media_type="image/png", headers=headers)


def _said(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(words + "\n", status, headers={"Cache-Control": "no-store", **(headers or {})})
