"""``Threshold``: where each tier begins, as a cut on surprise.

Invariant: cuts never decrease from warning to emergency. A budget of c false alarms a period means that a sample may be
called anomalous with probability c / (samples in the period), so its cut is -log10 of that; feedback moves cuts from
there (see ``feedback.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from anomalyd.rule import Rule, TierPolicy
from anomalyd.score import TIERS, Tier

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Threshold:
    """Cuts on surprise by tier: warning, critical, emergency; infinity where the rule does not have the tier."""

    cuts: tuple[float, float, float]

    @property
    def lowest(self) -> float:
        """The cut where anything begins: the unit of ``anomaly_score``."""
        return min(self.cuts)

    def tier(self, surprise: float) -> Tier:
        """The highest tier whose cut the surprise exceeds."""
        return max((tier for tier in TIERS if surprise > self.cuts[tier - 1]), default=Tier.NONE)


def initial_threshold(rule: Rule, series: int = 1) -> Threshold:
    """The cuts a rule's tiers state, before any feedback; ``series`` shares a budget stated per rule."""
    cuts = [NEVER, NEVER, NEVER]
    for policy in rule.tiers:
        cuts[policy.tier - 1] = _cut(policy, rule.interval_ms, series)
    floor = 0.0
    for i, cut in enumerate(cuts):
        if cut < NEVER:
            floor = cuts[i] = max(cut, floor)
    return Threshold((cuts[0], cuts[1], cuts[2]))


def _cut(policy: TierPolicy, interval_ms: int, series: int) -> float:
    if policy.surprise is not None:
        return policy.surprise
    if policy.sigma is not None:
        return sigma_surprise(policy.sigma)
    if policy.budget is None:
        return NEVER  # begins by spread alone
    samples = policy.budget.period_ms / interval_ms * (series if policy.budget.per == "rule" else 1)
    return max(0.3, -math.log10(policy.budget.count / samples))


def sigma_surprise(sigma: float) -> float:
    """-log10 of a Gaussian's two-sided tail beyond ``sigma`` standard deviations."""
    tail = 2 * NormalDist().cdf(-abs(sigma))
    return -math.log10(tail) if tail > 0 else 300.0
