"""``Grouped``: a detector over vectors (``joint``), with one model for each group of series, or for each kind of group.

The series of a rule that share the values of its ``group_by`` labels are the channels of one vector per time, each
group with a model of its own over its own channels. Groups may have different numbers of channels; groups and channels
come and go: one that is missing is NaN in its vector, one that is new has no score until a fit finds enough of its
past.

Groups are of one kind when their channels have the same labels, those of ``group_by`` aside. A detector that is
``Alike`` learns one model for each kind, from all groups of it; what a group needs for itself (scale, memory, usual
errors) it has for itself. Of any other detector each group is a kind of its own.

Invariants: between fits a group's scores depend on nothing but its own channels, in whatever order and company they are
given; a fit knows no other company than groups of the same kind, and those only in an ``Alike`` detector; every row of
a group has the group's score, also where it has no sample itself (the calibration must not differ among them); the
state can be sliced and joined row by row as any other, since what belongs to a group or kind is shared.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Block, Bool, Labels
from anomalyd.detectors.base import Alike, Choice, Choosing, Detector, Limited, Raw, State
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
NAMES, KINDS, PLACES = "group_names", "group_kinds", "group_places"
"""Shared arrays [G]: the label set of each group, its kind, its place among the groups of the kind."""
KIND_NAMES, SIZES = "kind_names", "kind_sizes"
"""Shared arrays [K]: the channels of each kind in words, and how many they are."""
NAMED = 6
"""Channels of a kind that are named at the most."""
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
        """Learn the model of each kind from those series of its groups that have enough samples for one."""
        n = len(history)
        arrays: Arrays = {
            OF_GROUP: np.full(n, -1, np.int64), CHANNEL: np.full(n, -1, np.int64), SPREAD: np.full(n, np.nan)
        }  # fmt: skip
        members = self._members(history)
        for g, rows in enumerate(members.values()):
            arrays[OF_GROUP][rows], arrays[CHANNEL][rows] = g, np.arange(len(rows))
        kinds = self._kinds(history, members)
        shared = _directory(history, members, kinds, self.group_by)
        detector = self.detector
        if isinstance(detector, Limited) and kinds:
            detector = detector.with_share(1.0 / len(kinds))
        for k, names in enumerate(kinds):
            rows = np.concatenate([members[name] for name in names])
            part = history.take(rows)
            try:
                state = _learned(detector, part, seed, len(names))
            except DetectorError as error:
                group = ", ".join(f"{k}={v}" for k, v in names[0]) or "all series"
                raise DetectorError(error.reason, f"{group}: {error}") from error
            arrays[SPREAD][rows] = _spreads(detector, state, part)
            shared |= _packed(k, state)
        return State(arrays | shared, frozenset(shared), newest(history))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        """Score each group's vectors, then learn them as its detector does; a held channel holds its group."""
        check_newer(state, fresh)
        check_series(state, OF_GROUP, fresh)
        raw, pages = blank(fresh.values.shape), np.full(fresh.values.shape, np.nan)
        raw.unit[:] = state.arrays[SPREAD][:, None]
        arrays, paged, states = dict(state.arrays), False, _unpacked(state)
        for k, rows, group, place in _by_kind(state):
            size = int(state.arrays[SIZES][k])
            groups = int((state.arrays[KINDS] == k).sum())
            held = np.zeros(groups, np.bool_)
            if hold is not None:
                held[group[hold[rows]]] = True
            vectors = _vectors(fresh, rows, place, groups * size)
            said, after = self.detector.score(states[k], vectors, np.repeat(held, size))
            raw.score[rows] = _together(said.score, size)[group]
            raw.expected[rows] = said.expected[place]
            if said.page is not None:
                paged = True
                pages[rows] = _together(said.page, size)[group]
            arrays |= _packed(k, after)
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
        """Which model runs in each kind of group that the state has series of, where the detector has a choice."""
        if not isinstance(self.detector, Choosing):
            return ()
        found, states = [], _unpacked(state)
        groups, kinds = state.arrays[OF_GROUP], state.arrays[KINDS]
        for k in np.unique(kinds[groups[groups >= 0]]).tolist():
            mine = np.flatnonzero(kinds == k)
            for one in self.detector.choices(states[k]):
                if len(mine) > 1:
                    found.append(replace(one, kind=str(state.arrays[KIND_NAMES][k]), groups=len(mine)))
                else:
                    labels: Labels = tuple((k, v) for k, v in json.loads(str(state.arrays[NAMES][mine[0]])))
                    found.append(replace(one, labels=labels))
        return tuple(found)

    def _kinds(self, history: Block, members: Mapping[Labels, I64]) -> list[list[Labels]]:
        """The groups of each kind, in order."""
        if not isinstance(self.detector, Alike):
            return [[name] for name in members]
        kinds: dict[tuple[Labels, ...], list[Labels]] = {}
        for name, rows in members.items():
            channels = tuple(_own(history.labels[row], self.group_by) for row in rows.tolist())
            kinds.setdefault(channels, []).append(name)
        return list(kinds.values())

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


def _own(labels: Labels, group_by: tuple[str, ...]) -> Labels:
    """The labels of a series by which it is told from the others of its group."""
    return tuple(pair for pair in labels if pair[0] not in group_by)


def _directory(
    history: Block, members: Mapping[Labels, I64], kinds: Sequence[Sequence[Labels]], group_by: tuple[str, ...]
) -> Arrays:
    """The shared arrays that say what groups and kinds there are."""
    index = {name: g for g, name in enumerate(members)}
    of_kind, places = np.zeros(len(index), np.int64), np.zeros(len(index), np.int64)
    for k, names in enumerate(kinds):
        mine = [index[name] for name in names]
        of_kind[mine], places[mine] = k, np.arange(len(mine))
    words = []
    for first in (members[names[0]].tolist() for names in kinds):
        named = [_in_words(_own(history.labels[row], group_by)) for row in first[:NAMED]]
        words.append(", ".join(named) + (f" and {len(first) - NAMED} more" if len(first) > NAMED else ""))
    return {
        NAMES: np.array([json.dumps(name) for name in members] or [""])[: len(members)],
        KINDS: of_kind,
        PLACES: places,
        KIND_NAMES: np.array(words or [""])[: len(words)],
        SIZES: np.array([len(members[names[0]]) for names in kinds], np.int64),
    }


def _in_words(labels: Labels) -> str:
    rest = ",".join(f"{name}={value}" for name, value in labels if name != "__name__")
    name = dict(labels).get("__name__", "")
    return f"{name}{{{rest}}}" if name and rest else name or rest


def _learned(detector: Detector, part: Block, seed: int, groups: int) -> State:
    """The model of groups of one kind, whose channels follow each other."""
    if groups == 1:
        return detector.fit(part, seed)
    assert isinstance(detector, Alike), "only such a detector has kinds of several groups"
    return detector.fit_alike(part, seed, groups)


def _by_kind(state: State) -> Iterator[tuple[int, I64, I64, I64]]:
    """Of each kind that has series: their rows, their groups' places in the kind, and theirs among its channels."""
    of_group = state.arrays[OF_GROUP]
    rows = np.flatnonzero(of_group >= 0)
    kind = state.arrays[KINDS][of_group[rows]]
    rows = rows[np.argsort(kind, kind="stable")]
    group = state.arrays[PLACES][of_group[rows]]
    ends = np.cumsum(np.bincount(kind, minlength=len(state.arrays[SIZES]))).tolist()
    for k, (first, stop) in enumerate(itertools.pairwise([0, *ends])):
        if stop > first:
            mine = rows[first:stop]
            places = group[first:stop]
            yield k, mine, places, places * int(state.arrays[SIZES][k]) + state.arrays[CHANNEL][mine]


def _together(said: F64, size: int) -> F64:
    """What was said of groups [G, T], from what was said of their channels [G * C, T]."""
    largest: F64 = np.fmax.reduce(said.reshape(len(said) // size, size, said.shape[1]), axis=1)
    return largest


def _vectors(fresh: Block, rows: I64, place: I64, size: int) -> Block:
    """The samples of groups of one kind in the order of their channels; NaN for those that are gone."""
    values = np.full((size, len(fresh.times)), np.nan)
    values[place] = fresh.values[rows]
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


def _packed(k: int, state: State) -> Arrays:
    return {f"g{k}.{'s' if name in state.shared else 'c'}.{name}": array for name, array in state.arrays.items()}


def _unpacked(state: State) -> list[State]:
    """The states of the kinds, in order."""
    kinds = len(state.arrays[SIZES])
    arrays: list[Arrays] = [{} for _ in range(kinds)]
    shared: list[list[str]] = [[] for _ in range(kinds)]
    for name, array in state.arrays.items():
        number, _, rest = name.partition(".")
        if rest:
            k, whose, own = int(number[1:]), rest[0], rest[2:]
            arrays[k][own] = array
            if whose == "s":
                shared[k].append(own)
    return [State(mine, frozenset(names), state.as_of) for mine, names in zip(arrays, shared, strict=True)]
