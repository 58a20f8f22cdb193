"""Stored seasonal profiles: made from STL at fit time, scored against out of sample, with a level that follows.

A sample costs some ten operations and a series its profiles (4 bytes a bin), whatever the fit cost. The profile of a
period is the season in the last cycle of the detrended history, with STL's robustness weights, smoothed over phases as
far as that helps to predict a cycle from those before it.

State of one series: ``periods`` [K] in samples (0: unused), ``profile`` [K, B] in units of ``unit``, ``line`` [4] =
level, spread, samples learned, 1 when fitted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.baseline import CLIP, MEDIAN_TO_SIGMA, follow_spread
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.stl import loess_at, middle, stl

F32 = npt.NDArray[np.float32]


@kernel
def fill_gaps(y: F64, period: int) -> int:
    """Replace missing values: by the same phase of the nearest cycle, else by a line; return how many were present."""
    n = len(y)
    present = 0
    missing = np.isnan(y)
    for i in range(n):
        if not missing[i]:
            present += 1
    if present == 0 or present == n:
        return present
    for i in range(n):
        if not missing[i]:
            continue
        for cycle in range(1, n // period + 1):
            if i - cycle * period >= 0 and not missing[i - cycle * period]:
                y[i] = y[i - cycle * period]
                break
            if i + cycle * period < n and not missing[i + cycle * period]:
                y[i] = y[i + cycle * period]
                break
    fill_line(y)
    return present


@kernel
def fill_line(y: F64) -> None:
    """Replace missing values by lines between the present ones, the ends by the nearest."""
    n = len(y)
    last = -1
    for i in range(n):
        if np.isnan(y[i]):
            continue
        for j in range(last + 1, i):
            y[j] = y[i] if last < 0 else y[last] + (y[i] - y[last]) * (j - last) / (i - last)
        last = i
    for j in range(last + 1, n):
        y[j] = y[last] if last >= 0 else 0.0


@kernel
def odd_above(x: float) -> int:
    """Smallest odd whole number not below x."""
    n = int(np.ceil(x))
    return n + 1 - n % 2


@kernel
def decompose(y: F64, period: int, seasonal: int, rounds: int, season: F64, trend: F64, robust: F64) -> None:
    """STL with the usual lengths for a period, jumps of a tenth of them, and ``rounds`` of robustness weights."""
    trend_length = odd_above(1.5 * period / (1.0 - 1.5 / seasonal))
    low = odd_above(period + 1.0)
    jumps = ((seasonal + 9) // 10, (trend_length + 9) // 10, (low + 9) // 10)
    inner = 5 if rounds == 0 else 2
    stl(y, period, (seasonal, trend_length, low), (1, 1, 1), jumps, inner, rounds, season, trend, robust)


@kernel
def smooth_circle(cycle: F64, width: int, out: F64) -> None:
    """Mean over 2·width + 1 neighbouring phases of a cycle."""
    n = len(cycle)
    total = 0.0
    for i in range(-width, width + 1):
        total += cycle[i % n]
    for i in range(n):
        out[i] = total / (2 * width + 1)
        total += cycle[(i + width + 1) % n] - cycle[(i - width) % n]


@kernel
def last_cycle(
    rest: F64, robust: F64, stop: int, period: int, seasonal: int, degree: int, out: F64, work: F64
) -> None:
    """The season in the cycle that ends before ``stop``: each phase's loess over the cycles so far, at the last one."""
    for phase in range(period):
        count = (stop - period + phase) // period + 1
        first = stop - period + phase - (count - 1) * period
        for i in range(count):
            work[0, i] = rest[first + i * period]
            work[1, i] = robust[first + i * period]
        size = min(seasonal, count)
        fit = loess_at(
            work[0], count, seasonal, degree, count - 1.0, count - size, count - 1, True, work[1], work[2]
        )
        out[phase] = middle(work[0, :count]) if np.isnan(fit) else fit


@kernel
def choose(rest: F64, robust: F64, period: int, seasonal: int, profile: F64, work: F64) -> float:
    """Fill ``profile`` with the last cycle's season and return the median error with which such a profile predicts.

    Degree of the loess and smoothing over phases are those that best predict the last cycle from the ones before it,
    so the error is out of sample.
    """
    n = len(rest)
    best, degree, width = np.inf, 0, 0
    cycle, smooth, errors = np.empty(period), np.empty(period), np.empty(period)
    for candidate in (0, 1):
        last_cycle(rest, robust, n - period, period, seasonal, candidate, cycle, work)
        for share in (0, 240, 120, 60):
            around = period // share if share else 0
            if share and not around:
                continue
            smooth_circle(cycle, around, smooth)
            for i in range(period):
                errors[i] = abs(rest[n - period + i] - smooth[i])
            error = middle(errors)
            if error < best:
                best, degree, width = error, candidate, around
    last_cycle(rest, robust, n, period, seasonal, degree, cycle, work)
    smooth_circle(cycle, width, profile)
    return float(best)


@kernel
def store_profile(smooth: F64, period: int, first: int, unit: float, profile: F32) -> None:
    """Put a cycle that begins at absolute position ``first`` into bins by phase, in spreads."""
    bins = min(period, len(profile))
    for b in range(bins):
        low = b * period // bins
        high = max(low + 1, (b + 1) * period // bins)
        total = 0.0
        for phase in range(low, high):
            total += smooth[(phase - first) % period]
        profile[b] = total / (high - low) / unit


@kernel
def fit_series(
    y: F64, first: int, periods: I64, seasonal: int, rounds: int, floors: F64, profile: F32, line: F64
) -> float:
    """Fit one gap-filled series whose first sample has absolute position ``first``; return the profile's unit."""
    n = len(y)
    season = np.zeros((len(periods), n))
    trend, robust, rest = np.empty(n), np.empty(n), np.empty(n)
    used = 0
    for k in range(len(periods)):
        used += 1 if periods[k] > 0 else 0
    for _ in range(2 if used > 1 else 1):
        for k in range(used):
            for i in range(n):
                rest[i] = y[i]
                for other in range(used):
                    if other != k:
                        rest[i] -= season[other, i]
            decompose(rest, periods[k], seasonal, rounds, season[k], trend, robust)
    error = 0.0
    work = np.empty((3, n // periods[0] + 2))
    smooth = np.empty((used, periods[used - 1]))
    for k in range(used):
        for i in range(n):
            rest[i] = y[i] - trend[i]
            for other in range(used):
                if other != k:
                    rest[i] -= season[other, i]
        error = choose(rest, robust, periods[k], seasonal, smooth[k], work)
    spread = max(error * MEDIAN_TO_SIGMA, floors[0] * abs(trend[n - 1]), floors[1])
    for k in range(used):
        p = periods[k]
        store_profile(smooth[k], p, (first + n - p) % p, spread, profile[k])
    line[0], line[1], line[2], line[3] = trend[n - 1], spread, n, 1.0
    return float(spread)


@kernel
def fit_level(y: F64, memory: float, rate: float, floors: F64, line: F64) -> None:
    """Learn level and spread of a series without a rhythm, sample by sample."""
    for i in range(len(y)):
        if not np.isnan(y[i]):
            follow(line, y[i] - line[0] if line[2] > 0.0 else 0.0, y[i], memory, rate, floors)


@kernel
def follow(line: F64, error: float, x: float, memory: float, rate: float, floors: F64) -> None:
    """Move level and spread towards a sample, by no more than a few spreads."""
    if line[2] == 0.0:
        line[0] = x
        line[2] = 1.0
        return
    spread = max(line[1], floors[0] * abs(line[0]), floors[1])
    bounded = error if line[2] < 8.0 else min(max(error, -CLIP * spread), CLIP * spread)
    line[1] = follow_spread(line[1], abs(error), floors[1], max(rate, 1.0 / line[2]))
    line[0] += bounded / min(line[2] + 1.0, memory)
    line[2] += 1.0


@kernel
def fit_all(
    grid: F64,
    first: int,
    periods: I64,
    seasonal: int,
    rounds: int,
    memories: F64,
    rates: F64,
    floors: F64,
    profile: F32,
    unit: F64,
    line: F64,
) -> None:
    """Fit every series of an even grid [N, n]; series with too little history for their period learn nothing."""
    for s in range(grid.shape[0]):
        y = grid[s]
        longest = 0
        for k in range(periods.shape[1]):
            longest = max(longest, periods[s, k])
        if longest == 0:
            fit_level(y, memories[s], rates[s], floors, line[s])
            line[s, 3] = 1.0
            continue
        start = 0
        while start < len(y) and np.isnan(y[start]):
            start += 1
        if len(y) - start < 2 * longest:
            continue
        z = y[start:].copy()
        if 2 * fill_gaps(z, periods[s, 0]) >= len(z):
            unit[s] = fit_series(z, first + start, periods[s], seasonal, rounds, floors, profile[s], line[s])


@kernel
def seasonal_sum(profile: F32, periods: I64, unit: float, position: int) -> float:
    """Sum of the profiles at an absolute position, with lines between bins that are wider than a sample."""
    total = 0.0
    for k in range(len(periods)):
        period = periods[k]
        if period <= 0:
            continue
        bins = min(period, profile.shape[1])
        if bins == period:
            total += profile[k, position % period]
            continue
        at = ((position % period) + 0.5) * bins / period - 0.5
        low = int(np.floor(at))
        share = at - low
        total += profile[k, low % bins] * (1.0 - share) + profile[k, (low + 1) % bins] * share
    return float(total * unit)


@kernel
def score_all(
    values: F64,
    positions: I64,
    hold: Bool,
    periods: I64,
    profile: F32,
    unit: F64,
    line: F64,
    memories: F64,
    rates: F64,
    floors: F64,
    least: int,
    highest: float,
    score: F64,
    expected: F64,
    band: F64,
) -> None:
    """Score each sample by its distance from profile + level in spreads, then let level and spread follow."""
    for s in range(values.shape[0]):
        fitted = line[s, 3] > 0.0
        for t in range(values.shape[1]):
            x = values[s, t]
            shape = seasonal_sum(profile[s], periods[s], unit[s], positions[t]) if fitted else 0.0
            normal = line[s, 0] + shape
            if line[s, 2] > 0.0:
                expected[s, t] = normal
            ready = fitted and line[s, 2] >= least
            if ready:
                band[s, t] = max(line[s, 1], floors[0] * abs(line[s, 0]), floors[1])
            if np.isnan(x):
                continue
            if ready:
                score[s, t] = min(abs(x - normal) / band[s, t], highest)
            if not hold[s]:
                follow(line[s], x - normal, x - shape, memories[s], rates[s], floors)
