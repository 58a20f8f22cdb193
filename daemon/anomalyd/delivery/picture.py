"""``Pictures``: the chart of an episode as of a time, drawn from the stored scores of its series.

What lies before the first score, of a daemon that has just started, comes from the source (``earlier.py``), without a
band.

A picture is a courtesy: whatever goes wrong on the way (no matplotlib, a slow store, a fault in drawing) costs the
message its picture and nothing else, and never more than a few seconds. One picture is drawn at a time; while one is
late, messages go out without. A message that carries only the address of its picture costs none: it is drawn when
somebody looks, and kept for whoever looks next.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from anomalyd.block import F64, Fingerprint, Labels
from anomalyd.chart import Drawn, draw
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.delivery.earlier import NOTHING, Stretch
from anomalyd.episode import Episode
from anomalyd.incident import Alert, Statement
from anomalyd.logs import get_logger
from anomalyd.render import Chart, clean, cut, label_text
from anomalyd.score import Observation
from anomalyd.slot import SeriesRow

BEFORE_MS = 3 * HOUR_MS
"""What is shown before the anomaly, at least."""
MOST_MS = 3 * DAY_MS
WAIT_S = 3.0
KEEP = 64
"""Pictures kept (20 to 60 kB each), so that all who look at one share it."""
MAX_BYTES = 512 * 1024
"""A picture beyond this is a fault of ours and is not shown."""

log = get_logger("picture")


class Late(Exception):
    """The picture could not be had in time; it may be there in a moment."""


class Scores(Protocol):
    """What is asked of the store."""

    def series(self, rule: str) -> list[SeriesRow]: ...

    def scores(self, rule: str, start_ms: int, end_ms: int, rows: Sequence[int] | None = None) -> list[Observation]: ...


class Before(Protocol):
    """What is asked of the source: see ``Earlier``."""

    def __call__(self, rule_id: str, labels: Labels, series: int, start: int, end: int) -> Stretch: ...


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture is to show: the series of an episode as it stood ``at`` a time, milliseconds.

    Attributes:
        until: when the episode ended, 0 if it had not.
    """

    episode: str
    rule: str
    name: str
    fingerprint: Fingerprint
    labels: Labels
    since: int
    until: int
    at: int


def scene_of(s: Statement, lead: Alert) -> Scene:
    """The scene of one series that a statement tells of."""
    return Scene(lead.episode, s.rule, s.name, lead.fingerprint, lead.labels, lead.started_at, lead.closed_at, s.at)


def scene_at(e: Episode, at: int) -> Scene:
    """The scene of an episode as it stood at a time."""
    until = e.closed_at if 0 < e.closed_at <= at else 0
    return Scene(e.id, e.rule, e.rule.partition("/")[2], e.fingerprint, e.labels, e.started_at, until, at)


def pictures(store: Scores, earlier: Before | None = None) -> Pictures | None:
    """Draws charts; None where matplotlib (the extra ``images``) is not installed.

    It is imported with the first chart: a start should not wait for it.
    """
    return Pictures(store, earlier=earlier) if importlib.util.find_spec("matplotlib") else None


class Pictures:
    """Draws in a thread of its own; see the module.

    Args:
        draw: makes the PNG.
        wait_s: how long a message, or somebody who looks, waits for a picture.
        earlier: what a series did before its first score.
    """

    def __init__(
        self, store: Scores, draw: Callable[[Drawn], bytes] = draw, wait_s: float = WAIT_S,
        earlier: Before | None = None,
    ):  # fmt: skip
        self._store, self._draw, self._wait_s, self._earlier = store, draw, wait_s, earlier
        self._busy = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Chart | None] = OrderedDict()
        self._shelf = threading.Lock()

    def __call__(self, statement: Statement) -> Chart | None:
        """The chart of a statement's leading series; None where there is nothing to show, or not in time."""
        lead = statement.alerts[0] if statement.alerts else None
        if lead is None or not lead.fingerprint:
            return None
        try:
            return self.of(scene_of(statement, lead))
        except Late:
            return None

    def of(self, scene: Scene, patience_s: float = 0.0) -> Chart | None:
        """The chart of a scene; None where there is nothing to show. Raise ``Late`` when it is not there in time.

        Args:
            patience_s: how long to wait while another is being drawn.
        """
        key = (scene.episode, scene.at)
        known, chart = self._find(key)
        if known:
            return chart
        if not self._busy.acquire(timeout=patience_s):
            raise Late
        known, chart = self._find(key)  # whoever was before us may have wanted the same
        if known:
            self._busy.release()
            return chart
        done = threading.Event()
        threading.Thread(target=self._work, args=(key, scene, done), name="picture", daemon=True).start()
        if not done.wait(self._wait_s):
            log.warning("a chart takes too long", rule=scene.rule)
            raise Late
        return self._find(key)[1]

    def _find(self, key: tuple[str, int]) -> tuple[bool, Chart | None]:
        with self._shelf:
            if key not in self._kept:
                return False, None
            self._kept.move_to_end(key)
            return True, self._kept[key]

    def _work(self, key: tuple[str, int], scene: Scene, done: threading.Event) -> None:
        try:
            chart = self._chart(scene)
        except Exception:  # a picture is a courtesy: the message goes out without
            log.exception("a chart could not be drawn", rule=scene.rule)
            chart = None
        try:
            with self._shelf:
                self._kept[key] = chart
                while len(self._kept) > KEEP:
                    self._kept.popitem(last=False)
        finally:
            self._busy.release()
            done.set()

    def _chart(self, scene: Scene) -> Chart | None:
        rows = self._store.series(scene.rule)
        row = next((one.row for one in rows if one.fingerprint == scene.fingerprint), None)
        if row is None:
            return None
        shown = max(BEFORE_MS, 2 * (scene.at - scene.since))
        start = max(scene.since - shown, scene.at - MOST_MS)
        seen = [o for o in self._store.scores(scene.rule, start, scene.at + 1, [row]) if len(o.value)]
        before = NOTHING
        if seen and self._earlier is not None:
            before = self._earlier(scene.rule, scene.labels, len(rows), start, seen[0].at)
        drawn = drawn_of(scene, seen, before)
        if np.isfinite(drawn.values).sum() < 2:
            return None
        png = self._draw(drawn)
        if len(png) > MAX_BYTES:
            raise ValueError(f"the picture has {len(png)} bytes")
        return Chart(png=png, alt=alt_of(scene.name, scene.labels))


def alt_of(name: str, labels: Labels) -> str:
    """What a picture says to those who cannot see it."""
    return cut(f"Chart of {_title(name, labels)}", 200)


def _title(name: str, labels: Labels) -> str:
    return " ".join(part for part in (clean(name, 60), label_text(labels, 80)) if part)


def drawn_of(scene: Scene, seen: Sequence[Observation], before: Stretch = NOTHING) -> Drawn:
    """What the chart shows of one series' observations, each of which holds that series alone, and of what was before
    them, of which nothing was expected."""

    def column(name: str, earlier: F64) -> F64:
        return np.concatenate([earlier, np.array([getattr(o, name)[0] for o in seen], np.float64)])

    times = np.concatenate([before.times, np.array([o.at for o in seen], np.int64)])
    unknown = np.full(len(before.times), np.nan)
    return Drawn(
        _title(scene.name, scene.labels), times, column("value", before.values), column("expected", unknown),
        column("lower", unknown), column("upper", unknown), scene.since, scene.until,
    )  # fmt: skip
