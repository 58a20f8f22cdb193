"""Tasks for executors: plain picklable values in, plain values out. No client, no lock, no clock, no closure."""

from __future__ import annotations

from dataclasses import dataclass

from anomalyd.block import F64, Block
from anomalyd.detectors.base import Grid, State
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec


@dataclass(frozen=True, slots=True, eq=False)
class FitTask:
    """Learn a rule's model from history [N, T]."""

    spec: DetectorSpec
    grid: Grid
    seed: int
    history: Block


def fit_shard(task: FitTask) -> State:
    """Run a fit task."""
    return Model(task.spec, task.grid, task.seed).fit(task.history)


def blank_history(block: Block, hidden: list[tuple[int, int, int]]) -> Block:
    """Take spans out of a history: for each (row, from, to), samples with from <= time < to become missing."""
    if not hidden:
        return block
    values: F64 = block.values.copy()
    for row, start, stop in hidden:
        values[row, (block.times >= start) & (block.times < stop)] = float("nan")
    return Block(block.labels, block.times, values)
