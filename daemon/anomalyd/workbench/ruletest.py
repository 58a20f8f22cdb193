"""Runs a rule test: the daemon's own evaluation and delivery, on recorded series, under a virtual clock.

What runs is what runs in production: ``Evaluator``, ``Deliverer`` and a store (SQLite in memory), driven by
``run_virtually``. Only the source and the receivers are stand-ins; whom they are told, and when again, is as the
settings say that the test names. The result is every episode and every delivered notification, held against what the
test expects; whatever it does not expect is a failure, so a test is also a promise of quiet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from anomalyd.arrangement import deliverer_of
from anomalyd.block import Block, Labels
from anomalyd.clock import VirtualClock
from anomalyd.daemon import Daemon, run_virtually
from anomalyd.durations import format_duration
from anomalyd.episode import Episode
from anomalyd.errors import SourceError
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason
from anomalyd.metrics import Metrics
from anomalyd.prometheus.throwaway import evaluated
from anomalyd.promql import reach_ms
from anomalyd.receivers.base import Pace
from anomalyd.recorded import RecordedSource
from anomalyd.render import Rendered
from anomalyd.rule import Rule, RuleGroup
from anomalyd.store import Store, open_store
from anomalyd.tell import named_receivers
from anomalyd.template import render_annotations
from anomalyd.workbench.nearest import Scored, nearest
from anomalyd.workbench.testfile import ExpectedEpisode, ExpectedNotification, RuleTest, shown

A = TypeVar("A")
E = TypeVar("E")


class RecordingReceiver:
    """Takes every notification and remembers when it came."""

    kind = "test"
    pace = Pace()

    def __init__(self, name: str, log: list[Sent], send_resolved: bool = True):
        self.name, self.send_resolved = name, send_resolved
        self._log = log

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        s = notification.statement
        self._log.append(Sent(now, s.reason.value, s.tier.word, self.name, rendered.title, s.rule))
        return Outcome(OutcomeKind.DELIVERED)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A notification as it was delivered; ``at`` in wall milliseconds."""

    at: int
    reason: str
    tier: str
    receiver: str
    title: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What living through a test gave: episodes that opened, in that order, and notifications."""

    episodes: tuple[Episode, ...]
    sent: tuple[Sent, ...]
    errors: tuple[str, ...] = ()
    scored: Scored = field(default_factory=Scored, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a test went: lines of a diff, empty when it passed (``-`` expected and absent, ``+`` unexpected)."""

    test: RuleTest
    outcomes: Outcomes
    diff: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.diff


def run_test(test: RuleTest, prometheus: str = "prometheus") -> Verdict:
    """Live through a test and hold the outcome against its expectations.

    ``prometheus`` is the program that evaluates raw series; ``ConfigError`` when it is needed and is none.
    """
    try:
        block = returned(test, prometheus)
    except (SourceError, ValueError) as error:
        return Verdict(test, Outcomes((), ()), (f"! {error}",))
    outcomes = live(test, block)
    lines = [f"! {error}" for error in outcomes.errors]
    if test.raw is not None and not len(block):
        lines.append("! the expression gives nothing for the raw series: compare names and labels with those in expr")
    wanted, got = _match(test.episodes, outcomes.episodes, lambda e, a: _fits(e, a, test.start))
    got = [a for a in got if not any(e.many and _fits(e, a, test.start) for e in test.episodes)]
    lines += [f"- episode {_wanted_episode(test.rule, e)}{_instead(test, e, got, outcomes)}" for e in wanted]
    lines += [f"+ episode {_got_episode(test.rule, a, test.start)}" for a in got]
    if test.notifications is not None:
        at = _data_time(test)
        missing, extra = _match(test.notifications, outcomes.sent, lambda e, a: _arrives(e, a, at(a)))
        lines += [f"- notification {_wanted_notification(e)}" for e in missing]
        lines += [f"+ notification {_got_notification(a, at(a), bool(test.beside))}" for a in extra]
    return Verdict(test, outcomes, tuple(lines))


def returned(test: RuleTest, prometheus: str) -> Block:
    """What the rule's expression returns: as the test gives it, or as a real Prometheus evaluates the raw series."""
    if test.raw is None:
        return test.block
    rule, raw = test.rule, test.raw
    block = evaluated(
        prometheus, raw.block, raw.stale, rule.expr, test.start - rule.history_ms, test.start + test.until,
        rule.interval_ms,
    )  # fmt: skip
    # A range that begins before the first sample is not full yet: no server that has run for long gives such values.
    unfilled = int(np.searchsorted(block.times, int(raw.block.times[0]) + reach_ms(rule.expr), side="right"))
    values = block.values.copy()
    values[:, :unfilled] = np.nan
    return Block(block.labels, block.times, values)


def live(test: RuleTest, block: Block) -> Outcomes:
    """Evaluate and deliver a test's rule over what its expression returns, and the rules beside it over theirs."""
    rule = test.rule
    clock = VirtualClock(test.start + rule.query_delay_ms + rule.interval_ms // 4)
    sent: list[Sent] = []
    store = open_store("sqlite://")
    try:
        daemon = _daemon(test, [(rule, block), *((one.rule, one.block) for one in test.beside)], store, clock, sent)
        # Until the last sample's slot was evaluated and what it owes was sent.
        run_virtually(daemon, clock, test.start + test.until + rule.query_delay_ms + rule.interval_ms // 2)
        episodes = [e for e in store.episodes(rule=rule.id, limit=100_000) if e.opened_at]
        slots = [slot for one in test.rules for slot in store.rule_slots(one.id, 0, 1 << 62)]
        failed = sorted({f"{slot.reason}: {slot.detail}" for slot in slots if slot.outcome == "error"})
        ordered = tuple(sorted(episodes, key=lambda e: (e.opened_at, e.labels)))
        return Outcomes(ordered, tuple(sent), tuple(failed), _scored(store, rule))
    finally:
        store.close()


def _daemon(
    test: RuleTest, given: Sequence[tuple[Rule, Block]], store: Store, clock: VirtualClock, sent: list[Sent]
) -> Daemon:
    inline, arrangement = InlineExecutor(), test.arrangement
    evaluator = Evaluator(
        store, {rule.source: RecordedSource({rule.expr: block}) for rule, block in given}, annotate=render_annotations,
        links=_no_links, fit=inline, background=inline,
        recipients=arrangement.recipients if arrangement.receivers else named_receivers,
    )  # fmt: skip
    for rule, _ in given:
        evaluator.add(rule)
    names = tuple(arrangement.receivers) or tuple(dict.fromkeys(n for rule, _ in given for n in rule.receivers))
    resolved = {name: one.send_resolved for name, one in arrangement.receivers.items()}
    receivers = {name: RecordingReceiver(name, sent, resolved.get(name, True)) for name in names}
    rules = {rule.id: rule for rule, _ in given}
    deliverer = deliverer_of(lambda: arrangement, store, receivers, rules.get, clock)
    return Daemon(store, evaluator, deliverer, Metrics(), clock, _groups(list(rules.values())),
                  repeats=arrangement.repeats)  # fmt: skip


def _groups(rules: Sequence[Rule]) -> list[RuleGroup]:
    names = dict.fromkeys(rule.group for rule in rules)
    members = {name: tuple(rule for rule in rules if rule.group == name) for name in names}
    return [RuleGroup(name, mine[0].interval_ms, mine) for name, mine in members.items()]


def _no_links(rule: Rule) -> Mapping[str, str]:
    return {}


def _match(expected: Sequence[E], actual: Sequence[A], fits: Callable[[E, A], bool]) -> tuple[list[E], list[A]]:
    """Pair each expectation with its own outcome; return what is left on either side.

    Pairs are found by augmenting paths, so overlapping windows never steal each other's only outcome.
    """
    owner: dict[int, int] = {}

    def find(i: int, tried: set[int]) -> bool:
        for j, outcome in enumerate(actual):
            if j not in tried and fits(expected[i], outcome):
                tried.add(j)
                if j not in owner or find(owner[j], tried):
                    owner[j] = i
                    return True
        return False

    missing = [expected[i] for i in range(len(expected)) if not find(i, set())]
    return missing, [outcome for j, outcome in enumerate(actual) if j not in owner]


def _fits(wanted: ExpectedEpisode, got: Episode, start: int) -> bool:
    closed = got.closed_at - start if got.closed_at else None
    return (
        set(wanted.series) <= set(got.labels)
        and got.opened_at - start in wanted.opens
        and wanted.tier in ("", got.tier.word)
        and wanted.close in ("", str(got.close or ""))
        and not (wanted.stays and closed is not None)
        and (wanted.closes is None or (closed is not None and closed in wanted.closes))
    )


def _data_time(test: RuleTest) -> Callable[[Sent], int]:
    """When the data were from that made us send, milliseconds since the start: the newest slot by then.

    Of an escalation the time itself: what nobody acknowledges waits from its slot on.
    """
    interval, delay = test.rule.interval_ms, test.rule.query_delay_ms

    def at(sent: Sent) -> int:
        waited = sent.reason == Reason.ESCALATED
        return (sent.at - (0 if waited else delay) - test.start) // interval * interval

    return at


def _arrives(wanted: ExpectedNotification, got: Sent, at: int) -> bool:
    return (
        at in wanted.at
        and wanted.reason == got.reason
        and wanted.tier in ("", got.tier)
        and wanted.receiver in ("", got.receiver)
        and wanted.rule in ("", got.rule, got.rule.rpartition("/")[2])
    )


def _series(rule: Rule, labels: Labels) -> str:
    return rule.name + shown(tuple(pair for pair in labels if pair[0] != "__name__"))


def _wanted_episode(rule: Rule, wanted: ExpectedEpisode) -> str:
    parts = [_series(rule, wanted.series), f"opens {wanted.opens}"]
    if wanted.stays:
        parts.append("stays open")
    if wanted.closes is not None:
        parts.append(f"closes {wanted.closes}")
    return ", ".join(parts + [word for word in (wanted.tier, wanted.close) if word])


def _got_episode(rule: Rule, got: Episode, start: int) -> str:
    parts = [_series(rule, got.labels), f"opened {format_duration(got.opened_at - start)}"]
    ended = f"closed {format_duration(got.closed_at - start)} ({got.close})" if got.closed_at else "still open"
    peak = f"peak {got.peak_value:.4g} where {got.peak_expected:.4g} was expected, surprise {got.peak_surprise:.1f}"
    if not math.isfinite(got.peak_value):
        peak = f"no sample ({got.why.name.lower()})"
    return ", ".join([*parts, ended, got.tier.word, peak])


def _scored(store: Store, rule: Rule) -> Scored:
    cuts = {slot.at: slot.cut for slot in store.rule_slots(rule.id, 0, 1 << 62)}
    slots = [(seen, cuts[seen.at]) for seen in store.scores(rule.id, 0, 1 << 62)]
    return Scored(slots, {row.row: row.labels for row in store.series(rule.id)})


def _instead(test: RuleTest, wanted: ExpectedEpisode, got: Sequence[Episode], outcomes: Outcomes) -> str:
    """How near it came, unless an episode that came otherwise than expected says it."""
    if any(set(wanted.series) <= set(other.labels) for other in got):
        return ""
    near = nearest(test.rule, wanted, outcomes.scored, test.start)
    return f"\n  {near}" if near else ""


def _wanted_notification(wanted: ExpectedNotification) -> str:
    return ", ".join(w for w in (f"at {wanted.at}", wanted.reason, wanted.tier, wanted.receiver, wanted.rule) if w)


def _got_notification(got: Sent, at: int, several: bool) -> str:
    """With the rule where the test has several."""
    rule = f", {got.rule}" if several else ""
    return f"at {format_duration(at)}, {got.reason}, {got.tier}, {got.receiver}{rule}: {got.title}"
