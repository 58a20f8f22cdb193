"""``Registry``: the series a rule has now, each with the row id under which its scores are stored. Pure.

A row id is given out once and never means another series, so a series that has gone can be taken out without touching
anything else: states and scores of the others keep their place, and what is stored of it keeps its labels (in the
store, until retention has forgotten its last score). What comes back after that is a new series; what comes back
before is given its old row, so that its history is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from anomalyd.block import I64, Labels, fingerprint
from anomalyd.rule import Rule
from anomalyd.slot import SeriesRow

Unit = Callable[[Labels], Labels]
"""The label set that a series' episodes are kept under (``Rule.unit_of``)."""


def itself(labels: Labels) -> Labels:
    """Each series stands for itself."""
    return labels


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Of a joint rule: the rows [R], ascending, and the row of each one's group, its own for a group; -1: none yet."""

    rows: I64
    units: I64


@dataclass(frozen=True, slots=True, eq=False)
class Registry:
    """The series of a rule that have not gone.

    Attributes:
        rows: by row id.
        index: row id by label set.
        next_row: the id that the next new series is given.
        newest: when the newest of all came; 0 before the first.
        groups: of a joint rule, whose groups have rows too. None where each series stands for itself.
    """

    rule: str
    rows: Mapping[int, SeriesRow] = field(default_factory=dict)
    index: Mapping[Labels, int] = field(default_factory=dict)
    next_row: int = 0
    newest: int = 0
    groups: _Groups | None = None

    @property
    def series(self) -> int:
        """How many series there are, groups not counted."""
        if self.groups is None:
            return len(self.rows)
        return int((self.groups.units != self.groups.rows).sum())

    @property
    def gone(self) -> bool:
        """Whether series have gone for good, and not come back."""
        return len(self.rows) < self.next_row

    @property
    def joint(self) -> bool:
        """Whether groups of series have rows."""
        return self.groups is not None

    def unit(self, rows: I64) -> I64:
        """The rows that the episodes of series are kept under."""
        if self.groups is None:
            return rows
        return self.groups.units[np.searchsorted(self.groups.rows, rows)]

    def unknown(self, fresh: Sequence[Labels], unit: Unit = itself) -> list[Labels]:
        """The label sets, and groups of them, that have no row."""
        wanted = dict.fromkeys(labels for one in fresh for labels in (one, unit(one)))
        return [labels for labels in wanted if labels not in self.index]

    def register(
        self, fresh: Sequence[Labels], at: int, unit: Unit = itself, before: Mapping[Labels, int] | None = None
    ) -> tuple[Registry, tuple[SeriesRow, ...]]:
        """Add label sets that are not there yet, and their groups; return the new registry and what was added.

        ``before``: the row ids of those that were there and have gone.
        """
        new, again = self.unknown(fresh, unit), before or {}
        if not new:
            return self, ()
        ids = itertools.count(self.next_row)
        added = tuple(
            SeriesRow(self.rule, again[ls] if ls in again else next(ids), fingerprint(ls), ls, at) for ls in new
        )
        rows = {**self.rows, **{one.row: one for one in added}}
        index = {**self.index, **{one.labels: one.row for one in added}}
        groups = None if self.groups is None else _groups(rows, index, unit)
        whole = replace(self, rows=rows, index=index, next_row=next(ids), newest=max(self.newest, at), groups=groups)
        return whole, added

    def without(self, rows: I64, keep: I64) -> tuple[Registry, tuple[int, ...]]:
        """Let go of series, and of groups that lose their last one, but for the rows in ``keep``; who has gone.

        ``keep`` has all that an episode or a state refers to.
        """
        going = np.setdiff1d(rows, keep)
        if self.groups is not None:
            mine = np.isin(self.groups.rows, going)
            staying = self.groups.units[~mine & (self.groups.units != self.groups.rows)]
            emptied = np.setdiff1d(self.groups.units[mine], keep)
            going = np.setdiff1d(np.union1d(going, emptied), staying)
        gone = tuple(row for row in going.tolist() if row in self.rows)
        if not gone:
            return self, ()
        left, index, groups = dict(self.rows), dict(self.index), self.groups
        for row in gone:
            del index[left.pop(row).labels]
        if groups is not None:
            kept = ~np.isin(groups.rows, gone)
            groups = _Groups(groups.rows[kept], groups.units[kept])
        return replace(self, rows=left, index=index, groups=groups), gone


def _groups(rows: Mapping[int, SeriesRow], index: Mapping[Labels, int], unit: Unit) -> _Groups:
    ids = sorted(rows)
    units = [index.get(unit(rows[row].labels), -1) for row in ids]
    return _Groups(np.array(ids, np.int64), np.array(units, np.int64))


def registry_from_rows(
    rule: str, rows: Sequence[SeriesRow], unit: Unit | None = None, next_row: int | None = None
) -> Registry:
    """Rebuild a registry from the store; ``unit`` is given for joint rules, ``next_row`` where rows have gone."""
    by_id, index = {row.row: row for row in rows}, {row.labels: row.row for row in rows}
    first = max(max(by_id, default=-1) + 1, next_row or 0)
    newest = max((row.first_seen for row in rows), default=0)
    groups = None if unit is None else _groups(by_id, index, unit)
    return Registry(rule, by_id, index, first, newest, groups)


def registry_of(rule: Rule, rows: Sequence[SeriesRow], next_row: int | None = None) -> Registry:
    """A rule's registry, from its rows in the store."""
    return registry_from_rows(rule.id, rows, rule.unit_of if rule.detector.joint else None, next_row)
