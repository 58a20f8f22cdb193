"""A webhook collector that verifies signatures and refuses what is not signed well."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from fakes.sink import Answer, Request, Sink


class FakeWebhook(Sink):
    """Collects bodies; with a secret, refuses a request whose signature or timestamp is wrong."""

    def __init__(self, secret: str = "", now_s: int = 0, **sink: Any) -> None:
        self.secret, self.now_s = secret, now_s
        self.bodies: list[Any] = []
        self.keys: list[str] = []
        super().__init__(**sink)

    def handle(self, request: Request) -> Answer:
        if request.method != "POST" or request.headers.get("content-type") != "application/json":
            return Answer(400, b"POST JSON")
        if self.secret and not self._signed(request):
            return Answer(401, b"bad signature")
        if not request.headers.get("idempotency-key"):
            return Answer(400, b"no idempotency key")
        self.bodies.append(request.json())
        self.keys.append(request.headers["idempotency-key"])
        return Answer(200, b"")

    def _signed(self, request: Request) -> bool:
        timestamp = request.headers.get("x-anomalyd-timestamp", "")
        if not timestamp.isdigit() or (self.now_s and abs(int(timestamp) - self.now_s) > 300):
            return False
        expected = hmac.new(self.secret.encode(), timestamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
        given = request.headers.get("x-anomalyd-signature", "").split(",")
        return any(hmac.compare_digest(value.encode(), f"v1={expected}".encode()) for value in given)
