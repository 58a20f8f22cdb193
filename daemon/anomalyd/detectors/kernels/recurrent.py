"""One LSTM layer (or a linear forecast) stepped once per sample for many series, with shared weights.

The arithmetic is torch's: gates in the order input, forget, cell, output. Weights are float64 here; training was in
float32. A sample's forecast uses the samples before it and the time of day it is for; what the next forecast sees of a
sample is limited to a few usual errors around its own forecast, and a missing sample is replaced by its forecast.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.baseline import follow_spread
from anomalyd.detectors.kernels.jit import kernel

INPUTS = 3
"""Previous sample, sine and cosine of the time of day."""
TRUST = 4.0
"""Usual errors around its forecast within which a sample is believed by the next forecast."""
FARTHEST = 8.0
"""Standardised samples are limited to this as inputs."""


@kernel
def lstm_step(x: F64, h: F64, c: F64, w_in: F64, w_rec: F64, bias: F64, gates: F64) -> None:
    """Move the hidden state [H] and cell [H] one step; ``w_in`` [I, 4H], ``w_rec`` [H, 4H], ``bias`` [4H].

    The weights are torch's turned over (``turned``): so the gates are summed side by side, each in torch's order.
    """
    size = len(h)
    for g in range(4 * size):
        gates[g] = bias[g]
    for i in range(len(x)):
        for g in range(4 * size):
            gates[g] += w_in[i, g] * x[i]
    for i in range(size):
        for g in range(4 * size):
            gates[g] += w_rec[i, g] * h[i]
    for i in range(size):
        keep = 1.0 / (1.0 + math.exp(-gates[size + i]))
        write = 1.0 / (1.0 + math.exp(-gates[i]))
        show = 1.0 / (1.0 + math.exp(-gates[3 * size + i]))
        c[i] = keep * c[i] + write * math.tanh(gates[2 * size + i])
        h[i] = show * math.tanh(c[i])


@kernel
def turned(weights: F64) -> F64:
    """The transpose of a matrix, in order in memory."""
    rows, columns = weights.shape
    out = np.empty((columns, rows))
    for i in range(rows):
        for j in range(columns):
            out[j, i] = weights[i, j]
    return out


@kernel
def linear_step(x: F64, lags: F64, weights: F64) -> float:
    """Forecast from the lags [L], newest first, sine, cosine and a constant; the newest lag is x[0]."""
    size = len(lags)
    for i in range(size - 1, 0, -1):
        lags[i] = lags[i - 1]
    lags[0] = x[0]
    total = weights[size] * x[1] + weights[size + 1] * x[2] + weights[size + 2]
    for i in range(size):
        total += weights[i] * lags[i]
    return float(total)


@kernel
def forecast_errors(
    values: F64, civil: I64, hold: Bool, scale: F64, net: bool, hidden: F64, cell: F64, lags: F64, last: F64,
    error: F64, w_in: F64, w_rec: F64, bias: F64, head: F64, linear: F64, settled: int, rate: float, floor: float,
    highest: float, score: F64, expected: F64, unit: F64,
) -> None:  # fmt: skip
    """Score each sample by the error of its forecast in usual errors of the series.

    ``last`` [N, 2]: what the forecast sees of the last sample, samples so far; ``error`` [N]: usual error. ``head``
    [H + 1]: weights from hidden state to forecast, a constant; ``w_in`` [4H, 3] and ``w_rec`` [4H, H] are torch's.
    """
    size = hidden.shape[1]
    into, again = turned(w_in), turned(w_rec)
    gates, x = np.empty(4 * size), np.empty(INPUTS)
    for s in range(values.shape[0]):
        for t in range(values.shape[1]):
            angle = 2.0 * np.pi * (civil[t] % 86_400_000) / 86_400_000.0
            x[0], x[1], x[2] = last[s, 0], math.sin(angle), math.cos(angle)
            if net:
                lstm_step(x, hidden[s], cell[s], into, again, bias, gates)
                forecast = float(head[size])
                for i in range(size):
                    forecast += head[i] * hidden[s, i]
            else:
                forecast = linear_step(x, lags[s], linear)
            forecast = min(max(forecast, -2.0 * FARTHEST), 2.0 * FARTHEST)
            usual = max(error[s], floor)
            expected[s, t] = scale[s, 0] + forecast * scale[s, 1]
            ready = last[s, 1] >= settled
            if ready:
                unit[s, t] = usual * scale[s, 1]
            if np.isnan(values[s, t]):
                last[s, 0] = min(max(forecast, -FARTHEST), FARTHEST)
                continue
            z = (values[s, t] - scale[s, 0]) / scale[s, 1]
            apart = abs(z - forecast)
            if ready:
                score[s, t] = min(apart / usual, highest)
                z = min(max(z, forecast - TRUST * usual), forecast + TRUST * usual)
            last[s, 0] = min(max(z, -FARTHEST), FARTHEST)
            if not hold[s]:
                error[s] = follow_spread(error[s], apart, floor, max(rate, 1.0 / (last[s, 1] + 1.0)))
                last[s, 1] += 1.0


@kernel
def dense(x: F64, weights: F64, bias: F64, bend: bool, out: F64) -> None:
    """One layer: out = weights · x + bias, through tanh if ``bend``."""
    for i in range(len(out)):
        total = bias[i]
        for j in range(len(x)):
            total += weights[i, j] * x[j]
        out[i] = math.tanh(total) if bend else total


@kernel
def pca_rebuild(x: F64, mean: F64, basis: F64, out: F64) -> None:
    """The point of the plane through ``mean`` spanned by ``basis`` [K, F] that is nearest to x."""
    for i in range(len(out)):
        out[i] = mean[i]
    for k in range(basis.shape[0]):
        along = 0.0
        for j in range(len(x)):
            along += basis[k, j] * (x[j] - mean[j])
        for i in range(len(out)):
            out[i] += along * basis[k, i]


@kernel
def rebuild_errors(
    vectors: npt.NDArray[np.float32],
    present: Bool,
    net: bool,
    w1: F64,
    b1: F64,
    w2: F64,
    b2: F64,
    w3: F64,
    b3: F64,
    w4: F64,
    b4: F64,
    mean: F64,
    basis: F64,
    out: F64,
) -> None:
    """Root mean square error with which the autoencoder (or the plane) rebuilds each vector [n, T, F]."""
    width = vectors.shape[2]
    x, back = np.empty(width), np.empty(width)
    first, code, third = np.empty(len(b1)), np.empty(len(b2)), np.empty(len(b3))
    for s in range(vectors.shape[0]):
        for t in range(vectors.shape[1]):
            if not present[s, t]:
                continue
            for i in range(width):
                x[i] = vectors[s, t, i]
            if net:
                dense(x, w1, b1, True, first)
                dense(first, w2, b2, True, code)
                dense(code, w3, b3, True, third)
                dense(third, w4, b4, False, back)
            else:
                pca_rebuild(x, mean, basis, back)
            total = 0.0
            for i in range(width):
                total += (x[i] - back[i]) ** 2
            out[s, t] = math.sqrt(total / width)
