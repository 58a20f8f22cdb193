"""``Memory``: what one rule carries from slot to slot. A cache: the store and the source can always rebuild it.

Invariant: a memory is never changed in place. An evaluation makes the next one, and it replaces the old only after the
slot was committed, so a slot that failed to commit is evaluated again from the very same memory and nothing is learned
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, Labels, fingerprint
from anomalyd.detectors.base import State
from anomalyd.episode import Episode, Phase
from anomalyd.incident import Incident
from anomalyd.score import Observation
from anomalyd.slot import SeriesRow


@dataclass(frozen=True, slots=True, eq=False)
class Registry:
    """All series a rule ever had: label set to row id. Row ids are dense and never reused."""

    rule: str
    rows: tuple[SeriesRow, ...] = ()
    index: Mapping[Labels, int] = field(default_factory=dict)

    def register(self, fresh: list[Labels], at: int) -> tuple[Registry, tuple[SeriesRow, ...]]:
        """Add label sets that are not there yet; return the new registry and what was added."""
        if not fresh:
            return self, ()
        first = len(self.rows)
        added = tuple(SeriesRow(self.rule, first + i, fingerprint(ls), ls, at) for i, ls in enumerate(fresh))
        index = {**self.index, **{row.labels: row.row for row in added}}
        return Registry(self.rule, self.rows + added, index), added


def registry_from_rows(rule: str, rows: list[SeriesRow]) -> Registry:
    """Rebuild a registry from the store."""
    ordered = tuple(sorted(rows, key=lambda row: row.row))
    return Registry(rule, ordered, {row.labels: row.row for row in ordered})


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """One rule between two slots.

    Attributes:
        active: row ids of the series the state covers, in the state's order [N].
        last_seen: when each of them last had a sample [N], milliseconds.
        state: what the model learned, or None before the first fit.
        fitted_at: end of the history of the last full fit; 0 before it.
        cuts: each active series' cut per tier [N, 3].
        episodes: live (pending or open) episodes by row id.
        incidents: open incidents by key.
        relearn: rows whose new level was accepted and that wait for the next fit.
        last: the newest observation, for /metrics and the console.
        at: the newest slot evaluated; 0 before the first.
        source_labels, source_position: label sets of the last answer and where each lies in ``active``, so that an
            unchanged answer needs no lookup.
        whole: the rows of all active series, where this memory holds only some of them.
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
    last: Observation | None = None
    at: int = 0
    source_labels: tuple[Labels, ...] = ()
    source_position: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    whole: I64 | None = None

    @property
    def siblings(self) -> I64:
        """The rows of all active series of the rule."""
        return self.active if self.whole is None else self.whole

    def hold(self) -> Bool:
        """Which active series are in a live episode and must not be learned [N]."""
        rows = np.fromiter(self.episodes, np.int64, len(self.episodes))
        return np.isin(self.active, rows)

    def active_labels(self) -> list[Labels]:
        """The label sets of the active series."""
        return [self.registry.rows[row].labels for row in self.siblings.tolist()]

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
        added: label sets that are new to the rule and within its limit.
        added_values: their samples [len(added), T].
        limited: how many series lie beyond the rule's limit.
        duplicates: series dropped because ``drop_labels`` made two label sets equal.
    """

    memory: Memory
    values: F64
    added: tuple[Labels, ...]
    added_values: F64
    limited: int
    duplicates: int


def align(memory: Memory, block: Block, drop_labels: tuple[str, ...], max_series: int) -> Aligned:
    """Put an answer's series where the memory has them; name those it does not know."""
    if block.labels != memory.source_labels:
        return _align_anew(memory, block, drop_labels, max_series)
    values = np.full((len(memory.active), len(block.times)), np.nan)
    placed = memory.source_position >= 0
    values[memory.source_position[placed]] = block.values[placed]
    limited = int((memory.source_position == _LIMITED).sum())
    duplicates = int((memory.source_position == _DUPLICATE).sum())
    return Aligned(memory, values, (), np.zeros((0, len(block.times))), limited, duplicates)


_LIMITED, _DUPLICATE = -1, -2


def _align_anew(memory: Memory, block: Block, drop_labels: tuple[str, ...], max_series: int) -> Aligned:
    of_row = {int(row): i for i, row in enumerate(memory.active)}
    index = memory.registry.index
    position = np.full(len(block), _LIMITED, np.int64)
    taken: set[Labels] = set()
    added: dict[Labels, int] = {}
    room = max_series - len(memory.active)
    for i, full in enumerate(block.labels):
        labels = tuple(pair for pair in full if pair[0] not in drop_labels) if drop_labels else full
        if labels in taken:
            position[i] = _DUPLICATE
            continue
        taken.add(labels)
        row = index.get(labels)
        if row is not None and row in of_row:
            position[i] = of_row[row]
        elif len(added) < room:
            added[labels] = i
    values = np.full((len(memory.active), len(block.times)), np.nan)
    placed = position >= 0
    values[position[placed]] = block.values[placed]
    added_values = block.values[list(added.values())] if added else np.zeros((0, len(block.times)))
    limited = int((position == _LIMITED).sum()) - len(added)
    duplicates = int((position == _DUPLICATE).sum())
    # Positions of added series are known only once they are registered, so only an answer without any is remembered.
    known = replace(memory, source_labels=block.labels if not added else (), source_position=position)
    return Aligned(known, values, tuple(added), added_values, limited, duplicates)


def keep_rows(memory: Memory, keep: Bool) -> Memory:
    """Forget the active series that are not in ``keep`` [N]; their rows stay in the registry."""
    if keep.all():
        return memory
    rows = np.nonzero(keep)[0]
    return replace(
        memory,
        active=memory.active[rows],
        last_seen=memory.last_seen[rows],
        cuts=memory.cuts[rows],
        state=memory.state.take(rows) if memory.state is not None else None,
        source_labels=(),
    )
