"""Times of day, week and year in civil time, as Alertmanager's ``time_intervals``. Pure.

An interval names the days and the minutes of the day in one time zone; it recurs for ever. It is asked whether a moment
lies in it by looking at the wall clock there, so nothing has to be computed about changes to summer time: a window from
22:00 to 06:00 ends when the clocks show 06:00, and a skipped or doubled hour neither blocks nor repeats anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
DAY_MINUTES = 1_440

Range = tuple[int, int]
"""First and last, both included."""


@dataclass(frozen=True, slots=True)
class Interval:
    """When something holds. An empty tuple does not restrict.

    Attributes:
        times: minutes of the day, start included and end not; an end before the start runs past midnight.
        weekdays: 0 is Monday.
        days_of_month: 1 to 31, or -1 for the last day and so on.
        dates: days as ``date.toordinal`` counts them; None does not restrict, no day at all never holds.
    """

    times: tuple[Range, ...] = ()
    weekdays: tuple[Range, ...] = ()
    days_of_month: tuple[Range, ...] = ()
    months: tuple[Range, ...] = ()
    years: tuple[Range, ...] = ()
    timezone: str = "UTC"
    dates: frozenset[int] | None = field(default=None, repr=False)

    def holds(self, now: int) -> bool:
        """Whether the moment (milliseconds) lies in the interval. Past midnight it is the day it began that counts."""
        local = datetime.fromtimestamp(now / 1000, zone(self.timezone))
        if not self.times:
            return self._day(local)
        minute = local.hour * 60 + local.minute
        yesterday = local.replace(tzinfo=None) - timedelta(days=1)
        for start, end in self.times:
            if start < end:
                if start <= minute < end and self._day(local):
                    return True
            elif (minute >= start and self._day(local)) or (minute < end and self._day(yesterday)):
                return True
        return False

    def _day(self, day: datetime) -> bool:
        last = ((day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)).day
        return (
            (self.dates is None or day.toordinal() in self.dates)
            and _within(self.weekdays, day.weekday())
            and _within(self.months, day.month)
            and _within(self.years, day.year)
            and (not self.days_of_month or any(_of_month(r, day.day, last) for r in self.days_of_month))
        )


def _within(ranges: tuple[Range, ...], value: int) -> bool:
    return not ranges or any(
        first <= value <= last if first <= last else value >= first or value <= last for first, last in ranges
    )


def _of_month(wanted: Range, day: int, last_day: int) -> bool:
    first, last = (n if n > 0 else last_day + 1 + n for n in wanted)
    return first <= day <= last


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name; raise ``ValueError`` for one that is not known here."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}; use an IANA name such as Europe/Madrid") from None


def parse_times(text: str) -> Range:
    """Read ``22:00-06:00`` as minutes of the day; 24:00 is the end of a day."""
    match = re.fullmatch(r"([0-2][0-9]):([0-5][0-9])\s*-\s*([0-2][0-9]):([0-5][0-9])", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a span of a day; write for example 22:00-06:00")
    start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if start >= DAY_MINUTES or end > DAY_MINUTES or start == end:
        raise ValueError(f"{text!r} is not a span of a day; times go from 00:00 to 24:00 and differ")
    return start, end


def parse_named(text: str, names: Sequence[str], first: int) -> Range:
    """Read ``monday``, ``monday:friday`` or a number or two as positions in ``names``, counted from ``first``."""

    def one(word: str) -> int:
        word = word.strip().lower()
        found = [i for i, name in enumerate(names) if name == word or (len(word) >= 3 and name.startswith(word))]
        if len(found) == 1:
            return first + found[0]
        if word.isascii() and word.isdigit() and first <= int(word) < first + len(names):
            return int(word)
        raise ValueError(f"{word!r} is not one of {', '.join(names)}")

    start, _, end = text.partition(":")
    return one(start), one(end or start)


def parse_numbers(text: str, low: int, high: int) -> Range:
    """Read ``5``, ``1:5`` or ``-3:-1``."""
    match = re.fullmatch(r"\s*(-?[0-9]{1,4})\s*(?::\s*(-?[0-9]{1,4}))?\s*", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a number or a range such as 1:5")
    first, last = int(match[1]), int(match[2] or match[1])
    if not (low <= first <= high and low <= last <= high) or first == 0 or last == 0:
        raise ValueError(f"{text!r}: from {low} to {high}, without 0")
    if (first > 0) == (last > 0) and first > last:
        raise ValueError(f"{text!r} ends before it begins")
    return first, last
