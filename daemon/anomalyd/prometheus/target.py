"""``WriteTarget``: where scores are written to and how, checked and ready to use. Values, cheap to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from anomalyd.clock import DAY_MS, SECOND_MS
from anomalyd.prometheus.spec import SourceSpec

RESERVED_HEADERS = frozenset({"content-encoding", "x-prometheus-remote-write-version", "user-agent", "retry-attempt"})


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How a target is served.

    Attributes:
        connections: requests in flight at once; all of a rule's go one after another.
        max_samples: most samples of one request; the samples of one series are never split.
        max_age_ms: older slots are given up; 0: none is.
        min_backoff_ms, max_backoff_ms: between these the pause grows while the target does not take samples.
    """

    connections: int = 4
    max_samples: int = 5_000
    max_age_ms: int = DAY_MS
    min_backoff_ms: int = 500
    max_backoff_ms: int = 30 * SECOND_MS

    def __post_init__(self) -> None:
        if self.min_backoff_ms > self.max_backoff_ms:
            raise ValueError("queue: min_backoff must not exceed max_backoff")


@dataclass(frozen=True, slots=True)
class WriteTarget:
    """One target of remote write.

    Attributes:
        name: how cursors, metrics and messages name it.
        url: the whole address that is posted to.
        http: the same without its query, with what authenticates us.
        rules: patterns of rules' ids (``group/name``); a rule is written if one fits.
        series: names of the series that are written (``scoreseries``).
        external_labels: added to each series that has none of that name.
    """

    name: str
    url: str
    http: SourceSpec
    rules: tuple[str, ...]
    series: frozenset[str]
    external_labels: Mapping[str, str] = field(default_factory=dict)
    queue: QueuePolicy = QueuePolicy()

    def __post_init__(self) -> None:
        reserved = sorted(RESERVED_HEADERS & {name.lower() for name in self.http.headers})
        if reserved:
            raise ValueError(f"headers may not set {', '.join(reserved)}: the protocol does")

    def takes(self, rule: str) -> bool:
        """Whether a rule is written."""
        return any(fnmatchcase(rule, pattern) for pattern in self.rules)


def without_query(url: str) -> str:
    """A URL without its query, as ``SourceSpec`` wants it."""
    try:
        return urlsplit(url)._replace(query="").geturl()
    except ValueError:
        return url
