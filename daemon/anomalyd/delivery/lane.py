"""``Lane``: what delivery remembers of one receiver between passes. Only patience is lost with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from anomalyd.gate import Gate
from anomalyd.incident import Notification


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pending notification that was held or failed: due again when, and how often it failed."""

    next_at: int
    failures: int


@dataclass(slots=True)
class Lane:
    """What is remembered of one receiver between passes; losing it costs nothing but a little patience.

    Attributes:
        failures: attempts on any notification that failed one after another.
        restored: what its peer forgets was taken up from the store.
        trouble_since: since when it refuses for good what only people can mend; 0: it does not.
    """

    gate: Gate
    waiting: dict[str, Waiting] = field(default_factory=dict)
    failures: int = 0
    restored: bool = False
    trouble_since: int = 0

    def next_at(self) -> int | None:
        return min((row.next_at for row in self.waiting.values()), default=None)

    def forget_lost(self, now: int, claimed: Sequence[Notification]) -> None:
        """Forget what was due and did not come with a claim that took everything: it is pending no more."""
        ids = {row.id for row in claimed}
        lost = [id for id, row in self.waiting.items() if row.next_at <= now and id not in ids]
        for id in lost:
            del self.waiting[id]
