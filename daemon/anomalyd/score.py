"""``Scores`` and ``Verdict``: what a detector says about samples, and what we make of it.

``surprise`` is -log10 of the calibrated tail probability: 3 means "once in a thousand samples when nothing is wrong".
``anomaly_score`` is surprise divided by the cut of the lowest tier, so above 1 is anomalous for every detector (the
meaning vmanomaly gave the name).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np

from anomalyd.block import F64, I8, I64


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of N series at T times, each array [N, T]; NaN where there is none.

    Attributes:
        raw: the detector's own score, in its own unit, larger is more abnormal.
        expected: what the detector took to be normal, in the series' unit.
        lower, upper: the band outside which the lowest tier begins, in the series' unit.
        surprise: -log10 of the tail probability, never negative; NaN while warming up or where the sample is missing.
        page: the surprise with which an episode may open, where the detector knows news from what goes on; None where
            every sample may open one; minus infinity where the sample itself is doubted. Whether an episode goes on is
            up to ``surprise`` alone.
    """

    learned: I64 | None = field(default=None, kw_only=True)
    """Above 0 where a series is young: from how many slots of past was learned. None where none is."""
    side: F64 | None = field(default=None, kw_only=True)
    """Above 0 where the score speaks of a rise, below 0 of a fall; NaN or None: see on which side of ``expected``."""
    raw: F64
    expected: F64
    lower: F64
    upper: F64
    surprise: F64
    page: F64 | None = None


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Scores of one block that was scored in pieces, one after another; at least one piece."""
    def column(name: str) -> F64:
        return np.concatenate([getattr(part, name) for part in parts], axis=1)

    learned = [np.zeros(p.raw.shape, np.int64) if p.learned is None else p.learned for p in parts]
    return Scores(
        column("raw"), column("expected"), column("lower"), column("upper"), column("surprise"),
        None if parts[0].page is None else column("page"), side=None if parts[0].side is None else column("side"),
        learned=None if all(p.learned is None for p in parts) else np.concatenate(learned, axis=1),
    )  # fmt: skip


class Tier(IntEnum):
    """Severity of an anomaly. NONE orders below all."""

    NONE = 0
    WARNING = 1
    CRITICAL = 2
    EMERGENCY = 3

    @property
    def word(self) -> str:
        return self.name.lower()


TIERS = (Tier.WARNING, Tier.CRITICAL, Tier.EMERGENCY)


class Kind(IntEnum):
    """What one slot is for one series; every (rule, series, slot) is exactly one of these (promise P1)."""

    OK = 0
    ANOMALOUS = 1
    WARMING_UP = 2
    MISSING = 3
    """No sample, or one that is not a finite number."""
    PARTIAL = 4
    """The source answered with a part of its data; unknown, not normal."""
    LIMITED = 5
    """Beyond the rule's limit of series; not scored."""
    ERROR = 6
    """The query or the detector failed; unknown, not normal."""


class Why(IntEnum):
    """Why a verdict is what it is, beyond its kind."""

    NOTHING = 0
    SURPRISE = 1
    """The score is above the cut."""
    OUT_OF_RANGE = 2
    """The value is outside the rule's valid_range, whatever the score."""
    ABSENT = 3
    """The series is missing and the rule says `missing: alert`."""
    DIRECTION = 4
    """Above the cut, but on the side the rule does not ask for."""
    MIN_DEVIATION = 5
    """Above the cut, but closer to the expected value than the rule cares about."""
    NO_NEWS = 6
    """Above the cut, but no more than what the series has shown lately or often: nothing opens by it."""
    YOUNG = 7
    """Above the cut, in a series too young to be known well: never more than a warning."""
    DISMISSED = 8
    """Above the cut, but an analyst called this very stretch false or expected."""
    DOUBTED = 9
    """Above the cut, but the series has sudden gaps, and what its remaining samples show is doubted."""
    HELD = 10
    """Above the rule's own cut, and not above the one that votes have raised: like what was called false."""


REFUSED = (Why.DIRECTION, Why.MIN_DEVIATION, Why.HELD)
"""Above the rule's own cut, and of no interest as yet."""

UNOPENED = (Why.NO_NEWS, Why.DOUBTED)
"""Above the cut, and no episode may open by it."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """One slot's verdicts on N series: kind, tier and reason as small integer arrays [N]."""

    kind: I8
    tier: I8
    why: I8

    def counts(self) -> dict[str, int]:
        """Number of series by kind, for the metric that accounts for every slot."""
        return {kind.name.lower(): int((self.kind == kind).sum()) for kind in Kind}


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One slot of one rule: what was seen, what was said of it. All arrays [N] and aligned with ``series``.

    Attributes:
        at: the slot, milliseconds.
        series: row ids of the series in the rule's registry.
        learned: as in ``Scores``; not stored.
        opens: the surprise with which an episode may open (``Scores.page``); not stored. None: ``surprise`` is that.
    """

    learned: I64 | None = field(default=None, kw_only=True)
    opens: F64 | None = field(default=None, kw_only=True)
    at: int
    series: I64
    value: F64
    expected: F64
    lower: F64
    upper: F64
    surprise: F64
    verdicts: Verdicts


def chosen(seen: Observation, places: I64) -> Observation:
    """Only these entries of an observation."""
    names = ("series", "value", "expected", "lower", "upper", "surprise")
    verdicts = Verdicts(*(getattr(seen.verdicts, name)[places] for name in ("kind", "tier", "why")))
    kept = {name: getattr(seen, name)[places] for name in names}
    return replace(
        seen, **kept, verdicts=verdicts, learned=None if seen.learned is None else seen.learned[places],
        opens=None if seen.opens is None else seen.opens[places],
    )  # fmt: skip
