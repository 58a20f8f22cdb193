"""Tasks for executors: plain picklable values in, plain values out. No client, no lock, no clock, no closure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.detectors.base import Grid, State
from anomalyd.detectors.grouped import group_labels
from anomalyd.detectors.incidents import incidents_of, most_incidents, runs_of
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec

Span = tuple[int, int, int]
"""Row, from, up to (milliseconds): samples with from <= time < to."""


@dataclass(frozen=True, slots=True, eq=False)
class FitTask:
    """Learn a rule's model from history [N, T].

    Attributes:
        watched: since when each series [N] is watched, milliseconds; incidents before that are left out of what is
            learned. None: everything is learned.
        longest_ms: what lasts longer is no incident but a level.
    """

    spec: DetectorSpec
    grid: Grid
    seed: int
    history: Block
    watched: I64 | None = None
    longest_ms: int = DAY_MS


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What came of a fit: the state, and the incidents that were left out."""

    state: State
    left_out: tuple[Span, ...] = ()


def fit_shard(task: FitTask) -> Learned:
    """Run a fit task."""
    left_out = unwatched_incidents(task)
    history = blank_history(task.history, left_out)
    return Learned(Model(task.spec, task.grid, task.seed).fit(history), tuple(left_out))


def unwatched_incidents(task: FitTask) -> list[Span]:
    """Incidents that began before their series was watched: nobody judged them, so they are found in the history."""
    if task.watched is None:
        return []
    history = task.history
    found = incidents_of(history, task.grid, task.longest_ms)
    if found.any() and task.spec.grouped:
        found = _of_groups(found, history, task.grid)
    spans = []
    for row in range(len(history)) if found.any() else ():
        for first, stop in zip(*runs_of(found[row]), strict=True):
            if history.times[first] < task.watched[row]:
                spans.append((row, int(history.times[first]), int(history.times[stop - 1]) + 1))
    return spans


def _of_groups(found: Bool, history: Block, grid: Grid) -> Bool:
    """An incident of one channel is one of its group's vector; each channel has its own where that makes too many."""
    rows_of: dict[object, list[int]] = {}
    for row, labels in enumerate(history.labels):
        rows_of.setdefault(group_labels(labels, grid.group_by), []).append(row)
    most = most_incidents(int(history.times[-1] - history.times[0]))
    together = found.copy()
    for rows in rows_of.values():
        whole: Bool = np.logical_or.reduce(found[rows], axis=0)
        if len(runs_of(whole)[0]) <= most:
            together[rows] = whole
    return together


def blank_history(block: Block, hidden: list[Span]) -> Block:
    """Take spans out of a history: for each (row, from, to), samples with from <= time < to become missing."""
    if not hidden:
        return block
    values: F64 = block.values.copy()
    for row, start, stop in hidden:
        values[row, (block.times >= start) & (block.times < stop)] = float("nan")
    return Block(block.labels, block.times, values)
