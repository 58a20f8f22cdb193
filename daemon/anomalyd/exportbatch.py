"""From scored slots to the samples that remote write owes for them, and to the marks of series that have ended. Pure.

Each slot is compared with the one before it: a series that had a sample and has none now has ended and gets the mark
that Prometheus knows ends by, so that no graph draws it on. A slot of which nothing is known (the source did not
answer, or in part) owes nothing and ends nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from anomalyd.block import F64, I64, Bool, Labels
from anomalyd.episode import Episode
from anomalyd.records import ScoredSlot
from anomalyd.score import Tier
from anomalyd.scoreseries import EPISODE, THRESHOLD, samples_of

OpenSeries: TypeAlias = tuple[Labels, Tier]
"""An open episode as a series: whose it is, and its tier."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Series of one name: [N] of something, with samples [N, T]; ``stale`` marks ends."""

    name: str
    values: F64
    there: Bool
    stale: Bool

    def take(self, chosen: Bool) -> Family:
        """Only these series."""
        return Family(self.name, self.values[chosen], self.there[chosen], self.stale[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """What a target last knew of a rule: the rows with a sample by name, the open episodes, whether there was a cut."""

    rows: Mapping[str, I64] = field(default_factory=dict)
    open: frozenset[OpenSeries] = frozenset()
    cut: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What some slots of a rule owe.

    Attributes:
        until: the newest of the slots.
        times: of the slots of which something is known [T].
        rows: the rule's rows that ``families`` are about, in order [N].
        episodes: the series that ``opened`` is about.
        opened, threshold: families that have labels of their own.
        after: what the target knows once it has taken this.
    """

    until: int
    times: I64
    rows: I64
    families: tuple[Family, ...]
    episodes: tuple[OpenSeries, ...]
    opened: Family
    threshold: Family
    after: Sent


def batch_of(
    slots: Sequence[ScoredSlot], episodes: Sequence[Episode], before: Sent, wanted: Collection[str]
) -> Batch:
    """What slots, oldest first, owe to a target that wants series of these names.

    ``episodes`` are those that were open at some time in the slots. Of one that is older than its slot only the tier it
    has reached by now is known.
    """
    seen = [slot for slot in slots if slot.seen is not None]
    times = np.array([slot.at for slot in seen], np.int64)
    rows = _all_rows(seen, before)
    columns = [_columns(slot, rows, wanted) for slot in seen]
    families = tuple(_family(name, columns, rows, before) for name in _per_row(wanted))
    open_at = [_open_at(episodes, slot.at) if EPISODE in wanted else frozenset() for slot in seen]
    listed = tuple(sorted(set().union(before.open, *open_at)))
    opened = _of_sets(EPISODE, listed, [before.open, *open_at])
    cuts = np.array([[_cut(slot) if THRESHOLD in wanted else math.nan for slot in seen]])
    threshold = _ends(THRESHOLD, cuts, np.array([before.cut]))
    after = before
    if seen:
        last = {f.name: rows[f.there[:, -1]] for f in families}
        after = Sent(last, open_at[-1], bool(threshold.there[0, -1]))
    return Batch(slots[-1].at, times, rows, families, listed, opened, threshold, after)


def end_of(before: Sent, at: int) -> Batch:
    """The end of everything that a target knows of a rule."""
    rows = _all_rows((), before)
    gone = np.full((len(rows), 1), np.nan)
    families = tuple(_ends(name, gone, np.isin(rows, had)) for name, had in before.rows.items())
    listed = tuple(sorted(before.open))
    opened = _of_sets(EPISODE, listed, [before.open, frozenset()])
    threshold = _ends(THRESHOLD, np.full((1, 1), np.nan), np.array([before.cut]))
    return Batch(at, np.array([at], np.int64), rows, families, listed, opened, threshold, Sent())


def _all_rows(seen: Sequence[ScoredSlot], before: Sent) -> I64:
    parts = [slot.seen.series for slot in seen if slot.seen is not None] + list(before.rows.values())
    if parts and all(part is parts[0] or np.array_equal(part, parts[0]) for part in parts[1:]):
        parts = parts[:1]
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def _columns(slot: ScoredSlot, rows: I64, wanted: Collection[str]) -> dict[str, F64]:
    """The samples of a slot over all rows, by name."""
    assert slot.seen is not None, "only what was seen has samples"
    places = np.searchsorted(rows, slot.seen.series)
    columns = {}
    for name, found in samples_of(slot.seen, slot.cut).items():
        if name in wanted:
            columns[name] = np.full(len(rows), np.nan)
            columns[name][places] = found
    return columns


def _per_row(wanted: Collection[str]) -> list[str]:
    return sorted(name for name in wanted if name not in (EPISODE, THRESHOLD))


def _family(name: str, columns: Sequence[Mapping[str, F64]], rows: I64, before: Sent) -> Family:
    values = np.stack([column[name] for column in columns], axis=1) if columns else np.zeros((len(rows), 0))
    had = before.rows.get(name)
    return _ends(name, values, np.zeros(len(rows), np.bool_) if had is None else np.isin(rows, had))


def _ends(name: str, values: F64, had: Bool) -> Family:
    """A family with the marks of ends; ``had``: which series had a sample before."""
    there = np.isfinite(values)
    earlier = np.concatenate([had[:, None], there], axis=1)[:, :-1]
    return Family(name, values, there, earlier & ~there)


def _of_sets(name: str, listed: Sequence[OpenSeries], sets: Sequence[frozenset[OpenSeries]]) -> Family:
    """A family of ones: which of the listed are in each set; the first set is what was before."""
    there = np.array([[one in group for group in sets] for one in listed], np.bool_).reshape(len(listed), len(sets))
    return _ends(name, np.where(there[:, 1:], 1.0, np.nan), there[:, 0])


def _open_at(episodes: Sequence[Episode], at: int) -> frozenset[OpenSeries]:
    return frozenset(
        (e.labels, e.tier) for e in episodes if 0 < e.opened_at <= at and (e.closed_at == 0 or e.closed_at > at)
    )


def _cut(slot: ScoredSlot) -> float:
    return slot.cut if 0 < slot.cut < math.inf else math.nan


def whole_windows(slots: Sequence[ScoredSlot], length_ms: int) -> Sequence[ScoredSlot]:
    """The slots that are sent next: a window of time that is over, else one slot.

    Windows lie on a grid, so that a batch that is sent once more after a crash holds the same slots as the first time:
    a server that refuses samples older than it has would else refuse newer ones beside them.
    """
    groups = [list(group) for _, group in itertools.groupby(slots, key=lambda slot: slot.at // length_ms)]
    return groups[0] if len(groups) > 1 else slots[:1]
