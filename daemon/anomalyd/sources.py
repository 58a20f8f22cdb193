"""What evaluation asks of a source: Prometheus in the daemon, a recorded block in a replay."""

from __future__ import annotations

from typing import Protocol

from anomalyd.block import Block


class Reply(Protocol):
    """A source's answer."""

    @property
    def block(self) -> Block: ...
    @property
    def partial(self) -> bool: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...


class Source(Protocol):
    """Where samples come from: Prometheus in the daemon, a recorded block in a replay."""

    def instant(self, expr: str, at_ms: int, *, limit: int | None = None) -> Reply: ...

    def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> Reply: ...
