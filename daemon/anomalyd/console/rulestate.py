"""How a rule fares: whether it is alive, deaf or noisy, from what the daemon and the store know anyway.

Invariant: it only reads. What one slot gave is read from one memory, which never changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anomalyd.clock import SECOND_MS, WEEK_MS
from anomalyd.console.parts import Parts
from anomalyd.console.peace import Peace, peace_of
from anomalyd.durations import format_duration
from anomalyd.episode import Episode
from anomalyd.errors import redact_urls
from anomalyd.evaluation.memory import Memory
from anomalyd.evaluation.rulerun import Attendance, RuleRun
from anomalyd.feedback.cuts import policy_of
from anomalyd.feedback.votes import counted, labels_of
from anomalyd.incident import DATA_FAULTS
from anomalyd.records import VERDICTS, Feedback, FeedbackLabel, RuleSlotRow, Silence
from anomalyd.render import clean, span
from anomalyd.rule import Rule
from anomalyd.score import Kind
from anomalyd.threshold import NEVER, initial_threshold

MOST_ALERTS = 5_000
"""Alerts of the last week that are counted, of all rules together."""
PATIENCE_MS = 30 * SECOND_MS
FEW = 3
"""No rule is called noisy for fewer alerts, or fewer judged ones, than this."""
RAISED = 1.25
ORDER = ("emergency", "critical", "warning", "")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing to know of a rule: a word, how grave (a tier's word, empty for none), and a sentence."""

    word: str
    tier: str
    text: str


@dataclass(frozen=True, slots=True)
class Counts:
    """A rule's series in its newest slot.

    Attributes:
        scored: those that are watched; ``young``, ``warming``, ``missing``, ``faulty`` and ``stale`` are some of them.
        waiting, limited, duplicate: at the door, beyond the limit, twins: not scored.
        gone: let go after they had long been away.
    """

    scored: int = 0
    young: int = 0
    warming: int = 0
    missing: int = 0
    faulty: int = 0
    stale: int = 0
    waiting: int = 0
    limited: int = 0
    duplicate: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """Alerts of the last seven days, and how many false ones the lowest tier's budget allows; NaN if it has none."""

    alerts: int
    incidents: int
    allowed: float
    more: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """How many alerts people judged, and how many of them were real."""

    real: int
    of: int


@dataclass(frozen=True, slots=True)
class RuleState:
    """One rule now; ``at`` is its group's newest slot (0: none as yet), ``slot`` how the rule fared in it."""

    rule: Rule
    run: RuleRun | None
    at: int
    slot: RuleSlotRow | None
    counts: Counts
    spent: Spent
    judged: Judged
    peace: Peace
    troubles: tuple[Trouble, ...]

    @property
    def rank(self) -> int:
        """0 for what is gravest."""
        return min((ORDER.index(one.tier) for one in self.troubles), default=len(ORDER))

    @property
    def worst(self) -> Trouble:
        """What the badge says."""
        return min(self.troubles, key=lambda one: ORDER.index(one.tier), default=FINE)


FINE = Trouble("fine", "", "")


@dataclass(frozen=True, slots=True)
class Sight:
    """What is read once for all rules."""

    now: int
    newest: Mapping[str, int | None]
    delay: Mapping[str, int]
    alerts: Mapping[str, Sequence[Episode]]
    more: bool
    votes: Mapping[str, Sequence[Feedback]]
    silences: Sequence[Silence]


def sight_of(parts: Parts, rules: Iterable[Rule], only: str | None = None) -> Sight:
    """Read what the states of these rules need; ``only``: of one rule."""
    now, store, delay = parts.clock.now_ms(), parts.store, dict[str, int]()
    wanted = list(rules)
    for rule in parts.rules().values():
        delay[rule.group] = max(delay.get(rule.group, 0), rule.query_delay_ms)
    newest = {group: store.last_slot(group) for group in {rule.group for rule in wanted}}
    found = store.episodes(rule=only, start=now - WEEK_MS, limit=MOST_ALERTS)
    alerts: dict[str, list[Episode]] = {}
    for episode in found:
        if episode.opened_at >= now - WEEK_MS:
            alerts.setdefault(episode.rule, []).append(episode)
    votes: dict[str, list[Feedback]] = {}
    for vote in store.feedback(rule=only):
        votes.setdefault(vote.rule, []).append(vote)
    return Sight(now, newest, delay, alerts, len(found) == MOST_ALERTS, votes, store.silences(now))


def state_of(parts: Parts, rule: Rule, sight: Sight) -> RuleState:
    """How a rule fares."""
    run, at = parts.run(rule.id), sight.newest.get(rule.group) or 0
    rows = parts.store.rule_slots(rule.id, at, at + 1) if at else []
    slot = rows[0] if rows else None
    memory = run.memory if run is not None else None
    counts = _counts(memory, parts.attendance(rule.id), slot)
    votes = counted(sight.votes.get(rule.id, ()), policy_of(rule, parts.ballot.policy))
    said = [label for label in labels_of(votes).values() if label in VERDICTS]
    judged = Judged(said.count(FeedbackLabel.TRUE), len(said))
    told = sight.alerts.get(rule.id, ())
    spent = Spent(len(told), len({e.incident or e.id for e in told}), _allowed(rule, memory, counts), sight.more)
    peace = peace_of(rule, sight.silences, parts.settings().mute_windows, sight.now)
    state = RuleState(rule, run, at, slot, counts, spent, judged, peace, ())
    return RuleState(rule, run, at, slot, counts, spent, judged, peace, tuple(_troubles(state, sight)))


def _counts(memory: Memory | None, seen: Attendance | None, slot: RuleSlotRow | None) -> Counts:
    if memory is None or seen is None:
        kinds = slot.counts if slot is not None else {}
        scored = slot.series if slot is not None else 0
        return Counts(scored, warming=kinds.get("warming_up", 0), missing=kinds.get("missing", 0))
    last = memory.last
    kind = last.verdicts.kind if last is not None else np.zeros(0, np.int8)
    young = int((last.learned > 0).sum()) if last is not None and last.learned is not None else 0
    stale = sum("stale" in faults for _, faults in seen.faulty)
    registry = memory.registry
    return Counts(
        seen.watched, young, int((kind == Kind.WARMING_UP).sum()), int((kind == Kind.MISSING).sum()), len(seen.faulty),
        stale, seen.waiting, seen.limited, seen.duplicate, max(0, registry.next_row - len(registry.rows)),
    )  # fmt: skip


def units_of(memory: Memory | None, counts: Counts) -> int:
    """How many series, or groups of a joint rule, may have an episode of their own."""
    return len(np.unique(memory.units)) if memory is not None and len(memory.active) else counts.scored


def _allowed(rule: Rule, memory: Memory | None, counts: Counts) -> float:
    units = units_of(memory, counts)
    cut = initial_threshold(rule, max(1, units)).lowest
    return units * WEEK_MS / rule.interval_ms * 10**-cut if units and cut < NEVER else math.nan


# What there is to know, in words -------------------------------------------------------------------------------------


def _troubles(state: RuleState, sight: Sight) -> Iterator[Trouble]:
    yield from _life(state, sight)
    yield from _hearing(state)
    yield from _voice(state)
    yield from _noise(state)


def _life(state: RuleState, sight: Sight) -> Iterator[Trouble]:
    """Whether it is evaluated."""
    rule, slot, every = state.rule, state.slot, format_duration(state.rule.interval_ms)
    if not state.at:
        yield Trouble("new", "warning", f"No slot has been evaluated yet; one is due every {every}.")
        return
    late = sight.now - state.at - sight.delay.get(rule.group, 0)
    if late > 2 * rule.interval_ms + PATIENCE_MS:
        text = f"No slot for {span(sight.now - state.at)}; one is due every {every}. The log says why."
        yield Trouble("late", "emergency", text)
    if slot is None:
        yield Trouble("new", "warning", "It was not evaluated in its group's newest slot; the next one has it.")
    elif slot.outcome != "ok":
        detail = redact_urls(clean(slot.detail, 400)).rstrip(".")
        said = f"{slot.reason}: {detail}" if detail else slot.reason or slot.outcome
        if slot.outcome == "error":
            yield Trouble("error", "emergency", f"The newest slot failed, {said}. Nothing opens or resolves by it.")
        elif slot.outcome == "partial":
            yield Trouble("partial", "critical", f"The source answered in part, {said}. Unknown is not normal.")
    failed = state.run.failed if state.run is not None else None
    if failed is not None and failed.times:
        text = f"{failed.times} fits in a row failed: {redact_urls(clean(failed.text, 300))}. "
        blind = state.run is None or state.run.memory.state is None
        text += "It has no model." if blind else "The model there is goes on."
        yield Trouble("no fit", "critical" if blind else "warning", text)


def _hearing(state: RuleState) -> Iterator[Trouble]:
    """Whether what it should watch is watched."""
    c, slot = state.counts, state.slot
    answered = slot is not None and slot.outcome != "error"
    if answered and not c.scored:
        if c.waiting:
            text = f"{c.waiting:,} new series wait until they were seen in {state.rule.admit_after} slots."
            yield Trouble("waiting", "warning", text)
        else:
            yield Trouble("deaf", "critical", "The expression finds no series: does the metric still exist?")
    elif answered and c.missing == c.scored > 0:
        yield Trouble("deaf", "critical", "None of its series has a sample now.")
    elif answered and c.warming and c.warming + c.missing == c.scored:
        yield Trouble("learning", "warning", "It is learning; until then nothing is scored.")
    if c.limited:
        text = f"{c.limited:,} series beyond max_series ({state.rule.max_series:,}) are not scored."
        yield Trouble("limited", "warning", text)
    if c.faulty and state.run is not None and state.run.attendance is not None:
        names = {name for _, faults in state.run.attendance.faulty for name in faults}
        words = "; ".join(words for name, words in DATA_FAULTS.items() if name in names)
        yield Trouble("data", "warning", f"{c.faulty:,} of {c.scored:,} series have faulty data: {words}.")


def _voice(state: RuleState) -> Iterator[Trouble]:
    """Whether anybody would be told."""
    rule, memory = state.rule, state.run.memory if state.run is not None else None
    if rule.mode == "shadow":
        yield Trouble("shadow", "", "In shadow mode: it is stored, and nobody is told.")
    elif not rule.receivers and not rule.routed:
        yield Trouble("deaf", "critical", "It names no receivers: nobody is told.")
    if state.peace.whole and rule.mode == "live":
        yield Trouble("muted", "warning", f"Nobody is told now: {'; '.join(state.peace.whole)}.")
    own = initial_threshold(rule, max(1, units_of(memory, state.counts))).lowest
    if memory is not None and len(memory.cuts) and own < NEVER:
        lowest = memory.cuts.min(axis=1) / own
        if raised := int((lowest > RAISED).sum()):
            text = f"Votes have raised the threshold of {raised:,} of {len(lowest):,} series, "
            yield Trouble("raised", "", text + f"up to {lowest.max():.1f} times the surprise.")


def _noise(state: RuleState) -> Iterator[Trouble]:
    """Whether it tells too much."""
    s, j = state.spent, state.judged
    if s.alerts > FEW and s.alerts > 2 * max(1.0, s.allowed):
        text = f"{s.alerts:,} alerts in 7 days; the budget has room for {amount(s.allowed)} false. "
        yield Trouble("noisy", "warning", text + "Unless they were real: direction, min_deviation and for spare most.")
    if j.of > FEW and j.real * 2 < j.of:
        yield Trouble("noisy", "warning", f"Only {j.real} of {j.of} judged alerts were real.")


def amount(count: float) -> str:
    """A number of alerts as people say it."""
    return f"{count:,.0f}" if count >= 10 else f"{count:.1f}".removesuffix(".0") if count >= 0.1 else "less than 0.1"


def ago(ms: int, now: int) -> str:
    """How long ago, or how far ahead."""
    return f"in {span(ms - now)}" if ms > now else f"{span(now - ms)} ago"


