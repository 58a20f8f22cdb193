"""Durations and budgets as users write them: "5m", "1h30m", "2 per week per rule".

Prometheus's grammar: whole numbers with the units y w d h m s ms, largest first, each at most once; a year is 365 days,
a week 7, a day 24 hours. Inside the daemon a duration is int milliseconds. Points in time are read here too.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, WEEK_MS
from anomalyd.rule import Budget

YEAR_MS = 365 * DAY_MS
MAX_DURATION_MS = 100 * YEAR_MS

_UNITS = (
    ("y", YEAR_MS), ("w", WEEK_MS), ("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS), ("ms", 1),
)  # fmt: skip
DURATION_PATTERN = "^(0|(?=.)" + "".join(f"([0-9]+{unit})?" for unit, _ in _UNITS) + ")$"
_DURATION = re.compile("^" + "".join(f"(?:([0-9]{{1,12}}){unit})?" for unit, _ in _UNITS) + r"\Z")
_FRACTION = re.compile(r"([0-9]{1,9}\.[0-9]{1,9})(ms|y|w|d|h|m|s)\Z")

_PERIODS = {
    "hour": HOUR_MS,
    "day": DAY_MS,
    "week": WEEK_MS,
    "month": 30 * DAY_MS,
    "quarter": 13 * WEEK_MS,
    "year": YEAR_MS,
}
BUDGET_PATTERN = r"^[0-9]+(\.[0-9]+)? per ([a-z]+|[0-9][0-9a-z]*)( per (series|rule))?$"
_BUDGET = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s+per\s+([a-z]+|[0-9][0-9a-z]*)(?:\s+per\s+([a-z]+))?\Z")
BUDGET_HELP = 'write for example "2 per week", "1 per month" or "1 per week per rule"'


def parse_duration(text: str) -> int:
    """Return the milliseconds of a Prometheus duration ("0" is allowed); raise ``ValueError`` with advice."""
    if text == "0":
        return 0
    match = _DURATION.match(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration; {_duration_help(text)}")
    total = sum(int(number) * unit for number, (_, unit) in zip(match.groups(), _UNITS, strict=True) if number)
    if total > MAX_DURATION_MS:
        raise ValueError(f"{text!r} is longer than 100 years")
    return total


def read_time(text: str) -> int:
    """Milliseconds of an RFC 3339 time (UTC where it names no zone), seconds or milliseconds; ``ValueError``."""
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            raise ValueError(f"{text!r} is not a time; write 2026-01-31T12:00:00Z, or seconds") from None
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    if not 0 <= number < 1e14:
        raise ValueError(f"{text!r} is not a time")
    return int(number if number > 1e11 else number * 1000)


def format_duration(ms: int) -> str:
    """Write milliseconds as Prometheus does; ``parse_duration`` reads it back exactly."""
    if ms == 0:
        return "0s"
    parts = []
    for unit, size in _UNITS:
        # Years and weeks are written only when nothing remains: 10 days are "10d" and not "1w3d".
        if unit in ("y", "w") and ms % size:
            continue
        if count := ms // size:
            parts.append(f"{count}{unit}")
            ms %= size
    return "".join(parts)


def _duration_help(text: str) -> str:
    if text.isascii() and text.isdigit():
        return f"it has no unit: write {text}s, {text}m, {text}h or {text}d"
    if match := _FRACTION.match(text):
        exact = float(match[1]) * dict(_UNITS)[match[2]]
        if exact == int(exact) and 0 < exact <= MAX_DURATION_MS:
            return f"durations have no fractions: write {format_duration(int(exact))}"
    return "write for example 30s, 5m, 1h30m, 14d"


def parse_budget(text: str) -> Budget:
    """Read a budget of false alarms; a month is 30 days, a quarter 13 weeks. Raise ``ValueError`` with advice."""
    match = _BUDGET.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a budget; {BUDGET_HELP}")
    count, period, per = float(match[1]), match[2], match[3] or "series"
    period_ms = _PERIODS.get(period.removesuffix("s"))
    if period_ms is None:
        if not period[0].isdigit():
            raise ValueError(f"{period!r} is not a period; use {', '.join(_PERIODS)} or a duration such as 3d")
        period_ms = parse_duration(period)
    if count <= 0 or period_ms <= 0:
        raise ValueError(f"{text!r} allows nothing; a tier that never begins is left out instead")
    if per not in ("series", "rule"):
        raise ValueError(f"a budget is per series or per rule, not per {per!r}")
    of: Literal["series", "rule"] = "rule" if per == "rule" else "series"
    return Budget(count, period_ms, of)


def format_budget(budget: Budget) -> str:
    """Write a budget so that ``parse_budget`` reads it back."""
    words = {ms: word for word, ms in _PERIODS.items()}
    period = words.get(budget.period_ms) or format_duration(budget.period_ms)
    count = f"{budget.count:.9f}".rstrip("0").rstrip(".")
    return f"{count} per {period}" + (" per rule" if budget.per == "rule" else "")
