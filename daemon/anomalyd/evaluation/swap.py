"""A source that was replaced by another: a rule's series end together, and others are there in their place. Pure.

The same address, another Prometheus behind it, a restored backup, a scrape configuration that renames everything, a
release that starts all at once. No series is anomalous by it: those that ended are missing, those that came are young.
So nobody is paged of any of them, and it is noted once for the rule, since what was learned is of no use any more.
"""

from __future__ import annotations

import numpy as np

from anomalyd.clock import HOUR_MS
from anomalyd.evaluation.memory import Aligned, Memory
from anomalyd.rule import Rule
from anomalyd.slot import Notice, NoticeKind, make_notice

FEW = 3
"""Of fewer series nothing can be said: one that ends and one that comes may be chance."""
SETTLED_MS = 6 * HOUR_MS
"""A series that was there for so long is no job of the hour, whose series end together at each of its ends."""
TOGETHER = 3
"""Series whose last samples are at most so many slots apart have ended together."""
STAYED = 0.2
"""And hardly any have stayed: at most this share."""


def swapped(rule: Rule, memory: Memory, aligned: Aligned, at: int) -> Notice | None:
    """What is to be noted of a slot that lets new series in; ``aligned`` is its answer, ``memory`` what was before."""
    came = len(aligned.added)
    if came < FEW or not aligned.values.size:
        return None
    here = np.isfinite(aligned.values[:, -1])
    if here.all():
        return None
    seen = memory.last_seen
    newest = int(seen[~here].max())
    ended = ~here & (seen >= newest - TOGETHER * rule.interval_ms)
    rows = memory.registry.rows
    first = np.array([rows[row].first_seen for row in memory.active[ended].tolist()], np.int64)
    count, stayed = int((newest - first >= SETTLED_MS).sum()), int(here.sum())
    if count < FEW or stayed > STAYED * (count + stayed):
        return None
    text = (
        f"{count} series ended together and {came} others came in their place: the source is another one now, or "
        "everything was renamed or released at once; the new ones are learned from the source's history"
    )
    return make_notice(NoticeKind.SERIES, rule.id, at, text, since=newest)
