"""What would page of groups of channels, held against labelled events: how many opened an episode, how many false ones.

An episode is true when it opens inside a labelled event; an event is found when one opens while it lasts. Groups are
scored without the refits of a living daemon, so a channel that changed for good goes on counting.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anomalyd.clock import WEEK_MS
from bench._series import stems
from bench.harness import Figure


def paged_together(name: str, step_ms: int, scores: Path, data: Path) -> Iterator[Figure]:
    """Figures of one multivariate set, all groups together; ``scores`` holds what pages."""
    events, found, true, false, weeks = 0, 0, 0, 0, 0.0
    for stem in stems(data, name):
        with np.load(scores / name / f"{stem}.npz") as z:
            opened = z["scores"] > 0
        with np.load(data / name / f"{stem}.npz") as z:
            truth = z["labels"] > 0
        edges = np.flatnonzero(np.diff(np.r_[0, truth.astype(np.int8), 0]))
        hits = [bool(opened[a:b].any()) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        events, found = events + len(hits), found + sum(hits)
        true, false = true + int((opened & truth).sum()), false + int((opened & ~truth).sum())
        weeks += len(truth) * step_ms / WEEK_MS
    title = f"what pages: {name}"
    yield Figure(f"{title} events told while they last", found / max(1, events), note=f"{found} of {events}")
    yield Figure(f"{title} episodes that open in an event", true / max(1, true + false), note=f"{false} do not")
    yield Figure(f"{title} false episodes per group and week", false / max(weeks, 1e-9), note="budget 1")
