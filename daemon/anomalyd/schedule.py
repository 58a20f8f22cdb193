"""Slots: when a group is evaluated, and which evaluations were missed.

Pure. As in Prometheus, slots lie on a grid of the group's interval, shifted by a stable hash of the group so that
groups spread out; a late evaluation counts the slots that went by and takes the newest. A slot's time is the time its
data are asked for, so scores and episodes lie on round times; the evaluation itself begins a ``query_delay`` later,
when late samples are in. The slot's time goes down the whole evaluation as ``at``; nothing below asks a clock again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from anomalyd.rule import RuleGroup


@dataclass(frozen=True, slots=True)
class Due:
    """A slot to evaluate: ``at`` is aligned to the interval, ``missed`` older slots were skipped."""

    at: int
    missed: int


def offset_ms(group: RuleGroup) -> int:
    """How long after slot and query delay the evaluation begins: stable, so that groups spread out.

    At most a fifth of the interval, and at most ten seconds: an alert is not held back for the sake of even load.
    """
    digest = hashlib.blake2b(f"{group.file}\0{group.name}".encode("utf-8", "replace"), digest_size=8).digest()
    spread = max(1, min(group.interval_ms // 5, 10_000))
    return int.from_bytes(digest, "big") % spread


def newest_slot(group: RuleGroup, now_ms: int) -> int:
    """The newest slot whose evaluation may begin at ``now_ms``."""
    return (now_ms - group.query_delay_ms - offset_ms(group)) // group.interval_ms * group.interval_ms


def due(group: RuleGroup, now_ms: int, last: int | None) -> Due | None:
    """The slot to evaluate now, given the last one evaluated; None while it is too early.

    A clock that went back yields nothing until it has caught up: no slot is evaluated twice.
    """
    newest = newest_slot(group, now_ms)
    if last is None:
        return Due(newest, 0)
    if newest <= last:
        return None
    return Due(newest, (newest - last) // group.interval_ms - 1)


def next_start_ms(group: RuleGroup, last: int) -> int:
    """When the evaluation of the slot after ``last`` may begin."""
    return last + group.interval_ms + group.query_delay_ms + offset_ms(group)
