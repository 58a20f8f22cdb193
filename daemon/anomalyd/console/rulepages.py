"""The pages of the rules: ``/rules`` and ``/rules/GROUP/NAME``, for whoever may use the API. They only show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from anomalyd.console.auth import Denied
from anomalyd.console.page import HEADERS
from anomalyd.console.pageview import environment
from anomalyd.console.parts import Parts
from anomalyd.console.rulesview import rules_view
from anomalyd.console.ruleview import rule_view
from anomalyd.render import clean

MAX_WANTED = 200


def add_rule_pages(web: FastAPI, parts: Parts) -> None:
    """Mount both pages on the application."""
    templates = environment()

    def page(request: Request, name: str, view: Callable[[], dict[str, Any] | None]) -> Response:
        # As deep as the address was asked for: a proxy may serve us under a prefix that we do not see.
        root = "../" * (request.scope["raw_path"].count(b"/") - 1)
        try:
            parts.guard.reader(request)
            shown = view()
        except Denied as denied:
            return _gone(root, "Not allowed", str(denied), denied.status)
        if shown is None:
            return _gone(root, "No such rule", "It is not running here: removed, or renamed.", 404)
        return HTMLResponse(templates.get_template(name).render({**shown, "root": root}), headers=HEADERS)

    def _gone(root: str, title: str, words: str, status: int) -> Response:
        html = templates.get_template("gone.html").render(title=title, words=words, root=root)
        return HTMLResponse(html, status, HEADERS)

    @web.get("/rules", include_in_schema=False)
    def rules(request: Request) -> Response:
        return page(request, "rules.html", lambda: rules_view(parts, *_asked(request)))

    @web.get("/rules/{id:path}", include_in_schema=False)
    def rule(request: Request, id: str) -> Response:
        def view() -> dict[str, Any] | None:
            found = parts.rules().get(id)
            return None if found is None else rule_view(parts, found, *_asked(request))

        return page(request, "rule.html", view)


def _asked(request: Request) -> tuple[str, int]:
    """The words looked for and the page; anything that is no number is the first page."""
    text = request.query_params.get("page", "")
    page = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 1
    return clean(request.query_params.get("q", ""), MAX_WANTED), page
