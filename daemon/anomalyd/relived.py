"""Who would have been told in the past, and what would have kept them quiet: the part of a backtest after evaluation.

Taken from the settings as they are now: receivers with their budgets, lowest tiers, flap limits and reminders, routes,
mute windows, and inhibition by the incidents of other rules that lived through the same span. Taken from the daemon's
database, when it is asked for: the silences and the votes of that time, each from the moment it was made. Not known
afterwards: acknowledgements (so nobody is told for want of one), slots that the source did not answer, deliveries that
failed. A rule lives alone: a budget counts its own messages, and not those of other rules to the same receiver.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from anomalyd.ballot import StoredFeedback
from anomalyd.budget import Budget
from anomalyd.clock import MINUTE_MS, VirtualClock
from anomalyd.deliver import Deliverer
from anomalyd.delivery import Delivery
from anomalyd.feedback import FeedbackPolicy, RuleFeedback
from anomalyd.flap import Flaps
from anomalyd.hush import Firing, InhibitRule, MuteWindow, below_tier, firing_of, inhibited, muted, silenced
from anomalyd.incident import Incident, Notification, Outcome, OutcomeKind
from anomalyd.matcher import matches
from anomalyd.receivers.base import Pace, ReceiverSettings
from anomalyd.records import Feedback, Matcher, Silence, ThresholdChange
from anomalyd.remind import reminders
from anomalyd.render import Rendered
from anomalyd.routing import Route, receivers_for
from anomalyd.rule import Rule
from anomalyd.score import Tier
from anomalyd.settings import Settings
from anomalyd.store import Store

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
class Timeline:
    """The open incidents of a rule over time: from ``at[i]`` on those of ``firing[i]``."""

    at: tuple[int, ...]
    firing: tuple[tuple[Firing, ...], ...]

    def on(self, now: int) -> tuple[Firing, ...]:
        """The incidents that were open."""
        place = bisect_right(self.at, now)
        return self.firing[place - 1] if place else ()


EMPTY = Timeline((), ())


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What besides a rule decided who was told of it.

    Attributes:
        receivers: by name; without any, one stand-in is told everything.
        rule_labels: the labels of the rules by id, for inhibition.
        others: the incidents of other rules, by rule id.
        silences: all that were ever made; each counts from when it was made.
        heard: the votes of the time, or None.
    """

    receivers: Mapping[str, ReceiverSettings] = field(default_factory=dict)
    route: Route = field(default_factory=Route)
    mute_windows: tuple[MuteWindow, ...] = ()
    inhibit_rules: tuple[InhibitRule, ...] = ()
    rule_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    others: Mapping[str, Timeline] = field(default_factory=dict)
    silences: tuple[Silence, ...] = ()
    heard: HeardThen | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The receivers."""
        return tuple(self.receivers) or (RECEIVER,)

    def recipients(self, rule: Rule, incident: Incident) -> Sequence[str]:
        """Who is told of an incident at once, by the rule or by the routes."""
        if not self.receivers:
            return (RECEIVER,)
        if not rule.routed:
            return rule.receivers
        labels = {**dict(incident.group_labels), **rule.labels, "alertname": rule.name}
        return receivers_for(self.route, labels, incident.tier)

    def next_word(self, at: int) -> int | None:
        """When somebody next said something, or took it back, after ``at``."""
        return self.heard.next_word(at) if self.heard is not None else None

    def included(self) -> tuple[str, ...]:
        """What of the surroundings counted, in words."""
        budgets = any(one.budget_per_hour or one.flaps_per_hour for one in self.receivers.values())
        reminded = any(one.repeat_interval for one in self.receivers.values())
        parts = (
            ("mute windows", bool(self.mute_windows)), ("inhibition", bool(self.others)),
            ("the receivers' budgets", budgets), ("reminders", reminded),
            ("the silences and votes of that time", self.heard is not None),
        )  # fmt: skip
        return tuple(name for name, there in parts if there)


NOTHING_AROUND = Surroundings()


def surroundings(settings: Settings, rules: Sequence[Rule]) -> Surroundings:
    """What the settings say; ``rules`` are all that are live."""
    return Surroundings(
        settings.receivers, settings.route, settings.mute_windows, settings.inhibit_rules,
        {rule.id: rule.labels for rule in rules},
    )  # fmt: skip


def remembering(around: Surroundings, store: Store, policy: FeedbackPolicy) -> Surroundings:
    """With the silences and votes that a daemon's database knows of."""
    return replace(around, silences=tuple(store.silences()), heard=HeardThen(store, policy))


def may_inhibit(source: Rule, target: Rule, around: Surroundings) -> bool:
    """Whether an incident of one rule could keep one of another quiet, as far as labels that are known tell."""
    return source.id != target.id and any(
        _could_match(one.source, source) and _could_match(one.target, target) for one in around.inhibit_rules
    )


def _could_match(matchers: Sequence[Matcher], rule: Rule) -> bool:
    known = {"alertname": rule.name, "rule": rule.id, "group": rule.group, **rule.labels}
    return all(matches((one,), known) for one in matchers if one.name in known)


class HeardThen:
    """Feedback as it stood at each slot: votes that had been given and not yet been taken back."""

    def __init__(self, store: Store, policy: FeedbackPolicy):
        self.policy = policy
        self._book = _AsOf(store)
        self._stored = StoredFeedback(cast(Store, self._book), policy)

    def __call__(self, rule: Rule, at: int) -> RuleFeedback:
        self._book.at = at
        return self._stored(rule, at)


    def next_word(self, at: int) -> int | None:
        """When somebody next said something, or took it back, after ``at``."""
        place = bisect_right(self._book.words, at)
        return self._book.words[place] if place < len(self._book.words) else None


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


class Mail:
    """Delivers to stand-ins for the receivers, at the times at which the daemon would have."""

    def __init__(self, store: Store, rule: Rule, start: int, around: Surroundings = NOTHING_AROUND):
        self.sent: list[Sent] = []
        self.held: Counter[str] = Counter()
        self._store, self._delay, self._around = store, rule.query_delay_ms, around
        self._clock = VirtualClock(start)
        self._firing: list[tuple[int, tuple[Firing, ...]]] = []
        self._labels = {**around.rule_labels, rule.id: rule.labels}
        self._deliverer = self._made()
        self._repeats = {name: one.repeat_interval for name, one in around.receivers.items() if one.repeat_interval}
        self._next_at: dict[str, int] = {}
        self._remind_at: int | None = None
        self._held_ids: set[str] = set()

    def _made(self) -> Deliverer:
        around, wanted = self._around, self._around.receivers
        boxes = {
            name: _Box(self, name, wanted[name].send_resolved if name in wanted else True) for name in around.names
        }
        budget = Budget({name: one.budget_per_hour for name, one in wanted.items()}, self._store)
        flaps = Flaps({name: one.flaps_per_hour for name, one in wanted.items()}, self._store)
        stages = (
            flaps.stage, below_tier({name: Tier[one.min_tier.upper()] for name, one in wanted.items()}),
            inhibited(around.inhibit_rules, self._all_firing), muted(around.mute_windows), silenced(self._silences),
            budget.stage,
        )  # fmt: skip
        return Deliverer(
            self._store, boxes, stages=stages, budget=budget, flaps=flaps, observe=self._observe, clock=self._clock
        )

    def _all_firing(self, now: int) -> Sequence[Firing]:
        mine = self._firing[-1][1] if self._firing else ()
        return [*mine, *(one for line in self._around.others.values() for one in line.on(now))]

    def _silences(self, now: int) -> Sequence[Silence]:
        return [one for one in self._around.silences if one.created_at <= now]

    def committed(self, at: int, owed: int) -> None:
        """A slot is committed: tell what is owed."""
        self.until(at)
        if self._around.inhibit_rules:
            found = tuple(firing_of(one, self._labels.get(one.rule, {})) for one in self._store.open_incidents())
            self._firing.append((at + self._delay, found))
        if owed:
            for name in self._around.names:
                self._deliver(name, at + self._delay)
            if self._repeats:
                self._remind_at = self._remind_at or at + self._delay + MINUTE_MS

    def timeline(self) -> Timeline:
        """When which incidents were open; empty without rules of inhibition."""
        return Timeline(tuple(at for at, _ in self._firing), tuple(found for _, found in self._firing))

    def until(self, at: int) -> None:
        """Serve what was held back or is due again before the slot ``at`` is evaluated."""
        while (now := self._due()) is not None and now < at + self._delay:
            if self._remind_at is not None and self._remind_at <= now:
                self._remind(now)
            for name in [name for name, due in self._next_at.items() if due <= now]:
                self._deliver(name, now)

    def _due(self) -> int | None:
        times = [*self._next_at.values(), *([self._remind_at] if self._remind_at is not None else [])]
        return min(times, default=None)

    def _remind(self, now: int) -> None:
        """Every minute while something is open, as the daemon does."""
        self._remind_at = now + MINUTE_MS if self._store.open_incidents() else None
        if owed := reminders(self._store, self._repeats, now):
            self._store.enqueue(owed)
            for name in {one.receiver for one in owed}:
                self._next_at[name] = min(now, self._next_at.get(name, now))

    def _deliver(self, name: str, now: int) -> None:
        """One pass; ``now`` never runs backwards."""
        now = max(now, self._clock.now_ms())
        self._clock.advance_to(now)
        again = self._deliverer.deliver_once(name, now).next_at
        self._next_at.pop(name, None)
        if again is not None:
            self._next_at[name] = max(again, now + 1)

    def _observe(self, delivery: Delivery) -> None:
        if delivery.outcome == "dropped":
            self.held[delivery.reason] += 1
        elif delivery.outcome == "held" and delivery.notification.id not in self._held_ids:
            self._held_ids.add(delivery.notification.id)
            self.held[f"{delivery.reason} (told later if still true)"] += 1


class _Box:
    """A stand-in for a receiver: takes everything."""

    kind = "backtest"
    pace = Pace()

    def __init__(self, mail: Mail, name: str, send_resolved: bool):
        self._mail, self.name, self.send_resolved = mail, name, send_resolved

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        s = notification.statement
        self._mail.sent.append(Sent(now, s.reason.value, s.tier.word, s.incident, rendered.title, self.name))
        return Outcome(OutcomeKind.DELIVERED)

    def close(self) -> None:
        """Nothing is held."""
