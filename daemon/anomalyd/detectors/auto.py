"""``auto``: the default; several detectors that see each series differently, combined on one scale without tuning.

Idea
    Five members watch each series: the residual of a least-squares forecast from the last samples, yesterday and last
    week; the residual of seasonal experts (last level, day, week, slow mean); both averaged over ten samples; and the
    distance to the nearest contexts of the past. Each is turned into the tail probability of its own past, so that
    they combine: the residuals tell what begins, neighbours and averages what goes on. One configuration serves all
    series; nothing is looked up, named or tuned. With ``joint`` the series of a group are the channels of one vector:
    how far each is from the usual level of the hour and from its own forecast, both also given what the others do, and
    how many of them are, for how long.

Works for
    Gauges, rates, ratios and counts with or without rhythm; young series (it starts after 120 samples); levels that
    shift for good (they are learned unless an episode is open).

Fails when
    Only the shape of a pattern changes while level, spread and neighbourhood stay ordinary; a limit is approached
    without any deviation (use ``forecast``); the series is so sparse that most samples are equal.

Toy stream
    A sine with noise 1, then one sample 8 above it: the forecast's and the seasonal residual are both 8, far in the
    tails of their pasts; surprise 6 or more, where ordinary samples have less than 2.

Reference
    Measured member by member in ``docs/detection.md``. Hill (1975) for the tails; Haykin, Adaptive Filter Theory, for
    the forecast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Opinion, Raw, State
from anomalyd.detectors.calibrate import HALF_LIFE, blank_lines
from anomalyd.detectors.common import (
    advanced,
    blank,
    check_newer,
    check_series,
    civil_times,
    clean,
    copied,
    days_back,
    held,
    newest,
)
from anomalyd.detectors.stepping import Arrays, Learn, Past, Relive, advance, begin

LARGEST = 1e30
"""Samples beyond this are taken for this: float32 state and squares stay finite."""
SLOT_MS = 5 * MINUTE_MS
"""Yesterday and last week are remembered as means over this, or over the step where it is longer."""
BOOK_MS = 14 * DAY_MS
"""Contexts are spread over this much past."""
GROWN = 4_032.0
"""After so many samples, or that past where it has fewer, news is worth all it is: before, it may be a Monday."""
GROWTH = 2.0 ** (1.0 / HALF_LIFE)
"""By so much each score counts more than the one before."""
MEMBERS = (
    ("forecast's residual", 2.0), ("seasonal residual", 1.0), ("nearest contexts", 1.0),
    ("forecast's residual, mean of ten", 1.0), ("seasonal residual, mean of ten", 1.0),
)  # fmt: skip
"""The members for people, in the kernel's order; of the two residuals the first counts twice in what ranks samples."""
SHORTEST_MS = 3 * MINUTE_MS
"""What several channels show is averaged over this before an episode opens by it."""


class AutoParams(base.Params):
    """Parameters of ``auto``: none is needed."""

    contexts: int = Field(4032, ge=64, le=20_000, description="Contexts remembered of each series.")
    warm_up: int = Field(120, ge=60, description="Samples before the first score.")
    joint: bool = Field(False, description="The series of each `group_by` group are channels of one vector per time.")


class Auto:
    """The shipped default; see the module's docstring."""

    name: ClassVar[str] = "auto"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = True
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = True
    Params: ClassVar[type[base.Params]] = AutoParams

    def __init__(self, params: AutoParams, grid: Grid) -> None:
        self.params, self.grid, self.joint = params, grid, params.joint
        step = max(1, grid.step_ms)
        self.slot_ms = max(SLOT_MS, step)
        self.day_slots = round(DAY_MS / self.slot_ms) if 4 * self.slot_ms <= DAY_MS else 0
        self.day_bins = max(1, self.day_slots)
        self.weekly = math.log10(max(WEEK_MS / step, 10.0))
        self.every = max(1, round(BOOK_MS / (params.contexts * step)))
        self.grown = min(GROWN, BOOK_MS / step)

    @property
    def min_history(self) -> int:
        return self.params.warm_up

    def fit(self, history: Block, seed: int) -> State:
        """Replay the history; ``seed`` is not needed, nothing is drawn."""
        if self.joint:
            return self._fit_joint(history)
        return begin(State(self._empty(len(history))), history, self._learn(history.times), paged=True)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        raw, page, after = self.signals(state, fresh, hold)
        news = page if self.joint else self._news(page, raw.score)
        return Raw(np.fmax(raw.score, news), raw.expected, raw.unit, news), after

    def _news(self, page: F64, onset: F64) -> F64:
        """The paging signal as a surprise."""
        from anomalyd.detectors.kernels.auto import DOUBT
        from anomalyd.detectors.kernels.promise import openings

        news: F64 = openings(page, onset, DOUBT, self.weekly)
        return news

    def signals(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, F64, State]:
        """As ``score``, with the paging signal [N, T] between: above 1 where an episode opens or worsens, else less.

        The surprise in ``Raw.score`` ranks every sample; the paging signal is 0 nearly everywhere.
        """
        check_newer(state, fresh)
        check_series(state, "middle" if self.joint else "recent", fresh)
        if self.joint:
            return self._run_joint(state, fresh)
        learn, relive = self._learn(fresh.times), self._relive(fresh.times)
        raw, after = advance(state, fresh, hold, learn, paged=True, relive=relive)
        assert raw.page is not None, "asked for"
        return raw, raw.page, after

    def _empty(self, n: int) -> dict[str, npt.NDArray[Any]]:
        from anomalyd.detectors.kernels import auto, extreme, knn, promise, rls, seasonal, tail

        bins = 8 * self.day_bins
        return {
            **rls.empty(n, self.day_slots),
            "profile": np.zeros((n, bins), np.float32),
            "visits": np.zeros((n, bins), np.uint8),
            "seasons": np.zeros((n, seasonal.LINE)),
            **knn.empty(n, self.params.contexts),
            "residuals": np.zeros((n, 2, auto.AVERAGED)),
            "counts": np.zeros((n, auto.MEMBERS, tail.BINS), np.float32),
            "tails": blank_lines(n, auto.MEMBERS),
            "extremes": np.zeros((n, auto.EXTREMES, extreme.LINE)),
            "peaks": np.zeros((n, auto.PEAK_BINS)),
            "signals": np.zeros((n, auto.LINE)),
            "promise": np.zeros((n, promise.LINE)),
            "news": np.zeros((n, promise.LINE)),
            "waiting": np.zeros((n, auto.WAITING, auto.MEMBERS + 1)),
        }

    def views(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[F64, Raw, State]:
        """As ``signals``, with what they are made of [N, T, VIEWS]: the members' tails, how far beyond each extreme."""
        from anomalyd.detectors.kernels.auto import VIEWS

        found, arrays = np.zeros((*fresh.values.shape, VIEWS)), copied(state)
        raw = replace(blank(fresh.values.shape), page=np.full(fresh.values.shape, np.nan))
        self._learn(fresh.times, found)(arrays, clean(fresh.values), held(hold, len(fresh)), raw)
        return found, raw, advanced(state, arrays, fresh)

    def opinions(self, state: State, fresh: Block) -> tuple[Opinion, ...]:
        """What each member says of samples; nothing of vectors, which have other members. The state stays as it is."""
        if self.joint:
            return ()
        seen, raw, _ = self.views(state, fresh)
        known = ~np.isnan(raw.score)
        return tuple(
            Opinion(name, weight, np.where(known, seen[..., m], np.nan)) for m, (name, weight) in enumerate(MEMBERS)
        )

    def _learn(self, times: I64, views: F64 | None = None) -> Learn:
        return _Lesson(self, self._times(times), views)

    def _relive(self, times: I64) -> Relive:
        """Learn the last block again and the fresh one in one pass: what many series know is looked at once."""
        fresh = self._times(times)

        def relive(a: Arrays, past: Past, values: F64, hold: Bool, raw: Raw) -> None:
            last = past.learn
            assert isinstance(last, _Lesson), "this is what learned it"
            both = np.concatenate([past.values, values], axis=1)
            said = replace(blank(both.shape), page=np.full(both.shape, np.nan))
            which = np.concatenate([_each(past.hold, past.values), _each(hold, values)], axis=1)
            self.live(a, last.times.then(fresh), both, which, said)
            width = past.values.shape[1]
            assert said.page is not None, "asked for"
            score, page = np.ascontiguousarray(said.score[:, :width]), np.ascontiguousarray(said.page[:, :width])
            self.keep(a, score, page, past.hold)
            for mine, all_ in zip(_answers(raw), _answers(said), strict=True):
                mine[...] = all_[:, width:]
            self.keep(a, raw.score, raw.page, hold)

        return relive

    def live(self, a: Arrays, at: _Times, values: F64, hold: Bool, raw: Raw, views: F64 | None = None) -> None:
        """Score and learn samples [N, T]; with ``hold`` [N, T] they teach nothing yet."""
        from anomalyd.detectors.kernels.auto import auto_block, rooms
        from anomalyd.detectors.kernels.boxes import BLOCK
        from anomalyd.detectors.kernels.rls import FEATURES

        seen = np.zeros((len(values), 0, 0)) if views is None else views
        auto_block(
            np.clip(values, -LARGEST, LARGEST), at.slots, at.back, at.clock, at.days, at.weeks, hold, self.day_slots,
            self.every, GROWTH, self.params.warm_up, self.grown, a["recent"], a["slots"], a["weights"],
            a["spread"].reshape(len(values), FEATURES * FEATURES), a["forecast"], a["profile"], a["visits"],
            a["seasons"], a["book"], a["boxes"], a["hulls"], a["nearest"], a["residuals"], a["counts"], a["tails"],
            a["extremes"], a["peaks"], a["signals"], a["waiting"], raw.score, raw.page, raw.expected, raw.unit,
            seen, rooms(self.params.contexts + BLOCK),
        )  # fmt: skip

    def keep(self, a: Arrays, score: F64, page: F64 | None, hold: Bool) -> None:
        """Correct what was said of samples, in place, by how often the series has said such things."""
        from anomalyd.detectors.kernels.auto import DOUBT
        from anomalyd.detectors.kernels.promise import keep_block, keep_pages

        keep_block(score, hold, DOUBT, 1.0 / GROWTH, a["promise"])
        keep_pages(page, score, hold, self.weekly, self.params.warm_up, 1.0 / GROWTH, a["news"])

    def _fit_joint(self, history: Block) -> State:
        from anomalyd.detectors.kernels.auto_joint import fit_joint
        from anomalyd.detectors.kernels.memories import AVERAGED

        values, step = np.clip(clean(history.values), -LARGEST, LARGEST), max(1, self.grid.step_ms)
        average = min(max(SHORTEST_MS // step, 1), AVERAGED)
        arrays = fit_joint(values, *self._bins(history.times), DAY_MS // (2 * step), average)
        # What nobody saw teaches nothing: only times at which some channel is there count.
        arrays["fitted"] = np.array([np.count_nonzero(~np.isnan(values).all(axis=0)) >= self.min_history])
        own = ("middle", "range", "profile", "weights", "past", "scale", "tails")
        return State(arrays, frozenset(arrays) - frozenset(own), newest(history))

    def _run_joint(self, state: State, fresh: Block) -> tuple[Raw, F64, State]:
        """All channels carry the score of their common vector; each has its own expected value and unit."""
        from anomalyd.detectors.kernels.auto_joint import surprise
        from anomalyd.detectors.kernels.levels import usual_level

        a, raw = dict(state.arrays), blank(fresh.values.shape)
        page = np.full(fresh.values.shape, np.nan)
        bins, _ = self._bins(fresh.times)
        if bool(a["fitted"][0]):
            values = np.clip(clean(fresh.values), -LARGEST, LARGEST)
            told, worse = surprise(a, values, bins)
            seen = ~np.isnan(values)
            raw.score[:] = np.where(seen, told, np.nan)
            page[:] = np.where(seen, worse, np.nan)
        raw.expected[:] = usual_level(a, bins)
        raw.unit[:] = a["range"][:, 1:]
        return raw, page, advanced(state, a, fresh)

    def _bins(self, times: I64) -> tuple[I64, I64]:
        """Bin of the day of each time [T] for joint scores (all 0 where the step is too long), and the day."""
        from anomalyd.detectors.kernels.levels import BINS

        civil = civil_times(times, self.grid.timezone)
        bins = civil % DAY_MS * BINS // DAY_MS if self.day_slots else np.zeros(len(times), np.int64)
        return bins.astype(np.int64), (civil // DAY_MS).astype(np.int64)

    def _times(self, times: I64) -> _Times:
        from anomalyd.detectors.kernels.knn import around_clock

        civil = civil_times(times, self.grid.timezone, self.grid.holidays)
        of_day, of_week = civil % DAY_MS, civil % WEEK_MS
        clock: F64 = around_clock(np.asarray(of_day * (2 * np.pi / DAY_MS), np.float64))
        days = of_day * self.day_bins // DAY_MS
        weeks = self.day_bins + of_week * (7 * self.day_bins) // WEEK_MS
        return _Times(
            times // self.slot_ms, days_back(times, self.grid), clock, days.astype(np.int64), weeks.astype(np.int64)
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Times:
    """What the kernel must know of times [T].

    Attributes:
        slots, back: the forecast's slot, and how many days ago the last day like this one was.
        clock: the place on the clock [T, 2].
        days, weeks: bin of the day, and of the week (behind the day's bins).
    """

    slots: I64
    back: I64
    clock: F64
    days: I64
    weeks: I64

    def then(self, later: _Times) -> _Times:
        """These times and later ones."""
        return _Times(
            *(np.concatenate([getattr(part, name) for part in (self, later)]) for name in self.__slots__)
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """How samples at these times are learned, as ``stepping`` wants it."""

    detector: Auto
    times: _Times
    views: F64 | None = None

    def __call__(self, a: Arrays, values: F64, hold: Bool, raw: Raw) -> None:
        self.detector.live(a, self.times, values, _each(hold, values), raw, self.views)
        self.detector.keep(a, raw.score, raw.page, hold)


def _each(hold: Bool, values: F64) -> Bool:
    """Which samples [N, T] are those of held series [N]."""
    return np.repeat(hold[:, None], values.shape[1], axis=1)


def _answers(raw: Raw) -> tuple[F64, F64, F64, F64]:
    assert raw.page is not None, "asked for"
    return raw.score, raw.page, raw.expected, raw.unit
