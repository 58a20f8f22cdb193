"""``extended_isolation_forest``: an isolation forest whose cuts are oblique.

Idea
    As ``isolation_forest``, but each cut is a plane over ``dimensions`` features with a random direction. Cuts along
    single axes leave stripes of ordinary score beside every cluster ("ghosts" where one cluster's x meets another's
    y); oblique ones do not, so related features (a sample and its change, requests and CPU) are seen together.

Works for
    Unusual combinations of features that move together, above all with ``joint: true``.

Fails when
    Only one feature of many is unusual: a random direction mostly misses it (``isolation_forest`` is better there).
    It does not learn between fits. A new level between two old ones is not isolated.

Toy stream
    Two channels with y = x; then x = 2 with y = -2: both ordinary alone, far from the line.

Reference
    Hariri, Carrasco Kind and Brunner, Extended Isolation Forest (2019). Tested against its findings: scores around a
    round cluster vary less with the direction than those of a standard forest, and ghosts are scored higher.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid
from anomalyd.detectors.embedding import F32
from anomalyd.detectors.vectors import Arrays, VectorDetector, isolation


class ExtendedIsolationForestParams(base.Params):
    """Parameters of ``extended_isolation_forest``."""

    trees: int = Field(64, ge=1, le=500, description="Number of trees.")
    sample: int = Field(128, ge=8, le=2048, description="Vectors each tree is grown on; memory grows with it.")
    dimensions: int = Field(3, ge=1, le=32, description="Features in each cut; 1 cuts along axes.")
    lags: int = Field(7, ge=0, le=64, description="Earlier samples in a vector.")
    calendar: bool = Field(True, description="Put the time of day into the vector.")
    joint: bool = Field(False, description="The series of each `group_by` group are channels of one vector per time.")


class ExtendedIsolationForest(VectorDetector):
    """One extended forest per series (or one over all channels); see the module's docstring."""

    name: ClassVar[str] = "extended_isolation_forest"
    streaming: ClassVar[bool] = False
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = ExtendedIsolationForestParams
    model_names: ClassVar[tuple[str, ...]] = ("features", "weights", "offset", "right", "samples")

    def __init__(self, params: ExtendedIsolationForestParams, grid: Grid) -> None:
        super().__init__(grid, params.lags, params.calendar, params.joint)
        self.params = params
        self.deepest = int(np.ceil(np.log2(params.sample)))

    @property
    def min_history(self) -> int:
        return self.params.sample

    def _blank(self, n: int, width: int) -> Arrays:
        shape = (n, self.params.trees, 2 ** (self.deepest + 1) - 1)
        dimensions = min(self.params.dimensions, width)
        return {
            "features": np.zeros((*shape, dimensions), np.int16),
            "weights": np.zeros((*shape, dimensions), np.float32),
            "offset": np.zeros(shape, np.float32),
            "right": np.full(shape, -1, np.int16),
            "samples": np.zeros(n, np.int64),
        }

    def _fit_one(self, arrays: Arrays, s: int, vectors: F32, seed: int) -> None:
        from anomalyd.detectors.kernels.eforest import grow_extended

        arrays["samples"][s] = self.params.sample
        features, weights, offset, right = (arrays[name][s] for name in self.model_names[:4])
        grow_extended(vectors, self.params.sample, self.deepest, seed, features, weights, offset, right)

    def _score(self, vectors: F32, model: list[npt.NDArray[Any]], present: Bool, score: F64) -> None:
        from anomalyd.detectors.kernels.eforest import score_extended

        features, weights, offset, right, samples = model
        score_extended(vectors, features, weights, offset, right, samples, present, score)

    def stretched(self, score: F64) -> F64:
        """What the calibration sees; see ``isolation``."""
        return isolation(score)
