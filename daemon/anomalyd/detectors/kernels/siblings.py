"""Outliers among the series of one rule at one time: by median and MAD, or by the density of a one-dimensional DBSCAN.

State of one series: ``own`` [4] = its usual offset from the others, the noise of its deviation in time (from
successive differences, so that a lasting deviation does not count as noise), samples seen, last deviation.
"""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, Bool
from anomalyd.detectors.kernels.baseline import CLIP, follow_spread
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.order import median, median_deviation


@kernel
def nearest_cluster(ordered: F64, n: int, gap: float, least: int, x: float, answer: F64) -> bool:
    """Distance of x to the nearest cluster and that cluster's median, in ``answer``; False where there is no cluster.

    A cluster is a run of at least ``least`` of the n sorted values with no gap wider than ``gap``.
    """
    answer[0] = np.inf
    start = 0
    for i in range(n):
        if i + 1 < n and ordered[i + 1] - ordered[i] <= gap:
            continue
        if i + 1 - start >= least:
            apart = max(ordered[start] - x, x - ordered[i], 0.0)
            if apart < answer[0]:
                answer[0] = apart
                answer[1] = median(ordered[start : i + 1], i + 1 - start)
        start = i + 1
    return bool(answer[0] < np.inf)


@kernel
def teach_offset(own: F64, deviation: float, floor: float, memory: float, offsets: bool) -> None:
    """Let one series' usual offset and spread follow its deviation from the others, in bounded steps."""
    error = deviation - own[0]
    if own[2] >= 8.0:
        limit = CLIP * max(own[1], floor)
        bounded = min(max(error, -limit), limit)
    else:
        bounded = error
    if own[2] > 0.0:
        change = abs(deviation - own[3]) / np.sqrt(2.0)
        own[1] = follow_spread(own[1], change, floor, max(1.0 / (own[2] + 1.0), 6.0 / memory))
    own[3] = deviation
    if offsets:
        own[0] += bounded / min(own[2] + 1.0, memory)
    own[2] += 1.0


@kernel
def compare(
    values: F64,
    hold: Bool,
    own: F64,
    offsets: bool,
    cluster: bool,
    fewest: int,
    share: float,
    reach: float,
    memory: float,
    settled: int,
    floors: F64,
    highest: float,
    score: F64,
    expected: F64,
    unit: F64,
) -> None:
    """Score every series against the others at each time, then let its usual offset follow."""
    n = values.shape[0]
    ordered, spreads, answer = np.empty(n), np.empty(n), np.empty(2)
    for t in range(values.shape[1]):
        present = 0
        for s in range(n):
            if not np.isnan(values[s, t]):
                ordered[present] = values[s, t] - own[s, 0]
                spreads[present] = own[s, 1]
                present += 1
        if present < fewest:
            continue
        ordered[:present] = np.sort(ordered[:present])
        spreads[:present] = np.sort(spreads[:present])
        centre = median(ordered, present)
        noise = max(median(spreads, present), floors[0] * abs(centre), floors[1])
        across = max(1.482602218505602 * median_deviation(ordered, present, centre), noise)
        for s in range(n):
            x = values[s, t]
            middle, apart = centre, 0.0
            if cluster:
                least = max(2, int(np.ceil(share * present)))
                probe = centre if np.isnan(x) else x - own[s, 0]
                if nearest_cluster(ordered, present, reach * noise, least, probe, answer):
                    apart, middle = answer[0] / noise, answer[1]
            expected[s, t] = middle + own[s, 0]
            ready = own[s, 2] >= settled
            if ready:
                unit[s, t] = noise if cluster else across
            if np.isnan(x):
                continue
            if not cluster:
                apart = abs(x - own[s, 0] - centre) / across
            if ready:
                score[s, t] = min(apart, highest)
            if not hold[s]:
                teach_offset(own[s], x - centre, max(floors[0] * abs(centre), floors[1]), memory, offsets)
