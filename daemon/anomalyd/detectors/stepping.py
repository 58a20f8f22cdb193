"""How a detector's state moves on at each tick without being copied, while the old state stays as it was.

A tick changes a few cells of a series' kilobytes. The arrays of the state *before* the one that is scored are usually
nobody's any more by then: they are taken over, brought up to date by learning the one block they lack, and then learn
the fresh one. So the old state is never touched, nothing is copied, and the memory that is read and written per series
is what the kernel needs, however many series there are.

Invariants: arrays are taken over only while nothing but the state itself refers to them (a retry, a snapshot being
written, a slice somebody keeps: then the state is copied, as any first tick does); the result is the same, bit for bit,
as that of a copy; a state that was sliced, joined, stored or shipped has no past and begins with a copy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.detectors.base import Raw, State, with_step
from anomalyd.detectors.common import blank, clean, held, newest

Arrays = dict[str, npt.NDArray[Any]]
Learn = Callable[[Arrays, F64, Bool, Raw], None]
"""Score values [n, T] of some series and learn them: (their arrays, changed in place; values; hold [n]; the answer)."""
CatchUp = Callable[[Arrays, Arrays], None]
"""Change the arrays of some series, in place, into those of one block later, which are given."""
Follow = Callable[[Arrays, Arrays, "Past", F64, Bool, Raw], None]
"""Both in one pass over the series: (arrays, those of one block later, that block, values, hold, the answer)."""
Relive = Callable[[Arrays, "Past", F64, Bool, Raw], None]
"""The same by learning the last block again: (arrays, the last block, values, hold, the answer)."""

MOST_COLUMNS = 4
"""Longer blocks are not learned twice: copying is cheaper."""
CHUNK_BYTES = 1 << 20
FEWEST_ROWS = 256
"""Series are taken in chunks of so many bytes that a core's cache holds them, yet not in fewer than these."""


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A block that was learned: how, its values [N, T] (none where it is not to be learned again), who was held [N]."""

    learn: Learn
    values: F64
    hold: Bool


def _references(arrays: Arrays, name: str) -> int:
    return sys.getrefcount(arrays[name])


_ALONE = _references({"probe": np.zeros(1)}, "probe")
"""References to an array that only one mapping holds, as this interpreter counts them."""


def _ours(arrays: Arrays, name: str) -> bool:
    """Whether nothing but the mapping refers to an array, so that changing it changes nothing for anybody."""
    if _references(arrays, name) != _ALONE:  # asked first: the flags refer to the array themselves
        return False
    flags = arrays[name].flags
    return flags.owndata and flags.writeable and flags.c_contiguous


def with_past(past: Past | None, values: F64, hold: Bool) -> tuple[F64, int, Bool]:
    """Values [N, T] of the last block, if there is one, before these; how many are its, and who was held then [N]."""
    if past is None:
        return values, 0, hold
    return np.concatenate([past.values, values], axis=1), past.values.shape[1], past.hold


class Step:
    """What led to a state: the arrays before its last block, and how to learn that block again."""

    __slots__ = ("_hold", "_kept", "_learn", "_paged", "_undone", "_values")

    def __init__(self, arrays: Arrays, learn: Learn, values: F64, hold: Bool, paged: bool) -> None:
        self._kept = [arrays]
        self._learn, self._values, self._hold, self._paged = learn, values, hold.copy(), paged
        self._undone = np.zeros(len(hold), np.bool_)

    def take(self) -> Arrays | None:
        """The arrays before, if nobody else refers to them; whoever asks first has them."""
        try:
            arrays = self._kept.pop()
        except IndexError:  # an earlier try took them
            return None
        return arrays if all(_ours(arrays, name) for name in arrays) else None

    def undo(self, rows: I64) -> None:
        """Some series have been given other cells than the block taught: learning it again is not for them."""
        self._undone[rows] = True

    def past(self) -> Past:
        """The block, without the series that have been given other cells."""
        values = self._values
        if self._undone.any():
            values = np.where(self._undone[:, None], np.nan, values)
        return Past(self._learn, values, self._hold)

    def repeat(self, rows: slice, mine: Arrays, now: Arrays, catch_up: CatchUp | None) -> None:
        """Bring the arrays of some series up to date with ``now``, those of the state that the step led to."""
        if catch_up is not None:
            catch_up(mine, now)
        else:
            values = self._values[rows]
            self._learn(mine, values, self._hold[rows], _room(values.shape, self._paged))
        self.mend(rows, mine, now)

    def mend(self, rows: slice, mine: Arrays, now: Arrays) -> None:
        """Bring up to date the series, of some, that have been given other cells."""
        undone = np.flatnonzero(self._undone[rows])
        if len(undone):
            for name, array in mine.items():
                array[undone] = now[name][undone]


def advance(
    state: State, fresh: Block, hold: Bool | None, learn: Learn, catch_up: CatchUp | None = None, paged: bool = False,
    follow: Follow | None = None, relive: Relive | None = None,
) -> tuple[Raw, State]:  # fmt: skip
    """Score and learn a block: the answer and the new state; the old one stays as it was.

    ``learn`` must depend on nothing but what it is given and the block's times. ``catch_up`` is a cheaper way than
    learning the last block again, where a detector has one; ``follow`` and ``relive`` do either in one pass with the
    fresh block. Shared arrays are passed on as they are. With ``paged`` there is room for ``Raw.page`` too.
    """
    values, holding, raw = clean(fresh.values), held(hold, len(fresh)), _room(fresh.values.shape, paged)
    now = {name: array for name, array in state.arrays.items() if name not in state.shared}
    step = state.step if isinstance(state.step, Step) else None
    arrays = step.take() if step is not None else None
    taken = arrays is not None
    if arrays is None:
        arrays = {name: np.empty_like(array, order="C", subok=False) for name, array in now.items()}
    if step is not None and taken and follow is not None:
        step.mend(slice(None), arrays, now)
        follow(arrays, now, step.past(), values, holding, raw)
        return raw, _after(state, fresh, arrays, Step(now, learn, values, holding, paged))
    if step is not None and taken and relive is not None:
        step.mend(slice(None), arrays, now)
        relive(arrays, step.past(), values, holding, raw)
        return raw, _after(state, fresh, arrays, Step(now, learn, values, holding, paged))
    for rows in chunks(now, len(fresh)):
        mine = {name: array[rows] for name, array in arrays.items()}
        theirs = {name: array[rows] for name, array in now.items()}
        if step is not None and taken:
            step.repeat(rows, mine, theirs, catch_up)
        else:
            for name, array in theirs.items():
                mine[name][...] = array
        learn(mine, values[rows], holding[rows], _part(raw, rows))
    return raw, _after(state, fresh, arrays, Step(now, learn, values, holding, paged))


def _after(state: State, fresh: Block, arrays: Arrays, step: Step) -> State:
    """The state after a block; how it came to it is kept where that is worth it."""
    shared = {name: state.arrays[name] for name in state.shared}
    after = State(arrays | shared, state.shared, newest(fresh, state.as_of))
    return after if len(fresh.times) > MOST_COLUMNS else with_step(after, step)


def copy_over(mine: Arrays, now: Arrays) -> None:
    """Catch up by copying everything: for detectors that change every cell at each sample."""
    for name, array in mine.items():
        array[...] = now[name]


def begin(state: State, history: Block, learn: Learn, paged: bool = False) -> State:
    """Learn a history into a state that was just made and is nobody's: its arrays are changed in place."""
    values, holding = clean(history.values), held(None, len(history))
    arrays = {name: array for name, array in state.arrays.items() if name not in state.shared}
    for rows in chunks(arrays, len(history)):
        part = values[rows]
        learn({name: array[rows] for name, array in arrays.items()}, part, holding[rows], _room(part.shape, paged))
    return State(state.arrays, state.shared, newest(history, state.as_of))


def _room(shape: tuple[int, ...], paged: bool) -> Raw:
    raw = blank(shape)
    return replace(raw, page=np.full(shape, np.nan)) if paged else raw


def _part(raw: Raw, rows: slice) -> Raw:
    page = None if raw.page is None else raw.page[rows]
    return Raw(raw.score[rows], raw.expected[rows], raw.unit[rows], page)


def with_rows_changed(after: State, step: object, rows: I64) -> State:
    """``after``, some series of which were given other cells than the step that made it learned; the step is kept."""
    for one in step if isinstance(step, tuple) else (step,):  # an ensemble has one for each member
        if isinstance(one, Step):
            one.undo(rows)
    return with_step(after, step)


def chunks(arrays: Mapping[str, npt.NDArray[Any]], series: int) -> Iterator[slice]:
    """Slices of the series, each small enough for a core's cache."""
    each = sum(array.nbytes for array in arrays.values()) // max(1, series)
    size = max(FEWEST_ROWS, CHUNK_BYTES // max(1, each))
    for first in range(0, series, size):
        yield slice(first, min(series, first + size))
