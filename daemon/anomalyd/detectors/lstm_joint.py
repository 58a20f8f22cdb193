"""The joint form of ``lstm``: one net for vectors of channels, which forecasts every channel from all of them.

Groups whose channels are the same in kind share the net: it is trained on windows of all of them, and the gate weighs
all. Each group has a scale, a memory and usual errors of its own.

The same as for single series otherwise: stepped once per sample, used only if it beats a linear forecast (own lags, the
last sample of every channel, time of day) on the last fifth of the history. The score of a time is the root mean square
of the channels' errors in usual errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.detectors.base import Choice, Grid, Raw, State
from anomalyd.detectors.common import (
    HIGHEST_SCORE,
    advanced,
    blank,
    check_newer,
    check_series,
    civil_times,
    clean,
    copied,
    held,
    newest,
)
from anomalyd.detectors.embedding import CHUNK, F32, Embedding
from anomalyd.detectors.training import Hopeless, Trained, Weights

Arrays = dict[str, npt.NDArray[Any]]
SHARED = ("hidden", "cell", "w_in", "w_rec", "bias", "head", "linear", "gate", "trouble", "channels")
UNDECIDED: Arrays = {"gate": np.array([np.nan, np.nan, -1.0, 0.0, 0.0, 0.0]), "trouble": np.array([""])}
"""What ``decided`` gives where there was nothing to train on."""
FARTHEST, FLOOR, SETTLED = 8.0, 0.02, 30
LEAST_WINDOWS, MOST_CHECKED = 64, 4_096
MOST_REGRESSED = 20_000
"""Windows that the linear forecast is learned from: its unknowns are some hundreds at the most."""
LARGEST = 25_000_000
"""Numbers in the windows of one training."""
HOLD_OUT = 0.2
HOPELESS = 2.0
"""A net that after a part of its training errs so many times as much as the simpler model is given up."""
REPLAYED = 512
"""Samples of the history that bring the memories and the usual errors up to date after training."""

Train = Callable[[F32, F32, int, Hopeless | None], Trained]
Run = Callable[[State, Block, Bool | None], tuple[Raw, State]]


class JointLstm:
    """Fits and scores the channels of a block as vectors: of one group, or of several with channels of one kind."""

    def __init__(self, grid: Grid, hidden: int, window: int, windows: int, train: Train):
        """``train`` makes weights from inputs [W, L, C + 2], targets [W, L, C], a seed, and when it is hopeless."""
        self.grid, self.size, self.window, self.windows, self.train = grid, hidden, window, windows, train
        self.embedding = Embedding(0, calendar=True)

    def fit(self, history: Block, seed: int, groups: int = 1) -> State:
        """Train on the older part of the history, choose on the newer one; the groups' channels follow each other."""
        values, civil = clean(history.values), civil_times(history.times, self.grid.timezone)
        n = len(values)
        arrays: Arrays = {
            "scale": self.embedding.scales(values)[:, :2],
            "lags": np.zeros((n, self.window)),
            "last": np.zeros((n, 2)),
            "error": np.zeros(n),
            "hidden": np.zeros((groups, self.size)),
            "cell": np.zeros((groups, self.size)),
            "channels": np.array([n // groups]),
        }
        z = np.clip((values - arrays["scale"][:, :1]) / arrays["scale"][:, 1:2], -FARTHEST, FARTHEST)
        arrays |= self._train(z.reshape(groups, n // groups, len(civil)), civil, seed)
        return brought_up_to_date(arrays, SHARED, history, self._run)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        """One step per vector; a held channel holds its group."""
        check_newer(state, fresh)
        check_series(state, "scale", fresh)
        if state.arrays["gate"][2] < 0:
            raw = blank(fresh.values.shape)
            raw.expected[:] = state.arrays["scale"][:, :1]
            return raw, advanced(state, state.arrays, fresh)
        return self._run(state, fresh, hold)

    def _run(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.recurrent_joint import forecast_groups

        a, raw, values = copied(state), blank(fresh.values.shape), clean(fresh.values)
        a["hidden"], a["cell"] = a["hidden"].copy(), a["cell"].copy()
        groups = np.full((len(a["hidden"]), values.shape[1]), np.nan)
        forecast_groups(
            values, civil_times(fresh.times, self.grid.timezone), held(hold, len(values)), a["scale"],
            bool(a["gate"][2] > 0), a["hidden"], a["cell"], a["lags"], a["last"], a["error"], a["w_in"], a["w_rec"],
            a["bias"], a["head"], a["linear"], SETTLED, 0.01, FLOOR, HIGHEST_SCORE, groups, raw.expected, raw.unit,
        )  # fmt: skip
        rows = np.repeat(groups, int(a["channels"][0]), axis=0)
        raw.score[:] = np.where(np.isnan(values), np.nan, rows)
        return raw, advanced(state, a, fresh)

    def _train(self, z: F64, civil: I64, seed: int) -> Arrays:
        """Weights of net and linear forecast, and the gate, from the scaled channels [G, C, T]."""
        n, size, window = z.shape[1], self.size, self.window
        cut = int(z.shape[2] * (1 - HOLD_OUT))
        rng = np.random.default_rng(seed)
        train = cut_windows(z[:, :, :cut], civil[:cut], window, self.windows, rng)
        check = cut_windows(z[:, :, cut:], civil[cut:], window, MOST_CHECKED, rng)
        weights: Arrays = {
            "w_in": np.zeros((4 * size, n + 2)),
            "w_rec": np.zeros((4 * size, size)),
            "bias": np.zeros(4 * size),
            "head": np.zeros((n, size + 1)),
            "linear": np.zeros((n, window + n + 3)),
        }
        if len(train[0]) < LEAST_WINDOWS or not len(check[0]):
            return weights | UNDECIDED
        weights["linear"] = fit_linear(*(part[:MOST_REGRESSED] for part in train))
        return weights | decided(
            lambda hopeless: self.train(*train, seed, hopeless), lambda net: net_error(*check, net),
            linear_error(*check, weights["linear"]),
        )  # fmt: skip


def brought_up_to_date(arrays: Arrays, shared: tuple[str, ...], history: Block, run: Run) -> State:
    """The state of what was just trained, its memories and usual errors as after the newest samples of the history."""
    state = State(arrays, frozenset(shared), 0)
    if arrays["gate"][2] >= 0:
        state = run(state, history.window(max(0, len(history.times) - REPLAYED)), None)[1]
    return State(state.arrays, state.shared, newest(history))


def cut_windows(
    z: F64, civil: I64, window: int, most: int, rng: np.random.Generator, apart: int = 2
) -> tuple[F32, F32]:
    """Windows of inputs [W, window, C + 2] and targets [W, window, C] at random places of the groups z [G, C, T].

    An input is the samples before (the last ones present, where they are missing) and the time of day of the target.
    There are at most as many windows as their beginnings are ``apart`` on average.
    """
    groups, channels, t = z.shape
    if t <= window or groups == 0:
        return np.zeros((0, window, channels + 2), np.float32), np.zeros((0, window, channels), np.float32)
    room = max(LEAST_WINDOWS, LARGEST // (window * (channels + 2)))
    count = min(most, room, groups * max(1, (t - window) // apart))
    group, start = rng.integers(0, groups, count), rng.integers(1, t - window + 1, count)
    steps = start[:, None] + np.arange(window)
    angle = 2 * np.pi * (civil[steps] % 86_400_000) / 86_400_000
    inputs = np.empty((count, window, channels + 2), np.float32)
    targets = np.empty((count, window, channels), np.float32)
    inputs[..., channels], inputs[..., channels + 1] = np.sin(angle), np.cos(angle)
    size = max(1, CHUNK // (channels * t))
    for first in range(0, groups, size):
        part = z[first : first + size]
        place = np.maximum.accumulate(np.where(np.isnan(part), 0, np.arange(t)), axis=2)
        filled = np.nan_to_num(np.take_along_axis(part, place, axis=2))
        mine = np.flatnonzero((group >= first) & (group < first + size))
        own, at = group[mine, None] - first, steps[mine]
        inputs[mine, :, :channels] = filled[own, :, at - 1]
        targets[mine] = part[own, :, at]
    some = ~np.isnan(targets).all(axis=(1, 2))
    return inputs[some], targets[some]


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
    from anomalyd.detectors.kernels.recurrent_joint import window_forecasts

    out = np.empty((len(inputs), targets.shape[2]))
    window_forecasts(inputs, weights["w_in"], weights["w_rec"], weights["bias"], weights["head"], out)
    return float(np.nanmean((out - targets[:, -1]) ** 2))


def decided(
    train: Callable[[Hopeless | None], Trained], error_of: Callable[[Weights], float], simpler: float,
    runs: bool | None = None,
) -> Arrays:  # fmt: skip
    """Weights of a net, where one was trained, and by what right it runs or the simpler model with this error.

    ``runs`` says which it is to be; None: which has less error. ``gate``: the mean squared errors of net and simpler
    model, 1 where the net runs (0: it does not, -1: there is neither), the round that training was stopped in, the
    rounds, the round that it was given up after. ``trouble``: what the training says of it.
    """
    if runs is False:
        return {"gate": np.array([np.nan, simpler, 0.0, 0.0, 0.0, 0.0]), "trouble": np.array([""])}
    trained = train(None if runs else lambda weights: error_of(weights) > HOPELESS * simpler)
    error = error_of(trained.weights)
    better = error < simpler if runs is None else runs
    found = np.array([error, simpler, float(better), trained.stopped, trained.rounds, trained.given_up])
    return trained.weights | {"gate": found, "trouble": np.array([trained.trouble])}


def kept(model: State) -> bool | None:
    """What a model chose, for ``decided``: a part of the same history is learned by the same."""
    chosen = float(model.arrays["gate"][2])
    return None if chosen < 0 else chosen > 0


def choice_of(arrays: Mapping[str, npt.NDArray[Any]], simpler: str) -> Choice:
    """What a gate says for people; ``simpler`` is the model that a net has to beat."""
    net, other, deployed, stopped, rounds, given_up = arrays["gate"].tolist()
    if deployed < 0:
        return Choice("nothing", False, "there is not enough history to train on")
    errors = f"mean squared error on hold-out {net:.4g} against {other:.4g} of {simpler}"
    early = f" and was given up after {given_up:.0f} of {rounds:.0f} rounds" if given_up else ""
    runs, why = ("the net", errors) if deployed else (simpler, f"the net has {errors}{early}")
    trouble = str(arrays["trouble"][0])
    return Choice(runs, bool(deployed), why, stopped=int(stopped), rounds=int(rounds), trouble=trouble)
