"""``isolation_forest``: how few random cuts isolate a sample together with the ones before it.

Idea
    A sample, its differences from the seven before it and the time of day make a vector. Random trees cut the space of
    the history's vectors; an unusual vector stands alone after few cuts. The score is Liu's 2^(-depth / usual depth):
    0.4 to 0.5 is ordinary, towards 1 is isolated.

Works for
    Unusual combinations: a value that is ordinary by itself, but not after these values or at this hour. With
    ``joint: true`` the series of a rule are channels of one vector, and an unusual combination across them is found.

Fails when
    A new level lies between two old ones (nothing is isolated there); when cuts along single axes cannot see a
    relation such as y = x (``extended_isolation_forest`` cuts obliquely). It does not learn between fits.

Toy stream
    ``1 2 3 1 2 3 1 2 3 1 3 3``: every value is ordinary, the pair (1, 3) was never seen.

Reference
    Liu, Ting and Zhou, Isolation Forest, ICDM 2008. With ``builder: sklearn`` the trees are scikit-learn's, and scores
    equal its ``score_samples`` within 1e-12; the own builder's forests agree with it as two of its seeds do.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    advanced,
    blank,
    check_newer,
    check_series,
    civil_times,
    clean,
    newest,
    series_seeds,
)
from anomalyd.detectors.embedding import F32, Embedding, joint_vectors, spread_constants
from anomalyd.errors import DetectorError

Arrays = dict[str, npt.NDArray[Any]]
FOREST = ("feature", "threshold", "right", "samples")


class IsolationForestParams(base.Params):
    """Parameters of ``isolation_forest``."""

    trees: int = Field(64, ge=1, le=500, description="Number of trees.")
    sample: int = Field(128, ge=8, le=2048, description="Vectors each tree is grown on; memory grows with it.")
    lags: int = Field(7, ge=0, le=64, description="Earlier samples in a vector.")
    calendar: bool = Field(True, description="Put the time of day into the vector.")
    joint: bool = Field(False, description="The series of the rule are channels of one vector per time.")
    builder: Literal["kernel", "sklearn"] = Field("kernel", description="Who grows the trees; sklearn takes longer.")


def floor32(values: npt.NDArray[np.float64]) -> F32:
    """The largest float32 not above each value."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def pack_sklearn(forest: Any, nodes: int) -> Arrays:
    """Nodes of a fitted ``sklearn.ensemble.IsolationForest`` as packed arrays [trees, nodes]."""
    shape = (len(forest.estimators_), nodes)
    packed: Arrays = {
        "feature": np.full(shape, -1, np.int16),
        "threshold": np.zeros(shape, np.float32),
        "right": np.zeros(shape, np.int16),
    }
    for i, estimator in enumerate(forest.estimators_):
        tree = estimator.tree_
        n, leaf = tree.node_count, tree.children_left == -1
        packed["feature"][i, :n] = np.where(leaf, -1, tree.feature)
        packed["threshold"][i, :n] = np.where(leaf, tree.n_node_samples, floor32(tree.threshold))
        packed["right"][i, :n] = np.where(leaf, 0, tree.children_right)
    return packed


class IsolationForest:
    """One forest per series (or one over all channels); see the module's docstring."""

    name: ClassVar[str] = "isolation_forest"
    streaming: ClassVar[bool] = False
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = IsolationForestParams

    def __init__(self, params: IsolationForestParams, grid: Grid) -> None:
        self.params = params
        self.grid = grid
        self.embedding = Embedding(1 if params.joint else params.lags, params.calendar, changes=True)

    @property
    def min_history(self) -> int:
        return max(self.params.sample, 2 * self.params.lags)

    def fit(self, history: Block, seed: int) -> State:
        values, civil = clean(history.values), civil_times(history.times, self.grid.timezone)
        arrays = self.embedding.learn(values, civil)
        present = ~np.isnan(values)
        if self.params.joint:
            vectors, some = joint_vectors(self.embedding, arrays, values, civil)
            arrays |= self._blank(1)
            self._fit_one(arrays, 0, vectors[some], seed)
            arrays["channels"] = np.array([len(values)])
            return State(arrays, frozenset({*FOREST, "channels"}), newest(history))
        arrays |= self._blank(len(history))
        seeds = series_seeds(history.labels, seed)
        for rows, chunk in self.embedding.chunks(arrays, values, civil):
            for i in range(len(chunk)):
                s = rows.start + i
                self._fit_one(arrays, s, chunk[i][present[s]], int(seeds[s]))
        return State(arrays, as_of=newest(history))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "scale", fresh)
        values, civil = clean(fresh.values), civil_times(fresh.times, self.grid.timezone)
        arrays: Arrays = dict(state.arrays)
        arrays["recent"], arrays["seen"] = state.arrays["recent"].copy(), state.arrays["seen"].copy()
        raw, present = blank(values.shape), ~np.isnan(values)
        raw.expected[:] = self.embedding.expected(arrays, civil)
        if self.params.joint:
            self._check_channels(state, fresh)
            vectors, some = joint_vectors(self.embedding, arrays, values, civil)
            row = np.full((1, len(civil)), np.nan)
            self._score(vectors[None], arrays, slice(None), some[None], row)
            raw.score[:] = np.where(present, row, np.nan)
            return raw, advanced(state, arrays, fresh)
        for rows, chunk in self.embedding.chunks(arrays, values, civil):
            self._score(chunk, arrays, rows, present[rows], raw.score[rows])
        return raw, advanced(state, arrays, fresh)

    def _blank(self, n: int) -> Arrays:
        shape = (n, self.params.trees, 2 * self.params.sample - 1)
        return {
            "feature": np.full(shape, -1, np.int16),
            "threshold": np.zeros(shape, np.float32),
            "right": np.zeros(shape, np.int16),
            "samples": np.zeros(n, np.int64),
        }

    def _fit_one(self, arrays: Arrays, s: int, vectors: F32, seed: int) -> None:
        """Grow the forest of one series from its vectors [R, F]; too few leave it without one."""
        from anomalyd.detectors.kernels.iforest import grow_forest

        if len(vectors) < self.min_history:
            return
        vectors = spread_constants(vectors, seed)
        size = self.params.sample
        arrays["samples"][s] = size
        if self.params.builder == "kernel":
            deepest = int(np.ceil(np.log2(size)))
            forest = (arrays[name][s] for name in ("feature", "threshold", "right"))
            grow_forest(np.ascontiguousarray(vectors), size, deepest, seed, *forest)
            return
        from sklearn.ensemble import IsolationForest as Library

        library = Library(n_estimators=self.params.trees, max_samples=size, random_state=seed).fit(vectors)
        for name, packed in pack_sklearn(library, 2 * size - 1).items():
            arrays[name][s] = packed

    def _score(self, vectors: F32, arrays: Arrays, rows: slice, present: Bool, score: F64) -> None:
        from anomalyd.detectors.kernels.iforest import score_forests

        feature, threshold, right, samples = (arrays[name][rows] for name in FOREST)
        score_forests(vectors, feature, threshold, right, samples, present, score)

    def _check_channels(self, state: State, fresh: Block) -> None:
        channels = int(state.arrays["channels"][0])
        if channels != len(fresh):
            raise DetectorError("shape", f"a joint model of {channels} channels cannot score {len(fresh)}")
