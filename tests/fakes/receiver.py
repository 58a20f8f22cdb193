"""A receiver without a network: records what it is sent and answers as told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anomalyd.incident import Notification, Outcome, OutcomeKind
from anomalyd.receivers.base import Pace
from anomalyd.render import Rendered

OK = Outcome(OutcomeKind.DELIVERED)
DOWN = Outcome(OutcomeKind.RETRY, "connect", "nobody listens")
LOST = Outcome(OutcomeKind.RETRY, "timeout", "no answer")
GONE = Outcome(OutcomeKind.FAILED, "not_found", "archived")


@dataclass(frozen=True)
class Sent:
    """One attempt."""

    now: int
    notification: Notification
    rendered: Rendered
    memory: Mapping[str, object]

    @property
    def what(self) -> str:
        s = self.notification.statement
        return f"{s.reason.value} {s.tier.word} {s.incident}"


class FakeReceiver:
    """Answers from ``answers`` while there are any, then with ``otherwise``; an exception in it is raised."""

    kind = "fake"

    def __init__(self, name: str = "r", pace: Pace | None = None, send_resolved: bool = True) -> None:
        self.name = name
        self.pace = pace or Pace()
        self.send_resolved = send_resolved
        self.attempts: list[Sent] = []
        self.delivered: list[Sent] = []
        self.answers: list[Outcome | Exception] = []
        self.otherwise: Outcome | Callable[[Notification, int], Outcome] = OK
        self.closed = False

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        sent = Sent(now, notification, rendered, notification.memory)
        self.attempts.append(sent)
        answer = self.answers.pop(0) if self.answers else self.otherwise
        if isinstance(answer, Exception):
            raise answer
        outcome = answer if isinstance(answer, Outcome) else answer(notification, now)
        if outcome.kind == OutcomeKind.DELIVERED:
            self.delivered.append(sent)
        return outcome

    def close(self) -> None:
        self.closed = True

    @property
    def told(self) -> list[str]:
        """What was delivered, in order."""
        return [sent.what for sent in self.delivered]
