"""The HTTP application: probes and metrics, the API, the pages and charts, and the callbacks of Slack and PagerDuty.

It knows the daemon through a few callables and never touches the loops. ``/metrics`` and the probes ask nobody for a
token, links of messages and their charts are signed, everything else asks (see ``auth``). The address is loopback
unless the user says otherwise; reloading is only there when ``web.enable_lifecycle`` says so, callbacks only where
their secret is set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anomalyd import __version__
from anomalyd.console.api import api_router
from anomalyd.console.auth import Denied
from anomalyd.console.charts import add_charts
from anomalyd.console.front import add_front
from anomalyd.console.page import add_pages
from anomalyd.console.pagerduty import add_pagerduty
from anomalyd.console.parts import MAX_BODY, Json, Parts
from anomalyd.console.rulepages import add_rule_pages
from anomalyd.console.slack import add_slack
from anomalyd.errors import AnomalydError, redact_urls


@dataclass(frozen=True, slots=True)
class Probes:
    """What the server asks the daemon.

    Attributes:
        healthy: whether the loops make progress, and in words.
        ready: whether the store answers and the first configuration is in place, and in words.
        reload: read the configuration anew; None where that is not enabled. True when it worked.
    """

    healthy: Callable[[], tuple[bool, str]]
    ready: Callable[[], tuple[bool, str]]
    reload: Callable[[], bool] | None = None


STATUS = {
    "bad_data": 400, "bad_vote": 400, "config": 500, "forbidden": 403, "not_found": 404, "rate_limited": 429,
    "too_large": 413, "unauthorized": 401,
}  # fmt: skip
"""HTTP status by reason; what is not named is the daemon's own trouble, 503."""


def build_web(probes: Probes, registry: CollectorRegistry, parts: Parts | None = None) -> FastAPI:
    """Make the application; without ``parts`` it has the probes and the metrics only."""
    web = FastAPI(
        title="anomalyd", version=__version__, docs_url=None, redoc_url=None,
        openapi_url="/api/v1/openapi.json" if parts else None, redirect_slashes=False,
    )  # fmt: skip
    web.add_middleware(_BodyLimit)
    _add_probes(web, probes, registry)
    _add_errors(web)
    if parts is not None:
        _add_console(web, parts)
    return web


def _add_console(web: FastAPI, parts: Parts) -> None:
    web.include_router(api_router(parts))
    add_pages(web, parts)
    add_front(web, parts)
    add_rule_pages(web, parts)
    add_charts(web, parts)
    settings = parts.settings().web
    if settings.slack_signing_secret is not None:
        add_slack(web, parts, settings.slack_signing_secret)
    if settings.pagerduty_secret is not None:
        add_pagerduty(web, parts, settings.pagerduty_secret)


def _add_probes(web: FastAPI, probes: Probes, registry: CollectorRegistry) -> None:
    @web.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
        return response

    @web.api_route("/-/healthy", methods=["GET", "HEAD"], include_in_schema=False)
    def healthy() -> Response:
        fine, words = probes.healthy()
        return PlainTextResponse(words + "\n", 200 if fine else 503)

    @web.api_route("/-/ready", methods=["GET", "HEAD"], include_in_schema=False)
    def ready() -> Response:
        fine, words = probes.ready()
        return PlainTextResponse(words + "\n", 200 if fine else 503)

    @web.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    @web.api_route("/-/reload", methods=["POST", "PUT"], include_in_schema=False)
    def reload() -> Response:
        if probes.reload is None:
            return PlainTextResponse("reloading over HTTP is off; set web.enable_lifecycle: true\n", 403)
        worked = probes.reload()
        words = "configuration reloaded" if worked else "the configuration has errors, the old one stays; see the log"
        return PlainTextResponse(words + "\n", 200 if worked else 500)


def _add_errors(web: FastAPI) -> None:
    """Whatever goes wrong is answered in the API's shape, and nothing a stranger sends is our error."""

    @web.exception_handler(AnomalydError)
    def failed(_: Request, error: AnomalydError) -> Response:
        status = STATUS.get(error.reason, 503)
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Denied) and status == 401 else None
        # What the database or a file says of itself is for the log and not for whoever asks.
        said = str(error) if status < 500 else "the daemon cannot answer now; its log says why"
        return _error(status, error.reason, said, headers)

    @web.exception_handler(RequestValidationError)
    def bad(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return _error(400, "bad_data", f"{where}: {first['msg']}"[:500])

    @web.exception_handler(HTTPException)
    def http(_: Request, error: HTTPException) -> Response:
        reason = {404: "not_found", 405: "bad_method"}.get(error.status_code, "bad_data")
        return _error(error.status_code, reason, str(error.detail), dict(error.headers or {}))


def _error(status: int, reason: str, said: str, headers: dict[str, str] | None = None) -> Json:
    body = {"status": "error", "errorType": reason, "error": redact_urls(said)}
    return Json(body, status, headers)


class _BodyLimit:
    """Refuses a body that says, or turns out, to be larger than ``MAX_BODY``."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or len(said) > 12 or int(said) > MAX_BODY:
            await _error(413, "too_large", f"the body is larger than {MAX_BODY} bytes")(scope, receive, send)
            return
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
            return message

        await self._app(scope, limited, send)
