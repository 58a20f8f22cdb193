"""Kernel of the nearest-neighbour distance between vectors, all looked at: the joint form of ``knn``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anomalyd.detectors.kernels.jit import kernel


@kernel
def nearest_vectors(vectors: Any, kept: Any, stored: Any, neighbours: Any, present: Any, score: Any) -> Any:
    """Distance of each vector [N, T, W], where present, to its k-th nearest of the first ``stored`` [N] of ``kept``.

    Per root of the width, so that it does not grow with the number of channels.
    """
    width = vectors.shape[2]
    best = np.empty(neighbours, np.float64)
    for i in range(vectors.shape[0]):
        if stored[i] < neighbours:
            continue
        for t in range(vectors.shape[1]):
            if not present[i, t]:
                continue
            best[:] = np.inf
            for row in range(stored[i]):
                apart = 0.0
                for c in range(width):
                    d = float(vectors[i, t, c]) - float(kept[i, row, c])
                    apart += d * d
                k = neighbours - 1
                if apart < best[k]:
                    while k > 0 and best[k - 1] > apart:
                        best[k] = best[k - 1]
                        k -= 1
                    best[k] = apart
            score[i, t] = math.sqrt(best[neighbours - 1] / width)
    return np.int64(0)
