"""What the demo planted against what the daemon found.

Pure. An episode belongs to an incident when it is on one of its series (found) or on one that suffers along (touched)
and was opened while it lasted or while the series settled; every other episode is a false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anomalyd.block import Labels
from anomalyd.clock import HOUR_MS
from anomalyd.demo.shop import Planted
from anomalyd.score import Tier

SETTLE_MS = HOUR_MS


@dataclass(frozen=True, slots=True)
class Found:
    """An episode the daemon opened, as far as the comparison needs it; ``closed_at`` is 0 while it is open."""

    rule: str
    labels: Labels
    tier: Tier
    opened_at: int
    closed_at: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One planted incident: the first episode on one of its series, and how late it was opened.

    ``first`` is None and ``delay_ms`` 0 when it was missed; ``tier`` is the highest reached by any of its episodes.
    """

    planted: Planted
    first: Found | None
    delay_ms: int
    tier: Tier
    episodes: int

    @property
    def found(self) -> bool:
        return self.first is not None


@dataclass(frozen=True, slots=True)
class Report:
    """The whole comparison, incidents in time order."""

    lines: tuple[Line, ...]
    false_alarms: tuple[Found, ...]

    @property
    def found(self) -> int:
        return sum(line.found for line in self.lines)


def compare(incidents: Sequence[Planted], found: Sequence[Found]) -> Report:
    """Match episodes with planted incidents; a series' labels must be those of the source, ``__name__`` included."""
    by_time = sorted(found, key=lambda episode: (episode.opened_at, episode.labels))
    lines = tuple(_line(planted, by_time) for planted in sorted(incidents, key=lambda p: p.start_ms))
    stray = tuple(e for e in by_time if not any(_belongs(e, p, p.series + p.touched) for p in incidents))
    return Report(lines, stray)


def _line(planted: Planted, by_time: Sequence[Found]) -> Line:
    own = [episode for episode in by_time if _belongs(episode, planted, planted.series)]
    along = [episode for episode in by_time if _belongs(episode, planted, planted.series + planted.touched)]
    if not own:
        return Line(planted, None, 0, Tier.NONE, len(along))
    delay = own[0].opened_at - planted.start_ms
    return Line(planted, own[0], delay, max(episode.tier for episode in own), len(along))


def _belongs(episode: Found, planted: Planted, series: tuple[Labels, ...]) -> bool:
    return episode.labels in series and planted.start_ms <= episode.opened_at < planted.end_ms + SETTLE_MS
