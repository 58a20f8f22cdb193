"""``isolation_forest``: how few random cuts isolate a sample together with the ones before it.

Idea
    A sample, its differences from the seven before it and the time of day make a vector. Random trees cut the space of
    the history's vectors; an unusual vector stands alone after few cuts. The score is Liu's 2^(-depth / usual depth):
    0.4 to 0.5 is ordinary, towards 1 is isolated.

Works for
    Unusual combinations: a value that is ordinary by itself, but not after these values or at this hour. With
    ``joint: true`` the series of a group are channels of one vector, and an unusual combination across them is found.

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

from anomalyd.block import F64, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid
from anomalyd.detectors.embedding import F32
from anomalyd.detectors.vectors import Arrays, VectorDetector, isolation


class IsolationForestParams(base.Params):
    """Parameters of ``isolation_forest``."""

    trees: int = Field(64, ge=1, le=500, description="Number of trees.")
    sample: int = Field(128, ge=8, le=2048, description="Vectors each tree is grown on; memory grows with it.")
    lags: int = Field(7, ge=0, le=64, description="Earlier samples in a vector.")
    calendar: bool = Field(True, description="Put the time of day into the vector.")
    joint: bool = Field(False, description="The series of each `group_by` group are channels of one vector per time.")
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


class IsolationForest(VectorDetector):
    """One forest per series (or one over all channels); see the module's docstring."""

    name: ClassVar[str] = "isolation_forest"
    streaming: ClassVar[bool] = False
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = IsolationForestParams
    model_names: ClassVar[tuple[str, ...]] = ("feature", "threshold", "right", "samples")

    def __init__(self, params: IsolationForestParams, grid: Grid) -> None:
        super().__init__(grid, params.lags, params.calendar, params.joint)
        self.params = params

    @property
    def min_history(self) -> int:
        return self.params.sample

    def _blank(self, n: int, width: int) -> Arrays:
        shape = (n, self.params.trees, 2 * self.params.sample - 1)
        return {
            "feature": np.full(shape, -1, np.int16),
            "threshold": np.zeros(shape, np.float32),
            "right": np.zeros(shape, np.int16),
            "samples": np.zeros(n, np.int64),
        }

    def _fit_one(self, arrays: Arrays, s: int, vectors: F32, seed: int) -> None:
        from anomalyd.detectors.kernels.iforest import grow_forest

        size = self.params.sample
        arrays["samples"][s] = size
        if self.params.builder == "kernel":
            deepest = int(np.ceil(np.log2(size)))
            feature, threshold, right = (arrays[name][s] for name in self.model_names[:3])
            grow_forest(vectors, size, deepest, seed, feature, threshold, right)
            return
        from sklearn.ensemble import IsolationForest as Library

        library = Library(n_estimators=self.params.trees, max_samples=size, random_state=seed).fit(vectors)
        for name, packed in pack_sklearn(library, 2 * size - 1).items():
            arrays[name][s] = packed

    def _score(self, vectors: F32, model: list[npt.NDArray[Any]], present: Bool, score: F64) -> None:
        from anomalyd.detectors.kernels.iforest import score_forests

        feature, threshold, right, samples = model
        score_forests(vectors, feature, threshold, right, samples, present, score)

    def stretched(self, score: F64) -> F64:
        """What the calibration sees; see ``isolation``."""
        return isolation(score)
