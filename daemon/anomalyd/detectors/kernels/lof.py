"""Local outlier factor for novelty, over packed vectors of many series; equal to scikit-learn's ``LocalOutlierFactor``.

Neighbours are found by comparing with all vectors kept: some hundred of ten numbers, one pass over a cache line each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.jit import kernel

F32 = npt.NDArray[np.float32]


@kernel
def nearest(kept: F32, x: F32, skip: int, k: int, distances: F64, where: I64) -> None:
    """The k nearest of the kept vectors to x by Euclidean distance, nearest first, without the one at ``skip``."""
    found = 0
    for i in range(kept.shape[0]):
        if i == skip:
            continue
        squares = 0.0
        for f in range(kept.shape[1]):
            apart = np.float64(kept[i, f]) - np.float64(x[f])
            squares += apart * apart
        if found == k and squares >= distances[k - 1]:
            continue
        at = found if found < k else k - 1
        while at > 0 and distances[at - 1] > squares:
            distances[at] = distances[at - 1]
            where[at] = where[at - 1]
            at -= 1
        distances[at] = squares
        where[at] = i
        found = min(found + 1, k)
    for i in range(k):
        distances[i] = np.sqrt(distances[i])


@kernel
def reach_density(distances: F64, where: I64, radius: F64, k: int) -> float:
    """Inverse mean reachability distance: from each neighbour at least that neighbour's own radius."""
    total = 0.0
    for i in range(k):
        total += max(distances[i], radius[where[i]])
    return float(1.0 / (total / k + 1e-10))


@kernel
def learn_density(kept: F32, k: int, radius: F64, density: F64) -> None:
    """Radius (distance to the k-th neighbour) and density of each kept vector [M, F]."""
    m = kept.shape[0]
    distances, where = np.empty((m, k)), np.empty((m, k), np.int64)
    for i in range(m):
        nearest(kept, kept[i], i, k, distances[i], where[i])
        radius[i] = distances[i, k - 1]
    for i in range(m):
        density[i] = reach_density(distances[i], where[i], radius, k)


@kernel
def score_density(
    vectors: F32, kept: F32, radius: F64, density: F64, fitted: Bool, k: int, present: Bool, score: F64
) -> None:
    """Mean density of a vector's neighbours over its own: 1 is ordinary, larger is lonelier than they are."""
    distances, where = np.empty(k), np.empty(k, np.int64)
    for s in range(vectors.shape[0]):
        if not fitted[s]:
            continue
        for t in range(vectors.shape[1]):
            if not present[s, t]:
                continue
            nearest(kept[s], vectors[s, t], -1, k, distances, where)
            own = reach_density(distances, where, radius[s], k)
            total = 0.0
            for i in range(k):
                total += density[s, where[i]] / own
            score[s, t] = total / k
