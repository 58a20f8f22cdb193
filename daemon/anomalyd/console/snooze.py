"""Snoozing: peace for the series of an alert, or for an incident, until a time that people pick by name.

"Tomorrow" is nine in the morning of the next day in the rule's own time zone, as whoever is on call counts days.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from anomalyd.ballot import Refused
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.episode import Episode
from anomalyd.incident import Incident
from anomalyd.logs import get_logger
from anomalyd.records import Matcher, Silence
from anomalyd.render import rfc3339
from anomalyd.rule import Rule

MORNING = time(9)

log = get_logger("snooze")


@dataclass(frozen=True, slots=True)
class Snooze:
    """One length to choose: ``id`` in addresses and bodies, ``text`` for people; 0 ms is until tomorrow morning."""

    id: str
    text: str
    ms: int = 0


SNOOZES = (
    Snooze("1h", "1 hour", HOUR_MS),
    Snooze("4h", "4 hours", 4 * HOUR_MS),
    Snooze("tomorrow", "until tomorrow, 09:00"),
    Snooze("1w", "1 week", 7 * DAY_MS),
)
LENGTHS: Mapping[str, Snooze] = {one.id: one for one in SNOOZES}


def snoozed_until(choice: str, now: int, timezone: str) -> int:
    """When a snooze of that length ends, milliseconds; raise ``Refused`` for a length that is not offered."""
    length = LENGTHS.get(choice)
    if length is None:
        raise Refused("bad_vote", f"snooze for one of {', '.join(LENGTHS)}")
    if length.ms:
        return now + length.ms
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        zone = ZoneInfo("UTC")
    tomorrow = datetime.fromtimestamp(now / 1000, UTC).astimezone(zone).date() + timedelta(days=1)
    return int(datetime.combine(tomorrow, MORNING, zone).timestamp() * 1000)


def snooze(
    add: Callable[[Silence], None], of: Incident | Episode, rules: Mapping[str, Rule], choice: str, who: str, now: int
) -> int:
    """Silence one series, or whatever belongs to an incident, also what joins it; return until when.

    Raise ``Refused`` when it is over.

    Args:
        add: keeps a silence.
    """
    if of.closed_at > 0:
        raise Refused("bad_vote", "it is over: there is nothing to snooze; a silence keeps the next one quiet")
    rule = rules.get(of.rule)
    until = snoozed_until(choice, now, rule.timezone if rule else "UTC")
    labels = of.group_labels if isinstance(of, Incident) else of.labels
    matchers = silence_for(dict(labels), rule, of.rule)
    add(Silence(secrets.token_hex(10), matchers, now, until, who, "snoozed", now))
    log.info("snoozed", rule=of.rule, until=rfc3339(until), who=who)
    return until


def silence_for(labels: Mapping[str, str], rule: Rule | None, rule_id: str) -> tuple[Matcher, ...]:
    """Matchers that hold for the alerts of a rule with these labels: of one series, or of a group."""
    taken = {*(rule.labels if rule else {}), "alertname", "group", "tier", "severity"}
    own = {name: value for name, value in labels.items() if name not in taken}
    own |= {"rule": rule_id}
    return tuple(Matcher(name, "=", value) for name, value in sorted(own.items()))
