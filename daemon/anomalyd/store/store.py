"""``Store``: the daemon's memory, one interface over SQLite and Postgres.

Invariants: a method is one transaction, written whole or not at all; what a method has acknowledged survives kill -9
and, on a disk that keeps its word, loss of power; a method may be called from any thread. Failures are ``StoreBusy``
(nothing was written, try later) or ``StoreError``; a transaction that met a busy database is tried again here first,
and every writing method can be repeated without harm, so a commit whose outcome is unknown is repeated too.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from anomalyd.block import I64, Labels
from anomalyd.episode import Episode, Phase
from anomalyd.errors import StoreError
from anomalyd.incident import Incident, Notification, Outcome
from anomalyd.records import (
    Feedback,
    Fence,
    ModelSnapshot,
    OutboxRow,
    OutboxStat,
    OutboxState,
    RuleSlotRow,
    Silence,
    ThresholdChange,
    Told,
)  # fmt: skip
from anomalyd.score import Observation, Tier
from anomalyd.slot import Notice, NoticeKind, SeriesRow, SlotCommit
from anomalyd.store import episodes as episode_sql
from anomalyd.store import models, registry, retention, slots, votes
from anomalyd.store import notices as notice_sql
from anomalyd.store import outbox as outbox_sql
from anomalyd.store.exports import Exports
from anomalyd.store.faults import Place
from anomalyd.store.transactions import Transactions
from anomalyd.store.upgrade import SCHEMA


class Store(Transactions):
    """See the module; made by ``open_store``. Spans of time are half open: ``start <= t < end``."""

    # slots and scores

    def commit_slot(self, commit: SlotCommit, *, fence: Fence | None = None) -> bool:
        """Write everything of one slot; False and no write if (group, at) is committed already.

        With a ``fence``, only while that lease holds: StoreError `fenced` otherwise.
        """
        nonce = uuid.uuid4().hex

        def work(connection: sa.Connection) -> bool:
            self._check_fence(connection, fence)
            return slots.commit(connection, commit, nonce)

        return self._write(work)

    def last_slot(self, group: str) -> int | None:
        """The newest committed slot of a group."""
        return self._read(lambda c: slots.last_slot(c, group))

    def last_rule_slot(self, rule: str) -> int | None:
        """The newest slot in which a rule was evaluated with success."""
        return self._read(lambda c: slots.last_rule_slot(c, rule))

    def rule_slots(self, rule: str, start_ms: int, end_ms: int) -> list[RuleSlotRow]:
        """How a rule fared in a span, oldest first."""
        return self._read(lambda c: slots.rule_slot_rows(c, rule, start_ms, end_ms))

    def scores(self, rule: str, start_ms: int, end_ms: int, rows: Sequence[int] | None = None) -> list[Observation]:
        """Stored scores of a rule in a span, oldest first; ``rows`` picks series by their row id.

        Values come back with the seven digits of float32. Slots in which nothing was scored are left out.
        """
        return self._read(lambda c: slots.scores(c, rule, start_ms, end_ms, rows))

    def series(self, rule: str) -> list[SeriesRow]:
        """All series of a rule that anything stored may refer to, gone or not, by row id."""
        return self._read(lambda c: registry.rows_of(c, rule))

    def living_series(self, rule: str) -> tuple[list[SeriesRow], int]:
        """The series of a rule that have not gone, by row id, and the row id that the next new one is given."""
        return self._read(lambda c: registry.living(c, rule))

    def gone_series(self, rule: str, labels: Sequence[Labels]) -> dict[Labels, tuple[int, int]]:
        """Of these label sets those that have gone: their row id, and when they went."""
        return self._read(lambda c: registry.gone(c, rule, labels))

    def scored_series(self, rule: str) -> list[SeriesRow]:
        """The series in a rule's newest scores; without any, those that have not gone."""

        def work(connection: sa.Connection) -> list[SeriesRow]:
            rows, _ = registry.living(connection, rule)
            newest = registry.newest_scored(connection, rule)
            return rows if newest is None else [row for row in rows if row.row in newest]

        return self._read(work)

    def scored_since(self, rule: str, start: int) -> I64:
        """The row ids of the series that a rule has scores of since a time, missing samples included."""
        return self._read(lambda c: registry.scored(c, rule, start))

    def let_series_go(self, rules: Collection[str], at: int, *, but: bool = False, fence: Fence | None = None) -> int:
        """Note that all series of these rules (``but``: of all others) have gone; return how many these were."""

        def work(connection: sa.Connection) -> int:
            self._check_fence(connection, fence)
            return registry.let_rules_go(connection, rules, at, but)

        return self._write(work)

    # episodes and incidents

    def live_episodes(self, rule: str) -> list[Episode]:
        """Pending and open episodes of a rule, oldest first."""
        return self._read(lambda c: episode_sql.live(c, rule))

    def episodes(
        self, *, rule: str | None = None, start: int | None = None, end: int | None = None, phase: Phase | None = None,
        incident: str | None = None, fingerprint: str | None = None, limit: int = 1000,
    ) -> list[Episode]:  # fmt: skip
        """Episodes that overlap a span, newest first; those of an incident in the order they opened."""
        if incident is not None:
            return self._read(lambda c: episode_sql.of_incident(c, incident))[:limit]
        return self._read(lambda c: episode_sql.find(c, rule, start, end, phase, limit, fingerprint))

    def episode(self, id: str) -> Episode | None:
        """An episode by id."""
        return self._read(lambda c: episode_sql.one(c, id))

    def save_episodes(
        self, episodes: Sequence[Episode], incidents: Sequence[Incident] = (), outbox: Sequence[Notification] = (),
        *, fence: Fence | None = None,
    ) -> None:  # fmt: skip
        """Write changes made outside a slot (reload, feedback), all or nothing."""

        def work(connection: sa.Connection) -> None:
            self._check_fence(connection, fence)
            episode_sql.save(connection, episodes, incidents)
            outbox_sql.enqueue(connection, outbox)

        self._write(work)

    def open_incidents(self, rule: str | None = None) -> list[Incident]:
        """Incidents that are not closed, of one rule or of all, oldest first."""
        return self._read(lambda c: episode_sql.open_incidents(c, rule))

    def incidents(
        self, *, rule: str | None = None, start: int | None = None, end: int | None = None, limit: int = 1000
    ) -> list[Incident]:
        """Incidents that overlap a span, open or closed, newest first."""
        return self._read(lambda c: episode_sql.find_incidents(c, rule, start, end, limit))

    def incident(self, id: str) -> Incident | None:
        """An incident by id."""
        return self._read(lambda c: episode_sql.incident(c, id))

    def notices(
        self, *, rule: str | None = None, fingerprint: str | None = None, kind: NoticeKind | None = None,
        start: int | None = None, end: int | None = None, limit: int = 1000,
    ) -> list[Notice]:  # fmt: skip
        """What was noticed in a span and paged nobody, newest first."""
        return self._read(lambda c: notice_sql.find(c, rule, fingerprint, kind, start, end, limit))

    def add_notices(self, notices: Sequence[Notice]) -> None:
        """Note what no slot has found; one that is known already stays as it is."""
        self._write(lambda c: notice_sql.save(c, notices))

    @property
    def exports(self) -> Exports:
        """What goes out by remote write, and how far each target has got."""
        return Exports(self._read, self._write, self._check_fence)

    # outbox

    def enqueue(self, notifications: Sequence[Notification]) -> None:
        """Owe notifications; one whose id is known already is left as it is."""
        self._write(lambda c: outbox_sql.enqueue(c, notifications))

    def claim(
        self, receiver: str, now: int, lease_ms: int, limit: int, *, fence: Fence | None = None
    ) -> list[Notification]:
        """Lease what is due to a receiver: all pending rows of at most ``limit`` incidents.

        Emergencies come first, then the oldest; the rows of an incident come together and in order of creation. An
        incident somebody else is delivering is left out until the lease expires. The attempt is counted and committed
        before this returns; ``attempt`` of a returned notification is the number of attempts before this one.
        """
        token = uuid.uuid4().hex

        def work(connection: sa.Connection) -> list[Notification]:
            self._check_fence(connection, fence)
            return outbox_sql.claim(connection, receiver, now, lease_ms, limit, token)

        return self._write(work)

    def next_due(self, receiver: str) -> int | None:
        """The earliest time at which a claim for a receiver finds something; None when nothing is owed."""
        return self._read(lambda c: outbox_sql.next_due(c, receiver))

    def settle(
        self, id: str, now: int, outcome: Outcome, next_at: int | None = None, *, attempt: int | None = None
    ) -> bool:
        """Record how an attempt ended: delivered and failed are final, a retry is due again at ``next_at``.

        False where it changed nothing: the row is final already, or (``attempt`` given, as the claim returned it)
        somebody else has claimed it since. A delivery counts even then.
        """
        return self._write(lambda c: outbox_sql.settle(c, id, now, outcome, next_at, attempt))

    def drop(self, id: str, now: int, reason: str) -> bool:
        """Close a pending row without sending it; False if it was not pending."""
        return self._write(lambda c: outbox_sql.drop(c, id, now, reason))

    def told(self, receiver: str, incident: str) -> Told | None:
        """What a receiver knows of an incident; None when certainly nothing."""
        return self._read(lambda c: outbox_sql.told(c, receiver, incident))

    def series_told(self, receiver: str, rule: str, fingerprints: Sequence[str]) -> dict[str, tuple[int, Tier]]:
        """When, and at which tier, a receiver was last told of each series; those it never heard of are left out."""
        return self._read(lambda c: outbox_sql.series_told(c, receiver, rule, fingerprints))

    def outbox_stats(self, now: int) -> dict[str, OutboxStat]:
        """What each receiver is owed."""
        return self._read(lambda c: outbox_sql.stats(c, now))

    def notifications(
        self, *, incident: str | None = None, receiver: str | None = None, state: OutboxState | None = None,
        limit: int = 100,
    ) -> list[OutboxRow]:  # fmt: skip
        """Outbox rows with what became of them, newest first."""
        return self._read(lambda c: outbox_sql.find(c, incident, receiver, state, limit))

    # people

    def add_feedback(self, vote: Feedback) -> bool:
        """Add a vote; False if its id is known already."""
        return self._write(lambda c: votes.add_feedback(c, vote))

    def undo_feedback(self, id: str, now: int) -> bool:
        """Take a vote back; it stays in the record."""
        return self._write(lambda c: votes.undo_feedback(c, id, now))

    def feedback(self, *, rule: str | None = None, episode: str | None = None) -> list[Feedback]:
        """Votes, undone ones too, oldest first."""
        return self._read(lambda c: votes.find_feedback(c, rule, episode))

    def save_threshold(self, change: ThresholdChange) -> int:
        """Append to the threshold history; return the number of the entry."""
        nonce = uuid.uuid4().hex
        return self._write(lambda c: votes.save_threshold(c, change, nonce))

    def undo_threshold(self, id: int, now: int) -> bool:
        """Take a threshold change back; it stays in the record."""
        return self._write(lambda c: votes.undo_threshold(c, id, now))

    def feedback_stamp(self) -> tuple[int, ...]:
        """Numbers that change whenever a vote or a threshold is added or taken back: cheaper to ask than for either."""
        return self._read(votes.stamp)

    def thresholds(self, rule: str) -> list[ThresholdChange]:
        """The threshold history of a rule and its series, undone entries too, oldest first."""
        return self._read(lambda c: votes.find_thresholds(c, rule))

    def add_silence(self, silence: Silence) -> None:
        """Add a silence, or replace the one with its id."""
        self._write(lambda c: votes.save_silence(c, silence))

    def expire_silence(self, id: str, now: int) -> bool:
        """End a silence now; False if there is none or it has ended."""
        return self._write(lambda c: votes.expire_silence(c, id, now))

    def silences(self, now: int | None = None) -> list[Silence]:
        """Silences that have not ended at ``now`` (those to come too), or all of them."""
        return self._read(lambda c: votes.find_silences(c, now))

    # models and leadership

    def save_model(
        self, rule: str, version: str, meta_json: str, blob: bytes, *, at: int = 0, fence: Fence | None = None
    ) -> None:
        """Store a model snapshot; the same (rule, version) again replaces it. ``at``: the slot it is as of."""

        def work(connection: sa.Connection) -> None:
            self._check_fence(connection, fence)
            models.save_model(connection, ModelSnapshot(rule, version, meta_json, blob, at))

        self._write(work)

    def drop_models(self, rule: str, prefix: str, *, but: str | None = None, fence: Fence | None = None) -> int:
        """Delete a rule's snapshots whose version begins with ``prefix`` and not with ``but``; return their number."""

        def work(connection: sa.Connection) -> int:
            self._check_fence(connection, fence)
            return models.drop_models(connection, rule, prefix, but)

        return self._write(work)

    def rules_with_model(self, version: str) -> list[str]:
        """The rules that have a snapshot of this version."""
        return self._read(lambda c: models.rules_with(c, version))

    def model(self, rule: str, version: str | None = None) -> ModelSnapshot | None:
        """A snapshot by version, or without one the newest of the rule."""
        return self._read(lambda c: models.model(c, rule, version))

    def acquire_lease(self, name: str, owner: str, now: int, ttl_ms: int) -> Fence | None:
        """Become or stay the leader; None while another owner's lease runs."""
        return self._write(lambda c: models.acquire_lease(c, name, owner, now, ttl_ms))

    def renew_lease(self, fence: Fence, now: int, ttl_ms: int) -> bool:
        """Prolong our lease; False when another has taken it."""
        return self._write(lambda c: models.renew_lease(c, fence, now, ttl_ms))

    def release_lease(self, fence: Fence) -> bool:
        """Give our lease back at shutdown."""
        return self._write(lambda c: models.release_lease(c, fence))

    # upkeep

    def delete_before(self, ms: int, batch: int = 1000) -> int:
        """Forget what is older, ``batch`` rows a transaction (see ``retention``); return the number of rows."""
        total = 0
        for step in retention.STEPS:
            deleted = batch
            while deleted >= batch:
                deleted = self._write(lambda c, step=step: step(c, ms, batch))  # type: ignore[misc]
                total += deleted
        return total

    def ping(self) -> None:
        """Raise unless the database answers and is still the one that was opened."""
        self._read(lambda c: c.execute(sa.text("SELECT 1")).scalar_one())

    @property
    def schema_version(self) -> str:
        """The schema this store was opened with."""
        return SCHEMA.head

    @property
    def place(self) -> Place:
        """Where the database lies, for messages."""
        return self._place

    def wal_bytes(self) -> int:
        """Size of SQLite's write-ahead log: one that grows means a reader that never ends; 0 elsewhere."""
        path = self._place.path
        try:
            return path.with_name(path.name + "-wal").stat().st_size if path else 0
        except OSError:
            return 0

    def integrity_check(self) -> list[str]:
        """What is wrong with the file, in the database's own words; empty when nothing is (always on Postgres)."""
        if not self._place.sqlite:
            self.ping()
            return []

        def work(connection: sa.Connection) -> list[str]:
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
            orphans = [f"orphan row {tuple(row)}" for row in connection.exec_driver_sql("PRAGMA foreign_key_check")]
            return [line for line in found if line != "ok"] + orphans

        try:
            return self._read(work)
        except StoreError as error:
            if error.reason != "corrupt":
                raise
            return [str(error)]

    def close(self) -> None:
        """Close all connections; the store cannot be used any more."""
        self._engines.dispose()
