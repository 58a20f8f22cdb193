"""The stages of people's wishes: silences, mute windows, inhibition, tiers that a receiver does not want. Pure.

Each makes a ``Stage`` from what it needs to know. What they keep quiet is held, not lost: when the silence ends or the
inhibiting incident closes, what is still true is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anomalyd.incident import Incident, Statement
from anomalyd.intervals import Interval
from anomalyd.matcher import labels_for_matching, matches, silence_of, statement_labels
from anomalyd.records import Matcher, Silence
from anomalyd.score import Tier
from anomalyd.suppress import RECHECK_MS, Drop, Hold, Stage, Subject

SILENCED = "silenced"
MUTED = "muted"
INHIBITED = "inhibited"
BELOW_TIER = "below_tier"


def silenced(silences: Callable[[int], Sequence[Silence]]) -> Stage:
    """Hold a statement all of whose alerts are silenced; ``silences`` gives those known at a time."""

    def stage(subject: Subject) -> Hold | None:
        found = silence_of(subject.statement, silences(subject.now), subject.now)
        return Hold(SILENCED, found.ends_at) if found else None

    return stage


@dataclass(frozen=True, slots=True)
class MuteWindow:
    """A time in which some notifications are not wanted.

    Attributes:
        matchers: about which incidents; all of them without any.
        receivers: which receivers; all of them without any.
        tiers: an emergency passes unless it is named.
    """

    name: str
    intervals: tuple[Interval, ...]
    matchers: tuple[Matcher, ...] = ()
    receivers: tuple[str, ...] = ()
    tiers: tuple[Tier, ...] = (Tier.WARNING, Tier.CRITICAL)

    def mutes(self, s: Statement, receiver: str, now: int) -> bool:
        return (
            s.tier in self.tiers
            and (not self.receivers or receiver in self.receivers)
            and matches(self.matchers, statement_labels(s))
            and any(interval.holds(now) for interval in self.intervals)
        )


def muted(windows: Sequence[MuteWindow]) -> Stage:
    """Hold what a mute window does not want now."""

    def stage(subject: Subject) -> Hold | None:
        hit = any(w.mutes(subject.statement, subject.receiver, subject.now) for w in windows)
        return Hold(MUTED, subject.now + RECHECK_MS) if hit else None

    return stage


@dataclass(frozen=True, slots=True)
class InhibitRule:
    """While an alert meets ``source``, those that meet ``target`` and agree in the ``equal`` labels stay quiet."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Firing:
    """An open incident as inhibition sees it."""

    incident: str
    labels: Mapping[str, str]
    opened_at: int = 0
    tier: Tier = Tier.NONE


def firing_of(incident: Incident, rule_labels: Mapping[str, str]) -> Firing:
    """How an open incident inhibits others: by its rule's labels, its group's and its tier."""
    group, _, name = incident.rule.partition("/")
    labels = {
        **dict(incident.group_labels), **rule_labels, "alertname": name, "rule": incident.rule, "group": group,
        "tier": incident.tier.word, "severity": rule_labels.get("severity", incident.tier.word),
    }  # fmt: skip
    return Firing(incident.id, labels, incident.opened_at, incident.tier)


def inhibited(rules: Sequence[InhibitRule], firing: Callable[[int], Sequence[Firing]]) -> Stage:
    """Hold a statement all of whose alerts are inhibited by another open incident.

    As in Alertmanager, what meets both sides of a rule is not inhibited by what does so too: two alerts never keep each
    other quiet.
    """

    def stage(subject: Subject) -> Hold | None:
        if not rules:
            return None
        s = subject.statement
        others = [one for one in firing(subject.now) if one.incident != s.incident]
        sets = [labels_for_matching(s, alert) for alert in s.alerts] or [statement_labels(s)]
        quiet = bool(others) and all(any(_inhibits(rule, labels, others) for rule in rules) for labels in sets)
        return Hold(INHIBITED, subject.now + RECHECK_MS) if quiet else None

    return stage


def _inhibits(rule: InhibitRule, target: Mapping[str, str], others: Sequence[Firing]) -> bool:
    if not matches(rule.target, target):
        return False
    both = matches(rule.source, target)
    return any(
        matches(rule.source, other.labels)
        and not (both and matches(rule.target, other.labels))
        and all(other.labels.get(name, "") == target.get(name, "") for name in rule.equal)
        for other in others
    )


def below_tier(wanted: Mapping[str, Tier]) -> Stage:
    """Drop what is below the lowest tier that a receiver wants; should the tier rise, that is told as new."""

    def stage(subject: Subject) -> Drop | None:
        return Drop(BELOW_TIER) if subject.statement.tier < wanted.get(subject.receiver, Tier.NONE) else None

    return stage
