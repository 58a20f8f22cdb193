"""Recurring exceptions: "expected, Mondays from 06:00" from votes that called an episode expected. Pure.

Within an exception the series' cuts are lifted to what was expected and a margin, not to infinity, so something far
worse at that time still pages. An exception ends unless it is confirmed again, and a series' exceptions together never
cover more than a quarter of the week.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from anomalyd.block import Fingerprint
from anomalyd.clock import MINUTE_MS
from anomalyd.episode import Episode
from anomalyd.intervals import DAY_MINUTES, Interval, zone
from anomalyd.records import Feedback, FeedbackLabel

PAD_MS = 30 * MINUTE_MS
MAX_MS = 12 * 60 * MINUTE_MS
SHARE_MAX = 0.25
"""Share of a week that a series' exceptions may cover together."""
MARGIN = 1.5
"""An exception lifts the cut to this multiple of the score that was expected."""


@dataclass(frozen=True, slots=True)
class Recurring:
    """A time of the week in which a series may be as abnormal as was called expected; ``factor`` lifts its cuts."""

    fingerprint: Fingerprint
    interval: Interval
    factor: float
    until: int
    feedback: str
    minutes: int
    words: str


def recurring(
    votes: Sequence[Feedback],
    episodes: Mapping[str, Episode],
    base: float,
    timezone: str,
    max_factor: float,
    lifetime_ms: int,
) -> tuple[Recurring, ...]:
    """The exceptions that counted ``expected`` votes ask for, newest first, as far as a series' share of the week goes.

    An exception recurs weekly at the episode's time of day in the rule's zone; where three weekdays say so, daily.
    """
    asked = [v for v in votes if v.label == FeedbackLabel.EXPECTED and v.episode in episodes]
    found: list[Recurring] = []
    used: dict[Fingerprint, int] = {}
    for vote in sorted(asked, key=lambda v: -v.at):
        one = _exception(vote, episodes[vote.episode], base, timezone, max_factor, lifetime_ms)
        if one is None:
            continue
        days = {_weekday(episodes[v.episode], timezone) for v in asked if _same_time(v, vote, episodes, timezone)}
        if len(days) >= 3:
            one = _daily(one)
        room = SHARE_MAX * 7 * DAY_MINUTES - used.get(one.fingerprint, 0)
        if any(_covers(other, one) for other in found) or one.minutes > room:
            continue
        used[one.fingerprint] = used.get(one.fingerprint, 0) + one.minutes
        found.append(one)
    return tuple(found)


def _exception(
    vote: Feedback, episode: Episode, base: float, timezone: str, max_factor: float, lifetime_ms: int
) -> Recurring | None:
    start, end = _padded(episode)
    if end - start > MAX_MS:
        return None
    local = datetime.fromtimestamp(start / 1000, zone(timezone))
    first = (local.hour * 60 + local.minute) // 5 * 5
    minutes = -(-(end - start) // (5 * MINUTE_MS)) * 5
    last = (first + minutes - 1) % DAY_MINUTES + 1
    times = ((first, last),) if first != last else ()
    weekday = local.weekday()
    surprise = episode.peak_surprise
    score = surprise / base if math.isfinite(surprise) and base > 0 else 1.0
    factor = min(max(1.0, score) * MARGIN, max_factor)
    words = f"{local:%A}s {_clock(first)} to {_clock(last)} {timezone}"
    interval = Interval(times=times, weekdays=((weekday, weekday),), timezone=timezone)
    return Recurring(episode.fingerprint, interval, factor, vote.at + lifetime_ms, vote.id, minutes, words)


def _padded(episode: Episode) -> tuple[int, int]:
    end = episode.closed_at or episode.seen_at
    return episode.started_at - PAD_MS, max(end, episode.started_at) + PAD_MS


def _weekday(episode: Episode, timezone: str) -> int:
    return datetime.fromtimestamp(_padded(episode)[0] / 1000, zone(timezone)).weekday()


def _same_time(one: Feedback, other: Feedback, episodes: Mapping[str, Episode], timezone: str) -> bool:
    """Whether two episodes of one series fall into the same hour of the day, give or take."""
    a, b = episodes[one.episode], episodes[other.episode]
    minute = [datetime.fromtimestamp(e.started_at / 1000, zone(timezone)) for e in (a, b)]
    apart = abs((minute[0].hour - minute[1].hour) * 60 + minute[0].minute - minute[1].minute)
    return a.fingerprint == b.fingerprint and min(apart, DAY_MINUTES - apart) <= 60


def _daily(one: Recurring) -> Recurring:
    interval = Interval(times=one.interval.times, timezone=one.interval.timezone)
    words = "every day " + one.words.split(" ", 1)[1]
    return Recurring(one.fingerprint, interval, one.factor, one.until, one.feedback, one.minutes * 7, words)


def _covers(other: Recurring, one: Recurring) -> bool:
    """Whether an exception already holds at the middle of another."""
    same = other.fingerprint == one.fingerprint
    daily = not other.interval.weekdays
    return same and other.interval.times == one.interval.times and (daily or other.interval == one.interval)


def _clock(minute: int) -> str:
    return f"{minute // 60 % 24:02}:{minute % 60:02}"
