"""``Gate``: when one receiver may be sent to again.

A token bucket keeps the documented rate, and what a receiver asks for (``Retry-After``) or a row of failures closes the
gate for a while. Times are wall milliseconds, passed in; a clock that was set back never closes a gate for longer than
it could have been closed at most.
"""

from __future__ import annotations

MAX_CLOSED_MS = 300_000


class Gate:
    """One receiver's gate: ``burst`` sends at once, then one every ``every_ms`` (0: no limit)."""

    def __init__(self, every_ms: int, burst: int):
        self._every_ms = every_ms
        self._burst = max(1, burst)
        self._full_at = 0
        """When the bucket will be full again."""
        self._closed_until = 0

    def opens_at(self, now: int) -> int:
        """The earliest time at which something may be sent; ``now`` or earlier when the gate is open."""
        self._believe(now)
        return max(self._closed_until, self._full_at - (self._burst - 1) * self._every_ms)

    def room(self, now: int) -> int | None:
        """How many may be sent at once now; None without a limit."""
        if self.opens_at(now) > now:
            return 0
        if not self._every_ms:
            return None
        missing = max(0, self._full_at - now)
        return max(0, self._burst - -(-missing // self._every_ms))

    def take(self, now: int) -> None:
        """Count one send."""
        self._full_at = max(self._full_at, now) + self._every_ms

    def close_until(self, at: int) -> None:
        """Let nothing through before ``at``."""
        self._closed_until = max(self._closed_until, at)

    def _believe(self, now: int) -> None:
        self._full_at = min(self._full_at, now + self._burst * self._every_ms)
        self._closed_until = min(self._closed_until, now + MAX_CLOSED_MS)
