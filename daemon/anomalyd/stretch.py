"""``Sheet``: the observations of many slots at once, and what must hold for scoring them at once.

Slots are lived through one by one because whether a sample may be learned depends on the verdict before it. But as long
as a series is calm, nothing depends on its verdicts: its samples can be scored in one go. ``evaluate.py`` does so for
each series up to the slot where it is flagged, and lives through the rest slot by slot. The results are the same, to
the sample; that is why it is done only where a detector looks at each series by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I8, I64, Block, Bool
from anomalyd.detectors.base import State
from anomalyd.detectors.stepping import with_rows_changed
from anomalyd.judge import judge
from anomalyd.rule import Rule
from anomalyd.score import REFUSED, Kind, Observation, Scores, Verdicts, Why
from anomalyd.threshold import NEVER

SAMPLES_AT_ONCE = 1_000_000
"""Longer stretches are cut, so that memory stays small."""


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Observations of N series in T slots; arrays [N, T] as in ``Observation``, ``opens`` always there."""

    times: I64
    series: I64
    value: F64
    expected: F64
    lower: F64
    upper: F64
    surprise: F64
    kind: I8
    tier: I8
    why: I8
    opens: F64

    def put(self, rows: I64, first: int, scores: Scores, verdicts: Verdicts) -> None:
        """Write what was said of some series from the column ``first`` on; verdicts flat, as ``judge_sheet`` gives."""
        there = slice(first, first + scores.surprise.shape[1])
        self.expected[rows, there], self.surprise[rows, there] = scores.expected, scores.surprise
        self.lower[rows, there], self.upper[rows, there] = scores.lower, scores.upper
        self.opens[rows, there] = scores.surprise if scores.page is None else scores.page
        shape = scores.surprise.shape
        self.kind[rows, there] = verdicts.kind.reshape(shape)
        self.tier[rows, there] = verdicts.tier.reshape(shape)
        self.why[rows, there] = verdicts.why.reshape(shape)

    def put_slot(self, rows: I64, column: int, seen: Observation) -> None:
        """Write one slot of some series."""
        self.expected[rows, column], self.surprise[rows, column] = seen.expected, seen.surprise
        self.lower[rows, column], self.upper[rows, column] = seen.lower, seen.upper
        self.opens[rows, column] = seen.surprise if seen.opens is None else seen.opens
        self.kind[rows, column], self.tier[rows, column] = seen.verdicts.kind, seen.verdicts.tier
        self.why[rows, column] = seen.verdicts.why

    def observation(self, column: int) -> Observation:
        """One slot of all series."""
        c = column
        verdicts = Verdicts(self.kind[:, c].copy(), self.tier[:, c].copy(), self.why[:, c].copy())
        return Observation(
            int(self.times[c]), self.series, self.value[:, c].copy(), self.expected[:, c].copy(),
            self.lower[:, c].copy(), self.upper[:, c].copy(), self.surprise[:, c].copy(), verdicts,
            opens=self.opens[:, c].copy(),
        )  # fmt: skip


def sheet_of(series: I64, fresh: Block, scores: Scores, verdicts: Verdicts) -> Sheet:
    """The sheet of series that were scored in one go."""
    shape = fresh.values.shape
    kind, tier, why = (v.reshape(shape) for v in (verdicts.kind, verdicts.tier, verdicts.why))
    # An array of its own: what is written into one must not show in the other.
    opens = scores.surprise.copy() if scores.page is None else scores.page
    return Sheet(
        fresh.times, series, fresh.values, scores.expected, scores.lower, scores.upper, scores.surprise, kind, tier,
        why, opens,
    )  # fmt: skip


def sheet_of_slot(seen: Observation) -> Sheet:
    """One slot as a sheet of one column."""
    v = seen.verdicts
    opens = seen.surprise if seen.opens is None else seen.opens
    return Sheet(
        np.array([seen.at], np.int64), seen.series, seen.value[:, None], seen.expected[:, None], seen.lower[:, None],
        seen.upper[:, None], seen.surprise[:, None], v.kind[:, None], v.tier[:, None], v.why[:, None],
        opens[:, None],
    )  # fmt: skip


def judge_sheet(rule: Rule, values: F64, scores: Scores, cuts: F64, own: float = NEVER) -> Verdicts:
    """Verdicts on samples [N, T], flat in row order.

    Nearly all are calm, and what is said of those is known beforehand: only the others are judged.
    """
    size = values.size
    verdicts = Verdicts(np.zeros(size, np.int8), np.zeros(size, np.int8), np.zeros(size, np.int8))
    chosen = np.flatnonzero(~_calm(rule, values, scores.surprise, cuts, own))
    if not len(chosen):
        return verdicts
    page, side = (None if a is None else a.ravel()[chosen] for a in (scores.page, scores.side))
    young = None if scores.learned is None else scores.learned.ravel()[chosen] > 0
    part = judge(
        rule, values.ravel()[chosen], scores.expected.ravel()[chosen], scores.surprise.ravel()[chosen],
        cuts[chosen // values.shape[1]], page, young=young, side=side, own=own,
    )  # fmt: skip
    verdicts.kind[chosen], verdicts.tier[chosen], verdicts.why[chosen] = part.kind, part.tier, part.why
    return verdicts


def _calm(rule: Rule, values: F64, surprise: F64, cuts: F64, own: float) -> Bool:
    """Samples [N, T] that are there, inside what is valid, and no more surprising than the lowest cut: all is well."""
    lowest = np.minimum(cuts.min(axis=1), own) if len(cuts) else cuts[:, 0]
    calm: Bool = (surprise <= lowest[:, None]) & np.isfinite(surprise) & np.isfinite(values)
    if rule.valid_range is not None:
        calm &= (values >= rule.valid_range[0]) & (values <= rule.valid_range[1])
    return calm


def first_flagged(verdicts: Verdicts, scores: Scores, times: I64, recalled: I64) -> I64:
    """For each series the first column with an anomalous verdict or with news that the rule refused, or T [N].

    Until ``recalled`` [N] whatever is above the cut is news; ``times`` [T] are those of the columns.
    """
    series, columns = scores.surprise.shape
    first: I64 = np.full(series, columns, np.int64)
    said = np.flatnonzero(verdicts.why)  # an anomalous verdict has a reason, and so has a refusal
    flagged = verdicts.kind[said] == Kind.ANOMALOUS
    if scores.page is not None:
        flagged |= np.isin(verdicts.why[said], REFUSED)
        if recalled.any():
            row, column = np.divmod(said, max(1, columns))
            flagged |= (verdicts.why[said] == Why.NO_NEWS) & (times[column] <= recalled[row])
    row, column = np.divmod(said[flagged], max(1, columns))
    np.minimum.at(first, row, column)
    return first


def last_seen(before: I64, fresh: Block) -> I64:
    """When each series last had a sample after ``fresh`` [N]."""
    present: Bool = np.isfinite(fresh.values)
    newest = fresh.times[len(fresh.times) - 1 - present[:, ::-1].argmax(axis=1)]
    return np.where(present.any(axis=1), newest, before)


def put_rows(state: State, before: State, rows: I64, parts: State) -> State:
    """The state with some series replaced by those of ``parts``; ``before`` is left as it is."""
    arrays: Mapping[str, npt.NDArray[Any]] = {
        name: array if name in state.shared else _with_rows(array, before.arrays[name], rows, parts.arrays[name])
        for name, array in state.arrays.items()
    }
    return with_rows_changed(State(arrays, state.shared, state.as_of), state.step, rows)


def _with_rows(
    array: npt.NDArray[Any], before: npt.NDArray[Any], rows: I64, fresh: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    mended = array.copy() if not array.flags.writeable or np.may_share_memory(array, before) else array
    mended[rows] = fresh
    return mended
