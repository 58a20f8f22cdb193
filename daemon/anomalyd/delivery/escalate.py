"""Escalation by waiting: receivers that hear of an incident only when nobody has taken it up within a time.

Such a receiver is owed every statement like any other, and its statements wait: until the time has passed, and after
that for as long as somebody has acknowledged (a vote, an acknowledgement in PagerDuty). So whatever else holds for
statements holds here too: an incident that ends in time is never told, one that was told has its end told, and a
restart forgets nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from anomalyd.clock import MINUTE_MS
from anomalyd.durations import format_duration
from anomalyd.episode import Episode
from anomalyd.incident import Reason, Statement
from anomalyd.matcher import matches, statement_labels
from anomalyd.records import Feedback, FeedbackLabel, Matcher, OutboxRow, OutboxState
from anomalyd.score import Tier
from anomalyd.suppress import Hold, Subject

WAITING = "awaiting_acknowledgement"
ACKNOWLEDGED = "acknowledged"
LOOK_AFTER_MS = 15 * MINUTE_MS
"""In a storm thousands wait: they are not looked at every minute. An emergency among them is due at once."""
LOOK_MS = MINUTE_MS
"""How often it is looked whether an acknowledgement still stands: it can be taken back."""


@dataclass(frozen=True, slots=True)
class Step:
    """Tell ``receivers`` when nobody has acknowledged within ``after_ms``.

    Attributes:
        from_tier: incidents below this tier do not escalate.
        matchers: which incidents; all of them without any.
    """

    after_ms: int
    receivers: tuple[str, ...]
    from_tier: Tier = Tier.CRITICAL
    matchers: tuple[Matcher, ...] = ()


class Record(Protocol):
    """What is asked of the store."""

    def notifications(
        self, *, incident: str | None = None, receiver: str | None = None, state: OutboxState | None = None,
        limit: int = 100,
    ) -> list[OutboxRow]: ...  # fmt: skip

    def feedback(self, *, rule: str | None = None, episode: str | None = None) -> list[Feedback]: ...

    def episode(self, id: str) -> Episode | None: ...


def last_receivers(steps: Sequence[Step], tier: Tier) -> tuple[str, ...]:
    """The receivers that may come to hear of an incident of this tier by escalation, each once."""
    return tuple(dict.fromkeys(name for step in steps if tier >= step.from_tier for name in step.receivers))


class Escalation:
    """The stage of receivers that are told last.

    Args:
        first: the receivers that are told of a statement at once; those never wait.
    """

    def __init__(self, steps: Sequence[Step], record: Record, first: Callable[[Statement], Collection[str]]):
        self._steps, self._record, self._first = tuple(steps), record, first

    def stage(self, subject: Subject) -> Hold | None:
        """Hold a statement until nobody has acknowledged for long enough."""
        step = self._step(subject)
        if step is None or subject.told is not None:
            return None
        due = self._owed_since(subject) + step.after_ms
        if subject.now < due:
            return Hold(WAITING, due, LOOK_AFTER_MS)
        return Hold(ACKNOWLEDGED, subject.now + LOOK_MS) if self._acknowledged(subject.statement) else None

    def reword(self, subject: Subject) -> Statement | None:
        """The statement as it is told to somebody who hears of it because nobody acknowledged."""
        step = self._step(subject)
        if step is None or subject.told is not None or subject.statement.reason != Reason.NEW:
            return None
        note = f"nobody has acknowledged it within {format_duration(step.after_ms)}"
        return replace(subject.statement, reason=Reason.ESCALATED, note=note)

    def _step(self, subject: Subject) -> Step | None:
        """The first step that leads to the receiver; None for a receiver that is told at once."""
        s = subject.statement
        labels = statement_labels(s)
        found = [
            step for step in self._steps
            if subject.receiver in step.receivers and s.tier >= step.from_tier and matches(step.matchers, labels)
        ]  # fmt: skip
        if not found or subject.receiver in self._first(s):
            return None
        return min(found, key=lambda step: step.after_ms)

    def _owed_since(self, subject: Subject) -> int:
        rows = self._record.notifications(incident=subject.statement.incident, receiver=subject.receiver, limit=1_000)
        return min((row.notification.created_at for row in rows), default=subject.notification.created_at)

    def _acknowledged(self, s: Statement) -> bool:
        """Whether somebody has said anything about an episode of the incident, and has not taken it back."""
        for vote in reversed(self._record.feedback(rule=s.rule)):
            if vote.at < s.opened_at or vote.undone_at or vote.label == FeedbackLabel.MISSED or not vote.episode:
                continue
            episode = self._record.episode(vote.episode)
            if episode is not None and episode.incident == s.incident:
                return True
        return False
