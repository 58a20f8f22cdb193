"""``Route``: who is told of what, as a small tree like Alertmanager's. Pure.

An incident enters at the root and goes down into the first child that matches, or into several where a child says
``continue``; the deepest routes that match name the receivers. A route without receivers of its own uses its parent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anomalyd.matcher import matches
from anomalyd.records import Matcher
from anomalyd.score import TIERS, Tier


@dataclass(frozen=True, slots=True)
class Route:
    """One node.

    Attributes:
        tiers: only these; any without one.
        keep_on: whether the siblings after a match are asked too (``continue`` in the file).
    """

    receivers: tuple[str, ...] = ()
    matchers: tuple[Matcher, ...] = ()
    tiers: tuple[Tier, ...] = ()
    routes: tuple[Route, ...] = ()
    keep_on: bool = False


def receivers_for(root: Route, labels: Mapping[str, str], tier: Tier) -> tuple[str, ...]:
    """The receivers of an incident with these labels that has reached ``tier``, each once, in the tree's order.

    Whoever would be told at a lower tier is told at a higher one too: they know of the incident, and must hear that it
    became worse and that it ended.
    """
    found: dict[str, None] = {}
    for reached in (t for t in TIERS if t <= tier):
        found |= dict.fromkeys(_walk(root, {**labels, "tier": reached.word}, reached, ()))
    return tuple(found)


def _walk(route: Route, labels: Mapping[str, str], tier: Tier, inherited: tuple[str, ...]) -> tuple[str, ...]:
    own = route.receivers or inherited
    found: tuple[str, ...] = ()
    hit = False
    for child in route.routes:
        if (child.tiers and tier not in child.tiers) or not matches(child.matchers, labels):
            continue
        hit = True
        found += _walk(child, labels, tier, own)
        if not child.keep_on:
            break
    return found if hit else own
