"""Days that count as another day of the week: a holiday on a Wednesday that looks like a Sunday. Pure.

A calendar is resolved to days when it is loaded, so whoever scores needs neither the network nor a library of
holidays, and a task that runs on another machine knows the same days. A day is a civil day of the rule's time zone, or
a span of one; it is moved within its own week (Monday to Sunday), so the time of day stays what the clocks show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from anomalyd.intervals import DAY_MINUTES, DAYS, zone

I64 = npt.NDArray[np.int64]

_MINUTE_MS = 60_000
_DAY_MS = DAY_MINUTES * _MINUTE_MS
_MONDAY = date(1969, 12, 29).toordinal()
"""Civil times are counted from this Monday on: see ``detectors.common.civil_times``."""


@dataclass(frozen=True, slots=True, order=True)
class Day:
    """A special day, or the part of it from one minute of the day to another (not included).

    Attributes:
        ordinal: as ``date.toordinal`` counts days.
        like: the day of the week that it counts as; 0 is Monday.
    """

    ordinal: int
    first: int = 0
    last: int = DAY_MINUTES
    like: int = 6
    name: str = ""

    @property
    def date(self) -> date:
        return date.fromordinal(self.ordinal)

    @property
    def moved(self) -> int:
        """By how many days it is moved; 0 where it counts as what it is anyway."""
        return self.like - self.date.weekday()

    @property
    def whole(self) -> bool:
        """Whether all of the day is special."""
        return (self.first, self.last) == (0, DAY_MINUTES)

    def __str__(self) -> str:
        hours = "" if self.whole else f", {_clock(self.first)} to {_clock(self.last)},"
        name = f": {self.name}" if self.name else ""
        return f"{self.date:%a} {self.date.day} {self.date:%b}{hours} counts as a {DAYS[self.like].capitalize()}{name}"


@dataclass(frozen=True, slots=True)
class Holidays:
    """The special days of a rule.

    Attributes:
        written: what stands in the rule, as JSON: the calendar's name, a country's code, or a mapping.
        digest: of all days; two calendars with the same days are the same to whoever learns. Empty where the calendar
            is one of settings that are not there.
        days: in order of time, none overlaps another.
        file: the rule's own file of days, absolute or as the rules file was named; empty without one.
    """

    written: str
    digest: str
    days: tuple[Day, ...] = field(compare=False, repr=False)
    file: str = field(default="", compare=False)

    @property
    def known(self) -> bool:
        """Whether the days are known, or only the calendar's name."""
        return bool(self.digest)

    def at(self, now: int, timezone: str) -> Day | None:
        """The special day that a moment (milliseconds) lies in and that counts as another day than it is."""
        local = datetime.fromtimestamp(now / 1000, zone(timezone))
        civil = (local.toordinal() - _MONDAY) * _DAY_MS + (local.hour * 60 + local.minute) * _MINUTE_MS
        starts, stops, moves = _table(self)
        place = int(np.searchsorted(starts, civil, side="right")) - 1
        if place < 0 or civil >= stops[place] or not moves[place]:
            return None
        return self.days[place]

    def between(self, start: int, end: int, timezone: str) -> tuple[tuple[int, int, Day], ...]:
        """The special days that touch a span of time (milliseconds), each with its first and last moment."""
        first, last = (datetime.fromtimestamp(ms / 1000, zone(timezone)).toordinal() for ms in (start, end))
        found = [(*_moments(day, timezone), day) for day in self.days if first <= day.ordinal <= last and day.moved]
        return tuple(one for one in found if one[0] <= end and one[1] >= start)


def make_holidays(written: str, days: Iterable[Day]) -> Holidays:
    """Holidays of days in any order; of two that overlap the later one given holds, where it holds."""
    chosen: dict[int, list[Day]] = {}
    for day in days:
        before = chosen.get(day.ordinal, [])
        chosen[day.ordinal] = [part for one in before for part in _without(one, day)] + [day]
    ordered = tuple(sorted(day for several in chosen.values() for day in several))
    # Names are for people: a day that is called otherwise teaches nothing else.
    facts = [(d.ordinal, d.first, d.last, d.like) for d in ordered if d.moved]
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    return Holidays(written, digest, ordered)


def counted(civil: I64, holidays: Holidays | None) -> I64:
    """Civil times [T] with those of special days at the same time of the day that they count as, in the same week.

    ``civil`` is milliseconds since the Monday that ``detectors.common.civil_times`` counts from.
    """
    if holidays is None or not len(civil):
        return civil
    starts, stops, moves = _table(holidays)
    place = np.searchsorted(starts, civil, side="right") - 1
    inside = (place >= 0) & (civil < stops[place])
    result: I64 = civil + np.where(inside, moves[place], 0) * _DAY_MS
    return result


@lru_cache(maxsize=64)
def _table(holidays: Holidays) -> tuple[I64, I64, I64]:
    """First moment, end (civil milliseconds) and move in days of each day; one that never comes where there is none."""
    days = holidays.days or (Day(_MONDAY, 0, 0, 0),)
    rows = [((d.ordinal - _MONDAY) * _DAY_MS, d.first * _MINUTE_MS, d.last * _MINUTE_MS, d.moved) for d in days]
    begins, first, last, moves = np.array(rows, np.int64).T
    return begins + first, begins + last, moves


def _without(day: Day, other: Day) -> list[Day]:
    """What is left of a day beside another one of the same date."""
    parts = []
    for first, last in ((day.first, min(day.last, other.first)), (max(day.first, other.last), day.last)):
        if first < last:
            parts.append(Day(day.ordinal, first, last, day.like, day.name))
    return parts


def _moments(day: Day, timezone: str) -> tuple[int, int]:
    """First and last millisecond of a day."""
    ends = []
    for minute in (day.first, day.last):
        more, rest = divmod(minute, DAY_MINUTES)
        at = datetime.fromordinal(day.ordinal + more).replace(hour=rest // 60, minute=rest % 60, tzinfo=zone(timezone))
        ends.append(int(at.timestamp() * 1000))
    return ends[0], ends[1] - 1


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
