"""The registry of series: which rows a rule has, which have gone, and which the newest scores are of.

A row that has gone keeps its labels until retention has forgotten the last score that refers to it (``retention.py``).
The row with the largest id of a rule is never deleted, so that an id is never given out twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from anomalyd.block import I64, Bool, Labels, fingerprint
from anomalyd.slot import SeriesRow
from anomalyd.store.pack import unpack_rows
from anomalyd.store.rows import chunks
from anomalyd.store.tables import rule_names, rule_slots, series, series_sets


def add(connection: sa.Connection, ids: Mapping[str, int], rows: Sequence[SeriesRow]) -> None:
    """Write new rows; those of series that are back take the place of what was kept of them."""
    if not rows:
        return
    by_rule: dict[str, list[int]] = {}
    for row in rows:
        by_rule.setdefault(row.rule, []).append(row.row)
    for rule, numbers in by_rule.items():
        for part in chunks(numbers):
            old = sa.and_(series.c.rule_id == ids[rule], series.c.row.in_(part), series.c.gone_at.is_not(None))
            connection.execute(sa.delete(series).where(old))
    names = ("row", "fingerprint", "labels", "first_seen")
    values = [{"rule_id": ids[row.rule]} | {name: getattr(row, name) for name in names} for row in rows]
    connection.execute(sa.insert(series), values)


def let_go(connection: sa.Connection, ids: Mapping[str, int], gone: Mapping[str, Sequence[int]], at: int) -> None:
    """Note that series have gone."""
    for rule, rows in gone.items():
        for part in chunks(rows):
            here = sa.and_(series.c.rule_id == ids[rule], series.c.row.in_(part), series.c.gone_at.is_(None))
            connection.execute(sa.update(series).where(here).values(gone_at=at))


def let_rules_go(connection: sa.Connection, rules: Collection[str], at: int, but: bool) -> int:
    """Note that all series of these rules (``but``: of all others) have gone; return how many these were."""
    known = connection.execute(sa.select(rule_names.c.id, rule_names.c.name)).all()
    wanted, total = set(rules), 0
    for part in chunks([row.id for row in known if (row.name in wanted) != but]):
        here = sa.and_(series.c.rule_id.in_(part), series.c.gone_at.is_(None))
        total += connection.execute(sa.update(series).where(here).values(gone_at=at)).rowcount
    return total


def rows_of(connection: sa.Connection, rule: str) -> list[SeriesRow]:
    """All rows of a rule that are kept, gone or not, by row id."""
    rows = connection.execute(_of_rule(sa.select(series), rule).order_by(series.c.row))
    return [_row(rule, row) for row in rows]


def living(connection: sa.Connection, rule: str) -> tuple[list[SeriesRow], int]:
    """The rows of a rule's series that have not gone, by row id, and the id that the next one is given."""
    found = _of_rule(sa.select(series), rule).where(series.c.gone_at.is_(None)).order_by(series.c.row)
    last = connection.execute(_of_rule(sa.select(sa.func.max(series.c.row)).select_from(series), rule)).scalar()
    return [_row(rule, row) for row in connection.execute(found)], 0 if last is None else int(last) + 1


def gone(connection: sa.Connection, rule: str, labels: Sequence[Labels]) -> dict[Labels, tuple[int, int]]:
    """Of these label sets those that the rule had and that have gone: row id, and when they went."""
    wanted, found = {fingerprint(one): one for one in labels}, dict[Labels, tuple[int, int]]()
    for part in chunks(wanted):
        asked = _of_rule(sa.select(series), rule).where(series.c.fingerprint.in_(part), series.c.gone_at.is_not(None))
        found |= {row.labels: (int(row.row), int(row.gone_at)) for row in connection.execute(asked)}
    asked_for = set(labels)
    return {one: where for one, where in found.items() if one in asked_for}


def scored(connection: sa.Connection, rule: str, start: int) -> I64:
    """The rows that a rule has scores of since a time, missing samples included."""
    named = sa.select(rule_names.c.id).where(rule_names.c.name == rule).scalar_subquery()
    used = sa.select(rule_slots.c.series_set).where(rule_slots.c.rule_id == named, rule_slots.c.at >= start)
    sets = connection.execute(sa.select(series_sets.c.rows).where(series_sets.c.id.in_(used)))
    found: Bool = np.zeros(0, np.bool_)
    for one in sets:
        rows = unpack_rows(one.rows)
        most = int(rows.max(initial=-1)) + 1
        if most > len(found):
            found = np.concatenate([found, np.zeros(max(most, 2 * len(found)) - len(found), np.bool_)])
        found[rows] = True
    return np.flatnonzero(found)


def newest_scored(connection: sa.Connection, rule: str) -> set[int] | None:
    """The rows in a rule's newest scores; None where it has none."""
    named = sa.select(rule_names.c.id).where(rule_names.c.name == rule).scalar_subquery()
    newest = sa.select(rule_slots.c.series_set).where(rule_slots.c.rule_id == named, rule_slots.c.series_set > 0)
    number = connection.execute(newest.order_by(rule_slots.c.at.desc()).limit(1)).scalar()
    if number is None:
        return None
    packed = connection.execute(sa.select(series_sets.c.rows).where(series_sets.c.id == number)).scalar_one()
    return set(unpack_rows(packed).tolist())


def _of_rule(select: sa.Select[Any], rule: str) -> sa.Select[Any]:
    return select.join(rule_names, series.c.rule_id == rule_names.c.id).where(rule_names.c.name == rule)


def _row(rule: str, row: sa.Row[Any]) -> SeriesRow:
    return SeriesRow(rule, row.row, row.fingerprint, row.labels, row.first_seen)
