"""``adwin``: evidence that the level has changed, by an adaptive window over residuals.

Idea
    Subtract a cheap expectation (level, day, week) and keep as long a window of residuals as holds one mean. At every
    sample all ways to cut the window in an older and a newer part are compared: the score is the greatest difference
    of means over what chance allows at confidence 1 - delta, so above 1 is a drift. When one is found the older part
    is forgotten and the expectation moves to the newer part's level; the drift is noted, which pages nobody.

Works for
    Level shifts and slow drifts too small to see in one sample: a cache that lost a tenth of its hit ratio, a release
    that made every request 5 % slower.

Fails when
    The anomaly is one sample: a mean over a window hardly moves (the scores of point anomalies are low by nature). On
    raw values with a daily rhythm ADWIN fires all day (188 times in 14 days, measured; on residuals never), hence the
    expectation; it needs a week to know a weekend.

Toy stream
    300 residuals around 0, then 40 around 1.5: the score rises above 1 within some ten samples of the change.

Reference
    Bifet and Gavaldà, Learning from Time-Changing Data with Adaptive Windowing, SDM 2007. Windows and detections
    equal river's ``ADWIN`` bit for bit on the same residuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import HOUR_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.baseline import make_baseline
from anomalyd.detectors.common import check_newer, check_series, civil_times
from anomalyd.detectors.drift import FOUND, RECENT, SPANS
from anomalyd.detectors.stepping import Arrays, Past, advance, begin, with_past

ROWS = 24
"""Bucket sizes up to 2^23 samples: a window of years."""
MOST_BUCKETS = 5
LEAST_PART = 5
SETTLED = 30
"""Samples the expectation learns from before its residuals are looked at."""
REACH = 8.0
"""Residuals are cut off at this many spreads: one wild sample must not look like a change of the mean."""
QUIET_MS = HOUR_MS
"""Drifts of one series within this are noted once."""


class AdwinParams(base.Params):
    """Parameters of ``adwin``."""

    delta: float = Field(0.002, gt=0, lt=1, description="Chance of a false drift per comparison.")
    clock: int = Field(32, ge=1, description="Forget the older part at most every so many samples.")


class Adwin:
    """ADWIN on residuals; see the module's docstring."""

    name: ClassVar[str] = "adwin"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = AdwinParams

    def __init__(self, params: AdwinParams, grid: Grid) -> None:
        self.params = params
        self.grid = grid
        self.baseline = make_baseline(grid.step_ms)

    @property
    def min_history(self) -> int:
        return SETTLED + 2 * LEAST_PART

    def fit(self, history: Block, seed: int) -> State:
        n = len(history)
        fill = np.zeros((n, ROWS + 1), np.int8)
        fill[:, -1] = 1
        arrays = self.baseline.arrays(n) | {
            "totals": np.zeros((n, ROWS, MOST_BUCKETS + 1)),
            "variances": np.zeros((n, ROWS, MOST_BUCKETS + 1)),
            "fill": fill,
            "window": np.zeros((n, 4)),
            "drifted": np.zeros((n, 2), np.int64),
            FOUND: np.zeros((n, RECENT), np.int64),
            SPANS: np.zeros((n, RECENT), np.int64),
        }
        return begin(State(arrays), history, self._learn(history.times))

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "line", fresh)
        learn = self._learn(fresh.times)
        return advance(state, fresh, hold, learn, relive=learn.after)

    def _learn(self, times: I64) -> _Lesson:
        return _Lesson(self, np.ascontiguousarray(times), civil_times(times, self.grid.timezone, self.grid.holidays))

    def live(self, a: Arrays, lesson: _Lesson, past: Past | None, values: F64, hold: Bool, raw: Raw) -> None:
        """Learn the past, if there is one, then score and learn the values; one pass over the series."""
        from anomalyd.detectors.kernels.adwin import drift

        b, p = self.baseline, self.params
        values, again, last_hold = with_past(past, values, hold)
        drift(
            values, again, lesson.times, lesson.civil, last_hold, hold, a["line"], a["day"], a["week"], b.memories,
            b.floors, a["totals"], a["variances"], a["fill"], a["window"], a["drifted"], a[FOUND], a[SPANS], QUIET_MS,
            SETTLED, REACH, p.delta, p.clock, MOST_BUCKETS, LEAST_PART, raw.score, raw.expected,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """How samples at these times are learned, as ``stepping`` wants it."""

    detector: Adwin
    times: I64
    civil: I64

    def __call__(self, a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
        self.detector.live(a, self, None, values, hold, raw)

    def after(self, a: Arrays, past: Past, values: F64, hold: Bool, raw: Raw) -> None:
        """Learn the past once more, then these."""
        last = past.learn
        assert isinstance(last, _Lesson), "this is what learned it"
        times, civil = np.concatenate([last.times, self.times]), np.concatenate([last.civil, self.civil])
        self.detector.live(a, _Lesson(self.detector, times, civil), past, values, hold, raw)
