"""Storing 100,000 scores a tick: packed, as the daemon does, against a row a score by SQLAlchemy Core and by its ORM.

All three write SQLite files with the same settings (write-ahead log, a sync at each commit), in one run. A tick is 100
rules with 1,000 series each; noise in every column, so that compression does not flatter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from anomalyd.clock import MINUTE_MS
from anomalyd.score import Observation, Verdicts
from anomalyd.slot import RuleSlot, SlotCommit
from anomalyd.store import open_store
from anomalyd.store.engine import Engines, connect
from bench.harness import Context, Figure, Timing, best_of, cost, limit

RULES, SERIES = 100, 1_000
SCORES = RULES * SERIES
TICKS = 5
COLUMNS = ("value", "expected", "lower", "upper", "surprise")


class Base(DeclarativeBase):
    """Mapping of the rows that others would write."""


class ScoreRow(Base):
    """One score as a row with a surrogate key, as an ORM makes it."""

    __tablename__ = "scores"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[int] = mapped_column(sa.BigInteger, index=True)
    series: Mapped[int]
    value: Mapped[float]
    expected: Mapped[float]
    lower: Mapped[float]
    upper: Mapped[float]
    surprise: Mapped[float]
    kind: Mapped[int]
    tier: Mapped[int]
    why: Mapped[int]


@dataclass(frozen=True)
class Tick:
    """One tick's scores, rule by rule."""

    at: int
    rules: tuple[Observation, ...]

    def rows(self) -> Iterator[dict[str, float]]:
        """The same as one dict a score."""
        for number, seen in enumerate(self.rules):
            columns = [getattr(seen, name).tolist() for name in COLUMNS]
            small = [getattr(seen.verdicts, name).tolist() for name in ("kind", "tier", "why")]
            for i, cells in enumerate(zip(*columns, *small, strict=True)):
                named = dict(zip((*COLUMNS, "kind", "tier", "why"), cells, strict=True))
                yield {"at": self.at, "series": number * SERIES + i, **named}


def run(context: Context) -> Iterable[Figure]:
    """Write the ticks in each of the three ways."""
    ticks = [_tick(number) for number in range(1, (4 * TICKS if context.full else TICKS) + 1)]
    with tempfile.TemporaryDirectory() as folder:
        packed = _packed(Path(folder) / "packed.db", ticks)
        core = _rows(Path(folder) / "core.db", ticks, _insert_core)
        orm = _rows(Path(folder) / "orm.db", ticks[:2], _insert_orm)
        reading = _read_one_series(Path(folder), ticks)
    size = f"{SCORES:,} scores, packed"
    yield cost(f"{size}, CPU s, against SQLAlchemy Core rows", packed[0].cpu_s, core[0].cpu_s, at_least=25)
    yield cost(f"{size}, CPU s, against SQLAlchemy ORM rows", packed[0].cpu_s, orm[0].cpu_s, at_least=100)
    walls = packed[0].wall_s, core[0].wall_s
    yield Figure(f"{size}, wall s, against SQLAlchemy Core rows", *walls, walls[1] / walls[0])
    yield limit("bytes a score, packed", packed[1], at_most=21.5, theirs=core[1], note="theirs: Core rows")
    yield Figure("bytes a score, ORM rows", packed[1], orm[1], orm[1] / packed[1])
    yield Figure(f"read one series over {len(ticks)} ticks, wall s", *reading, reading[1] / reading[0])


def _tick(number: int) -> Tick:
    random = np.random.default_rng(number)
    at = number * MINUTE_MS
    zeros = np.zeros(SERIES, np.int8)
    observations = tuple(
        Observation(at, np.arange(SERIES), *random.normal(size=(5, SERIES)), Verdicts(zeros, zeros, zeros))
        for _ in range(RULES)
    )
    return Tick(at, observations)


def _packed(file: Path, ticks: list[Tick]) -> tuple[Timing, float]:
    """The best tick, and bytes a score."""
    store = open_store(f"sqlite:///{file}")
    pending = iter(ticks)

    def write() -> None:
        tick = next(pending)
        rules = (RuleSlot(f"g/rule{i}", tick.at, "ok", model="m", observation=o) for i, o in enumerate(tick.rules))
        assert store.commit_slot(SlotCommit("g", tick.at, tuple(rules)))

    timing = best_of(len(ticks), write)
    store.close()
    return timing, file.stat().st_size / (SCORES * len(ticks))


def _rows(file: Path, ticks: list[Tick], insert: Callable[[Engines, Tick], None]) -> tuple[Timing, float]:
    engines = connect(f"sqlite:///{file}", 5_000)
    Base.metadata.create_all(engines.writing)
    pending = iter(ticks)
    timing = best_of(len(ticks), lambda: insert(engines, next(pending)))
    engines.dispose()
    return timing, file.stat().st_size / (SCORES * len(ticks))


def _insert_core(engines: Engines, tick: Tick) -> None:
    with engines.writing.begin() as connection:
        connection.execute(sa.insert(ScoreRow.__table__), list(tick.rows()))


def _insert_orm(engines: Engines, tick: Tick) -> None:
    with Session(engines.writing) as session:
        session.add_all(ScoreRow(**row) for row in tick.rows())
        session.commit()


def _read_one_series(folder: Path, ticks: list[Tick]) -> tuple[float, float]:
    store = open_store(f"sqlite:///{folder}/packed.db")
    end = ticks[-1].at + 1
    ours = best_of(3, lambda: store.scores("g/rule7", 0, end, rows=[70]))
    store.close()
    engines = connect(f"sqlite:///{folder}/core.db", 5_000)
    asked = sa.select(ScoreRow).where(ScoreRow.series == 7 * SERIES + 70, ScoreRow.at < end)

    def read() -> None:
        with engines.reading.begin() as connection:
            assert len(connection.execute(asked).all()) == len(ticks)

    theirs = best_of(3, read)
    engines.dispose()
    return ours.wall_s, theirs.wall_s
