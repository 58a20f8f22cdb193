"""Half-Space Trees over many series with one shared set of trees; bit-equal to river's given the same trees.

A tree of height h is a complete binary tree in heap order: node i has children 2i + 1 (below the threshold) and 2i + 2.
Each series keeps two counts per node: of the window being filled and of the last full one. Counts are bytes, so a
window holds at most 255 samples. All sums are of whole numbers, exact in float64 in any order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.baseline import expect, fetch, spread_of, teach
from anomalyd.detectors.kernels.jit import kernel

ORDINARY = 3.0
"""In an episode the change is that from the last sample within so many spreads: a shift that lasts is one all along."""

AHEAD = 1
"""Series ahead for which the expectation's memory is asked."""

U8 = npt.NDArray[np.uint8]


@kernel
def mass_score(x: F64, feature: npt.NDArray[np.int8], threshold: F64, reference: U8, height: int, window: int) -> float:
    """Score of one vector against the last full window's counts [trees, nodes]: 0 crowded, towards 1 empty."""
    limit = 0.1 * window
    total = 0.0
    for tree in range(feature.shape[0]):
        node, weight = 0, 1
        for _ in range(height):
            count = reference[tree, node]
            total += count * weight
            if count < limit:
                break
            node = 2 * node + (1 if x[feature[tree, node]] < threshold[tree, node] else 2)
            weight *= 2
        else:
            total += reference[tree, node] * weight
    return float(1.0 - total / (feature.shape[0] * window * (2 ** (height + 1) - 1)))


@kernel
def mass_learn(x: F64, feature: npt.NDArray[np.int8], threshold: F64, latest: U8, height: int) -> None:
    """Count one vector along its path in every tree."""
    for tree in range(feature.shape[0]):
        node = 0
        for _ in range(height):
            latest[tree, node] += 1
            node = 2 * node + (1 if x[feature[tree, node]] < threshold[tree, node] else 2)
        latest[tree, node] += 1


@kernel
def mass_pass(
    x: F64, feature: npt.NDArray[np.int8], threshold: F64, latest: U8, reference: U8, height: int, window: int
) -> float:
    """``mass_score`` and ``mass_learn`` in one walk, which asks no question that the processor would have to guess."""
    limit = 0.1 * window
    total = np.int64(0)
    for tree in range(feature.shape[0]):
        node, weight = 0, 1
        for _ in range(height):
            latest[tree, node] += 1
            count = np.int64(reference[tree, node])
            total += count * weight
            weight = 0 if count < limit else 2 * weight  # nothing counts below a node that is nearly empty
            node = 2 * node + (1 if x[feature[tree, node]] < threshold[tree, node] else 2)
        latest[tree, node] += 1
        total += np.int64(reference[tree, node]) * weight
    return float(1.0 - total / (feature.shape[0] * window * (2 ** (height + 1) - 1)))


@kernel
def turn_window(latest: U8, reference: U8) -> None:
    """The window is full: it becomes the reference and a new one begins."""
    for tree in range(latest.shape[0]):
        for node in range(latest.shape[1]):
            reference[tree, node] = latest[tree, node]
            latest[tree, node] = 0


@kernel
def to_features(z: float, before: float, reach: float, x: F64) -> None:
    """Residual and its change, both in spreads, scaled from ±reach to [0, 1]."""
    x[0] = (min(max(z, -reach), reach) + reach) / (2.0 * reach)
    x[1] = (min(max(z - before, -reach), reach) + reach) / (2.0 * reach)


@kernel
def half_space_joint(
    values: F64, civil: I64, hold: bool, line: F64, day: F64, week: F64, memories: F64, floors: F64,
    feature: npt.NDArray[np.int8], threshold: F64, latest: U8, reference: U8, seen: I64, before: F64,
    window: int, height: int, reach: float, score: F64, expected: F64,
) -> None:  # fmt: skip
    """As ``half_space`` with the residuals and changes of all channels as one vector per time; the trees are theirs.

    ``before`` [C]: each channel's last residual, which stands for one that is missing. ``latest``, ``reference``
    [1, trees, nodes] and ``seen`` [1, 2] belong to the vector; the score [N, T] is given to the channels present.
    """
    channels = values.shape[0]
    x, pair = np.zeros(2 * channels), np.zeros(2)
    for t in range(values.shape[1]):
        some = False
        for c in range(channels):
            if line[c, 2] > 0.0:
                expected[c, t] = expect(line[c], day[c], week[c], civil[t])
            value = values[c, t]
            z = before[c]
            if not np.isnan(value):
                some = True
                normal = expected[c, t] if line[c, 2] > 0.0 else value
                z = (value - normal) / spread_of(line[c], floors[0], floors[1])
            to_features(z, before[c], reach, pair)
            x[2 * c], x[2 * c + 1] = pair[0], pair[1]
            if not hold or abs(z) <= ORDINARY:
                before[c] = min(max(z, -reach), reach)
        if not some:
            continue
        if seen[0, 1] > 0:
            found = mass_score(x, feature, threshold, reference[0], height, window)
            for c in range(channels):
                if not np.isnan(values[c, t]):
                    score[c, t] = found
        if hold:
            continue
        mass_learn(x, feature, threshold, latest[0], height)
        seen[0, 0] += 1
        if seen[0, 0] == window:
            turn_window(latest[0], reference[0])
            seen[0, 0] = 0
            seen[0, 1] += 1
        for c in range(channels):
            if not np.isnan(values[c, t]):
                teach(line[c], day[c], week[c], civil[t], values[c, t], memories, floors)


@kernel
def half_space(
    values: F64, again: int, civil: I64, last_hold: Bool, hold: Bool, line: F64, day: F64, week: F64, memories: F64,
    floors: F64, feature: npt.NDArray[np.int8], threshold: F64, latest: U8, reference: U8, seen: I64, before: F64,
    window: int, height: int, reach: float, score: F64, expected: F64,
) -> None:  # fmt: skip
    """Score each sample's residual and change against the last full window, then learn it.

    The first ``again`` columns were scored before and are learned once more, with their own ``last_hold``; ``score``
    and ``expected`` are those of the columns behind them. ``seen`` [N, 2]: samples in the window being filled, full
    windows; ``before`` [N]: residual of the last sample.
    """
    x = np.zeros(2)
    for s in range(values.shape[0]):
        if values.shape[1]:
            fetch(line, day, week, s + AHEAD, civil[0])
        for t in range(values.shape[1]):
            value = values[s, t]
            normal = value
            if line[s, 2] > 0.0:
                normal = expect(line[s], day[s], week[s], civil[t])
                if t >= again:
                    expected[s, t - again] = normal
            if np.isnan(value):
                continue
            z = (value - normal) / spread_of(line[s], floors[0], floors[1])
            to_features(z, before[s], reach, x)
            held = (last_hold if t < again else hold)[s]
            if not held or abs(z) <= ORDINARY:
                before[s] = min(max(z, -reach), reach)
            asked = t >= again and seen[s, 1] > 0
            if held:
                if asked:
                    score[s, t - again] = mass_score(x, feature, threshold, reference[s], height, window)
                continue
            if asked:
                score[s, t - again] = mass_pass(x, feature, threshold, latest[s], reference[s], height, window)
            else:
                mass_learn(x, feature, threshold, latest[s], height)
            seen[s, 0] += 1
            if seen[s, 0] == window:
                turn_window(latest[s], reference[s])
                seen[s, 0] = 0
                seen[s, 1] += 1
            teach(line[s], day[s], week[s], civil[t], value, memories, floors)
