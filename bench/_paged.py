"""What would page, held against labelled events: how many were told, how many pages were of one, and how late.

The evaluator's figures are per sample; people count pages. A page is a sample whose signal is above the shipped
threshold (1). It is true inside a labelled event and false outside; an event is found when it was paged in its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anomalyd.block import Bool
from anomalyd.clock import MINUTE_MS, WEEK_MS
from bench._series import increasing, stems
from bench.harness import Figure


def paged(name: str, scores: Path, data: Path) -> Iterator[Figure]:
    """Figures of one univariate set (``kpi``, ``wsd``): its second parts, all series together."""
    events, found, false, weeks = 0, 0, 0, 0.0
    late: list[float] = []
    for stem in stems(data, name):
        with np.load(scores / name / f"{stem}.npz") as z:
            signal = z["scores"].astype(np.float64)
        with np.load(data / name / f"{stem}.npz") as z:
            first = int(z["train_length"])
            truth, times = z["labels"][first:] > 0, increasing(z["timestamps"].astype(np.int64) * 1000)[first:]
        page = signal[first:] > 1.0
        for begin, end in _runs(truth):
            events += 1
            hits = np.flatnonzero(page[begin:end])
            if len(hits):
                found += 1
                late.append(float(times[begin + hits[0]] - times[begin]))
        false += int((page & ~truth).sum())
        weeks += float(times[-1] - times[0]) / WEEK_MS
    title = f"what pages: {name.upper()}"
    yield Figure(f"{title} events told while they last", found / max(1, events), note=f"{found} of {events}")
    yield Figure(f"{title} pages that are of an event", found / max(1, found + false), note=f"{false} are not")
    yield Figure(f"{title} false pages per series and week", false / max(weeks, 1e-9), note="budget 1")
    if late:
        yield Figure(f"{title} minutes from an event's begin to its page, median", float(np.median(late)) / MINUTE_MS)


def _runs(truth: Bool) -> list[tuple[int, int]]:
    """Begin and end (exclusive) of each run of true samples."""
    edges = np.flatnonzero(np.diff(np.r_[0, truth.astype(np.int8), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
