"""The cheap expectation that streaming detectors subtract: level + profile of the day + profile of the week.

One sample costs some thirty operations and a series about 2.5 kB. Profiles are piecewise linear over civil time and
learned as a running mean per bin with a limited memory. Every update uses the residual clipped to three spreads, so a
spike moves nothing by more than an ordinary noisy sample does, while a lasting change is followed: the clipped
residuals raise the spread until the new level is inside it.

State of one series: ``line`` [4] = level, spread, samples learned, last sample; ``day`` [2, D] and ``week`` [2, W] =
values and weights of the profile bins.
"""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, I64
from anomalyd.detectors.kernels.jit import kernel, leaf
from anomalyd.detectors.kernels.prefetch import prefetch_cell

DAY_MS = 86_400_000
WEEK_MS = 604_800_000
CLIP = 3.0
"""Residuals teach no more than this many spreads."""
RECENT = 2.0
"""Haste of the day's profile: later visits weigh more than the first, which met a level still unknown."""
MEDIAN_TO_SIGMA = 1.482602218505602
"""Standard deviation of a Gaussian in units of its median absolute deviation."""


@leaf
def at_phase(profile: F64, phase: float) -> float:
    """Value of a cyclic piecewise-linear profile [2, bins] at a phase in [0, 1)."""
    bins = profile.shape[1]
    if bins < 2:
        return 0.0
    at = phase * bins
    low = int(at) % bins
    share = at - int(at)
    return float(profile[0, low] * (1.0 - share) + profile[0, (low + 1) % bins] * share)


@leaf
def teach_phase(profile: F64, phase: float, error: float, memory: float, haste: float) -> None:
    """Move the two bins around a phase towards the error, each by haste · share / weight (at most ``memory``)."""
    bins = profile.shape[1]
    if bins < 2:
        return
    at = phase * bins
    low = int(at) % bins
    high = (low + 1) % bins
    share = at - int(at)
    profile[1, low] = min(profile[1, low] + (1.0 - share), memory)
    if profile[1, low] > 0.0:
        profile[0, low] += (1.0 - share) * min(1.0, haste / profile[1, low]) * error
    profile[1, high] = min(profile[1, high] + share, memory)
    if profile[1, high] > 0.0:
        profile[0, high] += share * min(1.0, haste / profile[1, high]) * error


@leaf
def expect(line: F64, day: F64, week: F64, civil_ms: int) -> float:
    """What the baseline takes to be normal at a civil time (milliseconds since a Monday, 00:00)."""
    return float(
        line[0]
        + at_phase(day, (civil_ms % DAY_MS) / DAY_MS)
        + at_phase(week, (civil_ms % WEEK_MS) / WEEK_MS)
    )


@leaf
def spread_of(line: F64, relative: float, absolute: float) -> float:
    """The spread of residuals with its floor."""
    return float(max(line[1], relative * abs(line[0]), absolute))


@leaf
def follow_spread(spread: float, size: float, least: float, rate: float) -> float:
    """Track the median distance, in standard deviations of a Gaussian: up or down by ``rate`` in the logarithm.

    How far a sample lies outside does not matter, so nearly half of them may be broken; and a spread that is e times
    too small or too large is right again after about 1 / rate samples.
    """
    if spread <= least:
        return max(size * MEDIAN_TO_SIGMA, least)
    if size * MEDIAN_TO_SIGMA > spread:
        return float(spread * np.exp(rate))
    return float(max(spread * np.exp(-rate), least))


@leaf
def teach(line: F64, day: F64, week: F64, civil_ms: int, x: float, memories: F64, floors: F64) -> None:
    """Learn one sample.

    ``memories`` [5]: level in samples, rate of the spread, day and week bins in visits, samples before the week's
    profile learns. ``floors`` [2]: relative and absolute.
    """
    seen = line[2]
    if seen == 0.0:
        line[0] = x
        line[2] = 1.0
        line[3] = x
        return
    error = x - expect(line, day, week, civil_ms)
    spread = spread_of(line, floors[0], floors[1])
    size = abs(error)
    if seen >= 8.0:  # the first samples are believed: there is no spread yet to clip by
        error = min(max(error, -CLIP * spread), CLIP * spread)
    line[1] = follow_spread(line[1], size, floors[1], max(1.0 / seen, memories[1]))
    line[0] += error / min(seen + 1.0, memories[0])
    teach_phase(day, (civil_ms % DAY_MS) / DAY_MS, error, memories[2], RECENT)
    if seen >= memories[4]:
        teach_phase(week, (civil_ms % WEEK_MS) / WEEK_MS, error, memories[3], 1.0)
    line[2] = seen + 1.0
    line[3] = x


@kernel
def fetch(line: F64, day: F64, week: F64, s: int, civil_ms: int) -> None:
    """Ask for the memory that ``expect`` and ``teach`` will need of series s at a civil time."""
    if s >= line.shape[0]:
        return
    prefetch_cell(line, s, 0)
    for rows, phase in ((day, (civil_ms % DAY_MS) / DAY_MS), (week, (civil_ms % WEEK_MS) / WEEK_MS)):
        bins = rows.shape[2]
        flat = rows.reshape(rows.shape[0], 2 * bins)
        at = int(phase * bins) % bins
        prefetch_cell(flat, s, at)
        prefetch_cell(flat, s, bins + at)


@kernel
def residuals(
    values: F64, civil: I64, line: F64, day: F64, week: F64, memories: F64, floors: F64, out: F64
) -> None:
    """Standardised residual of each sample against the baseline before it, [N, T]; NaN where the sample is."""
    for s in range(values.shape[0]):
        for t in range(values.shape[1]):
            x = values[s, t]
            if np.isnan(x):
                continue
            if line[s, 2] > 0.0:
                z = (x - expect(line[s], day[s], week[s], civil[t])) / spread_of(line[s], floors[0], floors[1])
                out[s, t] = z
            teach(line[s], day[s], week[s], civil[t], x, memories, floors)
