"""Remote write: what the store holds of scores goes to each target, in order, until it was taken, refused or too old.

The store is the queue. A target has a cursor a rule (``store.exports``); a pass reads the slots after it, sends what
they owe, and moves it. So an outage of hours or a restart loses nothing within ``max_age``, and a daemon that takes
the lead goes on where the last one was. A lane never waits: ``step`` says when to come again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from anomalyd.block import Labels, fingerprint
from anomalyd.clock import MINUTE_MS, Clock
from anomalyd.crashpoint import crashpoint
from anomalyd.exportbatch import Batch, Family, Sent, batch_of, end_of, whole_windows
from anomalyd.logs import get_logger
from anomalyd.metrics import Metrics
from anomalyd.prometheus.remotewrite import Message, SeriesLabels, encode_labels, messages, requests
from anomalyd.prometheus.target import WriteTarget
from anomalyd.prometheus.writer import RemoteWriter, Written
from anomalyd.records import Fence
from anomalyd.rule import Rule
from anomalyd.scoreseries import classic, labels_of, names_of, with_external
from anomalyd.slot import NoticeKind, make_notice
from anomalyd.store import Store

WINDOW_SLOTS = 16
"""Slots of a rule that are sent together where a target is behind by more."""
SAMPLES_AT_ONCE = 200_000
BATCHES = 64
"""A rule that is behind by more lets the others, and whoever wants to stop the daemon, have a turn."""
SPARE_LABELS = 1_000
"""Labels of series that have gone are let go when there are more than this, and more than of those that are here."""
AWAY_MS = 10 * MINUTE_MS
"""A target that has taken nothing for so long is noted."""
QUIET_MS = 5 * MINUTE_MS
"""Refusals are logged this often."""

log = get_logger("remote_write")

Rules = Callable[[], Iterable[Rule]]
"""The rules in force."""


class RemoteWrite:
    """One target with its lanes; safe to use from several threads."""

    def __init__(
        self, store: Store, target: WriteTarget, rules: Rules, metrics: Metrics, writer: RemoteWriter,
        clock: Clock, fence: Callable[[], Fence | None] = lambda: None,
    ):  # fmt: skip
        self.clock = clock
        self.target, self.store, self.rules, self.metrics, self.writer = target, store, rules, metrics, writer
        self.fence = fence
        self.lanes = tuple(Lane(self, i) for i in range(target.queue.connections))
        self._lags, self._closed = [0.0] * len(self.lanes), False
        metrics.remote_write_lag.labels(target.name).set(0)

    def notify(self, rules: Iterable[str]) -> None:
        """These rules have new slots, or have gone."""
        for rule in rules:
            self._lane(rule).owe(rule)

    def recall(self) -> None:
        """Forget what is held in memory: another daemon may have written since."""
        for lane in self.lanes:
            lane.recall()

    def close(self) -> None:
        """Close the connections; of what is still under way nothing is told any more."""
        if not self._closed:
            self._closed = True
            self.metrics.remote_write_lag.remove(self.target.name)
        self.writer.close()

    def mine(self, lane: Lane, rule: str) -> bool:
        """Whether a lane writes a rule: all of a rule's samples take the same way, so they stay in order."""
        return self._lane(rule) is lane

    def lag(self, number: int, seconds: float) -> None:
        """A lane tells how far it is behind; the target is as far behind as the slowest."""
        self._lags[number] = seconds
        if not self._closed:
            self.metrics.remote_write_lag.labels(self.target.name).set(max(self._lags))

    def _lane(self, rule: str) -> Lane:
        digest = blake2b(rule.encode("utf-8", "replace"), digest_size=4).digest()
        return self.lanes[int.from_bytes(digest, "big") % len(self.lanes)]


@dataclass(slots=True)
class _Shelf:
    """What a lane keeps of one rule: what the target knows, labels as bytes by row, and a batch that is being sent.

    ``names`` are the metric names of the rule's series, ``bodies`` what of the batch is not sent yet.
    """

    group: str
    rule: str
    sent: Sent = field(default_factory=Sent)
    labels: dict[int, SeriesLabels] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    batch: Batch | None = None
    bodies: list[tuple[bytes, int]] = field(default_factory=list)
    ending: bool = False

    @property
    def id(self) -> str:
        """The rule's."""
        return f"{self.group}/{self.rule}"


class Lane:
    """Writes some of the rules to one target, one request after another.

    Attributes:
        wake: set when there is something to do.
    """

    def __init__(self, remote: RemoteWrite, number: int):
        self._remote, self._number = remote, number
        self._store, self._target, self._metrics = remote.store, remote.target, remote.metrics
        self.name = f"{remote.target.name}-{number}"
        self.wake = threading.Event()
        self._lock = threading.Lock()
        self._owed: dict[str, None] = {}
        self._recalled = True
        self._cursors: dict[str, int] = {}
        self._shelves: dict[str, _Shelf] = {}
        self._began, self._started_s = 0, 0.0
        self._failures, self._not_before, self._away_since, self._noted, self._said_at = 0, 0, 0, False, 0

    def owe(self, rule: str) -> None:
        """A rule has new slots."""
        with self._lock:
            self._owed[rule] = None
        self.wake.set()

    def recall(self) -> None:
        """Begin anew from the store at the next step."""
        self._recalled = True
        self.wake.set()

    def stand_by(self) -> None:
        """Another daemon writes: it knows how far the target is behind."""
        self._remote.lag(self._number, 0.0)

    def step(self, now: int) -> int | None:
        """Send what is owed as far as the target takes it; return when to come again, None: when there is news.

        Raises ``StoreError``; what was owed stays owed.
        """
        self._began, self._started_s = now, self._remote.clock.monotonic_s()
        if self._recalled:
            self._load()
        if now >= self._not_before:
            self._serve_all()
        since = self._away_since if self._failures else now  # of a rule of which the target has nothing yet
        with self._lock:
            behind = [self._cursors.get(rule_id) or since for rule_id in self._owed]
        self._remote.lag(self._number, max(0.0, (self._now() - min(behind, default=now)) / 1000))
        return max(self._not_before, now) if behind else None

    def _now(self) -> int:
        """Wall time: that at the step's beginning and what has passed since."""
        return self._began + int((self._remote.clock.monotonic_s() - self._started_s) * 1000)

    def _load(self) -> None:
        self._recalled = False
        self._shelves = {}
        cursors = self._store.exports.cursors(self._target.name)
        self._cursors = {rule: at for rule, at in cursors.items() if self._remote.mine(self, rule)}
        known = [rule.id for rule in self._remote.rules() if self._remote.mine(self, rule.id)]
        with self._lock:
            self._owed |= dict.fromkeys([*self._cursors, *known])

    def _serve_all(self) -> None:
        rules = {rule.id: rule for rule in self._remote.rules() if self._target.takes(rule.id)}
        with self._lock:
            owed, self._owed = list(self._owed), {}
        while owed:
            done = False
            try:
                done = self._serve(rules.get(owed[0]), owed[0])
            finally:
                if not done:
                    with self._lock:
                        self._owed = dict.fromkeys(owed) | self._owed
            if not done:
                return
            del owed[0]

    def _serve(self, rule: Rule | None, rule_id: str) -> bool:
        """Send what a rule owes; False if the target does not take it now."""
        if rule is None:
            return self._end(rule_id)
        cursor = self._cursor(rule_id)
        shelf = self._shelf(rule_id, cursor)
        for _ in range(BATCHES):
            if shelf.batch is None and not self._fill(shelf, rule, cursor):
                return True
            if not self._send(shelf):
                return False
            crashpoint("before_export_moved")
            cursor = self._taken(shelf, rule_id)
        self.owe(rule_id)
        return True

    def _fill(self, shelf: _Shelf, rule: Rule, cursor: int) -> bool:
        """Put the next batch on the shelf; False if there is none."""
        wide = len(shelf.labels) * len(self._target.series) * WINDOW_SLOTS > SAMPLES_AT_ONCE
        most = 1 if wide else WINDOW_SLOTS
        slots = self._store.exports.after(rule.id, cursor, most + 1)
        if not slots:
            return False
        slots = list(whole_windows(slots, most * rule.interval_ms))
        episodes = self._store.exports.open_since(rule.id, slots[0].at)
        self._put(shelf, batch_of(slots, episodes, shelf.sent, self._target.series))
        return True

    def _put(self, shelf: _Shelf, batch: Batch) -> None:
        rows = batch.rows.tolist()
        if len(shelf.labels) > 2 * len(rows) + SPARE_LABELS:
            shelf.labels = {row: shelf.labels[row] for row in rows if row in shelf.labels}
        if new := [row for row in rows if row not in shelf.labels]:
            self._learn_labels(shelf, new[0])
        shelf.batch = batch
        shelf.bodies = list(requests(self._messages(shelf, batch), self._target.queue.max_samples))

    def _send(self, shelf: _Shelf) -> bool:
        while shelf.bodies:
            body, samples = shelf.bodies[0]
            written = self._remote.writer.write(body, self._failures)
            self._account(written, samples, shelf)
            if written.kind == "retry":
                return False
            del shelf.bodies[0]
        return True

    def _taken(self, shelf: _Shelf, rule_id: str) -> int:
        """The batch on the shelf is done with; return where it ends."""
        assert shelf.batch is not None, "something was sent"
        self._move(rule_id, shelf.batch.until)
        shelf.sent, shelf.batch, shelf.ending = shelf.batch.after, None, False
        return self._cursors[rule_id]

    def _messages(self, shelf: _Shelf, batch: Batch) -> Iterator[Message]:
        known = np.array([row in shelf.labels for row in batch.rows.tolist()], np.bool_)
        labels = [shelf.labels[row] for row in batch.rows[known].tolist()]
        for family in batch.families:
            yield from _of(family if known.all() else family.take(known), labels, batch)
        yield from _of(batch.threshold, [self._encoded((), shelf)], batch)
        yield from _of(batch.opened, [self._encoded(ls, shelf, tier.word) for ls, tier in batch.episodes], batch)

    def _encoded(self, labels: Labels, shelf: _Shelf, tier: str = "") -> SeriesLabels:
        own = {"rule": shelf.rule, "group": shelf.group} | ({"tier": tier} if tier else {})
        whole = with_external(labels_of(labels, own, len(shelf.names) > 1), self._target.external_labels)
        return encode_labels(classic(whole))

    def _learn_labels(self, shelf: _Shelf, first: int) -> None:
        """Read the series from a row on; all of them anew, where a second metric name comes up."""
        several = len(shelf.names) > 1
        rows = self._store.exports.series(shelf.id, first)
        shelf.names |= names_of(row.labels for row in rows)
        if (len(shelf.names) > 1) != several:
            rows = self._store.exports.series(shelf.id, 0)
        shelf.labels |= {row.row: self._encoded(row.labels, shelf) for row in rows}

    def _shelf(self, rule_id: str, cursor: int) -> _Shelf:
        """What is kept of a rule; after a start it is found again in the slot that the target knows last."""
        if rule_id not in self._shelves:
            group, _, name = rule_id.rpartition("/")
            self._shelves[rule_id] = shelf = _Shelf(group, name)
            last = self._store.exports.newest_scored(rule_id, cursor)
            if last is not None:
                episodes = self._store.exports.open_since(rule_id, last.at)
                shelf.sent = batch_of([last], episodes, shelf.sent, self._target.series).after
                self._learn_labels(shelf, 0)
        return self._shelves[rule_id]

    def _cursor(self, rule_id: str) -> int:
        """Where to go on: a target or rule that is new begins with its next slot, and what is too old is given up."""
        exports, age = self._store.exports, self._target.queue.max_age_ms
        if rule_id not in self._cursors:
            self._move(rule_id, exports.newest(rule_id) or 0)
        cursor, oldest = self._cursors[rule_id], self._now() - age
        if age and cursor < oldest and (given_up := exports.count(rule_id, cursor, oldest)):
            self._metrics.remote_write_given_up.labels(self._target.name).inc(given_up)
            log.warning("scores are too old to be written and are left out", target=self._target.name, rule=rule_id,
                        slots=given_up)  # fmt: skip
            self._shelves.pop(rule_id, None)
            self._move(rule_id, oldest)
        return self._cursors[rule_id]

    def _end(self, rule_id: str) -> bool:
        """A rule is written no more: mark the end of its series."""
        if rule_id not in self._cursors:
            return True
        shelf = self._shelf(rule_id, self._cursors[rule_id])
        if shelf.batch is not None and not shelf.ending:
            if not self._send(shelf):
                return False
            self._taken(shelf, rule_id)
        if shelf.batch is None:
            shelf.ending = True
            self._put(shelf, end_of(shelf.sent, max(self._now(), self._cursors[rule_id] + 1)))
        if not self._send(shelf):
            return False
        self._store.exports.forget(self._target.name, rule_id)
        del self._cursors[rule_id], self._shelves[rule_id]
        return True

    def _move(self, rule_id: str, at: int) -> None:
        self._store.exports.move(self._target.name, rule_id, at, fence=self._remote.fence())
        self._cursors[rule_id] = at

    # What became of requests, for logs, metrics and notices --------------------------------------------------------

    def _account(self, written: Written, samples: int, shelf: _Shelf) -> None:
        name, now = self._target.name, self._now()
        self._metrics.remote_write_requests.labels(name, written.kind, written.reason).inc()
        self._metrics.remote_write_bytes.labels(name).inc(written.sent)
        if written.kind == "retry":
            self._wait(written, now, shelf)
            return
        self._metrics.remote_write_samples.labels(name, written.kind).inc(samples)
        if self._failures:
            log.info("the target takes scores again", target=name, rule=shelf.id,
                     after_s=(now - self._away_since) / 1000)  # fmt: skip
        self._failures, self._not_before, self._noted = 0, 0, False
        if written.kind == "refused" and now - self._said_at >= QUIET_MS:
            self._said_at = now
            log.error("scores were refused and are not sent again", target=name, rule=shelf.id, reason=written.reason,
                      samples=samples, error=written.message)  # fmt: skip

    def _wait(self, written: Written, now: int, shelf: _Shelf) -> None:
        """Leave the target alone for as long as it asks, or for a growing time with chance in it."""
        queue, name = self._target.queue, self._target.name
        if not self._failures:
            self._away_since = now
            log.warning("scores are not taken; they are sent again", target=name, rule=shelf.id,
                        reason=written.reason, error=written.message)  # fmt: skip
        most = min(queue.max_backoff_ms, queue.min_backoff_ms << min(self._failures, 20))
        pause_ms = random.uniform(0.5, 1.0) * most if written.pause_s is None else written.pause_s * 1000
        self._failures += 1
        self._not_before = now + int(pause_ms)
        if now - self._away_since >= AWAY_MS and not self._noted:
            self._noted = True
            self._note(written, now)

    def _note(self, written: Written, now: int) -> None:
        age = self._target.queue.max_age_ms // MINUTE_MS
        kept = f"they are sent later, unless they are older than {age} min by then" if age else "they are sent later"
        text = f"remote write: {self._target.name} has taken no scores for {AWAY_MS // MINUTE_MS} min; {kept}: "
        labels = (("target", self._target.name),)
        one = make_notice(
            NoticeKind.REMOTE_WRITE, "", now, text + written.message, since=self._away_since,
            fingerprint=fingerprint(labels), labels=labels,
        )  # fmt: skip
        self._store.add_notices([one])
        self._metrics.notices.labels("", one.kind.value).inc()


def _of(family: Family, labels: Sequence[SeriesLabels], batch: Batch) -> Iterator[Message]:
    return messages(family.name, labels, batch.times, family.values, family.there, family.stale)
