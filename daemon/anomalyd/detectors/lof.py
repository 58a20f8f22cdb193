"""``lof``: how much lonelier a sample's vector is than its neighbours are.

Idea
    A sample, its differences from the ones before it and the time of day make a vector. Some hundred vectors of the
    history are kept. The score is the local outlier factor: the density around the sample's nearest neighbours over the
    density around itself. 1 is ordinary, 2 is clearly apart - measured by how tight the neighbourhood is, so a small
    step in a quiet regime counts as much as a large one in a noisy one.

Works for
    Series with regimes of different noise; unusual combinations across channels with ``joint: true``.

Fails when
    Anomalies repeat (they are each other's neighbours), or there are many features: all distances become alike. On
    single metrics its ranking is the weakest of the established methods (TSB-AD); prefer ``knn`` there.

Toy stream
    ``1 1.1 1 1.1 1 50 48 52 49 1.5``: 1.5 is nearer to its neighbours than any two of the fifties are to each other,
    and yet it alone stands apart.

Reference
    Breunig, Kriegel, Ng and Sander, LOF: Identifying Density-Based Local Outliers, SIGMOD 2000. Equal to
    scikit-learn's ``LocalOutlierFactor(novelty=True)`` on the vectors kept.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid
from anomalyd.detectors.common import HIGHEST_SCORE
from anomalyd.detectors.embedding import F32
from anomalyd.detectors.vectors import Arrays, VectorDetector


class LofParams(base.Params):
    """Parameters of ``lof``."""

    neighbours: int = Field(20, ge=1, le=200, description="Neighbours that make the neighbourhood.")
    keep: int = Field(512, ge=32, le=4096, description="Vectors of the history that are kept, drawn at random.")
    lags: int = Field(3, ge=0, le=64, description="Earlier samples in a vector.")
    calendar: bool = Field(True, description="Put the time of day into the vector.")
    joint: bool = Field(False, description="The series of each `group_by` group are channels of one vector per time.")


class Lof(VectorDetector):
    """Novelty LOF per series (or over all channels); see the module's docstring."""

    name: ClassVar[str] = "lof"
    streaming: ClassVar[bool] = False
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = LofParams
    model_names: ClassVar[tuple[str, ...]] = ("kept", "radius", "density", "fitted")

    def __init__(self, params: LofParams, grid: Grid) -> None:
        super().__init__(grid, params.lags, params.calendar, params.joint)
        self.params = params
        self.neighbours = min(params.neighbours, params.keep - 1)

    @property
    def min_history(self) -> int:
        return self.params.keep

    def _blank(self, n: int, width: int) -> Arrays:
        keep = self.params.keep
        return {
            "kept": np.zeros((n, keep, width), np.float32),
            "radius": np.zeros((n, keep)),
            "density": np.zeros((n, keep)),
            "fitted": np.zeros(n, np.bool_),
        }

    def _fit_one(self, arrays: Arrays, s: int, vectors: F32, seed: int) -> None:
        from anomalyd.detectors.kernels.lof import learn_density

        rows = np.random.default_rng(seed).choice(len(vectors), self.params.keep, replace=False)
        arrays["kept"][s] = vectors[np.sort(rows)]
        learn_density(arrays["kept"][s], self.neighbours, arrays["radius"][s], arrays["density"][s])
        arrays["fitted"][s] = True

    def _score(self, vectors: F32, model: list[npt.NDArray[Any]], present: Bool, score: F64) -> None:
        from anomalyd.detectors.kernels.lof import score_density

        kept, radius, density, fitted = model
        score_density(vectors, kept, radius, density, fitted, self.neighbours, present, score)
        np.minimum(score, HIGHEST_SCORE, out=score)
