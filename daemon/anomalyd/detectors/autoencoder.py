"""``autoencoder``: error with which a narrow net rebuilds the last stretch of samples, or all channels at one time.

Idea
    A net with a bottleneck of ``code`` numbers learns to rebuild ordinary vectors: the last ``window`` samples of any
    series of the rule, or with ``joint: true`` the samples of a group of series at one time. What does not fit through
    the bottleneck is unusual. The net is used only if it rebuilds the last fifth of the history better than the plane
    of the same number of principal components; otherwise that plane is used. Which one runs is told as a notice.

Works for
    Collective anomalies (a stretch of a shape never seen) and, jointly, channels that leave their common pattern: the
    principal plane is the best simple method on multivariate benchmarks.

Fails when
    The stretch is simple (a flat line is rebuilt easily), or normal behaviour needs more numbers than the code has.
    One net is shared by the series that are fitted together, so fits in other shards differ.

Toy stream
    Three channels with z = x + y: two numbers suffice, so a time at which z differs is rebuilt badly.

Reference
    Sakurada and Yairi, Anomaly Detection Using Autoencoders with Nonlinear Dimensionality Reduction (2014). Trained
    with torch (extra ``lstm``), scored without.
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
    newest,
    span,
)
from anomalyd.detectors.embedding import F32, Embedding, joint_vectors
from anomalyd.detectors.lstm import choice_of
from anomalyd.errors import DetectorError

Arrays = dict[str, npt.NDArray[Any]]
LAYERS = ("w1", "b1", "w2", "b2", "w3", "b3", "w4", "b4")
SHARED = (*LAYERS, "mean", "basis", "gate")
FARTHEST = 8.0
FLOOR = 0.02
LEAST_VECTORS = 64
HOLD_OUT = 0.2
MOST_CHECKED = 20_000


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
        values, civil = clean(history.values), civil_times(history.times, self.grid.timezone)
        arrays = self.embedding.learn(values, civil)
        rows = 1 if self.params.joint else len(values)
        vectors, present = self._vectors(arrays, values, civil)
        arrays |= self._train(vectors, present, seed)
        arrays["error"] = np.full(rows, np.nan)
        shared = {*SHARED}
        if self.params.joint:
            arrays["channels"] = np.array([len(values)])
            shared |= {"channels", "error"}
        if arrays["gate"][2] >= 0 and vectors.shape[1]:
            errors = self._errors(arrays, vectors, present)
            for s in np.flatnonzero((~np.isnan(errors)).any(axis=1)):
                arrays["error"][s] = max(FLOOR, float(np.nanmedian(errors[s])))
        return State(arrays, frozenset(shared), newest(history))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "scale", fresh)
        if self.params.joint and int(state.arrays["channels"][0]) != len(fresh):
            raise DetectorError("shape", f"a joint model of {state.arrays['channels'][0]} channels, not {len(fresh)}")
        values, civil = clean(fresh.values), civil_times(fresh.times, self.grid.timezone)
        arrays: Arrays = dict(state.arrays)
        arrays["recent"], arrays["seen"] = state.arrays["recent"].copy(), state.arrays["seen"].copy()
        raw = blank(values.shape)
        raw.expected[:] = self.embedding.expected(arrays, civil)
        vectors, present = self._vectors(arrays, values, civil)
        if arrays["gate"][2] >= 0 and len(vectors):
            score = self._errors(arrays, vectors, present) / arrays["error"][:, None]
            raw.score[:] = np.where(np.isnan(values), np.nan, np.minimum(score, HIGHEST_SCORE))
        return raw, advanced(state, arrays, fresh)

    def choices(self, state: State) -> tuple[Choice, ...]:
        """Which model runs and by what right."""
        return (choice_of(state.arrays["gate"], "the principal plane"),)

    def _vectors(self, arrays: Arrays, values: F64, civil: I64) -> tuple[F32, Bool]:
        """Vectors [N, T, F] (one row when joint), limited, and where there are any; the lags move on in place."""
        if self.params.joint:
            joined, some = joint_vectors(self.embedding, arrays, values, civil)
            return np.clip(joined[None], -FARTHEST, 1e4), some[None]
        parts = np.zeros((len(values), len(civil), self.embedding.width), np.float32)
        for rows, chunk in self.embedding.chunks(arrays, values, civil):
            parts[rows] = chunk
        return parts, ~np.isnan(values)

    def _errors(self, arrays: Arrays, vectors: F32, present: Bool) -> F64:
        from anomalyd.detectors.kernels.recurrent import rebuild_errors

        out = np.full(vectors.shape[:2], np.nan)
        layers = (arrays[name] for name in LAYERS)
        w1, b1, w2, b2, w3, b3, w4, b4 = layers
        net = bool(arrays["gate"][2] > 0)
        rebuild_errors(vectors, present, net, w1, b1, w2, b2, w3, b3, w4, b4, arrays["mean"], arrays["basis"], out)
        return out

    def _train(self, vectors: F32, present: Bool, seed: int) -> Arrays:
        """Weights, plane and gate: the errors of both, 1 net / 0 plane / -1 none, round stopped in, rounds."""
        p, width = self.params, vectors.shape[2]
        code = min(p.code, width)
        sizes = (width, p.hidden, code, p.hidden, width)
        arrays: Arrays = {"mean": np.zeros(width), "basis": np.zeros((code, width))}
        for layer in range(4):
            arrays[f"w{layer + 1}"] = np.zeros((sizes[layer + 1], sizes[layer]))
            arrays[f"b{layer + 1}"] = np.zeros(sizes[layer + 1])
        arrays["gate"] = np.array([np.nan, np.nan, -1.0, 0.0, 0.0])
        cut = int(vectors.shape[1] * (1 - HOLD_OUT))
        rng = np.random.default_rng(seed)
        train = _draw(vectors[:, :cut], present[:, :cut], p.windows, rng)
        check = _draw(vectors[:, cut:], present[:, cut:], MOST_CHECKED, rng)
        if len(train) < LEAST_VECTORS or not len(check):
            return arrays
        from anomalyd.detectors.training import Effort, train_autoencoder

        arrays["mean"] = train.mean(axis=0).astype(np.float64)
        directions = np.linalg.svd((train - train.mean(axis=0)).astype(np.float64), full_matrices=False)[2]
        arrays["basis"][: len(directions[:code])] = directions[:code]
        seconds = self.share * p.train_time.milliseconds(self.grid.step_ms) / 1000
        effort = Effort(p.windows, seconds, self.clock)
        trained = train_autoencoder(train, p.hidden, code, effort, seed)
        arrays |= trained.weights
        every = np.ones((1, len(check)), np.bool_)
        errors = []
        for net in (1.0, 0.0):
            arrays["gate"] = np.array([np.nan, np.nan, net])
            errors.append(float((self._errors(arrays, check[None], every) ** 2).mean()))
        arrays["gate"] = np.array([*errors, float(errors[0] < errors[1]), trained.stopped, trained.rounds])
        return arrays


def _draw(vectors: F32, present: Bool, most: int, rng: np.random.Generator) -> F32:
    """At most so many of the vectors [N, T, F] that are present, limited, in random order [W, F]."""
    places = np.flatnonzero(present.reshape(-1))
    chosen = rng.permutation(places)[: min(most, 50_000)]
    return np.ascontiguousarray(np.clip(vectors.reshape(-1, vectors.shape[2])[chosen], -FARTHEST, FARTHEST))
