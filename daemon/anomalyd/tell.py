"""From what happened to episodes to what is owed to receivers: incidents, statements, outbox rows. Pure.

An incident is told when it opens, when its tier rises or an episode surges, when further series join and when its last
episode closes. What is sent, held back or merged is decided at delivery; here everything that is true is written down.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from anomalyd.block import Labels
from anomalyd.episode import Episode, Event, Phase
from anomalyd.incident import (
    MAX_ALERTS,
    Alert,
    Channel,
    Incident,
    Notification,
    Reason,
    Statement,
    group_of,
    incident_key,
)
from anomalyd.rule import Rule
from anomalyd.score import Tier

Annotate = Callable[[Rule, Alert], Mapping[str, str]]
"""Renders a rule's annotations for the alert that leads a statement."""

Recipients = Callable[[Rule, Incident], Sequence[str]]
"""Who is told of an incident, given the tier it has reached."""


Siblings = Callable[[Labels], int]
"""How many series of the rule share the values of a group's labels; 0 where that is not known."""

Channels = Callable[[Labels], tuple[tuple[Channel, ...], int]]
"""Of a group that is judged as a whole: its series that are furthest from usual, and how many it has."""

MIN_SPREAD = 2
"""One series alone is no spread, however few there are."""


def named_receivers(rule: Rule, incident: Incident) -> Sequence[str]:
    """The receivers that the rule itself names."""
    return rule.receivers


@dataclass(frozen=True, slots=True)
class Happened:
    """What one slot did to one episode."""

    episode: Episode
    event: Event


@dataclass(frozen=True, slots=True)
class Told:
    """What follows from a slot's events.

    Attributes:
        episodes: the changed episodes, now with their incident.
        incidents: the changed incidents.
        open_incidents: incidents that are open after the slot, by key.
        outbox: one row a statement and receiver.
    """

    episodes: tuple[Episode, ...]
    incidents: tuple[Incident, ...]
    open_incidents: Mapping[str, Incident]
    outbox: tuple[Notification, ...]


def tell(
    rule: Rule,
    at: int,
    happened: Sequence[Happened],
    live: Iterable[Episode],
    incidents: Mapping[str, Incident],
    cut_of: Callable[[Episode], float],
    annotate: Annotate,
    links: Mapping[str, str],
    recipients: Recipients = named_receivers,
    siblings: Siblings = lambda labels: 0,
    channels: Channels = lambda labels: ((), 0),
) -> Told:
    """Bring incidents up to date with what happened in slot ``at`` and write the statements.

    Args:
        live: the rule's live episodes after the slot.
        incidents: the rule's open incidents before it, by key.
        cut_of: the lowest cut for an episode's series, the unit of its anomaly score.
        links: name to URL, shown with every statement.
        siblings: what an incident's spread is measured against.
        channels: the series of a group that is judged as a whole.
    """
    book = _Book(rule, at, dict(incidents))
    for what in happened:
        book.enter(what)
    members: dict[str, list[Episode]] = {}
    for episode in live:
        if episode.phase == Phase.OPEN:
            known = book.episodes.get(episode.id, episode)
            members.setdefault(known.incident, []).append(known)
    statements: list[tuple[Statement, Sequence[str]]] = []
    for key in list(book.changed):
        still = members.get(book.changed[key].id, [])
        counted = siblings(book.changed[key].group_labels)
        if not book.settle(key, len(still), counted):
            continue
        incident = book.changed[key]
        alerts = [_with_channels(a, channels) for a in _alerts(still or book.closed_of(incident), cut_of)]
        statement = _statement(rule, incident, book.reasons[key], at, alerts, annotate, links)
        statements.append((replace(statement, siblings=counted), recipients(rule, incident)))
    outbox = tuple(
        Notification(notification_id(s, receiver), receiver, s, at)
        for s, receivers in statements
        if rule.mode == "live"
        for receiver in receivers
    )
    return Told(tuple(book.episodes.values()), tuple(book.changed.values()), book.opened, outbox)


@dataclass(slots=True)
class _Book:
    """Incidents while one slot's events are entered: open ones by key, changed ones, and why each is told."""

    rule: Rule
    at: int
    opened: dict[str, Incident]
    changed: dict[str, Incident] = field(default_factory=dict)
    reasons: dict[str, Reason] = field(default_factory=dict)
    episodes: dict[str, Episode] = field(default_factory=dict)

    def enter(self, what: Happened) -> None:
        """Enter one event: its episode joins its incident, a new one if none is open."""
        episode = what.episode
        if what.event in (Event.OPENED, Event.WORSENED, Event.SURGED, Event.CLOSED):
            key, group_labels = incident_key(self.rule, episode.labels)
            incident = self.opened.get(key)
            if incident is None:
                incident = Incident(_incident_id(key, self.at), key, self.rule.id, group_labels, Tier.NONE, self.at)
                self.reasons[key] = Reason.NEW
            if what.event == Event.OPENED:
                incident = replace(incident, episodes=incident.episodes + 1)
                self.reasons.setdefault(key, Reason.MORE)
            self.opened[key] = self.changed[key] = incident
            self._raise(key, episode.tier)
            if what.event == Event.SURGED:
                self.reasons.setdefault(key, Reason.WORSE)
            episode = replace(episode, incident=incident.id)
        self.episodes[episode.id] = episode

    def settle(self, key: str, members: int, siblings: int) -> bool:
        """Close an incident without open episodes, lift one that has spread; return whether it is to be told."""
        if not members:
            self.changed[key] = replace(self.changed[key], closed_at=self.at)
            del self.opened[key]
            if self.reasons.get(key) == Reason.NEW:
                return False  # opened and closed within one catch-up: nobody was told, so nobody is told
            self.reasons[key] = Reason.RESOLVED
        else:
            self._raise(key, spread_tier(self.rule, members, siblings))
        return key in self.reasons

    def closed_of(self, incident: Incident) -> list[Episode]:
        """The episodes of an incident that this slot closed."""
        return [e for e in self.episodes.values() if e.incident == incident.id and e.phase == Phase.CLOSED]

    def _raise(self, key: str, tier: Tier) -> None:
        if tier > self.changed[key].tier:
            if self.reasons.get(key) != Reason.NEW:
                self.reasons[key] = Reason.WORSE
            self.opened[key] = self.changed[key] = replace(self.changed[key], tier=tier)


def count_siblings(rule: Rule, total: int, series: Callable[[], Iterable[Labels]]) -> Siblings:
    """Counts the rule's ``total`` series by group, all at once and only when it is asked."""
    counts: Counter[Labels] = Counter()

    def siblings(group: Labels) -> int:
        if not counts:
            counts.update(group_of(rule, labels) for labels in series())
        return counts[group]

    return siblings if rule.group_by else lambda group: total


def spread_tier(rule: Rule, members: int, siblings: int) -> Tier:
    """The highest tier that begins by spread when ``members`` of ``siblings`` series are in open episodes."""
    if members < MIN_SPREAD or siblings <= 0:
        return Tier.NONE
    share = members / siblings
    return max((p.tier for p in rule.tiers if p.spread is not None and share >= p.spread), default=Tier.NONE)


def alert_of(episode: Episode, cut: float) -> Alert:
    """The alert that a reader sees for an episode; numbers that are not finite become None."""
    closed = episode.phase == Phase.CLOSED
    return Alert(
        episode=episode.id,
        fingerprint=episode.fingerprint,
        labels=episode.labels,
        tier=episode.tier,
        status="resolved" if closed else "firing",
        why=episode.why.name.lower(),
        value=_finite(episode.value),
        expected=_finite(episode.expected),
        lower=_finite(episode.lower),
        upper=_finite(episode.upper),
        surprise=_finite(episode.surprise),
        anomaly_score=_finite(episode.surprise / cut) if 0 < cut < math.inf else None,
        started_at=episode.started_at,
        opened_at=episode.opened_at,
        closed_at=episode.closed_at,
        close=episode.close.value if episode.close else "",
        learned_ms=episode.learned_ms,
    )


def _alerts(episodes: list[Episode], cut_of: Callable[[Episode], float]) -> list[Alert]:
    ranked = sorted(episodes, key=lambda e: (-e.tier, -_number(e.peak_surprise), e.started_at, e.fingerprint))
    return [alert_of(episode, cut_of(episode)) for episode in ranked]


def _with_channels(alert: Alert, channels: Channels) -> Alert:
    found, width = channels(alert.labels)
    return replace(alert, channels=found, width=width) if width else alert


def _statement(
    rule: Rule, incident: Incident, reason: Reason, at: int, alerts: list[Alert], annotate: Annotate,
    links: Mapping[str, str],
) -> Statement:  # fmt: skip
    return Statement(
        incident=incident.id,
        key=incident.key,
        rule=rule.id,
        group=rule.group,
        name=rule.name,
        expr=rule.expr,
        detector=rule.detector.type,
        reason=reason,
        tier=incident.tier,
        at=at,
        opened_at=incident.opened_at,
        group_labels=incident.group_labels,
        labels=dict(rule.labels),
        annotations=annotate(rule, alerts[0]) if alerts else dict(rule.annotations),
        alerts=tuple(alerts[:MAX_ALERTS]),
        total=len(alerts),
        links=links,
        suppress_ms=rule.suppress_ms,
    )


def common_labels(alerts: Sequence[Alert]) -> Labels:
    """The label pairs that all alerts share."""
    if not alerts:
        return ()
    shared = set(alerts[0].labels).intersection(*(set(alert.labels) for alert in alerts[1:]))
    return tuple(sorted(shared))


def episode_id(rule: str, fingerprint: str, started_at: int) -> str:
    """Stable: the same span of the same series has the same id however often it is evaluated."""
    return hashlib.blake2b(f"{rule}\0{fingerprint}\0{started_at}".encode(), digest_size=10).hexdigest()


def _incident_id(key: str, at: int) -> str:
    return hashlib.blake2b(f"{key}\0{at}".encode(), digest_size=10).hexdigest()


def notification_id(statement: Statement, receiver: str) -> str:
    """Stable: the same statement to the same receiver is owed once however often it is written."""
    parts = f"{statement.incident}\0{statement.reason}\0{statement.at}\0{receiver}"
    return hashlib.blake2b(parts.encode(), digest_size=12).hexdigest()


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0
