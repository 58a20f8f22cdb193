"""``lstm``: error of a recurrent net's forecast; one small net for all series of a rule.

Idea
    The series of a rule are brought to one scale and one LSTM layer learns to forecast the next sample of any of them
    from the samples before and the time of day. Between fits it is stepped once per sample, with each series' own
    memory; the score is the forecast's error in usual errors. The net is used only if it beats a linear forecast
    (autoregression with time of day) on the last fifth of the history; otherwise that forecast is used. Which one runs
    is told as a notice. A net that errs twice as much as the linear forecast after a quarter of its training is given
    up.

Works for
    Many series of one kind with a shape that repeats but is not a plain period: bursts, ramps, responses to load. With
    ``joint: true`` the series of a group are the channels of one vector, and each is forecast from all: what one does
    without the others is found. Groups that have the same channels (the same labels but for those of ``group_by``)
    share one net, trained on all of them.

Fails when
    There is little history or one simple series: the linear forecast is better and is then what runs. A slow drift is
    forecast along. The series that are fitted together share the weights, so fits in other shards differ.

Toy stream
    A sawtooth ``1 2 3 4 1 2 3 4``: after some periods the drop is forecast, a drop that does not come scores high.

Reference
    Hochreiter and Schmidhuber (1997); Malhotra et al., Long Short Term Memory Networks for Anomaly Detection in Time
    Series (2015). Trained with torch (extra ``lstm``), on a graphics processor where there is one (set
    ``CUDA_VISIBLE_DEVICES`` to nothing if it must not be used; where it fails, training goes to the ordinary
    processor, which is told), and scored without: the steps equal torch's within 1e-9.
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
from anomalyd.detectors.lstm_joint import (
    FARTHEST,
    FLOOR,
    HOLD_OUT,
    LEAST_WINDOWS,
    MOST_CHECKED,
    SETTLED,
    UNDECIDED,
    JointLstm,
    brought_up_to_date,
    choice_of,
    cut_windows,
    decided,
    kept,
    net_error,
)
from anomalyd.detectors.training import Effort, Hopeless, Trained

F32 = npt.NDArray[np.float32]
SHARED = ("w_in", "w_rec", "bias", "head", "linear", "gate", "trouble")
APART = 4
"""Distance of the beginnings of windows, on average, at the least."""


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

    def _trained(self, inputs: F32, targets: F32, seed: int, hopeless: Hopeless | None) -> Trained:
        from anomalyd.detectors.training import train_lstm

        seconds = self.share * self.params.train_time.milliseconds(self.grid.step_ms) / 1000
        effort = Effort(self.params.windows, seconds, self.clock)
        return train_lstm(inputs, targets, self.params.hidden, effort, seed, hopeless=hopeless)

    @property
    def min_history(self) -> int:
        return 8 * self.params.window

    def fit(self, history: Block, seed: int) -> State:
        if self.params.joint:
            return self.vectors.fit(history, seed)
        return self._fit(history, seed, None)

    def fit_as(self, history: Block, seed: int, model: State) -> State:
        """With the net, or with the linear forecast, as the model has it; the latter needs no training."""
        if self.params.joint:
            return self.vectors.fit(history, seed)
        return self._fit(history, seed, kept(model))

    def _fit(self, history: Block, seed: int, runs: bool | None) -> State:
        values, civil = clean(history.values), civil_times(history.times, self.grid.timezone)
        n, hidden, window = len(values), self.params.hidden, self.params.window
        arrays: dict[str, npt.NDArray[Any]] = {
            "scale": self.embedding.scales(values)[:, :2],
            "hidden": np.zeros((n, hidden)),
            "cell": np.zeros((n, hidden)),
            "lags": np.zeros((n, window)),
            "last": np.zeros((n, 2)),
            "error": np.zeros(n),
        }
        arrays |= self._train(values, civil, arrays["scale"], seed, runs)
        return brought_up_to_date(arrays, SHARED, history, self._run)

    def fit_alike(self, history: Block, seed: int, groups: int) -> State:
        """One net for groups with channels of one kind (``joint``)."""
        return self.vectors.fit(history, seed, groups)

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
        return (choice_of(state.arrays, "the linear forecast"),)

    def _train(
        self, values: F64, civil: I64, scale: F64, seed: int, runs: bool | None
    ) -> dict[str, npt.NDArray[Any]]:
        """Weights of net and linear forecast, and the gate."""
        hidden, window = self.params.hidden, self.params.window
        z = np.clip((values - scale[:, :1]) / scale[:, 1:2], -FARTHEST, FARTHEST)[:, None]
        cut = int(z.shape[2] * (1 - HOLD_OUT))
        rng = np.random.default_rng(seed)
        train = cut_windows(z[:, :, :cut], civil[:cut], window, self.params.windows, rng, APART)
        check = cut_windows(z[:, :, cut:], civil[cut:], window, MOST_CHECKED, rng, APART)
        weights: dict[str, npt.NDArray[Any]] = {
            "w_in": np.zeros((4 * hidden, 3)),
            "w_rec": np.zeros((4 * hidden, hidden)),
            "bias": np.zeros(4 * hidden),
            "head": np.zeros(hidden + 1),
            "linear": np.zeros(window + 3),
        }
        if len(train[0]) < LEAST_WINDOWS or not len(check[0]):
            return weights | UNDECIDED
        linear = fit_linear(*train)
        found = decided(
            lambda hopeless: self._trained(*train, seed, hopeless), lambda net: net_error(*check, net),
            linear_error(*check, linear), runs,
        )  # fmt: skip
        if "head" in found:
            found["head"] = found["head"][0]
        return weights | found | {"linear": linear}

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


def _design(inputs: F32) -> F64:
    """What the linear forecast sees at the last step of each window: lags newest first, time of day, a constant."""
    lags = inputs[:, ::-1, 0]
    return np.column_stack([lags, inputs[:, -1, 1:], np.ones(len(inputs))]).astype(np.float64)


def fit_linear(inputs: F32, targets: F32) -> F64:
    """Ridge regression of the last target of each window on its samples and time of day [window + 3]."""
    known = ~np.isnan(targets[:, -1, 0])
    x, y = _design(inputs)[known], targets[known, -1, 0].astype(np.float64)
    weights: F64 = np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]), x.T @ y)
    return weights


def linear_error(inputs: F32, targets: F32, weights: F64) -> float:
    """Mean squared error of the linear forecast at the last step."""
    return float(np.nanmean((_design(inputs) @ weights - targets[:, -1, 0]) ** 2))
