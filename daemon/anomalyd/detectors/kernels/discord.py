"""The newest subsequence's distance to its nearest neighbour, kept up to date sample by sample.

Distances are between z-normalised subsequences of m samples, d = sqrt(2 m (1 - correlation)), corrected for complexity
(Batista et al., 2014): a subsequence much smoother or rougher than its neighbour is far from it. The dot products with
all earlier subsequences follow from those of the sample before in one pass (as in STOMP); once a memory's length they
are computed anew, so rounding does not add up.

State of one series, newest last: ``tape`` [R] samples less the first one, ``dots`` [R] products of the newest
subsequence with the one that ends at each place, ``bad`` [R] whether the sample was held. Neighbours reach back R - m
samples, so whatever a product needs is still on the tape. Kernels work on a longer tape with room for a block's
samples; ``newest`` and ``oldest`` are places on it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.baseline import expect, spread_of, teach
from anomalyd.detectors.kernels.jit import kernel

I8 = npt.NDArray[np.int8]


@kernel
def product(tape: F64, a: int, b: int, m: int) -> float:
    """Product of the subsequences that end at places a and b."""
    total = 0.0
    for i in range(m):
        total += tape[a - i] * tape[b - i]
    return float(total)


@kernel
def push_sample(tape: F64, dots: F64, newest: int, first: int, m: int, x: float, anew: bool) -> None:
    """Put a sample at place ``newest`` and bring the products from the end ``first`` on up to date."""
    tape[newest] = x
    if newest < first:
        return
    if anew or newest == first:
        for e in range(first, newest + 1):
            dots[e] = product(tape, newest, e, m)
        return
    gone = tape[newest - m]
    for e in range(newest, first, -1):
        dots[e] = dots[e - 1] - gone * tape[e - m] + x * tape[e]
    dots[first] = product(tape, newest, first, m)


@kernel
def moments(tape: F64, end: int, m: int, sums: F64) -> None:
    """Sum, squares and squared differences of the subsequence that ends at a place."""
    sums[:] = 0.0
    for i in range(end - m + 1, end + 1):
        sums[0] += tape[i]
        sums[1] += tape[i] * tape[i]
        if i > end - m + 1:
            sums[2] += (tape[i] - tape[i - 1]) ** 2


@kernel
def nearest_distance(
    tape: F64, dots: F64, bad: I8, newest: int, first: int, m: int, flat: float, rough: float
) -> float:
    """Distance of the newest subsequence to its nearest earlier one that does not overlap it, in units of sqrt(2 m).

    0 is equal, about 1 unrelated, more if smoother or rougher; NaN while there is no neighbour. Subsequences with held
    samples are none. ``first``: where the oldest ends. ``flat``: deviation below which a subsequence is a line;
    ``rough``: added to both complexities.
    """
    mine, other = np.empty(3), np.empty(3)
    moments(tape, newest, m, mine)
    mean = mine[0] / m
    variance = mine[1] / m - mean * mean
    complexity = mine[2] + rough * rough
    moments(tape, first, m, other)
    total, squares, bends = other[0], other[1], other[2]
    held = 0
    for i in range(first - m + 1, first + 1):
        held += bad[i]
    best = np.inf
    for e in range(first, newest - m + 1):
        if e > first:
            new, old, then = tape[e], tape[e - m], tape[e - m + 1]
            total += new - old
            squares += new * new - old * old
            bends += (new - tape[e - 1]) ** 2 - (then - old) ** 2
            held += bad[e] - bad[e - m]
        if held > 0:
            continue
        level = total / m
        spread = squares / m - level * level
        if spread <= flat * flat or variance <= flat * flat:
            apart = 0.0 if spread <= flat * flat and variance <= flat * flat else 0.5
        else:
            apart = max(0.0, 1.0 - (dots[e] / m - level * mean) / np.sqrt(spread * variance))
        other_complexity = max(0.0, bends) + rough * rough
        best = min(best, apart * max(other_complexity, complexity) / min(other_complexity, complexity))
    return float(np.sqrt(best)) if best < np.inf else np.nan


@kernel
def discords(
    values: F64,
    civil: I64,
    hold: Bool,
    line: F64,
    day: F64,
    week: F64,
    memories: F64,
    floors: F64,
    anchor: F64,
    tapes: F64,
    products: F64,
    bads: I8,
    count: I64,
    m: int,
    settled: int,
    least: int,
    reach: float,
    highest: float,
    score: F64,
    expected: F64,
) -> None:
    """Score each sample by how unlike everything before the subsequence is that ends with it.

    ``anchor`` [N]: the first sample on the tape; ``count`` [N]: samples put there so far, begun after ``settled`` ones.
    """
    size, room = tapes.shape[1], values.shape[1]
    tape, dots, bad = np.zeros(size + room), np.zeros(size + room), np.zeros(size + room, np.int8)
    for s in range(values.shape[0]):
        tape[:size], dots[:size], bad[:size] = tapes[s], products[s], bads[s]
        newest = size - 1
        for t in range(values.shape[1]):
            x = values[s, t]
            if line[s, 2] > 0.0:
                expected[s, t] = expect(line[s], day[s], week[s], civil[t])
            if np.isnan(x):
                continue
            if line[s, 2] >= settled:
                spread = spread_of(line[s], floors[0], floors[1])
                bounded = min(max(x, expected[s, t] - reach * spread), expected[s, t] + reach * spread)
                if count[s] == 0:
                    anchor[s] = bounded
                newest += 1
                n = count[s]
                first = newest - n + max(m - 1, n - (size - m) + m)
                bad[newest] = 1 if hold[s] else 0
                push_sample(tape, dots, newest, first, m, bounded - anchor[s], n % size == 0)
                if n >= least:
                    found = nearest_distance(tape, dots, bad, newest, first, m, 1e-3 * spread, spread)
                    if not np.isnan(found):
                        score[s, t] = min(found, highest)
                count[s] = n + 1
            if not hold[s]:
                teach(line[s], day[s], week[s], civil[t], x, memories, floors)
        start = newest + 1 - size
        tapes[s], products[s], bads[s] = tape[start : newest + 1], dots[start : newest + 1], bad[start : newest + 1]
