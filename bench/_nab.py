"""NAB as the daemon lives through it, put together again for other constants of the paging signal.

Each file is lived through once by the daemon under the shipped rule; what the members said of every sample, held back
where the daemon held it back, is kept. For other constants the paging signal, the surprise it is worth, the episodes it
opens and what is told of them follow from that in a tenth of a second. Two things are taken as they were: what was held
(other constants open other episodes), and what was learned after a level was accepted (the daemon refits, here learning
goes on). ``COPIES`` of the files say what a figure is worth on nearly the same data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numba import njit

from anomalyd.block import F64, I64
from anomalyd.clock import MINUTE_MS, WEEK_MS
from anomalyd.detectors.auto import Auto, AutoParams
from anomalyd.detectors.base import Grid
from anomalyd.detectors.calibrate import HALF_LIFE
from anomalyd.detectors.kernels import auto, promise
from anomalyd.episode import SURGE
from anomalyd.workbench.backtest import Backtest
from bench._replay import OnGrid, cut_of, live_through, on_grid, told
from bench._series import read_nab, usual_step

SUPPRESS_MS = 30 * MINUTE_MS
FADE = 2.0 ** (-1.0 / HALF_LIFE)
NOISE = 0.1
"""Noise of a copy, in usual distances between neighbours."""


@dataclass(frozen=True, slots=True)
class Page:
    """Constants of the paging signal that labels chose."""

    worth: float = auto.EXTREME_WORTH
    habit: float = auto.HABIT
    hold: float = auto.PAGE_HOLD
    twice: float = 2.0
    """Weight of new extremes of residual and distance."""
    youth: float = auto.YOUTH


@dataclass(frozen=True, slots=True, eq=False)
class Lived:
    """A file lived through: samples on the grid only, S of them.

    Attributes:
        views: what the members said [S, VIEWS].
        onset: the continuous surprise [S].
        column: slot [S]; at: index in the file [S].
        weekly: the surprise of one a week; cut: that of the rule.
        told: the daemon's own signal [samples].
    """

    views: F64
    onset: F64
    column: I64
    at: I64
    weekly: float
    cut: float
    grown: float
    suppress: int
    told: F64


def live_file(path: Path) -> Lived:
    """Live through one file."""
    times, values = read_nab(path)
    step = usual_step(times)
    series = on_grid(times, values, step)
    test = live_through(series, step)
    detector = Auto(AutoParams(), Grid(step))
    views, onset = _as_held(detector, series, test)
    here = np.flatnonzero(np.isfinite(series.block.values[0]))
    cut = cut_of(step, WEEK_MS)
    return Lived(
        views[here], onset[here], here, series.index[here], detector.weekly, cut, detector.grown,
        SUPPRESS_MS // step, told(test, series, cut),
    )  # fmt: skip


def _as_held(detector: Auto, series: OnGrid, test: Backtest) -> tuple[F64, F64]:
    """Members' views and continuous surprise, with the samples held back that the daemon held back."""
    block = series.block
    hold = np.zeros(len(block.times), np.bool_)
    for episode in test.episodes:
        # The sample that opens an episode is learned; the one that ends it is not.
        first, last = np.searchsorted(block.times, (episode.started_at, episode.closed_at or block.times[-1]))
        hold[first + 1 : last + 1] = True
    edges = [0, *(np.flatnonzero(np.diff(hold)) + 1).tolist(), len(hold)]
    state = detector.fit(block.window(0, 0), 0)
    views, onset = [], []
    for first, last in pairwise(edges):
        found, raw, state = detector.views(state, block.window(first, last), hold[first : first + 1])
        views.append(found[0])
        onset.append(raw.score[0])
    return np.nan_to_num(np.concatenate(views)), np.concatenate(onset)


def pages(lived: Lived, choice: Page) -> F64:
    """What would be told [samples] with other constants, as ``told`` has it."""
    page = page_signal(
        lived.views, choice.worth, choice.habit, choice.hold, choice.twice, choice.youth, lived.grown
    )[None, :]  # fmt: skip
    calm = np.zeros(1, np.bool_)
    page[np.isnan(lived.onset)[None, :]] = np.nan
    known = AutoParams().warm_up
    promise.keep_pages(page, lived.onset[None, :], calm, lived.weekly, known, FADE, np.zeros((1, promise.LINE)))
    news = promise.openings(page, lived.onset[None, :], auto.DOUBT, lived.weekly)[0]
    surprise = np.fmax(lived.onset, news)
    signal = np.zeros(len(lived.told))
    signal[lived.at] = tell(surprise, news, lived.column, lived.cut, lived.suppress)
    return signal


@njit(cache=True)
def page_signal(views: Any, worth: float, habit: float, hold: float, twice: float, youth: float, grown: float) -> Any:
    """The paging signal [S] of ``kernels/auto.py`` with other constants."""
    out = np.zeros(len(views))
    peaks = np.zeros(auto.PEAK_BINS)
    peak, age, peaked = 0.0, 0.0, 0
    for t in range(len(views)):
        v = views[t]
        value = min(v[0], auto.CAP) + min(v[1], auto.CAP) + min(v[2], auto.CAP) + min(v[4], auto.CAP)
        for k in range(auto.EXTREMES):
            d = v[auto.MEMBERS + k]
            if d > 0.0:
                grade = auto.EXTREME_LEAST + (1.0 - auto.EXTREME_LEAST) * d / (d + auto.EXTREME_HALF)
                value += (1.0 if k == 0 else twice) * worth * grade
        value /= 5.0 + 2.0 * twice
        if t + 1.0 < grown:
            value -= youth * np.log2(grown / (t + 1.0))
        if age > hold:
            peak *= auto.PAGE_FADES
        if value <= auto.PAGE_RISE * peak or value <= auto.PAGE_LEAST:
            age += 1.0
            continue
        faded = FADE ** (t - peaked)
        first = int(min(value * auto.PEAKS_PER_UNIT, auto.PEAK_BINS - 1.0))
        higher = 0.0
        for k in range(auto.PEAK_BINS):
            peaks[k] *= faded
            if k >= first:
                higher += peaks[k]
        peaks[first] += 1.0
        peaked, peak, age = t, value, 0.0
        out[t] = max(0.0, value - habit * np.log2(1.0 + higher)) / auto.PAGE_UNIT
    return out


@njit(cache=True)
def tell(surprise: Any, news: Any, column: Any, cut: float, suppress: int) -> Any:
    """What is told of the episodes that news opens [S], in units of the cut: their beginnings and surges."""
    out = np.zeros(len(surprise))
    live, peak, peak_at, said = False, 0.0, 0, -suppress
    for t in range(len(surprise)):
        s = surprise[t]
        opens = news[t] > cut
        if not s > cut:
            live = False
        elif not live and opens:
            live, peak, peak_at = True, s, column[t]
            if column[t] - said >= suppress:
                out[t], said = s / cut, column[t]
        elif live:
            if opens and column[t] - peak_at >= suppress and s > peak + SURGE:
                out[t], said = s / cut, column[t]
            if s > peak:
                peak, peak_at = s, column[t]
    return out


# Copies ---------------------------------------------------------------------------------------------------------------


def _noisy(times: I64, values: F64) -> tuple[I64, F64]:
    usual = 1.4826 * float(np.median(np.abs(np.diff(values))))
    return times, values + NOISE * usual * np.random.default_rng(len(values)).normal(size=len(values))


COPIES: dict[str, Callable[[I64, F64], tuple[I64, F64]]] = {
    "as it is": lambda times, values: (times, values),
    "with noise": _noisy,
    "begun later": lambda times, values: (times[len(times) // 12 :], values[len(times) // 12 :]),
    "first of two samples": lambda times, values: (times[::2], values[::2]),
    "second of two samples": lambda times, values: (times[1::2], values[1::2]),
}


def write_copy(nab: Path, target: Path, name: str) -> None:
    """Write a copy of NAB's folder: its files changed, its windows on the samples that are left."""
    windows = json.loads((nab / "labels" / "combined_windows.json").read_text())
    moved: dict[str, list[list[str]]] = {}
    for file, spans in windows.items():
        table = pd.read_csv(nab / "data" / file)
        times = pd.to_datetime(table["timestamp"]).to_numpy().astype("datetime64[ms]").astype(np.int64)
        edges = [[int(pd.Timestamp(edge).value // 10**6) for edge in span] for span in spans]
        late, changed = COPIES[name](times, table["value"].to_numpy(np.float64))
        if edges and edges[0][0] < late[0]:
            late, changed = times, table["value"].to_numpy(np.float64)
        path = target / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"timestamp": _written(late), "value": changed}).to_csv(path, index=False)
        moved[file] = [
            list(_written(np.array([late[late >= a].min(), late[late <= b].max()]))) for a, b in edges
        ]  # fmt: skip
    (target / "labels").mkdir(parents=True, exist_ok=True)
    (target / "labels" / "combined_windows.json").write_text(json.dumps(moved))


def _written(times: I64) -> list[str]:
    return list(pd.to_datetime(times, unit="ms").strftime("%Y-%m-%d %H:%M:%S.%f"))
