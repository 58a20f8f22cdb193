"""``Deliverer``: takes what the outbox owes through the stages to the receivers.

One pass serves one receiver: claim, collapse, stages, send, settle. Receivers have a thread each (see ``run.py``), so a
slow one delays nobody else. Invariants: an attempt is committed before anything is sent (the claim); what was sent is
settled before the next is sent; one notification's failure never stops the pass; every row ends with a reason.

At least once: a process that dies between sending and settling sends again, with the same idempotency key.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from anomalyd.clock import MINUTE_MS, SECOND_MS, Clock, SystemClock
from anomalyd.crashpoint import crashpoint
from anomalyd.delivery.budget import Budget
from anomalyd.delivery.flap import Flaps
from anomalyd.delivery.lane import Lane, Waiting
from anomalyd.delivery.needs import DROPPED, HELD, Delivery, KeepsAlive, Outbox, Pass, note
from anomalyd.delivery.trouble import REASONS, TROUBLE_RULE, instead, trouble
from anomalyd.delivery.words import Words
from anomalyd.errors import redact_urls
from anomalyd.gate import Gate
from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason, Statement
from anomalyd.logs import get_logger
from anomalyd.receivers.base import Receiver
from anomalyd.records import Fence, OutboxState, Told
from anomalyd.suppress import STAGES, Drop, Hold, Quiet, Reword, Stage, Subject, collapse, decide

LEASE_MS = 30_000
BATCH = 16
"""Incidents claimed at once; a pass also ends when half its lease is used up."""
BACKOFF_FIRST_MS = SECOND_MS
BACKOFF_MAX_MS = 5 * MINUTE_MS
FAILURES_BEFORE_REST = 3
REST_MAX_MS = MINUTE_MS
MAX_INTERNAL_ATTEMPTS = 10

log = get_logger("deliver")


class Deliverer:
    """Delivers to a fixed set of receivers.

    Args:
        receivers: by name.
        stages: asked in order before those that hold for everybody.
        words: puts statements into words; bare ones by default.
        observe: told of everything that became of a notification.
        budget: of messages an hour; its stage must be among ``stages``.
        flaps: what opens over and over; its stage must be among ``stages``, before the budget's.
        rewords: asked in order what is said in other words to this receiver.
        fence: proof of leadership for each claim, where several daemons share a store.
        fallbacks: by receiver, who is told instead of what it refuses for good.
        updates: what receivers are owed about incidents that others have joined.
    """

    def __init__(
        self,
        store: Outbox,
        receivers: Mapping[str, Receiver],
        *,
        stages: Sequence[Stage] = (),
        budget: Budget | None = None,
        flaps: Flaps | None = None,
        rewords: Sequence[Reword] = (),
        words: Words | None = None,
        observe: Callable[[Delivery], None] = lambda delivery: None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        fence: Callable[[], Fence | None] = lambda: None,
        fallbacks: Mapping[str, str] | None = None,
        updates: Callable[[Collection[str], int], list[Notification]] = lambda receivers, now: [],
    ):
        self.receivers = dict(receivers)
        self._store = store
        self._stages = (*stages, *STAGES)
        self.words = words or Words()
        self._budget, self._flaps = budget, flaps
        self._told_of = tuple(one.account for one in (budget, flaps) if one is not None)
        self._rewords: tuple[Reword, ...] = (*rewords, *((flaps.reword,) if flaps is not None else ()))
        self._observe = observe
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._fence = fence
        self._updates = updates
        self._fallbacks = {a: b for a, b in (fallbacks or {}).items() if b in self.receivers}
        self._lanes = {name: Lane(Gate(r.pace.every_ms, r.pace.burst)) for name, r in self.receivers.items()}
        self.began_at: int | None = None
        """When the first pass began, wall milliseconds."""

    def deliver_once(self, receiver: str, now: int) -> Pass:
        """Serve what is due to a receiver; raises only ``StoreError``.

        ``now`` is wall time at the start; time that sending takes is added to it.
        """
        lane = self._lanes[receiver]
        if self.began_at is None:
            self.began_at = now
        beat_at = self._beat(receiver, lane, now)
        served = self._serve(receiver, lane, now)
        if self._budget is not None and (digest := self._budget.digest(receiver, now)) is not None:
            self._store.enqueue([digest])
            served = replace(served, next_at=now)
        return served if beat_at is None else replace(served, next_at=min(beat_at, served.next_at or beat_at))

    def _serve(self, receiver: str, lane: Lane, now: int) -> Pass:
        if (opens_at := lane.gate.opens_at(now)) > now:
            return Pass(next_at=opens_at)
        room = lane.gate.room(now)
        limit = BATCH if room is None else min(BATCH, room)
        rows = self._store.claim(receiver, now, LEASE_MS, limit, fence=self._fence())
        if rows:
            crashpoint("after_claim")
        incidents = [list(group) for _, group in groupby(rows, key=lambda row: row.statement.incident)]
        if len(incidents) < limit:
            lane.forget_lost(now, rows)
        one = _Run(self, self.receivers[receiver], lane, now, self._clock.monotonic_s())
        for incident in incidents:
            one.serve(incident)
        if len(incidents) == limit:  # there may be more that is due
            return Pass(tuple(one.deliveries), max(one.now(), lane.gate.opens_at(one.now())))
        return Pass(tuple(one.deliveries), lane.next_at())

    def _beat(self, name: str, lane: Lane, now: int) -> int | None:
        """Repeat what the receiver's peer would forget; return when that is due again."""
        receiver = self.receivers[name]
        if not isinstance(receiver, KeepsAlive):
            return None
        if not lane.restored:
            lane.restored = True
            for incident in self._store.open_incidents():
                told = self._store.notifications(
                    incident=incident.id, receiver=name, state=OutboxState.DELIVERED, limit=1
                )
                if told and not (statement := told[0].notification.statement).resolved:
                    receiver.restore(statement, self.words.of(statement, now, receiver), now)
        beat_at = receiver.beat_at()
        if beat_at is not None and beat_at <= now:
            outcome = receiver.keep_alive(now)
            if outcome.kind != OutcomeKind.DELIVERED:
                log.warning("alerts could not be repeated", receiver=name, reason=outcome.reason, error=outcome.message)
            beat_at = receiver.beat_at()
        return beat_at

    def adopt(self, older: Deliverer) -> None:
        """Go on where another left off (a reload): what its receivers of the same name asked for stays asked."""
        self.began_at = older.began_at
        for name, lane in older._lanes.items():
            if name in self._lanes:
                self._lanes[name] = replace(lane, restored=False)
        if self._budget is not None and older._budget is not None:
            self._budget.adopt(older._budget)
        if self._flaps is not None and older._flaps is not None:
            self._flaps.adopt(older._flaps)

    def updates(self, now: int) -> list[Notification]:
        """What is owed because of what waits; asked about once a minute."""
        return self._updates(tuple(self.receivers), now)

    def close(self) -> None:
        """Close all receivers."""
        for receiver in self.receivers.values():
            receiver.close()


class _Run:
    """One pass at work."""

    def __init__(self, deliverer: Deliverer, receiver: Receiver, lane: Lane, now: int, started_s: float):
        self._deliverer, self._receiver, self._lane = deliverer, receiver, lane
        self._store = deliverer._store
        self._began, self._started_s = now, started_s
        self.deliveries: list[Delivery] = []

    def now(self) -> int:
        return self._began + int((self._deliverer._clock.monotonic_s() - self._started_s) * 1000)

    def serve(self, rows: list[Notification]) -> None:
        """Decide on the pending rows of one incident and send at most one."""
        now = self.now()
        opens_at = self._lane.gate.opens_at(now)
        if opens_at > now or now - self._began > LEASE_MS // 2:
            for row in rows:
                self._hold(row, now, Hold("rate_limited" if opens_at > now else "busy", max(now, opens_at)))
            return
        told = self._store.told(self._receiver.name, rows[0].statement.incident)
        plan = collapse(rows, told, self._receiver.send_resolved)
        for row, quiet in plan.drop:
            self._drop(row, now, self._cause(row, quiet, now))
        for row in plan.later:
            self._hold(row, now, Hold(Quiet.AFTER_NEWS, now + SECOND_MS))
        if plan.send is None:
            return
        subject = self._subject(plan.send, told, now)
        subject = replace(subject, statement=self._words(subject))
        verdict = decide(subject, self._deliverer._stages)
        if isinstance(verdict, Drop):
            self._drop(plan.send, now, verdict.reason)
        elif isinstance(verdict, Hold):
            self._hold(plan.send, now, verdict)
        else:
            self._send(replace(plan.send, statement=subject.statement), now)

    def _words(self, subject: Subject) -> Statement:
        for reword in self._deliverer._rewords:
            if (said := reword(subject)) is not None:
                return said
        return subject.statement

    def _cause(self, row: Notification, quiet: Quiet, now: int) -> str:
        """Why nobody was told of an incident that is over: a stage that keeps it quiet even now, if there is one."""
        if quiet != Quiet.NEVER_TOLD or row.statement.resolved:
            return quiet
        verdict = decide(self._subject(row, None, now), self._deliverer._stages)
        return quiet if verdict is None else verdict.reason

    def _subject(self, row: Notification, told: Told | None, now: int) -> Subject:
        s = row.statement
        fingerprints = [alert.fingerprint for alert in s.alerts]
        series = self._store.series_told(self._receiver.name, s.rule, fingerprints) if s.suppress_ms else {}
        began_at = self._deliverer.began_at
        return Subject(row, s, self._receiver.name, now, told, series, self._began if began_at is None else began_at)

    def _send(self, row: Notification, now: int) -> None:
        rendered = self._deliverer.words.of(row.statement, now, self._receiver)
        self._lane.gate.take(now)
        crashpoint("before_send")
        try:
            outcome = self._receiver.send(row, rendered, now)
        except Exception as error:  # a fault of ours in one message must not stop the others
            log.exception("a receiver failed", receiver=self._receiver.name, rule=row.statement.rule)
            kind = OutcomeKind.FAILED if row.attempt + 1 >= MAX_INTERNAL_ATTEMPTS else OutcomeKind.RETRY
            outcome = Outcome(kind, "internal", redact_urls(f"{type(error).__name__}: {error}"))
        crashpoint("after_send")
        now = self.now()
        next_at = self._next_at(row, outcome, now) if outcome.kind == OutcomeKind.RETRY else None
        self._store.settle(row.id, now, outcome, next_at, attempt=row.attempt)
        crashpoint("after_settle")
        self._account(row, now, outcome, next_at)

    def _next_at(self, row: Notification, outcome: Outcome, now: int) -> int:
        """Full jitter between the first step and a limit that doubles; never before the receiver asked for."""
        rng = self._deliverer._rng
        waiting = self._lane.waiting.get(row.id)
        limit = min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS << min(waiting.failures + 1 if waiting else 1, 20))
        wait = rng.uniform(BACKOFF_FIRST_MS, limit)
        if outcome.retry_after_s is not None:
            asked = min(outcome.retry_after_s * 1000, BACKOFF_MAX_MS)
            wait = asked + rng.uniform(0, SECOND_MS) if outcome.reason == "rate_limited" else max(wait, asked)
        return now + int(wait)

    def _account(self, row: Notification, now: int, outcome: Outcome, next_at: int | None) -> None:
        lane = self._lane
        if next_at is None:
            self._forget(row)
        else:
            known = lane.waiting.get(row.id)
            lane.waiting[row.id] = Waiting(next_at, known.failures + 1 if known else 1)
        self._notice_trouble(row, now, outcome)
        if outcome.kind == OutcomeKind.FAILED:
            self._fall_back(row, now)
        if outcome.kind != OutcomeKind.RETRY:
            lane.failures = 0
        elif outcome.reason == "rate_limited":
            assert next_at is not None, "a retry has a time"
            lane.gate.close_until(next_at)
        else:
            lane.failures += 1
            if lane.failures >= FAILURES_BEFORE_REST:
                # The receiver is down, not one message odd: rest instead of trying every message in turn.
                limit = min(REST_MAX_MS, BACKOFF_FIRST_MS << min(lane.failures - FAILURES_BEFORE_REST + 1, 20))
                lane.gate.close_until(now + int(self._deliverer._rng.uniform(BACKOFF_FIRST_MS, limit)))
        self._tell(row, outcome.kind.value, outcome.reason, outcome.message)

    def _notice_trouble(self, row: Notification, now: int, outcome: Outcome) -> None:
        """Tell the other receivers when this one begins to refuse for good, and when it works again."""
        lane, name = self._lane, self._receiver.name
        begins = outcome.kind == OutcomeKind.FAILED and outcome.reason in REASONS and not lane.trouble_since
        over = outcome.kind == OutcomeKind.DELIVERED and lane.trouble_since > 0
        # News of another receiver's trouble, or a test, that is refused is no reason for more such news.
        if not (begins or over) or row.statement.rule == TROUBLE_RULE or row.statement.reason == Reason.TEST:
            return
        since = lane.trouble_since or now
        others = [other for other in self._deliverer.receivers if other != name]
        self._store.enqueue(trouble(name, since, now, outcome.reason, outcome.message, others, over))
        lane.trouble_since = 0 if over else now

    def _fall_back(self, row: Notification, now: int) -> None:
        """Owe to the fallback what this receiver refuses for good."""
        other = self._deliverer._fallbacks.get(self._receiver.name)
        if other is None:
            return
        known = self._store.notifications(incident=row.statement.incident, receiver=other, limit=100)
        if row.statement.resolved and not known:
            return
        if (owed := instead(row, other, known, now)) is not None:
            self._store.enqueue([owed])

    def _hold(self, row: Notification, now: int, hold: Hold) -> None:
        self._store.settle(row.id, now, Outcome(OutcomeKind.RETRY, hold.reason), hold.until, attempt=row.attempt)
        known = self._lane.waiting.get(row.id)
        self._lane.waiting[row.id] = Waiting(hold.until, known.failures if known else 0)
        self._tell(row, HELD, hold.reason)

    def _drop(self, row: Notification, now: int, reason: str) -> None:
        self._store.drop(row.id, now, reason)
        self._forget(row)
        if row.statement.resolved and reason == Quiet.NEVER_TOLD:
            self._fall_back(row, now)  # what was refused here may have been told there, and has ended
        self._tell(row, DROPPED, reason)

    def _forget(self, row: Notification) -> None:
        self._lane.waiting.pop(row.id, None)

    def _tell(self, row: Notification, outcome: str, reason: str, message: str = "") -> None:
        delivery = Delivery(self._receiver.name, row, outcome, reason, message)
        self.deliveries.append(delivery)
        for account in self._deliverer._told_of:
            account(self._receiver.name, row, outcome, self.now())
        note(delivery)
        self._deliverer._observe(delivery)
