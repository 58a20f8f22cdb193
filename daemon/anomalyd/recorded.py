"""``RecordedSource``: a block that answers like a Prometheus, for rule tests, backtests and replays.

It answers every expression it was given a block for, on the block's own grid, and knows nothing later than the time it
is asked for: a replay cannot look ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anomalyd.block import Block
from anomalyd.errors import QueryRejected


@dataclass(frozen=True, slots=True, eq=False)
class RecordedReply:
    """What a recorded source answers; never partial."""

    block: Block
    partial: bool = False
    warnings: tuple[str, ...] = ()


class RecordedSource:
    """Answers queries from recorded blocks, one an expression."""

    def __init__(self, blocks: Mapping[str, Block]):
        self._blocks = dict(blocks)

    def instant(self, expr: str, at_ms: int, *, limit: int | None = None) -> RecordedReply:
        """The samples at one time; series without one are left out, as Prometheus does."""
        whole = self._block(expr)
        column = int(np.searchsorted(whole.times, at_ms))
        if column == len(whole.times) or whole.times[column] != at_ms:
            return RecordedReply(Block((), np.array([at_ms], np.int64), np.zeros((0, 1))))
        return RecordedReply(_present(whole.window(column, column + 1)))

    def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> RecordedReply:
        """The samples from start to end, both included, on the grid of the step."""
        whole = self._block(expr)
        grid = np.arange(start_ms, end_ms + 1, step_ms, dtype=np.int64)
        values = np.full((len(whole), len(grid)), np.nan)
        place = np.searchsorted(whole.times, grid)
        known = place < len(whole.times)
        known[known] = whole.times[place[known]] == grid[known]
        values[:, known] = whole.values[:, place[known]]
        return RecordedReply(_present(Block(whole.labels, grid, values)))

    def _block(self, expr: str) -> Block:
        if expr not in self._blocks:
            raise QueryRejected("bad_data", f"nothing is recorded for {expr!r}")
        return self._blocks[expr]


def _present(block: Block) -> Block:
    """Leave out series without any sample, and hand the same labels object back when none is."""
    there = np.isfinite(block.values).any(axis=1)
    return block if there.all() else block.take(np.nonzero(there)[0])
