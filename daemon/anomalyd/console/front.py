"""The front page: what is open now and what was lately, for whoever may use the API. It only shows."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from anomalyd import __version__
from anomalyd.console.auth import Denied
from anomalyd.console.page import HEADERS
from anomalyd.console.pageview import environment
from anomalyd.console.parts import Parts
from anomalyd.episode import Episode, Phase
from anomalyd.render import clock_time, label_text, number, span
from anomalyd.score import Tier

MOST = 100
"""Alerts shown of each kind; the API has them all."""


def add_front(web: FastAPI, parts: Parts) -> None:
    """Mount the page at the root of the application."""
    templates = environment()

    @web.get("/", include_in_schema=False)
    def front(request: Request) -> Response:
        try:
            parts.guard.reader(request)
        except Denied as denied:
            words = f"{denied}. Alerts are reached by the links in their messages."
            page = templates.get_template("gone.html").render(title="anomalyd", words=words, root="")
            return HTMLResponse(page, denied.status, HEADERS)
        return HTMLResponse(templates.get_template("front.html").render(_view(parts)), headers=HEADERS)


def _view(parts: Parts) -> dict[str, Any]:
    now = parts.clock.now_ms()
    live = parts.store.episodes(phase=Phase.OPEN, limit=MOST)
    live.sort(key=lambda e: (-e.tier, e.started_at))
    over = [e for e in parts.store.episodes(phase=Phase.CLOSED, limit=MOST) if e.opened_at]
    return {
        "version": __version__,
        "rules": len(parts.rules()),
        "open": [_row(e, parts, now) for e in live],
        "over": [_row(e, parts, now) for e in over],
        "more": len(live) == MOST,
    }


def _row(e: Episode, parts: Parts, now: int) -> dict[str, str]:
    rule = parts.rules().get(e.rule)
    alone = rule is None or not rule.detector.joint
    expected = f", expected {number(e.peak_expected)}" if alone and math.isfinite(e.peak_expected) else ""
    return {
        "worst": f"{number(e.peak_value)}{expected}" if alone else f"a score of {number(e.peak_value)}",
        "id": e.id,
        "tier": Tier(e.tier).name.lower(),
        "rule": e.rule,
        "labels": label_text(e.labels),
        "since": clock_time(e.started_at, now),
        "lasted": span((e.closed_at or now) - e.started_at),
    }
