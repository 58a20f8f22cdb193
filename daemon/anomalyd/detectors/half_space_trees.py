"""``half_space_trees``: how empty the place is where a sample's residual falls, by random half-space trees.

Idea
    Subtract a cheap expectation (level, day, week), scale the residual and its change by the series' spread to [0, 1],
    and drop the pair down a set of random trees that cut the square in halves. Each node counts the samples of the
    last window that passed; a sample that soon reaches nearly empty nodes is abnormal. The trees are shared by all
    series of a rule, the counts are bytes: 10 kB per series at 10 trees of height 8.

Works for
    Point anomalies and sudden changes of any shape of noise, without assuming a distribution; learns from the first
    window on and forgets by itself, so nothing has to be refitted. With ``joint: true`` the residuals of a group of
    series are one vector, and combinations are judged that no series shows alone.

Fails when
    Anomalies fill a whole window: they become the reference. Drift slower than the window is invisible. On raw
    seasonal values the method finds 3 of 10 spikes where it finds 10 of 10 on residuals, hence the expectation.

Toy stream
    A thousand residuals within ±2 spreads, then one of 9: the walk ends after two or three nodes with no mass.

Reference
    Tan, Ting and Liu, Fast Anomaly Detection for Streaming Data, IJCAI 2011. Trees and scores equal river's
    ``HalfSpaceTrees`` bit for bit on the same features and seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.baseline import make_baseline
from anomalyd.detectors.common import advanced, blank, check_newer, check_series, civil_times, clean, held
from anomalyd.detectors.stepping import Arrays, Past, advance, begin, with_past
from anomalyd.errors import DetectorError

FEATURES = 2
TREES = ("feature", "threshold")
JOINT_SHARED = (*TREES, "latest", "reference", "seen", "channels")
MOST_CHANNELS = 63
"""So many that a feature's number fits into a byte."""
PADDING = 0.15
EMPTIEST = 1e-4
"""Less mass than this around a sample is no mass."""


class HalfSpaceParams(base.Params):
    """Parameters of ``half_space_trees``."""

    trees: int = Field(10, ge=1, le=200, description="Number of trees.")
    height: int = Field(8, ge=1, le=12, description="Height of each tree; memory doubles with each level.")
    window: int = Field(250, ge=10, le=255, description="Samples per window; scores begin when the first is full.")
    reach: float = Field(10.0, gt=0, description="Residuals are cut off at this many spreads.")
    joint: bool = Field(False, description="The series of each `group_by` group (at most 63) are one vector per time.")


def grow_trees(trees: int, height: int, features: int, seed: int) -> tuple[npt.NDArray[np.int8], F64]:
    """Features and thresholds [trees, 2^height - 1 inner nodes] in heap order, drawn exactly as river draws them.

    Each split takes a feature with odds by its remaining width and a point in the middle 70 % of that width.
    """
    rng = random.Random(seed)
    feature = np.zeros((trees, 2**height - 1), np.int8)
    threshold = np.zeros((trees, 2**height - 1))

    def grow(tree: int, node: int, limits: list[tuple[float, float]], left: int) -> None:
        if left == 0:
            return
        on = rng.choices(range(features), weights=[high - low for low, high in limits])[0]
        low, high = limits[on]
        at = rng.uniform(low + PADDING * (high - low), high - PADDING * (high - low))
        feature[tree, node], threshold[tree, node] = on, at
        grow(tree, 2 * node + 1, [*limits[:on], (low, at), *limits[on + 1 :]], left - 1)
        grow(tree, 2 * node + 2, [*limits[:on], (at, high), *limits[on + 1 :]], left - 1)

    for tree in range(trees):
        grow(tree, 0, [(0.0, 1.0)] * features, height)
    return feature, threshold


class HalfSpaceTrees:
    """Half-Space Trees on residuals; see the module's docstring."""

    name: ClassVar[str] = "half_space_trees"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = HalfSpaceParams

    def __init__(self, params: HalfSpaceParams, grid: Grid) -> None:
        self.params = params
        self.grid = grid
        self.joint = params.joint
        self.baseline = make_baseline(grid.step_ms)

    @property
    def min_history(self) -> int:
        return self.params.window

    def fit(self, history: Block, seed: int) -> State:
        n, p = len(history), self.params
        if self.joint and n > MOST_CHANNELS:
            raise DetectorError("shape", f"half_space_trees with joint takes {MOST_CHANNELS} channels at most, not {n}")
        models = 1 if self.joint else n
        feature, threshold = grow_trees(p.trees, p.height, FEATURES * max(1, n) if self.joint else FEATURES, seed)
        nodes = 2 ** (p.height + 1) - 1
        arrays = self.baseline.arrays(n) | {
            "feature": feature,
            "threshold": threshold,
            "latest": np.zeros((models, p.trees, nodes), np.uint8),
            "reference": np.zeros((models, p.trees, nodes), np.uint8),
            "seen": np.zeros((models, 2), np.int64),
            "before": np.zeros(n),
        }
        if self.joint:
            arrays["channels"] = np.array([n])
            return self._joint(State(arrays, frozenset(JOINT_SHARED)), history, None)[1]
        empty = State(arrays, frozenset({"feature", "threshold"}))
        return begin(empty, history, self._learn(history.times, feature, threshold))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "line", fresh)
        if self.joint:
            channels = int(state.arrays["channels"][0])
            if channels != len(fresh):
                raise DetectorError("shape", f"a joint model of {channels} channels cannot score {len(fresh)}")
            return self._joint(state, fresh, hold)
        learn = self._learn(fresh.times, state.arrays["feature"], state.arrays["threshold"])
        return advance(state, fresh, hold, learn, relive=learn.after)

    def stretched(self, score: F64) -> F64:
        """Emptiness on a logarithmic scale: the trees' score ends at 1, wherever beyond the known a sample falls."""
        return -np.log(np.maximum(1.0 - score, EMPTIEST))

    def _joint(self, state: State, fresh: Block, hold: Bool | None) -> tuple[Raw, State]:
        from anomalyd.detectors.kernels.halfspace import half_space_joint

        raw, p, b = blank(fresh.values.shape), self.params, self.baseline
        a = {name: array if name in TREES else array.copy() for name, array in state.arrays.items()}
        if len(fresh):
            civil = civil_times(fresh.times, self.grid.timezone, self.grid.holidays)
            half_space_joint(
                clean(fresh.values), civil, bool(held(hold, len(fresh)).any()),
                a["line"], a["day"], a["week"], b.memories, b.floors, a["feature"], a["threshold"], a["latest"],
                a["reference"], a["seen"], a["before"], p.window, p.height, p.reach, raw.score, raw.expected,
            )  # fmt: skip
        return raw, advanced(state, a, fresh)

    def _learn(self, times: I64, feature: Any, threshold: Any) -> _Lesson:
        return _Lesson(self, civil_times(times, self.grid.timezone, self.grid.holidays), feature, threshold)

    def live(self, a: Arrays, lesson: _Lesson, past: Past | None, values: F64, hold: Bool, raw: Raw) -> None:
        """Learn the past, if there is one, then score and learn the values; one pass over the series."""
        from anomalyd.detectors.kernels.halfspace import half_space

        b, p = self.baseline, self.params
        values, again, last_hold = with_past(past, values, hold)
        half_space(
            values, again, lesson.civil, last_hold, hold, a["line"], a["day"], a["week"], b.memories, b.floors,
            lesson.feature, lesson.threshold, a["latest"], a["reference"], a["seen"], a["before"], p.window, p.height,
            p.reach, raw.score, raw.expected,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """How samples at these civil times are learned with these trees, as ``stepping`` wants it."""

    detector: HalfSpaceTrees
    civil: I64
    feature: npt.NDArray[np.int8]
    threshold: F64

    def __call__(self, a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
        self.detector.live(a, self, None, values, hold, raw)

    def after(self, a: Arrays, past: Past, values: F64, hold: Bool, raw: Raw) -> None:
        """Learn the past once more, then these."""
        last = past.learn
        assert isinstance(last, _Lesson), "this is what learned it"
        both = replace(self, civil=np.concatenate([last.civil, self.civil]))
        self.detector.live(a, both, past, values, hold, raw)
