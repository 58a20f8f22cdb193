"""Calendars of holidays: how they are written in settings and rules, and the days that they mean.

A country's days come from the package ``holidays``, imported only when a calendar names a country or a market. They
are resolved once, when the file is read, for all years from ``FIRST_YEAR`` to ``LAST_YEAR``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from anomalyd.conform import Section
from anomalyd.holiday import Day, Holidays, make_holidays
from anomalyd.intervals import DAY_MINUTES, DAYS, parse_named, parse_times
from anomalyd.yamlfile import did_you_mean

FIRST_YEAR, LAST_YEAR = 2000, 2050
SUNDAY = 6
MAX_BYTES = 1 << 20
_DAY = re.compile(
    r"(?P<date>(?:[0-9]{4}-)?[0-9]{2}-[0-9]{2})"
    r"(?:\s+(?P<times>[0-9]{2}:[0-9]{2}\s*-\s*[0-9]{2}:[0-9]{2}))?(?:\s+(?P<name>\S.*))?\Z"
)
_CODE = re.compile(r"(?P<country>[A-Za-z]{2,3})(?:-(?P<part>[A-Za-z0-9]{1,4}))?\Z")


class CalendarError(Exception):
    """What is wrong with a calendar: where within it, what, and the remedy."""

    def __init__(self, message: str, hint: str = "", loc: tuple[str | int, ...] = ()) -> None:
        super().__init__(message, hint, loc)
        self.message, self.hint, self.loc = message, hint, loc


def _weekday(text: Any) -> Any:
    if text is None or (isinstance(text, int) and not isinstance(text, bool) and 0 <= text < len(DAYS)):
        return text
    first, last = parse_named(text, DAYS, 0) if isinstance(text, str) else (0, 1)
    if first != last:
        raise ValueError(f"must be a day of the week: {', '.join(DAYS)}")
    return first


Weekday: TypeAlias = Annotated[int | None, BeforeValidator(_weekday), WithJsonSchema({"enum": list(DAYS)})]


class DayModel(Section):
    """A day of a calendar."""

    date: str = Field(description='"2026-11-27", or "12-24" for each year.')
    times: str = Field("", description='The part of the day that is special, such as "14:00-24:00"; else all of it.')
    name: str = Field("", max_length=100, description="What it is called in explanations and reports.")
    like: Weekday = Field(None, description="The day of the week that it counts as; by default as the calendar says.")

    @model_validator(mode="after")
    def _readable(self) -> DayModel:
        self.days(SUNDAY)
        return self

    def days(self, like: int) -> tuple[Day, ...]:
        """The days that it means, counting as ``like`` unless it says otherwise."""
        first, last = parse_times(self.times) if self.times else (0, DAY_MINUTES)
        if first >= last:
            raise ValueError(f"{self.times!r} goes past midnight; write the next day's part as a day of its own")
        own = like if self.like is None else self.like
        return tuple(Day(one.toordinal(), first, last, own, self.name.strip()) for one in _dates(self.date))


def parse_day(text: str) -> DayModel:
    """Read ``2026-11-27``, ``12-24 14:00-24:00`` or ``11-27 Summer party``; raise ``ValueError``."""
    match = _DAY.match(text.strip())
    if match is None:
        raise ValueError(f'{text[:60]!r} is no day; write for example "2026-11-27", "12-24" or "12-24 14:00-24:00 Eve"')
    _dates(match["date"])
    return DayModel(date=match["date"], times=match["times"] or "", name=(match["name"] or "")[:100])


def _day(value: Any) -> Any:
    return parse_day(value) if isinstance(value, str) else value


DayField: TypeAlias = Annotated[DayModel, BeforeValidator(_day, json_schema_input_type=str | DayModel)]


class CalendarModel(Section):
    """Days that count as another day of the week."""

    country: str = Field("", description="ISO 3166 code of a country, such as DE, or with its part: DE-BY.")
    subdivision: str = Field("", description="Part of the country, such as BY, where holidays differ.")
    market: str = Field("", description="Code of a stock exchange (ISO 10383), such as XNYS, instead of a country.")
    categories: list[str] = Field([], description="Kinds of the country's days; public ones by default.")
    without: list[str] = Field([], description='Days of the country that are none here: names, or dates ("12-08").')
    days: list[DayField] = Field(
        [], description='Days of your own: "2026-11-27", "12-24", "12-24 14:00-24:00 Eve", or mappings.'
    )
    days_file: str = Field("", description="A file with a day on each line; # begins a comment; relative to this file.")
    like: Weekday = Field(None, description="The day of the week they count as; else the last day of the weekend.")

    @model_validator(mode="after")
    def _some(self) -> CalendarModel:
        if self.country and self.market:
            raise ValueError("country and market exclude each other: make two calendars")
        if not (self.country or self.market or self.days or self.days_file):
            raise ValueError("needs at least one of country, market, days and days_file")
        for key in ("subdivision", "categories", "without"):
            if getattr(self, key) and not (self.country or self.market):
                raise ValueError(f"{key} needs a country")
        return self


def _reference(value: Any) -> Any:
    if isinstance(value, str):
        if not value.strip() or not value.isprintable() or len(value) > 100:
            raise ValueError("must be the name of a calendar of the settings, or a country's code such as DE-BY")
        return value
    if isinstance(value, Mapping):
        return CalendarModel.model_validate(value)
    if isinstance(value, CalendarModel):
        return value
    raise ValueError("must be the name of a calendar of the settings, a country's code such as DE-BY, or a mapping")


CalendarField: TypeAlias = Annotated[
    str | CalendarModel, BeforeValidator(_reference, json_schema_input_type=str | CalendarModel)
]


def referred(
    value: str | CalendarModel, calendars: Mapping[str, Holidays] | None, folder: Path
) -> Holidays:
    """The days that a rule's ``holidays`` mean; raise ``CalendarError``.

    Without the settings (``calendars`` is None) a name that is no country's is taken for one of theirs: the days are
    not known then (``Holidays.known``).
    """
    if isinstance(value, CalendarModel):
        written = value.model_dump(mode="json", exclude_defaults=True)
        found = resolve(value, json.dumps(_named_days(written), sort_keys=True), folder)
        return replace(found, file=str(folder / value.days_file)) if value.days_file else found
    written_name = json.dumps(value)
    if calendars is not None and value in calendars:
        known = calendars[value]
        return Holidays(written_name, known.digest, known.days)
    if _CODE.match(value):
        try:
            return resolve(CalendarModel(country=value), written_name, folder)
        except CalendarError as error:
            if calendars is None and error.loc == ("country",):
                return Holidays(written_name, "", ())
            names = [*(calendars or ()), *_countries()]
            raise CalendarError(error.message, error.hint or did_you_mean(value, names)) from None
    if calendars is None:
        return Holidays(written_name, "", ())
    near = did_you_mean(value, calendars)
    hint = near if near.startswith("did you mean") else _country_hint(value) or near
    remedy = "name one under calendars: in the settings, or write a country's code such as DE-BY"
    raise CalendarError(f"unknown calendar {value!r}", hint or remedy)


def _named_days(written: dict[str, Any]) -> dict[str, Any]:
    """Weekdays as they are written."""
    for part in (written, *written.get("days", ())):
        if isinstance(part.get("like"), int):
            part["like"] = DAYS[part["like"]]
    return written


def resolve(model: CalendarModel, written: str, folder: Path) -> Holidays:
    """All days of a calendar; raise ``CalendarError``. ``days_file`` is relative to ``folder``."""
    given: list[Day] = []
    like = SUNDAY if model.like is None else model.like
    if model.country or model.market:
        found = _official(model)
        like = found.like if model.like is None else model.like
        given += [Day(d.toordinal(), like=like, name=name) for d, name in _kept(model, found)]
    given += _from_file(folder / model.days_file, like) if model.days_file else ()
    given += [day for one in model.days for day in one.days(like)]
    return make_holidays(written, given)


def _kept(model: CalendarModel, found: _Official) -> Iterator[tuple[date, str]]:
    """The country's days but those that the calendar goes without."""
    names = {part.lower(): part for _, name in found.days for part in name.split("; ")}
    days: set[int] = set()
    dropped: set[str] = set()
    for i, text in enumerate(model.without):
        if re.match(r"[0-9]", text):
            days |= _ordinals(text, i)
        elif text.lower() in names:
            dropped.add(text.lower())
        else:
            raise CalendarError(f"{text!r} is none of its days", did_you_mean(text, names.values()), ("without", i))
    for day, name in found.days:
        if day.toordinal() not in days and not all(part.lower() in dropped for part in name.split("; ")):
            yield day, name


def _ordinals(text: str, i: int) -> set[int]:
    try:
        return {one.toordinal() for one in _dates(text)}
    except ValueError as error:
        raise CalendarError(str(error), "", ("without", i)) from None


def _dates(text: str) -> tuple[date, ...]:
    """The dates that ``2026-11-27`` or ``12-24`` mean."""
    parts = text.split("-")
    try:
        numbers = [int(part) for part in parts]
        if len(parts) == 3 and len(parts[0]) == 4:
            return (date(*numbers),)
        if len(parts) == 2:
            date(2000, *numbers)  # a leap year: it knows all days
            years = range(FIRST_YEAR, LAST_YEAR + 1)
            leap = [year for year in years if year % 4 == 0 and (year % 100 or year % 400 == 0)]
            return tuple(date(year, *numbers) for year in (leap if numbers == [2, 29] else years))
    except ValueError:
        pass
    raise ValueError(f'{text[:40]!r} is no date; write "2026-11-27", or "12-24" for each year')


def _from_file(path: Path, like: int) -> list[Day]:
    """The days of a file, one on each line."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise CalendarError(f"{path}: {error.strerror or error}", "", ("days_file",)) from None
    except UnicodeDecodeError:
        raise CalendarError(f"{path}: is not UTF-8 text", "", ("days_file",)) from None
    if len(data) > MAX_BYTES:
        raise CalendarError(f"{path}: is larger than {MAX_BYTES >> 20} MiB", "", ("days_file",))
    days: list[Day] = []
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.partition("#")[0].strip():
            try:
                days += parse_day(words).days(like)
            except ValueError as error:
                raise CalendarError(f"{path}:{number}: {_first_words(error)}", "", ("days_file",)) from None
    return days


def _first_words(error: ValueError) -> str:
    """What a validator said, without pydantic's frame."""
    details = getattr(error, "errors", None)
    return str(details()[0]["msg"]).removeprefix("Value error, ") if callable(details) else str(error)


@dataclass(frozen=True, slots=True)
class _Official:
    """What the package knows of a country: its days, and the last day of its weekend."""

    days: tuple[tuple[date, str], ...]
    like: int


def _official(model: CalendarModel) -> _Official:
    code, part = model.country or model.market, model.subdivision
    match = _CODE.match(model.country)
    if match and match["part"] and not part:
        code, part = match["country"], match["part"]
    if model.country and code.upper() not in _countries():
        hint = _country_hint(code) or did_you_mean(code.upper(), _countries())
        raise CalendarError(f"unknown country {code!r}", hint or "write its ISO 3166 code, such as DE", ("country",))
    if model.market and code.upper() not in _markets():
        raise CalendarError(f"unknown market {code!r}", did_you_mean(code.upper(), _markets()), ("market",))
    return _days_of(code.upper(), part, tuple(sorted(set(model.categories))), bool(model.market))


@lru_cache(maxsize=64)
def _days_of(code: str, part: str, categories: tuple[str, ...], market: bool) -> _Official:
    """Ask the package. Its warnings are about years that it does not know: there are then no days in them."""
    import holidays

    make = holidays.financial_holidays if market else holidays.country_holidays
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = make(code)
        parts = {one.upper(): one for one in (*bare.subdivisions, *bare.subdivisions_aliases)}
        if part and part.upper() not in parts:
            hint = did_you_mean(part.upper(), parts) or f"its parts are {', '.join(bare.subdivisions) or 'none'}"
            raise CalendarError(f"{code} has no part {part!r}", hint, ("subdivision",))
        for i, one in enumerate(categories):
            if one not in bare.supported_categories:
                hint = did_you_mean(one, bare.supported_categories)
                raise CalendarError(f"{code} has no days of the kind {one!r}", hint, ("categories", i))
        english = "en_US" if "en_US" in bare.supported_languages else None
        known = make(
            code, subdiv=parts[part.upper()] if part else None, years=range(FIRST_YEAR, LAST_YEAR + 1),
            categories=categories or None, language=english,
        )  # fmt: skip
    weekend = bare.weekend
    like = SUNDAY if SUNDAY in weekend or not weekend else max(weekend)
    return _Official(tuple(sorted(known.items())), like)


@lru_cache(maxsize=1)
def _countries() -> tuple[str, ...]:
    import holidays

    return tuple(holidays.list_supported_countries())


@lru_cache(maxsize=1)
def _markets() -> tuple[str, ...]:
    import holidays

    return tuple(holidays.list_supported_financial())


def _country_hint(word: str) -> str:
    """Of a country's name the code."""
    from holidays.registry import COUNTRIES

    codes = {key.replace("_", " "): codes[1] for key, codes in COUNTRIES.items()}
    near = did_you_mean(word.lower(), codes)
    name = next((name for name in codes if repr(name) in near), None)
    return f"did you mean {codes[name]!r} ({name.title()})?" if name is not None else ""
