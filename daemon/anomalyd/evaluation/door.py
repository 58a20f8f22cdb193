"""``Door``: where new series wait until they have been seen in several slots, so that churn costs no models. Pure.

A batch job's pod, a port, a request id: label sets that live for one slot would each take a row of the registry, a
place in the state and a share of a fit. A series is let in when it was seen in ``admit_after`` slots; what waits costs
two numbers and no labels. Nothing could have been found in it meanwhile, since no detector speaks of a series it has
seen so little of; the one thing that needs no past, a value outside the rule's ``valid_range``, lets it in at once.

Invariant: sightings are counted in order of time, each slot once, so that it makes no difference whether slots come one
by one or many together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from anomalyd.block import F64, I64, Labels
from anomalyd.clock import DAY_MS

FORGET_MS = DAY_MS
"""A series that was not seen for this long begins anew."""

ROOM = 50_000
"""No more series of a rule wait than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """Who waits.

    Attributes:
        seen: number of slots and the newest one in which each was seen, the longest unseen first. The key is the hash
            of its label set: should two ever share one, they are let in a little early.
        at: the newest slot counted; -1 before the first.
    """

    seen: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    at: int = -1


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a rule lets series in: seen in so many slots, or outside the range that is right.

    No more than ``room`` wait; the one that was not seen for longest makes room.
    """

    admit_after: int
    valid_range: tuple[float, float] | None = None
    room: int = ROOM

    def alarming(self, value: float) -> bool:
        """Whether a value is a fault without any past to hold it against."""
        return self.valid_range is not None and not self.valid_range[0] <= value <= self.valid_range[1]


@dataclass(frozen=True, slots=True, eq=False)
class Knocked:
    """The door afterwards, the series that were let in, and the columns counted."""

    door: Door
    admitted: tuple[int, ...]
    columns: int


def knock(
    door: Door, strangers: Sequence[Labels], values: F64, times: I64, terms: Terms, *, stop: bool = False
) -> Knocked:
    """Count what was seen of series that are not known: ``values`` [S, T] at ``times`` [T].

    With ``stop`` counting ends before the column in which the first is let in.
    """
    seen, admitted = dict(door.seen), dict[int, None]()
    keys = [hash(labels) for labels in strangers]
    for column, rows in _sightings(values, times, door.at):
        at = int(times[column])
        rows = [i for i in rows if i not in admitted]
        entering = [i for i in rows if _may_enter(seen.get(keys[i]), at, values[i, column], terms)]
        if stop and entering:
            return Knocked(Door(_trimmed(seen, at), int(times[column - 1]) if column else door.at), (), column)
        for i in rows:
            times_seen, newest = seen.pop(keys[i], (0, at))
            seen[keys[i]] = (1 if at - newest >= FORGET_MS else times_seen + 1, at)
        for i in entering:
            admitted[i] = None
            seen.pop(keys[i], None)
        _make_room(seen, terms.room)
    newest = max(door.at, int(times[-1])) if len(times) else door.at
    return Knocked(Door(_trimmed(seen, newest), newest), tuple(sorted(admitted)), len(times))


def _sightings(values: F64, times: I64, after: int) -> Iterator[tuple[int, list[int]]]:
    """Columns newer than ``after`` in which something was seen, with the rows seen."""
    present = np.isfinite(values)
    for column in np.nonzero(present.any(axis=0) & (times > after))[0].tolist():
        yield column, np.nonzero(present[:, column])[0].tolist()


def _may_enter(known: tuple[int, int] | None, at: int, value: float, terms: Terms) -> bool:
    before = known[0] if known is not None and at - known[1] < FORGET_MS else 0
    return before + 1 >= terms.admit_after or terms.alarming(value)


def _make_room(seen: dict[int, tuple[int, int]], room: int) -> None:
    while len(seen) > room:
        del seen[next(iter(seen))]


def _trimmed(seen: dict[int, tuple[int, int]], at: int) -> dict[int, tuple[int, int]]:
    """Without those that were not seen for long; they stand in front."""
    for key, (_, newest) in list(seen.items()):
        if at - newest < FORGET_MS:
            break
        del seen[key]
    return seen
