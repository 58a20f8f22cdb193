"""What rules came to owe as they lived, slot by slot, and a store that writes it down only when somebody looks.

While an episode lasts each slot changes it, and nobody asks what it was in between. So of an episode or incident the
newest state is enough; what is owed or noted is kept whole. Invariant: whoever reads the store finds all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from anomalyd.episode import Episode
from anomalyd.incident import Incident, Notification
from anomalyd.records import Fence
from anomalyd.rule import Rule
from anomalyd.slot import Notice, SlotCommit
from anomalyd.store import Store


@dataclass(frozen=True, slots=True)
class Letter:
    """What a rule came to owe in one slot; ``at`` is when the daemon would have known, wall milliseconds."""

    at: int
    rule: str
    episodes: tuple[Episode, ...]
    incidents: tuple[Incident, ...]
    outbox: tuple[Notification, ...]


def letter_of(rule: Rule, commit: SlotCommit) -> Letter:
    """What a rule owes after a commit."""
    return Letter(commit.at + rule.query_delay_ms, rule.id, commit.episodes, commit.incidents, commit.outbox)


@dataclass(slots=True)
class Unwritten:
    """What waits to be written down."""

    episodes: dict[str, Episode] = field(default_factory=dict)
    incidents: dict[str, Incident] = field(default_factory=dict)
    outbox: list[Notification] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def add(
        self, episodes: Iterable[Episode], incidents: Iterable[Incident], outbox: Iterable[Notification],
        notices: Iterable[Notice] = (),
    ) -> None:  # fmt: skip
        """Add what a slot changed, in order of time."""
        self.episodes |= {episode.id: episode for episode in episodes}
        self.incidents |= {incident.id: incident for incident in incidents}
        self.outbox += outbox
        self.notices += notices

    def __bool__(self) -> bool:
        return bool(self.episodes or self.incidents or self.outbox or self.notices)


class Noting:
    """A store that notes what is committed; slots in which nothing but episodes changed are committed as their last."""

    def __init__(self, store: Store, rule: Rule):
        self._store, self._rule = store, rule
        self.letters: list[Letter] = []
        self._unwritten = Unwritten()
        self._last = SlotCommit(rule.group, 0, ())

    def __getattr__(self, name: str) -> object:
        self.write()
        return getattr(self._store, name)

    def commit_slot(self, commit: SlotCommit, *, fence: Fence | None = None) -> bool:
        if commit.episodes or commit.incidents or commit.outbox:
            self.letters.append(letter_of(self._rule, commit))
        if commit.series or commit.gone or any(slot.observation is not None for slot in commit.rules):
            self.write()
            return self._store.commit_slot(commit, fence=fence)
        self._unwritten.add(commit.episodes, commit.incidents, commit.outbox, commit.notices)
        self._last = commit
        return True

    def write(self) -> None:
        """Write down what waits."""
        if self._unwritten:
            kept, self._unwritten = self._unwritten, Unwritten()
            self._store.commit_slot(replace(
                self._last, episodes=tuple(kept.episodes.values()), incidents=tuple(kept.incidents.values()),
                outbox=tuple(kept.outbox), notices=tuple(kept.notices),
            ))  # fmt: skip
