"""``Daemon``: the parts of a running daemon and the steps it takes.

It takes one step of everything (``tick``, ``deliver``, ``maintain``) and never waits. What drives the steps is one of
two: the real drive (``run.py``) under a system clock, or the virtual drive here, which takes the next step in order of
time under a virtual clock as fast as the machine can. The steps are the same code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from anomalyd.clock import MINUTE_MS, SECOND_MS, Clock, VirtualClock
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.notices import NoticePolicy, notices_owed
from anomalyd.delivery.past import updates
from anomalyd.delivery.remind import next_look, reminders
from anomalyd.episode import Phase
from anomalyd.errors import SourceError, StoreError
from anomalyd.evaluation.datafeatures import features_of, worst_of
from anomalyd.evaluation.evaluate import Evaluated, Evaluator
from anomalyd.evaluation.jointly import groups_seen, with_groups
from anomalyd.evaluation.rulerun import Advanced
from anomalyd.export import Lane, RemoteWrite
from anomalyd.incident import Notification
from anomalyd.leader import Leadership
from anomalyd.logs import get_logger
from anomalyd.metrics import Exported, Metrics
from anomalyd.receivers.base import ShowsVerdicts
from anomalyd.rule import RuleGroup
from anomalyd.schedule import due, next_start_ms
from anomalyd.score import TIERS
from anomalyd.store import Store
from anomalyd.threshold import NEVER

RETRY_AFTER_STORE_ERROR_MS = 5 * SECOND_MS
STANDBY_MS = SECOND_MS
"""How often a daemon that stands by looks whether it has become the leader."""

log = get_logger("daemon")


class Daemon:
    """The parts of a running daemon and the steps it takes."""

    def __init__(
        self,
        store: Store,
        evaluator: Evaluator,
        deliverer: Deliverer,
        metrics: Metrics,
        clock: Clock,
        groups: Iterable[RuleGroup],
        retention_ms: int = 0,
        leadership: Leadership | None = None,
        repeats: Callable[[], Mapping[str, int]] = dict,
        remotes: Mapping[str, RemoteWrite] | None = None,
        notices: Callable[[], NoticePolicy] = NoticePolicy,
    ):
        """Args:
        leadership: decides between several daemons on one store; without it this one is alone.
        repeats: how often each receiver is reminded of what is still open, milliseconds.
        remotes: the targets that scores are written to, by name.
        notices: who is told of what pages nobody.
        """
        self.store, self.evaluator, self.deliverer, self.metrics = store, evaluator, deliverer, metrics
        self.clock = clock
        self.retention_ms = retention_ms
        self.leadership, self.repeats, self.notices = leadership, repeats, notices
        self.remotes: Mapping[str, RemoteWrite] = remotes or {}
        self._remotes_known = False
        self.on_lead: Callable[[], None] = lambda: None
        self.groups: dict[str, RuleGroup] = {group.name: group for group in groups}
        self.last_slot: dict[str, int | None] = {name: store.last_slot(name) for name in self.groups}
        self.progress_s: dict[str, float] = {name: clock.monotonic_s() for name in self.groups}
        self.wake = {name: threading.Event() for name in deliverer.receivers}
        self._busy = {name: threading.Lock() for name in self.groups}
        self._limited: dict[str, int] = {}
        self._duplicate: dict[str, int] = {}
        self._said: tuple[int, ...] = ()
        metrics.export_scores(self.newest_scores)

    # One step of each kind ----------------------------------------------------------------------------------------

    def tick(self, name: str) -> int:
        """Evaluate a group's newest slot if it is due; return when to come again, wall milliseconds."""
        with self._busy[name]:
            group = self.groups.get(name)
            if group is None:
                return 0
            now = self.clock.now_ms()
            if not self.leading:
                self.progress_s[name] = self.clock.monotonic_s()
                return now + STANDBY_MS
            slot = due(group, now, self.last_slot[name])
            if slot is None:
                return next_start_ms(group, self.last_slot[name] or 0)
            began = self.clock.monotonic_s()
            try:
                with self.metrics.duration.labels(name).time():
                    evaluated = self.evaluator.evaluate(group, slot.at, slot.missed)
            except StoreError as error:
                self.metrics.store_errors.labels(error.reason).inc()
                if error.reason == "fenced" and self.leadership is not None:
                    self.leadership.lost()
                    return now + STANDBY_MS
                what = "slot not written; it will be evaluated again"
                log.error(what, group=name, reason=error.reason, error=str(error))
                return now + RETRY_AFTER_STORE_ERROR_MS
            self.last_slot[name] = slot.at
            self.progress_s[name] = self.clock.monotonic_s()
            self._notice_slow(group, self.progress_s[name] - began)
            self._account(evaluated)
            for remote in self.remotes.values():
                remote.notify(evaluated.rules)
            if evaluated.owed:
                for event in self.wake.values():
                    event.set()
            return next_start_ms(group, slot.at)

    @property
    def leading(self) -> bool:
        """Whether this daemon may evaluate and deliver."""
        return self.leadership is None or self.leadership.leading

    def lead(self) -> None:
        """Renew the lease or try to get it; a new leader takes up where the last one left off."""
        if self.leadership is None or not self.leadership.step(self.clock.now_ms()):
            return

        def take_over() -> None:
            self.on_lead()
            self.evaluator.recall()
            for remote in self.remotes.values():
                remote.recall()
            self.last_slot = {name: self.store.last_slot(name) for name in self.groups}

        self.replace_groups(self.groups.values(), take_over)
        log.info("leading")

    def deliver(self, receiver: str) -> int | None:
        """Deliver what is due to one receiver; return when the next try is due, None when nothing is owed."""
        if not self.leading:
            return self.clock.now_ms() + STANDBY_MS
        return self.deliverer.deliver_once(receiver, self.clock.now_ms()).next_at

    def write(self, lane: Lane) -> int | None:
        """Write scores that a lane of remote write owes; return when to come again, None when there is news."""
        if not self.leading:
            lane.stand_by()
            return self.clock.now_ms() + STANDBY_MS
        try:
            return lane.step(self.clock.now_ms())
        except StoreError as error:
            self.metrics.store_errors.labels(error.reason).inc()
            if error.reason == "fenced" and self.leadership is not None:
                self.leadership.lost()
            log.error("scores not written; it is tried again", lane=lane.name, reason=error.reason, error=str(error))
            return self.clock.now_ms() + RETRY_AFTER_STORE_ERROR_MS

    def lanes(self) -> list[Lane]:
        """All lanes of all targets of remote write."""
        return [lane for remote in self.remotes.values() for lane in remote.lanes]

    def use_remotes(self, remotes: Mapping[str, RemoteWrite]) -> None:
        """Write scores to these from now on; what they are told of the rules in force may have changed."""
        old, self.remotes = self.remotes, remotes
        for name, remote in old.items():
            if remotes.get(name) is not remote:
                remote.close()
        for remote in remotes.values():
            remote.recall()
        self._remotes_known = False

    def _forget_remotes(self) -> None:
        """Let go of cursors of targets that the settings no longer name; asked once, and after a reload."""
        if not self._remotes_known and (gone := self.store.exports.keep(self.remotes)):
            log.info("targets of remote write are gone", rules=gone)
        self._remotes_known = True

    def maintain(self) -> None:
        """Delete what retention allows, remind of what is still open, and refresh the gauges of the outbox."""
        now = self.clock.now_ms()
        if self.leading:
            if self.retention_ms:
                self.store.delete_before(now - self.retention_ms)
            self.remind(now)
            self._forget_remotes()
        for receiver, stat in self.store.outbox_stats(now).items():
            self.metrics.outbox_pending.labels(receiver).set(stat.pending)
            self.metrics.outbox_oldest.labels(receiver).set(stat.oldest_age_ms / 1000)

    def remind(self, now: int) -> None:
        """Owe what is due because of what is still open, what people have said, and what waits for company."""
        reminded = reminders(self.store, self.repeats(), now)
        if owed := [*reminded, *self._verdicts(now), *self.deliverer.updates(now), *self._notices(now)]:
            self.store.enqueue(owed)
            for event in self.wake.values():
                event.set()

    def _verdicts(self, now: int) -> list[Notification]:
        """What is owed to receivers that show what people say; asked only when somebody has said something."""
        stamp = self.store.feedback_stamp()
        if stamp == self._said:
            return []
        self._said = stamp
        receivers = self.deliverer.receivers.items()
        return updates(self.store, [n for n, r in receivers if isinstance(r, ShowsVerdicts) and r.shows_verdicts], now)

    def _notices(self, now: int) -> list[Notification]:
        """What is owed about notices of rules that may tell anybody."""

        def live(rule_id: str) -> bool:
            run = self.evaluator.runs.get(rule_id)
            return run.rule.mode == "live" if run is not None else not rule_id

        return notices_owed(self.notices(), self.store, live, now)

    # What happened, for logs and metrics ---------------------------------------------------------------------------

    def _account(self, evaluated: Evaluated) -> None:
        name = evaluated.group
        failed = [rule for rule, one in evaluated.rules.items() if one.failure is not None]
        self.metrics.slots.labels(name, "error" if failed else "ok").inc()
        self.metrics.last_evaluation.labels(name).set(evaluated.at / 1000)
        if evaluated.missed:
            self.metrics.slots_missed.labels(name).inc(evaluated.missed)
            log.warning("slots missed", group=name, missed=evaluated.missed)
        for rule_id, one in evaluated.rules.items():
            self._account_rule(rule_id, one)

    def _notice_slow(self, group: RuleGroup, took_s: float) -> None:
        """A tick longer than its interval makes the group skip slots, which is how a slow source is spared."""
        if took_s * 1000 > group.interval_ms:
            self.metrics.overruns.labels(group.name).inc()
            log.warning(
                "evaluation takes longer than its interval; slots are skipped to spare the source", group=group.name,
                seconds=round(took_s, 1), interval_s=group.interval_ms / 1000, remedy="anomalyd query-cost",
            )  # fmt: skip

    def _notice_limited(self, rule_id: str, limited: int) -> None:
        """Say it when it changes, not at every slot."""
        if limited != self._limited.get(rule_id, 0):
            most = self.evaluator.runs[rule_id].rule.max_series
            log.warning("series beyond max_series are not scored", rule=rule_id, limited=limited, max_series=most)
        self._limited[rule_id] = limited

    def _notice_duplicate(self, rule_id: str, duplicates: int) -> None:
        """Say it when it begins, not at every slot."""
        if duplicates and not self._duplicate.get(rule_id, 0):
            dropped = ", ".join(self.evaluator.runs[rule_id].rule.drop_labels)
            log.warning(
                "series are equal without their dropped labels; the first of each is scored", rule=rule_id,
                series=duplicates, drop_labels=dropped, remedy="aggregate in expr, or keep a label",
            )  # fmt: skip
        self._duplicate[rule_id] = duplicates

    def _account_rule(self, rule_id: str, one: Advanced) -> None:
        rule = self.evaluator.runs[rule_id].rule
        for slot in one.slots:
            if slot.observation is not None:
                self.metrics.count_verdicts(rule_id, slot.observation.verdicts.counts())
        if one.limited:
            self.metrics.verdicts.labels(rule_id, "limited").inc(one.limited)
        for kind, count in (("waiting", one.waiting), ("duplicate", one.duplicates)):
            if count:
                self.metrics.verdicts.labels(rule_id, kind).inc(count)
        self.metrics.series_registered.labels(rule_id).set(one.memory.registry.series)
        self.metrics.series_gone.labels(rule_id).inc(len(one.gone))
        self.metrics.series_limited.labels(rule_id).set(one.limited)
        self.metrics.series_waiting.labels(rule_id).set(one.waiting)
        self.metrics.series_duplicate.labels(rule_id).set(one.duplicates)
        for fault, count in one.memory.quality.counts().items():
            self.metrics.series_faulty.labels(rule_id, fault).set(count)
        for feature, value in worst_of(features_of(one.memory.quality, rule.interval_ms)).items():
            self.metrics.data_quality.labels(rule_id, feature).set(value)
        if one.memory.fitted_at:
            self.metrics.model_fitted_at.labels(rule_id).set(one.memory.fitted_at / 1000)
        self._notice_duplicate(rule_id, one.duplicates)
        self._notice_limited(rule_id, one.limited)
        if one.failure is None:
            self.metrics.source_up.labels(rule.source).set(1)
            for warning in one.warnings:
                log.warning("source warns", rule=rule_id, warning=warning[:500])
        else:
            self._account_failure(rule_id, rule.source, one.failure)
        open_now = one.memory.episodes.values()
        for tier in TIERS:
            count = sum(e.phase == Phase.OPEN and e.tier == tier for e in open_now)
            self.metrics.episodes_open.labels(rule_id, tier.word).set(count)
        for episode in one.episodes:
            _log_episode(rule_id, one, episode.id)
        for notice in one.notices:
            self.metrics.notices.labels(rule_id, notice.kind.value).inc()
            log.info("notice", kind=notice.kind.value, rule=rule_id, text=notice.text, **_label_fields(notice.labels))

    def _account_failure(self, rule_id: str, source: str, failure: Exception) -> None:
        reason = getattr(failure, "reason", "internal")
        self.metrics.rule_errors.labels(rule_id, reason).inc()
        if isinstance(failure, SourceError):
            self.metrics.source_up.labels(source).set(0)
            what = "rule not evaluated; its state is held"
            log.warning(what, rule=rule_id, source=source, reason=reason, error=str(failure))
        else:
            log.error("rule failed; its state is held", rule=rule_id, reason=reason, exc_info=failure)

    def newest_scores(self) -> Iterable[Exported]:
        """The newest observation of every rule, for /metrics."""
        for run in list(self.evaluator.runs.values()):
            memory = run.memory
            if memory.last is not None and len(memory.last.series) == len(memory.active):
                rows = memory.registry.rows
                seen = with_groups(memory, memory.last, groups_seen(memory, memory.last))
                labels = tuple(rows[row].labels for row in seen.series.tolist())
                cut = float(memory.cuts.min()) if memory.cuts.size else NEVER
                told = tuple((episode.labels, episode.tier) for episode in memory.open_episodes())
                yield Exported(run.rule.group, run.rule.name, labels, seen, cut, told)

    def use_deliverer(self, deliverer: Deliverer) -> None:
        """Deliver through this from now on; what the old one holds in memory is only patience."""
        old, self.deliverer = self.deliverer, deliverer
        for name in deliverer.receivers:
            self.wake.setdefault(name, threading.Event())
        old.close()

    def healthy(self) -> tuple[bool, str]:
        """Whether every group has made progress within two of its intervals, and if not, which has not."""
        now = self.clock.monotonic_s()
        for name, group in list(self.groups.items()):
            patience_s = 2 * group.interval_ms / 1000 + group.query_delay_ms / 1000 + 30
            if now - self.progress_s.get(name, now) > patience_s:
                return False, f"group {name} has made no progress for {now - self.progress_s[name]:.0f} s"
        return True, "all groups make progress"

    def replace_groups(self, groups: Iterable[RuleGroup], change: Callable[[], None]) -> None:
        """Swap the groups while none of them is being evaluated; ``change`` moves the evaluator's rules along."""
        fresh = {group.name: group for group in groups}
        locks = [self._busy[name] for name in sorted(self._busy)]
        for lock in locks:
            lock.acquire()
        try:
            change()
            for name in fresh.keys() - self.groups.keys():
                self._busy.setdefault(name, threading.Lock())
                self.last_slot[name] = self.store.last_slot(name)
                self.progress_s[name] = self.clock.monotonic_s()
            self.groups = fresh
        finally:
            for lock in locks:
                lock.release()


def _log_episode(rule_id: str, one: Advanced, episode_id: str) -> None:
    episode = next(e for e in one.episodes if e.id == episode_id)
    at = one.slots[-1].at
    if episode.phase == Phase.OPEN and episode.opened_at == at:
        log.info("episode opened", rule=rule_id, episode=episode.id, tier=episode.tier.word, value=episode.value,
                 lower=episode.lower, upper=episode.upper, **_label_fields(episode.labels))  # fmt: skip
    elif episode.phase == Phase.CLOSED and episode.opened_at and episode.closed_at == at:
        log.info("episode closed", rule=rule_id, episode=episode.id, close=str(episode.close),
                 **_label_fields(episode.labels))  # fmt: skip


def _label_fields(labels: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    return {"series": "{" + ",".join(f'{name}="{value[:128]}"' for name, value in labels) + "}"}


# The virtual drive --------------------------------------------------------------------------------------------------


def run_virtually(
    daemon: Daemon, clock: VirtualClock, until_ms: int, progress: Callable[[int], None] = lambda now: None
) -> None:
    """Live from the clock's time to ``until_ms`` as fast as the machine can: every due step in order of time."""
    receivers = list(daemon.deliverer.receivers)
    next_delivery: dict[str, int | None] = dict.fromkeys(receivers, clock.now_ms())
    starts = {name: daemon.tick(name) for name in daemon.groups}
    remind_at: int | None = clock.now_ms() + MINUTE_MS
    while True:
        waits = [at for at in (*next_delivery.values(), remind_at) if at is not None]
        now = max(clock.now_ms(), min([*starts.values(), *waits]))
        if now > until_ms:
            return
        clock.advance_to(now)
        for name, start in starts.items():
            if start <= now:
                starts[name] = daemon.tick(name)
        looks = remind_at is not None and remind_at <= now
        if looks:
            daemon.remind(now)
        for receiver in receivers:
            wake, at = daemon.wake[receiver], next_delivery[receiver]
            if wake.is_set() or (at is not None and at <= now):
                wake.clear()
                again, looks = daemon.deliver(receiver), True
                next_delivery[receiver] = None if again is None else max(again, now + 1)
        if looks:
            remind_at = _next_look(daemon, now)
        progress(now)


def _next_look(daemon: Daemon, now: int) -> int | None:
    """When something may be due of what is open: every minute where incidents wait for company."""
    waiting = any(stat.pending for stat in daemon.store.outbox_stats(now).values())
    return now + MINUTE_MS if waiting or daemon.notices().receivers else next_look(daemon.store, daemon.repeats(), now)
