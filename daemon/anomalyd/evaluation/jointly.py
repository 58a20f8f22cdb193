"""Joint rules: what is said of each group of series in a slot, and which of its series are furthest from usual. Pure.

A detector with ``joint`` scores one vector for each group of a rule's series (see ``detectors/grouped.py``). Each
series keeps its samples, its expected value and its band; the episode, the votes and the alert are the group's: its
label set is that of the rule's ``group_by``. In a slot a group is what the worst of its series is. Its value is its
anomaly score: 1 is where the lowest tier begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from anomalyd.block import F64, I8, I64, Block, Labels, fingerprint
from anomalyd.detectors.grouped import USUAL
from anomalyd.evaluation.memory import Memory
from anomalyd.evaluation.registry import Registry
from anomalyd.incident import MAX_CHANNELS, Channel
from anomalyd.rule import Rule
from anomalyd.score import Kind, Observation, Verdicts, Why, chosen
from anomalyd.stretch import Sheet, sheet_of_slot

_RANK = np.array([{Kind.ANOMALOUS: 3, Kind.OK: 2, Kind.WARMING_UP: 1}.get(kind, 0) for kind in sorted(Kind)])
"""Which verdict of its series stands for a group; all others are below."""
_FIRST = np.array([{Why.OUT_OF_RANGE: 2, Why.SURPRISE: 1}.get(why, 0) for why in sorted(Why)])
"""Among equal tiers: what is never accepted as a new normal goes first, what is only absent last."""


def groups_seen(memory: Memory, seen: Observation) -> Observation:
    """What was said of a joint rule's groups in a slot, one entry each; of any other rule the observation as it is.

    ``seen`` is in the order of the memory's active series.
    """
    if not memory.registry.joint:
        return seen
    groups = groups_of_sheet(memory, sheet_of_slot(seen)).observation(0)
    return groups if seen.opens is not None else replace(groups, opens=None)


def groups_of_sheet(memory: Memory, sheet: Sheet) -> Sheet:
    """What was said of a joint rule's groups in some slots; the series of ``sheet`` are the memory's active ones."""
    rows, group = np.unique(memory.units, return_inverse=True)
    shape = len(sheet.times), len(rows)
    each = (group + len(rows) * np.arange(shape[0])[:, None]).ravel()
    kind, tier, why = (verdict.T.ravel() for verdict in (sheet.kind, sheet.tier, sheet.why))
    order = np.lexsort((_FIRST[why], tier, _RANK[kind], each))
    lead = order[np.append(np.flatnonzero(np.diff(each[order])), len(order) - 1)] if len(order) else order
    surprise, opens = (_largest(said.T.ravel(), each, shape) for said in (sheet.surprise, sheet.opens))
    score = surprise / memory.cuts.min(axis=1)[lead % max(1, len(group))].reshape(shape).T
    bounds = np.where(np.isfinite(score), 1.0, np.nan)
    nothing, led = np.full(score.shape, np.nan), [v[lead].reshape(shape).T for v in (kind, tier, why)]
    return Sheet(sheet.times, rows, score, nothing, bounds - 1.0, bounds, surprise, led[0], led[1], led[2], opens)


def sheet_with_groups(memory: Memory, sheet: Sheet) -> Sheet:
    """As ``with_groups``, of some slots."""
    if not memory.registry.joint:
        return sheet
    groups = groups_of_sheet(memory, sheet)
    new = ~np.isin(groups.series, sheet.series)
    names = [one.name for one in fields(Sheet) if one.name != "times"]
    return replace(sheet, **{n: np.concatenate([getattr(sheet, n), getattr(groups, n)[new]]) for n in names})


def with_groups(memory: Memory, seen: Observation, groups: Observation) -> Observation:
    """What is kept of a slot: the series, and behind them the groups, where the rule has any."""
    if not memory.registry.joint:
        return seen
    new = ~np.isin(groups.series, seen.series)

    def both(name: str) -> F64:
        return np.concatenate([getattr(seen, name), getattr(groups, name)[new]])

    def verdict(name: str) -> I8:
        return np.concatenate([getattr(seen.verdicts, name), getattr(groups.verdicts, name)[new]])

    opens = None if seen.opens is None or groups.opens is None else both("opens")
    return Observation(
        seen.at, np.concatenate([seen.series, groups.series[new]]), both("value"), both("expected"), both("lower"),
        both("upper"), both("surprise"), Verdicts(verdict("kind"), verdict("tier"), verdict("why")), opens=opens,
    )  # fmt: skip


def series_only(registry: Registry, seen: Observation) -> Observation:
    """A stored slot without its groups."""
    if not registry.joint:
        return seen
    units = registry.unit(seen.series)
    alone = np.isin(units, [unit for unit, n in zip(*np.unique(units, return_counts=True), strict=True) if n == 1])
    return chosen(seen, np.flatnonzero((units != seen.series) | alone))


def furthest(labels: Sequence[Labels], seen: Observation) -> tuple[Channel, ...]:
    """The series of one group that are furthest from usual, as ``seen`` says, the furthest first.

    One that is outside the range it may have, or that is gone and should not be, comes before all.
    """
    half = (seen.upper - seen.lower) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        away = USUAL * np.abs(seen.value - seen.expected) / half
    away = np.where(np.isfinite(away), away, -1.0)
    flagged = np.isin(seen.verdicts.why, (Why.OUT_OF_RANGE, Why.ABSENT))
    order = np.lexsort((np.arange(len(away)), -away, ~flagged))
    named = [i for i in order[:MAX_CHANNELS].tolist() if away[i] >= 0 or flagged[i]]
    far = [float(away[i]) if away[i] >= 0 else None for i in named]
    return tuple(
        Channel(labels[i], _finite(seen.value[i]), _finite(seen.expected[i]), distance)
        for i, distance in zip(named, far, strict=True)
    )


def furthest_of(memory: Memory, group: Labels) -> tuple[tuple[Channel, ...], int]:
    """The same of a group of a joint rule, as of the newest slot, and how many series it has; nothing for others."""
    seen, registry = memory.last, memory.registry
    if not registry.joint or seen is None or group not in registry.index:
        return (), 0
    places = np.flatnonzero(registry.unit(seen.series) == registry.index[group])
    labels = [registry.rows[row].labels for row in seen.series[places].tolist()]
    return furthest(labels, chosen(seen, places)), len(places)


def rows_by_unit(rule: Rule, labels: Sequence[Labels]) -> dict[str, list[int]]:
    """The places of series by the fingerprint under which their episodes and votes are kept."""
    found: dict[str, list[int]] = {}
    for i, one in enumerate(labels):
        found.setdefault(fingerprint(rule.unit_of(one)), []).append(i)
    return found


def count_units(rule: Rule, labels: Sequence[Labels]) -> int:
    """How many label sets there are under which episodes may be kept: series, or groups of a joint rule."""
    return len({rule.unit_of(one) for one in labels}) if rule.detector.joint else len(labels)


def rows_needed(rule: Rule, history: Block) -> int:
    """How many rows the registry of a rule may need for these series: groups of a joint rule have rows too."""
    return len({*history.labels, *(rule.unit_of(one) for one in history.labels)})


def _largest(values: F64, each: I64, shape: tuple[int, int]) -> F64:
    """The largest of each group in each slot [G, T]."""
    found = np.full(shape[0] * shape[1], np.nan)
    np.fmax.at(found, each, values)
    return found.reshape(shape).T


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
