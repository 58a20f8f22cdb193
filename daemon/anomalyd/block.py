"""``Block``: the samples of N series on one time grid, the unit that flows through the daemon.

Invariant: never one Python object per sample or per series in a hot path; a block is two arrays and a tuple of labels.
A missing sample is NaN, and so is one that was not finite at the source: nothing downstream has to ask again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
F32: TypeAlias = npt.NDArray[np.float32]
I64: TypeAlias = npt.NDArray[np.int64]
I8: TypeAlias = npt.NDArray[np.int8]
Bool: TypeAlias = npt.NDArray[np.bool_]

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""A label set: (name, value) pairs sorted by name, no empty values (an empty label equals an absent one)."""

Fingerprint: TypeAlias = str
"""Stable hash of a label set, 16 hex digits."""


def make_labels(pairs: Mapping[str, str]) -> Labels:
    """Sort the pairs by name and drop empty values."""
    return tuple(sorted((name, value) for name, value in pairs.items() if value != ""))


def fingerprint(labels: Labels) -> Fingerprint:
    """Hash a label set; equal across processes, restarts and versions (blake2b, 8 bytes)."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in labels:
        digest.update(name.encode("utf-8", "replace") + b"\xfe" + value.encode("utf-8", "replace") + b"\xff")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Samples of N series at T times.

    Attributes:
        labels: label set of each series [N], unique.
        times: milliseconds since the epoch [T], strictly increasing.
        values: samples [N, T], NaN where missing.
    """

    labels: tuple[Labels, ...]
    times: I64
    values: F64

    def __post_init__(self) -> None:
        assert self.values.shape == (len(self.labels), len(self.times)), "values must be [series, times]"

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int] | I64) -> Block:
        """Return the given series, in that order."""
        index = np.asarray(rows, dtype=np.int64)
        return Block(tuple(self.labels[i] for i in index), self.times, self.values[index])

    def window(self, first: int, stop: int | None = None) -> Block:
        """Return the columns ``first`` up to but not including ``stop``."""
        return Block(self.labels, self.times[first:stop], self.values[:, first:stop])

    def step_ms(self) -> int:
        """The most common distance between neighbouring times, 0 for fewer than two."""
        if len(self.times) < 2:
            return 0
        distances, counts = np.unique(np.diff(self.times), return_counts=True)
        return int(distances[np.argmax(counts)])


def empty_block(times: I64 | None = None) -> Block:
    """A block without series."""
    grid = np.zeros(0, np.int64) if times is None else times
    return Block((), grid, np.zeros((0, len(grid))))
