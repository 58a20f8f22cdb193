"""The time grid of a range query, and putting its parts together again. Pure."""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, I64, Block, Labels
from anomalyd.prometheus.decode import Decoded


def grid(start_ms: int, end_ms: int, step_ms: int) -> I64:
    """``start, start + step, ...`` up to ``end``, which is included when it lies on the grid."""
    assert step_ms > 0, "a step is above zero"
    assert start_ms <= end_ms, "a range does not end before it starts"
    return np.arange(start_ms, end_ms + 1, step_ms, dtype=np.int64)


class Collector:
    """Gathers the parts of one range into one array; a series missing in a part is NaN there."""

    def __init__(self, times: I64):
        self._times = times
        self._values: F64 = np.zeros((0, len(times)))
        self._labels: tuple[Labels, ...] = ()
        self._rows: dict[Labels, int] | None = None
        self._ambiguous: set[Labels] = set()
        self._dropped = 0

    def add(self, first: int, decoded: Decoded) -> None:
        """Take the part that begins at column ``first``."""
        sequence, values = decoded.sequence, decoded.values
        labels = sequence.labels
        if sequence.keep is not None:
            self._ambiguous.update(sequence.ambiguous)
            self._dropped = max(self._dropped, len(labels) - len(sequence.keep))
            labels = tuple(labels[row] for row in sequence.keep)
            values = values[sequence.keep]
        if first == 0 and values.shape[1] == len(self._times):
            self._labels, self._values = labels, values
            return
        last = first + values.shape[1]
        self._values_of(labels)
        if labels is self._labels:
            self._values[:, first:last] = values
        else:
            rows = self._rows_of(labels)
            self._values[rows, first:last] = values

    def _values_of(self, labels: tuple[Labels, ...]) -> None:
        """Make room for a first part's series."""
        if not self._labels:
            self._labels = labels
            self._values = np.full((len(labels), len(self._times)), np.nan)

    def _rows_of(self, labels: tuple[Labels, ...]) -> I64:
        """Rows of the series, new ones appended."""
        if self._rows is None:
            self._rows = {one: row for row, one in enumerate(self._labels)}
        fresh = [one for one in labels if one not in self._rows]
        if fresh:
            for one in fresh:
                self._rows[one] = len(self._rows)
            self._labels += tuple(fresh)
            self._values = np.vstack([self._values, np.full((len(fresh), len(self._times)), np.nan)])
        return np.fromiter((self._rows[one] for one in labels), np.int64, len(labels))

    def ambiguous(self) -> tuple[int, tuple[Labels, ...]]:
        """Most series dropped from one part for having the labels of another, and all those labels."""
        return self._dropped, tuple(sorted(self._ambiguous))

    def block(self) -> Block:
        """All series over the whole grid, those that were ambiguous in any part left out."""
        found = Block(self._labels, self._times, self._values)
        if not self._ambiguous:
            return found
        rows = [row for row, one in enumerate(self._labels) if one not in self._ambiguous]
        return found if len(rows) == len(self._labels) else found.take(rows)
