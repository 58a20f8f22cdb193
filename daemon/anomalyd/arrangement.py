"""``Arrangement``: who is told of what and what keeps them quiet, as the settings say it.

The daemon, backtests and tests of rules build their ``Deliverer`` here and nowhere else, so all of them tell the same
people at the same times: routes, escalation, flapping, lowest tiers, inhibition, mute windows, silences, incidents
told together, budgets and reminders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from anomalyd.clock import Clock
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.escalate import Escalation, Step, last_receivers
from anomalyd.delivery.flap import Flaps
from anomalyd.delivery.hush import InhibitRule, MuteWindow
from anomalyd.delivery.needs import Delivery
from anomalyd.delivery.notices import NoticePolicy
from anomalyd.delivery.quiet import arrange
from anomalyd.delivery.routing import Route, receivers_for
from anomalyd.delivery.together import Company
from anomalyd.delivery.words import Words
from anomalyd.incident import Incident, Statement
from anomalyd.receivers.base import Receiver, ReceiverSettings
from anomalyd.records import Fence
from anomalyd.rule import Rule
from anomalyd.score import Tier
from anomalyd.settings import Settings
from anomalyd.store import Store


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What the settings say of telling people; ``receivers`` are by name."""

    receivers: Mapping[str, ReceiverSettings] = field(default_factory=dict)
    route: Route = field(default_factory=Route)
    mute_windows: tuple[MuteWindow, ...] = ()
    inhibit_rules: tuple[InhibitRule, ...] = ()
    together: Company | None = None
    escalation: tuple[Step, ...] = ()
    notices: NoticePolicy = field(default_factory=NoticePolicy)

    def recipients(self, rule: Rule, incident: Incident) -> Sequence[str]:
        """Who is told of an incident: at once, or in the end when nobody acknowledges it."""
        first = self.first(rule, dict(incident.group_labels), incident.tier)
        return tuple(dict.fromkeys((*first, *last_receivers(self.escalation, incident.tier))))

    def first(self, rule: Rule, group_labels: Mapping[str, str], tier: Tier) -> Sequence[str]:
        """The receivers that the rule names, or else those that the routes lead to."""
        if not rule.routed:
            return rule.receivers
        return receivers_for(self.route, {**group_labels, **rule.labels, "alertname": rule.name}, tier)

    def repeats(self) -> Mapping[str, int]:
        """How often each receiver is reminded of what is still open, milliseconds; 0: never."""
        return {name: receiver.repeat_interval for name, receiver in self.receivers.items()}


def arrangement_of(settings: Settings) -> Arrangement:
    """What these settings say."""
    s = settings
    return Arrangement(s.receivers, s.route, s.mute_windows, s.inhibit_rules, s.together, s.escalation, s.notices)


def deliverer_of(
    arrangement: Callable[[], Arrangement],
    store: Store,
    receivers: Mapping[str, Receiver],
    rule: Callable[[str], Rule | None],
    clock: Clock,
    *,
    words: Words | None = None,
    observe: Callable[[Delivery], None] = lambda delivery: None,
    fence: Callable[[], Fence | None] = lambda: None,
) -> Deliverer:
    """A deliverer with the stages that keep quiet.

    Args:
        arrangement: the one in force; who is told first is asked anew each time, all else is taken now.
        receivers: by name; what delivers to those of the arrangement.
        rule: a rule by its id; None for one that is gone.
    """
    now = arrangement()

    def labels_of(rule_id: str) -> Mapping[str, str]:
        found = rule(rule_id)
        return found.labels if found is not None else {}

    def day_of(s: Statement) -> str:
        """What is said of the day that it began on."""
        found = rule(s.rule)
        began = min((alert.started_at for alert in s.alerts), default=s.opened_at)
        return found.day_at(began) if found is not None else ""

    def told_first(s: Statement) -> Sequence[str]:
        """Of what has no rule, whoever is owed it."""
        found, one = rule(s.rule), arrangement()
        return tuple(one.receivers) if found is None else one.first(found, dict(s.group_labels), s.tier)

    stages, budget, together = arrange(
        store, now.receivers, receivers, labels_of, now.mute_windows, now.inhibit_rules, now.together
    )
    flaps = Flaps({name: one.flaps_per_hour for name, one in now.receivers.items()}, store)
    escalation = Escalation(now.escalation, store, told_first)
    return Deliverer(
        store, receivers, stages=(escalation.stage, flaps.stage, *stages), budget=budget, flaps=flaps,
        rewords=(escalation.reword,), words=replace(words or Words(), company=together.words, day=day_of),
        updates=together.updates, observe=observe, clock=clock, fence=fence,
        fallbacks={name: one.fallback for name, one in now.receivers.items()},
    )  # fmt: skip
