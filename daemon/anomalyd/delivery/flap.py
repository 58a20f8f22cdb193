"""Flapping: an incident that opens and closes over and over is told so once, and then left alone until it calms down.

A receiver is told of at most so many openings of the same incident (its key) within an hour. The last of them says
that it is flapping; from then on an opening is told only when it lasts, or is of a higher tier than anything told
before. It has calmed down when it opened at most half as often within an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from anomalyd.clock import HOUR_MS, MINUTE_MS
from anomalyd.delivery.budget import History
from anomalyd.incident import Notification, OutcomeKind, Reason, Statement
from anomalyd.score import Tier
from anomalyd.suppress import Hold, Subject

FLAPPING = "flapping"
STEADY_MS = 15 * MINUTE_MS
"""An opening that lasts so long is no flap: what is still true is told."""
RECALL = 500
"""Rows of the outbox that are read after a start."""
MAX_KEYS = 10_000


@dataclass(slots=True)
class _Key:
    """One incident key at one receiver: when its incidents of the last hour opened, and whether it flaps."""

    opened: dict[str, int] = field(default_factory=dict)
    flapping: bool = False
    tier: Tier = Tier.NONE


class Flaps:
    """The stage of all receivers that have a limit; after a restart the last hour is read from the store.

    Args:
        limits: openings an hour by receiver; 0 and receivers without an entry have no limit.
    """

    def __init__(self, limits: Mapping[str, int], history: History):
        self._limits = {name: max(2, limit) for name, limit in limits.items() if limit > 0}
        self._history = history
        self._keys: dict[str, dict[str, _Key]] = {}

    def adopt(self, older: Flaps) -> None:
        """Go on where another left off (a reload)."""
        self._keys = {name: keys for name, keys in older._keys.items() if name in self._limits}

    def stage(self, subject: Subject) -> Hold | None:
        """Hold an opening of what is flapping until it has lasted."""
        s = subject.statement
        known = self._look(subject.receiver, s, subject.now)
        if known is None or not known.flapping or subject.told is not None or s.tier > known.tier:
            return None
        steady = s.opened_at + STEADY_MS
        return Hold(FLAPPING, steady) if subject.now < steady else None

    def reword(self, subject: Subject) -> Statement | None:
        """The last opening that is told says that it is flapping."""
        s = subject.statement
        known = self._look(subject.receiver, s, subject.now)
        if known is None or known.flapping or subject.told is not None or s.reason != Reason.NEW:
            return None
        if len(known.opened) < self._limits[subject.receiver]:
            return None
        note = (
            f"it is flapping: it opened {len(known.opened)} times within an hour; until it calms down you are told"
            " only if it gets worse or lasts"
        )
        return replace(s, reason=Reason.FLAPPING, note=note)

    def account(self, receiver: str, notification: Notification, outcome: str, now: int) -> None:
        """Hear of what became of a notification."""
        s = notification.statement
        if outcome != OutcomeKind.DELIVERED or s.resolved or (known := self._look(receiver, s, now)) is None:
            return
        known.tier = max(known.tier, s.tier)
        known.flapping = known.flapping or len(known.opened) >= self._limits[receiver]

    def _look(self, receiver: str, s: Statement, now: int) -> _Key | None:
        """What is known of a statement's key, with this incident among those that opened."""
        if receiver not in self._limits or s.reason == Reason.TEST:
            return None
        keys = self._keys.get(receiver)
        if keys is None:
            keys = self._keys[receiver] = self._recalled(receiver, now)
        if len(keys) > MAX_KEYS:
            self._keys[receiver] = keys = {k: one for k, one in keys.items() if _within_hour(one, now)}
        known = keys.setdefault(s.key, _Key())
        known.opened.setdefault(s.incident, s.opened_at)
        known.opened = _within_hour(known, now)
        if len(known.opened) <= self._limits[receiver] // 2:
            known.flapping, known.tier = False, Tier.NONE
        return known

    def _recalled(self, receiver: str, now: int) -> dict[str, _Key]:
        keys: dict[str, _Key] = {}
        for row in self._history.notifications(receiver=receiver, limit=RECALL):
            s = row.notification.statement
            if s.opened_at <= now - HOUR_MS or s.reason == Reason.TEST:
                continue
            known = keys.setdefault(s.key, _Key())
            known.opened[s.incident] = s.opened_at
            if row.state == OutcomeKind.DELIVERED.value and not s.resolved:
                known.tier = max(known.tier, s.tier)
        for known in keys.values():
            # The newest may not have been told yet: it is the one that says so.
            known.flapping = len(known.opened) > self._limits[receiver]
        return keys


def _within_hour(known: _Key, now: int) -> dict[str, int]:
    return {incident: at for incident, at in known.opened.items() if at > now - HOUR_MS}
