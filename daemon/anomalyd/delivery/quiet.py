"""All wishes to be left in peace, put together for a ``Deliverer``: what is silenced, muted, inhibited, over budget.

What the stages ask for is read from the store at most every few seconds, so a pass over a thousand incidents asks once.
Silences of an Alertmanager that does not answer hold on for ten minutes and then no more: in doubt people are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from anomalyd.clock import MINUTE_MS, SECOND_MS
from anomalyd.delivery.budget import Budget, History
from anomalyd.delivery.hush import Firing, InhibitRule, MuteWindow, below_tier, firing_of, inhibited, muted, silenced
from anomalyd.delivery.together import Company, Together
from anomalyd.errors import AnomalydError
from anomalyd.incident import Incident
from anomalyd.logs import get_logger
from anomalyd.receivers.alertmanager import Alertmanager
from anomalyd.receivers.base import Receiver, ReceiverSettings
from anomalyd.records import Silence, Told
from anomalyd.score import Tier
from anomalyd.suppress import Stage

READ_EVERY_MS = 5 * SECOND_MS
ASK_EVERY_MS = 30 * SECOND_MS
BELIEVE_MS = 10 * MINUTE_MS

log = get_logger("quiet")


class Book(History, Protocol):
    """What is asked of the store."""

    def told(self, receiver: str, incident: str) -> Told | None: ...

    def silences(self, now: int | None = None) -> list[Silence]: ...

    def open_incidents(self, rule: str | None = None) -> list[Incident]: ...


class SilenceSource(Protocol):
    """A server whose silences are honoured here too; raises an ``AnomalydError`` when it cannot be asked."""

    @property
    def name(self) -> str: ...

    def silences(self, now: int) -> Sequence[Silence]: ...


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings say about quiet; the maps are by receiver."""

    mute_windows: tuple[MuteWindow, ...] = ()
    inhibit_rules: tuple[InhibitRule, ...] = ()
    min_tier: Mapping[str, Tier] = field(default_factory=dict)
    budget_per_hour: Mapping[str, int] = field(default_factory=dict)


class Known:
    """Silences and open incidents, as of a few seconds ago."""

    def __init__(
        self, book: Book, rule_labels: Callable[[str], Mapping[str, str]], elsewhere: Sequence[SilenceSource] = ()
    ):
        self._book, self._rule_labels, self._elsewhere = book, rule_labels, elsewhere
        self._silences: tuple[int, list[Silence]] | None = None
        self._firing: tuple[int, list[Firing]] | None = None
        self._foreign: dict[str, tuple[int, Sequence[Silence]]] = {}
        self._asked: dict[str, int] = {}

    def silences(self, now: int) -> Sequence[Silence]:
        """Ours and those of the servers elsewhere."""
        if self._silences is None or not 0 <= now - self._silences[0] < READ_EVERY_MS:
            foreign = [silence for source in self._elsewhere for silence in self._ask(source, now)]
            self._silences = now, [*self._book.silences(now), *foreign]
        return self._silences[1]

    def _ask(self, source: SilenceSource, now: int) -> Sequence[Silence]:
        if not 0 <= now - self._asked.get(source.name, -ASK_EVERY_MS) < ASK_EVERY_MS:
            self._asked[source.name] = now
            try:
                self._foreign[source.name] = now, source.silences(now)
            except AnomalydError as error:
                log.warning("silences cannot be read", receiver=source.name, reason=error.reason, error=str(error))
        at, known = self._foreign.get(source.name, (0, ()))
        return known if 0 <= now - at < BELIEVE_MS else ()

    def firing(self, now: int) -> Sequence[Firing]:
        """The open incidents, for inhibition."""
        if self._firing is None or not 0 <= now - self._firing[0] < READ_EVERY_MS:
            found = [firing_of(one, self._rule_labels(one.rule)) for one in self._book.open_incidents()]
            self._firing = now, found
        return self._firing[1]


def stages(wishes: Wishes, known: Known, budget: Budget, together: Together | None = None) -> tuple[Stage, ...]:
    """The stages in the order in which they are asked; the first that objects gives the reason."""
    return (
        below_tier(wishes.min_tier),
        inhibited(wishes.inhibit_rules, known.firing),
        muted(wishes.mute_windows),
        silenced(known.silences),
        *((together.stage,) if together is not None else ()),
        budget.stage,
    )


def arrange(
    book: Book,
    settings: Mapping[str, ReceiverSettings],
    receivers: Mapping[str, Receiver],
    rule_labels: Callable[[str], Mapping[str, str]],
    mute_windows: Sequence[MuteWindow] = (),
    inhibit_rules: Sequence[InhibitRule] = (),
    company: Company | None = None,
) -> tuple[tuple[Stage, ...], Budget, Together]:
    """The stages, the budget and the company that the settings ask for, ready for a ``Deliverer``.

    Args:
        rule_labels: the labels of a rule by its id; empty for one that is gone.
    """
    wishes = Wishes(
        tuple(mute_windows), tuple(inhibit_rules),
        {name: Tier[one.min_tier.upper()] for name, one in settings.items()},
        {name: one.budget_per_hour for name, one in settings.items()},
    )  # fmt: skip
    elsewhere = [r for r in receivers.values() if isinstance(r, Alertmanager) and r.honours_silences]
    budget = Budget(wishes.budget_per_hour, book)
    known = Known(book, rule_labels, elsewhere)
    together = Together(company, book, known.firing)
    return stages(wishes, known, budget, together), budget, together
