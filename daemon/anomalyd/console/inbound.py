"""What signed callbacks from other services share: constant-time signatures, and a memory against replay."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections import OrderedDict

MAX_REMEMBERED = 10_000
SLACK_WINDOW_S = 300
_SECONDS = re.compile(r"[0-9]{1,12}\Z", re.ASCII)


class Seen:
    """Remembers what was seen for a while, at most ``MAX_REMEMBERED`` of it; the oldest goes first."""

    def __init__(self, ttl_ms: int):
        self._ttl_ms = ttl_ms
        self._at: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def first_time(self, key: str, now: int) -> bool:
        """Whether this key was not seen within the time; it counts as seen from now on."""
        with self._lock:
            while self._at:
                oldest = next(iter(self._at))
                if now - self._at[oldest] <= self._ttl_ms and len(self._at) < MAX_REMEMBERED:
                    break
                del self._at[oldest]
            if key in self._at:
                return False
            self._at[key] = now
            return True

    def forget(self, key: str) -> None:
        """It was not worked off after all: the next delivery counts."""
        with self._lock:
            self._at.pop(key, None)


def slack_signature(secret: str, timestamp: str, body: bytes) -> str:
    """What Slack writes into ``X-Slack-Signature``."""
    base = b"v0:" + timestamp.encode("utf-8", "replace") + b":" + body
    return "v0=" + hmac.digest(secret.encode(), base, hashlib.sha256).hex()


def is_from_slack(secret: str, timestamp: str, signature: str, body: bytes, now: int) -> bool:
    """Whether a request is signed by Slack and fresh."""
    if not _SECONDS.match(timestamp) or abs(now // 1000 - int(timestamp)) > SLACK_WINDOW_S:
        return False
    expected = slack_signature(secret, timestamp, body)
    return hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode())


def is_from_pagerduty(secret: str, signatures: str, body: bytes) -> bool:
    """Whether any of the ``v1`` signatures of a header is right; there are several while a secret is changed."""
    expected = ("v1=" + hmac.digest(secret.encode(), body, hashlib.sha256).hex()).encode()
    given = [part.strip().encode("utf-8", "replace") for part in signatures[:4_096].split(",")]
    matches = [hmac.compare_digest(one, expected) for one in given]
    return any(matches)
