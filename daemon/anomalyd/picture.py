"""``Pictures``: the chart of a statement, drawn from the stored scores of the series that leads it.

A picture is a courtesy: whatever goes wrong on the way (no matplotlib, a slow store, a fault in drawing) costs the
message its picture and nothing else, and never more than a few seconds. One picture is drawn at a time; while one is
late, messages go out without.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from anomalyd.block import F64
from anomalyd.chart import Drawn, draw
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.incident import Alert, Statement
from anomalyd.logs import get_logger
from anomalyd.render import Chart, Charts, clean, cut, label_text
from anomalyd.score import Observation
from anomalyd.slot import SeriesRow

BEFORE_MS = 3 * HOUR_MS
"""What is shown before the anomaly, at least."""
MOST_MS = 3 * DAY_MS
WAIT_S = 3.0
KEEP = 16
"""Pictures kept, so that several receivers of one statement share one."""

log = get_logger("picture")


class Scores(Protocol):
    """What is asked of the store."""

    def series(self, rule: str) -> list[SeriesRow]: ...

    def scores(self, rule: str, start_ms: int, end_ms: int, rows: Sequence[int] | None = None) -> list[Observation]: ...


def pictures(store: Scores) -> Charts | None:
    """Draws the charts of messages; None where matplotlib (the extra ``images``) is not installed.

    It is imported with the first chart: a start should not wait for it.
    """
    return Pictures(store) if importlib.util.find_spec("matplotlib") else None


class Pictures:
    """Draws in a thread of its own; see the module.

    Args:
        draw: makes the PNG.
        wait_s: how long a message waits for its picture.
    """

    def __init__(self, store: Scores, draw: Callable[[Drawn], bytes] = draw, wait_s: float = WAIT_S):
        self._store, self._draw, self._wait_s = store, draw, wait_s
        self._busy = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Chart | None] = OrderedDict()

    def __call__(self, statement: Statement) -> Chart | None:
        """The chart of a statement's leading series; None where there is nothing to show, or not in time."""
        lead = statement.alerts[0] if statement.alerts else None
        if lead is None or not lead.fingerprint:
            return None
        key = (lead.episode, statement.at)
        if key in self._kept:
            return self._kept[key]
        if not self._busy.acquire(blocking=False):
            return None
        done = threading.Event()
        threading.Thread(target=self._work, args=(key, statement, lead, done), name="picture", daemon=True).start()
        if not done.wait(self._wait_s):
            log.warning("a message goes out without its chart, which takes too long", rule=statement.rule)
            return None
        return self._kept.get(key)

    def _work(self, key: tuple[str, int], statement: Statement, lead: Alert, done: threading.Event) -> None:
        try:
            chart = self._chart(statement, lead)
        except Exception:  # a picture is a courtesy: the message goes out without
            log.exception("a chart could not be drawn", rule=statement.rule)
            chart = None
        try:
            self._kept[key] = chart
            while len(self._kept) > KEEP:
                self._kept.popitem(last=False)
        finally:
            self._busy.release()
            done.set()

    def _chart(self, s: Statement, lead: Alert) -> Chart | None:
        row = next((one.row for one in self._store.series(s.rule) if one.fingerprint == lead.fingerprint), None)
        if row is None:
            return None
        before = max(BEFORE_MS, 2 * (s.at - lead.started_at))
        start = max(lead.started_at - before, s.at - MOST_MS)
        seen = [o for o in self._store.scores(s.rule, start, s.at + 1, [row]) if len(o.value)]
        drawn = drawn_of(s, lead, seen)
        if np.isfinite(drawn.values).sum() < 2:
            return None
        return Chart(png=self._draw(drawn), alt=cut(f"Chart of {drawn.title}", 200))


def drawn_of(s: Statement, lead: Alert, seen: Sequence[Observation]) -> Drawn:
    """What the chart shows of one series' observations, each of which holds that series alone."""

    def column(name: str) -> F64:
        return np.array([getattr(o, name)[0] for o in seen], np.float64)

    title = " ".join(part for part in (clean(s.name, 60), label_text(lead.labels, 80)) if part)
    times = np.array([o.at for o in seen], np.int64)
    return Drawn(
        title, times, column("value"), column("expected"), column("lower"), column("upper"), lead.started_at,
        lead.closed_at,
    )  # fmt: skip
