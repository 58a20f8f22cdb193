"""``Drive``: the endless loops under the system clock, the only "for ever" of the daemon.

APScheduler for the groups' slots, a thread a receiver, signals, reload and maintenance; the steps are those of
``daemon.Daemon``.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger

from anomalyd.daemon import RETRY_AFTER_STORE_ERROR_MS, Daemon
from anomalyd.errors import StoreError
from anomalyd.export import Lane
from anomalyd.leader import RENEW_S
from anomalyd.logs import get_logger

STOP_GRACE_S = 8.0
"""How long stopping waits for evaluations and deliveries in flight."""

RELOAD_POLL_S = 30
MAINTENANCE_S = 60

log = get_logger("run")


class Drive:
    """Runs a daemon under the system clock until it is told to stop."""

    def __init__(self, daemon: Daemon, reload: Callable[[], bool], changed: Callable[[], bool]):
        """``reload`` builds and swaps the configuration; ``changed`` tells whether its files have changed."""
        self._daemon, self._reload, self._changed = daemon, reload, changed
        self.stop = threading.Event()
        self._reload_asked = threading.Event()
        self._scheduler = BackgroundScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True})
        self._threads: list[threading.Thread] = []

    def ask_reload(self) -> None:
        """Reload soon, in the drive's own thread."""
        self._reload_asked.set()

    def run(self) -> None:
        """Start everything, wait for the stop event, and leave in order within ten seconds."""
        self._start()
        try:
            while not self.stop.wait(0.2):
                if self._reload_asked.is_set():
                    self._reload_asked.clear()
                    self.reload_now()
        finally:
            self._finish()

    def reload_now(self) -> bool:
        """Reload and schedule groups that are new; return whether it worked."""
        before = set(self._daemon.groups)
        worked = self._reload()
        for name in self._daemon.groups.keys() - before:
            self._schedule(name, self._daemon.clock.now_ms())
        self._start_deliveries()
        return worked

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP reloads."""

        def stop(_: int, __: FrameType | None) -> None:
            self.stop.set()

        def reload(_: int, __: FrameType | None) -> None:
            self._reload_asked.set()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)

    def _start(self) -> None:
        daemon = self._daemon
        daemon.lead()
        self._scheduler.add_job(self._lead, "interval", seconds=RENEW_S)
        self._scheduler.add_job(self._maintain, "interval", seconds=MAINTENANCE_S)
        self._scheduler.add_job(self._poll_files, "interval", seconds=RELOAD_POLL_S)
        for name in daemon.groups:
            self._schedule(name, daemon.clock.now_ms())
        self._scheduler.start()
        self._start_deliveries()

    def _start_deliveries(self) -> None:
        """A thread for each receiver and lane that has none; one whose receiver is gone has ended by itself."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        running = {thread.name for thread in self._threads}
        for receiver in self._daemon.deliverer.receivers:
            name = f"deliver-{receiver}"
            if name not in running:
                self._start_thread(name, self._deliver_forever, receiver)
        for lane in self._daemon.lanes():
            name = f"write-{lane.name}-{id(lane)}"
            if name not in running:
                self._start_thread(name, self._write_forever, lane)

    def _start_thread(self, name: str, target: Callable[..., None], argument: object) -> None:
        thread = threading.Thread(target=target, args=(argument,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _schedule(self, name: str, at_ms: int) -> None:
        when = datetime.fromtimestamp(at_ms / 1000, UTC)
        self._scheduler.add_job(self._tick, DateTrigger(when), args=[name], id=f"group {name}", replace_existing=True)

    def _tick(self, name: str) -> None:
        if self.stop.is_set() or name not in self._daemon.groups:
            return
        try:
            again = self._daemon.tick(name)
        except Exception:  # the loop must go on whatever one tick meets; health tells if it never does
            log.exception("evaluation failed", group=name)
            again = self._daemon.clock.now_ms() + RETRY_AFTER_STORE_ERROR_MS
        if again and not self.stop.is_set():
            self._schedule(name, again)

    def _deliver_forever(self, receiver: str) -> None:
        daemon = self._daemon
        wake = daemon.wake[receiver]
        while not self.stop.is_set() and receiver in daemon.deliverer.receivers:
            wake.clear()
            try:
                next_at = daemon.deliver(receiver)
            except Exception:  # delivery to one receiver must go on whatever one pass meets
                log.exception("delivery pass failed", receiver=receiver)
                next_at = daemon.clock.now_ms() + RETRY_AFTER_STORE_ERROR_MS
            wait_ms = 10_000 if next_at is None else min(10_000, max(50, next_at - daemon.clock.now_ms()))
            daemon.clock.wait(wake, wait_ms / 1000)

    def _write_forever(self, lane: Lane) -> None:
        daemon = self._daemon
        while not self.stop.is_set() and any(one is lane for one in daemon.lanes()):
            lane.wake.clear()
            try:
                next_at = daemon.write(lane)
            except Exception:  # writing to one target must go on whatever one pass meets
                log.exception("writing scores failed", lane=lane.name)
                next_at = daemon.clock.now_ms() + RETRY_AFTER_STORE_ERROR_MS
            wait_ms = 10_000 if next_at is None else min(10_000, max(50, next_at - daemon.clock.now_ms()))
            self._pause(lane, next_at, wait_ms)

    def _pause(self, lane: Lane, next_at: int | None, wait_ms: int) -> None:
        """Wait for news, or, while the target asks to be left alone, for the stop: news does not change that."""
        event = lane.wake if next_at is None else self.stop
        self._daemon.clock.wait(event, wait_ms / 1000)

    def _lead(self) -> None:
        try:
            self._daemon.lead()
        except StoreError as error:
            log.error("taking over failed; it is tried again", reason=error.reason, error=str(error))

    def _maintain(self) -> None:
        try:
            self._daemon.maintain()
        except StoreError as error:
            self._daemon.metrics.store_errors.labels(error.reason).inc()
            log.error("maintenance failed", reason=error.reason, error=str(error))

    def _poll_files(self) -> None:
        if self._changed():
            self._reload_asked.set()

    def _finish(self) -> None:
        log.info("stopping")
        self.stop.set()
        for event in (*self._daemon.wake.values(), *(lane.wake for lane in self._daemon.lanes())):
            event.set()
        self._scheduler.remove_all_jobs()
        waiter = threading.Thread(target=self._scheduler.shutdown, kwargs={"wait": True}, daemon=True)
        waiter.start()
        deadline = self._daemon.clock.monotonic_s() + STOP_GRACE_S
        for thread in (*self._threads, waiter):
            thread.join(max(0.0, deadline - self._daemon.clock.monotonic_s()))
        if self._daemon.leading:
            self._daemon.evaluator.snapshots.finish(self._daemon.evaluator.runs.values())
        if self._daemon.leadership is not None:
            self._daemon.leadership.release()
