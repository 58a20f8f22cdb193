"""What the store's tests share: values to write, and databases to write them to."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np
import psycopg

from anomalyd.episode import Episode, Phase
from anomalyd.incident import Alert, Incident, Notification, Reason, Statement
from anomalyd.records import Fence
from anomalyd.score import Kind, Observation, Tier, Verdicts, Why
from anomalyd.slot import Notice, NoticeKind, RuleSlot, SeriesRow, SlotCommit, make_notice
from anomalyd.store import open_store
from anomalyd.store.tables import metadata
from servers import new_database

RULE = "shop/Latency"
MINUTE = 60_000


def observation(at: int, values: Sequence[float], rows: Sequence[int] | None = None) -> Observation:
    """An observation whose columns are the values, shifted by one from column to column."""
    value = np.asarray(values, np.float64)
    n = len(value)
    ids = np.arange(n, dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    verdicts = Verdicts(
        np.full(n, Kind.ANOMALOUS, np.int8), np.full(n, Tier.CRITICAL, np.int8), np.full(n, Why.SURPRISE, np.int8)
    )
    return Observation(at, ids, value, value + 1, value + 2, value + 3, value + 4, verdicts)


def episode(number: str, *, rule: str = RULE, phase: Phase = Phase.OPEN, start: int = 0, **rest: object) -> Episode:
    """An episode with plain values."""
    base = {"fingerprint": f"fp-{number}", "labels": (("pod", number),), "tier": Tier.WARNING, "seen_at": start}
    return Episode(id=number, rule=rule, phase=phase, started_at=start, **base | rest)  # type: ignore[arg-type]


def incident(number: str, *, rule: str = RULE, opened_at: int = 0, closed_at: int = 0) -> Incident:
    """An incident with plain values."""
    return Incident(number, f"key-{number}", rule, (("region", "eu"),), Tier.WARNING, opened_at, closed_at, 1)


def alert(fingerprint: str, tier: Tier = Tier.WARNING, status: str = "firing") -> Alert:
    """An alert on one series."""
    return Alert(
        f"e-{fingerprint}", fingerprint, (("pod", fingerprint),), tier, status, "surprise", 2.0, 1.0, 0.5, 1.5, 4.0,
        1.3, 0, 0,
    )  # fmt: skip


def notification(
    number: str, *, receiver: str = "slack", told: str = "i1", at: int = 0, tier: Tier = Tier.WARNING,
    reason: Reason = Reason.NEW, alerts: tuple[Alert, ...] | None = None, total: int | None = None,
) -> Notification:  # fmt: skip
    """A notification with plain values."""
    listed = (alert("fp1", tier),) if alerts is None else alerts
    statement = Statement(
        incident=told, key=f"key-{told}", rule=RULE, group="shop", name="Latency", expr="up", detector="mad",
        reason=reason, tier=tier, at=at, opened_at=at, group_labels=(("region", "eu"),), labels={"team": "payments"},
        annotations={"summary": "slow"}, alerts=listed, total=len(listed) if total is None else total,
        links={"graph": "https://prometheus.example/graph"},
    )  # fmt: skip
    return Notification(number, receiver, statement, at)


def notice(at: int, *, rule: str = RULE, fingerprint: str = "fp0") -> Notice:
    """A notice with plain values."""
    return make_notice(
        NoticeKind.DRIFT, rule, at, "drifts", since=at - MINUTE, fingerprint=fingerprint, labels=(("pod", "0"),)
    )


def slot(at: int, *, values: Sequence[float] = (1.0, 2.0), first: bool = False, **rest: object) -> SlotCommit:
    """A slot of the group ``shop`` with one rule; the ``first`` one registers the series."""
    rows = (SeriesRow(RULE, i, f"fp{i}", (("pod", str(i)),), at) for i in range(len(values)))
    rule = RuleSlot(RULE, at, "ok", duration_s=0.25, cut=3.5, model="m1", observation=observation(at, values))
    whole = {"rules": (rule,), "series": tuple(rows) if first else ()} | rest
    return SlotCommit("shop", at, **whole)  # type: ignore[arg-type]


def whole_slot(number: int) -> SlotCommit:
    """A slot that touches every table of the commit."""
    at, name = number * MINUTE, str(number)
    return slot(
        at,
        episodes=(episode(f"e{name}", start=at, incident=f"i{name}"),),
        incidents=(incident(f"i{name}", opened_at=at),),
        outbox=(notification(f"n{name}", told=f"i{name}", at=at),),
        notices=(notice(at),),
    )


class PostgresServer:
    """A running Postgres with a migrated template, from which a database of ours is made at once."""

    def __init__(self, url: str):
        self.maintenance = url
        self._template = ""
        self._shared = ""

    def admin(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection outside of any database under test."""
        return psycopg.connect(self.maintenance.replace("+psycopg", ""), autocommit=True)

    def empty(self) -> str:
        """URL of a new, empty database."""
        return new_database(self.maintenance, f"t{uuid.uuid4().hex[:12]}")

    def migrated(self) -> str:
        """URL of a new database with our schema."""
        if not self._template:
            url = self.empty()
            open_store(url).close()
            self._template = url.rpartition("/")[2]
        name = f"t{uuid.uuid4().hex[:12]}"
        with self.admin() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {self._template}".encode())
        return f"{self.maintenance.rpartition('/')[0]}/{name}"

    def emptied(self) -> str:
        """URL of one database with our schema that is emptied each time: quicker than a new one."""
        self._shared = self._shared or self.migrated()
        with psycopg.connect(self._shared.replace("+psycopg", ""), autocommit=True) as connection:
            tables = [table.name for table in reversed(metadata.sorted_tables)]
            connection.execute("; ".join(f"DELETE FROM {name}" for name in tables).encode())
        return self._shared


def fence(number: int) -> Fence:
    """A fence of the lease the tests use."""
    return Fence("leader", number)
