"""Evidence: which judged episodes an alert is like, and what people called them, in one line. Pure.

Like it is what a rule told before of the same series or group, for the same reason, in the same direction, about as
surprising and at about the same hour. Invariants: only what people judged within their votes' half-life counts, by the
votes that count; one incident counts once, however many series it had; where words are even the graver is told; where
nobody said anything, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from anomalyd.block import Fingerprint, Labels
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.episode import Episode
from anomalyd.feedback.belief import FeedbackPolicy
from anomalyd.feedback.votes import counted, labels_of
from anomalyd.incident import Alert
from anomalyd.records import VERDICTS, Feedback, FeedbackLabel
from anomalyd.render import clean
from anomalyd.score import Why

SIZE = 2.0
"""Surprises within this factor of one another are alike."""
HOURS_MS = 3 * HOUR_MS
"""Times of day that are no further apart are alike; clocks that change by an hour do not matter."""

SCORED = Why.SURPRISE.name.lower()

_GRAVE = (FeedbackLabel.TRUE, FeedbackLabel.NEW_NORMAL, FeedbackLabel.EXPECTED, FeedbackLabel.FALSE)
_CALLED: Mapping[FeedbackLabel, tuple[str, str]] = {
    FeedbackLabel.TRUE: ("real", "real"),
    FeedbackLabel.FALSE: ("a false alarm", "false alarms"),
    FeedbackLabel.EXPECTED: ("expected", "expected"),
    FeedbackLabel.NEW_NORMAL: ("the new normal", "the new normal"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """What alerts are compared by; ``up`` is None where the expected value is not known."""

    fingerprint: Fingerprint
    labels: Labels
    why: str
    up: bool | None
    surprise: float
    at: int


@dataclass(frozen=True, slots=True)
class Said:
    """An episode that people judged: the verdict, and the newest vote that gave it."""

    look: Look
    episode: str
    incident: str
    label: FeedbackLabel
    vote: Feedback


@dataclass(frozen=True, slots=True)
class Alike:
    """What people called the incidents that an alert is like.

    Attributes:
        judged: incidents that were judged; ``count`` of them were called ``label``, more than anything else.
        at: when the newest of these began; ``who`` called it so.
    """

    judged: int
    label: FeedbackLabel
    count: int
    at: int
    who: str

    @property
    def words(self) -> str:
        """One line for people."""
        there = datetime.fromtimestamp(self.at / 1000, UTC)
        when = f"{there.day} {there:%b}, by {self.who}"
        one, many = _CALLED[self.label]
        if self.judged == 1:
            return f"one like it was called {one} ({when})"
        share = f"all {self.judged}" if self.count == self.judged else f"{self.count} of {self.judged}"
        verb, word = ("was", one) if self.count == 1 else ("were", many)
        return f"{share} like it {verb} called {word} (last {when})"


def look_of_episode(e: Episode) -> Look:
    """An episode, at its worst."""
    why = e.why.name.lower()
    return _look(e.fingerprint, e.labels, why, e.peak_value, e.peak_expected, e.peak_surprise, e.started_at)


def look_of_alert(a: Alert) -> Look:
    """An alert, as far as it has come."""
    return _look(a.fingerprint, a.labels, a.why, a.value, a.expected, a.surprise, a.started_at)


def _look(
    fingerprint: Fingerprint, labels: Labels, why: str, value: float | None, expected: float | None,
    surprise: float | None, at: int,
) -> Look:  # fmt: skip
    why = SCORED if why == Why.YOUNG.name.lower() else why
    away = math.nan if value is None or expected is None else value - expected
    up = away > 0 if why == SCORED and math.isfinite(away) and away != 0 else None
    return Look(fingerprint, labels, why, up, surprise or 0.0, at)


def said_of(votes: Iterable[Feedback], episodes: Mapping[str, Episode], policy: FeedbackPolicy) -> list[Said]:
    """The verdicts that count on episodes that were told; ``episodes`` by id, those that are gone left out."""
    given = [v for v in counted(votes, policy) if v.episode in episodes and v.label in VERDICTS]
    verdicts = labels_of(given)
    found = []
    for id, label in verdicts.items():
        newest = max((v for v in given if v.episode == id and v.label == label), key=lambda v: (v.at, v.id))
        episode = episodes[id]
        if episode.opened_at:
            found.append(Said(look_of_episode(episode), id, episode.incident or id, label, newest))
    return found


def alike(
    look: Look, group: Labels, own: Iterable[str], said: Sequence[Said], now: int, half_life_ms: int
) -> Alike | None:
    """What people called what this is like; None where nobody judged any such thing.

    Args:
        group: the labels that the alert's series share with those of its group; without any, the series stands alone.
        own: ids of the alert's own episodes and incident, which say nothing about it.
    """
    mine = set(own)
    near = [
        one for one in said
        if one.look.at < look.at and now - one.vote.at <= half_life_ms and not mine & {one.episode, one.incident}
        and _same_place(look, one.look, group) and _same_shape(look, one.look)
    ]  # fmt: skip
    incidents: dict[str, list[Said]] = {}
    for one in near:
        incidents.setdefault(one.incident, []).append(one)
    verdicts = [_most([one.label for one in members]) for members in incidents.values()]
    if not verdicts:
        return None
    label = _most(verdicts)
    told = [max((one for one in members if one.label == label), key=lambda one: one.look.at)
            for members, verdict in zip(incidents.values(), verdicts, strict=True) if verdict == label]  # fmt: skip
    last = max(told, key=lambda one: one.look.at)
    return Alike(len(verdicts), label, len(told), last.look.at, _name(last.vote))


def _same_place(a: Look, b: Look, group: Labels) -> bool:
    return a.fingerprint == b.fingerprint or (bool(group) and set(group) <= set(b.labels))


def _same_shape(a: Look, b: Look) -> bool:
    apart = abs(a.at - b.at) % DAY_MS
    if a.why != b.why or a.up != b.up or min(apart, DAY_MS - apart) > HOURS_MS:
        return False
    return a.why != SCORED or 0 < a.surprise <= SIZE * b.surprise <= SIZE * SIZE * a.surprise


def _most(labels: Sequence[FeedbackLabel]) -> FeedbackLabel:
    return max(labels, key=lambda label: (labels.count(label), -_GRAVE.index(label)))


def _name(vote: Feedback) -> str:
    """Who voted, for people: of a link's page what was typed there, without the receiver it was sent to."""
    name = vote.who.rpartition("@")[0] if vote.via == "link" else vote.who
    return clean(name, 60) or "somebody"
