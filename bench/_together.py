"""What would page of groups of channels, held against labelled events: how many are told, how many pages are false.

A group lives through the daemon's own evaluation, under the shipped rule with `joint: true` and no ``group_by``: its
history is the set's training part (as much of it as a rule reads), it lives through the test part, with the refits,
the episodes and what is left out of training that a daemon has. A page is true when it is told inside a labelled
event; an event is found when one is told while it lasts.

Beside it the same of a frozen model, learned once from all of the training part: what the score itself would open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalyd import logs
from anomalyd.block import F64, Block
from anomalyd.clock import WEEK_MS
from anomalyd.rule import DetectorSpec
from anomalyd.workbench.backtest import backtest
from bench._replay import OnGrid, cut_of, shipped_rule, told
from bench._series import stems
from bench.harness import Figure


def lived_together(group: Block, first: int, step: int) -> F64:
    """Signal [T - first] of a group [C, T] that lives from the column ``first`` on, as ``_replay.notified``."""
    logs.configure("error")
    rule = replace(shipped_rule(step), detector=DetectorSpec("auto", {"joint": True}))
    test = OnGrid(group.window(first), np.arange(len(group.times) - first), len(group.times) - first)
    lived = backtest(rule, group, int(test.block.times[0]), int(test.block.times[-1]))
    return told(lived, test, cut_of(step, WEEK_MS), lived.labels.index(()))


def openings(surprise: F64, page: F64, cut: float) -> F64:
    """Surprise in units of the cut where an episode opens [T], 0 elsewhere; it goes on while the surprise is above."""
    signal, live = np.zeros(len(surprise)), False
    for t in range(len(surprise)):
        above = bool(surprise[t] > cut)
        if above and not live and page[t] > cut:
            signal[t], live = surprise[t] / cut, True
        live = live and above
    return signal


def paged_together(name: str, step_ms: int, scores: Path, data: Path, title: str) -> Iterator[Figure]:
    """Figures of one multivariate set, all groups together; ``scores`` holds what pages."""
    events, found, true, false, weeks = 0, 0, 0, 0, 0.0
    for stem in stems(data, name):
        with np.load(scores / name / f"{stem}.npz") as z:
            pages = z["scores"] > 0
        with np.load(data / name / f"{stem}.npz") as z:
            truth = z["labels"] > 0
        edges = np.flatnonzero(np.diff(np.r_[0, truth.astype(np.int8), 0]))
        hits = [bool(pages[a:b].any()) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        events, found = events + len(hits), found + sum(hits)
        true, false = true + int((pages & truth).sum()), false + int((pages & ~truth).sum())
        weeks += len(truth) * step_ms / WEEK_MS
    title = f"{title}: {name}"
    yield Figure(f"{title} events told while they last", found / max(1, events), note=f"{found} of {events}")
    yield Figure(f"{title} pages that are of an event", true / max(1, true + false), note=f"{false} are not")
    yield Figure(f"{title} false pages per group and week", false / max(weeks, 1e-9), note="budget 1")
