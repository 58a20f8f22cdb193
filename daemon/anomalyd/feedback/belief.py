"""From judgements to factors: what the votes make believe of the score above which alerts are real. Pure.

Everything is measured in anomaly scores, surprise divided by the rule's own lowest cut, so 1 is where the rule begins.
A series is taken to have a score m above which its alerts are real; P(real | score) is logistic in log(score / m) with
a share of wrong votes at either end. m has a log-normal prior around 1. The cut becomes the posterior mean of m. A
series that nobody has voted on follows its rule's m, which is estimated from the votes on all series. But an outage
shows on many series at once and noise does not: only votes on what was abnormal alone count for that, and only what is
abnormal alone is held to it.

The constants were chosen on labelled series (``make bench NAME=feedback``); what tells is that votes on alerts never
lower a cut, that one vote alone is not believed everything, and how few series were abnormal together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anomalyd.block import F64, Fingerprint
from anomalyd.clock import DAY_MS, MINUTE_MS

SLOPE = 8.0
"""How sharply real and false alarms part: at a score 15 % above m a vote is three times as likely "true"."""
WRONG = 0.04
"""Share of votes that are wrong whatever the score."""
SERIES_SPREAD = 0.5
"""Prior spread of log m of a series around 0: a single "false" on an alert far above the cut is rather a wrong vote."""
RULE_SPREAD = 0.1
"""Prior spread of log m of a rule around 0: narrow, since what is noise on one series is an outage on another."""
ALONE = 2
"""An alert is alone while no more series of its rule than this are abnormal, itself included."""
TOGETHER_MS = 10 * MINUTE_MS
"""For so long what begins counts as one with what began before."""
BEYOND = 2.0
"""A cut is raised to this multiple of the highest score that was called false at most."""
SERIES_WEIGHT_MAX = 4.0
"""Votes that one series counts for, at most, when its rule's m is estimated."""

TRUST_RIGHT, TRUST_VOTES = 9.0, 10.0
"""A voter of whom nothing is known is taken to be right in nine of ten cases, as if that had been seen ten times."""
LEAST_TRUST = 0.25


@dataclass(frozen=True, slots=True)
class FeedbackPolicy:
    """How far feedback may go.

    Attributes:
        min_votes: judged episodes of a series before its cut moves; for a rule's, more incidents than this.
        max_factor: a cut is raised to this multiple of the rule's own at most.
        max_factor_per_day: and within a day to this multiple of what it was.
        min_factor: a cut falls to this share of the rule's own at most.
        floor: surprise below which feedback brings no cut.
        half_life_ms: age at which a vote, or a moved cut, counts half.
        votes_per_person_per_day: more are refused.
    """

    min_votes: int = 1
    max_factor: float = 6.0
    max_factor_per_day: float = 3.0
    min_factor: float = 0.5
    floor: float = 1.5
    half_life_ms: int = 90 * DAY_MS
    votes_per_person_per_day: int = 50


@dataclass(frozen=True, slots=True)
class Judged:
    """An episode (or a missed span) with what people said of it.

    Attributes:
        score: anomaly score at its peak, against the rule's own lowest cut.
        real: share of the votes that call it real: 0, 1 or between where people disagree.
        weight: 1 for a fresh judgement, less as it ages.
        incident: of the episode: what was told together speaks for its rule once.
        alone: hardly another series of the rule was abnormal with it.
    """

    fingerprint: Fingerprint
    score: float
    real: float
    at: int
    weight: float = 1.0
    missed: bool = False
    incident: str = ""
    alone: bool = True


def trust(said: Iterable[Mapping[str, bool]]) -> dict[str, float]:
    """What each voter's word weighs, between ``LEAST_TRUST`` and 1, by how often others agreed on the same alerts.

    Args:
        said: for each alert, who called it real and who did not.
    """
    seen: Counter[str] = Counter()
    agreed: dict[str, float] = {}
    for alert in said:
        for who, real in alert.items():
            others = [word == real for other, word in alert.items() if other != who]
            seen[who] += bool(others)
            agreed[who] = agreed.get(who, 0.0) + (sum(others) / len(others) if others else 0.0)
    usual = TRUST_VOTES / TRUST_RIGHT
    word = {who: usual * (TRUST_RIGHT + agreed[who]) / (TRUST_VOTES + seen[who]) for who in agreed}
    return {who: max(LEAST_TRUST, min(1.0, weight)) for who, weight in word.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What is believed of log m: weights over a grid."""

    grid: F64
    weight: F64

    @property
    def mean(self) -> float:
        return float(self.grid @ self.weight)

    def real(self, score: float) -> float:
        """The probability that an alert with this anomaly score is real."""
        return float(_likely(math.log(max(score, 1e-6)), self.grid) @ self.weight)


def believe(judged: Sequence[Judged], centre: float, spread: float, policy: FeedbackPolicy) -> Posterior:
    """The posterior of log m after judgements, from a prior around ``centre``."""
    # Symmetric and wider than any factor: a prior that is cut off on one side would move a cut without a vote.
    reach = math.log(2 * policy.max_factor)
    grid = np.linspace(-reach, reach, 401)
    log_weight = -0.5 * ((grid - centre) / spread) ** 2
    for one in judged:
        likely = _likely(math.log(one.score), grid)
        log_weight += one.weight * (one.real * np.log(likely) + (1 - one.real) * np.log(1 - likely))
    weight = np.exp(log_weight - log_weight.max())
    return Posterior(grid, weight / weight.sum())


def _likely(log_score: float, grid: F64) -> F64:
    steep = np.clip(SLOPE * (log_score - grid), -50.0, 50.0)
    likely: F64 = WRONG + (1 - 2 * WRONG) / (1 + np.exp(-steep))
    return likely


def factors(judged: Sequence[Judged], policy: FeedbackPolicy) -> dict[Fingerprint, tuple[float, int]]:
    """The factor that the judgements ask for, unbounded by time, with their number, by fingerprint; "" is the rule's.

    A series with too few judgements of its own is not named: it follows its rule while it is abnormal alone.
    """
    own, lone = _by_series(judged), _by_series([one for one in judged if one.alone])
    asked: dict[Fingerprint, tuple[float, int]] = {}
    speaking = [one for mine in lone.values() for one in mine]
    if len(lone) >= 2 and len({one.incident for one in speaking}) > policy.min_votes:
        asked[""] = (_factor(_pooled(lone), RULE_SPREAD, policy), len(speaking))
    for name, mine in own.items():
        if len(mine) >= policy.min_votes or any(one.missed for one in mine):
            asked[name] = (_factor(mine, SERIES_SPREAD, policy), len(mine))
    return asked


def _by_series(judged: Sequence[Judged]) -> dict[Fingerprint, list[Judged]]:
    found: dict[Fingerprint, list[Judged]] = {}
    for one in judged:
        found.setdefault(one.fingerprint, []).append(one)
    return found


def _factor(judged: Sequence[Judged], spread: float, policy: FeedbackPolicy) -> float:
    """Votes on alerts only ever raise a cut, and not far beyond what was called false; what was missed may lower it."""
    factor = math.exp(believe(judged, 0.0, spread, policy).mean)
    lowest = policy.min_factor if any(one.missed for one in judged) else 1.0
    highest = max((one.score for one in judged if one.real < 0.5), default=1.0) * BEYOND
    return min(max(factor, lowest), max(highest, 1.0), policy.max_factor)


def _pooled(own: Mapping[Fingerprint, Sequence[Judged]]) -> list[Judged]:
    """All judgements, with limits: neither one noisy series nor one wide incident speaks for all the others."""
    told = Counter(one.incident for mine in own.values() for one in mine)
    pooled = []
    for mine in own.values():
        scale = min(1.0, SERIES_WEIGHT_MAX / max(1e-9, sum(one.weight for one in mine)))
        pooled += [replace(one, weight=one.weight * scale / told[one.incident]) for one in mine]
    return pooled
