"""What keeps a rule quiet, in words: silences, mute windows, and the times that it does not learn from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anomalyd.delivery.hush import MuteWindow
from anomalyd.intervals import DAYS, MONTHS, Interval, Range
from anomalyd.matcher import matches
from anomalyd.records import Matcher, Silence
from anomalyd.render import clean, clock_time
from anomalyd.rule import Rule

OFTEN = 20
"""Silences, windows and times that are shown."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that keeps quiet: what it is, in words, and whether it holds now."""

    what: str
    words: str
    now: bool


@dataclass(frozen=True, slots=True)
class Peace:
    """All that applies to a rule; ``whole``: what keeps everything of it quiet at this moment."""

    lines: tuple[Line, ...] = ()
    whole: tuple[str, ...] = ()


def peace_of(rule: Rule, silences: Sequence[Silence], windows: Sequence[MuteWindow], now: int) -> Peace:
    """What applies to a rule; ``silences`` are those that hold or will."""
    known = {**rule.labels, "alertname": rule.name, "rule": rule.id, "group": rule.group}
    lines, whole = [], []
    for silence in silences:
        rest = _rest(silence.matchers, known)
        if rest is None:
            continue
        holds = silence.starts_at <= now < silence.ends_at
        words = f"{_of(rest)} until {clock_time(silence.ends_at, now)}, by {clean(silence.created_by, 60)}"
        words += "" if holds else f"; begins {clock_time(silence.starts_at, now)}"
        words += f": {clean(silence.comment, 120)}" if silence.comment else ""
        lines.append(Line("silence", words, holds))
        if holds and not rest:
            whole.append(f"a silence until {clock_time(silence.ends_at, now)}")
    for window in windows:
        rest = _rest(window.matchers, known)
        if rest is None or (window.receivers and not rule.routed and not {*window.receivers} & {*rule.receivers}):
            continue
        holds = any(one.holds(now) for one in window.intervals)
        to = f", for {', '.join(clean(name, 60) for name in window.receivers)}" if window.receivers else ""
        tiers = ", ".join(tier.word for tier in window.tiers)
        times = "; ".join(interval_words(one) for one in window.intervals)
        lines.append(Line(f"mute window {clean(window.name, 60)}", f"{_of(rest)} ({tiers}{to}): {times}", holds))
        if holds and not rest and (not window.receivers or {*rule.receivers} <= {*window.receivers}):
            whole.append(f"the mute window {clean(window.name, 60)} ({tiers})")
    lines += [Line("dont_learn", interval_words(one), one.holds(now)) for one in rule.dont_learn]
    return Peace(tuple(lines), tuple(whole))


def _rest(matchers: Sequence[Matcher], known: Mapping[str, str]) -> tuple[Matcher, ...] | None:
    """The conditions that depend on the series or the tier; None where the rule meets one of the others not."""
    if not matches([one for one in matchers if one.name in known], known):
        return None
    return tuple(one for one in matchers if one.name not in known)


def _of(rest: Sequence[Matcher]) -> str:
    if not rest:
        return "the whole rule"
    said = ", ".join(f'{clean(one.name, 64)}{one.op}"{clean(one.value, 120)}"' for one in rest[:8])
    return f"what has {said}{', …' if len(rest) > 8 else ''}"


def interval_words(one: Interval) -> str:
    """When it holds: ``22:00 to 06:00, monday to friday (Europe/Madrid)``."""
    parts = [" and ".join(f"{_clock(a)} to {_clock(b)}" for a, b in one.times)] if one.times else []
    parts += [_ranges(one.weekdays, DAYS, 0)] if one.weekdays else []
    parts += [f"day {_ranges(one.days_of_month, (), 0)} of the month"] if one.days_of_month else []
    parts += [_ranges(one.months, MONTHS, 1)] if one.months else []
    parts += [_ranges(one.years, (), 0)] if one.years else []
    parts += [f"{len(one.dates)} days of a calendar"] if one.dates is not None else []
    return f"{', '.join(parts) or 'always'} ({one.timezone})"


def _ranges(ranges: Sequence[Range], names: Sequence[str], first: int) -> str:
    def word(i: int) -> str:
        return names[i - first] if names else str(i)

    return " and ".join(word(a) if a == b else f"{word(a)} to {word(b)}" for a, b in ranges)


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
