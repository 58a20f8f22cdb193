"""One LSTM layer (or a linear forecast) stepped once per vector: all channels are forecast from all of them.

Groups with channels of one kind are stepped in one call, with the same weights, each with a memory of its own.
The arithmetic of a step is that of ``recurrent.py``. The linear forecast of a channel sees its own lags, the last
sample of every channel and the time of day.
"""

from __future__ import annotations

import math

import numpy as np

from anomalyd.block import F32, F64, I64, Bool
from anomalyd.detectors.kernels.baseline import follow_spread
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.recurrent import FARTHEST, TRUST, lstm_step, turned


@kernel
def forecast_channels(x: F64, net: bool, hidden: F64, cell: F64, lags: F64, w_in: F64, w_rec: F64, bias: F64, head: F64,
                      linear: F64, gates: F64, forecast: F64) -> None:  # fmt: skip
    """Forecast every channel [C] from x [C + 2]: the last samples, sine and cosine of the time of day.

    ``w_in`` and ``w_rec`` as ``lstm_step`` takes them.
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
def forecast_groups(
    values: F64, civil: I64, hold: Bool, scale: F64, net: bool, hidden: F64, cell: F64, lags: F64, last: F64,
    error: F64, w_in: F64, w_rec: F64, bias: F64, head: F64, linear: F64, settled: int, rate: float, floor: float,
    highest: float, score: F64, expected: F64, unit: F64,
) -> None:  # fmt: skip
    """Score each vector of G groups with the same weights: values [G * C, T], one group's channels after the other's.

    A score [G, T] is the root mean square of the channels' errors in usual errors. ``last`` [G * C, 2]: what the
    forecast sees of the last sample, samples so far; ``error`` [G * C]: usual error; ``hidden``, ``cell`` [G, H].
    A held channel (``hold`` [G * C]) holds its group.
    """
    groups, channels = hidden.shape[0], head.shape[0]
    into, again = turned(w_in), turned(w_rec)
    gates, x, forecast = np.empty(len(bias)), np.empty(channels + 2), np.empty(channels)
    for g in range(groups):
        first = g * channels
        own = slice(first, first + channels)
        held = hold[own].any()
        for t in range(values.shape[1]):
            angle = 2.0 * np.pi * (civil[t] % 86_400_000) / 86_400_000.0
            for c in range(channels):
                x[c] = last[first + c, 0]
            x[channels], x[channels + 1] = math.sin(angle), math.cos(angle)
            forecast_channels(x, net, hidden[g], cell[g], lags[own], into, again, bias, head, linear, gates, forecast)
            total, seen = 0.0, 0
            for c in range(channels):
                s = first + c
                usual = max(error[s], floor)
                expected[s, t] = scale[s, 0] + forecast[c] * scale[s, 1]
                ready = last[s, 1] >= settled
                if ready:
                    unit[s, t] = usual * scale[s, 1]
                if np.isnan(values[s, t]):
                    last[s, 0] = min(max(forecast[c], -FARTHEST), FARTHEST)
                    continue
                z = (values[s, t] - scale[s, 0]) / scale[s, 1]
                apart = abs(z - forecast[c])
                if ready:
                    total += min(apart / usual, highest) ** 2
                    seen += 1
                    z = min(max(z, forecast[c] - TRUST * usual), forecast[c] + TRUST * usual)
                last[s, 0] = min(max(z, -FARTHEST), FARTHEST)
                if not held:
                    error[s] = follow_spread(error[s], apart, floor, max(rate, 1.0 / (last[s, 1] + 1.0)))
                    last[s, 1] += 1.0
            if seen:
                score[g, t] = min(math.sqrt(total / seen), highest)


@kernel
def window_forecasts(inputs: F32, w_in: F64, w_rec: F64, bias: F64, head: F64, out: F64) -> None:
    """Forecasts [W, C] of the net at the last step of each window of inputs [W, L, C + 2], begun from nothing."""
    channels, size = head.shape[0], head.shape[1] - 1
    into, again = turned(w_in), turned(w_rec)
    gates, x = np.empty(4 * size), np.empty(inputs.shape[2])
    h, c = np.empty(size), np.empty(size)
    for w in range(inputs.shape[0]):
        h[:], c[:] = 0.0, 0.0
        for t in range(inputs.shape[1]):
            for i in range(len(x)):
                x[i] = inputs[w, t, i]
            lstm_step(x, h, c, into, again, bias, gates)
        for channel in range(channels):
            total = head[channel, size]
            for i in range(size):
                total += head[channel, i] * h[i]
            out[w, channel] = total
