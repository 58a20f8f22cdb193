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
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import anomalyd
from anomalyd.block import F64, I64, Block, Bool
from anomalyd.detectors import young
from anomalyd.detectors.base import (
    Choosing,
    Detector,
    Forecasting,
    Forecasts,
    Grid,
    Raw,
    Shaped,
    State,
    join_states,
    with_step,
)
from anomalyd.detectors.calibrate import Calibrator
from anomalyd.detectors.drift import Watch
from anomalyd.errors import DetectorError
from anomalyd.rule import DetectorSpec, Rule
from anomalyd.score import Scores

CODE = 4
"""Raise when the scores of an unchanged rule change; it is part of every model's version."""

OLDER_SHARE = 0.6
"""Share of the history that a batch detector learns from before it scores the rest for the calibration."""

_DETECTOR, _CALIBRATION = "d.", "c."
_WATCH, _YOUNG = "w.", "y."

APART = ("forecast", "peer")
"""Detectors that do not look for a change of a series' own behaviour: a jump is no news to them, nor is drift."""


class Model:
    """A detector spec made ready to fit and score. It holds no memory of samples: that is ``State``."""

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
        self.detector: Detector = detector
        together = getattr(detector, "joint", False) and detector.name != "ensemble"
        self._watch = None if member or together or detector.name in APART else Watch(grid.step_ms)
        self._grown = max(1, min(history_ms, young.GROWN_MS) // max(1, grid.step_ms))
        self._calibrator = None if detector.calibrated else Calibrator()

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
        if self.detector.streaming:
            return own + self._calibrator.fewest
        return max(math.ceil(own / OLDER_SHARE), own + math.ceil(self._calibrator.fewest / (1 - OLDER_SHARE)))

    @property
    def version(self) -> str:
        """Hash of all that decides the scores but the samples: spec, grid, seed, key and code."""
        own = [self.spec.type, dict(self.spec.params), asdict(self.grid), self.seed, self.key]
        parts = [*own, CODE, anomalyd.__version__]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def fit(self, history: Block) -> State:
        """Learn from history [N, T] (NaN allowed, T may be 0), calibration included."""
        calibration = self._calibrator.empty(len(history)) if self._calibrator else {}
        detector, calibration, links = self._learn(history, calibration)
        if self._calibrator is not None:
            calibration = self._calibrator.adopt(calibration, calibration)
        return _pack(detector, calibration | links)

    def score(self, state: State, fresh: Block, cut: float, hold: Bool | None = None) -> tuple[Scores, State]:
        """Score each sample of ``fresh`` [N, T], then learn it.

        ``cut`` is the surprise at which the band ends. Series with ``hold`` [N], those with an open episode, are
        scored and not learned. Raises ``DetectorError`` ("out_of_order") for samples not newer than the state.
        """
        detector, calibration = _unpack(state)
        links = {name: calibration.pop(name) for name in list(calibration) if name.startswith((_WATCH, _YOUNG))}
        raw, detector = self.detector.score(detector, fresh, hold)
        if self._calibrator is None:
            surprise = raw.score
            bound = np.full_like(surprise, cut)
        else:
            surprise, bound, calibration = self._calibrator.score(calibration, raw.score, cut, hold)
        said, links = self._link(links, surprise, fresh, hold)
        return _stood_in(_scores(raw, surprise, bound), said, cut), _pack(detector, calibration | links)

    def verdict(self, state: State) -> str:
        """What runs after a fit and by what right, for people; empty where the detector has no choice to make."""
        return self.detector.verdict(_unpack(state)[0]) if isinstance(self.detector, Choosing) else ""

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
        detector, calibration, links = self._learn(newcomers, calibration)
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

    def _learn(self, history: Block, calibration: _Arrays) -> tuple[State, _Arrays, _Arrays]:
        """The states of the detector, of the calibration and of the links behind it."""
        if self._calibrator is None:
            return self.detector.fit(history, self.seed), calibration, self._begin_links(history)
        if self.detector.streaming:
            nothing = history.window(0, 0)
            start, links = self.detector.fit(nothing, self.seed), self._begin_links(nothing)
            if not len(history.times):
                return start, calibration, links
            raw, state = self.detector.score(start, history)
            surprise, _, calibration = self._calibrator.score(calibration, raw.score, 0.0)
            return state, calibration, self._link(links, surprise, history)[1]
        learned = self.detector.fit(history, self.seed)
        split = int(len(history.times) * OLDER_SHARE)
        if split >= self.detector.min_history and split < len(history.times):
            raw, _ = self.detector.score(self._older(history.window(0, split), learned), history.window(split))
            calibration = self._calibrator.score(calibration, raw.score, 0.0)[2]
        return learned, calibration, self._begin_links(history)

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
    )  # fmt: skip


def _scores(raw: Raw, surprise: F64, bound: F64) -> Scores:
    reach = raw.unit * bound
    return Scores(raw.score, raw.expected, raw.expected - reach, raw.expected + reach, surprise, raw.page)


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


def model_of(rule: Rule) -> Model:
    """The model of a rule; its version also names the query and the history it is fitted from."""
    grid = Grid(rule.interval_ms, rule.timezone)
    return Model(rule.detector, grid, rule.seed, key=rule.model_key, history_ms=rule.history_ms)
