"""A robust local trend with a daily profile, and the chance that it reaches a limit within a horizon.

Discounted least squares of y = a - b · age, age in samples before the newest one, on values less the profile of the
day. A sample counts no farther from its forecast than a few spreads; when several in a row lie on one side, the level
jumps there and the slope stays (a disk was cleaned, a counter reset).

How far a forecast may be off is told by the errors themselves. They are taken for a part that each sample has for
itself and a part that goes on (an autoregression of first order, at the limit a random walk); the share and the memory
of the second are found from how an error goes with the one before it and with the mean of those before it. The weights
that the fit gives to samples then say the variance of the error any number of samples ahead.

State of one series: ``fit`` [FIT] = weights' sums over age^0, age^1, age^2, values' sums over age^0, age^1, anchor,
spread, last error, samples, samples in a row beyond the clip (negative below), time of the last sample, mean of the
last errors, and the sums over errors, as old as the samples, of their number, their squares, and their products with
the error before and with that mean.
"""

from __future__ import annotations

import math

import numpy as np

from anomalyd.block import F64, I64
from anomalyd.detectors.kernels.baseline import CLIP, DAY_MS, RECENT, at_phase, follow_spread, teach_phase
from anomalyd.detectors.kernels.jit import kernel

S0, S1, S2, SY, STY, ANCHOR, SPREAD, ERROR, SEEN, ASIDE, LAST, MEAN, ERRORS, SQUARES, NEXT, GOING = range(16)
FIT = 16
FIRST = 8.0
"""Samples that are believed: there is no spread yet to judge their errors by."""
SHARE = 1.0 / 16.0
"""Share of the newest error in the mean of the last ones."""
HIDDEN = 6.0
"""A line through samples hides so much of what wanders through them: the part that goes on is taken to be forgotten by
this over the fit's samples less in a sample than it looks."""
WANDERS = 0.9999
"""The part that goes on keeps no more than this from sample to sample."""
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
    for i in range(ERRORS, FIT):
        fit[i] *= weight


@kernel
def take_in(fit: F64, y: float, predicted: float, floor: float, rate: float) -> None:
    """Learn a value (less anchor and profile) whose prediction is known; the ages are already those at its time."""
    error = y - predicted
    spread = max(fit[SPREAD], floor)
    if fit[SEEN] >= FIRST and abs(error) > CLIP * spread:
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
    if fit[SEEN] >= FIRST:
        for i in range(ERRORS, FIT):  # the first errors are those of a profile still unknown
            fit[i] *= 1.0 - 1.0 / fit[SEEN]
        fit[ERRORS] += 1.0
        fit[SQUARES] += error * error
        fit[NEXT] += error * fit[ERROR]
        fit[GOING] += error * fit[MEAN]
    fit[ERROR] = error
    fit[MEAN] += SHARE * (error - fit[MEAN])
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
def goes_on(fit: F64, answer: F64) -> None:
    """What the errors are: the share of their variance that goes on, and how much of it from sample to sample."""
    answer[5], answer[6], answer[7] = 0.0, 0.0, 0.0
    if fit[NEXT] <= 0.0 or fit[GOING] <= 0.0 or fit[SQUARES] <= 0.0:
        return
    # An error goes by share * kept with the one before, and by share * kept * SHARE / (1 - (1 - SHARE) kept) with the
    # mean of those before.
    kept = (1.0 - SHARE * fit[NEXT] / fit[GOING]) / (1.0 - SHARE)
    if kept <= 0.0:
        return
    answer[5] = min(1.0, fit[NEXT] / fit[SQUARES] / kept)
    answer[6] = min(WANDERS, kept + HIDDEN / max(fit[S0], 3.0))
    answer[7] = min(answer[6], kept)


@kernel
def alone(answer: F64, ahead: float) -> float:
    """Variance of a forecast's error ``ahead`` samples on where errors of 1 have nothing to do with each other."""
    return float(1.0 + max(0.0, answer[2] + 2.0 * ahead * answer[3] + ahead * ahead * answer[4]))


@kernel
def going(kept: float, samples: float, ahead: float) -> float:
    """The same where so much of a deviation, of variance 1, is kept from sample to sample, by a fit of ``samples``.

    The forecast is the sum of samples i before the newest by q^i (a - b i); all sums over i are of geometric series.
    """
    q = 1.0 - 1.0 / samples
    w0, w1, w2 = 1.0 / (1.0 - q), q / (1.0 - q) ** 2, q * (1.0 + q) / (1.0 - q) ** 3
    whole = w0 * w2 - w1 * w1
    a, b = (w2 + ahead * w1) / whole, (w1 + ahead * w0) / whole
    z, p = kept * q, q * q
    near, far = z / (1.0 - z), z / (1.0 - z) ** 2
    p0, p1, p2 = 1.0 / (1.0 - p), p / (1.0 - p) ** 2, p * (1.0 + p) / (1.0 - p) ** 3
    squares = a * a * p0 - 2.0 * a * b * p1 + b * b * p2
    fitted = squares + 2.0 * (near * squares - far * (a * b * p0 - b * b * p1))
    return float(1.0 + fitted - 2.0 * kept**ahead * (a / (1.0 - z) - b * far))


@kernel
def deviation_at(fit: F64, answer: F64, ahead: float, floor: float) -> float:
    """Standard deviation of the error of a forecast ``ahead`` samples on: that of one sample on, as measured, grown."""
    if fit[ERRORS] < 1.0:
        return float(max(fit[SPREAD], floor))
    goes_on(fit, answer)
    grown = (1.0 - answer[5]) * alone(answer, ahead) / alone(answer, 1.0)
    if answer[5] > 0.0:
        samples = max(fit[S0], 3.0)
        news = (1.0 - answer[7] ** 2) / (1.0 - answer[6] ** 2)
        grown += answer[5] * going(answer[6], samples, ahead) * max(news, 1.0 / going(answer[6], samples, 1.0))
    return float(np.sqrt(max(fit[SQUARES] / fit[ERRORS], floor * floor) * max(1.0, grown)))


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
    answer = np.zeros(8)
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
    answer = np.zeros(8)
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
