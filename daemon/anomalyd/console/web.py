"""The HTTP application: ``/metrics``, ``/-/healthy`` (tied to the progress of the loops), ``/-/ready``, ``/-/reload``.

It knows the daemon through a few callables and never touches the loops. The address is loopback unless the user says
otherwise, and what changes state is only there when ``web.enable_lifecycle`` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from anomalyd import __version__
from anomalyd.errors import AnomalydError


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


def build_web(probes: Probes, registry: CollectorRegistry) -> FastAPI:
    """Make the application."""
    web = FastAPI(title="anomalyd", version=__version__, docs_url=None, redoc_url=None)

    @web.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], object]) -> Response:
        response: Response = await call_next(request)  # type: ignore[misc]
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

    @web.exception_handler(AnomalydError)
    def failed(_: Request, error: AnomalydError) -> Response:
        body = {"status": "error", "errorType": error.reason, "error": str(error)}
        return JSONResponse(body, 503)

    return web
