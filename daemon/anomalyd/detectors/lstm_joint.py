"""The joint form of ``lstm``: one net per vector of channels, which forecasts every channel from all of them.

The same as for single series otherwise: stepped once per sample, used only if it beats a linear forecast (own lags, the
last sample of every channel, time of day) on the last fifth of the history. The score of a time is the root mean square
of the channels' errors in usual errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    HIGHEST_SCORE,
    advanced,
    blank,
    check_newer,
    check_series,
    civil_times,
    clean,
    copied,
    newest,
)
from anomalyd.detectors.embedding import F32, Embedding
from anomalyd.detectors.training import Trained
from anomalyd.errors import DetectorError

Arrays = dict[str, npt.NDArray[Any]]
SHARED = ("hidden", "cell", "w_in", "w_rec", "bias", "head", "linear", "gate", "channels")
FARTHEST, FLOOR, SETTLED = 8.0, 0.02, 30
LEAST_WINDOWS, MOST_CHECKED = 64, 1_024
HOLD_OUT = 0.2
REPLAYED = 512
"""Samples of the history that bring the memories and the usual errors up to date after training."""

Run = Callable[[State, Block, Bool | None], tuple[Raw, State]]


class JointLstm:
    """Fits and scores the channels of a block as vectors."""

    def __init__(self, grid: Grid, hidden: int, window: int, windows: int, train: Callable[[F32, F32, int], Trained]):
        """``train`` makes weights from inputs [W, L, C + 2], targets [W, L, C] and a seed."""
        self.grid, self.size, self.window, self.windows, self.train = grid, hidden, window, windows, train
        self.embedding = Embedding(0, calendar=True)

    def fit(self, history: Block, seed: int) -> State:
        """Train on the older part of the history, choose on the newer one."""
        values, civil = clean(history.values), civil_times(history.times, self.grid.timezone)
        n = len(values)
        arrays: Arrays = {
            "scale": self.embedding.learn(values, civil)["scale"][:, :2],
            "lags": np.zeros((n, self.window)),
            "last": np.zeros((n, 2)),
            "error": np.zeros(n),
            "hidden": np.zeros(self.size),
            "cell": np.zeros(self.size),
            "channels": np.array([n]),
        }
        arrays |= self._train(values, civil, arrays["scale"], seed)
        return brought_up_to_date(arrays, SHARED, history, self._run)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        """One step per vector; a held channel holds them all."""
        check_newer(state, fresh)
        check_series(state, "scale", fresh)
        channels = int(state.arrays["channels"][0])
        if channels != len(fresh):
            raise DetectorError("shape", f"a joint model of {channels} channels cannot score {len(fresh)}")
        if state.arrays["gate"][2] < 0:
            raw = blank(fresh.values.shape)
            raw.expected[:] = state.arrays["scale"][:, :1]
            return raw, advanced(state, state.arrays, fresh)
        return self._run(state, fresh, hold)

    def _run(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.recurrent_joint import forecast_vectors

        a, raw, values = copied(state), blank(fresh.values.shape), clean(fresh.values)
        a["hidden"], a["cell"] = a["hidden"].copy(), a["cell"].copy()
        row = np.full(values.shape[1], np.nan)
        held = hold is not None and bool(hold.any())
        forecast_vectors(
            values, civil_times(fresh.times, self.grid.timezone), held, a["scale"], bool(a["gate"][2] > 0), a["hidden"],
            a["cell"], a["lags"], a["last"], a["error"], a["w_in"], a["w_rec"], a["bias"], a["head"], a["linear"],
            SETTLED, 0.01, FLOOR, HIGHEST_SCORE, row, raw.expected, raw.unit,
        )  # fmt: skip
        raw.score[:] = np.where(np.isnan(values), np.nan, row)
        return raw, advanced(state, a, fresh)

    def _train(self, values: F64, civil: I64, scale: F64, seed: int) -> Arrays:
        n, size, window = len(values), self.size, self.window
        z = np.clip((values - scale[:, :1]) / scale[:, 1:2], -FARTHEST, FARTHEST)
        cut = int(z.shape[1] * (1 - HOLD_OUT))
        rng = np.random.default_rng(seed)
        train = cut_vectors(z[:, :cut], civil[:cut], window, self.windows, rng)
        check = cut_vectors(z[:, cut:], civil[cut:], window, MOST_CHECKED, rng)
        weights: Arrays = {
            "w_in": np.zeros((4 * size, n + 2)),
            "w_rec": np.zeros((4 * size, size)),
            "bias": np.zeros(4 * size),
            "head": np.zeros((n, size + 1)),
            "linear": np.zeros((n, window + n + 3)),
            "gate": np.array([np.nan, np.nan, -1.0, 0.0, 0.0]),
        }
        if len(train[0]) < LEAST_WINDOWS or not len(check[0]):
            return weights
        trained = self.train(*train, seed)
        weights |= trained.weights
        weights["linear"] = fit_linear(*train)
        errors = net_error(*check, weights), linear_error(*check, weights["linear"])
        weights["gate"] = np.array([*errors, float(errors[0] < errors[1]), trained.stopped, trained.rounds])
        return weights


def brought_up_to_date(arrays: Arrays, shared: tuple[str, ...], history: Block, run: Run) -> State:
    """The state of what was just trained, its memories and usual errors as after the newest samples of the history."""
    state = State(arrays, frozenset(shared), 0)
    if arrays["gate"][2] >= 0:
        state = run(state, history.window(max(0, len(history.times) - REPLAYED)), None)[1]
    return State(state.arrays, state.shared, newest(history))


def cut_vectors(z: F64, civil: I64, window: int, most: int, rng: np.random.Generator) -> tuple[F32, F32]:
    """Windows of inputs [W, window, C + 2] and targets [W, window, C] at random places of the channels z [C, T].

    An input is the samples before (the last ones present, where they are missing) and the time of day of the target.
    """
    n, t = z.shape
    if t <= window or n == 0:
        return np.zeros((0, window, n + 2), np.float32), np.zeros((0, window, n), np.float32)
    place = np.maximum.accumulate(np.where(~np.isnan(z), np.arange(t), 0), axis=1)
    filled = np.nan_to_num(np.take_along_axis(z, place, axis=1))
    start = rng.integers(1, t - window + 1, min(most, max(1, (t - window) // 2)))
    steps = start[:, None] + np.arange(window)
    angle = 2 * np.pi * (civil[steps] % 86_400_000) / 86_400_000
    inputs = np.concatenate(
        [filled[:, steps - 1].transpose(1, 2, 0), np.sin(angle)[..., None], np.cos(angle)[..., None]], axis=2
    )
    targets = z[:, steps].transpose(1, 2, 0)
    some = ~np.isnan(targets).all(axis=(1, 2))
    return inputs[some].astype(np.float32), targets[some].astype(np.float32)


def _design(inputs: F32, channel: int) -> F64:
    """What the linear forecast of a channel sees at the last step of each window."""
    last = inputs[:, -1]
    return np.column_stack([inputs[:, ::-1, channel], last, np.ones(len(inputs))]).astype(np.float64)


def fit_linear(inputs: F32, targets: F32) -> F64:
    """Ridge regression of each channel's last target [C, window + C + 3]."""
    channels = targets.shape[2]
    weights = np.zeros((channels, inputs.shape[1] + inputs.shape[2] + 1))
    for c in range(channels):
        known = ~np.isnan(targets[:, -1, c])
        if known.any():
            x, y = _design(inputs, c)[known], targets[known, -1, c].astype(np.float64)
            weights[c] = np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]), x.T @ y)
    return weights


def linear_error(inputs: F32, targets: F32, weights: F64) -> float:
    """Mean squared error of the linear forecast at the last step, over all channels."""
    forecasts = np.column_stack([_design(inputs, c) @ weights[c] for c in range(len(weights))])
    return float(np.nanmean((forecasts - targets[:, -1]) ** 2))


def net_error(inputs: F32, targets: F32, weights: Arrays) -> float:
    """Mean squared error of the net at the last step of each window, begun from an empty memory."""
    from anomalyd.detectors.kernels.recurrent_joint import window_errors

    out = np.empty((len(inputs), targets.shape[2]))
    window_errors(
        inputs.astype(np.float64), inputs.shape[1], weights["w_in"], weights["w_rec"], weights["bias"],
        weights["head"], out,
    )  # fmt: skip
    return float(np.nanmean((out - targets[:, -1]) ** 2))
