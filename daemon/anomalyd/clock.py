"""Time, the only place that reads it.

Two notions, never mixed: ``now_ms`` is wall time (UTC, int64 milliseconds since the epoch) and is what slots, episodes
and outbox rows carry; ``monotonic_s`` measures durations and deadlines and never jumps. Everything below the run loops
gets its time as an argument (``at`` for the slot being evaluated, ``now`` for a delivery pass), so a replay with
another clock gives the same rows.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS


class Clock(Protocol):
    """Wall and monotonic time, and waiting."""

    def now_ms(self) -> int: ...

    def monotonic_s(self) -> float: ...

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until the event is set or the time has passed; return whether it was set."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(timeout_s)


class VirtualClock:
    """A clock that stands still until somebody advances it: tests, the demo, backtests and replays run on it."""

    def __init__(self, now_ms: int):
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._now_ms / 1000

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        if not event.is_set():
            self._now_ms += int(timeout_s * 1000)
        return event.is_set()

    def advance_to(self, now_ms: int) -> None:
        """Move forward to a time; moving backwards is a programmer's mistake."""
        assert now_ms >= self._now_ms, "a virtual clock does not run backwards"
        self._now_ms = now_ms
