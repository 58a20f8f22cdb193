"""Kernels of the tail calibration: sorted rings, generalised-Pareto tails, probabilities and their inverse.

One series' past scores are ``ring`` (in the order they came, a circle of W) and ``ordered`` (the same values sorted).
Above the 98 % quantile u the tail is generalised Pareto: P(S > s) = share above u * (1 + shape * (s - u) / scale) **
(-1 / shape). Shape by probability-weighted moments (Hosking & Wallis 1987), shrunk to a prior with the weight of some
exceedances, because forty exceedances alone do not tell a shape. Scale from the mean excess at that shape.

Everything here is finite for finite input: the shape is bounded away from 0 and 1, scales from 0.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

TAIL_SHARE = 0.02
PRIOR_SHAPE = 0.25
PRIOR_WEIGHT = 40.0
LOWEST_SHAPE = 0.02
HIGHEST_SHAPE = 0.9
LARGEST = 1e30
"""Scores are clipped here: it fits float32 with room for sums."""


@njit(cache=True, nogil=True, inline="always")
def lower_bound(ordered, n, x):  # type: ignore[no-untyped-def]
    """Index of the first of ``ordered[:n]`` that is not less than x."""
    low, high = 0, n
    while low < high:
        middle = (low + high) >> 1
        if ordered[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def remember(ring, ordered, n, seen, x):  # type: ignore[no-untyped-def]
    """Put x into the ring and the sorted copy; return the new number of values held. ``seen`` counts all puts ever."""
    capacity = len(ring)
    slot = seen % capacity
    at = lower_bound(ordered, n, x)
    if n < capacity:
        for i in range(n, at, -1):
            ordered[i] = ordered[i - 1]
        ordered[at] = x
        ring[slot] = x
        return n + 1
    gone = lower_bound(ordered, n, ring[slot])
    if gone < at:
        at -= 1
        for i in range(gone, at):
            ordered[i] = ordered[i + 1]
    else:
        for i in range(gone, at, -1):
            ordered[i] = ordered[i - 1]
    ordered[at] = x
    ring[slot] = x
    return n


@njit(cache=True, nogil=True)
def fit_tail(ordered, n):  # type: ignore[no-untyped-def]
    """Return (number above u, u, scale, shape) of the tail of ``ordered[:n]``; n at least 2."""
    k = max(1, math.ceil(TAIL_SHARE * n))
    u = float(ordered[n - k - 1])
    mean, weighted = 0.0, 0.0
    for i in range(k):
        excess = float(ordered[n - k + i]) - u
        mean += excess
        weighted += excess * (1.0 - (i + 0.65) / k)
    mean /= k
    weighted /= k
    spread = mean - 2.0 * weighted
    shape = 2.0 - mean / spread if spread > 1e-12 * mean and mean > 0.0 else PRIOR_SHAPE
    shape = min(max(shape, -0.5), HIGHEST_SHAPE)
    shape = (k * shape + PRIOR_WEIGHT * PRIOR_SHAPE) / (k + PRIOR_WEIGHT)
    shape = min(max(shape, LOWEST_SHAPE), HIGHEST_SHAPE)
    # A past without excess says nothing of scale: take a small share of u, and of one unit where u is nothing either.
    scale = max(mean * (1.0 - shape), 1e-3 * abs(u), 1e-6)
    return k, u, scale, shape


@njit(cache=True, nogil=True, inline="always")
def tail_surprise(ordered, n, k, u, scale, shape, s):  # type: ignore[no-untyped-def]
    """-log10 of the probability of a score of at least s, given a fitted tail."""
    if s <= u:
        above = n - lower_bound(ordered, n, s)
        return max(0.0, -math.log10(min(1.0, (above + 0.5) / (n + 1.0))))
    beyond = math.log1p(shape * (s - u) / scale) / shape
    return -math.log10((k + 0.5) / (n + 1.0)) + beyond / math.log(10.0)


@njit(cache=True, nogil=True, inline="always")
def tail_score(ordered, n, k, u, scale, shape, surprise):  # type: ignore[no-untyped-def]
    """The score whose surprise is ``surprise``: the inverse of ``tail_surprise``."""
    at_u = -math.log10((k + 0.5) / (n + 1.0))
    if surprise > at_u:
        beyond = min((surprise - at_u) * math.log(10.0) * shape, 60.0)
        return min(u + scale * math.expm1(beyond) / shape, LARGEST)
    above = 10.0 ** (-surprise) * (n + 1.0) - 0.5
    index = n - math.ceil(above)
    return float(ordered[min(max(index, 0), n - 1)])


@njit(cache=True, nogil=True)
def calibrate_block(raw, hold, cut, fewest, ring, ordered, held, seen):  # type: ignore[no-untyped-def]
    """Surprise of each raw score against the past of its series, and the score at which the surprise is ``cut``.

    Each score is judged before it is remembered; a series with ``hold`` is judged and not remembered. NaN in, NaN out.
    The four state arrays are changed in place.
    """
    series, samples = raw.shape
    surprise = np.full((series, samples), np.nan)
    bound = np.full((series, samples), np.nan)
    for i in range(series):
        n = held[i]
        k, u, scale, shape = 0, 0.0, 1.0, PRIOR_SHAPE
        stale = True
        for t in range(samples):
            if n >= fewest and stale:
                k, u, scale, shape = fit_tail(ordered[i], n)
                stale = False
            if n >= fewest:
                bound[i, t] = tail_score(ordered[i], n, k, u, scale, shape, cut)
            s = raw[i, t]
            if math.isnan(s):
                continue
            s = np.float64(np.float32(min(max(s, 0.0), LARGEST)))
            if n >= fewest:
                surprise[i, t] = tail_surprise(ordered[i], n, k, u, scale, shape, s)
            if not hold[i]:
                n = remember(ring[i], ordered[i], n, seen[i], np.float32(s))
                seen[i] += 1
                stale = True
        held[i] = n
    return surprise, bound
