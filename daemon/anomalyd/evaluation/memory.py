"""``Memory``: what one rule carries from slot to slot. A cache: the store and the source can always rebuild it.

Invariant: a memory is never changed in place. An evaluation makes the next one, and it replaces the old only after the
slot was committed, so a slot that failed to commit is evaluated again from the very same memory and nothing is learned
twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, Labels
from anomalyd.detectors.base import State
from anomalyd.episode import Episode, Phase
from anomalyd.evaluation.dataquality import Doubt, Quality
from anomalyd.evaluation.door import Door, Terms, knock
from anomalyd.evaluation.registry import Registry
from anomalyd.incident import Incident
from anomalyd.score import Observation, chosen


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """One rule between two slots.

    Attributes:
        active: row ids of the series the state covers, in the state's order [N].
        units: the rows that their episodes are kept under [N]: ``active`` but in joint rules.
        last_seen: when each of them last had a sample [N], milliseconds.
        state: what the model learned, or None before the first fit.
        fitted_at: end of the history of the last full fit; 0 before it.
        cuts: each active series' cut per tier [N, 3].
        episodes: live (pending or open) episodes by row id (``units``; so are the next three sets of rows).
        incidents: open incidents by key.
        drifted_at: when a series was last found to drift since the last fit; 0: none was.
        relearn: rows whose new level was accepted and that wait for the next fit.
        excused: rows whose episode an analyst dismissed and that are not back to normal yet.
        own: the rule's own lowest cut where votes have moved ``cuts``, else infinity.
        crowd_at: the newest slot known in which more than ``ALONE`` series were above the rule's own cut; 0: none was.
        stirred: rows whose news was refused by the rule's ``direction`` or ``min_deviation`` and that have been above
            the cut ever since: what goes on there is still news when it comes to matter.
        lapsed: rows whose pending episode came to nothing, and the last time at which what is above the cut is still
            news because of that: a detector that has shown something once is slow to show the like again.
        last: the newest observation, for /metrics and the console.
        at: the newest slot evaluated; 0 before the first.
        source_labels, source_position: label sets of the last answer and where each lies in ``active``, so that an
            unchanged answer needs no lookup.
        whole: the rows of all active series, where this memory holds only some of them.
        door: series that were not seen often enough to be active.
        quality: what is known of the active series as data.
        awaited, awaited_until: rows of the registry that were there when the rule was taken up, and when each goes for
            good if it has not reported by then.
        doubt: samples of the columns in hand that are doubted.
    """

    registry: Registry
    active: I64
    last_seen: I64
    cuts: F64
    state: State | None = None
    fitted_at: int = 0
    model: str = ""
    episodes: Mapping[int, Episode] = field(default_factory=dict)
    incidents: Mapping[str, Incident] = field(default_factory=dict)
    relearn: frozenset[int] = frozenset()
    excused: frozenset[int] = frozenset()
    stirred: frozenset[int] = frozenset()
    lapsed: Mapping[int, int] = field(default_factory=dict)
    own: float = math.inf
    crowd_at: int = 0
    drifted_at: int = 0
    last: Observation | None = None
    at: int = 0
    source_labels: tuple[Labels, ...] = ()
    source_position: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    whole: I64 | None = None
    door: Door = field(default_factory=Door)
    quality: Quality = field(default_factory=Quality)
    awaited: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    awaited_until: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    doubt: Doubt | None = None

    @property
    def siblings(self) -> I64:
        """The rows of all active series of the rule."""
        return self.active if self.whole is None else self.whole

    @property
    def units(self) -> I64:
        """The rows that the active series' episodes are kept under."""
        return self.registry.unit(self.active)

    def hold(self) -> Bool:
        """Which active series are in a live episode and must not be learned [N]."""
        rows = np.fromiter(self.episodes, np.int64, len(self.episodes))
        return np.isin(self.units, rows)

    def recalled(self, active: I64) -> I64:
        """Until when what is above the cut is news in each of these series, as its last came to nothing [N]; or 0."""
        if not self.lapsed:
            return np.zeros(len(active), np.int64)
        rows, units = np.array(sorted(self.lapsed), np.int64), self.registry.unit(active)
        until = np.array([self.lapsed[row] for row in rows.tolist()], np.int64)
        place = np.minimum(np.searchsorted(rows, units), len(rows) - 1)
        return np.where(rows[place] == units, until[place], 0)

    def unit_labels(self) -> list[Labels]:
        """The label sets under which episodes of the active series are kept, each once."""
        rows = np.unique(self.registry.unit(self.siblings)) if self.registry.joint else self.siblings
        return [self.registry.rows[row].labels for row in rows.tolist()]

    def open_episodes(self) -> list[Episode]:
        """Episodes that were told."""
        return [episode for episode in self.episodes.values() if episode.phase == Phase.OPEN]


def empty_memory(rule: str) -> Memory:
    """A memory that knows nothing."""
    none = np.zeros(0, np.int64)
    return Memory(Registry(rule), none, none.copy(), np.zeros((0, 3)))


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """A source's answer in the order of a memory's active series.

    Attributes:
        values: [N, T] over all active series, NaN where the answer has none.
        added: label sets that are to become active, within the rule's limit.
        added_values: their samples [len(added), T].
        limited: how many series lie beyond the rule's limit.
        duplicates: series that ``drop_labels`` made equal to another of the same time; where both have a sample, the
            first one's counts. One that follows another, a pod after a pod, is simply its continuation.
        waiting: how many series wait at the door.
        columns: with ``stop``, the columns before the first in which a series is added; else T.
    """

    memory: Memory
    values: F64
    added: tuple[Labels, ...]
    added_values: F64
    limited: int
    duplicates: int
    waiting: int
    columns: int


ANY = Terms(1)
"""Whoever comes is let in."""

_LIMITED, _TWIN = -1, -2


def align(
    memory: Memory, block: Block, drop_labels: tuple[str, ...], max_series: int, terms: Terms = ANY, *,
    stop: bool = False,
) -> Aligned:  # fmt: skip
    """Put an answer's series where the memory has them; name those that are to be added to them on these terms.

    Series that the registry knows are let in at once (after a restart, all of them), others through the door. With
    ``stop``, which is for living through many slots together, only the columns before the first addition are looked at,
    and nothing is added.
    """
    columns, samples, duplicates = len(block.times), block.values, 0
    # No labels remembered is not an empty answer remembered.
    unchanged = block.labels == memory.source_labels and len(block) == len(memory.source_position)
    if unchanged:
        position, strangers, twins = memory.source_position, dict[Labels, int](), dict[int, int]()
    else:
        position, strangers, twins = _place(memory, block, drop_labels)
    if twins:
        samples, duplicates = _merged(samples, twins)
    room = max(0, max_series - len(memory.active))
    added: list[Labels] = []
    if strangers and room:
        door, added, columns = _let_in(memory, strangers, samples, block.times, terms, stop)
        memory = replace(memory, door=door)
    elif memory.door.at < 0 and columns:
        memory = replace(memory, door=Door(at=int(block.times[-1])))
    waiting = len(strangers) - len(added) if room else 0
    added = added[:room]
    limited = int((position == _LIMITED).sum()) - waiting - len(added)
    values = np.full((len(memory.active), len(block.times)), np.nan)
    placed = position >= 0
    values[position[placed]] = samples[placed]
    added_values = samples[[strangers[ls] for ls in added]] if added else np.zeros((0, len(block.times)))
    # An answer with series that are added, wait or are merged has to be looked at anew the next time.
    if not unchanged:
        settled = not twins and (not strangers or not room)
        memory = replace(memory, source_labels=block.labels if settled else (), source_position=position)
    return Aligned(memory, values, tuple(added), added_values, limited, duplicates, waiting, columns)


def _place(
    memory: Memory, block: Block, drop_labels: tuple[str, ...]
) -> tuple[I64, dict[Labels, int], dict[int, int]]:
    """Where each series of an answer is among the active ones [S]; the others by label set; twins by their first."""
    of_row = {int(row): i for i, row in enumerate(memory.active)}
    index = memory.registry.index
    position = np.full(len(block), _LIMITED, np.int64)
    taken: dict[Labels, int] = {}
    strangers: dict[Labels, int] = {}
    twins: dict[int, int] = {}
    for i, full in enumerate(block.labels):
        labels = tuple(pair for pair in full if pair[0] not in drop_labels) if drop_labels else full
        first = taken.setdefault(labels, i)
        if first != i:
            position[i], twins[i] = _TWIN, first
            continue
        row = index.get(labels)
        if row is not None and row in of_row:
            position[i] = of_row[row]
        else:
            strangers[labels] = i
    return position, strangers, twins


def _merged(values: F64, twins: Mapping[int, int]) -> tuple[F64, int]:
    """Samples with each twin's put where the first one has none, and how many twins overlap."""
    merged, overlapping = values.copy(), 0
    for i, first in twins.items():
        here, there = np.isfinite(values[i]), np.isfinite(merged[first])
        overlapping += bool((here & there).any())
        merged[first] = np.where(there, merged[first], values[i])
    return merged, overlapping


def _let_in(
    memory: Memory, strangers: Mapping[Labels, int], samples: F64, times: I64, terms: Terms, stop: bool
) -> tuple[Door, list[Labels], int]:
    """The door afterwards, who is let in, and the columns before that (all of them without ``stop``)."""
    back = [labels for labels in strangers if labels in memory.registry.index]
    new = [labels for labels in strangers if labels not in memory.registry.index]
    columns = len(times)
    if stop and back:
        seen = np.isfinite(samples[[strangers[labels] for labels in back]]).any(axis=0)
        columns = int(seen.argmax()) if seen.any() else columns
    values = samples[[strangers[labels] for labels in new], :columns]
    knocked = knock(memory.door, new, values, times[:columns], terms, stop=stop)
    if stop:
        return knocked.door, [], knocked.columns
    entering = {*back, *(new[i] for i in knocked.admitted)}
    return knocked.door, [labels for labels in strangers if labels in entering], columns


def keep_rows(memory: Memory, keep: Bool) -> Memory:
    """Forget the active series that are not in ``keep`` [N]; their rows stay in the registry."""
    if keep.all():
        return memory
    rows, last = np.nonzero(keep)[0], memory.last
    if last is not None:
        last = chosen(last, np.flatnonzero(~np.isin(last.series, memory.active[~keep])))
    return replace(
        memory,
        active=memory.active[rows],
        last_seen=memory.last_seen[rows],
        cuts=memory.cuts[rows],
        state=memory.state.take(rows) if memory.state is not None else None,
        quality=memory.quality.take(rows),
        last=last,
        source_labels=(),
    )
