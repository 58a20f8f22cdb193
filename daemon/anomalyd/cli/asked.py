"""What commands are asked for in words of time: a moment, a length, a limit."""

from __future__ import annotations

from collections.abc import Callable

from anomalyd.clock import Clock
from anomalyd.durations import parse_duration, read_time
from anomalyd.errors import ConfigError, Problem


def moment(text: str, option: str, now: int) -> int:
    """A time, or how long ago it is; ``ConfigError`` that names the option."""
    try:
        return read_time(text) if text.count("-") >= 2 else now - parse_duration(text)
    except ValueError as error:
        raise ConfigError([Problem(option, 0, 0, str(error))]) from None


def seconds(text: str, option: str) -> float:
    """A duration in seconds; ``ConfigError`` that names the option."""
    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise ConfigError([Problem(option, 0, 0, str(error))]) from None


def within(clock: Clock, limit_s: float) -> Callable[[], bool]:
    """Whether there is time left, counted from now."""
    until = clock.monotonic_s() + limit_s
    return lambda: clock.monotonic_s() < until
