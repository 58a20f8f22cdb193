"""The page of an episode: what happened, the chart, earlier verdicts, and the form that votes.

It is reached by a signed link from a message, or without one by whoever may use the API. GET only shows. The form acts
by POST, with a token that is bound to a cookie of the same browser; there is no script, and nobody may frame the page.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from anomalyd.ballot import Refused
from anomalyd.console.auth import Denied, User
from anomalyd.console.links import Ticket
from anomalyd.console.pageview import environment, gone, view_of
from anomalyd.console.parts import Parts, body_of, form_of
from anomalyd.console.snooze import snooze
from anomalyd.episode import Episode
from anomalyd.logs import get_logger
from anomalyd.records import FeedbackLabel
from anomalyd.render import clean

COOKIE = "anomalyd_form"
FORM_MAX = 64 * 1024
WORDS = {
    "real": FeedbackLabel.TRUE,
    "false_alarm": FeedbackLabel.FALSE,
    "expected": FeedbackLabel.EXPECTED,
    "new_normal": FeedbackLabel.NEW_NORMAL,
}
_CSS = (Path(__file__).parent / "pages" / "page.css").read_text("utf-8")
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Not `no-referrer`: with it browsers send `Origin: null` with the form, as a foreign site's would be.
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}

log = get_logger("page")


def add_pages(web: FastAPI, parts: Parts) -> None:
    """Mount the pages on the application."""
    pages = _Pages(parts)

    @web.get("/page.css", include_in_schema=False)
    def css() -> Response:
        return Response(_CSS, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

    @web.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)

    @web.get("/f/{token}", include_in_schema=False)
    def by_link(request: Request, token: str) -> Response:
        return pages.show(request, lambda: pages.of_link(token))

    @web.post("/f/{token}", include_in_schema=False)
    async def vote_by_link(request: Request, token: str) -> Response:
        body = await body_of(request, FORM_MAX)
        return await run_in_threadpool(pages.act, request, body, lambda: pages.of_link(token))

    @web.get("/episodes/{episode}", include_in_schema=False)
    def by_id(request: Request, episode: str) -> Response:
        return pages.show(request, lambda: pages.of_user(request, episode, acts=False))

    @web.post("/episodes/{episode}", include_in_schema=False)
    async def vote_by_id(request: Request, episode: str) -> Response:
        body = await body_of(request, FORM_MAX)
        return await run_in_threadpool(pages.act, request, body, lambda: pages.of_user(request, episode, acts=True))


class _Visit:
    """Who looks at which episode: a link's holder or a user of the API."""

    def __init__(self, episode: str, ticket: Ticket | None = None, user: User | None = None):
        self.episode, self.ticket, self.user = episode, ticket, user

    @property
    def may_act(self) -> bool:
        return self.ticket is not None or (self.user is not None and self.user.may_act)

    @property
    def via(self) -> str:
        return "link" if self.ticket else "console"

    def who(self, given: str) -> str:
        """A link proves which receiver it was sent to; the name in front of it is only what somebody typed."""
        if self.ticket is None:
            return self.user.name if self.user else "somebody"
        return f"{clean(given, 60).replace('@', ' ').strip() or 'somebody'}@{self.ticket.receiver}"

    def is_mine(self, who: str, via: str) -> bool:
        return via == self.via and who.rpartition("@")[2] == self.who("").rpartition("@")[2]


class _Pages:
    def __init__(self, parts: Parts):
        self._parts = parts
        self._templates = environment()

    def of_link(self, token: str) -> _Visit | None:
        ticket = self._parts.signer.ticket(token, self._parts.clock.now_ms())
        return None if ticket is None else _Visit(ticket.episode, ticket=ticket)

    def of_user(self, request: Request, episode: str, acts: bool) -> _Visit:
        guard = self._parts.guard
        return _Visit(episode, user=guard.actor(request) if acts else guard.reader(request))

    def show(self, request: Request, visit: Callable[[], _Visit | None]) -> Response:
        """GET: shows and changes nothing."""
        try:
            return self._page(request, visit())
        except Denied as denied:
            return self._gone("Not allowed", str(denied), denied.status)

    def act(self, request: Request, body: bytes, visit: Callable[[], _Visit | None]) -> Response:
        """POST: votes, snoozes or takes a vote back, and leads back to the page."""
        try:
            self._parts.guard.same_site(request)
            found = visit()
        except Denied as denied:
            return self._gone("Not allowed", str(denied), denied.status)
        episode = self._parts.store.episode(found.episode) if found else None
        if found is None or episode is None or not found.may_act:
            return self._page(request, found)
        form = form_of(body)
        nonce = request.cookies.get(COOKIE, "")
        if not self._parts.signer.is_form_token(form.get("csrf", ""), found.episode, nonce):
            words = "This form is no longer good; here is a fresh one. Does the browser keep cookies?"
            return self._page(request, found, problem=words, status=403)
        try:
            said = self._done(found, episode, form)
        except Refused as refused:
            status = 429 if refused.reason == "rate_limited" else 400
            return self._page(request, found, problem=str(refused), status=status)
        # The path as it was asked for: a proxy may serve us under a prefix that we do not see.
        return RedirectResponse("?" + urlencode({"said": said}), 303, headers=HEADERS)

    def _done(self, visit: _Visit, episode: Episode, form: dict[str, str]) -> str:
        parts, now, vote = self._parts, self._parts.clock.now_ms(), form.get("vote", "")
        who = visit.who(form.get("who", ""))
        if vote == "undo":
            mine = {v.id for v in parts.store.feedback(episode=episode.id) if visit.is_mine(v.who, v.via)}
            if form.get("id", "") not in mine:
                raise Refused("not_found", "this vote cannot be taken back here")
            parts.ballot.undo(form["id"], who, now)
            return "undone"
        if vote == "snooze":
            whole = parts.store.incident(episode.incident) if form.get("scope") == "incident" else None
            chosen = form.get("for", "1h")
            until = snooze(parts.store.add_silence, whole or episode, parts.rules(), chosen, who, now)
            return f"snoozed {until}"
        episodes = self._chosen(visit, episode, form)
        if vote not in WORDS:
            raise Refused("bad_vote", "choose one of the buttons")
        nonce = clean(form.get("nonce", ""), 40) or secrets.token_hex(8)
        for one in episodes:
            identity = f"{nonce}-{one.id}-{vote}"
            cast = parts.ballot.vote_on(
                one.id, WORDS[vote], who, visit.via, now, cause=form.get("cause", ""), text=form.get("text", ""),
                id=identity,
            )  # fmt: skip
            parts.ballot.cast(cast, now)
        return f"{nonce}-{episode.id}-{vote}"

    def _chosen(self, visit: _Visit, episode: Episode, form: dict[str, str]) -> list[Episode]:
        if form.get("scope") != "incident" or not episode.incident:
            return [episode]
        return self._parts.store.episodes(incident=episode.incident, limit=1_000) or [episode]

    def _page(self, request: Request, visit: _Visit | None, problem: str = "", status: int = 200) -> Response:
        if visit is None:
            return self._gone("This link has expired", "Open the newest message about this alert.", 410)
        episode = self._parts.store.episode(visit.episode)
        if episode is None:
            return self._gone("No such alert", "It may have been deleted with the retention time.", 404)
        nonce = request.cookies.get(COOKIE, "") or secrets.token_urlsafe(18)
        view = view_of(
            self._parts, episode, visit.is_mine, may_act=visit.may_act, asks_name=visit.ticket is not None,
            choice=request.query_params.get("choice", "")[:20], said=request.query_params.get("said", "")[:200],
        )  # fmt: skip
        html = self._templates.get_template("episode.html").render(
            **view, problem=problem, csrf=self._parts.signer.form_token(visit.episode, nonce),
            nonce=secrets.token_hex(8), root="../",
        )  # fmt: skip
        answer = HTMLResponse(html, status, headers=HEADERS)
        secure = request.url.scheme == "https" or self._parts.settings().web.external_url.startswith("https://")
        answer.set_cookie(
            COOKIE, nonce, max_age=86_400, httponly=True, samesite="strict", path="/",
            secure=secure and visit.ticket is not None,
        )  # fmt: skip
        return answer

    def _gone(self, title: str, words: str, status: int) -> Response:
        return HTMLResponse(gone(self._templates, title, words), status, headers=HEADERS)
