"""Episodes that somebody confirmed, from the daemon's database: what a new version of a rule must not lose."""

from __future__ import annotations

from pathlib import Path

from anomalyd.records import FeedbackLabel
from anomalyd.rule import Rule
from anomalyd.settings import Settings
from anomalyd.store import open_store
from anomalyd.workbench.report.figures import Span

_SQLITE = "sqlite:///"


def confirmed_spans(settings: Settings, rule: Rule, start: int, end: int) -> list[Span]:
    """Spans of episodes of the rule that were voted true, or shown as missed; none where there is no database yet."""
    url = settings.database.get()
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).is_file():
        return []
    store = open_store(url)
    try:
        votes = [v for v in store.feedback(rule=rule.id) if not v.undone_at]
        true = {v.episode for v in votes if v.label == FeedbackLabel.TRUE}
        labels = {row.fingerprint: row.labels for row in store.series(rule.id)}
        spans = [
            Span(e.started_at, e.closed_at or end, e.labels)
            for e in store.episodes(rule=rule.id, start=start, end=end, limit=100_000)
            if e.id in true
        ]
        missed = [v for v in votes if v.label == FeedbackLabel.MISSED and v.start <= end and v.end >= start]
        return spans + [Span(v.start, v.end, labels.get(v.fingerprint, ())) for v in missed]
    finally:
        store.close()
