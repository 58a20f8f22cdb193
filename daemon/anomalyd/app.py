"""The composition root: builds all parts of a daemon from settings and rules, and rebuilds what a reload changes.

``build`` is one straight function on purpose: each part needs those before it, and reading it top to bottom is reading
how the house hangs together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from anomalyd.arrangement import Arrangement, arrangement_of, deliverer_of
from anomalyd.ballot import StoredFeedback
from anomalyd.clock import Clock
from anomalyd.console.mount import console_of
from anomalyd.console.places import graph_url
from anomalyd.daemon import Daemon
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.earlier import Earlier
from anomalyd.delivery.needs import Delivery
from anomalyd.delivery.past import Past
from anomalyd.delivery.picture import Pictures, pictures
from anomalyd.delivery.words import Words
from anomalyd.errors import ConfigError
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.evaluation.orphans import close_orphans
from anomalyd.evaluation.snapshot import forget_gone
from anomalyd.executors import InlineExecutor, open_executor
from anomalyd.export import RemoteWrite
from anomalyd.feedback.belief import FeedbackPolicy
from anomalyd.feedback.cuts import policy_of
from anomalyd.incident import Incident
from anomalyd.leader import Leadership
from anomalyd.logs import get_logger
from anomalyd.metrics import Metrics
from anomalyd.preflight import load_checked
from anomalyd.prometheus.source import PrometheusSource
from anomalyd.prometheus.writer import RemoteWriter
from anomalyd.receivers import build_receiver
from anomalyd.receivers.base import Receiver
from anomalyd.records import NO_SNAPSHOTS, Fence
from anomalyd.rule import Rule
from anomalyd.rulefiles.read import RuleSet, diff, load_rules
from anomalyd.settings import Settings
from anomalyd.sources import Source
from anomalyd.store import Store, open_store
from anomalyd.template import render_annotations

log = get_logger("app")


@dataclass(slots=True)
class Wiring:
    """What the parts ask of the configuration in force; a reload replaces the configuration under them."""

    settings: Settings
    rules: RuleSet
    metrics: Metrics
    observe: Callable[[Delivery], None]
    words: Words
    sources: Mapping[str, Source]
    pictures: Pictures | None = None

    def links(self, rule: Rule) -> Mapping[str, str]:
        """Where a reader can look: the rule's expression on its source. From configuration only, never from a label."""
        return {"Prometheus": graph_url(self.settings, rule)}

    def arrangement(self) -> Arrangement:
        """Who is told of what, as of now."""
        return arrangement_of(self.settings)

    def recipients(self, rule: Rule, incident: Incident) -> Sequence[str]:
        """Who is told of an incident: at once, or in the end when nobody acknowledges it."""
        return self.arrangement().recipients(rule, incident)

    def rule(self, rule_id: str) -> Rule | None:
        """A rule by its id; None for one that is gone."""
        return self.rules.rule(rule_id)

    def policy_of(self, rule_id: str) -> FeedbackPolicy:
        """How far feedback goes on a rule."""
        rule = self.rules.rule(rule_id)
        return self.settings.feedback if rule is None else policy_of(rule, self.settings.feedback)

    def account(self, delivery: Delivery) -> None:
        """Count what became of a notification."""
        self.metrics.notifications.labels(delivery.receiver, delivery.outcome, delivery.reason).inc()
        self.observe(delivery)

    def repeats(self) -> Mapping[str, int]:
        """How often each receiver is reminded of what is still open, milliseconds; 0: never."""
        return self.arrangement().repeats()


@dataclass(slots=True)
class App:
    """A daemon with what it was built from."""

    wiring: Wiring
    daemon: Daemon
    store: Store
    sources: Mapping[str, Source]
    executors: tuple[Executor, ...]
    feedback: StoredFeedback
    digest: str = ""

    @property
    def settings(self) -> Settings:
        return self.wiring.settings

    @property
    def rules(self) -> RuleSet:
        return self.wiring.rules

    def close(self) -> None:
        """Let go of connections, pools and the store; a fit in flight is abandoned, it is only a cache."""
        for executor in self.executors:
            executor.shutdown(wait=False, cancel_futures=True)
        self.daemon.deliverer.close()
        for source in self.sources.values():
            if isinstance(source, PrometheusSource):
                source.close()
        for remote in self.daemon.remotes.values():
            remote.close()
        self.store.close()

    def files_changed(self) -> bool:
        """Whether the settings, any rules file or any file of days differs from what is running."""
        return digest_of(self.settings, self.rules) != self.digest

    def close_orphans(self) -> None:
        """End what is open of rules that went while no daemon was running."""
        known = [rule.id for rule in self.rules.rules]
        forget_gone(self.store, known, self.daemon.clock.now_ms())
        for incident in close_orphans(self.store, known, self.settings.source_names, self.daemon.clock.now_ms()):
            log.info("incident closed, its rule is gone", rule=incident.rule, incident=incident.id)

    def reload(self) -> bool:
        """Read everything anew, and swap only when all of it is right; unchanged rules keep their learned state."""
        metrics, daemon = self.daemon.metrics, self.daemon
        self.digest = digest_of(self.settings, self.rules)  # what is wrong is said once, not at every poll
        try:
            settings = load_checked(self.settings.file)
            rules = load_rules(settings.rule_files, settings)
            receivers = open_receivers(settings)
        except ConfigError as error:
            metrics.reload_ok.set(0)
            for problem in error.problems:
                log.error("configuration not reloaded; the old one stays", problem=str(problem))
            return False
        if settings.database.get() != self.settings.database.get() or settings.web != self.settings.web:
            log.warning("database and web settings change with the next start")
        sources, old = open_sources(settings), self.rules

        def change() -> None:
            self.wiring.settings, self.wiring.rules, self.wiring.sources = settings, rules, sources
            daemon.evaluator.use_sources(sources, settings.default_receivers)
            deliverer = _deliverer(self.wiring, self.store, receivers, daemon.clock, daemon.evaluator.fence)
            deliverer.adopt(daemon.deliverer)
            daemon.use_deliverer(deliverer)
            apply_rules(daemon.evaluator, old, rules, daemon.clock.now_ms())
            remotes = open_remotes(self.wiring, self.store, daemon.clock, daemon.evaluator.fence, daemon.remotes)
            daemon.use_remotes(remotes)

        daemon.replace_groups(rules.groups, change)
        self.sources, self.digest = sources, digest_of(settings, rules)
        metrics.reload_ok.set(1)
        metrics.reload_at.set(daemon.clock.now_ms() / 1000)
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
        inline: compute and warm up within the slot, and be alone on the store: for virtual clocks.
        observe: told of everything that becomes of a notification, besides logs and metrics.
    """
    store = open_store(settings.database.get())
    leadership = None if inline else Leadership(store)
    fence = (lambda: leadership.fence) if leadership else (lambda: None)
    sources, receivers = open_sources(settings), open_receivers(settings)
    fit = InlineExecutor() if inline else open_executor(settings.executor.fit, settings.executor.workers)
    background: Executor = InlineExecutor() if inline else ThreadPoolExecutor(4, thread_name_prefix="warm-up")
    metrics = Metrics()
    wiring = Wiring(settings, rules, metrics, observe, Words(), sources)
    drawn = wiring.pictures = pictures(store, Earlier(wiring.rule, lambda: wiring.sources))
    console = console_of(lambda: wiring.settings, store, charts=drawn is not None)
    wiring.words = Words(console.actions, console.places, drawn, console.charts, Past(store, wiring.policy_of))
    feedback = StoredFeedback(store, settings.feedback)
    evaluator = Evaluator(
        store, sources, annotate=render_annotations, links=wiring.links, fit=fit, background=background,
        operators=settings.default_receivers, recipients=wiring.recipients, fence=fence,
        feedback=feedback, snapshots=NO_SNAPSHOTS if inline else settings.snapshots,
    )  # fmt: skip
    for rule in rules.rules:
        evaluator.add(rule)
    deliverer = _deliverer(wiring, store, receivers, clock, fence)
    daemon = Daemon(
        store, evaluator, deliverer, metrics, clock, rules.groups, settings.retention_ms, leadership, wiring.repeats,
        {} if inline else open_remotes(wiring, store, clock, fence, {}), lambda: wiring.arrangement().notices,
    )  # fmt: skip
    app = App(wiring, daemon, store, sources, (fit, background), feedback, digest_of(settings, rules))
    daemon.on_lead = app.close_orphans
    if inline:
        app.close_orphans()
    metrics.reload_ok.set(1)
    metrics.reload_at.set(clock.now_ms() / 1000)
    return app


def _deliverer(
    wiring: Wiring, store: Store, receivers: Mapping[str, Receiver], clock: Clock, fence: Callable[[], Fence | None]
) -> Deliverer:
    return deliverer_of(
        wiring.arrangement, store, receivers, wiring.rule, clock, words=wiring.words, observe=wiring.account,
        fence=fence,
    )  # fmt: skip


def open_sources(settings: Settings) -> Mapping[str, Source]:
    """A client for each source of the settings."""
    return {name: PrometheusSource(spec) for name, spec in settings.sources.items()}


def open_receivers(settings: Settings) -> Mapping[str, Receiver]:
    """A client for each receiver of the settings."""
    return {name: build_receiver(receiver) for name, receiver in settings.receivers.items()}


def open_remotes(
    wiring: Wiring, store: Store, clock: Clock, fence: Callable[[], Fence | None], running: Mapping[str, RemoteWrite]
) -> Mapping[str, RemoteWrite]:
    """The targets of remote write; one whose settings have not changed stays the one that is running."""
    remotes = {}
    for target in wiring.settings.remote_write:
        there = running.get(target.name)
        if there is None or there.target != target:
            there = RemoteWrite(
                store, target, lambda: wiring.rules.rules, wiring.metrics, RemoteWriter(target, clock), clock, fence
            )
        remotes[target.name] = there
        if not any(target.takes(rule.id) for rule in wiring.rules.rules):
            log.warning("no rule is written to this target", target=target.name, rules=", ".join(target.rules))
    return remotes


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


def digest_of(settings: Settings, rules: RuleSet) -> str:
    """Hash of the contents of the settings and rules files, and of the files of days that they name (survives ConfigMap
    symlinks, unlike times of change)."""
    digest = hashlib.blake2b(digest_size=16)
    own = {rule.holidays.file for rule in rules.rules if rule.holidays is not None and rule.holidays.file}
    paths = [Path(settings.file), *(Path(file) for file in (*settings.days_files, *sorted(own)))]
    for pattern in settings.rule_files:
        root = Path(pattern)
        paths += sorted(root.parent.glob(root.name)) if root.parent.is_dir() else []
    for path in paths:
        try:
            digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
        except OSError:
            digest.update(b"absent\0")
    return digest.hexdigest()
