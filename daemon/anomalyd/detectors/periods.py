"""Periods of a series by autocorrelation, for detectors that are not told one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64
from anomalyd.clock import DAY_MS, HOUR_MS, WEEK_MS

SHORTEST = 4
"""A period of fewer samples is noise or aliasing."""
LEAST_CORRELATION = 0.3
CIVIL = (HOUR_MS, DAY_MS, WEEK_MS)


def autocorrelation(values: F64) -> F64:
    """Autocorrelation [T] of a series with gaps: over the pairs present, outliers limited to five robust deviations.

    All zero for a constant series or one with fewer than two samples.
    """
    n = len(values)
    present = ~np.isnan(values)
    if present.sum() < 2:
        return np.zeros(n)
    centre = np.median(values[present])
    spread = 1.4826 * np.median(np.abs(values[present] - centre))
    if spread == 0:
        spread = np.abs(values[present] - centre).mean()
    if spread == 0:
        return np.zeros(n)
    x = np.where(present, np.clip((np.where(present, values, centre) - centre) / spread, -5, 5), 0.0)
    x = np.where(present, x - x[present].mean() - _slope(x, present), 0.0)
    size = 1 << (2 * n - 1).bit_length()
    pairs = np.fft.irfft(np.abs(np.fft.rfft(present.astype(float), size)) ** 2, size)[:n]
    products = np.fft.irfft(np.abs(np.fft.rfft(x, size)) ** 2, size)[:n]
    covariance = products / np.maximum(np.round(pairs), 1)
    return covariance / covariance[0] if covariance[0] > 1e-12 else np.zeros(n)


def _slope(x: F64, present: npt.NDArray[np.bool_]) -> F64:
    """The straight line through the samples present, as deviations from its mean there."""
    t = np.arange(len(x), dtype=float)
    t -= t[present].mean()
    variance = (t[present] ** 2).sum()
    line: F64 = t * ((t[present] * x[present]).sum() / variance) if variance > 0 else np.zeros(len(x))
    return line


def find_periods(values: F64, step_ms: int, most: int = 2) -> tuple[int, ...]:
    """Periods in samples, shortest first, of which at least two cycles were seen; empty where there is no rhythm.

    The first is the lag of the highest peak of the autocorrelation (the smallest lag among nearly equal peaks, so a day
    and not two), snapped to an hour, day or week within 2 %. A week is added to a shorter period when it explains
    clearly more, and a day to a week when it explains something.
    """
    r = autocorrelation(values)
    furthest = len(r) // 2
    if furthest <= SHORTEST:
        return ()
    inner = r[1:furthest]
    peaks = np.flatnonzero((inner[1:-1] > inner[:-2]) & (inner[1:-1] >= inner[2:])) + 2
    dips = np.flatnonzero(inner < 0.5 * inner[0]) if len(inner) else np.array([])
    after = int(dips[0]) + 1 if len(dips) else furthest
    peaks = peaks[(peaks >= max(SHORTEST, after)) & (r[peaks] >= LEAST_CORRELATION)]
    if not len(peaks):
        return ()
    best = float(r[peaks].max())
    nearly = min(0.9 * best, best - 2 / np.sqrt(len(r)))  # the second is the autocorrelation's own sampling error
    first = int(peaks[np.flatnonzero(r[peaks] >= nearly)[0]])
    period = _snap(_refine(r, first, furthest), step_ms)
    day, week = (round(length / step_ms) if step_ms else 0 for length in (DAY_MS, WEEK_MS))
    if most > 1 and period == week and SHORTEST <= day < week and r[day] >= LEAST_CORRELATION:
        return day, week
    longer = most > 1 and week % period == 0 and period < week < furthest
    if longer and r[week] > r[period] + 0.1:
        return period, week
    return (period,)


def _refine(r: F64, lag: int, furthest: int) -> int:
    """The period from the peaks near two and three times the lag, where its error counts half and a third."""
    for times in (2, 3):
        low, high = round(times * lag * 0.94), round(times * lag * 1.06) + 1
        if high >= furthest:
            break
        lag = round((low + int(np.argmax(r[low:high]))) / times)
    return lag


def _snap(lag: int, step_ms: int) -> int:
    for civil in CIVIL:
        if step_ms and civil % step_ms == 0 and abs(lag * step_ms - civil) <= 0.02 * civil:
            return civil // step_ms
    return lag
