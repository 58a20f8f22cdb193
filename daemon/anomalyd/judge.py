"""From scores to verdicts: cuts, direction, business facts. Pure and over whole slots.

Precedence, tested whole: no finite sample → missing · outside ``valid_range`` → anomalous at the lowest tier whatever
the score · no surprise yet → warming up · surprise at or below the cut → ok · above it, but no news, or doubted, and no
episode that could go on → ok · wrong direction → ok · deviation below ``min_deviation`` → ok · else anomalous at the
highest tier whose cut is exceeded, but in a young series at the tier warning, and where the rule has none it is still
warming up. A series that is missing while the rule says `missing: alert` is anomalous at the lowest tier.
"""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, I8, Bool
from anomalyd.rule import Rule
from anomalyd.score import TIERS, Kind, Tier, Verdicts, Why
from anomalyd.threshold import NEVER


def judge(
    rule: Rule, value: F64, expected: F64, surprise: F64, cuts: F64, page: F64 | None = None, live: Bool | None = None,
    young: Bool | None = None, side: F64 | None = None, own: float = NEVER,
) -> Verdicts:  # fmt: skip
    """Give each of N series its verdict for one slot.

    Args:
        value, expected, surprise: [N]; NaN where there is none.
        cuts: [N, 3], each series' cut per tier, infinity where the rule does not have the tier.
        page: [N], the surprise with which an episode may open, minus infinity where the sample is doubted; None where
            that is ``surprise``.
        live: [N], which series are in an episode, pending or open; None where none is.
        young: [N], which series are too young to be known well; None where none is.
        side: [N], what the score speaks of where that is not for the single sample to say: above 0 a rise, below 0 a
            fall, else the side of ``expected`` that the value is on.
        own: the rule's own lowest cut, where votes have moved ``cuts``: what is news above it stays news until the
            series is back below it, and is held while it is not above the moved cut.
    """
    n = len(value)
    kind, tier, why = np.zeros(n, np.int8), np.zeros(n, np.int8), np.zeros(n, np.int8)
    lowest = lowest_tier(rule)
    missing = ~np.isfinite(value)
    outside = _outside(rule, value, missing)
    warming = ~missing & ~np.isfinite(surprise)
    moved = cuts.min(axis=1)
    lowest_cut = np.minimum(moved, own)
    above = ~missing & ~warming & (surprise > lowest_cut)
    news = _news(page, live, lowest_cut)
    why[above & ~news] = Why.NO_NEWS
    if page is not None:
        why[above & ~news & np.isneginf(page)] = Why.DOUBTED
    above &= news

    kind[warming] = Kind.WARMING_UP
    wrong_side = above & _wrong_side(rule, value, expected, side)
    too_small = above & ~wrong_side & _too_small(rule, value, expected)
    why[wrong_side], why[too_small] = Why.DIRECTION, Why.MIN_DEVIATION
    anomalous = above & ~wrong_side & ~too_small
    held = anomalous & ~(surprise > moved)
    why[held] = Why.HELD
    anomalous &= ~held
    kind[anomalous], why[anomalous] = Kind.ANOMALOUS, Why.SURPRISE
    for each in TIERS:
        exceeded = anomalous & (cuts[:, each - 1] < NEVER) & (surprise > cuts[:, each - 1])
        tier[exceeded] = each
    if young is not None:
        capped, silent = anomalous & young, anomalous & young & ~(cuts[:, 0] < NEVER)
        tier[capped], why[capped] = Tier.WARNING, Why.YOUNG
        kind[silent], tier[silent] = Kind.WARMING_UP, Tier.NONE

    kind[outside], why[outside] = Kind.ANOMALOUS, Why.OUT_OF_RANGE
    tier[outside] = np.maximum(tier[outside], lowest)
    kind[missing] = Kind.MISSING
    if rule.missing == "alert":
        kind[missing], tier[missing], why[missing] = Kind.ANOMALOUS, lowest, Why.ABSENT
    return Verdicts(kind, tier, why)


def uniform(kind: Kind, n: int) -> Verdicts:
    """The same verdict for N series: a slot that failed, was partial, or is beyond a limit."""
    zeros: I8 = np.zeros(n, np.int8)
    return Verdicts(np.full(n, kind, np.int8), zeros, zeros.copy())


def lowest_tier(rule: Rule) -> Tier:
    """The first tier a rule has for a series."""
    return min(policy.tier for policy in rule.tiers if policy.scored)


def _news(page: F64 | None, live: Bool | None, cut: F64) -> Bool:
    """Where an episode may open, or is there to go on."""
    if page is None:
        return np.ones(len(cut), np.bool_)
    opens: Bool = np.nan_to_num(page) > cut
    return opens if live is None else opens | live


def _outside(rule: Rule, value: F64, missing: Bool) -> Bool:
    if rule.valid_range is None:
        return np.zeros(len(value), np.bool_)
    low, high = rule.valid_range
    result: Bool = ~missing & ((value < low) | (value > high))
    return result


def _wrong_side(rule: Rule, value: F64, expected: F64, side: F64 | None) -> Bool:
    if rule.direction == "both":
        return np.zeros(len(value), np.bool_)
    away = value - expected if side is None else np.where(np.nan_to_num(side) != 0, side, value - expected)
    result: Bool = away < 0 if rule.direction == "up" else away > 0
    return result


def _too_small(rule: Rule, value: F64, expected: F64) -> Bool:
    deviation = np.abs(value - expected)
    floor = rule.min_deviation
    # A detector without an expected value cannot be held to a deviation: the score alone decides.
    result: Bool = np.isfinite(deviation) & (
        (deviation < floor.absolute) | (deviation < floor.relative * np.abs(expected))
    )
    return result
