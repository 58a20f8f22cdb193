"""``Model``: a detector with its calibration, the one thing the rest of the daemon scores with.

Pure and causal: each sample is scored from the state before it, then learned; the same samples give the same scores
however they are cut into blocks. The state is one ``State`` whose array names say whose they are: ``d.`` the
detector's, ``c.`` the calibration's, ``c.w.`` the watch's for drift, ``c.y.`` the stand-in's for young series. What
`fit` learned in sample never reaches the calibration: streaming detectors are replayed, batch detectors score the newer
part of the history with what the older part taught. Only what a series is like, such as the length of its rhythm, is
taken from the whole (``Shaped``).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

import anomalyd
from anomalyd.block import F64, I64, Block, Bool
from anomalyd.clock import DAY_MS
from anomalyd.detectors import young
from anomalyd.detectors.base import (
    Choice,
    Choosing,
    Combining,
    Detector,
    Ending,
    Forecasting,
    Forecasts,
    Grid,
    Limited,
    Opinion,
    Raw,
    Shaped,
    State,
    join_states,
    with_step,
)
from anomalyd.detectors.calibrate import Calibrator, directed, incidents
from anomalyd.detectors.drift import Watch
from anomalyd.detectors.grouped import USUAL, Grouped, grouped
from anomalyd.errors import DetectorError
from anomalyd.rule import DetectorSpec, Rule
from anomalyd.score import Scores, join_scores
from anomalyd.threshold import NEVER, initial_threshold

CODE = 7
"""Raise when the scores of an unchanged rule change; it is part of every model's version."""

OLDER_SHARE = 0.6
"""Share of the history that a batch detector learns from before it scores the rest for the calibration."""

FOLDS = (0.5, 0.75)
"""Where the history is cut where a detector's fit is cheap (``Shaped``, not ``Limited``): what each part teaches scores
the next one."""

SETTLING_MS = 7 * DAY_MS
"""So long a series is new to a detector that learns with every sample: its first scores fade as fast as they came."""

ROLLING = frozenset({"zscore", "iqr", "mad"})
"""Detectors that compare with a window only: their first scores are worth as much as any."""

STEADY = 300.0
"""Exceedances that the prior of the tail's shape counts for where the tail is learned anew with each fit."""

_DETECTOR, _CALIBRATION = "d.", "c."
_WATCH, _YOUNG = "w.", "y."

MOST_RUN = 12.0
"""Logarithm of the longest run length, in samples, that a budget can ask of a control chart."""

APART = ("forecast", "peer")
"""Detectors that do not look for a change of a series' own behaviour: a jump is no news to them, nor is drift."""


class Model:
    """A detector spec made ready to fit and score. It holds no memory of samples: that is ``State``."""

    code: ClassVar[int] = CODE

    def __init__(
        self, spec: DetectorSpec, grid: Grid, seed: int = 0, detector: Detector | None = None, *, key: str = "",
        history_ms: int = young.GROWN_MS, member: bool = False,
    ):  # fmt: skip
        """Build the detector the spec names, or use the one given.

        ``key`` is part of the version: what else decides the scores, such as the query and the length of the history.
        The ``member`` of an ensemble has no watch for drift and no stand-in of its own.
        Raises ``DetectorError`` ("unknown", "extra", "params") when there is none or its parameters are wrong.
        """
        if detector is None:
            from anomalyd.detectors.registry import make_detector

            detector = make_detector(spec, grid)
        self.spec, self.grid, self.seed, self.key = spec, grid, seed, key
        self.detector: Detector = grouped(detector, grid.group_by)
        self._groups = self.detector if isinstance(self.detector, Grouped) else None
        self.joint = spec.joint or self._groups is not None
        self._watch = None if member or self.joint or detector.name in APART else Watch(grid.step_ms)
        self._grown = max(1, min(history_ms, young.GROWN_MS) // max(1, grid.step_ms))
        self._calibrator = None if detector.calibrated else self._calibration()

    def _calibration(self) -> Calibrator:
        """A streaming detector's first scores are half blind; a batch detector's past is short, and has incidents."""
        if self.streaming:
            blind = self.spec.type not in ROLLING
            return Calibrator(settling=SETTLING_MS // max(1, self.grid.step_ms) if blind else 0)
        return Calibrator(steadiness=STEADY)

    @property
    def streaming(self) -> bool:
        """Learns with every sample, so it needs no refit; a joint model of many channels is fitted at once."""
        return self.detector.streaming and not getattr(self.detector, "joint", False)

    @property
    def min_history(self) -> int:
        """Samples a series needs before its surprise is given."""
        own = self.detector.min_history
        if self._calibrator is None:
            return own
        if self.streaming:
            return own + self._calibrator.fewest
        return max(math.ceil(own / OLDER_SHARE), own + math.ceil(self._calibrator.fewest / (1 - OLDER_SHARE)))

    @property
    def version(self) -> str:
        """Hash of all that decides the scores but the samples: spec, grid, seed, key and code."""
        grid = asdict(replace(self.grid, holidays=None))
        for name in ("holidays", *([] if self.grid.run_length else ["run_length"])):
            del grid[name]
        own = [self.spec.type, dict(self.spec.params), grid, self.seed, self.key]
        days = [self.grid.holidays.digest] if self.grid.holidays is not None else []
        parts = [*own, self.code, anomalyd.__version__, *days]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def fit(self, history: Block) -> State:
        """Learn from history [N, T] (NaN allowed, T may be 0), calibration included."""
        calibration = self._calibrator.empty(len(history)) if self._calibrator else {}
        detector, calibration, links, _ = self._learn(history, calibration)
        if self._calibrator is not None:
            calibration = self._calibrator.adopt(calibration, calibration)
        return _pack(detector, calibration | links)

    def fit_and_say(self, history: Block) -> tuple[State, F64]:
        """As ``fit``, and the surprise [N, T] of the history's own samples as far as they were judged unlearned."""
        calibration = self._calibrator.empty(len(history)) if self._calibrator else {}
        said = np.full(history.values.shape, np.nan)
        if self._calibrator is None:
            if not (self.streaming and len(history.times)):
                return self.fit(history), said
            nothing = history.window(0, 0)
            raw, detector = self.detector.score(self.detector.fit(nothing, self.seed), history)
            return _pack(detector, self._begin_links(history)), raw.score
        detector, calibration, links, past = self._learn(history, calibration)
        if past is not None:
            said[:, len(history.times) - past.shape[1] :] = past
        return _pack(detector, self._calibrator.adopt(calibration, calibration) | links), said

    def score(self, state: State, fresh: Block, cut: float, hold: Bool | None = None) -> tuple[Scores, State]:
        """Score each sample of ``fresh`` [N, T], then learn it.

        ``cut`` is the surprise at which the band ends. Series with ``hold`` [N], those with an open episode, are
        scored and not learned. Raises ``DetectorError`` ("out_of_order") for samples not newer than the state.
        """
        parts: list[Scores] = []
        width = 1
        while len(fresh.times) > 1 and young.waits(_without(_YOUNG, _unpack(state)[1]), hold):
            # A series may be held from its detector's first score on: that takes effect with the sample after.
            ahead = fresh.window(0, width)
            scores, after, same = self._score(state, ahead, cut, hold)
            if same < len(ahead.times):
                ahead = fresh.window(0, same)
                scores, after, _ = self._score(state, ahead, cut, hold)
            width = 2 * len(ahead.times)
            parts, state, fresh = [*parts, scores], after, fresh.window(len(ahead.times))
        if not parts or len(fresh.times):
            scores, state, _ = self._score(state, fresh, cut, hold)
            parts.append(scores)
        return join_scores(parts) if len(parts) > 1 else parts[0], state

    def _score(self, state: State, fresh: Block, cut: float, hold: Bool | None) -> tuple[Scores, State, int]:
        """As ``score``, as if who is held stayed the same; and in how many samples from the first it does."""
        detector, calibration = _unpack(state)
        links = {name: calibration.pop(name) for name in list(calibration) if name.startswith((_WATCH, _YOUNG))}
        if self._groups is not None:
            hold = self._groups.hold(detector, hold)
        hold_known = young.known(_without(_YOUNG, links), hold)
        raw, detector = self.detector.score(detector, fresh, hold_known)
        if self._calibrator is None:
            surprise = raw.score
            bound = np.full_like(surprise, cut)
        else:
            judged = self._judged(raw, fresh)
            surprise, bound, calibration = self._calibrator.score(calibration, judged, cut, hold_known)
        same = young.unchanged(_without(_YOUNG, links), surprise, hold)
        said, links = self._link(links, surprise, fresh, hold)
        scores = _joint_scores(raw, surprise, fresh) if self.joint else _scores(raw, surprise, bound)
        return _stood_in(scores, said, cut), _pack(detector, calibration | links), same

    def choices(self, state: State) -> tuple[Choice, ...]:
        """What runs after a fit and by what right; empty where the detector has no choice to make."""
        return self.detector.choices(_unpack(state)[0]) if isinstance(self.detector, Choosing) else ()

    def opinions(self, state: State, fresh: Block) -> tuple[Opinion, ...]:
        """What each member of an ensemble says of samples [N, T]; empty for any other detector."""
        return self.detector.opinions(_unpack(state)[0], fresh) if isinstance(self.detector, Combining) else ()

    def forecast(self, state: State, times: I64, coverage: float) -> Forecasts:
        """What the series will be at times [T] after the state; raise ``DetectorError`` ("no_forecast") without one."""
        if not isinstance(self.detector, Forecasting):
            raise DetectorError("no_forecast", f"the detector {self.detector.name} gives no forecasts")
        return self.detector.forecast(_unpack(state)[0], times, coverage)

    def join(self, state: State, newcomers: Block) -> State:
        """Append new series, with their own history (T may be 0), behind those of ``state``.

        A newcomer with too short a past is calibrated by its siblings until it has its own.
        """
        calibration = self._calibrator.empty(len(newcomers)) if self._calibrator else {}
        if self._calibrator is not None and newcomers.values.shape[1] < self.min_history:
            calibration = self._calibrator.adopt(calibration, _unpack(state)[1])
        detector, calibration, links, _ = self._learn(newcomers, calibration)
        return join_states([state, _pack(detector, calibration | links)])

    def _begin_links(self, history: Block) -> _Arrays:
        """State of the links behind the calibration: the watch knows nothing yet, the stand-in the newest samples."""
        if self._watch is None:
            return {}
        return _named(_WATCH, self._watch.empty(len(history))) | _named(_YOUNG, young.begin(history))

    def _link(
        self, links: _Arrays, surprise: F64, fresh: Block, hold: Bool | None = None
    ) -> tuple[young.Young | None, _Arrays]:
        """Let the watch see the surprises, and the stand-in speak where there is none."""
        if self._watch is None:
            return None, links
        watched = self._watch.take_in(_without(_WATCH, links), surprise, fresh.times, hold)
        said, known = young.score(_without(_YOUNG, links), fresh, surprise, self._grown, hold)
        return said, _named(_WATCH, watched) | _named(_YOUNG, known)

    def _learn(self, history: Block, calibration: _Arrays) -> tuple[State, _Arrays, _Arrays, F64 | None]:
        """The states of the detector, of the calibration and of the links behind it; the newer samples' surprise."""
        if self._calibrator is None:
            return self.detector.fit(history, self.seed), calibration, self._begin_links(history), None
        if self.streaming:
            nothing = history.window(0, 0)
            start, links = self.detector.fit(nothing, self.seed), self._begin_links(nothing)
            if not len(history.times):
                return start, calibration, links, None
            raw, state = self.detector.score(start, history)
            surprise, _, calibration = self._calibrator.score(calibration, self._judged(raw, history), 0.0)
            return state, calibration, self._link(links, surprise, history)[1], surprise
        learned, said = self.detector.fit(history, self.seed), None
        past = self._past_scores(history, learned)
        if past is not None:
            said, _, calibration = self._calibrator.score(calibration, past, 0.0)
        return learned, calibration, self._begin_links(history), said

    def _past_scores(self, history: Block, learned: State) -> F64 | None:
        """Scores of the newer part of the history by what the parts before it teach; None where those are too short."""
        samples, least = len(history.times), self.detector.min_history
        cheap = isinstance(self.detector, Shaped) and not isinstance(self.detector, Limited)
        shares = FOLDS if cheap and int(samples * FOLDS[0]) >= least else (OLDER_SHARE,)
        cuts = [int(samples * share) for share in shares]
        if cuts[0] < least or cuts[0] >= samples:
            return None
        older = [self._older(history.window(0, cut), learned) for cut in cuts]
        said = self._said(older, history, [*cuts, samples])
        incident = incidents(said)
        if not incident.any():
            return said
        values = history.values.copy()  # live, an incident is held: neither counted nor learned from
        values[:, cuts[0] :][incident] = np.nan
        return self._said(older, Block(history.labels, history.times, values), [*cuts, samples])

    def _said(self, older: Sequence[State], history: Block, cuts: Sequence[int]) -> F64:
        """The judged scores of the parts of a history between the cuts, each by its own state."""
        scores = []
        for state, (first, stop) in zip(older, itertools.pairwise(cuts), strict=True):
            newer = history.window(first, stop)
            scores.append(self._judged(self.detector.score(state, newer)[0], newer))
        return np.concatenate(scores, axis=1)

    def _judged(self, raw: Raw, samples: Block) -> F64:
        """The scores that make the tail: without an end, on the rule's side; vectors of several series have none."""
        own = self.detector if self._groups is None else self._groups.detector
        score = own.stretched(raw.score) if isinstance(own, Ending) else raw.score
        if self.grid.direction == "both" or self.joint:
            return score
        with np.errstate(over="ignore", invalid="ignore"):
            side = samples.values - raw.expected if raw.side is None else raw.side
        return directed(self.grid.direction, score, side)

    def _older(self, history: Block, learned: State) -> State:
        """What the older part of the history teaches; it takes a series for what the whole takes it for."""
        if isinstance(self.detector, Shaped):
            return self.detector.fit_as(history, self.seed, learned)
        return self.detector.fit(history, self.seed)


_Arrays = dict[str, npt.NDArray[Any]]


def _named(prefix: str, arrays: _Arrays) -> _Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def _without(prefix: str, arrays: _Arrays) -> _Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _stood_in(scores: Scores, said: young.Young | None, cut: float) -> Scores:
    """Scores with what the stand-in says of the young."""
    if said is None or not said.learned.any():
        return scores
    there, reach = ~np.isnan(said.surprise), said.unit * young.spreads_at(cut)
    return replace(
        scores, expected=np.where(there, said.expected, scores.expected),
        lower=np.where(there, said.expected - reach, scores.lower),
        upper=np.where(there, said.expected + reach, scores.upper),
        surprise=np.where(there, said.surprise, scores.surprise), learned=said.learned,
        page=None if scores.page is None else np.where(there, said.surprise, scores.page),
        side=None if scores.side is None else np.where(there, np.nan, scores.side),
    )  # fmt: skip


def _scores(raw: Raw, surprise: F64, bound: F64) -> Scores:
    reach = raw.unit * bound
    return Scores(
        raw.score, raw.expected, raw.expected - reach, raw.expected + reach, surprise, raw.page, side=raw.side
    )


def _joint_scores(raw: Raw, surprise: F64, fresh: Block) -> Scores:
    """Scores of channels: nothing is said where there is no sample, and the band is what is usual of each by itself."""
    there = np.isfinite(fresh.values)
    reach = USUAL * raw.unit
    page = None if raw.page is None else np.where(there, raw.page, np.nan)
    return Scores(
        np.where(there, raw.score, np.nan), raw.expected, raw.expected - reach, raw.expected + reach,
        np.where(there, surprise, np.nan), page,
    )  # fmt: skip


def _pack(detector: State, calibration: Mapping[str, npt.NDArray[Any]]) -> State:
    arrays = {_DETECTOR + name: array for name, array in detector.arrays.items()}
    arrays |= {_CALIBRATION + name: array for name, array in calibration.items()}
    shared = frozenset(_DETECTOR + name for name in detector.shared)
    return with_step(State(arrays, shared, detector.as_of), detector.step)


def _unpack(state: State) -> tuple[State, _Arrays]:
    cut = len(_DETECTOR)
    own = {name[cut:]: array for name, array in state.arrays.items() if name.startswith(_DETECTOR)}
    calibration = {name[cut:]: array for name, array in state.arrays.items() if name.startswith(_CALIBRATION)}
    detector = with_step(State(own, frozenset(name[cut:] for name in state.shared), state.as_of), state.step)
    return detector, calibration


def grid_of(rule: Rule) -> Grid:
    """What a rule's detector must know of it."""
    group_by = rule.group_by if rule.detector.grouped else ()
    allowed = initial_threshold(rule).lowest if rule.detector.budgeted else NEVER
    run_length = round(10.0 ** min(allowed, MOST_RUN)) if allowed < NEVER else 0
    return Grid(rule.interval_ms, rule.timezone, group_by, rule.direction, rule.holidays, run_length)


def model_of(rule: Rule) -> Model:
    """The model of a rule; its version also names the query and the history it is fitted from."""
    return Model(rule.detector, grid_of(rule), rule.seed, key=rule.model_key, history_ms=rule.history_ms)
