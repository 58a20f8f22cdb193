"""Drift of many series: ADWIN over means of the surprise. See ``drift.py`` for the idea.

ADWIN itself is that of ``kernels/adwin.py``, equal to river's; after changing it this file's compiled code is stale.
"""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, I8, I64, Bool
from anomalyd.detectors.kernels.adwin import note, update
from anomalyd.detectors.kernels.jit import kernel

CHANGED, DRIFTING = 1, 2
"""Phases of a series; 0 before any change."""


@kernel
def gather(surprise: F64, hold: Bool, pulse: F64, each: int) -> int:
    """Most means that one series completes with these samples; ``pulse`` [N, 2]: their sum and count, is read."""
    most = 0
    for s in range(surprise.shape[0]):
        if hold[s]:
            continue
        count = int(pulse[s, 1])
        for t in range(surprise.shape[1]):
            if not np.isnan(surprise[s, t]):
                count += 1
        most = max(most, count // each)
    return most


@kernel
def collect(surprise: F64, hold: Bool, pulse: F64, cap: float) -> None:
    """Add samples to means that they do not complete."""
    for s in range(surprise.shape[0]):
        if hold[s]:
            continue
        for t in range(surprise.shape[1]):
            if not np.isnan(surprise[s, t]):
                pulse[s, 0] += min(surprise[s, t], cap)
                pulse[s, 1] += 1.0


@kernel
def watch(
    surprise: F64,
    hold: Bool,
    times: I64,
    pulse: F64,
    totals: F64,
    variances: F64,
    fill: I64,
    window: F64,
    phase: I8,
    found: I64,
    spans: I64,
    each: int,
    each_ms: int,
    cap: float,
    chance: float,
    delta: float,
    most: int,
    least: int,
    begins: float,
    ends: float,
) -> None:
    """Take samples [N, T] in. A series drifts when ADWIN has cut its window and the rest averages ``begins``."""
    for s in range(surprise.shape[0]):
        if hold[s]:
            continue
        for t in range(surprise.shape[1]):
            if np.isnan(surprise[s, t]):
                continue
            pulse[s, 0] += min(surprise[s, t], cap)
            pulse[s, 1] += 1.0
            if pulse[s, 1] < each:
                continue
            mean = pulse[s, 0] / pulse[s, 1] / chance
            pulse[s, 0] = 0.0
            pulse[s, 1] = 0.0
            if update(totals[s], variances[s], fill[s], window[s], mean, delta, 1, most, least, 2 * least):
                phase[s] = max(phase[s], CHANGED)
            now = window[s, 1] / window[s, 0]
            if phase[s] == CHANGED and now >= begins:
                phase[s] = DRIFTING
                note(found[s], spans[s], times[t], int(window[s, 0]) * each_ms)
            elif phase[s] == DRIFTING and now < ends:
                phase[s] = CHANGED
