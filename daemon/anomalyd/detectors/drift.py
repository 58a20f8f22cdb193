"""Drift: whether a series still behaves as its model learned it, for every detector alike.

A model that fits finds its samples as surprising as chance does: -log10 of a probability averages 0.43. Where a series
has changed by less than alerts - another level, a wider spread, another shape of the day - the average rises and stays.
ADWIN (Bifet and Gavaldà, 2007; river's, see ``kernels/adwin.py``) over means of five minutes says that it has changed,
and forgets what was before; that the rest averages ``BEGINS`` or more says that it matters, because night and day alone
move it about. A series that drifts is told once, until its surprise has calmed down or its model was fitted anew.

Samples of open episodes and of times not to be learned from are left out: they are told elsewhere, or expected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import State

Arrays = dict[str, npt.NDArray[Any]]

RECENT = 4
"""Drifts of a series that its state remembers."""

FOUND, SPANS = "found", "spans"
"""State arrays [N, RECENT] by which a detector says that it found drifts: when, newest first (0: none), and how long
they had been going on by then, milliseconds (0: unknown). Any detector may have them (``adwin`` does)."""

EACH_MS = 5 * MINUTE_MS
ROWS = 10
"""Bucket sizes up to 2^9 means: a window of three weeks."""
MOST_BUCKETS = 5
LEAST_PART = 5
CAP = 3.0
"""Surprise beyond this counts as this: a few wild samples are no drift."""
DELTA = 0.002
BEGINS, ENDS = 2.0, 1.5
"""A series drifts at so many times the surprise that chance gives, and until it is down to so many."""
CHANCE = 1 / math.log(10)
"""What surprise averages where a model fits: the mean of -log10 of even numbers."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A drift that was found.

    Attributes:
        row: position of the series in the state.
        at: time of the sample with which it was found.
        since: when it began, as far as that can be told; 0 where it cannot.
        of_level: found by the rule's own detector, in its residuals; else by the surprise of its samples.
    """

    row: int
    at: int
    since: int
    of_level: bool


def new_drifts(before: State, after: State) -> tuple[Drift, ...]:
    """What was found between two states of the same series, oldest first."""
    drifts = []
    for name, found in after.arrays.items():
        prefix, _, last = name.rpartition(".")
        if last != FOUND or found is before.arrays[name]:
            continue
        newest = before.arrays[name][:, :1]
        rows, places = np.nonzero(found > newest)
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            at = int(found[row, place])
            span = int(after.arrays[f"{prefix}.{SPANS}"][row, place])
            drifts.append(Drift(row, at, at - span if span else 0, not prefix.endswith("w")))
    return tuple(sorted(drifts, key=lambda drift: (drift.at, drift.row)))


@dataclass(frozen=True, slots=True)
class Watch:
    """Recipe of the watch at one step. Its state is a kilobyte a series, of which a slot changes 16 bytes."""

    step_ms: int

    @property
    def each(self) -> int:
        """Samples of one mean."""
        return max(1, EACH_MS // max(1, self.step_ms))

    def empty(self, series: int) -> Arrays:
        """The state of series that have no past."""
        return {
            "pulse": np.zeros((series, 2)),
            "totals": np.zeros((series, ROWS, MOST_BUCKETS + 1)),
            "variances": np.zeros((series, ROWS, MOST_BUCKETS + 1)),
            "fill": _rows_in_use(series),
            "window": np.zeros((series, 4)),
            "phase": np.zeros(series, np.int8),
            FOUND: np.zeros((series, RECENT), np.int64),
            SPANS: np.zeros((series, RECENT), np.int64),
        }

    def take_in(
        self, state: Mapping[str, npt.NDArray[Any]], surprise: F64, times: I64, hold: Bool | None = None
    ) -> Arrays:
        """The state after samples with this surprise [N, T]; those of series with ``hold`` [N] are left out."""
        from anomalyd.detectors.kernels.watch import collect, gather, watch

        held = np.zeros(len(surprise), np.bool_) if hold is None else np.ascontiguousarray(hold, np.bool_)
        surprise = np.ascontiguousarray(surprise)
        after = dict(state)
        after["pulse"] = after["pulse"].copy()
        if not gather(surprise, held, after["pulse"], self.each):
            collect(surprise, held, after["pulse"], CAP)
            return after
        after = {name: array.copy() for name, array in state.items()}
        watch(
            surprise, held, np.ascontiguousarray(times), after["pulse"], after["totals"], after["variances"],
            after["fill"], after["window"], after["phase"], after[FOUND], after[SPANS], self.each,
            self.each * self.step_ms, CAP, CHANCE, DELTA, MOST_BUCKETS, LEAST_PART, BEGINS, ENDS,
        )  # fmt: skip
        return after


def _rows_in_use(series: int) -> I64:
    fill = np.zeros((series, ROWS + 1), np.int64)
    fill[:, -1] = 1
    return fill
