"""Data quality: what is wrong with a rule's series as data, told as such before it can look like an anomaly. Pure.

Each series is held to its own past (``detectors/kernels/soundness.py``): gaps where there were none, one value over and
over in a series that always changes, every second sample the one before again, few different values where there were
many, values of another order of magnitude, silence longer than ever. All series of a rule that are faulty make one
incident of the rule's data quality, a warning to whoever its anomalies are told to; it ends when they are sound again.

Series with sudden gaps are doubted: what their remaining samples show opens an episode only as an emergency. A frozen,
coarse or far value is not doubted, since an outage can look the same; it is only told.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I8, I64, Block, Bool, Labels, fingerprint, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.incident import DATA_FAULTS, MAX_ALERTS, Alert, Incident, Notification, Reason, Statement
from anomalyd.render import label_text
from anomalyd.rule import Rule
from anomalyd.score import Scores, Tier

GROUP, NAME = "anomalyd", "DataQuality"
GAPS, FROZEN, REPEATS, RESOLUTION, RANGE, STALE = 1, 2, 4, 8, 16, 32
FAULTS: Mapping[int, str] = {
    GAPS: "gaps", STALE: "stale", FROZEN: "frozen", REPEATS: "repeats", RESOLUTION: "resolution", RANGE: "range",
}  # fmt: skip
"""Bits of a verdict by name, worst first."""

LINE, WORDS = 26, 4
_FLAGS, _SINCE, _SLOTS = 20, 21, 0

LEAST_SLOTS = 10
"""No run and no absence shorter than this is a fault, whatever the interval."""
LEAST_PAST = 240
"""Slots, and at least a day of them, before anything is told of a series."""
FORGET_MS = 14 * DAY_MS
"""The range of a series draws together by this much of its width in that time."""
MORE_MS = HOUR_MS
"""Further series of an incident are told no more often than this."""
SILENT_MS = DAY_MS
"""A series that was told stays quiet for so long at its receivers: the notices' own budget."""
STEADY_MS = HOUR_MS
"""A series that ends so soon after another has come is taken for replaced."""

_AT_ONCE = 256

Recipients = Callable[[Rule, Incident], Sequence[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """Samples that are doubted: ``held`` [R, T] for the series with these rows at these times."""

    rows: I64
    times: I64
    held: Bool

    def at(self, active: I64, times: I64) -> Bool:
        """Which samples [N, T] of these series are doubted."""
        place = np.searchsorted(self.rows, active)
        known = place < len(self.rows)
        known[known] = self.rows[place[known]] == active[known]
        column = np.searchsorted(self.times, times)
        inside = column < len(self.times)
        inside[inside] = self.times[column[inside]] == times[inside]
        found = np.zeros((len(active), len(times)), np.bool_)
        found[np.ix_(known, inside)] = self.held[np.ix_(place[known], column[inside])]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """What a rule knows of its series as data, in the order of its memory's active series.

    Attributes:
        lines, bits: the kernel's memory, [N, LINE] and [N, WORDS], with the slot since which each series is faulty.
        as_of: the newest slot looked at.
        told: rows of the series that the open incident has told of.
        told_at: when it was last told.
        calm_since: since when all series have been sound; 0 while they are not.
    """

    lines: F64 = field(default_factory=lambda: np.zeros((0, LINE)))
    bits: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, WORDS), np.uint64))
    as_of: int = 0
    incident: Incident | None = None
    told: frozenset[int] = frozenset()
    told_at: int = 0
    calm_since: int = 0

    def take(self, rows: I64) -> Quality:
        """Only these series, in this order."""
        return replace(self, lines=self.lines[rows], bits=self.bits[rows])

    def grown(self, more: int) -> Quality:
        """With so many new series behind."""
        lines = np.concatenate([self.lines, np.zeros((more, LINE))])
        return replace(self, lines=lines, bits=np.concatenate([self.bits, np.zeros((more, WORDS), np.uint64)]))

    def adopt(self, place: I64, learned: Quality) -> Quality:
        """Take from ``learned``, a history, what it knows longer; ``place``: where each series is in it, or -1."""
        known = place >= 0
        older = np.zeros(len(place), np.bool_)
        older[known] = learned.lines[place[known], _SLOTS] > self.lines[known, _SLOTS]
        if not older.any():
            return self
        lines, bits = self.lines.copy(), self.bits.copy()
        lines[older], bits[older] = learned.lines[place[older]], learned.bits[place[older]]
        return replace(self, lines=lines, bits=bits, as_of=learned.as_of if older.all() else self.as_of)

    def counts(self) -> dict[str, int]:
        """Number of series by fault."""
        flags = self.lines[:, _FLAGS].astype(np.int64)
        return {name: int((flags & bit > 0).sum()) for bit, name in FAULTS.items()}

    def faults(self) -> dict[int, tuple[str, ...]]:
        """The faults of each series that has any, by its position."""
        flags = self.lines[:, _FLAGS].astype(np.int64)
        return {int(i): names_of(int(flags[i])) for i in np.nonzero(flags)[0]}


def names_of(flags: int) -> tuple[str, ...]:
    """Faults by name, worst first."""
    return tuple(name for bit, name in FAULTS.items() if flags & bit)


def look_over(
    quality: Quality, ward: Ward, fresh: Block, last_seen: I64, newest: int, missed: bool
) -> tuple[Quality, Doubt | None, list[Found]]:
    """See what is wrong with samples as data: what is known then, what is doubted, what is to be told of each column.

    Args:
        last_seen: when each series last had a sample before ``fresh`` [N].
        newest: when the rule's newest series was first seen.
        missed: whether the silence of a series is of interest: see ``steady``.
    """
    known = int(np.searchsorted(fresh.times, quality.as_of, side="right"))  # looked at before: a fit lives them again
    quality, flags = observe(ward.rule, quality, fresh)
    flags = steady(flags, fresh, last_seen, newest, missed)
    doubt = doubt_of(ward.rule, ward.rows, fresh.times, flags)
    quality, found = tell_quality(quality, flags[:, known:], fresh.times[known:], ward)
    return quality, doubt, [replace(one, column=one.column + known) for one in found]


def observe(rule: Rule, quality: Quality, fresh: Block) -> tuple[Quality, I8]:
    """Look at the columns of ``fresh`` [N, T] that are news; return what is known then, and the faults [N, T]."""
    flags: I8 = np.zeros(fresh.values.shape, np.int8)
    known = int(np.searchsorted(fresh.times, quality.as_of, side="right"))
    if rule.data_quality.mode == "ignore" or known == len(fresh.times) or not len(fresh):
        return quality, flags
    from anomalyd.detectors.kernels.soundness import soundness

    policy, step = rule.data_quality, rule.interval_ms
    lines, bits = quality.lines.copy(), quality.bits.copy()
    news = np.zeros((len(fresh), len(fresh.times) - known), np.int8)
    soundness(
        np.ascontiguousarray(fresh.values[:, known:]), lines, bits, news,
        float(max(LEAST_PAST, DAY_MS // step)), policy.factor, float(max(LEAST_SLOTS, policy.at_least_ms // step)),
        float(max(LEAST_PAST, DAY_MS // step)), step / FORGET_MS,
    )  # fmt: skip
    flags[:, known:] = news
    return replace(quality, lines=lines, bits=bits, as_of=int(fresh.times[-1])), flags


def past_quality(rule: Rule, history: Block) -> Quality:
    """What a history [N, T] teaches about its series as data."""
    quality = Quality(as_of=int(history.times[-1]) if len(history.times) else 0)
    parts = []
    for first in range(0, len(history), _AT_ONCE):
        rows = np.arange(first, min(first + _AT_ONCE, len(history)))
        parts.append(observe(rule, Quality().grown(len(rows)), history.take(rows))[0])
    if not parts:
        return quality
    lines, bits = (np.concatenate([getattr(part, name) for part in parts]) for name in ("lines", "bits"))
    return replace(quality, lines=lines, bits=bits)


def positions(rows: I64, active: I64) -> I64:
    """Where each of ``active`` is among ``rows``, or -1."""
    place = {int(row): i for i, row in enumerate(rows)}
    return np.array([place.get(row, -1) for row in active.tolist()], np.int64)


def doubt_of(rule: Rule, active: I64, times: I64, flags: I8) -> Doubt | None:
    """The samples that are doubted; None where none is."""
    held = flags & GAPS > 0
    if rule.data_quality.mode != "hold" or not held.any():
        return None
    rows = np.nonzero(held.any(axis=1))[0]
    order = rows[np.argsort(active[rows], kind="stable")]
    return Doubt(active[order], times, held[order])


def doubted(doubt: Doubt | None, active: I64, times: I64, scores: Scores, cuts: F64) -> Scores:
    """The scores with doubted samples set apart, but for emergencies: an episode goes on, and none opens by them."""
    if doubt is None:
        return scores
    held = doubt.at(active, times) & ~(scores.surprise > cuts[:, Tier.EMERGENCY - 1][:, None])
    page = scores.surprise if scores.page is None else scores.page
    return replace(scores, page=np.where(held, -np.inf, page))


def quality_rule(rule_id: str) -> str:
    """The rule id under which the incidents of a rule's data quality are stored."""
    return f"{GROUP}/{NAME}/{rule_id}"


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be written and told of one column."""

    column: int
    incident: Incident
    outbox: tuple[Notification, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Ward:
    """A rule's series for the telling: their rows and label sets, and who is told."""

    rule: Rule
    rows: I64
    labels: tuple[Labels, ...]
    recipients: Recipients
    links: Mapping[str, str]


def tell_quality(quality: Quality, flags: I8, times: I64, ward: Ward) -> tuple[Quality, list[Found]]:
    """Open, widen and close the incident of a rule's data quality, column by column."""
    found: list[Found] = []
    since = quality.lines[:, _SINCE].copy()
    if quality.incident is None and not flags.any() and not since.any():
        return quality, found
    for column in range(flags.shape[1]):
        at, faulty = int(times[column]), flags[:, column]
        since = np.where(faulty == 0, 0.0, np.where(since == 0.0, at, since))
        quality, one = _tell_column(quality, faulty, at, ward)
        if one is not None:
            statement = _statement(ward, one[0], one[1], faulty, since, at)
            found.append(Found(column, one[0], _outbox(ward, one[0], statement)))
    lines = quality.lines.copy()
    lines[:, _SINCE] = since
    return replace(quality, lines=lines), found


def end_quality(quality: Quality, ward: Ward, at: int) -> Found | None:
    """The end of an open incident whose rule goes away."""
    if quality.incident is None:
        return None
    closed = replace(quality.incident, closed_at=at)
    statement = _statement(ward, closed, Reason.RESOLVED, np.zeros(0, np.int8), np.zeros(0), at)
    return Found(0, closed, _outbox(ward, closed, statement))


def _tell_column(
    quality: Quality, flags: I8, at: int, ward: Ward
) -> tuple[Quality, tuple[Incident, Reason] | None]:
    faulty = frozenset(ward.rows[np.nonzero(flags)[0]].tolist())
    incident = quality.incident
    if incident is None:
        if not faulty:
            return quality, None
        incident = _opened(ward.rule, at, len(faulty))
        return replace(quality, incident=incident, told=faulty, told_at=at, calm_since=0), (incident, Reason.NEW)
    if not faulty:
        calm_since = quality.calm_since or at
        if at - calm_since < ward.rule.data_quality.at_least_ms:
            return replace(quality, calm_since=calm_since), None
        closed = replace(incident, closed_at=at)
        return replace(quality, incident=None, told=frozenset(), calm_since=0), (closed, Reason.RESOLVED)
    quality = replace(quality, calm_since=0)
    if not quality.told:  # after a restart: what is faulty now was told before
        return replace(quality, told=faulty, told_at=at), None
    if faulty <= quality.told or at - quality.told_at < MORE_MS:
        return quality, None
    told = quality.told | faulty
    incident = replace(incident, episodes=len(told))
    return replace(quality, incident=incident, told=told, told_at=at), (incident, Reason.MORE)


def _opened(rule: Rule, at: int, series: int) -> Incident:
    key = hashlib.sha256(quality_rule(rule.id).encode()).hexdigest()
    identity = hashlib.blake2b(f"{key}\0{at}".encode(), digest_size=10).hexdigest()
    labels = make_labels({"kind": "data_quality", "rule": rule.id})
    return Incident(identity, key, quality_rule(rule.id), labels, Tier.WARNING, at, episodes=series)


def _statement(
    ward: Ward, incident: Incident, reason: Reason, flags: I8, since: F64, at: int
) -> Statement:
    if reason == Reason.RESOLVED:
        alerts: tuple[Alert, ...] = (_alert(ward, incident, "frozen", (), at, at, True),)
        total, summary = 1, f"Data of {ward.rule.name}: all series are sound again."
    else:
        faulty = np.nonzero(flags)[0]
        worst = [names_of(int(flags[i]))[0] for i in faulty.tolist()]
        alerts = _ranked(ward, incident, faulty, worst, since, at)
        total, summary = len(faulty), _summary(ward.rule, worst, alerts[0])
    return Statement(
        incident=incident.id, key=incident.key, rule=incident.rule, group=GROUP, name=NAME, expr=ward.rule.expr,
        detector="", reason=reason, tier=incident.tier, at=at, opened_at=incident.opened_at,
        group_labels=incident.group_labels, labels=dict(ward.rule.labels), annotations={"summary": summary},
        alerts=alerts, total=total, links=ward.links, suppress_ms=SILENT_MS,
    )  # fmt: skip


def _ranked(
    ward: Ward, incident: Incident, faulty: I64, worst: list[str], since: F64, at: int
) -> tuple[Alert, ...]:
    """The worst faults first, of these the oldest."""
    since = since[faulty]
    rank = {name: place for place, name in enumerate(FAULTS.values())}
    order = sorted(range(len(faulty)), key=lambda i: (rank[worst[i]], since[i], ward.labels[faulty[i]]))
    return tuple(
        _alert(ward, incident, worst[i], ward.labels[faulty[i]], int(since[i]), at, False) for i in order[:MAX_ALERTS]
    )


def _summary(rule: Rule, worst: list[str], lead: Alert) -> str:
    parts = "; ".join(f"{count} series {DATA_FAULTS[name]}" for name, count in _by_rank(worst))
    of = f" ({'' if len(worst) == 1 else 'first '}{label_text(lead.labels, 160)})" if lead.labels else ""
    return f"Data of {rule.name}: {parts}{of}. Anomalies there may be faults of the data."


def _by_rank(worst: list[str]) -> list[tuple[str, int]]:
    counts = Counter(worst)
    return [(name, counts[name]) for name in FAULTS.values() if counts[name]]


def _alert(
    ward: Ward, incident: Incident, why: str, labels: Labels, since: int, at: int, resolved: bool
) -> Alert:
    labels = labels or incident.group_labels
    return Alert(
        episode=incident.id, fingerprint=fingerprint(labels), labels=labels, tier=incident.tier,
        status="resolved" if resolved else "firing", why=why, value=None, expected=None, lower=None, upper=None,
        surprise=None, anomaly_score=None, started_at=incident.opened_at if resolved else since,
        opened_at=incident.opened_at, closed_at=at if resolved else 0, close="recovered" if resolved else "",
    )  # fmt: skip


def _outbox(ward: Ward, incident: Incident, statement: Statement) -> tuple[Notification, ...]:
    if ward.rule.mode != "live":
        return ()

    def identity(receiver: str) -> str:
        parts = f"{statement.incident}\0{statement.reason}\0{statement.at}\0{receiver}"
        return hashlib.blake2b(parts.encode(), digest_size=12).hexdigest()

    receivers = ward.recipients(ward.rule, incident)
    return tuple(Notification(identity(receiver), receiver, statement, statement.at) for receiver in receivers)


def steady(flags: I8, fresh: Block, last_seen: I64, newest: int, allowed: bool) -> I8:
    """The faults without the silence of series that were replaced, or of a rule whose series come and go.

    Args:
        last_seen: when each series last had a sample before ``fresh`` [N].
        newest: when the rule's newest series was first seen.
        allowed: the rule waits for series that are away, and none of its series has ever gone for good.
    """
    silent = flags & STALE > 0
    if not silent.any():
        return flags
    kept = flags.copy()
    for i, t in zip(*np.nonzero(silent), strict=True):
        here = np.nonzero(np.isfinite(fresh.values[i, :t]))[0]
        since = int(fresh.times[here[-1]]) if len(here) else int(last_seen[i])
        if not allowed or since - STEADY_MS < newest:
            kept[i, t] &= ~STALE
    return kept
