"""What an answer that is not a success means: pure classification into ``SourceUnavailable`` and ``QueryRejected``.

Every answer is read with distrust: proxies and login pages answer in HTML with any status, and what a server says is
shown to people, so it is cut to 1 kB and freed of control characters and of the credentials we sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from anomalyd.errors import QueryRejected, SourceError, SourceUnavailable

DETAIL_CHARS = 1000
RETRY_AFTER_MAX_S = 300.0

_TOO_MANY_POINTS = ("maximum resolution", "too many points")


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """Status, headers (names in lower case) and decoded body of one HTTP exchange.

    ``body`` is followed by ``decode.PAD`` zero bytes that do not belong to it; ``size`` is its length without them.
    ``secrets`` are the credentials that were sent and must not be repeated when the answer is quoted.
    """

    status: int
    headers: Mapping[str, str]
    body: bytearray
    size: int
    secrets: tuple[str, ...] = ()

    def text(self, limit: int = 64 * 1024) -> str:
        return bytes(self.body[: min(self.size, limit)]).decode("utf-8", "replace")


def clean(text: str, secrets: Iterable[str] = ()) -> str:
    """Make foreign text fit for a message: no credentials, no control characters, at most 1,000 characters."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "<secret>")
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    return text if len(text) <= DETAIL_CHARS else text[: DETAIL_CHARS - 1] + "…"


def refusal(answer: Answer, where: str) -> SourceError:
    """The error for an answer whose status is not 200.

    Args:
        where: names the source in the message, such as ``source shop (http://prometheus:9090)``.
    """
    status = answer.status
    said = _said(answer)
    if "x-prometheus-stopping" in answer.headers:
        stopping = answer.headers["x-prometheus-stopping"].lower() == "true"
        return SourceUnavailable("starting", f"{where} is {'shutting down' if stopping else 'still starting'}")
    if status in (401, 403):
        return SourceUnavailable("auth", f"{where} refuses the credentials (HTTP {status}): {said}")
    if 300 <= status < 400:
        hint = "redirects are not followed, name the final URL"
        return SourceUnavailable("not_prometheus", f"{where} answers with a redirect (HTTP {status}); {hint}")
    if status == 429:
        return SourceUnavailable(
            "rate_limited", f"{where} limits requests (HTTP 429): {said}", retry_after_s=retry_after_s(answer.headers)
        )
    if status >= 500 or status in (408, 499):
        return _server_trouble(answer, where, said)
    return _client_trouble(answer, where, said)


def error_envelope(answer: Answer) -> tuple[str, str] | None:
    """``(errorType, error)`` of a Prometheus error answer, None for any other body."""
    try:
        body: Any = json.loads(answer.text())
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("status") != "error":
        return None
    return str(body.get("errorType", "")), str(body.get("error", ""))


def error_by_type(error_type: str, said: str, where: str) -> SourceError:
    """The error for a Prometheus error envelope by its ``errorType``, whatever the HTTP status."""
    if error_type in ("timeout", "canceled"):
        return SourceUnavailable("timeout", f"{where} gave up on the query: {said}")
    if error_type == "internal":
        return SourceUnavailable("server", f"{where} failed: {said}")
    if error_type == "not_found":
        return QueryRejected("not_found", f"{where} has no such thing: {said}")
    if any(text in said for text in _TOO_MANY_POINTS):
        return QueryRejected("too_many_points", f"{where} rejects the query: {said}")
    if error_type in ("execution", "422"):
        return QueryRejected("execution", f"{where} cannot execute the query: {said}")
    return QueryRejected("bad_data", f"{where} rejects the query: {said}")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a ``Retry-After`` header, at most 300; a date or anything unreadable counts as absent."""
    text = headers.get("retry-after", "").strip()
    return min(max(float(text), 1.0), RETRY_AFTER_MAX_S) if text.isascii() and text.isdecimal() else None


def _said(answer: Answer) -> str:
    envelope = error_envelope(answer)
    if envelope is not None:
        return clean(envelope[1], answer.secrets)
    if "html" in answer.headers.get("content-type", ""):
        return "an HTML page"
    return clean(answer.text(4 * DETAIL_CHARS), answer.secrets) or "without a text"


def _server_trouble(answer: Answer, where: str, said: str) -> SourceError:
    envelope = error_envelope(answer)
    if envelope is not None and envelope[0] in ("timeout", "canceled"):
        return error_by_type(envelope[0], said, where)
    return SourceUnavailable(
        "server", f"{where} failed (HTTP {answer.status}): {said}", retry_after_s=retry_after_s(answer.headers)
    )


def _client_trouble(answer: Answer, where: str, said: str) -> SourceError:
    envelope = error_envelope(answer)
    if answer.status == 404 and (envelope is None or envelope[0] in ("not_found", "404")):
        return QueryRejected("not_found", f"{where} has no Prometheus API (HTTP 404): check the URL's path prefix")
    if envelope is None:
        return SourceUnavailable("not_prometheus", f"{where} does not speak Prometheus (HTTP {answer.status}): {said}")
    if answer.status == 422:
        return error_by_type("422", said, where)
    return error_by_type(envelope[0], said, where)
