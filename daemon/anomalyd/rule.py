"""``Rule`` and ``RuleGroup``: what the user asked for, checked and ready to use.

Pure values. ``rules.py`` makes them from YAML; everything else only reads them. Durations are int milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from anomalyd.block import Labels
from anomalyd.clock import DAY_MS, MINUTE_MS, WEEK_MS
from anomalyd.holiday import Holidays
from anomalyd.intervals import Interval
from anomalyd.score import Tier

Direction: TypeAlias = Literal["up", "down", "both"]
Missing: TypeAlias = Literal["skip", "hold", "alert", "resolve"]
Mode: TypeAlias = Literal["live", "shadow"]

CHARTS = ("cusum", "ewma")
"""Detectors whose control limit is set by how far apart false alarms may be."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many false alarms a tier may cost while nothing is wrong: ``count`` in each ``period_ms``."""

    count: float
    period_ms: int
    per: Literal["series", "rule"] = "series"


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """When a tier begins. Exactly one of budget, surprise and sigma is set, or none where ``spread`` is.

    ``sigma`` is for the old school: the surprise of a Gaussian's two-sided tail beyond that many standard deviations.
    ``for_ms`` overrides the rule's ``for``.
    ``spread``: an incident is of this tier as well when this share of the group's series, and at least two, are in open
    episodes, of whatever tier.
    """

    tier: Tier
    budget: Budget | None = None
    surprise: float | None = None
    sigma: float | None = None
    for_ms: int | None = None
    spread: float | None = None

    @property
    def scored(self) -> bool:
        """Whether a single series can be of this tier, by its score."""
        return self.budget is not None or self.surprise is not None or self.sigma is not None


@dataclass(frozen=True, slots=True)
class MinDeviation:
    """A deviation from the expected value smaller than both is of no interest to the business.

    ``absolute`` in the series' unit, ``relative`` as a share of the expected value (0.2 is 20 %). Where both are given,
    both must be exceeded.
    """

    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True, slots=True)
class DataQuality:
    """How a rule's series are watched as data (see ``dataquality``).

    Attributes:
        mode: hold doubts what series with sudden gaps show, tell only tells of faults, ignore does nothing.
        factor: a run of one value or a silence is too long at so many times the longest there ever was.
        at_least_ms: and not before it has lasted this long.
    """

    mode: Literal["hold", "tell", "ignore"] = "hold"
    factor: float = 3.0
    at_least_ms: int = 30 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class FeedbackTerms:
    """How far votes may move a rule's cuts, where that differs from the settings; None: as they say.

    Attributes:
        enabled: False keeps votes and training as they are, and leaves the cuts alone.
        min_votes, max_factor, floor, half_life_ms: as in ``belief.FeedbackPolicy``.
    """

    enabled: bool = True
    min_votes: int | None = None
    max_factor: float | None = None
    floor: float | None = None
    half_life_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A detector by its YAML name with the parameters the user gave (checked by the detector's own ``Params``)."""

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def joint(self) -> bool:
        """Whether it scores vectors of several series and nothing else: those of a group have one score between them.

        An ensemble does if all of its members do.
        """
        members = self.members
        return all(member.joint for member in members) if members else _says_joint(self.params)

    @property
    def grouped(self) -> bool:
        """Whether it, or any member of an ensemble, scores vectors."""
        return _says_joint(self.params) or any(member.joint for member in self.members)

    @property
    def budgeted(self) -> bool:
        """Whether it, or any member of an ensemble, is a control chart that is to take its run length from the budget.

        Its scores depend on how often the rule allows a false alarm; those of all other detectors do not.
        """
        own = self.type in CHARTS and self.params.get("run_length") is None
        return own or any(member.budgeted for member in self.members)

    @property
    def members(self) -> tuple[DetectorSpec, ...]:
        """The members that an ensemble names."""
        given = self.params.get("members") if self.type == "ensemble" else None
        found = [m for m in given if isinstance(m, Mapping)] if isinstance(given, Sequence) else []
        return tuple(DetectorSpec(str(m.get("type")), m.get("params") or {}) for m in found)


def _says_joint(params: Mapping[str, Any]) -> bool:
    """As the detectors' own parameters read it."""
    return str(params.get("joint", False)).lower() in ("true", "yes", "on", "t", "y", "1")


@dataclass(frozen=True, slots=True)
class Rule:
    """One anomaly rule.

    Attributes:
        name: the value of ``anomaly:``, unique within its group; the ``alertname`` of its alerts.
        group: name of its group.
        expr: PromQL; each series of its result is watched.
        interval_ms: distance of slots, from the group.
        query_delay_ms: how far behind the clock a slot is queried, so that late samples are in.
        history_ms: how much past the detector learns from at start.
        accept_after_ms: an episode that lasts this long is taken for the new normal (0: never).
        dont_learn: times whose samples are scored and judged as any, and never learned from.
        refit_on_drift: fit anew when a series has come to behave otherwise than its model learned (see ``drift``).
        hold_ms: how long an unknown (error, partial, missing with `hold`) may last before the source itself is alerted.
        admit_after: a new series is watched when it was seen in this many slots (see ``door``).
        max_series: series beyond this many are not scored (verdict `limited`); series already watched come first.
        holidays: days of the rule's time zone that count as another day of the week.
        routed: the rule names no receivers; the settings' routes decide, ``receivers`` are the default ones.
        where: file:line of the rule, for messages.
    """

    name: str
    group: str
    expr: str
    source: str = "default"
    detector: DetectorSpec = DetectorSpec("auto")
    interval_ms: int = MINUTE_MS
    query_delay_ms: int = 30_000
    history_ms: int = 14 * DAY_MS
    refit_every_ms: int = DAY_MS
    direction: Direction = "both"
    min_deviation: MinDeviation = MinDeviation()
    valid_range: tuple[float, float] | None = None
    missing: Missing = "hold"
    for_ms: int = 0
    keep_firing_for_ms: int = 0
    accept_after_ms: int = DAY_MS
    hold_ms: int = 15 * MINUTE_MS
    tiers: tuple[TierPolicy, ...] = (TierPolicy(Tier.WARNING, Budget(1, WEEK_MS)),)
    learn: Literal["all", "normal_only"] = "normal_only"
    dont_learn: tuple[Interval, ...] = ()
    refit_on_drift: bool = True
    mode: Mode = "live"
    group_by: tuple[str, ...] = ()
    drop_labels: tuple[str, ...] = ()
    suppress_ms: int = 30 * MINUTE_MS
    data_quality: DataQuality = DataQuality()
    feedback: FeedbackTerms = FeedbackTerms()
    admit_after: int = 3
    max_series: int = 1_000
    partial_response: Literal["hold", "accept"] = "hold"
    timezone: str = "UTC"
    holidays: Holidays | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    receivers: tuple[str, ...] = ()
    routed: bool = False
    seed: int = 0
    where: str = ""

    @property
    def id(self) -> str:
        """Stable identity across reloads and restarts: ``group/name``."""
        return f"{self.group}/{self.name}"

    def learns_at(self, at: int) -> bool:
        """Whether samples of this time may be learned from."""
        return not any(interval.holds(at) for interval in self.dont_learn)

    def day_at(self, at: int) -> str:
        """What is said of the day of this time where it counts as another one; empty on any other day."""
        day = self.holidays.at(at, self.timezone) if self.holidays is not None else None
        return str(day) if day is not None else ""

    def unit_of(self, labels: Labels) -> Labels:
        """The label set that a series' episodes are kept under: its own, or of a joint rule that of its group."""
        if not self.detector.joint:
            return labels
        return tuple(pair for pair in labels if pair[0] in self.group_by)

    @property
    def first_tier(self) -> TierPolicy | None:
        """The lowest tier that a score can have: where alerts begin."""
        return min((policy for policy in self.tiers if policy.scored), key=lambda policy: policy.tier, default=None)

    @property
    def model_key(self) -> str:
        """Hash of what the learned state depends on: when it is unchanged by a reload, the state is kept."""
        parts = {
            "expr": self.expr,
            "source": self.source,
            "detector": asdict(self.detector),
            "interval": self.interval_ms,
            "delay": self.query_delay_ms,
            "history": self.history_ms,
            "drop": self.drop_labels,
            "timezone": self.timezone,
            "direction": self.direction,
            "seed": self.seed,
            "dont_learn": [asdict(interval) for interval in self.dont_learn],
        }
        if self.detector.grouped:
            parts["group_by"] = self.group_by
        first = self.first_tier if self.detector.budgeted else None
        if first is not None:
            parts["begins"] = [asdict(first.budget) if first.budget else None, first.surprise, first.sigma]
        if self.holidays is not None:
            parts["holidays"] = self.holidays.digest
        return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """Rules evaluated together, one after another, on one interval; at most one evaluation in flight."""

    name: str
    interval_ms: int
    rules: tuple[Rule, ...]
    file: str = ""

    @property
    def query_delay_ms(self) -> int:
        """How far behind the clock the group's slots are evaluated: the longest of its rules'."""
        return max((rule.query_delay_ms for rule in self.rules), default=0)
