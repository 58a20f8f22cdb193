"""The daemon's own metrics, and scores as series, in one registry of its own.

Names are bounded: no label here carries a value that a user's series can multiply, except in the exported scores, which
keep their source's labels and are capped.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anomalyd import __version__
from anomalyd.block import Labels
from anomalyd.score import Observation, Tier
from anomalyd.scoreseries import COLUMNS, EPISODE, SERIES_HELP, THRESHOLD, labels_of, names_of, samples_of

EXPORTED_SERIES_MAX = 10_000

@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """The newest observation of one rule with the labels of its series, and the episodes that are open."""

    group: str
    rule: str
    labels: tuple[Labels, ...]
    observation: Observation
    cut: float
    episodes: tuple[tuple[Labels, Tier], ...] = ()


class Metrics:
    """All metrics of one daemon."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        info = Gauge(
            "anomalyd_build_info", "Version of the daemon; always 1.", ["version", "pythonversion"],
            registry=self.registry,
        )  # fmt: skip
        info.labels(__version__, platform.python_version()).set(1)
        self._of_evaluation(self.registry)
        self._of_series(self.registry)
        self._of_the_rest(self.registry)

    def _of_evaluation(self, own: CollectorRegistry) -> None:
        self.slots = Counter(
            "anomalyd_slots_total", "Evaluated slots of a group by outcome.", ["group", "outcome"], registry=own
        )
        self.slots_missed = Counter(
            "anomalyd_slots_missed_total", "Slots that went by without an evaluation.", ["group"], registry=own
        )
        self.overruns = Counter(
            "anomalyd_slots_overrun_total", "Evaluations that took longer than the group's interval.", ["group"],
            registry=own,
        )  # fmt: skip
        self.verdicts = Counter(
            "anomalyd_verdicts_total",
            "Verdicts: every series of a rule, every slot, by kind.",
            ["rule", "kind"],
            registry=own,
        )
        self.rule_errors = Counter(
            "anomalyd_rule_errors_total",
            "Slots in which a rule could not be evaluated.",
            ["rule", "reason"],
            registry=own,
        )
        self.duration = Histogram(
            "anomalyd_evaluation_duration_seconds", "Wall time of one evaluation of a group.", ["group"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60), registry=own,
        )  # fmt: skip
        self.last_evaluation = Gauge(
            "anomalyd_last_evaluation_timestamp_seconds",
            "Slot of a group's newest evaluation.",
            ["group"],
            registry=own,
        )
        self.source_up = Gauge(
            "anomalyd_source_up", "1 if the source answered the newest query.", ["source"], registry=own
        )

    def _of_series(self, own: CollectorRegistry) -> None:
        self.episodes_open = Gauge(
            "anomalyd_episodes_open", "Episodes that are open now.", ["rule", "tier"], registry=own
        )
        self.series_registered = Gauge(
            "anomalyd_series_registered", "Series a rule has now, those it has not heard of for less than a day too.",
            ["rule"], registry=own,
        )  # fmt: skip
        self.series_gone = Counter(
            "anomalyd_series_gone_total", "Series that were let go after they had long been away.", ["rule"],
            registry=own,
        )  # fmt: skip
        self.series_limited = Gauge(
            "anomalyd_series_limited", "Series beyond the rule's max_series, not scored.", ["rule"], registry=own
        )
        self.series_waiting = Gauge(
            "anomalyd_series_waiting", "New series not yet seen in `admit_after` slots, not scored.", ["rule"],
            registry=own,
        )  # fmt: skip
        self.series_faulty = Gauge(
            "anomalyd_series_faulty", "Series whose data are faulty: frozen, with gaps, ...", ["rule", "fault"],
            registry=own,
        )  # fmt: skip
        self.data_quality = Gauge(
            "anomalyd_data_quality", "Worst of a rule's series as data: gap_share, repeat_share, entropy, ...",
            ["rule", "feature"], registry=own,
        )  # fmt: skip
        self.model_fitted_at = Gauge(
            "anomalyd_model_fitted_timestamp_seconds", "Where the history that a rule's model was fitted to ends.",
            ["rule"], registry=own,
        )  # fmt: skip
        self.series_duplicate = Gauge(
            "anomalyd_series_duplicate", "Series that `drop_labels` made equal to another, not scored.", ["rule"],
            registry=own,
        )  # fmt: skip
        self.notices = Counter(
            "anomalyd_notices_total", "What was noted and paged nobody, by kind: drift, fit, left_out, model, ...",
            ["rule", "kind"], registry=own,
        )  # fmt: skip

    def _of_the_rest(self, own: CollectorRegistry) -> None:
        self.notifications = Counter(
            "anomalyd_notifications_total", "Attempts to deliver, and notifications dropped, by outcome and reason.",
            ["receiver", "outcome", "reason"], registry=own,
        )  # fmt: skip
        self.outbox_pending = Gauge(
            "anomalyd_outbox_pending", "Notifications owed to a receiver.", ["receiver"], registry=own
        )
        self.outbox_oldest = Gauge(
            "anomalyd_outbox_oldest_age_seconds", "Age of the oldest notification owed to a receiver.", ["receiver"],
            registry=own,
        )  # fmt: skip
        self.reload_ok = Gauge(
            "anomalyd_config_last_reload_successful",
            "1 if the newest reload of the configuration worked.",
            registry=own,
        )
        self.reload_at = Gauge(
            "anomalyd_config_last_reload_success_timestamp_seconds",
            "Time of the newest reload that worked.",
            registry=own,
        )
        self._of_remote_write(own)
        self.store_errors = Counter(
            "anomalyd_store_errors_total", "Failed database transactions.", ["reason"], registry=own
        )

    def _of_remote_write(self, own: CollectorRegistry) -> None:
        self.remote_write_requests = Counter(
            "anomalyd_remote_write_requests_total", "Requests to a target of remote write by outcome and reason.",
            ["target", "outcome", "reason"], registry=own,
        )  # fmt: skip
        self.remote_write_samples = Counter(
            "anomalyd_remote_write_samples_total", "Samples that a target took (ok) or refused for good (refused).",
            ["target", "outcome"], registry=own,
        )  # fmt: skip
        self.remote_write_bytes = Counter(
            "anomalyd_remote_write_bytes_total", "Bytes of bodies sent to a target, compressed.", ["target"],
            registry=own,
        )  # fmt: skip
        self.remote_write_given_up = Counter(
            "anomalyd_remote_write_slots_given_up_total",
            "Slots of a rule that were never written to a target: it was away for longer than max_age.", ["target"],
            registry=own,
        )  # fmt: skip
        self.remote_write_lag = Gauge(
            "anomalyd_remote_write_lag_seconds", "Age of the newest slot that a target has, where it lacks newer ones.",
            ["target"], registry=own,
        )  # fmt: skip

    def export_scores(self, newest: Callable[[], Iterable[Exported]]) -> None:
        """Expose the newest scores of all rules as series."""
        self.registry.register(ScoreCollector(newest))

    def count_verdicts(self, rule: str, counts: Mapping[str, int]) -> None:
        """Add one slot's verdicts."""
        for kind, count in counts.items():
            if count:
                self.verdicts.labels(rule, kind).inc(count)


class ScoreCollector(Collector):
    """Turns the newest observations into ``anomaly_*`` series with their source's labels.

    See ``scoreseries.labels_of`` for what becomes of a source's label that is called like one of ours.
    """

    def __init__(self, newest: Callable[[], Iterable[Exported]]):
        self._newest = newest

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(name, text) for name, text in SERIES_HELP.items()]

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(name, text) for name, text in SERIES_HELP.items()}
        left_out = GaugeMetricFamily("anomaly_series_not_exported", "Series beyond the limit of exported scores.")
        room, over = EXPORTED_SERIES_MAX, 0
        for one in self._newest():
            count = min(room, len(one.labels))
            over += len(one.labels) - count
            room -= count
            _add_rule(families, one, count)
        left_out.add_metric([], over)
        yield from families.values()
        yield left_out


def _add_rule(families: Mapping[str, GaugeMetricFamily], one: Exported, count: int) -> None:
    own, several = {"rule": one.rule, "group": one.group}, len(names_of(one.labels)) > 1
    columns = samples_of(one.observation, one.cut)
    for i in range(count):
        labels = labels_of(one.labels[i], own, several)
        for name in COLUMNS:
            if math.isfinite(value := columns[name][i]):
                families[name].add_sample(name, labels, float(value))
    if 0 < one.cut < math.inf:
        families[THRESHOLD].add_sample(THRESHOLD, own, one.cut)
    for series, tier in one.episodes:
        labels = labels_of(series, {**own, "tier": tier.word}, several)
        families[EPISODE].add_sample(EPISODE, labels, 1.0)
