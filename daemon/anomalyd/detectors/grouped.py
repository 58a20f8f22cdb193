"""``Grouped``: a detector over vectors (``joint``), with one model for each group of series.

The series of a rule that share the values of its ``group_by`` labels are the channels of one vector per time, each
group with a model of its own over its own channels. Groups may have different numbers of channels; groups and channels
come and go: one that is missing is NaN in its vector, one that is new has no score until a fit finds enough of its
past.

Invariants: a group's scores depend on nothing but its own channels, in whatever order and company they are given; every
row of a group has the group's score, also where it has no sample itself (the calibration must not differ among them);
the state can be sliced and joined row by row as any other, since what belongs to a group is shared.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Block, Bool, Labels
from anomalyd.detectors.base import Choice, Choosing, Detector, Limited, Raw, State
from anomalyd.detectors.common import (
    ABSOLUTE_FLOOR,
    GAUSSIAN_MAD,
    RELATIVE_FLOOR,
    blank,
    check_newer,
    check_series,
    newest,
)
from anomalyd.errors import DetectorError

OF_GROUP, CHANNEL, SPREAD = "of_group", "channel", "usual_spread"
"""State arrays [N]: the group of each series (-1: of none), its place in the group's vector, its usual deviation."""
NAMES, SIZES = "group_names", "group_sizes"
LOOKED_AT = 2_000
"""Newest samples of the history by which the usual deviation of a channel from its expected value is measured."""
USUAL = 3.0
"""The band of a channel ends so many usual deviations from its expected value."""

Arrays = dict[str, npt.NDArray[Any]]


def group_labels(labels: Labels, group_by: tuple[str, ...]) -> Labels:
    """The labels of the group that a series belongs to."""
    return tuple(pair for pair in labels if pair[0] in group_by)


def left_out(state: State) -> Bool | None:
    """Which series [N] are not in the vector of their group, in whatever member of an ensemble; None without groups."""
    found = [array < 0 for name, array in state.arrays.items() if name.rpartition(".")[2] == OF_GROUP]
    return np.logical_or.reduce(found) if found else None


class Grouped:
    """Runs a joint detector for each group of a block's series; see the module's docstring."""

    streaming = False
    multivariate = True
    has_band = True
    rowwise = False
    joint = True

    def __init__(self, detector: Detector, group_by: tuple[str, ...]) -> None:
        self.detector, self.group_by = detector, group_by
        self.name, self.calibrated, self.Params = detector.name, detector.calibrated, detector.Params
        self.params: Any = getattr(detector, "params", None)

    @property
    def min_history(self) -> int:
        return self.detector.min_history

    def fit(self, history: Block, seed: int) -> State:
        """Learn each group's model from those of its series that have enough samples for one."""
        n = len(history)
        arrays: Arrays = {
            OF_GROUP: np.full(n, -1, np.int64), CHANNEL: np.full(n, -1, np.int64), SPREAD: np.full(n, np.nan)
        }  # fmt: skip
        members = self._members(history)
        detector = self.detector
        if isinstance(detector, Limited) and members:
            detector = detector.with_share(1.0 / len(members))
        shared: Arrays = {NAMES: np.array([json.dumps(name) for name in members] or [""])[: len(members)]}
        shared[SIZES] = np.array([len(rows) for rows in members.values()], np.int64)
        for g, (name, rows) in enumerate(members.items()):
            part = history.take(rows)
            try:
                state = detector.fit(part, seed)
            except DetectorError as error:
                group = ", ".join(f"{k}={v}" for k, v in name) or "all series"
                raise DetectorError(error.reason, f"{group}: {error}") from error
            arrays[OF_GROUP][rows], arrays[CHANNEL][rows] = g, np.arange(len(rows))
            arrays[SPREAD][rows] = _spreads(detector, state, part)
            shared |= _packed(g, state)
        return State(arrays | shared, frozenset(shared), newest(history))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        """Score each group's vectors, then learn them as its detector does; a held channel holds its group."""
        check_newer(state, fresh)
        check_series(state, OF_GROUP, fresh)
        of_group, channel = state.arrays[OF_GROUP], state.arrays[CHANNEL]
        raw, pages = blank(fresh.values.shape), np.full(fresh.values.shape, np.nan)
        raw.unit[:] = state.arrays[SPREAD][:, None]
        arrays, paged, states = dict(state.arrays), False, _unpacked(state)
        for g, size in enumerate(state.arrays[SIZES].tolist()):
            rows = np.flatnonzero(of_group == g)
            if not len(rows):
                continue
            held = np.full(size, hold is not None and bool(hold[rows].any()))
            said, after = self.detector.score(states[g], _vector(fresh, rows, channel[rows], size), held)
            raw.score[rows] = np.fmax.reduce(said.score, axis=0)
            raw.expected[rows] = said.expected[channel[rows]]
            if said.page is not None:
                paged = True
                pages[rows] = np.fmax.reduce(said.page, axis=0)
            arrays |= _packed(g, after)
        after_all = State(arrays, state.shared, newest(fresh, state.as_of))
        return (replace(raw, page=pages) if paged else raw), after_all

    def hold(self, state: State, hold: Bool | None) -> Bool | None:
        """Which series [N] are held when these are: all of their groups."""
        if hold is None or not hold.any():
            return hold
        of_group = state.arrays[OF_GROUP]
        groups = np.unique(of_group[hold])
        return hold | np.isin(of_group, groups[groups >= 0])

    def choices(self, state: State) -> tuple[Choice, ...]:
        """Which model runs in each group, where the detector has a choice."""
        if not isinstance(self.detector, Choosing):
            return ()
        found = []
        for name, own in zip(state.arrays[NAMES].tolist(), _unpacked(state), strict=True):
            labels: Labels = tuple((k, v) for k, v in json.loads(name))
            found += [replace(one, labels=labels) for one in self.detector.choices(own)]
        return tuple(found)

    def _members(self, history: Block) -> Mapping[Labels, I64]:
        """The rows of each group that have enough samples, ordered by label set, groups too."""
        seen = np.isfinite(history.values).sum(axis=1)
        rows = np.flatnonzero(seen >= max(1, self.detector.min_history)).tolist()
        members: dict[Labels, list[int]] = {}
        for row in sorted(rows, key=lambda row: history.labels[row]):
            members.setdefault(group_labels(history.labels[row], self.group_by), []).append(row)
        return {name: np.array(members[name], np.int64) for name in sorted(members)}


def grouped(detector: Detector, group_by: tuple[str, ...]) -> Detector:
    """The detector as it is, or run for each group if its parameters say ``joint``."""
    if getattr(getattr(detector, "params", None), "joint", False) and not isinstance(detector, Grouped):
        return cast(Detector, Grouped(detector, group_by))
    return detector


def _vector(fresh: Block, rows: I64, channel: I64, size: int) -> Block:
    """The samples of a group in the order of its channels; NaN for those that are gone."""
    values = np.full((size, len(fresh.times)), np.nan)
    values[channel] = fresh.values[rows]
    nobody: Labels = ()
    return Block((nobody,) * size, fresh.times, values)


def _spreads(detector: Detector, state: State, part: Block) -> F64:
    """How far each channel usually is from its expected value [C], in its unit; never 0."""
    newer = part.window(max(0, len(part.times) - LOOKED_AT))
    before = replace(state, as_of=int(newer.times[0]) - 1)
    expected = detector.score(before, newer)[0].expected
    away = np.abs(newer.values - expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a channel without a sample lately has no median
        middle, mean = GAUSSIAN_MAD * np.nanmedian(away, axis=1), np.nanmean(away, axis=1)
        level = np.abs(np.nanmedian(newer.values, axis=1))
    spread = np.nan_to_num(np.where(middle > 0, middle, mean))
    floored: F64 = np.maximum(spread, np.maximum(RELATIVE_FLOOR * np.nan_to_num(level), ABSOLUTE_FLOOR))
    return floored


def _packed(g: int, state: State) -> Arrays:
    return {f"g{g}.{'s' if name in state.shared else 'c'}.{name}": array for name, array in state.arrays.items()}


def _unpacked(state: State) -> list[State]:
    """The states of the groups, in order."""
    groups = len(state.arrays[SIZES])
    arrays: list[Arrays] = [{} for _ in range(groups)]
    shared: list[list[str]] = [[] for _ in range(groups)]
    for name, array in state.arrays.items():
        number, _, rest = name.partition(".")
        if rest:
            g, kind, own = int(number[1:]), rest[0], rest[2:]
            arrays[g][own] = array
            if kind == "s":
                shared[g].append(own)
    return [State(mine, frozenset(names), state.as_of) for mine, names in zip(arrays, shared, strict=True)]
