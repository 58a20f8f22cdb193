"""Ticks of an axis, where people look for them: civil round times in a time zone, round numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from anomalyd.clock import DAY_MS, MINUTE_MS

MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)
DAYS = (1, 2, 7, 14, 28)
MONTHS = (1, 2, 3, 6, 12, 24, 60)


@dataclass(frozen=True, slots=True)
class Tick:
    """A label on an axis, at a share of its length."""

    at: float
    text: str


def time_ticks(first: int, last: int, zone: str = "UTC", about: int = 7) -> tuple[Tick, ...]:
    """At most ``about`` ticks and a few: minutes and hours counted from midnight, days, Mondays, firsts of months.

    A span that holds no round time, half a minute between two, has its begin.
    """
    length = max(1, last - first)
    there = UTC if zone == "UTC" else ZoneInfo(zone)
    begin, end = (datetime.fromtimestamp(ms / 1000, there).date() for ms in (first, last))
    found = _times(begin, end, length, about)
    ticks = []
    for civil, text in found:
        ms = int(civil.replace(tzinfo=there).timestamp() * 1000)
        skipped = datetime.fromtimestamp(ms / 1000, there).replace(tzinfo=None) != civil
        # A time that the clocks jump over is no tick; a day that begins at one o'clock is.
        if first <= ms <= last and not (skipped and civil.time() != time()):
            ticks.append(Tick((ms - first) / length, text))
    begins = datetime.fromtimestamp(first / 1000, there)
    return tuple(ticks) or (Tick(0.0, f"{begins:%H:%M}" if length < DAY_MS else _day(begins.date())),)


def _times(begin: date, end: date, length: int, about: int) -> Iterator[tuple[datetime, str]]:
    minutes = next((m for m in MINUTES if length / (m * MINUTE_MS) <= about), None)
    days = next((d for d in DAYS if length / (d * DAY_MS) <= about), None)
    if minutes is not None:
        return _of_day(begin, end, minutes)
    if days is not None:
        return _of_days(begin, end, days)
    return _of_months(begin, end, next((m for m in MONTHS if length / (30 * m * DAY_MS) <= about), MONTHS[-1]))


def _of_day(begin: date, end: date, step: int) -> Iterator[tuple[datetime, str]]:
    for day in _dates(begin, end):
        for minute in range(0, 24 * 60, step):
            civil = datetime.combine(day, time(minute // 60, minute % 60))
            yield civil, f"{civil:%H:%M}" if minute else _day(day)


def _of_days(begin: date, end: date, step: int) -> Iterator[tuple[datetime, str]]:
    for day in _dates(begin, end):
        if (day.toordinal() - 1) % step == 0:  # the first day of the calendar was a Monday
            yield datetime.combine(day, time()), _day(day)


def _of_months(begin: date, end: date, step: int) -> Iterator[tuple[datetime, str]]:
    for day in _dates(begin, end):
        if day.day == 1 and (12 * day.year + day.month - 1) % step == 0:
            yield datetime.combine(day, time()), f"{day:%b %Y}" if day.month == 1 else f"{day:%b}"


def _dates(begin: date, end: date) -> Iterator[date]:
    return (begin + timedelta(days) for days in range((end - begin).days + 1))


def _day(day: date) -> str:
    return f"{day.day} {day:%b}"


def round_numbers(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two, at most so many and one."""
    step = 10 ** math.floor(math.log10(max((high - low) / about, 1e-300)))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= about)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]
