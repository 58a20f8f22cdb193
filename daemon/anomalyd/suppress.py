"""What is not sent, and why: pure stages over one incident's pending statements.

First the pending statements of an incident collapse: only the newest is worth sending, and the end of an incident that
nobody was told of is not sent at all. Then each stage may hold the statement back until a time or drop it for good;
every stage gives a reason from a closed set. A held statement is looked at again when its time comes, so an anomaly
that outlasts a window or a silence is told then, and one that ends before is never told.

Invariants: a higher tier than was told passes every window; in doubt a statement is sent rather than dropped; the end
is sent whenever a beginning was delivered or may have been.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from anomalyd.incident import Notification, Reason, Statement
from anomalyd.records import Told
from anomalyd.score import Tier

MORE_INTERVAL_MS = 5 * MINUTE_MS
"""Further series of an incident that is known are told at most this often."""
RECHECK_MS = MINUTE_MS
"""A held statement is looked at again at least this often: its silence may have been lifted, its tier have risen."""
MAX_PAGE_AGE_MS = HOUR_MS
MAX_OUTAGE_MS = DAY_MS


class Quiet(StrEnum):
    """Why a statement is not sent: dropped for good, or held back for now."""

    SUPERSEDED = "superseded"
    """A newer statement about the same incident says it all."""
    NEVER_TOLD = "never_told"
    """The incident ended before anybody was told."""
    RESOLVED_OFF = "resolved_off"
    """The receiver does not want the end of incidents."""
    EXPIRED = "expired"
    """Too old to wake somebody for."""
    SUPPRESSED = "suppressed"
    """All its series were told within the rule's suppression window."""
    MORE_INTERVAL = "more_interval"
    """Further series, too soon after the last message about this incident."""
    AFTER_NEWS = "after_news"
    """What people said of it, while news of it waits to be told."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Do not send before ``until``; then ask again, and in any case after ``look_after_ms``."""

    reason: str
    until: int
    look_after_ms: int = RECHECK_MS


@dataclass(frozen=True, slots=True)
class Drop:
    """Do not send at all."""

    reason: str


@dataclass(frozen=True, slots=True)
class Subject:
    """One statement on its way to one receiver, with what the stages may know.

    Attributes:
        told: what the receiver knows of the incident.
        series: when, and at which tier, the receiver was last told of each series, by fingerprint.
        began_at: when this daemon began to deliver.
    """

    notification: Notification
    statement: Statement
    receiver: str
    now: int
    told: Told | None
    series: Mapping[str, tuple[int, Tier]]
    began_at: int

    @property
    def escalates(self) -> bool:
        """Whether this is worse than anything the receiver knows of an incident that it does know."""
        return self.told is not None and self.told.delivered and self.statement.tier > self.told.tier


Stage = Callable[[Subject], Hold | Drop | None]
"""One reason to stay quiet; None lets the statement pass."""


Reword = Callable[[Subject], Statement | None]
"""Says a statement in other words for its receiver; None leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of an incident's pending rows: some dropped at once, at most one to be sent, some left for later."""

    drop: tuple[tuple[Notification, Quiet], ...]
    send: Notification | None = None
    later: tuple[Notification, ...] = ()


def collapse(rows: Sequence[Notification], told: Told | None, send_resolved: bool = True) -> Plan:
    """Decide among the pending rows of one incident, in order of creation.

    The statement to be sent is restated by what the receiver knows: its first news is NEW whatever came before. What
    people said of an incident replaces no news of it: it waits until that is out.
    """
    judged = tuple(row for row in rows if row.statement.reason == Reason.JUDGED)
    if judged and len(judged) < len(rows):
        news = [row for row in rows if row.statement.reason != Reason.JUDGED]
        return replace(collapse(news, told, send_resolved), later=judged)
    newest = rows[-1]
    older = tuple((row, Quiet.SUPERSEDED) for row in rows[:-1])
    if judged:
        return Plan(older, newest) if told is not None else Plan((*older, (newest, Quiet.NEVER_TOLD)))
    if newest.statement.resolved:
        if told is None:
            return Plan(tuple((row, Quiet.NEVER_TOLD) for row in rows))
        if not send_resolved:
            return Plan((*older, (newest, Quiet.RESOLVED_OFF)))
        return Plan(older, newest)
    return Plan(older, replace(newest, statement=_restated(newest.statement, told)))


def _restated(statement: Statement, told: Told | None) -> Statement:
    if statement.reason == Reason.TEST:
        return statement
    if told is None or not told.delivered:
        return replace(statement, reason=Reason.NEW)
    if statement.tier > told.tier:
        return replace(statement, reason=Reason.WORSE)
    return statement


def decide(subject: Subject, stages: Sequence[Stage]) -> Hold | Drop | None:
    """Ask the stages in order; the first that objects decides. A hold never lasts longer than until the next look.

    A test of a receiver passes them all, and so does the end of an incident whose beginning was told, and what was said
    of it.
    """
    if subject.statement.reason in (Reason.TEST, Reason.RESOLVED, Reason.JUDGED):
        return None
    for stage in stages:
        verdict = stage(subject)
        if isinstance(verdict, Hold):
            soonest, latest = subject.now + SECOND_MS, subject.now + verdict.look_after_ms
            return Hold(verdict.reason, max(soonest, min(verdict.until, latest)))
        if verdict is not None:
            return verdict
    return None


def window(subject: Subject) -> Hold | None:
    """Hold a statement whose series this receiver was told of within the rule's suppression window."""
    s = subject.statement
    if s.reason not in (Reason.NEW, Reason.MORE) or subject.escalates or s.suppress_ms <= 0 or s.total > len(s.alerts):
        return None
    ends: list[int] = []
    for alert in s.alerts:
        if alert.status != "firing":
            continue
        at, tier = subject.series.get(alert.fingerprint, (0, Tier.NONE))
        # A time that lies ahead was written before the clock was set back: it proves nothing.
        if at <= 0 or at > subject.now or subject.now - at >= s.suppress_ms or alert.tier > tier:
            return None
        ends.append(at + s.suppress_ms)
    # A worse statement is due at once whatever is held; nothing else ends the window before its time.
    return Hold(Quiet.SUPPRESSED, min(ends), HOUR_MS) if ends else None


def more_interval(subject: Subject) -> Hold | None:
    """Hold news of further series so soon after the last message about the incident."""
    told = subject.told
    if subject.statement.reason != Reason.MORE or told is None or not told.delivered or subject.escalates:
        return None
    if told.at > subject.now or subject.now - told.at >= MORE_INTERVAL_MS:
        return None
    return Hold(Quiet.MORE_INTERVAL, told.at + MORE_INTERVAL_MS)


def expired(max_page_age_ms: int = MAX_PAGE_AGE_MS, max_outage_ms: int = MAX_OUTAGE_MS) -> Stage:
    """Drop what was left behind long before this daemon began: by a long stop, or in a backup that was restored.

    What the daemon itself keeps back or cannot deliver stays news while its incident is open: its end would have
    collapsed it. A statement that was tried before is kept longer: the daemon may have restarted in an outage.
    """

    def stage(subject: Subject) -> Drop | None:
        age = subject.began_at - subject.notification.created_at
        limit = max_outage_ms if subject.notification.attempt else max_page_age_ms
        return Drop(Quiet.EXPIRED) if age > limit else None

    return stage


STAGES: tuple[Stage, ...] = (window, more_interval, expired())
"""What holds for every receiver; silences, mute windows, inhibition and budgets come before these."""
