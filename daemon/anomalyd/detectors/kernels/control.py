"""Rolling z-score and quartiles, and the control charts EWMA and CUSUM on residuals of the cheap expectation."""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.baseline import expect, fetch, spread_of, teach
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.order import (
    AHEAD,
    fetch_rest,
    fetch_window,
    floored,
    follow_window,
    mean_deviation,
    quantile,
    slide,
)
from anomalyd.detectors.kernels.prefetch import prefetch_cell

HIGHEST_SUM = 4.0
"""A CUSUM's sum ends at so many limits: far enough to be rare, near enough to return within some samples."""
DOUBT, PATIENCE = 0.5, 0.25
"""From this score on something may have shifted: the expectation does not follow it, for so much of its memory
in a week (once it knows the day): what comes back each day is to be learned."""
REGAINED = PATIENCE / 7.0
TRIM = 4.0
"""A sample enters the mean's window no farther than this many standard deviations from it."""


@kernel
def rolling_z(
    values: F64,
    hold: Bool,
    ring: F64,
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
    """Score each sample by its distance from the window's mean in standard deviations, then take it in, trimmed.

    Mean and deviation are summed anew for each sample: sums carried along would lose all digits after one huge value.
    ``ring_now`` and ``seen_now`` as in ``rolling_mad``.
    """
    size = ring.shape[1]
    for s in range(values.shape[0]):
        for i in range(seen[s], seen_now[s]):
            ring[s, i % size] = ring_now[s, i % size]
        seen[s] = seen_now[s]
        for t in range(values.shape[1]):
            n = min(seen[s], size)
            x = values[s, t]
            taken = x
            if n > 0:
                mean = 0.0
                for i in range(n):
                    mean += ring[s, i] / n
                expected[s, t] = mean
                if n >= least:
                    squares = 0.0
                    for i in range(n):
                        squares += (ring[s, i] - mean) ** 2 / n
                    spread = floored(np.sqrt(squares), mean, relative, absolute)
                    unit[s, t] = spread
                    if not np.isnan(x):
                        score[s, t] = min(abs(x - mean) / spread, highest)
                        taken = min(max(x, mean - TRIM * spread), mean + TRIM * spread)
            if not np.isnan(x) and not hold[s]:
                ring[s, seen[s] % size] = taken
                seen[s] += 1


@kernel
def rolling_quartiles(
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
    """Score each sample by its distance from the middle of the window's quartiles in interquartile ranges.

    ``ring_now`` and ``seen_now`` as in ``rolling_mad``.
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
                low, high = quantile(ordered[s], n, 0.25), quantile(ordered[s], n, 0.75)
                middle = low + (high - low) / 2.0
                expected[s, t] = middle
                if n >= least:
                    spread = high - low
                    if spread == 0.0:
                        spread = mean_deviation(ordered[s], n, middle)
                    spread = floored(spread, middle, relative, absolute)
                    unit[s, t] = spread
                    if not np.isnan(x):
                        score[s, t] = min(abs(x - middle) / spread, highest)
            if not np.isnan(x) and not hold[s]:
                slide(ring[s], ordered[s], seen[s] % size, n, x)
                seen[s] += 1


@kernel
def summed(total: float, step: float, limit: float) -> float:
    """A CUSUM's sum after a step. Above the limit it returns the faster the higher it is, and it has an end."""
    if step < 0.0 and total > limit:
        step *= (1.0 + 2.0 * total / limit) / 3.0
    return float(min(max(0.0, total + step), HIGHEST_SUM * limit))


@kernel
def chart(
    values: F64,
    civil: I64,
    hold: Bool,
    line: F64,
    day: F64,
    week: F64,
    memories: F64,
    floors: F64,
    sums: F64,
    cumulative: bool,
    weight: float,
    limit: float,
    settled: int,
    reach: float,
    score: F64,
    expected: F64,
) -> None:
    """Score each sample by the chart's statistic including it over the control limit; then the expectation learns it.

    The score of a fall is below 0. Where a sum says that something may have shifted, the expectation waits for a while.

    EWMA (``cumulative`` unset): ``weight`` is λ, ``sums`` [N, 3] the mean of residuals and how far its variance has
    come.
    CUSUM: ``weight`` is the allowance k, ``sums`` the upper and lower sum, and how much patience is spent.
    """
    for s in range(values.shape[0]):
        if values.shape[1]:
            fetch(line, day, week, s + AHEAD, civil[0])
            prefetch_cell(sums, s + AHEAD, 0)
        for t in range(values.shape[1]):
            x = values[s, t]
            if line[s, 2] > 0.0:
                expected[s, t] = expect(line[s], day[s], week[s], civil[t])
            if np.isnan(x):
                continue
            if line[s, 2] >= settled:
                z = (x - expected[s, t]) / spread_of(line[s], floors[0], floors[1])
                z = min(max(z, -reach), reach)
                if cumulative:
                    sums[s, 0] = summed(sums[s, 0], z - weight, limit)
                    sums[s, 1] = summed(sums[s, 1], -z - weight, limit)
                    score[s, t] = (sums[s, 0] if sums[s, 0] >= sums[s, 1] else -sums[s, 1]) / limit
                else:
                    sums[s, 0] += weight * (z - sums[s, 0])
                    sums[s, 1] = 1.0 - (1.0 - sums[s, 1]) * (1.0 - weight) ** 2
                    deviation = np.sqrt(weight / (2.0 - weight) * sums[s, 1])
                    score[s, t] = sums[s, 0] / (limit * deviation)
            in_doubt = cumulative and line[s, 2] >= memories[4] and abs(score[s, t]) > DOUBT
            waits = in_doubt and sums[s, 2] < PATIENCE * memories[0]
            sums[s, 2] = sums[s, 2] + 1.0 if waits else max(0.0, sums[s, 2] - REGAINED)
            if not hold[s] and not waits:
                teach(line[s], day[s], week[s], civil[t], x, memories, floors)
