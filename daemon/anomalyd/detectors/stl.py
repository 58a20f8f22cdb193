"""``stl``: distance from a stored seasonal profile that STL has learned, with a level that follows.

Idea
    At each fit, STL (seasonal-trend decomposition by loess, robust) takes the history apart: a slow trend, one season
    per period, a remainder. The last cycle of each season becomes a stored profile. Between fits a sample is compared
    with level + profile, out of sample; the score is the distance in robust standard deviations. The level follows
    by small bounded steps, so a trend between fits does not look like an anomaly and a spike does not move it. Where
    the level itself, since the last fit, has moved much farther than it did in as long a time over the history, the
    score is that move, and expected is where it was at the fit. Rhythms of the clock (a day, a week, parts of a day)
    follow the rule's time zone through daylight-saving time.

Works for
    Rhythms: requests by time of day, weekday and weekend (``period: [1d, 1w]``), hourly jobs. Contextual anomalies -
    the value of noon at midnight - are found. So are slow leaks of more than about 1.25 spreads a day, and five times
    what the level usually moves in a day.

Fails when
    A leak is slower than that: each fit takes the level it finds for normal, and ``forecast`` is for limits.
    The rhythm is irregular or drifts in phase, or there are fewer than two cycles of history (no score until then).
    Holidays teach it nothing, and a rhythm of a week shows them as the day that they count as.

Toy stream
    Two weeks of a sine of 24 samples a day, then one noon value at midnight: inside the range of all values, but a
    full amplitude from the profile.

Reference
    Cleveland, Cleveland, McRae and Terpenning (1990); equal to statsmodels' ``STL`` with the same jumps within 1e-8.
    Scoring the last remainder of a refit instead hides 63 % of a spike with the library's defaults (measured).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS, HOUR_MS, WEEK_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.common import (
    ABSOLUTE_FLOOR,
    HIGHEST_SCORE,
    RELATIVE_FLOOR,
    SpanField,
    advanced,
    blank,
    check_newer,
    check_series,
    civil_times,
    clean,
    days_moved,
    held,
)
from anomalyd.detectors.periods import find_periods

MOST_PERIODS = 3
MOST_BINS = 2_016
"""Longer profiles are stored in so many bins, with lines between: a week at 5 minutes is exact."""
LEAST_SAMPLES = 30
"""Samples before the first score of a series without a rhythm."""


class StlParams(base.Params):
    """Parameters of ``stl``."""

    period: SpanField | tuple[SpanField, ...] | None = Field(
        None, description="Length of the rhythm, or a list of up to three; found by autocorrelation when left out."
    )
    seasonal: int = Field(35, ge=3, description="Cycles over which the season may change; odd.")
    rounds: int = Field(5, ge=0, le=50, description="Rounds of robustness weights; 0 trusts every sample.")
    floor: float = Field(RELATIVE_FLOOR, ge=0, description="Smallest spread, as a share of the level.")

    @field_validator("seasonal")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value

    @field_validator("period")
    @classmethod
    def _few(cls, value: object) -> object:
        if isinstance(value, tuple) and not 1 <= len(value) <= MOST_PERIODS:
            raise ValueError(f"must be one to {MOST_PERIODS} periods")
        return value


class Stl:
    """Profile from STL, scored out of sample; see the module's docstring."""

    name: ClassVar[str] = "stl"
    streaming: ClassVar[bool] = False
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    Params: ClassVar[type[base.Params]] = StlParams

    def __init__(self, params: StlParams, grid: Grid) -> None:
        self.params, self.grid = params, grid
        self.step = max(1, grid.step_ms)
        given = params.period
        spans = () if given is None else given if isinstance(given, tuple) else (given,)
        self.periods = tuple(sorted({max(2, s.count(self.step)) for s in spans}))
        self.columns = len(self.periods) or 2
        self.bins = min(MOST_BINS, max(self.periods)) if self.periods else MOST_BINS
        self.floors = np.array([params.floor, ABSOLUTE_FLOOR])

    @property
    def min_history(self) -> int:
        return 2 * max(self.periods) if self.periods else LEAST_SAMPLES

    def fit(self, history: Block, seed: int) -> State:
        values = self._usual(history)
        return self._fit(history, values, self._find(self._even(values, history.times // self.step)[0]))

    def fit_as(self, history: Block, seed: int, model: State) -> State:
        """Learn with the periods of ``model``; a series with two cycles of none of them is looked at for its own.

        The half of a history may show a rhythm that the whole has not, and the spread about it says nothing about that
        about a level.
        """
        values = self._usual(history)
        even, _ = self._even(values, history.times // self.step)
        periods = model.arrays["periods"].copy()
        periods[2 * periods > _lengths(even)[:, None]] = 0
        lost = (periods == 0).all(axis=1) & (model.arrays["periods"] > 0).any(axis=1)
        if lost.any():
            periods[lost] = self._find(even[lost])
        return self._fit(history, values, periods)

    def _fit(self, history: Block, values: F64, periods: I64) -> State:
        from anomalyd.detectors.kernels.profile import LINE, fit_all

        n = len(history)
        memories, rates = self._memories(periods)
        profile = np.zeros((n, self.columns, self.bins), np.float32)
        unit, line = np.ones(n), np.zeros((n, LINE))
        rounds, seasonal = self.params.rounds, self.params.seasonal
        hours = self._hours(history.times)
        civil = self._civil(periods)
        if not hours.any():
            even, first = self._even(values, history.times // self.step)
            fit_all(even, first, periods, seasonal, rounds, memories, rates, self.floors, profile, unit, line)
        for rows, by in ((civil, hours), (~civil, 0 * hours)) if hours.any() else ():
            even, first = self._even(values[rows], history.times // self.step + by)
            mine = profile[rows], unit[rows], line[rows]
            fit_all(even, first, periods[rows], seasonal, rounds, memories[rows], rates[rows], self.floors, *mine)
            profile[rows], unit[rows], line[rows] = mine
        arrays: dict[str, npt.NDArray[Any]] = {"periods": periods, "profile": profile, "unit": unit, "line": line}
        return State(arrays, as_of=int(history.times[-1]) if len(history.times) else 0)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        check_newer(state, fresh)
        check_series(state, "line", fresh)
        raw, values, holding = blank(fresh.values.shape), clean(fresh.values), held(hold, len(fresh))
        arrays = dict(state.arrays) | {"line": state.arrays["line"].copy()}
        places, hours, moved = fresh.times // self.step, self._hours(fresh.times), days_moved(fresh.times, self.grid)
        if not hours.any() and not moved.any():
            self._score(arrays, places, values, holding, raw)
            return raw, advanced(state, arrays, fresh)
        kinds = self._civil(arrays["periods"]) + 2 * self._weekly(arrays["periods"])
        for kind in np.unique(kinds).tolist():
            rows = np.flatnonzero(kinds == kind)
            by = hours * (kind & 1) + moved * (DAY_MS // self.step) * (kind >> 1)
            mine = {name: array[rows] for name, array in arrays.items()}
            part = Raw(raw.score[rows], raw.expected[rows], raw.unit[rows])
            self._score(mine, places + by, values[rows], holding[rows], part)
            arrays["line"][rows] = mine["line"]
            raw.score[rows], raw.expected[rows], raw.unit[rows] = part.score, part.expected, part.unit
        return raw, advanced(state, arrays, fresh)

    def _score(self, a: dict[str, npt.NDArray[Any]], places: I64, values: F64, hold: Bool, raw: Raw) -> None:
        from anomalyd.detectors.kernels.profile import score_all

        memories, rates = self._memories(a["periods"])
        score_all(
            values, places, hold, a["periods"], a["profile"], a["unit"], a["line"], memories, rates, self.floors,
            LEAST_SAMPLES if not self.periods else 0, HIGHEST_SCORE, raw.score, raw.expected, raw.unit,
        )  # fmt: skip

    def _weekly(self, periods: I64) -> Bool:
        """Which series [N] have the rhythm of a week, and no other that whole days would put out of step."""
        lengths = periods * self.step
        week = lengths == WEEK_MS
        in_step = week | (periods == 0) | (DAY_MS % np.maximum(lengths, 1) == 0)
        found: Bool = week.any(axis=1) & in_step.all(axis=1)
        return found & (DAY_MS % self.step == 0)

    def _hours(self, times: I64) -> I64:
        """By how many places [T] the clocks of the rule's zone are ahead of UTC."""
        zone = self.grid.timezone
        if zone == "UTC" or HOUR_MS % self.step:
            return np.zeros(len(times), np.int64)
        ahead: I64 = (civil_times(times, zone) - civil_times(times, "UTC")) // self.step
        return ahead

    def _civil(self, periods: I64) -> Bool:
        """Which series [N] have a rhythm of the clock: a whole part of a day, a day, a week; 37 minutes is none."""
        lengths = periods * self.step
        of_day = DAY_MS % np.maximum(lengths, 1) == 0
        found: Bool = ((periods == 0) | of_day | (lengths == WEEK_MS)).all(axis=1) & (periods > 0).any(axis=1)
        return found

    def _usual(self, history: Block) -> F64:
        """The samples [N, T] without days that count as others: they would teach a weekday what it is not."""
        values = clean(history.values)
        values[:, days_moved(history.times, self.grid) != 0] = np.nan
        return values

    def _even(self, values: F64, places: I64) -> tuple[F64, int]:
        """The samples on an even grid [N, n], NaN where there is none, and the grid's first absolute position.

        The hour that clocks live twice in autumn has the samples of its second time; the one they skip has none.
        """
        if not len(places):
            return np.zeros((len(values), 0)), 0
        first = int(places.min())
        even = np.full((len(values), int(places.max()) - first + 1), np.nan)
        even[:, places - first] = values
        return even, first

    def _find(self, even: F64) -> I64:
        """Periods [N, K] of the series in samples, shortest first; 0 where there are fewer."""
        periods = np.zeros((len(even), self.columns), np.int64)
        for s, values in enumerate(even):
            found = self.periods or find_periods(values, self.step, self.columns)
            periods[s, : len(found)] = found
        return periods

    def _memories(self, periods: I64) -> tuple[F64, F64]:
        """Samples the level remembers (a quarter of the shortest period) and rate of the spread, per series [N]."""
        shortest = np.where(periods[:, 0] > 0, periods[:, 0], 4 * 240).astype(float)
        return np.maximum(10.0, shortest / 4), np.clip(6 / shortest, 0.005, 0.05)


def _lengths(even: F64) -> I64:
    """Samples from the first one present to the end, per series [N]."""
    there = ~np.isnan(even)
    begins = np.where(there.any(axis=1), there.argmax(axis=1), even.shape[1]) if even.shape[1] else 0
    lengths: I64 = np.broadcast_to(np.asarray(even.shape[1] - begins, np.int64), (len(even),))
    return lengths
