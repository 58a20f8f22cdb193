"""Isolation forests of many series, packed: seven bytes a node.

A tree is an array of nodes in depth-first order, so the left child of node i is node i + 1 and only the right one is
stored. ``feature`` is -1 at a leaf, whose ``threshold`` is then the number of samples in it. Thresholds are float32
rounded down: a float32 feature is on the same side of that as of the float64 threshold it came from, so scores of
scikit-learn's own trees are the same up to the order of summation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.rand import U64, draw, draw_below, draw_sample

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
I16 = npt.NDArray[np.int16]


@kernel
def path_length(n: float) -> float:
    """Mean depth at which a random tree over n samples isolates one (Liu et al., equation 1)."""
    if n <= 1.0:
        return 0.0
    if n == 2.0:
        return 1.0
    return float(2.0 * (np.log(n - 1.0) + 0.5772156649015329) - 2.0 * (n - 1.0) / n)


@kernel
def forest_score(x: F32, feature: I16, threshold: F32, right: I16, samples: float) -> float:
    """Anomaly score of one vector in a forest [trees, nodes] grown on ``samples`` vectors a tree: (0, 1]."""
    total = 0.0
    for tree in range(feature.shape[0]):
        node, depth = 0, 0.0
        while feature[tree, node] >= 0:
            node = node + 1 if x[feature[tree, node]] <= threshold[tree, node] else right[tree, node]
            depth += 1.0
        total += depth + path_length(threshold[tree, node])
    usual = feature.shape[0] * path_length(samples)
    return float(2.0 ** (-total / usual)) if usual > 0.0 else 1.0


@kernel
def score_forests(
    vectors: F32, feature: I16, threshold: F32, right: I16, samples: I64, present: np.ndarray, score: F64
) -> None:
    """Score the vectors [n, T, F] of each series in its own forest; series without one (samples 0) are left as NaN."""
    for s in range(vectors.shape[0]):
        if samples[s] == 0:
            continue
        for t in range(vectors.shape[1]):
            if present[s, t]:
                score[s, t] = forest_score(vectors[s, t], feature[s], threshold[s], right[s], float(samples[s]))


@kernel
def pick_split(x: F32, rows: I64, a: int, b: int, state: U64, order: I64, split: F64) -> bool:
    """Draw a feature that is not constant over rows[a:b] and a threshold inside its range; False where none is."""
    width = x.shape[1]
    for i in range(width):
        order[i] = i
    for i in range(width):
        j = i + draw_below(state, width - i)
        order[i], order[j] = order[j], order[i]
        f = order[i]
        low = high = x[rows[a], f]
        for r in range(a + 1, b):
            low = min(low, x[rows[r], f])
            high = max(high, x[rows[r], f])
        if high > low:
            at = np.float32(low + draw(state) * (high - low))
            split[0] = f
            split[1] = low if at >= high else at
            return True
    return False


@kernel
def partition(x: F32, rows: I64, a: int, b: int, f: int, at: float) -> int:
    """Reorder rows[a:b] so that those with feature f not above the threshold come first; returns where they end."""
    i, j = a, b - 1
    while i <= j:
        if x[rows[i], f] <= at:
            i += 1
        else:
            rows[i], rows[j] = rows[j], rows[i]
            j -= 1
    return i


@kernel
def grow_tree(x: F32, rows: I64, n: int, deepest: int, state: U64, feature: I16, threshold: F32, right: I16) -> None:
    """Grow one tree over the vectors x[rows[:n]]."""
    order = np.empty(x.shape[1], np.int64)
    split = np.empty(2)
    stack = np.empty((2 * deepest + 4, 4), np.int64)
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 0, n, 0, -1
    top, nodes = 1, 0
    while top > 0:
        top -= 1
        a, b, depth, parent = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
        node = nodes
        nodes += 1
        if parent >= 0:
            right[parent] = node
        if b - a <= 1 or depth >= deepest or not pick_split(x, rows, a, b, state, order, split):
            feature[node] = -1
            threshold[node] = b - a
            continue
        feature[node] = int(split[0])
        threshold[node] = split[1]
        middle = partition(x, rows, a, b, int(split[0]), threshold[node])
        stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3] = middle, b, depth + 1, node
        stack[top + 1, 0], stack[top + 1, 1], stack[top + 1, 2], stack[top + 1, 3] = a, middle, depth + 1, -1
        top += 2


@kernel
def grow_forest(x: F32, size: int, deepest: int, seed: int, feature: I16, threshold: F32, right: I16) -> None:
    """Grow a forest [trees, nodes] over the vectors x [R, F], each tree on ``size`` of them drawn without repeats."""
    state = np.array([seed], np.uint64)
    rows = np.arange(len(x))
    for tree in range(feature.shape[0]):
        draw_sample(state, len(x), size, rows)
        grow_tree(x, rows, size, deepest, state, feature[tree], threshold[tree], right[tree])
