"""``lstm``: error of a recurrent net's forecast; one small net for all series of a rule.

Idea
    The series of a rule are brought to one scale and one LSTM layer learns to forecast the next sample of any of them
    from the samples before and the time of day. Between fits it is stepped once per sample, with each series' own
    memory; the score is the forecast's error in usual errors. The net is used only if it beats a linear forecast
    (autoregression with time of day) on the last fifth of the history; otherwise that forecast is used. Which one runs
    is told as a notice.

Works for
    Many series of one kind with a shape that repeats but is not a plain period: bursts, ramps, responses to load. With
    ``joint: true`` the series of a group are the channels of one vector, and each is forecast from all: what one does
    without the others is found.

Fails when
    There is little history or one simple series: the linear forecast is better and is then what runs. A slow drift is
    forecast along. The series that are fitted together share the weights, so fits in other shards differ.

Toy stream
    A sawtooth ``1 2 3 4 1 2 3 4``: after some periods the drop is forecast, a drop that does not come scores high.

Reference
    Hochreiter and Schmidhuber (1997); Malhotra et al., Long Short Term Memory Networks for Anomaly Detection in Time
    Series (2015). Trained with torch (extra ``lstm``), on a graphics processor where there is one, and scored without:
    the steps equal torch's within 1e-9.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import Clock, SystemClock
from anomalyd.detectors import base
from anomalyd.detectors.base import Choice, Detector, Grid, Raw, State
from anomalyd.detectors.common import (
    HIGHEST_SCORE,
    SpanField,
    advanced,
    blank,
    check_newer,
    check_series,
    civil_times,
    clean,
    copied,
    held,
    span,
)
from anomalyd.detectors.embedding import Embedding
from anomalyd.detectors.lstm_joint import JointLstm, brought_up_to_date
from anomalyd.detectors.training import Effort, Trained

F32 = npt.NDArray[np.float32]
SHARED = ("w_in", "w_rec", "bias", "head", "linear", "gate")
FARTHEST = 8.0
FLOOR = 0.02
"""Smallest usual error, in spreads of the series."""
SETTLED = 30
LEAST_WINDOWS = 64
HOLD_OUT = 0.2
MOST_CHECKED = 4_096
"""Windows on which net and linear forecast are compared."""


class LstmParams(base.Params):
    """Parameters of ``lstm``."""

    hidden: int = Field(32, ge=4, le=256, description="Size of the net's memory.")
    window: int = Field(32, ge=16, le=512, description="Samples of one training window.")
    windows: int = Field(100_000, ge=256, description="Windows trained on in total: the cap on work.")
    train_time: SpanField = Field(
        span("10m"), description="Longest that one training may take; the best net so far is kept, and a notice told."
    )
    joint: bool = Field(False, description="The series of each `group_by` group are channels of one vector per time.")


class Lstm:
    """One LSTM layer over normalised series; see the module's docstring."""

    name: ClassVar[str] = "lstm"
    streaming: ClassVar[bool] = False
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = LstmParams

    def __init__(self, params: LstmParams, grid: Grid, clock: Clock | None = None, share: float = 1.0) -> None:
        """``clock`` times the training; ``share`` of the time it may take."""
        self.params, self.grid = params, grid
        self.embedding = Embedding(0, calendar=True)
        self.clock: Clock = clock or SystemClock()
        self.share = share
        self.vectors = JointLstm(grid, params.hidden, params.window, params.windows, self._trained)

    def with_share(self, share: float) -> Detector:
        return Lstm(self.params, self.grid, self.clock, self.share * share)

    def _trained(self, inputs: F32, targets: F32, seed: int) -> Trained:
        from anomalyd.detectors.training import train_lstm

        seconds = self.share * self.params.train_time.milliseconds(self.grid.step_ms) / 1000
        effort = Effort(self.params.windows, seconds, self.clock)
        return train_lstm(inputs, targets, self.params.hidden, effort, seed)

    @property
    def min_history(self) -> int:
        return 8 * self.params.window

    def fit(self, history: Block, seed: int) -> State:
        if self.params.joint:
            return self.vectors.fit(history, seed)
        values, civil = clean(history.values), civil_times(history.times, self.grid.timezone)
        n, hidden, window = len(values), self.params.hidden, self.params.window
        learned = self.embedding.learn(values, civil)
        arrays: dict[str, npt.NDArray[Any]] = {
            "scale": learned["scale"][:, :2],
            "hidden": np.zeros((n, hidden)),
            "cell": np.zeros((n, hidden)),
            "lags": np.zeros((n, window)),
            "last": np.zeros((n, 2)),
            "error": np.zeros(n),
        }
        arrays |= self._train(values, civil, arrays["scale"], seed)
        return brought_up_to_date(arrays, SHARED, history, self._run)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        if self.params.joint:
            return self.vectors.score(state, fresh, hold)
        check_newer(state, fresh)
        check_series(state, "scale", fresh)
        if state.arrays["gate"][2] < 0:
            raw = blank(fresh.values.shape)
            raw.expected[:] = state.arrays["scale"][:, :1]
            return raw, advanced(state, state.arrays, fresh)
        return self._run(state, fresh, hold)

    def choices(self, state: State) -> tuple[Choice, ...]:
        """Which forecast runs and by what right."""
        return (choice_of(state.arrays["gate"], "the linear forecast"),)

    def _train(self, values: F64, civil: I64, scale: F64, seed: int) -> dict[str, npt.NDArray[Any]]:
        """Weights of net and linear forecast and the gate.

        The gate: net's error, linear's error, 1 net / 0 linear / -1 none, round that training was stopped in, rounds.
        """
        hidden, window = self.params.hidden, self.params.window
        z = np.clip((values - scale[:, :1]) / scale[:, 1:2], -FARTHEST, FARTHEST)
        cut = int(z.shape[1] * (1 - HOLD_OUT))
        rng = np.random.default_rng(seed)
        train = cut_windows(z[:, :cut], civil[:cut], window, self.params.windows, rng)
        check = cut_windows(z[:, cut:], civil[cut:], window, MOST_CHECKED, rng)
        weights: dict[str, npt.NDArray[Any]] = {
            "w_in": np.zeros((4 * hidden, 3)),
            "w_rec": np.zeros((4 * hidden, hidden)),
            "bias": np.zeros(4 * hidden),
            "head": np.zeros(hidden + 1),
            "linear": np.zeros(window + 3),
            "gate": np.array([np.nan, np.nan, -1.0, 0.0, 0.0]),
        }
        if len(train[0]) < LEAST_WINDOWS or not len(check[0]):
            return weights
        trained = self._trained(train[0], train[1][..., None], seed)
        weights |= trained.weights
        weights["head"] = trained.weights["head"][0]
        weights["linear"] = fit_linear(*train)
        errors = net_error(*check, weights), linear_error(*check, weights["linear"])
        weights["gate"] = np.array([*errors, float(errors[0] < errors[1]), trained.stopped, trained.rounds])
        return weights

    def _run(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.recurrent import forecast_errors

        arrays, raw = copied(state), blank(fresh.values.shape)
        forecast_errors(
            clean(fresh.values),
            civil_times(fresh.times, self.grid.timezone),
            held(hold, len(fresh)),
            arrays["scale"],
            bool(arrays["gate"][2] > 0),
            arrays["hidden"],
            arrays["cell"],
            arrays["lags"],
            arrays["last"],
            arrays["error"],
            arrays["w_in"],
            arrays["w_rec"],
            arrays["bias"],
            arrays["head"],
            arrays["linear"],
            SETTLED,
            0.01,
            FLOOR,
            HIGHEST_SCORE,
            raw.score,
            raw.expected,
            raw.unit,
        )
        return raw, advanced(state, arrays, fresh)


def choice_of(gate: F64, simpler: str) -> Choice:
    """What a gate says for people; ``simpler`` is the model that a net has to beat."""
    net, other, deployed, stopped, rounds = gate.tolist()
    if deployed < 0:
        return Choice("nothing", False, "there is not enough history to train on")
    errors = f"mean squared error on hold-out {net:.4g} against {other:.4g} of {simpler}"
    runs, why = ("the net", errors) if deployed else (simpler, f"the net has {errors}")
    return Choice(runs, bool(deployed), why, stopped=int(stopped), rounds=int(rounds))


def cut_windows(z: F64, civil: I64, window: int, most: int, rng: np.random.Generator) -> tuple[F32, F32]:
    """Windows of inputs [W, window, 3] and targets [W, window] at random places of the series z [N, T].

    An input is the sample before (the last one present, where it is missing) and the time of day of the target.
    """
    n, t = z.shape
    if t <= window or n == 0:
        return np.zeros((0, window, 3), np.float32), np.zeros((0, window), np.float32)
    present = ~np.isnan(z)
    place = np.maximum.accumulate(np.where(present, np.arange(t), 0), axis=1)
    filled = np.nan_to_num(np.take_along_axis(z, place, axis=1))
    count = min(most, n * max(1, (t - window) // 4))
    series, start = rng.integers(0, n, count), rng.integers(1, t - window + 1, count)
    steps = start[:, None] + np.arange(window)
    angle = 2 * np.pi * (civil[steps] % 86_400_000) / 86_400_000
    inputs = np.stack([filled[series[:, None], steps - 1], np.sin(angle), np.cos(angle)], axis=2)
    targets = z[series[:, None], steps]
    some = ~np.isnan(targets).all(axis=1)
    return inputs[some].astype(np.float32), targets[some].astype(np.float32)


def _design(inputs: F32) -> F64:
    """What the linear forecast sees at the last step of each window: lags newest first, time of day, a constant."""
    lags = inputs[:, ::-1, 0]
    return np.column_stack([lags, inputs[:, -1, 1:], np.ones(len(inputs))]).astype(np.float64)


def fit_linear(inputs: F32, targets: F32) -> F64:
    """Ridge regression of the last target of each window on its samples and time of day [window + 3]."""
    known = ~np.isnan(targets[:, -1])
    x, y = _design(inputs)[known], targets[known, -1].astype(np.float64)
    weights: F64 = np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]), x.T @ y)
    return weights


def linear_error(inputs: F32, targets: F32, weights: F64) -> float:
    """Mean squared error of the linear forecast at the last step."""
    return float(np.nanmean((_design(inputs) @ weights - targets[:, -1]) ** 2))


def net_error(inputs: F32, targets: F32, weights: dict[str, npt.NDArray[Any]]) -> float:
    """Mean squared error of the net at the last step of each window, begun from an empty memory."""
    from anomalyd.detectors.kernels.recurrent import lstm_step

    size = len(weights["head"]) - 1
    errors = np.full(len(inputs), np.nan)
    gates = np.empty(4 * size)
    for i, window in enumerate(inputs.astype(np.float64)):
        h, c = np.zeros(size), np.zeros(size)
        for x in window:
            lstm_step(x, h, c, weights["w_in"], weights["w_rec"], weights["bias"], gates)
        errors[i] = h @ weights["head"][:-1] + weights["head"][-1] - targets[i, -1]
    return float(np.nanmean(errors**2))
