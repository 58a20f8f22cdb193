"""``autoencoder``: error with which a narrow net rebuilds the last stretch of samples, or all channels at one time.

Idea
    A net with a bottleneck of ``code`` numbers learns to rebuild ordinary vectors: the last ``window`` samples of any
    series of the rule, or with ``joint: true`` the samples of a group of series at one time. What does not fit through
    the bottleneck is unusual. The net is used only if it rebuilds the last fifth of the history better than the plane
    of the same number of principal components; otherwise that plane is used. Which one runs is told as a notice.

Works for
    Collective anomalies (a stretch of a shape never seen) and, jointly, channels that leave their common pattern: the
    principal plane is the best simple method on multivariate benchmarks. Groups that have the same channels share one
    net, trained on all of them.

Fails when
    The stretch is simple (a flat line is rebuilt easily), or normal behaviour needs more numbers than the code has.
    One net is shared by the series that are fitted together, so fits in other shards differ.

Toy stream
    Three channels with z = x + y: two numbers suffice, so a time at which z differs is rebuilt badly.

Reference
    Sakurada and Yairi, Anomaly Detection Using Autoencoders with Nonlinear Dimensionality Reduction (2014). Trained
    with torch (extra ``lstm``), on a graphics processor where there is one (set ``CUDA_VISIBLE_DEVICES`` to nothing if
    it must not be used), and scored without.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    newest,
    span,
)
from anomalyd.detectors.embedding import CHUNK, F32, Embedding
from anomalyd.detectors.lstm_joint import UNDECIDED, choice_of, decided, kept
from anomalyd.detectors.training import Effort, Hopeless, Trained, Weights, train_autoencoder

Arrays = dict[str, npt.NDArray[Any]]
LAYERS = ("w1", "b1", "w2", "b2", "w3", "b3", "w4", "b4")
SHARED = (*LAYERS, "mean", "basis", "gate", "trouble")
FARTHEST = 8.0
FLOOR = 0.02
LEAST_VECTORS = 64
HOLD_OUT = 0.2
MOST_DRAWN, MOST_CHECKED = 50_000, 20_000


class AutoencoderParams(base.Params):
    """Parameters of ``autoencoder``."""

    window: int = Field(24, ge=4, le=256, description="Samples of one stretch (not used when joint).")
    hidden: int = Field(16, ge=2, le=256, description="Width of the layers around the bottleneck.")
    code: int = Field(4, ge=1, le=64, description="Width of the bottleneck.")
    windows: int = Field(200_000, ge=256, description="Vectors trained on in total: the cap on work.")
    train_time: SpanField = Field(
        span("10m"), description="Longest that one training may take; the best net so far is kept, and a notice told."
    )
    joint: bool = Field(False, description="The series of each `group_by` group are channels of one vector per time.")


class Autoencoder:
    """A small autoencoder over normalised vectors; see the module's docstring."""

    name: ClassVar[str] = "autoencoder"
    streaming: ClassVar[bool] = False
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = AutoencoderParams

    def __init__(self, params: AutoencoderParams, grid: Grid, clock: Clock | None = None, share: float = 1.0) -> None:
        """``clock`` times the training; ``share`` of the time it may take."""
        self.params = params
        self.grid = grid
        self.clock: Clock = clock or SystemClock()
        self.share = share
        self.embedding = Embedding(0 if params.joint else params.window - 1, calendar=False)

    def with_share(self, share: float) -> Detector:
        return Autoencoder(self.params, self.grid, self.clock, self.share * share)

    @property
    def min_history(self) -> int:
        return max(2 * LEAST_VECTORS, 4 * self.params.window)

    def fit(self, history: Block, seed: int) -> State:
        return self._fit(history, seed, 1, None)

    def fit_as(self, history: Block, seed: int, model: State) -> State:
        """With the net, or with the plane, as the model has it; the latter needs no training."""
        return self._fit(history, seed, 1, kept(model))

    def fit_alike(self, history: Block, seed: int, groups: int) -> State:
        """One net for groups with channels of one kind (``joint``)."""
        return self._fit(history, seed, groups, None)

    def _fit(self, history: Block, seed: int, groups: int, runs: bool | None) -> State:
        values, civil = clean(history.values), civil_times(history.times, self.grid.timezone)
        arrays = self.embedding.learn(values, civil)
        shared = {*SHARED}
        if self.params.joint:
            arrays["channels"] = np.array([len(values) // groups])
            shared |= {"channels", "error"}
        arrays["error"] = np.full(groups if self.params.joint else len(values), np.nan)
        arrays |= self._train(*self._drawn(arrays, values, civil, np.random.default_rng(seed)), seed, runs)
        for rows, vectors, present in self._parts(arrays, values, civil):
            if arrays["gate"][2] >= 0:
                errors = self._errors(arrays, vectors, present)
                for s in np.flatnonzero(present.any(axis=1)):
                    arrays["error"][rows.start + s] = max(FLOOR, float(np.nanmedian(errors[s])))
        return State(arrays, frozenset(shared), newest(history))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "scale", fresh)
        values, civil = clean(fresh.values), civil_times(fresh.times, self.grid.timezone)
        arrays: Arrays = dict(state.arrays)
        arrays["recent"], arrays["seen"] = state.arrays["recent"].copy(), state.arrays["seen"].copy()
        raw = blank(values.shape)
        raw.expected[:] = self.embedding.expected(arrays, civil)
        wide = int(arrays["channels"][0]) if self.params.joint else 1
        for rows, vectors, present in self._parts(arrays, values, civil):
            if arrays["gate"][2] >= 0:
                score = self._errors(arrays, vectors, present) / arrays["error"][rows, None]
                own = slice(rows.start * wide, rows.stop * wide)
                said = np.repeat(np.minimum(score, HIGHEST_SCORE), wide, axis=0)
                raw.score[own] = np.where(np.isnan(values[own]), np.nan, said)
        return raw, advanced(state, arrays, fresh)

    def choices(self, state: State) -> tuple[Choice, ...]:
        """Which model runs and by what right."""
        return (choice_of(state.arrays, "the principal plane"),)

    def _parts(self, arrays: Arrays, values: F64, civil: I64) -> Iterator[tuple[slice, F32, Bool]]:
        """Limited vectors [n, T, F] of some series, or groups, at a time, which they are, and where there are any.

        The lags move on in place.
        """
        if not self.params.joint:
            for rows, chunk in self.embedding.chunks(arrays, values, civil):
                yield rows, chunk, np.isfinite(values[rows])
            return
        wide, times, width = int(arrays["channels"][0]), len(civil), self.embedding.width
        size = max(1, CHUNK // max(1, wide * times))
        for first in range(0, len(arrays["error"]), size):
            groups = slice(first, min(first + size, len(arrays["error"])))
            own = slice(groups.start * wide, groups.stop * wide)
            mine = {name: arrays[name][own] for name in ("scale", "recent", "seen")}
            n = groups.stop - groups.start
            flat = np.concatenate([chunk for _, chunk in self.embedding.chunks(mine, values[own], civil)])
            vectors = flat.reshape(n, wide, times, width).transpose(0, 2, 1, 3)
            present = np.asarray(np.isfinite(values[own]).reshape(n, wide, times).any(axis=1))
            joined = np.ascontiguousarray(vectors).reshape(n, times, wide * width)
            yield groups, np.clip(joined, -FARTHEST, 1e4), present

    def _drawn(self, arrays: Arrays, values: F64, civil: I64, rng: np.random.Generator) -> tuple[F32, F32]:
        """Vectors to train on, from the older part of the history, and to choose by, from the newer one [W, F]."""
        wide = int(arrays["channels"][0]) if self.params.joint else 1
        several = len(arrays["error"])
        present = np.asarray(np.isfinite(values).reshape(several, wide, len(civil)).any(axis=1))
        cut = int(len(civil) * (1 - HOLD_OUT))
        train = _places(present, 0, cut, min(self.params.windows, MOST_DRAWN), rng)
        check = _places(present, cut, len(civil), MOST_CHECKED, rng)
        found = [np.empty((len(part), wide * self.embedding.width), np.float32) for part in (train, check)]
        untouched = {**arrays, "recent": arrays["recent"].copy(), "seen": arrays["seen"].copy()}
        for rows, vectors, _ in self._parts(untouched, values, civil):
            for places, out in zip((train, check), found, strict=True):
                mine = (places[:, 0] >= rows.start) & (places[:, 0] < rows.stop)
                out[mine] = np.clip(vectors[places[mine, 0] - rows.start, places[mine, 1]], -FARTHEST, FARTHEST)
        return found[0], found[1]

    def _errors(self, arrays: Arrays, vectors: F32, present: Bool) -> F64:
        from anomalyd.detectors.kernels.recurrent import rebuild_errors

        out = np.full(vectors.shape[:2], np.nan)
        layers = (arrays[name] for name in LAYERS)
        w1, b1, w2, b2, w3, b3, w4, b4 = layers
        net = bool(arrays["gate"][2] > 0)
        rebuild_errors(vectors, present, net, w1, b1, w2, b2, w3, b3, w4, b4, arrays["mean"], arrays["basis"], out)
        return out

    def _train(self, train: F32, check: F32, seed: int, runs: bool | None) -> Arrays:
        """Weights, plane and gate."""
        p, width = self.params, train.shape[1]
        code = min(p.code, width)
        sizes = (width, p.hidden, code, p.hidden, width)
        arrays: Arrays = {"mean": np.zeros(width), "basis": np.zeros((code, width))}
        for layer in range(4):
            arrays[f"w{layer + 1}"] = np.zeros((sizes[layer + 1], sizes[layer]))
            arrays[f"b{layer + 1}"] = np.zeros(sizes[layer + 1])
        if len(train) < LEAST_VECTORS or not len(check):
            return arrays | UNDECIDED
        arrays["mean"] = train.mean(axis=0).astype(np.float64)
        directions = np.linalg.svd((train - train.mean(axis=0)).astype(np.float64), full_matrices=False)[2]
        arrays["basis"][: len(directions[:code])] = directions[:code]
        seconds = self.share * p.train_time.milliseconds(self.grid.step_ms) / 1000
        effort, every = Effort(p.windows, seconds, self.clock), np.ones((1, len(check)), np.bool_)

        def error_of(weights: Weights, net: float = 1.0) -> float:
            model = arrays | weights | {"gate": np.array([0.0, 0.0, net])}
            return float((self._errors(model, check[None], every) ** 2).mean())

        def trained(hopeless: Hopeless | None) -> Trained:
            return train_autoencoder(train, p.hidden, code, effort, seed, hopeless=hopeless)

        return arrays | decided(trained, error_of, error_of({}, 0.0), runs)


def _places(present: Bool, first: int, stop: int, most: int, rng: np.random.Generator) -> I64:
    """At most so many places (row, time) [W, 2] of the times from ``first`` to ``stop`` where something is present."""
    row, time = np.nonzero(present[:, first:stop])
    chosen = rng.permutation(len(row))[:most]
    return np.column_stack([row[chosen], first + time[chosen]])
