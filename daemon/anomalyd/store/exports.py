"""What goes out by remote write: scored slots in order, and how far each target has got with each rule.

The scores lie here already, so there is no second queue: a target that is away is served later from where it was.
Invariant: a cursor moves only when what lies before it was taken, refused or given up; it never moves back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from anomalyd.episode import Episode
from anomalyd.records import Fence, ScoredSlot
from anomalyd.slot import SeriesRow
from anomalyd.store import episodes as episode_sql
from anomalyd.store.pack import unpack_rows, unpack_scores
from anomalyd.store.rows import dialect_insert, episode_of
from anomalyd.store.tables import episodes, exports, rule_names, rule_slots, series, series_sets

T = TypeVar("T")


class Transact(Protocol):
    """Runs work in one transaction."""

    def __call__(self, work: Callable[[sa.Connection], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Exports:
    """The part of a store that remote write needs; ``store.exports`` is one."""

    read: Transact
    write: Transact
    check_fence: Callable[[sa.Connection, Fence | None], None]

    def cursors(self, target: str) -> dict[str, int]:
        """The newest slot of each rule that a target is done with."""
        asked = sa.select(exports.c.rule, exports.c.at).where(exports.c.target == target)
        return self.read(lambda c: {str(row.rule): int(row.at) for row in c.execute(asked)})

    def move(self, target: str, rule: str, at: int, *, fence: Fence | None = None) -> None:
        """A target is done with a rule up to this slot; StoreError `fenced` for one who no longer leads."""

        def work(connection: sa.Connection) -> None:
            self.check_fence(connection, fence)
            statement = dialect_insert(connection, exports)
            newer = statement.excluded.at > exports.c.at
            keys = ["target", "rule"]
            upsert = statement.on_conflict_do_update(
                index_elements=keys, set_={"at": statement.excluded.at}, where=newer
            )
            connection.execute(upsert, {"target": target, "rule": rule, "at": at})

        self.write(work)

    def forget(self, target: str, rule: str) -> None:
        """A target has been told that a rule has ended."""
        same = sa.and_(exports.c.target == target, exports.c.rule == rule)
        self.write(lambda c: c.execute(sa.delete(exports).where(same)))

    def keep(self, targets: Collection[str]) -> int:
        """Forget all targets but these; return the number of cursors that went."""
        gone = sa.delete(exports).where(exports.c.target.not_in(list(targets)))
        return self.write(lambda c: c.execute(gone).rowcount)

    def newest(self, rule: str) -> int | None:
        """The newest slot of a rule, whatever its outcome."""
        asked = _of_rule(sa.select(rule_slots.c.at), rule).order_by(rule_slots.c.at.desc()).limit(1)
        return self.read(lambda c: c.execute(asked).scalar())

    def after(self, rule: str, at: int, limit: int) -> list[ScoredSlot]:
        """The first slots of a rule after ``at``, oldest first, scored or not."""
        asked = _of_rule(_SLOT, rule).where(rule_slots.c.at > at).order_by(rule_slots.c.at).limit(limit)
        return self.read(lambda c: _slots(c, asked))

    def newest_scored(self, rule: str, until: int) -> ScoredSlot | None:
        """The newest slot of a rule not after ``until`` whose series were seen."""
        asked = _of_rule(_SLOT, rule).where(rule_slots.c.at <= until, rule_slots.c.outcome.in_(SEEN))
        found = self.read(lambda c: _slots(c, asked.order_by(rule_slots.c.at.desc()).limit(1)))
        return found[0] if found else None

    def count(self, rule: str, after: int, until: int) -> int:
        """How many slots of a rule lie in ``after < at <= until``."""
        asked = _of_rule(sa.select(sa.func.count()), rule).where(rule_slots.c.at > after, rule_slots.c.at <= until)
        return int(self.read(lambda c: c.execute(asked).scalar_one()))

    def series(self, rule: str, from_row: int) -> list[SeriesRow]:
        """The rule's series from a row id on."""
        joined = sa.select(series).join_from(series, rule_names, series.c.rule_id == rule_names.c.id)
        asked = joined.where(rule_names.c.name == rule, series.c.row >= from_row).order_by(series.c.row)
        return self.read(
            lambda c: [SeriesRow(rule, r.row, r.fingerprint, r.labels, r.first_seen) for r in c.execute(asked)]
        )

    def open_since(self, rule: str, start: int) -> list[Episode]:
        """Episodes of a rule that are open or were at some time from ``start`` on; pending ones are left out."""
        ended = sa.select(episodes).where(episodes.c.rule == rule, episodes.c.closed_at >= start)

        def work(connection: sa.Connection) -> list[Episode]:
            over = [episode_of(row) for row in connection.execute(ended)]
            return [e for e in (*episode_sql.live(connection, rule), *over) if e.opened_at]

        return self.read(work)


SEEN = ("ok", "warming_up")
"""Outcomes of slots that say which series there were; of the others nothing is known."""

_SLOT = sa.select(
    rule_slots.c.at, rule_slots.c.outcome, rule_slots.c.cut, rule_slots.c.series_set, rule_slots.c.scores
)  # fmt: skip


def _of_rule(select: sa.Select[Any], rule: str) -> sa.Select[Any]:
    number = sa.select(rule_names.c.id).where(rule_names.c.name == rule).scalar_subquery()
    return select.select_from(rule_slots).where(rule_slots.c.rule_id == number)


def _slots(connection: sa.Connection, asked: sa.Select[Any]) -> list[ScoredSlot]:
    sets: dict[int, Any] = {}
    found = []
    for row in connection.execute(asked).all():
        if row.scores is None or row.outcome not in SEEN:
            found.append(ScoredSlot(row.at, row.outcome, row.cut, None))
            continue
        if row.series_set not in sets:
            packed = sa.select(series_sets.c.rows).where(series_sets.c.id == row.series_set)
            sets[row.series_set] = unpack_rows(connection.execute(packed).scalar_one())
        seen = unpack_scores(row.scores, row.at, sets[row.series_set])
        found.append(ScoredSlot(row.at, row.outcome, row.cut, seen))
    return found
