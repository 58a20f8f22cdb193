"""How a recurring time is written in YAML, in settings (mute windows) and rules (windows not to learn from) alike."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from anomalyd.conform import Section
from anomalyd.intervals import DAYS, MONTHS, Interval, Range, parse_named, parse_numbers, parse_times, zone


def _zone(name: str) -> str:
    zone(name)
    return name


class IntervalModel(Section):
    """A recurring time: everything that is given must hold."""

    times: list[str] = Field([], description='Spans of the day such as "22:00-06:00"; 24:00 is the end of the day.')
    weekdays: list[str] = Field([], description='Days such as "saturday" or "monday:friday".')
    days_of_month: list[str] = Field([], description='Days such as "1:5"; "-1" is the last of the month.')
    months: list[str] = Field([], description='Months such as "december" or "1:3".')
    years: list[str] = Field([], description='Years such as "2026" or "2026:2028".')
    location: Annotated[str, AfterValidator(_zone)] = Field("UTC", description="IANA time zone of the wall clock.")

    @model_validator(mode="after")
    def _readable(self) -> IntervalModel:
        self.made()
        return self

    def made(self, timezone: str | None = None) -> Interval:
        """The interval; ``timezone`` holds where no location is given."""
        own = "location" in self.model_fields_set or timezone is None
        return Interval(
            tuple(parse_times(text) for text in self.times),
            tuple(parse_named(text, DAYS, 0) for text in self.weekdays),
            tuple(parse_numbers(text, -31, 31) for text in self.days_of_month),
            tuple(parse_named(text, MONTHS, 1) for text in self.months),
            tuple(parse_numbers(text, 1970, 9999) for text in self.years),
            self.location if own else timezone or "UTC",
        )


def write_interval(interval: Interval) -> dict[str, list[str] | str]:
    """An interval as a user would write it; ``IntervalModel`` reads it back."""
    data: dict[str, list[str] | str] = {}
    if interval.times:
        data["times"] = [f"{_clock(start)}-{_clock(end)}" for start, end in interval.times]
    for key, names, first in (("weekdays", DAYS, 0), ("months", MONTHS, 1)):
        if ranges := getattr(interval, key):
            data[key] = [_range(pair, tuple(names[n - first] for n in pair)) for pair in ranges]
    for key in ("days_of_month", "years"):
        if ranges := getattr(interval, key):
            data[key] = [_range(pair, (str(pair[0]), str(pair[1]))) for pair in ranges]
    return data | {"location": interval.timezone}


def _range(pair: Range, words: tuple[str, ...]) -> str:
    return words[0] if pair[0] == pair[1] else f"{words[0]}:{words[1]}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
