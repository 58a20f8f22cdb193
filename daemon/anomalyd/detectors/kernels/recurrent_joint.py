"""One LSTM layer (or a linear forecast) stepped once per vector: all channels are forecast from all of them.

The arithmetic of a step is that of ``recurrent.py``. The linear forecast of a channel sees its own lags, the last
sample of every channel and the time of day.
"""

from __future__ import annotations

import math

import numpy as np

from anomalyd.block import F64, I64
from anomalyd.detectors.kernels.baseline import follow_spread
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.recurrent import FARTHEST, TRUST, lstm_step


@kernel
def forecast_channels(x: F64, net: bool, hidden: F64, cell: F64, lags: F64, w_in: F64, w_rec: F64, bias: F64, head: F64,
                      linear: F64, gates: F64, forecast: F64) -> None:  # fmt: skip
    """Forecast every channel [C] from x [C + 2]: the last samples, sine and cosine of the time of day.

    ``head`` [C, H + 1]: weights from the hidden state, then the constant; ``lags`` [C, L], newest first; ``linear``
    [C, L + C + 3]: own lags, last samples, sine, cosine, constant.
    """
    channels, window = lags.shape
    size = len(hidden)
    if net:
        lstm_step(x, hidden, cell, w_in, w_rec, bias, gates)
    for c in range(channels):
        if net:
            total = head[c, size]
            for i in range(size):
                total += head[c, i] * hidden[i]
        else:
            for i in range(window - 1, 0, -1):
                lags[c, i] = lags[c, i - 1]
            lags[c, 0] = x[c]
            total = linear[c, window + channels + 2]
            for i in range(window):
                total += linear[c, i] * lags[c, i]
            for i in range(channels + 2):
                total += linear[c, window + i] * x[i]
        forecast[c] = min(max(total, -2.0 * FARTHEST), 2.0 * FARTHEST)


@kernel
def forecast_vectors(
    values: F64, civil: I64, hold: bool, scale: F64, net: bool, hidden: F64, cell: F64, lags: F64, last: F64,
    error: F64, w_in: F64, w_rec: F64, bias: F64, head: F64, linear: F64, settled: int, rate: float, floor: float,
    highest: float, score: F64, expected: F64, unit: F64,
) -> None:  # fmt: skip
    """Score each vector of values [C, T] by the root mean square of its channels' errors in usual errors, [T].

    ``last`` [C, 2]: what the forecast sees of the last sample, samples so far; ``error`` [C]: usual error.
    """
    channels = values.shape[0]
    gates, x, forecast = np.empty(4 * len(hidden)), np.empty(channels + 2), np.empty(channels)
    for t in range(values.shape[1]):
        angle = 2.0 * np.pi * (civil[t] % 86_400_000) / 86_400_000.0
        for c in range(channels):
            x[c] = last[c, 0]
        x[channels], x[channels + 1] = math.sin(angle), math.cos(angle)
        forecast_channels(x, net, hidden, cell, lags, w_in, w_rec, bias, head, linear, gates, forecast)
        total, seen = 0.0, 0
        for c in range(channels):
            usual = max(error[c], floor)
            expected[c, t] = scale[c, 0] + forecast[c] * scale[c, 1]
            ready = last[c, 1] >= settled
            if ready:
                unit[c, t] = usual * scale[c, 1]
            if np.isnan(values[c, t]):
                last[c, 0] = min(max(forecast[c], -FARTHEST), FARTHEST)
                continue
            z = (values[c, t] - scale[c, 0]) / scale[c, 1]
            apart = abs(z - forecast[c])
            if ready:
                total += min(apart / usual, highest) ** 2
                seen += 1
                z = min(max(z, forecast[c] - TRUST * usual), forecast[c] + TRUST * usual)
            last[c, 0] = min(max(z, -FARTHEST), FARTHEST)
            if not hold:
                error[c] = follow_spread(error[c], apart, floor, max(rate, 1.0 / (last[c, 1] + 1.0)))
                last[c, 1] += 1.0
        if seen:
            score[t] = min(math.sqrt(total / seen), highest)


@kernel
def window_errors(inputs: F64, window: int, w_in: F64, w_rec: F64, bias: F64, head: F64, out: F64) -> None:
    """Forecasts [W, C] of the net at the last step of each window of inputs [W, L, C + 2], begun from nothing."""
    channels, size = head.shape[0], head.shape[1] - 1
    gates, forecast = np.empty(4 * size), np.empty(channels)
    lags, linear = np.empty((channels, window)), np.empty((channels, 1))
    for w in range(inputs.shape[0]):
        h, c = np.zeros(size), np.zeros(size)
        for t in range(inputs.shape[1]):
            forecast_channels(inputs[w, t], True, h, c, lags, w_in, w_rec, bias, head, linear, gates, forecast)
        out[w] = forecast
