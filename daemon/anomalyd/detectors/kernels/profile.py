"""Stored seasonal profiles: made from STL at fit time, scored against out of sample, with a level that follows.

A sample costs some ten operations and a series its profiles (4 bytes a bin), whatever the fit cost. The profile of a
period is the season in the last cycle of the detrended history, with STL's robustness weights, smoothed over phases as
far as that helps to predict a cycle from those before it.

A level that follows hides what moves slowly. So a sample is also judged by how far the level, and the last dozen
samples with it, have moved since the fit, against how far the level moved in as long a time (a ``lag``) over the
history: its slope against its own past.

State of one series: ``periods`` [K] in samples (0: unused), ``profile`` [K, B] in units of ``unit``, ``line`` [LINE].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.baseline import CLIP, MEDIAN_TO_SIGMA, follow_spread
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.lift import FEWEST_CYCLES, fill_gaps, lift_incidents
from anomalyd.detectors.kernels.stl import loess_at, middle, stl

F32 = npt.NDArray[np.float32]

LEVEL, SPREAD, LEARNED, FITTED, ANCHOR, WANDER, SHORT, SINCE = range(8)
LINE = 8
"""Slots of ``line``: level; spread; samples learned; 1 when fitted; the level at the fit; how far it usually moves in a
lag (0: not known); mean of the last dozen samples; samples learned at the fit."""

SHARP = 15.0
"""Errors of a profile count up to so many times the middle one of the plainest."""
AGREES = 1.5
"""A level that differs from the newest samples' by more spreads than this is not theirs."""
NEWEST = 12
WANDER_SHARE, WANDER_FLOOR = 0.9, 0.25
"""A level's usual move is this quantile of its moves over the history, and no less than this many spreads."""
FAR, WORTH = 5.0, 2.0
"""A move of so many usual ones is told, each as so many spreads. Less is nothing: what creeps would teach the tail."""
NO_PERIODS = np.zeros(1, np.int64)
DOZEN = 12.0
SHORT_CLIP = 8.0


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
    so the error is out of sample. Best is the least mean of errors that are limited: a short job that smoothing would
    blur must tell, a spike in the last cycle must not.
    """
    n = len(rest)
    best, usual, limit, degree, width = np.inf, 0.0, 0.0, 0, 0
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
            limit = limit if limit > 0.0 else SHARP * error
            limited = float(np.mean(np.minimum(errors, limit))) if limit > 0.0 else float(np.mean(errors))
            if limited < best:
                best, usual, degree, width = limited, error, candidate, around
    last_cycle(rest, robust, n, period, seasonal, degree, cycle, work)
    smooth_circle(cycle, width, profile)
    return float(usual)


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
def newest_level(given: F64, smooth: F64, periods: I64, memory: float, spread: float, level: float) -> float:
    """``level`` where the newest samples, half of what a level remembers, agree with it; else their middle.

    What is at the end of a history and no gap is normal, however far from the trend: a level that was accepted, say.
    """
    n = len(given)
    longest = max(NEWEST, int(memory / 2))
    rest = np.empty(longest)
    count = 0
    for back in range(1, n + 1):
        if count == longest:
            break
        if np.isnan(given[n - back]):
            continue
        rest[count] = given[n - back]
        for k in range(smooth.shape[0]):
            rest[count] -= smooth[k, -back % periods[k]]
        count += 1
    if count < longest:
        return level
    newest = middle(rest)
    return newest if abs(newest - level) > AGREES * spread else level


@kernel
def usual_move(levels: F64, lag: int, spread: float) -> float:
    """How far a level usually moves in ``lag`` samples, from its past; 0 where that is too short to tell."""
    each = max(1, lag // 8)
    count = (len(levels) - lag) // each
    if len(levels) < 4 * lag or count < 4:
        return 0.0
    moves = np.empty(count)
    for i in range(count):
        moves[i] = abs(levels[i * each + lag] - levels[i * each])
    moves.sort()
    return float(max(moves[int(WANDER_SHARE * (count - 1))], WANDER_FLOOR * spread))


@kernel
def followed(y: F64, season: F64, memory: float, most: float, levels: F64) -> None:
    """The level as it would have followed the samples between fits, into ``levels``, which hold the trend."""
    level = levels[0]
    for i in range(len(y)):
        rest = y[i] - level
        for k in range(season.shape[0]):
            rest -= season[k, i]
        level += min(max(rest, -most), most) / memory
        levels[i] = level


@kernel
def anchor(line: F64, levels: F64, lag: int) -> None:
    """From here on it counts how far the level moves; ``levels`` are its past."""
    line[ANCHOR] = line[SHORT] = line[LEVEL]
    line[SINCE] = line[LEARNED]
    line[WANDER] = usual_move(levels, lag, line[SPREAD])


@kernel
def moved(line: F64, lag: int) -> float:
    """Score of how far the level has moved since the fit, before the sample; 0 unless that is far.

    The newest samples must be at least half as far, in an episode too: then the level stays where it was.
    """
    level, short = line[LEVEL] - line[ANCHOR], line[SHORT] - line[ANCHOR]
    if line[WANDER] <= 0.0 or level * short <= 0.0:
        return 0.0
    far = FAR * line[WANDER] * max(1.0, (line[LEARNED] - line[SINCE]) / lag)
    if abs(level) < far or abs(short) < far / 2.0:
        return 0.0
    return float(WORTH * FAR * abs(level) / far)


@kernel
def follow_short(line: F64, x: float, spread: float) -> None:
    """Move the mean of the newest samples, held or not, by no more than an odd sample may."""
    error = min(max(x - line[SHORT], -SHORT_CLIP * spread), SHORT_CLIP * spread)
    line[SHORT] += error / DOZEN


@kernel
def fit_series(
    y: F64, given: F64, first: int, periods: I64, seasonal: int, rounds: int, floors: F64, profile: F32, line: F64
) -> float:
    """Fit one gap-filled series whose first sample has absolute position ``first``; return the profile's unit.

    ``given`` are the samples with their gaps.
    """
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
    line[LEVEL] = newest_level(given, smooth, periods, 0.25 * periods[0], spread, trend[n - 1])
    line[SPREAD], line[LEARNED], line[FITTED] = spread, n, 1.0
    followed(y, season[:used], 0.25 * periods[0], CLIP * spread, trend)
    anchor(line, trend, periods[0])
    return float(spread)


@kernel
def fit_level(y: F64, memory: float, rate: float, floors: F64, line: F64) -> None:
    """Learn level and spread of a series without a rhythm, sample by sample."""
    levels = np.empty(len(y))
    for i in range(len(y)):
        if not np.isnan(y[i]):
            follow(line, y[i] - line[LEVEL] if line[LEARNED] > 0.0 else 0.0, y[i], memory, rate, floors)
        levels[i] = line[LEVEL]
    line[FITTED] = 1.0
    line[LEVEL] = newest_level(y, np.empty((0, 1)), NO_PERIODS, memory / 4.0, spread_now(line, floors), line[LEVEL])
    learned = int(min(line[LEARNED], len(y)))
    anchor(line, levels[len(y) - learned :], int(4.0 * memory))


@kernel
def follow(line: F64, error: float, x: float, memory: float, rate: float, floors: F64) -> None:
    """Move level and spread towards a sample, by no more than a few spreads."""
    if line[LEARNED] == 0.0:
        line[LEVEL] = x
        line[LEARNED] = 1.0
        return
    spread = spread_now(line, floors)
    bounded = error if line[LEARNED] < 8.0 else min(max(error, -CLIP * spread), CLIP * spread)
    line[SPREAD] = follow_spread(line[SPREAD], abs(error), floors[1], max(rate, 1.0 / line[LEARNED]))
    line[LEVEL] += bounded / min(line[LEARNED] + 1.0, memory)
    line[LEARNED] += 1.0


@kernel
def spread_now(line: F64, floors: F64) -> float:
    """The spread with its floors."""
    return float(max(line[SPREAD], floors[0] * abs(line[LEVEL]), floors[1]))


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
            continue
        start = 0
        while start < len(y) and np.isnan(y[start]):
            start += 1
        if len(y) - start < 2 * longest:
            continue
        z = y[start:].copy()
        lift_incidents(z, longest if len(z) >= FEWEST_CYCLES * longest else periods[s, 0])
        if 2 * fill_gaps(z, periods[s, 0]) >= len(z):
            unit[s] = fit_series(
                z, y[start:], first + start, periods[s], seasonal, rounds, floors, profile[s], line[s]
            )


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
    """Score each sample by its distance from profile + level in spreads, then let level and spread follow.

    Where the level has moved farther than it does (``moved``) the distance is that from where it was at the fit.
    """
    for s in range(values.shape[0]):
        own = line[s]
        lag = int(4.0 * memories[s])
        fitted = own[FITTED] > 0.0
        for t in range(values.shape[1]):
            x = values[s, t]
            shape = seasonal_sum(profile[s], periods[s], unit[s], positions[t]) if fitted else 0.0
            slow = moved(own, lag)
            normal = (own[ANCHOR] if slow > 0.0 else own[LEVEL]) + shape
            if own[LEARNED] > 0.0:
                expected[s, t] = normal
            ready = fitted and own[LEARNED] >= least
            spread = spread_now(own, floors)
            if ready:
                band[s, t] = min(spread, abs(own[SHORT] - own[ANCHOR]) / slow) if slow > 0.0 else spread
            if np.isnan(x):
                continue
            if ready:
                score[s, t] = min(max(abs(x - normal) / spread, slow), highest)
            if fitted:
                follow_short(own, x - shape, spread)
            if not hold[s]:
                follow(own, x - own[LEVEL] - shape, x - shape, memories[s], rates[s], floors)
