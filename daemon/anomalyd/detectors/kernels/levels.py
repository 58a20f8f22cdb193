"""The usual level of the channels of one vector per time, by the time of day as far as the days agree about it.

Arrays, the first axis being the channel: ``middle`` and ``range`` [C, 2] (of the plain channel and of what the day's
rhythm leaves over) and ``profile`` [C, BINS].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64

Arrays = dict[str, npt.NDArray[Any]]

BINS = 48
"""Bins of the day in which the usual level may differ."""


def levels(values: F64, bins: I64, days: I64) -> Arrays:
    """Middle and range of each channel, plain and without the day's rhythm, and that rhythm."""
    some = values if values.shape[1] else np.zeros((len(values), 1))
    some = np.where(np.isnan(some).all(axis=1, keepdims=True), 0.0, some)
    profile = rhythm(some, bins, days) if values.shape[1] else np.zeros((len(values), BINS))
    rest = some - profile[:, bins] if values.shape[1] else some
    range_ = _range(some)
    ranges = np.stack([range_, np.maximum(_range(rest), 0.1 * range_)], axis=1)
    middle = np.stack([np.nanmean(some, axis=1), np.nanmean(rest, axis=1)], axis=1)
    return {"middle": middle, "range": np.where(ranges > 0, ranges, 1.0), "profile": profile}


def _range(some: F64) -> F64:
    """Deviation of each channel, at least a thousandth of its level and of its reach; 0 if it is always 0."""
    reach = np.nanmax(some, axis=1) - np.nanmin(some, axis=1)
    least = 1e-3 * np.maximum(np.abs(np.nanmedian(some, axis=1)), reach)
    found: F64 = np.maximum(np.nanstd(some, axis=1), least)
    return found


def rhythm(values: F64, bins: I64, days: I64) -> F64:
    """The day's profile [C, BINS], as far as the profile of even days shows in that of odd days."""
    both = [_profile(values, bins, days % 2 == odd) for odd in (0, 1)]
    whole = _profile(values, bins, np.ones(len(bins), np.bool_))
    shared = (both[0] * both[1]).mean(axis=1)
    sizes = np.sqrt((both[0] ** 2).mean(axis=1) * (both[1] ** 2).mean(axis=1))
    half = np.clip(np.divide(shared, sizes, out=np.zeros_like(shared), where=sizes > 0), 0.0, 1.0)
    told: F64 = whole * (2 * half / (1 + half))[:, None]  # Spearman and Brown: what both halves tell together
    return told


def _profile(values: F64, bins: I64, which: npt.NDArray[np.bool_]) -> F64:
    """Median of each channel in each bin of the chosen samples, smoothed around the clock, around 0; 0 if unknown."""
    found = np.full((len(values), BINS), np.nan)
    for b in range(BINS):
        part = values[:, which & (bins == b)]
        missing = np.isnan(part)
        known = ~missing.all(axis=1) if part.shape[1] else np.zeros(len(values), np.bool_)
        if known.any():
            # Where nothing is missing the plain median is the same at a fraction of the cost.
            middle = np.nanmedian if missing[known].any() else np.median
            found[known, b] = middle(part[known], axis=1)
    profile = np.stack([_around(row) for row in found])
    smooth = (np.roll(profile, 1, axis=1) + 2 * profile + np.roll(profile, -1, axis=1)) / 4
    centred: F64 = smooth - smooth.mean(axis=1, keepdims=True)
    return centred


def _around(row: F64) -> F64:
    """A channel's bins with unknown ones between their neighbours around the clock; 0 if none is known."""
    known = np.flatnonzero(~np.isnan(row))
    if not len(known):
        return np.zeros(BINS)
    filled: F64 = np.interp(np.arange(BINS), known, row[known], period=BINS)
    return filled


def usual_level(arrays: Arrays, bins: I64) -> F64:
    """What is usual of each channel at these bins of the day [C, T]."""
    found: F64 = arrays["middle"][:, 1:] + arrays["profile"][:, bins]
    return found
