"""Extended isolation forests, packed: cuts by oblique planes over a few features each.

A node cuts by ``weights`` · x[``features``] <= ``offset``, with normally distributed weights and a point drawn in the
bounding box of the node's vectors. The left child of node i is node i + 1; ``right`` is -1 at a leaf, whose ``offset``
is then the number of samples in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.iforest import F32, I16, path_length
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.rand import U64, draw, draw_normal, draw_sample

I8 = npt.NDArray[np.int8]


@kernel
def side(x: F32, features: I16, weights: F32) -> float:
    """Signed size of a vector along a node's direction."""
    total = 0.0
    for d in range(len(features)):
        total += weights[d] * x[features[d]]
    return total


@kernel
def extended_score(x: F32, features: I16, weights: F32, offset: F32, right: I16, samples: float) -> float:
    """Anomaly score of one vector in a forest [trees, nodes]: (0, 1]."""
    total = 0.0
    for tree in range(features.shape[0]):
        node, depth = 0, 0.0
        while right[tree, node] >= 0:
            below = side(x, features[tree, node], weights[tree, node]) <= offset[tree, node]
            node = node + 1 if below else right[tree, node]
            depth += 1.0
        total += depth + path_length(offset[tree, node])
    usual = features.shape[0] * path_length(samples)
    return float(2.0 ** (-total / usual)) if usual > 0.0 else 1.0


@kernel
def score_extended(
    vectors: F32, features: I16, weights: F32, offset: F32, right: I16, samples: I64, present: Bool, score: F64
) -> None:
    """Score the vectors [n, T, F] of each series in its own forest; series without one (samples 0) stay NaN."""
    for s in range(vectors.shape[0]):
        if samples[s] == 0:
            continue
        for t in range(vectors.shape[1]):
            if present[s, t]:
                score[s, t] = extended_score(
                    vectors[s, t], features[s], weights[s], offset[s], right[s], float(samples[s])
                )


@kernel
def pick_plane(x: F32, rows: I64, a: int, b: int, state: U64, pool: I64, features: I16, weights: F32) -> float:
    """Draw a plane through the box of x[rows[a:b]]; returns its offset."""
    draw_sample(state, x.shape[1], len(features), pool)
    offset = 0.0
    for d in range(len(features)):
        f = pool[d]
        low = high = x[rows[a], f]
        for r in range(a + 1, b):
            low = min(low, x[rows[r], f])
            high = max(high, x[rows[r], f])
        features[d] = f
        weights[d] = draw_normal(state)
        offset += weights[d] * (low + draw(state) * (high - low))
    return offset


@kernel
def split_rows(x: F32, rows: I64, a: int, b: int, features: I16, weights: F32, offset: float) -> int:
    """Reorder rows[a:b] so that those on or below the plane come first; returns where they end."""
    i, j = a, b - 1
    while i <= j:
        if side(x[rows[i]], features, weights) <= offset:
            i += 1
        else:
            rows[i], rows[j] = rows[j], rows[i]
            j -= 1
    return i


@kernel
def grow_extended(
    x: F32, size: int, deepest: int, seed: int, features: I16, weights: F32, offset: F32, right: I16
) -> None:
    """Grow a forest [trees, nodes] over the vectors x [R, F], each tree on ``size`` of them drawn without repeats."""
    state = np.array([seed], np.uint64)
    rows = np.arange(len(x))
    pool = np.arange(x.shape[1])
    stack = np.empty((2 * deepest + 4, 4), np.int64)
    for tree in range(features.shape[0]):
        draw_sample(state, len(x), size, rows)
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 0, size, 0, -1
        top, nodes = 1, 0
        while top > 0:
            top -= 1
            a, b, depth, parent = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
            node = nodes
            nodes += 1
            if parent >= 0:
                right[tree, parent] = node
            if b - a <= 1 or depth >= deepest:
                right[tree, node] = -1
                offset[tree, node] = b - a
                continue
            offset[tree, node] = pick_plane(x, rows, a, b, state, pool, features[tree, node], weights[tree, node])
            cut = split_rows(x, rows, a, b, features[tree, node], weights[tree, node], offset[tree, node])
            stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3] = cut, b, depth + 1, node
            stack[top + 1, 0], stack[top + 1, 1], stack[top + 1, 2], stack[top + 1, 3] = a, cut, depth + 1, -1
            top += 2
