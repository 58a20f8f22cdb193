"""Incidents whose rule went away while the daemon was not running: closed, and told to whoever was told of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from anomalyd.episode import Close, Episode, Phase, close_episode
from anomalyd.evaluation.dataquality import quality_rule
from anomalyd.incident import Incident, Notification, Reason
from anomalyd.records import OutboxRow
from anomalyd.store import Store
from anomalyd.tell import alert_of, notification_id
from anomalyd.threshold import NEVER
from anomalyd.watch import source_rule


def close_orphans(store: Store, rules: Collection[str], sources: Collection[str], at: int) -> list[Incident]:
    """Close what no rule and no source of the configuration stands for any more; return the closed incidents."""
    known = {*rules, *(quality_rule(rule) for rule in rules), *(source_rule(source) for source in sources)}
    return [_close(store, incident, at) for incident in store.open_incidents() if incident.rule not in known]


def _close(store: Store, incident: Incident, at: int) -> Incident:
    ended = replace(incident, closed_at=at)
    live = [e for e in store.episodes(incident=incident.id, limit=100_000) if e.phase != Phase.CLOSED]
    episodes = [close_episode(episode, at, Close.RULE_REMOVED)[0] for episode in live]
    newest: dict[str, OutboxRow] = {}
    for row in store.notifications(incident=incident.id, limit=100_000):
        said = newest.get(row.notification.receiver)
        if said is None or row.notification.created_at > said.notification.created_at:
            newest[row.notification.receiver] = row
    store.save_episodes(episodes, [ended], [_resolved(row.notification, episodes, at) for row in newest.values()])
    return ended


def _resolved(said: Notification, episodes: list[Episode], at: int) -> Notification:
    alerts = tuple(alert_of(episode, NEVER) for episode in episodes) or said.statement.alerts
    statement = replace(said.statement, reason=Reason.RESOLVED, at=at, alerts=alerts, total=len(alerts))
    return Notification(notification_id(statement, said.receiver), said.receiver, statement, at)
