"""Episodes and incidents: upserts and look-ups."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from anomalyd.episode import Episode, Phase
from anomalyd.incident import Incident
from anomalyd.store import tables
from anomalyd.store.rows import episode_of, episode_row, incident_of, incident_row, insert_or_update


def save(connection: sa.Connection, episodes: Sequence[Episode], incidents: Sequence[Incident]) -> None:
    """Insert or replace; rows are ordered so that two writers never wait for each other."""
    ordered = sorted(episodes, key=lambda episode: episode.id)
    insert_or_update(connection, tables.episodes, [episode_row(episode) for episode in ordered])
    told = sorted(incidents, key=lambda incident: incident.id)
    insert_or_update(connection, tables.incidents, [incident_row(incident) for incident in told])


def live(connection: sa.Connection, rule: str) -> list[Episode]:
    """Pending and open episodes of a rule, oldest first."""
    table = tables.episodes
    chosen = sa.select(table).where(table.c.rule == rule, table.c.phase != sa.literal_column("'closed'"))
    return [episode_of(row) for row in connection.execute(chosen.order_by(table.c.started_at, table.c.id))]


def find(
    connection: sa.Connection, rule: str | None, start: int | None, end: int | None, phase: Phase | None, limit: int,
    fingerprint: str | None = None,
) -> list[Episode]:  # fmt: skip
    """Episodes that overlap ``start <= t < end``, newest first."""
    table = tables.episodes
    chosen = sa.select(table).order_by(table.c.started_at.desc(), table.c.id).limit(limit)
    if rule is not None:
        chosen = chosen.where(table.c.rule == rule)
    if fingerprint is not None:
        chosen = chosen.where(table.c.fingerprint == fingerprint)
    if phase is not None:
        chosen = chosen.where(table.c.phase == phase.value)
    if end is not None:
        chosen = chosen.where(table.c.started_at < end)
    if start is not None:
        chosen = chosen.where(sa.or_(table.c.closed_at == 0, table.c.closed_at >= start))
    return [episode_of(row) for row in connection.execute(chosen)]


def one(connection: sa.Connection, episode: str) -> Episode | None:
    """An episode by id."""
    row = connection.execute(sa.select(tables.episodes).where(tables.episodes.c.id == episode)).first()
    return None if row is None else episode_of(row)


def of_incident(connection: sa.Connection, incident: str) -> list[Episode]:
    """All episodes of an incident, in the order in which they opened."""
    table = tables.episodes
    chosen = sa.select(table).where(table.c.incident == incident).order_by(table.c.opened_at, table.c.id)
    return [episode_of(row) for row in connection.execute(chosen)]


def open_incidents(connection: sa.Connection, rule: str | None) -> list[Incident]:
    """Incidents that are not closed, of one rule or of all, oldest first."""
    table = tables.incidents
    chosen = sa.select(table).where(table.c.closed_at == 0).order_by(table.c.opened_at, table.c.id)
    if rule is not None:
        chosen = chosen.where(table.c.rule == rule)
    return [incident_of(row) for row in connection.execute(chosen)]


def find_incidents(
    connection: sa.Connection, rule: str | None, start: int | None, end: int | None, limit: int
) -> list[Incident]:
    """Incidents that overlap ``start <= t < end``, newest first."""
    table = tables.incidents
    chosen = sa.select(table).order_by(table.c.opened_at.desc(), table.c.id).limit(limit)
    if rule is not None:
        chosen = chosen.where(table.c.rule == rule)
    if end is not None:
        chosen = chosen.where(table.c.opened_at < end)
    if start is not None:
        chosen = chosen.where(sa.or_(table.c.closed_at == 0, table.c.closed_at >= start))
    return [incident_of(row) for row in connection.execute(chosen)]


def incident(connection: sa.Connection, number: str) -> Incident | None:
    """An incident by id."""
    row = connection.execute(sa.select(tables.incidents).where(tables.incidents.c.id == number)).first()
    return None if row is None else incident_of(row)
