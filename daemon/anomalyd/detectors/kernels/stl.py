"""STL: seasonal-trend decomposition by loess, for evenly spaced series.

Cleveland, Cleveland, McRae and Terpenning, STL: A Seasonal-Trend Decomposition Procedure Based on Loess (1990). The
decomposition equals statsmodels' with the same lengths, degrees and jumps to 1e-8. Loess is evaluated at every
``jump``-th point and interpolated between, as the paper proposes and the Fortran original does by default.

Positions count from 0. ``weights`` and the other work arrays are passed in: nothing is allocated inside the loops.
"""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64
from anomalyd.detectors.kernels.jit import kernel


@kernel
def select(values: F64, k: int) -> float:
    """The k-th smallest value (from 0), reordering the array around it (Hoare's quickselect)."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return float(values[k])


@kernel
def middle(values: F64) -> float:
    """Median of the values, which are reordered."""
    n = len(values)
    upper = select(values, n >> 1)
    if n % 2:
        return upper
    lower = values[0]
    for i in range(1, n >> 1):
        lower = max(lower, values[i])
    return float((lower + upper) / 2.0)


@kernel
def loess_at(
    y: F64, n: int, length: int, degree: int, x: float, left: int, right: int, use: bool, robust: F64, weights: F64
) -> float:
    """Local fit at position x from the points ``left`` to ``right`` (inclusive); NaN where all weights are zero."""
    reach = max(x - left, right - x)
    if length > n:
        reach += (length - n) // 2
    near, far = 0.001 * reach, 0.999 * reach
    total = 0.0
    for j in range(left, right + 1):
        distance = abs(j - x)
        weight = 0.0
        if distance <= far:
            weight = 1.0
            if distance > near:
                ratio = distance / reach
                cube = 1.0 - ratio * ratio * ratio
                weight = cube * cube * cube
            if use:
                weight *= robust[j]
            total += weight
        weights[j] = weight
    if total <= 0.0:
        return np.nan
    mean = 0.0
    value = 0.0
    for j in range(left, right + 1):
        weights[j] /= total
        mean += weights[j] * j
        value += weights[j] * y[j]
    if reach <= 0.0 or degree == 0:
        return float(value)
    spread = 0.0
    slope = 0.0
    for j in range(left, right + 1):
        part = weights[j] * (j - mean)
        spread += part * (j - mean)
        slope += part * y[j]
    if np.sqrt(spread) > 0.001 * (n - 1.0):
        value += (x - mean) / spread * slope
    return float(value)


@kernel
def window_at(i: int, n: int, length: int, jump: int) -> int:
    """First point of the window that the fit at position i uses."""
    if length >= n:
        return 0
    half = (length + 2) // 2 if jump == 1 else (length + 1) // 2
    if jump == 1:
        return max(0, min(i + 1 - half, n - length))
    if i + 1 < half:
        return 0
    if i + 1 >= n - half + 1:
        return n - length
    return i + 1 - half


@kernel
def loess(
    y: F64, n: int, length: int, degree: int, jump: int, use: bool, robust: F64, out: F64, weights: F64
) -> None:
    """Smooth the first n values of y into ``out``: fits at every ``jump``-th point and at the last, lines between."""
    if n < 2:
        out[0] = y[0]
        return
    jump = min(jump, n - 1)
    size = min(length, n)
    left = 0
    last = 0
    for i in range(0, n, jump):
        left = window_at(i, n, length, jump)
        fit = loess_at(y, n, length, degree, float(i), left, left + size - 1, use, robust, weights)
        out[i] = y[i] if np.isnan(fit) else fit
        if i > 0:
            rise = (out[i] - out[last]) / jump
            for j in range(last + 1, i):
                out[j] = out[last] + rise * (j - last)
        last = i
    if last < n - 1:
        fit = loess_at(y, n, length, degree, n - 1.0, left, left + size - 1, use, robust, weights)
        out[n - 1] = y[n - 1] if np.isnan(fit) else fit
        rise = (out[n - 1] - out[last]) / (n - 1 - last)
        for j in range(last + 1, n - 1):
            out[j] = out[last] + rise * (j - last)


@kernel
def moving_mean(x: F64, n: int, length: int, out: F64) -> int:
    """Means of ``length`` neighbours of the first n values; returns how many there are."""
    total = 0.0
    for i in range(length):
        total += x[i]
    out[0] = total / length
    for i in range(1, n - length + 1):
        total += x[i + length - 1] - x[i - 1]
        out[i] = total / length
    return n - length + 1


@kernel
def smooth_cycles(
    y: F64, period: int, length: int, degree: int, jump: int, use: bool, robust: F64, out: F64, work: F64
) -> None:
    """Smooth each phase's subseries over the cycles, one cycle further at both ends; ``out`` has n + 2 periods."""
    n = len(y)
    values, smooth, trust, weights = work[0], work[1], work[2], work[3]
    for phase in range(period):
        count = (n - phase - 1) // period + 1
        for i in range(count):
            values[i] = y[i * period + phase]
            if use:
                trust[i] = robust[i * period + phase]
        loess(values, count, length, degree, jump, use, trust, smooth[1:], weights)
        size = min(length, count)
        first = loess_at(values, count, length, degree, -1.0, 0, size - 1, use, trust, weights)
        smooth[0] = smooth[1] if np.isnan(first) else first
        final = loess_at(
            values, count, length, degree, float(count), count - size, count - 1, use, trust, weights
        )
        smooth[count + 1] = smooth[count] if np.isnan(final) else final
        for i in range(count + 2):
            out[i * period + phase] = smooth[i]


@kernel
def bisquare(y: F64, season: F64, trend: F64, robust: F64, work: F64) -> None:
    """Robustness weights from the remainder: 0 beyond six median distances, 1 near zero."""
    n = len(y)
    for i in range(n):
        robust[i] = abs(y[i] - season[i] - trend[i])
        work[i] = robust[i]
    limit = 6.0 * middle(work[:n])
    for i in range(n):
        if limit == 0.0 or robust[i] <= 0.001 * limit:
            robust[i] = 1.0
        elif robust[i] <= 0.999 * limit:
            ratio = robust[i] / limit
            robust[i] = (1.0 - ratio * ratio) ** 2
        else:
            robust[i] = 0.0


@kernel
def stl(
    y: F64,
    period: int,
    lengths: tuple[int, int, int],
    degrees: tuple[int, int, int],
    jumps: tuple[int, int, int],
    inner: int,
    outer: int,
    season: F64,
    trend: F64,
    robust: F64,
) -> None:
    """Decompose y [n] into ``season`` and ``trend`` [n]; the triples are for the seasonal, trend and low-pass loess.

    ``outer`` rounds of robustness weights follow the first pass of ``inner`` rounds; the weights end in ``robust``.
    """
    n = len(y)
    rest = np.empty(n)
    cycles = np.empty(n + 2 * period)
    low = np.empty(n + 2 * period)
    other = np.empty(n + 2 * period)
    work = np.empty((4, max(n, n // period + 4) + 2))
    for i in range(n):
        season[i] = 0.0
        trend[i] = 0.0
        robust[i] = 1.0
    for round_ in range(outer + 1):
        use = round_ > 0
        for _ in range(inner):
            for i in range(n):
                rest[i] = y[i] - trend[i]
            smooth_cycles(rest, period, lengths[0], degrees[0], jumps[0], use, robust, cycles, work)
            left = moving_mean(cycles, n + 2 * period, period, low)
            left = moving_mean(low, left, period, other)
            left = moving_mean(other, left, 3, low)
            loess(low, n, lengths[2], degrees[2], jumps[2], False, robust, other, work[3])
            for i in range(n):
                season[i] = cycles[period + i] - other[i]
                rest[i] = y[i] - season[i]
            loess(rest, n, lengths[1], degrees[1], jumps[1], use, robust, trend, work[3])
        if round_ < outer:
            bisquare(y, season, trend, robust, work[0])
