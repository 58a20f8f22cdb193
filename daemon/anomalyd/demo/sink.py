"""The demo's webhook sink: receives what the generic webhook receiver sends, and checks it as a careful user would.

Invariant: nothing unsigned, altered or stale reaches ``on_received``, and a delivery that is repeated (a retry whose
first answer was lost) reaches it once; the repeat is answered 200, so that the sender stops.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from anomalyd.clock import MINUTE_MS
from anomalyd.demo.server import LoopbackServer, Request, Response, text_response

TOLERANCE_MS = 5 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Received:
    """One notification that arrived whole and signed.

    Attributes:
        delivery: the `Idempotency-Key`, equal on every retry.
        event: firing, update, resolved or test.
        body: the JSON body as sent (Alertmanager's webhook shape with our additions).
    """

    delivery: str
    event: str
    body: Mapping[str, Any]


class WebhookSink(LoopbackServer):
    """Listens for signed webhooks; ``on_received`` is called in the connection's thread, one call at a time.

    Args:
        secret: what the sender signs with.
        now: where given, a signature's timestamp may differ from it by five minutes at most (milliseconds).
    """

    def __init__(self, secret: str, on_received: Callable[[Received], None], now: Callable[[], int] | None = None):
        super().__init__(self._respond, "demo-sink")
        self._secret = secret.encode()
        self._on_received = on_received
        self._now = now
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self.repeated = 0
        self.refused: list[str] = []

    def _respond(self, request: Request) -> Response:
        with self._lock:
            problem = self._problem(request)
            if problem:
                self.refused.append(problem)
                return text_response(401 if problem.startswith("signature") else 400, problem + "\n")
            received = Received(
                request.headers["Idempotency-Key"],
                request.headers.get("X-Anomalyd-Event", ""),
                msgspec.json.decode(request.body),
            )
            if received.delivery in self._seen:
                self.repeated += 1
            else:
                self._on_received(received)
                self._seen.add(received.delivery)
        return Response(200, b"{}")

    def _problem(self, request: Request) -> str:
        """Why a request is refused; empty when it is sound."""
        if request.method != "POST":
            return "only POST is accepted here"
        if not request.headers.get("Idempotency-Key"):
            return "the Idempotency-Key header is missing"
        stamp = request.headers.get("X-Anomalyd-Timestamp", "")
        if not signed(self._secret, stamp, request.body, request.headers.get("X-Anomalyd-Signature", "")):
            return "signature does not match timestamp and body"
        if self._now is not None and abs(_milliseconds(stamp) - self._now()) > TOLERANCE_MS:
            return "signature is older or newer than five minutes"
        try:
            body = msgspec.json.decode(request.body)
        except msgspec.DecodeError as error:
            return f"body is not JSON: {error}"
        return "" if isinstance(body, dict) else "body is not a JSON object"


def signed(secret: bytes, stamp: str, body: bytes, signature: str) -> bool:
    """Whether one of the comma-separated signatures is v1 = HMAC-SHA256(secret, stamp + "." + body) in hex."""
    wanted = b"v1=" + hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest().encode()
    return any(hmac.compare_digest(one.strip().encode(), wanted) for one in signature.split(","))


def _milliseconds(stamp: str) -> int:
    """A timestamp header (Unix seconds) in milliseconds; the beginning of time for what is not one."""
    return int(stamp) * 1000 if stamp.isascii() and stamp.isdigit() and len(stamp) < 13 else 0
