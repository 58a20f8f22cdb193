"""Where else to look at a series: Prometheus's graph of the expression, and the Grafana dashboard that it is on.

From the configuration only, never from a label; the same in messages and on pages.
"""

from __future__ import annotations

from urllib.parse import urlencode

from anomalyd.clock import HOUR_MS
from anomalyd.receivers.grafana import GrafanaSettings
from anomalyd.render import Link
from anomalyd.rule import Rule
from anomalyd.settings import Settings

BEFORE_MS = 3 * HOUR_MS
AFTER_MS = HOUR_MS


def graph_url(settings: Settings, rule: Rule) -> str:
    """The rule's expression on its source; empty for a source that is not in the settings any more."""
    source = settings.sources.get(rule.source)
    if source is None:
        return ""
    query = urlencode({"g0.expr": rule.expr, "g0.tab": 0, "g0.range_input": "6h"})
    return f"{source.url.rstrip('/')}/graph?{query}"


def dashboard_links(settings: Settings, since: int, until: int) -> tuple[Link, ...]:
    """The dashboard that a Grafana receiver draws on, around a time; nothing where none is named."""
    for receiver in settings.receivers.values():
        if isinstance(receiver, GrafanaSettings) and receiver.dashboard_uid:
            query = urlencode({"from": since - BEFORE_MS, "to": until + AFTER_MS})
            return (Link("Grafana", f"{receiver.url.rstrip('/')}/d/{receiver.dashboard_uid}?{query}"),)
    return ()
