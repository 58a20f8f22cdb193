"""``auto`` over the channels of one vector per time: seven views of the vector, their tails in the history, one score.

Views: the mean of all and of the five largest of the channels' standardised deviations; the distance to the fifth
nearest vector of the history; what principal components leave over, four times (standardised by mean and deviation or
by median and quartiles, limited to 5 or 20, keeping half or 95 % of the variance). Each view's surprise is its Hill
tail in the history it was fitted on; their mean is held and fades, since what is wrong with a machine lasts.

All arrays of the state are shared by the channels, except ``middle`` and ``range`` [C, 2] (mean and deviation; median
and robust deviation).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64
from anomalyd.detectors.kernels.jit import kernel

Arrays = dict[str, npt.NDArray[Any]]

RESIDUALS = ((0, 5.0, 0.5), (0, 5.0, 0.95), (0, 20.0, 0.95), (1, 20.0, 0.95))
"""Views by principal components: which standardisation, limit of a deviation, share of variance taken out."""
VIEWS = 3 + len(RESIDUALS)
WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""What each view counts for in the mean."""
BOOK = 3000
ROWS = 8000
NEIGHBOURS = 5
GRID = 512
"""Quantiles that stand for the history's scores of a view."""
TAIL_SHARE = 0.02
HILL_SHAPE, HILL_WEIGHT = 0.3, 10.0
FADES = 0.985
LARGEST = 1e3
TINY = 1e-9


@kernel
def fifth_nearest(vectors: Any, book: Any) -> Any:
    """Distance [T] of each vector [T, C] to its fifth nearest row of the book [R, C]."""
    samples, width = vectors.shape
    out = np.empty(samples)
    best = np.empty(NEIGHBOURS, np.float32)
    for t in range(samples):
        best[:] = np.float32(3e38)
        for r in range(len(book)):
            d = np.float32(0.0)
            for c in range(width):
                z = vectors[t, c] - book[r, c]
                d += z * z
                if d >= best[NEIGHBOURS - 1]:
                    break
            if d < best[NEIGHBOURS - 1]:
                k = NEIGHBOURS - 1
                while k > 0 and best[k - 1] > d:
                    best[k] = best[k - 1]
                    k -= 1
                best[k] = d
        out[t] = math.sqrt(best[NEIGHBOURS - 1])
    return out


@kernel
def hold_and_fade(values: Any, held: float) -> Any:
    """Running maximum that fades, started at ``held``; missing values count as 0."""
    out = np.empty(len(values))
    for t in range(len(values)):
        x = 0.0 if math.isnan(values[t]) else values[t]
        held = max(x, FADES * held)
        out[t] = held
    return out


def fit_joint(values: F64) -> Arrays:
    """Learn from history [C, T]; NaN allowed. The result is what ``views`` and ``surprise`` need."""
    channels = len(values)
    arrays: Arrays = _scales(values) | {
        "remove": np.zeros((len(RESIDUALS), channels, channels)),
        "offset": np.zeros((len(RESIDUALS), channels)),
        "book": np.zeros((0, channels), np.float32),
        "grid": np.zeros((VIEWS, GRID)),
        "shape": np.ones(VIEWS),
        "held": np.zeros(1),
    }
    if values.shape[1] < 2:
        return arrays
    for k, (how, limit, share) in enumerate(RESIDUALS):
        z = np.clip(standardised(arrays, values, how), -limit, limit)[:: max(1, values.shape[1] // ROWS)]
        offset = z.mean(axis=0)
        _, strength, directions = np.linalg.svd(z - offset, full_matrices=False)
        kept = np.cumsum(strength**2) / max(float((strength**2).sum()), TINY)
        first = directions[: min(int(np.searchsorted(kept, share)) + 1, max(1, channels - 1))]
        arrays["remove"][k], arrays["offset"][k] = first.T @ first, offset
    book = np.clip(standardised(arrays, values, 0), -10, 10)[:: max(1, values.shape[1] // BOOK)]
    arrays["book"] = np.ascontiguousarray(book, np.float32)
    past = np.sort(views(arrays, values), axis=1)
    samples = past.shape[1]
    arrays["grid"] = past[:, ((np.arange(GRID) + 0.5) / GRID * samples).astype(np.int64)]
    for k in range(VIEWS):
        count = max(1, int(samples * TAIL_SHARE))
        edge = max(float(past[k, -count - 1] if samples > count else past[k, 0]), TINY)
        excess = np.log(np.maximum(past[k, -count:], edge) / edge).sum()
        arrays["shape"][k] = (excess + HILL_WEIGHT * HILL_SHAPE) / (count + HILL_WEIGHT)
        arrays["grid"][k, -1] = edge  # the last place of the grid is where the tail begins
    return arrays


def _scales(values: F64) -> Arrays:
    """Middle and range of each channel, both ways; a channel that never moved gets the range of one."""
    some = values if values.shape[1] else np.zeros((len(values), 1))
    some = np.where(np.isnan(some).all(axis=1, keepdims=True), 0.0, some)
    mean, deviation = np.nanmean(some, axis=1), np.nanstd(some, axis=1)
    low, median, high = np.nanquantile(some, [0.25, 0.5, 0.75], axis=1)
    robust = np.maximum((high - low) / 1.35, 0.3 * deviation)
    least = 1e-3 * np.maximum(np.abs(median), np.nanmax(some, axis=1) - np.nanmin(some, axis=1))
    ranges = np.maximum(np.stack([deviation, robust], axis=1), least[:, None])
    return {"middle": np.stack([mean, median], axis=1), "range": np.where(ranges > 0, ranges, 1.0)}


def standardised(arrays: Arrays, values: F64, how: int) -> F64:
    """Deviations [T, C] of the channels in their own ranges; 0 where missing."""
    z = (values - arrays["middle"][:, how, None]) / arrays["range"][:, how, None]
    return np.ascontiguousarray(np.nan_to_num(np.clip(z, -LARGEST, LARGEST)).T)


def views(arrays: Arrays, values: F64) -> F64:
    """The views [VIEWS, T] of the vectors in values [C, T]."""
    by = (standardised(arrays, values, 0), standardised(arrays, values, 1))
    size = np.abs(by[0])
    top = np.sort(np.minimum(size, 50.0), axis=1)[:, -5:]
    rows = [np.minimum(size, 10.0).mean(axis=1), top.mean(axis=1)]
    rows.append(fifth_nearest(np.clip(by[0], -10, 10).astype(np.float32), arrays["book"]))
    for k, (how, limit, _) in enumerate(RESIDUALS):
        z = np.clip(by[how], -limit, limit) - arrays["offset"][k]
        # Rounded, so that the last bits of a product of matrices, which depend on its size, are no score.
        rows.append(np.round(np.sqrt(((z - z @ arrays["remove"][k]) ** 2).mean(axis=1)), 9))
    all_views: F64 = np.minimum(np.stack(rows), 1e12)
    return all_views


def surprise(arrays: Arrays, values: F64) -> F64:
    """Mean surprise [T] of the views; NaN where every channel is missing."""
    mean: F64 = np.minimum(np.array(WEIGHTS) @ surprises(arrays, values) / sum(WEIGHTS), 300.0)
    mean[np.isnan(values).all(axis=0)] = np.nan
    return mean


def surprises(arrays: Arrays, values: F64) -> F64:
    """Surprise [VIEWS, T] of each view."""
    seen = views(arrays, values)
    found = np.zeros_like(seen)
    for k, row in enumerate(seen):
        grid = arrays["grid"][k]
        edge = grid[-1]
        above = 1.0 - np.searchsorted(grid[:-1], row) / GRID
        body = -np.log10(np.clip(above, TAIL_SHARE, 1.0))
        beyond = np.log(np.maximum(row, edge) / edge) / arrays["shape"][k] / math.log(10.0)
        found[k] = np.where(row > edge, -math.log10(TAIL_SHARE) + beyond, body)
    return found
