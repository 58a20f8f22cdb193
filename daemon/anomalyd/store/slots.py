"""Slots, series and scores: what one evaluation writes, and how it is read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import sqlalchemy as sa

from anomalyd.block import I64
from anomalyd.records import Fence, RuleSlotRow
from anomalyd.score import Kind, Observation
from anomalyd.slot import RuleSlot, SlotCommit
from anomalyd.store import episodes, notices, outbox, registry
from anomalyd.store.pack import pack_rows, pack_scores, rows_digest, unpack_rows, unpack_scores
from anomalyd.store.rows import chunks, insert_new, insert_or_update
from anomalyd.store.tables import leases, rule_names, rule_slots, series_sets, slots
from anomalyd.store.text import clean

_DETAIL_CHARS = 1000

_Set: TypeAlias = tuple[int, str]
"""A list of series: the rule's number and the digest of the row ids."""


def commit(connection: sa.Connection, wanted: SlotCommit, nonce: str) -> bool:
    """Write everything of one slot; False and nothing written if somebody else has committed it.

    ``nonce`` is the caller's own: when a first try's outcome stayed unknown, its repetition finds it and answers True.
    """
    row = {"grp": wanted.group, "at": wanted.at, "missed": wanted.missed, "nonce": nonce}
    if insert_new(connection, slots, [row], ("grp", "at")) == 0:
        same = sa.and_(slots.c.grp == wanted.group, slots.c.at == wanted.at)
        return bool(connection.execute(sa.select(slots.c.nonce).where(same)).scalar() == nonce)
    named = {rule.rule for rule in wanted.rules} | {one.rule for one in wanted.series} | {*wanted.gone}
    ids = _rule_ids(connection, named)
    registry.add(connection, ids, wanted.series)
    registry.let_go(connection, ids, wanted.gone, wanted.at)
    sets = _intern(connection, ids, wanted.rules)
    insert_or_update(connection, rule_slots, [_rule_slot(ids[rule.rule], rule, sets) for rule in wanted.rules])
    episodes.save(connection, wanted.episodes, wanted.incidents)
    outbox.enqueue(connection, wanted.outbox)
    notices.save(connection, wanted.notices)
    return True


def holds_fence(connection: sa.Connection, fence: Fence) -> bool:
    """Whether the lease still carries this number; locks the lease until the transaction ends."""
    found = sa.select(leases.c.fence).where(leases.c.name == fence.name).with_for_update(read=True)
    return bool(connection.execute(found).scalar() == fence.number)


def _rule_ids(connection: sa.Connection, names: set[str]) -> dict[str, int]:
    """The small numbers of rules, given out on first use."""
    stored = {name: clean(name) for name in names}
    found = _known_rules(connection, sorted(set(stored.values())))
    missing = sorted(set(stored.values()) - found.keys())
    if missing:
        insert_new(connection, rule_names, [{"name": name} for name in missing], ("name",))
        found |= _known_rules(connection, missing)
    return {name: found[kept] for name, kept in stored.items()}


def _known_rules(connection: sa.Connection, names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in chunks(names):
        rows = connection.execute(sa.select(rule_names.c.name, rule_names.c.id).where(rule_names.c.name.in_(part)))
        found |= {str(row.name): int(row.id) for row in rows}
    return found


def _rule_slot(rule_id: int, slot: RuleSlot, sets: dict[_Set, int]) -> dict[str, Any]:
    seen = slot.observation
    return {
        "rule_id": rule_id,
        "at": slot.at,
        "outcome": slot.outcome,
        "reason": slot.reason,
        "detail": slot.detail[:_DETAIL_CHARS],
        "duration_s": slot.duration_s,
        "cut": slot.cut,
        "model": slot.model,
        "counts": {} if seen is None else _counts(seen),
        "series": 0 if seen is None else len(seen.series),
        "series_set": None if seen is None else sets[rule_id, rows_digest(seen.series)],
        "scores": None if seen is None else pack_scores(seen),
    }


def _counts(seen: Observation) -> dict[str, int]:
    numbers = np.bincount(seen.verdicts.kind, minlength=len(Kind)).tolist()
    return {kind.name.lower(): numbers[kind] for kind in Kind if numbers[kind]}


def _intern(connection: sa.Connection, ids: dict[str, int], rules: Sequence[RuleSlot]) -> dict[_Set, int]:
    """The numbers of all lists of series in a slot; a list is stored once and found again by its digest."""
    wanted = {
        (ids[rule.rule], rows_digest(rule.observation.series)): rule.observation.series
        for rule in rules
        if rule.observation is not None
    }
    found = _known_sets(connection, wanted)
    missing = [key for key in wanted if key not in found]
    if missing:
        rows = [{"rule_id": key[0], "digest": key[1], "rows": pack_rows(wanted[key])} for key in missing]
        insert_new(connection, series_sets, rows, ("rule_id", "digest"))
        found |= _known_sets(connection, missing)
    return found


def _known_sets(connection: sa.Connection, wanted: Iterable[_Set]) -> dict[_Set, int]:
    table = series_sets
    keys = set(wanted)
    found: dict[_Set, int] = {}
    for part in chunks(sorted({digest for _, digest in keys})):
        asked = sa.select(table.c.rule_id, table.c.digest, table.c.id).where(
            table.c.rule_id.in_({rule_id for rule_id, _ in keys}), table.c.digest.in_(part)
        )
        for row in connection.execute(asked):
            found[row.rule_id, row.digest] = int(row.id)
    return found


def last_slot(connection: sa.Connection, group: str) -> int | None:
    """The newest committed slot of a group."""
    found = connection.execute(sa.select(sa.func.max(slots.c.at)).where(slots.c.grp == group)).scalar()
    return None if found is None else int(found)


def last_rule_slot(connection: sa.Connection, rule: str) -> int | None:
    """The newest slot in which a rule was evaluated with success."""
    same = sa.and_(rule_slots.c.rule_id == rule_names.c.id, rule_names.c.name == rule, rule_slots.c.outcome == "ok")
    found = connection.execute(sa.select(sa.func.max(rule_slots.c.at)).where(same)).scalar()
    return None if found is None else int(found)


def rule_slot_rows(connection: sa.Connection, rule: str, start: int, end: int) -> list[RuleSlotRow]:
    """How a rule fared in the slots ``start <= at < end``, oldest first."""
    columns = [column for column in rule_slots.c if column.name not in ("rule_id", "series_set", "scores")]
    rows = connection.execute(_of_rule(sa.select(*columns), rule, start, end))
    return [RuleSlotRow(rule=rule, **row._mapping) for row in rows]


def scores(
    connection: sa.Connection, rule: str, start: int, end: int, rows: Sequence[int] | None
) -> list[Observation]:
    """The stored scores of a rule in the slots ``start <= at < end``, oldest first, of all or some series."""
    asked = sa.select(rule_slots.c.at, rule_slots.c.series_set, rule_slots.c.scores)
    asked = _of_rule(asked, rule, start, end).where(rule_slots.c.scores.is_not(None))
    sets: dict[int, tuple[I64, I64 | None]] = {}
    answer = []
    for row in connection.execute(asked).all():
        if row.series_set not in sets:
            sets[row.series_set] = _series_set(connection, row.series_set, rows)
        ids, chosen = sets[row.series_set]
        whole = unpack_scores(row.scores, row.at, ids)
        answer.append(whole if chosen is None else _take(whole, chosen))
    return answer


def _of_rule(select: sa.Select[Any], rule: str, start: int, end: int) -> sa.Select[Any]:
    joined = select.join_from(rule_slots, rule_names, rule_slots.c.rule_id == rule_names.c.id)
    return joined.where(
        rule_names.c.name == rule, rule_slots.c.at >= start, rule_slots.c.at < end
    ).order_by(rule_slots.c.at)  # fmt: skip


def _series_set(connection: sa.Connection, number: int, rows: Sequence[int] | None) -> tuple[I64, I64 | None]:
    packed = connection.execute(sa.select(series_sets.c.rows).where(series_sets.c.id == number)).scalar_one()
    ids = unpack_rows(packed)
    return ids, None if rows is None else np.flatnonzero(np.isin(ids, np.asarray(rows, np.int64)))


def _take(o: Observation, index: I64) -> Observation:
    v = o.verdicts
    verdicts = type(v)(v.kind[index], v.tier[index], v.why[index])
    return Observation(
        o.at, o.series[index], o.value[index], o.expected[index], o.lower[index], o.upper[index], o.surprise[index],
        verdicts,
    )  # fmt: skip
