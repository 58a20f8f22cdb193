"""Who would have been told in the past, and what would have kept them quiet: the part of a backtest after evaluation.

Rules live through history each by itself; what they came to owe is then delivered together, in order of time, by the
daemon's own ``Deliverer``. Taken from the settings as they are now: all of ``Arrangement``, reminders included. Taken
from the daemon's database, when it is asked for: the silences, votes and acknowledgements of that time, each from the
moment it was made; without it nobody acknowledges anything. Not known afterwards: slots that the source did not answer,
deliveries that failed, and what rules that were not lived through told the same receivers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import cast

from anomalyd.arrangement import Arrangement, arrangement_of, deliverer_of
from anomalyd.ballot import StoredFeedback
from anomalyd.clock import MINUTE_MS, VirtualClock
from anomalyd.delivery.needs import Delivery
from anomalyd.delivery.remind import next_look, reminders
from anomalyd.episode import Episode
from anomalyd.feedback.cuts import FeedbackPolicy, RuleFeedback
from anomalyd.incident import Incident, Notification, Outcome, OutcomeKind
from anomalyd.matcher import matches
from anomalyd.receivers.base import Pace
from anomalyd.records import Feedback, Matcher, Silence, ThresholdChange
from anomalyd.render import Rendered
from anomalyd.rule import Rule
from anomalyd.settings import Settings
from anomalyd.store import Store, open_store
from anomalyd.workbench.letters import Letter, Unwritten

RECEIVER = "backtest"
"""Who is told where the settings name nobody."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A notification that a receiver would have got."""

    at: int
    reason: str
    tier: str
    incident: str
    title: str
    receiver: str = RECEIVER


@dataclass(frozen=True, slots=True)
class Told:
    """What was sent of a rule's incidents, in order of time, and how many notifications were not, by reason."""

    sent: tuple[Sent, ...]
    held: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What besides a rule decided who was told of it.

    Attributes:
        arrangement: without receivers, one stand-in is told everything.
        rules: those that are live, by id.
        silences: all that were ever made; each counts from when it was made.
        heard: the votes of the time, or None.
    """

    arrangement: Arrangement = field(default_factory=Arrangement)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    silences: tuple[Silence, ...] = ()
    heard: HeardThen | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The receivers."""
        return tuple(self.arrangement.receivers) or (RECEIVER,)

    def recipients(self, rule: Rule, incident: Incident) -> Sequence[str]:
        """Who is owed news of an incident, by the rule, the routes or escalation."""
        return self.arrangement.recipients(rule, incident) if self.arrangement.receivers else (RECEIVER,)

    def next_word(self, at: int) -> int | None:
        """When somebody next said something, or took it back, after ``at``."""
        return self.heard.next_word(at) if self.heard is not None else None

    def included(self) -> tuple[str, ...]:
        """What of the surroundings counted, in words."""
        one, receivers = self.arrangement, self.arrangement.receivers.values()
        escalation = "escalation" if self.heard is not None else "escalation, as if nobody had acknowledged"
        parts = (
            ("mute windows", bool(one.mute_windows)), ("inhibition", bool(one.inhibit_rules)),
            ("incidents told together", one.together is not None), (escalation, bool(one.escalation)),
            ("the receivers' budgets", any(r.budget_per_hour or r.flaps_per_hour for r in receivers)),
            ("reminders", any(r.repeat_interval for r in receivers)),
            ("the silences, votes and acknowledgements of that time", self.heard is not None),
        )  # fmt: skip
        return tuple(name for name, there in parts if there)


NOTHING_AROUND = Surroundings()


def surroundings(settings: Settings, rules: Sequence[Rule]) -> Surroundings:
    """What the settings say; ``rules`` are all that are live."""
    return Surroundings(arrangement_of(settings), {rule.id: rule for rule in rules})


def remembering(around: Surroundings, store: Store, policy: FeedbackPolicy) -> Surroundings:
    """With the silences and votes that a daemon's database knows of."""
    return replace(around, silences=tuple(store.silences()), heard=HeardThen(store, policy))


def concerns(other: Rule, rule: Rule, around: Surroundings) -> bool:
    """Whether incidents of one rule may change who is told of another's, as far as labels that are known tell."""
    return other.id != rule.id and (may_inhibit(other, rule, around) or _may_join(other, rule, around))


def may_inhibit(source: Rule, target: Rule, around: Surroundings) -> bool:
    """Whether an incident of one rule could keep one of another quiet."""
    return source.id != target.id and any(
        _could_match(one.source, source) and _could_match(one.target, target)
        for one in around.arrangement.inhibit_rules
    )


def _could_match(matchers: Sequence[Matcher], rule: Rule) -> bool:
    known = {"alertname": rule.name, "rule": rule.id, "group": rule.group, **rule.labels}
    return all(matches((one,), known) for one in matchers if one.name in known)


def _may_join(other: Rule, rule: Rule, around: Surroundings) -> bool:
    """Whether incidents of both could be about one service and be told as one."""
    terms = around.arrangement.together
    if terms is None:
        return False
    known = [{**dict.fromkeys(one.group_by), **one.labels} for one in (other, rule)]
    return all(
        all(name in labels for labels in known) and len({labels[name] for labels in known} - {None}) <= 1
        for name in terms.labels
    )


class HeardThen:
    """Feedback as it stood at each slot: votes that had been given and not yet been taken back."""

    def __init__(self, store: Store, policy: FeedbackPolicy):
        self.policy, self._daemon = policy, store
        self._book = _AsOf(store)
        self._stored = StoredFeedback(cast(Store, self._book), policy)

    def __call__(self, rule: Rule, at: int) -> RuleFeedback:
        self._book.at = at
        return self._stored(rule, at)

    def next_word(self, at: int) -> int | None:
        """When somebody next said something, or took it back, after ``at``."""
        place = bisect_right(self._book.words, at)
        return self._book.words[place] if place < len(self._book.words) else None

    def votes(self, rule: str | None, at: int) -> list[Feedback]:
        """What had been said by then of a rule's episodes, as it stood."""
        self._book.at = at
        return self._book.feedback(rule)

    def episode(self, id: str) -> Episode | None:
        """An episode as the daemon's database knows it."""
        return self._daemon.episode(id)


class _AsOf:
    """A store that knows of people's words only what had been said by ``at``; all else as it is."""

    def __init__(self, store: Store):
        self._store = store
        self.at = 0
        self._votes = store.feedback()
        self.words = sorted({at for v in self._votes for at in (v.at, v.undone_at) if at})
        self._moves: dict[str, list[ThresholdChange]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def feedback(self, rule: str | None = None) -> list[Feedback]:
        votes = [v for v in self._votes if rule in (None, v.rule) and v.at <= self.at]
        return [v if v.undone_at <= self.at else replace(v, undone_at=0) for v in votes]

    def thresholds(self, rule: str) -> list[ThresholdChange]:
        if rule not in self._moves:
            self._moves[rule] = self._store.thresholds(rule)
        moves = [m for m in self._moves[rule] if m.at <= self.at]
        return [m if m.undone_at <= self.at else replace(m, undone_at=0) for m in moves]

    def feedback_stamp(self) -> tuple[int, ...]:
        """Changes whenever what had been said does."""
        given = sum(v.at <= self.at for v in self._votes)
        return given, sum(0 < v.undone_at <= self.at for v in self._votes)


class _Book:
    """The store of a delivery in the past, with what people had said by ``at``."""

    def __init__(self, store: Store, around: Surroundings):
        self._store, self._around = store, around
        self.at = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def silences(self, now: int | None = None) -> list[Silence]:
        return [one for one in self._around.silences if now is None or one.created_at <= now]

    def feedback(self, rule: str | None = None, episode: str | None = None) -> list[Feedback]:
        heard = self._around.heard
        votes = heard.votes(rule, self.at) if heard is not None else []
        return [v for v in votes if episode in (None, v.episode)]

    def episode(self, id: str) -> Episode | None:
        """An episode by its id; of one that the daemon knew and that came otherwise here, what it was meant to be."""
        if (found := self._store.episode(id)) is not None or self._around.heard is None:
            return found
        then = self._around.heard.episode(id)
        if then is None:
            return None
        alike = self._store.episodes(rule=then.rule, fingerprint=then.fingerprint, limit=1_000)
        return next((e for e in alike if _overlap(e, then)), None)


def _overlap(one: Episode, other: Episode) -> bool:
    return not (0 < one.closed_at < other.started_at or 0 < other.closed_at < one.started_at)


def deliver(letters: Iterable[Letter], around: Surroundings, start: int, end: int) -> Mapping[str, Told]:
    """Deliver what rules came to owe between two times, as the daemon would have; by the id of the rule."""
    store = open_store("sqlite://")
    try:
        mail = _Mail(store, around, start)
        for at, batch in groupby(sorted(letters, key=lambda one: (one.at, one.rule)), key=lambda one: one.at):
            mail.take(at, list(batch))
        mail.until(end)
        return mail.told()
    finally:
        store.close()


class _Mail:
    """Delivers to stand-ins for the receivers, at the times at which the daemon would have."""

    def __init__(self, store: Store, around: Surroundings, start: int):
        self._store, self._around = store, around
        self._book = _Book(store, around)
        self._clock = VirtualClock(start)
        self._sent: list[Sent] = []
        self._held: dict[str, Counter[str]] = {}
        self._rule_of: dict[str, str] = {}
        arrangement = around.arrangement
        wanted = arrangement.receivers
        boxes = {
            name: _Box(self._sent, name, wanted[name].send_resolved if name in wanted else True)
            for name in around.names
        }
        self._deliverer = deliverer_of(
            lambda: arrangement, cast(Store, self._book), boxes, around.rules.get, self._clock, observe=self._observe
        )
        self._repeats = {name: every for name, every in arrangement.repeats().items() if every}
        self._joins = arrangement.together is not None
        self._next_at: dict[str, int] = {}
        self._remind_at: int | None = None
        self._held_ids: set[str] = set()
        self._unwritten = Unwritten()

    def take(self, at: int, letters: Sequence[Letter]) -> None:
        """What is owed since ``at``: written down, and told."""
        self.until(at)
        for letter in letters:
            self._rule_of |= {incident.id: letter.rule for incident in letter.incidents}
            self._unwritten.add(letter.episodes, letter.incidents, letter.outbox)
        if any(letter.outbox for letter in letters):
            for name in self._around.names:
                self._deliver(name, at)

    def _write(self) -> None:
        """Write down what has come since something was looked up: of an episode its newest state is enough."""
        if self._unwritten:
            kept, self._unwritten = self._unwritten, Unwritten()
            self._store.save_episodes([*kept.episodes.values()], [*kept.incidents.values()], kept.outbox)

    def told(self) -> Mapping[str, Told]:
        """By rule; digests and the like are of no rule, unless there is only one."""
        rules = {*self._rule_of.values()}
        alone = next(iter(rules)) if len(rules) == 1 else ""
        sent: dict[str, list[Sent]] = {rule: [] for rule in rules}
        for one in self._sent:
            if rule := self._rule_of.get(one.incident, alone):
                sent[rule].append(one)
        return {rule: Told(tuple(sent[rule]), dict(self._held.get(rule, {}))) for rule in rules}

    def until(self, at: int) -> None:
        """Serve what was held back or is due again before ``at``."""
        while (now := self._due()) is not None and now < at:
            if self._remind_at is not None and self._remind_at <= now:
                self._remind(now)
            for name in [name for name, due in self._next_at.items() if due <= now]:
                self._deliver(name, now)

    def _due(self) -> int | None:
        times = [*self._next_at.values(), *([self._remind_at] if self._remind_at is not None else [])]
        return min(times, default=None)

    def _remind(self, now: int) -> None:
        """As the daemon does every minute, where something can be due."""
        self._remind_at = None
        self._write()
        if owed := [*reminders(self._store, self._repeats, now), *self._deliverer.updates(now)]:
            self._store.enqueue(owed)
            for name in {one.receiver for one in owed}:
                self._next_at[name] = min(now, self._next_at.get(name, now))
        else:
            self._remind_at = self._next_look(now)

    def _next_look(self, now: int) -> int | None:
        if self._joins and self._store.open_incidents():
            return now + MINUTE_MS
        return next_look(self._store, self._repeats, now)

    def _deliver(self, name: str, now: int) -> None:
        """One pass; ``now`` never runs backwards."""
        now = max(now, self._clock.now_ms())
        self._clock.advance_to(now)
        self._book.at = now
        self._write()
        again = self._deliverer.deliver_once(name, now).next_at
        self._next_at.pop(name, None)
        if again is not None:
            self._next_at[name] = max(again, now + 1)
        self._remind_at = self._next_look(now)

    def _observe(self, delivery: Delivery) -> None:
        rule = self._rule_of.get(delivery.notification.statement.incident)
        if rule is None:
            return
        held = self._held.setdefault(rule, Counter())
        if delivery.outcome == "dropped":
            held[delivery.reason] += 1
        elif delivery.outcome == "held" and delivery.notification.id not in self._held_ids:
            self._held_ids.add(delivery.notification.id)
            held[f"{delivery.reason} (told later if still true)"] += 1


class _Box:
    """A stand-in for a receiver: takes everything."""

    kind = "backtest"
    pace = Pace()

    def __init__(self, sent: list[Sent], name: str, send_resolved: bool):
        self._sent, self.name, self.send_resolved = sent, name, send_resolved

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        s = notification.statement
        self._sent.append(Sent(now, s.reason.value, s.tier.word, s.incident, rendered.title, self.name))
        return Outcome(OutcomeKind.DELIVERED)

    def close(self) -> None:
        """Nothing is held."""
