"""Fits: when a rule learns from history anew, and how a finished fit becomes part of its memory.

A fit runs beside the slots: history is read in the background and learned by an executor, and the slot that finds it
finished goes on with it. What came since its history ends is then read and lived through.

Invariant: fits that can wait do not come together. Each rule has its own place in the refit interval, whenever the
daemon was started, and only so many run at a time; the fit without which a rule is blind waits for none of them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace

import numpy as np

from anomalyd.block import I64, Block, Labels, fingerprint
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.detectors import grouped
from anomalyd.detectors.base import State
from anomalyd.detectors.model import Model, grid_of
from anomalyd.errors import DetectorError, SourceError, StoreError
from anomalyd.evaluation.dataquality import past_quality, positions
from anomalyd.evaluation.jointly import rows_by_unit
from anomalyd.evaluation.memory import Memory, align, empty_memory
from anomalyd.evaluation.rulerun import NEVER_FAILED, Fitted, LeftOut, RuleRun, as_of, without_windows
from anomalyd.feedback.cuts import Heard, Unheard, training_gaps
from anomalyd.logs import get_logger
from anomalyd.render import clock_time, span
from anomalyd.rule import Rule
from anomalyd.shard import FitTask, blank_history, fit_shard
from anomalyd.slot import Notice, NoticeKind, SeriesRow, make_notice
from anomalyd.sources import Source
from anomalyd.store import Store

CATCH_UP_MS = 6 * HOUR_MS
"""Slots missed for longer than this are not scored one by one: the model is fitted anew."""

REFIT_PAUSE_MS = 10 * MINUTE_MS
"""Fits of one rule that new series or accepted levels ask for are at least this far apart."""

DRIFT_LASTS_MS = 3 * HOUR_MS
"""A drift asks for a fit when it is this old: what begins may be an incident below the cut, not to be learned yet."""

DRIFT_PAUSE_MS = 6 * HOUR_MS
"""A rule that drifts on and on is fitted at most this often for it."""

REFITS_AT_ONCE = 2
"""Fits that can wait run at most this many at a time."""

log = get_logger("fits")

FAR_MS = 1 << 62
"""Never."""

NAMED, SHOWN = 10, 5
"""Series that are told each by itself what was not learned of them, and spans that are named of one, at the most."""

HISTORY_SAMPLES_MAX = 50_000_000
"""A history longer than this many samples is shortened: Prometheus itself refuses more by default."""


class Fits:
    """Starts fits and takes them up."""

    def __init__(
        self,
        store: Store,
        source_of: Callable[[str], Source],
        fit: Executor,
        background: Executor,
        feedback: Heard | Unheard,
        refits_at_once: int = REFITS_AT_ONCE,
    ):
        """``fit`` computes; ``background`` reads the history (inline: both happen within the slot)."""
        self._store, self._source_of, self._feedback = store, source_of, feedback
        self._fit, self._background = fit, background
        self._refits_at_once = refits_at_once
        self._refitting: list[Future[Fitted]] = []
        self._lock = threading.Lock()

    def first(self, run: RuleRun, memory: Memory, at: int) -> Memory:
        """Begin the fit a rule cannot score without; where it ends at once (inline), go on with it."""
        if run.fitting is None and len(memory.active):
            if run.failed.times and at < run.failed.at + run.failed.pause_ms:
                raise DetectorError("fit", run.failed.text)
            self._start_fit(run, memory, at)
        return self.adopt(run, memory, at)

    def adopt(self, run: RuleRun, memory: Memory, at: int) -> Memory:
        """Go on with a finished fit; forget a state that is too far behind to be caught up with."""
        since = as_of(memory)
        if since is not None and at - since > CATCH_UP_MS:
            memory = replace(memory, state=None)
        if run.fitting is None or not run.fitting.done():
            return memory
        future, run.fitting = run.fitting, None
        try:
            fitted = future.result()
        except (SourceError, StoreError) as error:
            if memory.state is None:
                raise  # held as any slot without samples; the next one tries again
            return self._go_on(run, memory, at, error)
        except Exception as error:  # a bug, or too little memory: what was learned before must go on
            if memory.state is None:
                run.failed = run.failed.again(at, error)
                raise
            return self._go_on(run, memory, at, error)
        run.failed = NEVER_FAILED
        if at - fitted.until > CATCH_UP_MS:
            return memory
        state = _arrange(run.model, fitted, memory)
        version = f"{run.model.version}-{fitted.until}"
        for choice in run.model.choices(fitted.state):
            log.info("fitted", rule=run.rule.id, until=fitted.until, group=dict(choice.labels), verdict=str(choice))
        quality = memory.quality.adopt(positions(fitted.rows, memory.active), fitted.quality)
        memory = replace(memory, quality=quality)
        run.told, run.left_out = run.told | run.left_out, fitted.left_out
        return replace(memory, state=state, fitted_at=fitted.until, model=version, relearn=frozenset(), drifted_at=0)

    def _go_on(self, run: RuleRun, memory: Memory, at: int, error: Exception) -> Memory:
        """The memory as it is: a fit that fails costs neither a slot nor the model there is."""
        run.failed = run.failed.again(at, error)
        what = "fit failed; the model there is goes on"
        log.warning(what, rule=run.rule.id, reason=getattr(error, "reason", "internal"), error=run.failed.text)
        return memory

    def start_if_due(self, run: RuleRun, memory: Memory, at: int) -> None:
        """Begin a fit that is due, unless as many as may are under way; then a later slot asks again."""
        if run.fitting is not None or memory.state is None or at < refit_at(run, memory):
            return
        with self._lock:
            self._refitting = [future for future in self._refitting if not future.done()]
            if len(self._refitting) < self._refits_at_once:
                self._refitting.append(self._start_fit(run, memory, at))

    def _start_fit(self, run: RuleRun, memory: Memory, at: int) -> Future[Fitted]:
        until = at - run.rule.interval_ms
        if memory.state is None and 0 < memory.at < until and at - memory.at <= CATCH_UP_MS:
            until = memory.at  # after a restart: learn up to where we were, then live through what was missed
        run.fit_started_at = at
        live = frozenset(episode.id for episode in memory.episodes.values())
        known = [memory.registry.rows[row] for row in memory.active.tolist()]
        run.fitting = self._background.submit(self._read_and_fit, run.rule, memory.active, known, until, live, at)
        return run.fitting

    def _read_and_fit(
        self, rule: Rule, rows: I64, series: Sequence[SeriesRow], until: int, live: frozenset[str], at: int
    ) -> Fitted:
        """A fit of the history up to ``until``, with what had been said by the slot ``at``."""
        labels = tuple(one.labels for one in series)
        columns = max(1, min(rule.history_ms // rule.interval_ms, HISTORY_SAMPLES_MAX // max(1, len(rows))))
        if columns < rule.history_ms // rule.interval_ms:
            days = round(columns * rule.interval_ms / DAY_MS, 1)
            log.warning("history is shortened to what a fit may read", rule=rule.id, series=len(rows), days=days)
        start = until - (columns - 1) * rule.interval_ms
        reply = self._source_of(rule.source).range(rule.expr, start, until, rule.interval_ms)
        known = replace(
            empty_memory(rule.id),
            active=np.arange(len(labels)),
            registry=replace(empty_memory(rule.id).registry, index={ls: i for i, ls in enumerate(labels)}),
        )
        values = align(known, reply.block, rule.drop_labels, len(labels)).values
        whole = Block(labels, reply.block.times, values)
        quality, history = past_quality(rule, whole), without_windows(rule, whole)
        hidden = self._hidden_spans(rule, {ls: i for i, ls in enumerate(labels)}, start, until, live, at)
        task = fit_task(rule, blank_history(history, hidden), [one.first_seen for one in series])
        learned = self._fit.submit(fit_shard, task).result()
        units = [grouped.group_labels(one, rule.group_by) if rule.detector.joint else one for one in labels]
        left_out = frozenset(LeftOut(first, stop - 1, units[row]) for row, first, stop in learned.left_out)
        return Fitted(rows, replace(learned.state, as_of=until), until, quality, left_out)

    def _hidden_spans(
        self, rule: Rule, position: Mapping[Labels, int], start: int, until: int, live: frozenset[str], at: int
    ) -> list[tuple[int, int, int]]:
        """Spans of history not to learn from, by position: see ``training_gaps``.

        The slot in hand is not committed yet: of the episodes that the store takes for open, ``live`` ones still are.
        """
        rows = rows_by_unit(rule, list(position))
        episodes = self._store.episodes(rule=rule.id, start=start, end=until + 1, limit=100_000)
        heard = self._feedback(rule, at)
        gaps = training_gaps(heard, episodes, start, until, live, rule.learn == "all")
        places = list(position.values())
        return [(places[i], first, stop) for name, first, stop in gaps for i in rows.get(name, ())]


def fit_task(rule: Rule, history: Block, watched: Sequence[int]) -> FitTask:
    """The fit of a rule to a history, of which the episodes that the store knows are out already.

    ``watched`` is when each series was first seen live: what came before was judged by nobody.
    """
    since = np.array(watched, np.int64) if rule.learn == "normal_only" else None
    longest = rule.accept_after_ms or DAY_MS
    return FitTask(rule.detector, grid_of(rule), rule.seed, history, since, longest)


def news_of_models(run: RuleRun, memory: Memory, at: int) -> list[Notice]:
    """What a fit that was just taken up has put to work, where that is another model than before, or cut short."""
    if run.failed.at == at and memory.state is not None:
        text = f"a fit failed, and the model there is goes on: {run.failed.text}"
        return [make_notice(NoticeKind.FIT, run.rule.id, at, text, since=memory.fitted_at)]
    if memory.state is None or memory.fitted_at == run.memory.fitted_at:
        return []
    before = run.memory.state
    known = {choice.key for choice in run.model.choices(before)} if before is not None else set()
    texts: dict[Labels, list[str]] = {}
    news = _news_of_incidents(run, at)
    for choice in run.model.choices(memory.state):
        if choice.stopped or choice.trouble or choice.key not in known:
            texts.setdefault(choice.labels, []).append(str(choice))
    return news + [
        make_notice(NoticeKind.MODEL, run.rule.id, at, "; ".join(said), labels=labels,
                    fingerprint=fingerprint(labels) if labels else "")
        for labels, said in texts.items()
    ]  # fmt: skip


def _news_of_incidents(run: RuleRun, at: int) -> list[Notice]:
    """That a fit did not learn what looks like incidents of the time before series were watched; none told twice."""
    by_series, told = _by_series(run.left_out), _by_series(run.told)
    for labels in sorted(by_series.keys() & told.keys()):
        new = [one for one in by_series[labels] if not any(one.meets(other) for other in told[labels])]
        by_series.pop(labels)
        by_series |= {labels: new} if new else {}
    if len(by_series) > NAMED:
        everyone = [one for spans in by_series.values() for one in spans]
        text = f"{_left_out(everyone, run.rule, at)}; they are of {len(by_series)} series"
        return [make_notice(NoticeKind.LEFT_OUT, run.rule.id, at, text, since=min(everyone).start)]
    return [
        make_notice(NoticeKind.LEFT_OUT, run.rule.id, at, _left_out(spans, run.rule, at), since=spans[0].start,
                    labels=labels, fingerprint=fingerprint(labels) if labels else "")
        for labels, spans in by_series.items()
    ]  # fmt: skip


def _by_series(spans: Iterable[LeftOut]) -> dict[Labels, list[LeftOut]]:
    found: dict[Labels, list[LeftOut]] = {}
    for one in sorted(spans):
        found.setdefault(one.labels, []).append(one)
    return found


def _left_out(spans: Sequence[LeftOut], rule: Rule, at: int) -> str:
    step = rule.interval_ms
    named = [f"{clock_time(one.start, at)} for {span(one.end - one.start + step)}" for one in sorted(spans)[-SHOWN:]]
    more = f" and {len(spans) - SHOWN} earlier" if len(spans) > SHOWN else ""
    what = "what looks like an incident" if len(spans) == 1 else f"{len(spans)} spans that look like incidents"
    return f"not learned: {what} in the history from before the first slot ({', '.join(named)}{more})"


def refit_at(run: RuleRun, memory: Memory) -> int:
    """When the next fit is due as things are."""
    soonest = run.fit_started_at + max(REFIT_PAUSE_MS, run.failed.pause_ms)
    if memory.relearn or (not run.rule.detector.joint and _newcomers(run, memory)):
        return soonest
    if run.model.streaming:
        return FAR_MS
    due = min(scheduled(run.rule, memory.fitted_at), _grown_at(run, memory))
    if memory.drifted_at and run.rule.refit_on_drift:
        # What makes one rule drift, a release say, makes many: they are fitted one after another.
        asked = memory.drifted_at + DRIFT_LASTS_MS + place_of(run.rule, REFIT_PAUSE_MS)
        due = min(due, max(asked, memory.fitted_at + DRIFT_PAUSE_MS))
    return max(soonest, due)


def _newcomers(run: RuleRun, memory: Memory) -> bool:
    registered = [memory.registry.rows[row].first_seen for row in memory.active[-1:].tolist()]
    return bool(registered) and registered[0] > memory.fitted_at + run.rule.interval_ms


def _grown_at(run: RuleRun, memory: Memory) -> int:
    """When the first of the series that are in no vector as yet has so much past that a fit may take it in."""
    outside = grouped.left_out(memory.state) if memory.state is not None else None
    if outside is None or not outside.any():
        return FAR_MS
    needs = run.model.detector.min_history * run.rule.interval_ms
    times = [memory.registry.rows[row].first_seen + needs for row in memory.active[outside].tolist()]
    return min((at for at in times if at > memory.fitted_at), default=FAR_MS)


def scheduled(rule: Rule, fitted_at: int) -> int:
    """When a rule's next fit is due: at its own place in the interval, half an interval after the last at the least.

    So rules that were first fitted together, after a restart, are spread over a whole interval from their second fit
    on, and each keeps its time of day.
    """
    every = rule.refit_every_ms
    earliest = fitted_at + every // 2
    return earliest + (place_of(rule, every) - earliest) % every


def place_of(rule: Rule, span_ms: int) -> int:
    """A stable place within a span, as even over many rules as chance."""
    digest = hashlib.blake2b(rule.id.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % max(1, span_ms)


def _arrange(model: Model, fitted: Fitted, memory: Memory) -> State:
    """Bring a fitted state into the order of the active series; those it does not know join without a past."""
    place = {int(row): i for i, row in enumerate(fitted.rows)}
    active = memory.active.tolist()
    strangers = [row for row in active if row not in place]
    state = fitted.state
    if strangers:
        labels = tuple(memory.registry.rows[row].labels for row in strangers)
        state = model.join(state, Block(labels, np.zeros(0, np.int64), np.zeros((len(labels), 0))))
        place |= {row: len(fitted.rows) + i for i, row in enumerate(strangers)}
    return replace(state.take([place[row] for row in active]), as_of=fitted.until)
