"""The composition root: builds all parts of a daemon from settings and rules, and rebuilds what a reload changes.

``build`` is one straight function on purpose: each part needs those before it, and reading it top to bottom is reading
how the house hangs together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from anomalyd.clock import Clock
from anomalyd.deliver import Deliverer, Delivery
from anomalyd.errors import ConfigError
from anomalyd.evaluate import Evaluator, Source
from anomalyd.executors import InlineExecutor, open_executor
from anomalyd.leader import Leadership
from anomalyd.logs import get_logger
from anomalyd.metrics import Metrics
from anomalyd.orphans import close_orphans
from anomalyd.prometheus.source import PrometheusSource
from anomalyd.receivers import build_receiver
from anomalyd.receivers.base import Receiver
from anomalyd.records import Fence
from anomalyd.rule import Rule
from anomalyd.rules import RuleSet, diff, load_rules
from anomalyd.run import Daemon
from anomalyd.settings import Settings, load_settings
from anomalyd.store import Store, open_store
from anomalyd.template import render_annotations

log = get_logger("app")


@dataclass(slots=True)
class App:
    """A daemon with what it was built from."""

    settings: Settings
    rules: RuleSet
    daemon: Daemon
    store: Store
    sources: dict[str, Source]
    executors: tuple[Executor, ...]
    digest: str = ""
    observe: Callable[[Delivery], None] = field(default=lambda delivery: None)

    def close(self) -> None:
        """Let go of connections, pools and the store; a fit in flight is abandoned, it is only a cache."""
        for executor in self.executors:
            executor.shutdown(wait=False, cancel_futures=True)
        self.daemon.deliverer.close()
        for source in self.sources.values():
            if isinstance(source, PrometheusSource):
                source.close()
        self.store.close()

    def files_changed(self) -> bool:
        """Whether the settings or any rules file differs from what is running."""
        return digest_of(self.settings) != self.digest

    def reload(self) -> bool:
        """Read everything anew, and swap only when all of it is right; unchanged rules keep their learned state."""
        metrics = self.daemon.metrics
        try:
            settings = load_settings(self.settings.file)
            rules = load_rules(settings.rule_files, settings)
        except ConfigError as error:
            metrics.reload_ok.set(0)
            self.digest = digest_of(self.settings)  # say it once, not at every poll
            for problem in error.problems:
                log.error("configuration not reloaded; the old one stays", problem=str(problem))
            return False
        if settings.database.get() != self.settings.database.get() or settings.web != self.settings.web:
            log.warning("database and web settings change with the next start")
        sources, receivers = open_sources(settings), open_receivers(settings)
        old, evaluator = self.rules, self.daemon.evaluator
        made = _deliverer(self.store, receivers, metrics, self.daemon.clock, self.observe, evaluator.fence)

        def change() -> None:
            evaluator.use_sources(sources, settings.default_receivers)
            self.daemon.use_deliverer(made)
            apply_rules(evaluator, old, rules, self.daemon.clock.now_ms())

        self.daemon.replace_groups(rules.groups, change)
        self.settings, self.rules, self.sources = settings, rules, dict(sources)
        self.digest = digest_of(settings)
        metrics.reload_ok.set(1)
        metrics.reload_at.set(self.daemon.clock.now_ms() / 1000)
        log.info("configuration reloaded", rules=len(rules.rules), groups=len(rules.groups))
        return True


def build(
    settings: Settings,
    rules: RuleSet,
    clock: Clock,
    *,
    inline: bool = False,
    observe: Callable[[Delivery], None] = lambda delivery: None,
) -> App:
    """Build a daemon that is ready to run.

    Args:
        inline: compute and warm up within the slot: for virtual clocks, where waiting costs nothing.
        observe: told of everything that becomes of a notification, besides logs and metrics.
    """
    store = open_store(settings.database.get())
    leadership = None if inline else Leadership(store)
    fence = (lambda: leadership.fence) if leadership else (lambda: None)
    sources = open_sources(settings)
    receivers = open_receivers(settings)
    fit = InlineExecutor() if inline else open_executor(settings.executor.fit, settings.executor.workers)
    background: Executor = InlineExecutor() if inline else ThreadPoolExecutor(4, thread_name_prefix="warm-up")
    evaluator = Evaluator(
        store, sources, annotate=render_annotations, links=lambda rule: links_of(settings, rule), fit=fit,
        background=background, operators=settings.default_receivers, fence=fence,
    )  # fmt: skip
    for incident in close_orphans(store, [rule.id for rule in rules.rules], settings.source_names, clock.now_ms()):
        log.info("incident closed, its rule is gone", rule=incident.rule, incident=incident.id)
    for rule in rules.rules:
        evaluator.add(rule)
    metrics = Metrics()
    deliverer = _deliverer(store, receivers, metrics, clock, observe, fence)
    daemon = Daemon(store, evaluator, deliverer, metrics, clock, rules.groups, settings.retention_ms, leadership)
    metrics.reload_ok.set(1)
    metrics.reload_at.set(clock.now_ms() / 1000)
    return App(settings, rules, daemon, store, dict(sources), (fit, background), digest_of(settings), observe)


def open_sources(settings: Settings) -> Mapping[str, Source]:
    """A client for each source of the settings."""
    return {name: PrometheusSource(spec) for name, spec in settings.sources.items()}


def open_receivers(settings: Settings) -> Mapping[str, Receiver]:
    """A client for each receiver of the settings."""
    return {name: build_receiver(receiver) for name, receiver in settings.receivers.items()}


def apply_rules(evaluator: Evaluator, old: RuleSet, new: RuleSet, now: int) -> None:
    """Move the evaluator from one rule set to another; what is unchanged is not touched."""
    change = diff(old, new)
    by_id = {rule.id: rule for rule in new.rules}
    for rule_id in change.removed:
        evaluator.remove(rule_id, now)
    for rule_id in change.rebuilt:
        evaluator.forget(rule_id)
        evaluator.add(by_id[rule_id])
    for rule_id in change.kept:
        evaluator.update(by_id[rule_id])
    for rule_id in change.added:
        evaluator.add(by_id[rule_id])


def links_of(settings: Settings, rule: Rule) -> Mapping[str, str]:
    """Where a reader can look: the rule's expression on its source. From configuration only, never from a label."""
    spec = settings.sources[rule.source]
    base = spec.url.rstrip("/")
    query = urlencode({"g0.expr": rule.expr, "g0.tab": 0, "g0.range_input": "6h"})
    return {"Prometheus": f"{base}/graph?{query}"}


def digest_of(settings: Settings) -> str:
    """Hash of the contents of the settings and rules files (survives ConfigMap symlinks, unlike times of change)."""
    digest = hashlib.blake2b(digest_size=16)
    paths = [Path(settings.file)]
    for pattern in settings.rule_files:
        root = Path(pattern)
        paths += sorted(root.parent.glob(root.name)) if root.parent.is_dir() else []
    for path in paths:
        try:
            digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
        except OSError:
            digest.update(b"absent\0")
    return digest.hexdigest()


def _deliverer(
    store: Store, receivers: Mapping[str, Receiver], metrics: Metrics, clock: Clock,
    observe: Callable[[Delivery], None], fence: Callable[[], Fence | None],
) -> Deliverer:  # fmt: skip
    def account(delivery: Delivery) -> None:
        metrics.notifications.labels(delivery.receiver, delivery.outcome, delivery.reason).inc()
        observe(delivery)

    return Deliverer(store, receivers, observe=account, clock=clock, fence=fence)
