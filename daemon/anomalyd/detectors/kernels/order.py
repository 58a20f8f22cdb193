"""Exact order statistics of a sorted window that slides by one sample: median, quantiles, median absolute deviation.

The window is a sorted array plus a ring that says which sample leaves next. A step costs one shift of the array
(a memory move) and a binary search; the results equal ``numpy.median`` on the same samples bit for bit.
"""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.prefetch import prefetch_cell, prefetch_row

AHEAD = 4
"""Series ahead for which memory is asked."""


@kernel
def place(ordered: F64, n: int, x: float) -> int:
    """First position among the n sorted values whose value is not below x."""
    low, high = 0, n
    while low < high:
        middle = (low + high) >> 1
        if ordered[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def slide(ring: F64, ordered: F64, at: int, n: int, x: float) -> None:
    """Put x into the window of n samples; when it is full, the sample at ring position ``at`` leaves."""
    if n < len(ring):
        to = place(ordered, n, x)
        for i in range(n, to, -1):
            ordered[i] = ordered[i - 1]
        ordered[to] = x
    else:
        gone = place(ordered, n, ring[at])
        to = place(ordered, n, x)
        if to > gone:
            for i in range(gone, to - 1):
                ordered[i] = ordered[i + 1]
            ordered[to - 1] = x
        else:
            for i in range(gone, to, -1):
                ordered[i] = ordered[i - 1]
            ordered[to] = x
    ring[at] = x


@kernel
def follow_window(ring: F64, ordered: F64, seen: int, ring_now: F64, seen_now: int) -> None:
    """Take in the samples by which the ring of the same series some samples later is ahead of this one."""
    size = len(ring)
    for i in range(seen, seen_now):
        slide(ring, ordered, i % size, min(i, size), ring_now[i % size])


@kernel
def fetch_window(rings: F64, ordered: F64, seen: I64, rings_now: F64, s: int) -> None:
    """Ask for the first half of the memory that series s will need; ``fetch_rest`` asks for the other half."""
    if s < rings.shape[0]:
        at = seen[s] % rings.shape[1]
        prefetch_cell(rings, s, at)
        prefetch_cell(rings_now, s, at)
        prefetch_row(ordered, s, ordered.shape[1] // 2)


@kernel
def fetch_rest(ordered: F64, s: int) -> None:
    """Ask for the other half: more requests at once than the processor keeps in flight would wait for each other."""
    prefetch_row(ordered, s, ordered.shape[1], ordered.shape[1] // 2)


@kernel
def median(ordered: F64, n: int) -> float:
    """Median of the n sorted values."""
    if n % 2:
        return float(ordered[n >> 1])
    return float((ordered[(n >> 1) - 1] + ordered[n >> 1]) / 2.0)


@kernel
def quantile(ordered: F64, n: int, q: float) -> float:
    """Quantile of the n sorted values with linear interpolation, as ``numpy.quantile`` does by default."""
    at = q * (n - 1)
    low = int(at)
    if low >= n - 1:
        return float(ordered[n - 1])
    return float(ordered[low] + (ordered[low + 1] - ordered[low]) * (at - low))


@kernel
def kth_deviation(ordered: F64, n: int, centre: float, k: int) -> float:
    """The k-th smallest (from 1) distance of the n sorted values from the centre.

    The k nearest are neighbours in the sorted array. Their leftmost position is where the distance on the left, which
    falls with the position, crosses the distance on the right, which rises: a binary search.
    """
    low, high = 0, n - k
    while low < high:
        middle = (low + high) >> 1
        if centre - ordered[middle] > ordered[middle + k - 1] - centre:
            low = middle + 1
        else:
            high = middle
    best = max(centre - ordered[low], ordered[low + k - 1] - centre)
    if low > 0:
        best = min(best, max(centre - ordered[low - 1], ordered[low + k - 2] - centre))
    return float(best)


@kernel
def median_deviation(ordered: F64, n: int, centre: float) -> float:
    """Median distance of the n sorted values from the centre."""
    if n % 2:
        return kth_deviation(ordered, n, centre, (n >> 1) + 1)
    return (kth_deviation(ordered, n, centre, n >> 1) + kth_deviation(ordered, n, centre, (n >> 1) + 1)) / 2.0


@kernel
def mean_deviation(ordered: F64, n: int, centre: float) -> float:
    """Mean distance of the n values from the centre."""
    total = 0.0
    for i in range(n):
        total += abs(ordered[i] - centre)
    return total / n


@kernel
def floored(spread: float, level: float, relative: float, absolute: float) -> float:
    """A spread that is never so small that a flat line's tiniest change counts."""
    return max(spread, relative * abs(level), absolute)


@kernel
def window_mad(ordered: F64, n: int, centre: float) -> float:
    """Standard deviation by the MAD; by the mean distance where more than half of the values are equal."""
    spread = 1.482602218505602 * median_deviation(ordered, n, centre)
    if spread == 0.0:
        spread = 1.2533141373155001 * mean_deviation(ordered, n, centre)
    return spread


@kernel
def rolling_mad(
    values: F64,
    hold: Bool,
    ring: F64,
    ordered: F64,
    seen: I64,
    ring_now: F64,
    seen_now: I64,
    least: int,
    relative: float,
    absolute: float,
    highest: float,
    score: F64,
    expected: F64,
    unit: F64,
) -> None:
    """Score each sample by its distance from the window's median in robust standard deviations, then take it in.

    Before that the windows take in what ``ring_now`` and ``seen_now``, the same series later, are ahead of them.
    """
    size = ring.shape[1]
    for s in range(values.shape[0]):
        fetch_window(ring, ordered, seen, ring_now, s + 1)
        follow_window(ring[s], ordered[s], seen[s], ring_now[s], seen_now[s])
        seen[s] = seen_now[s]
        fetch_rest(ordered, s + 1)
        for t in range(values.shape[1]):
            n = min(seen[s], size)
            x = values[s, t]
            if n > 0:
                centre = median(ordered[s], n)
                expected[s, t] = centre
                if n >= least:
                    spread = floored(window_mad(ordered[s], n, centre), centre, relative, absolute)
                    unit[s, t] = spread
                    if not np.isnan(x):
                        score[s, t] = min(abs(x - centre) / spread, highest)
            if not np.isnan(x) and not hold[s]:
                slide(ring[s], ordered[s], seen[s] % size, n, x)
                seen[s] += 1
