"""A robust local trend with a daily profile, and the chance that it reaches a limit within a horizon.

Discounted least squares of y = a - b · age, age in samples before the newest one, on values less the profile of the
day. A sample counts no farther from its forecast than a few spreads; when several in a row lie on one side, the level
jumps there and the slope stays (a disk was cleaned, a counter reset).

State of one series: ``fit`` [12] = weights' sums over age^0, age^1, age^2, values' sums over age^0, age^1, anchor,
spread, autocorrelation of the errors, last error, samples, samples in a row beyond the clip (negative below), time of
the last sample.
"""

from __future__ import annotations

import math

import numpy as np

from anomalyd.block import F64, I64
from anomalyd.detectors.kernels.baseline import CLIP, DAY_MS, RECENT, at_phase, follow_spread, teach_phase
from anomalyd.detectors.kernels.jit import kernel

S0, S1, S2, SY, STY, ANCHOR, SPREAD, RHO, ERROR, SEEN, ASIDE, LAST = range(12)
IN_A_ROW = 5
"""Samples on one side beyond the clip that move the level."""
HIGHEST = 300.0
"""Surprise of what is certain."""


@kernel
def solve(fit: F64, answer: F64) -> None:
    """Level at the newest sample (less the anchor), slope per sample, and the three terms of their covariance."""
    determinant = fit[S0] * fit[S2] - fit[S1] * fit[S1]
    if fit[SEEN] < 3.0 or determinant <= 1e-9 * fit[S0] * fit[S2]:
        answer[0] = fit[SY] / fit[S0] if fit[S0] > 0.0 else 0.0
        answer[1] = 0.0
        answer[2], answer[3], answer[4] = 1.0, 0.0, 1.0
        return
    answer[0] = (fit[S2] * fit[SY] - fit[S1] * fit[STY]) / determinant
    answer[1] = (fit[S1] * fit[SY] - fit[S0] * fit[STY]) / determinant
    answer[2] = fit[S2] / determinant
    answer[3] = fit[S1] / determinant
    answer[4] = fit[S0] / determinant


@kernel
def age_by(fit: F64, steps: float, discount: float) -> None:
    """Let time pass: every sample is ``steps`` older and counts less."""
    fit[S2] += 2.0 * steps * fit[S1] + steps * steps * fit[S0]
    fit[S1] += steps * fit[S0]
    fit[STY] += steps * fit[SY]
    weight = discount**steps
    for i in range(5):
        fit[i] *= weight


@kernel
def take_in(fit: F64, y: float, predicted: float, floor: float, rate: float) -> None:
    """Learn a value (less anchor and profile) whose prediction is known; the ages are already those at its time."""
    error = y - predicted
    spread = max(fit[SPREAD], floor)
    if fit[SEEN] >= 8.0 and abs(error) > CLIP * spread:
        side = math.copysign(1.0, error)
        fit[ASIDE] = fit[ASIDE] + side if fit[ASIDE] * side >= 0.0 else side
        if abs(fit[ASIDE]) >= IN_A_ROW:
            fit[SY] += error * fit[S0]
            fit[STY] += error * fit[S1]
            fit[ASIDE] = 0.0
            error = 0.0
        else:
            error = math.copysign(CLIP * spread, error)
    else:
        fit[ASIDE] = 0.0
    fit[SPREAD] = follow_spread(fit[SPREAD], abs(error), floor, max(1.0 / (fit[SEEN] + 1.0), rate))
    if fit[SEEN] >= 3.0:
        gain = max(1.0 / fit[SEEN], rate)
        fit[RHO] += gain * (min(1.0, max(-1.0, error * fit[ERROR] / (spread * spread))) - fit[RHO])
    fit[ERROR] = error
    fit[S0] += 1.0
    fit[SY] += predicted + error
    fit[SEEN] += 1.0


@kernel
def log10_below(z: float) -> float:
    """log10 of the standard normal's chance to lie below z, also where that is tiny."""
    if z > -5.0:
        return math.log10(0.5 * math.erfc(-z / math.sqrt(2.0)))
    return (-0.5 * z * z - math.log(-z * math.sqrt(2.0 * math.pi))) / math.log(10.0)


@kernel
def deviation_at(fit: F64, answer: F64, ahead: float, floor: float) -> float:
    """Standard deviation of a value ``ahead`` samples on: noise, and level and slope with autocorrelated errors."""
    spread = max(fit[SPREAD], floor)
    rho = min(max(fit[RHO], 0.0), 0.95)
    shape = answer[2] + 2.0 * ahead * answer[3] + ahead * ahead * answer[4]
    return float(spread * np.sqrt(1.0 + max(0.0, shape) * (1.0 + rho) / (1.0 - rho)))


@kernel
def extreme_phase(day: F64, phase: float, share: float, upper: bool) -> float:
    """Highest (or lowest) value of the day's profile in the ``share`` of a day after a phase."""
    bins = day.shape[1]
    best = at_phase(day, (phase + min(share, 1.0)) % 1.0)
    for i in range(int(min(share, 1.0) * bins) + 1):
        value = at_phase(day, (phase + i / bins) % 1.0)
        best = max(best, value) if upper else min(best, value)
    return best


@kernel
def reach_surprise(
    fit: F64, day: F64, phase: float, answer: F64, limit: float, upper: bool, ahead: float, share: float, floor: float
) -> float:
    """-log10 of the chance that the limit is not reached within ``ahead`` samples (``share`` of a day)."""
    peak = fit[ANCHOR] + answer[0] + max(0.0, answer[1] if upper else -answer[1]) * (ahead if upper else -ahead)
    peak += extreme_phase(day, phase, share, upper)
    away = (limit - peak) if upper else (peak - limit)
    return float(min(HIGHEST, max(0.0, -log10_below(away / deviation_at(fit, answer, ahead, floor)))))


@kernel
def reach_limit(
    values: F64,
    times: I64,
    civil: I64,
    fit: F64,
    day: F64,
    step_ms: float,
    discount: float,
    rate: float,
    visits: float,
    limit: float,
    upper: bool,
    ahead: float,
    least: int,
    floors: F64,
    score: F64,
    expected: F64,
) -> None:
    """Score each sample by the surprise that the limit is reached within the horizon, seen after the sample.

    ``expected`` is the forecast of the sample before it was seen.
    """
    answer = np.zeros(5)
    for s in range(values.shape[0]):
        f = fit[s]
        for t in range(values.shape[1]):
            x = values[s, t]
            phase = (civil[t] % DAY_MS) / DAY_MS
            shape = at_phase(day[s], phase)
            steps = max(0.0, (times[t] - f[LAST]) / step_ms) if f[SEEN] > 0.0 else 0.0
            solve(f, answer)
            predicted = answer[0] + answer[1] * steps
            if f[SEEN] > 0.0:
                expected[s, t] = f[ANCHOR] + predicted + shape
            if np.isnan(x):
                continue
            if f[SEEN] == 0.0:
                f[ANCHOR] = x
                predicted = 0.0
            floor = max(floors[0] * abs(f[ANCHOR] + predicted + shape), floors[1])
            age_by(f, steps, discount)
            take_in(f, x - f[ANCHOR] - shape, predicted, floor, rate)
            teach_phase(day[s], phase, f[ERROR], visits, RECENT)
            f[LAST] = times[t]
            if f[SEEN] > least:
                solve(f, answer)
                share = ahead * step_ms / DAY_MS
                score[s, t] = reach_surprise(f, day[s], phase, answer, limit, upper, ahead, share, floor)
                if (x >= limit) if upper else (x <= limit):
                    score[s, t] = HIGHEST


@kernel
def project(
    times: I64, civil: I64, fit: F64, day: F64, step_ms: float, floors: F64, expected: F64, deviation: F64
) -> None:
    """Forecast and its standard deviation at future times [N, T]; series never seen stay NaN."""
    answer = np.zeros(5)
    for s in range(fit.shape[0]):
        f = fit[s]
        if f[SEEN] == 0.0:
            continue
        solve(f, answer)
        floor = max(floors[0] * abs(f[ANCHOR] + answer[0]), floors[1])
        for t in range(len(times)):
            ahead = (times[t] - f[LAST]) / step_ms
            shape = at_phase(day[s], (civil[t] % DAY_MS) / DAY_MS)
            expected[s, t] = f[ANCHOR] + answer[0] + answer[1] * ahead + shape
            deviation[s, t] = deviation_at(f, answer, ahead, floor)
