"""The model: detector and calibration together, causal, sliceable and joinable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anomalyd.block import Block, Bool, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.detectors.base import Grid, Params, Raw, State, state_from_bytes
from anomalyd.detectors.calibrate import FEWEST
from anomalyd.detectors.kernels import tail
from anomalyd.detectors.model import Model, model_of
from anomalyd.errors import DetectorError
from anomalyd.holiday import Holidays
from anomalyd.intervals import Interval
from anomalyd.rule import DetectorSpec, Rule

GRID = Grid(60_000)


class Level:
    """A strict fake detector: distance from a mean, either running (streaming) or of the history (batch)."""

    name, multivariate, has_band, calibrated = "level", False, True, False
    Params = Params
    min_history = 2

    def __init__(self, streaming: bool):
        self.streaming = streaming
        self.fitted: list[int] = []

    def fit(self, history: Block, seed: int) -> State:
        self.fitted.append(len(history.times))
        count = np.isfinite(history.values).sum(axis=1).astype(float)
        total = np.nansum(history.values, axis=1)
        return State({"count": count, "sum": total}, as_of=int(history.times[-1]) if len(history.times) else 0)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        if len(fresh.times) and fresh.times[0] <= state.as_of:
            raise DetectorError("out_of_order", "old sample")
        count, total = state.arrays["count"].copy(), state.arrays["sum"].copy()
        kept = np.zeros(len(fresh), bool) if hold is None else hold
        expected = np.full(fresh.values.shape, np.nan)
        for t in range(len(fresh.times)):
            expected[:, t] = np.where(count >= self.min_history, total / np.maximum(count, 1), np.nan)
            if self.streaming:
                learn = np.isfinite(fresh.values[:, t]) & ~kept
                count += learn
                total += np.where(learn, fresh.values[:, t], 0.0)
        raw = Raw(np.abs(fresh.values - expected), expected, np.ones_like(expected))
        return raw, State({"count": count, "sum": total}, as_of=int(fresh.times[-1]))


def model(streaming: bool = True) -> Model:
    return Model(DetectorSpec("level"), GRID, 0, Level(streaming))


def block(values: np.ndarray, start: int = 0, first: int = 0) -> Block:
    labels = tuple(make_labels({"i": str(first + i)}) for i in range(len(values)))
    return Block(labels, 60_000 * (1 + start + np.arange(values.shape[1], dtype=np.int64)), values)


def noise(series: int, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(series, samples))


@pytest.mark.parametrize("streaming", [True, False])
def test_spike_is_surprising_and_outside_the_band(streaming: bool) -> None:
    """After a history, a spike has a large surprise and lies outside the band; a normal value neither."""
    m = model(streaming)
    state = m.fit(block(noise(2, 600)))
    scores, _ = m.score(state, block(np.array([[0.1], [9.0]]), 600), cut=4.0)
    assert scores.surprise[0, 0] < 1.5
    assert scores.surprise[1, 0] > 5
    assert scores.lower[0, 0] < 0.1 < scores.upper[0, 0]
    assert scores.upper[1, 0] < 9.0


@pytest.mark.parametrize("streaming", [True, False])
def test_band_is_where_surprise_equals_the_cut(streaming: bool) -> None:
    """A sample on the edge of the band has the surprise of the cut."""
    m = model(streaming)
    state = m.fit(block(noise(1, 900)))
    edge = m.score(state, block(np.zeros((1, 1)), 900), cut=3.5)[0].upper
    on_edge = m.score(state, block(edge, 900), cut=3.5)[0].surprise[0, 0]
    assert on_edge == pytest.approx(3.5, abs=1e-3)


def test_streaming_fit_is_a_replay() -> None:
    """Fitting on all equals fitting on a part and scoring the rest."""
    m, values = model(), noise(3, 400)
    whole = m.fit(block(values))
    part = m.fit(block(values[:, :150]))
    _, part = m.score(part, block(values[:, 150:], 150), cut=3.0)
    assert whole.arrays.keys() == part.arrays.keys()
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, part.arrays[name], err_msg=name)


def test_batch_calibration_is_out_of_sample() -> None:
    """A batch detector learns from all, and from the older part, which scores the newer for the calibration."""
    m = model(streaming=False)
    state = m.fit(block(noise(1, 500)))
    assert sorted(m.detector.fitted) == [300, 500]
    assert state.arrays["c.lines"][:, tail.SEEN].tolist() == [200]


def test_slices_score_as_the_whole() -> None:
    """Two halves of the series, scored apart, give the scores of the whole."""
    m, values, fresh = model(), noise(4, 300), noise(4, 20, seed=1)
    state = m.fit(block(values))
    whole = m.score(state, block(fresh, 300), cut=3.0)[0]
    for rows in ([0, 1], [2, 3]):
        part = m.score(state.take(rows), block(fresh, 300).take(rows), cut=3.0)[0]
        np.testing.assert_array_equal(part.surprise, whole.surprise[rows])


def test_snapshot_gives_the_same_next_score() -> None:
    """A state that went through bytes scores as before."""
    m = model()
    state = m.fit(block(noise(2, 300)))
    fresh = block(noise(2, 5, seed=2), 300)
    again = state_from_bytes(state.to_bytes())
    np.testing.assert_array_equal(m.score(state, fresh, 3.0)[0].surprise, m.score(again, fresh, 3.0)[0].surprise)


def test_newcomer_is_calibrated_by_its_siblings() -> None:
    """A series that joins without a past is scored as soon as its detector can, against its siblings' scores."""
    m = model()
    state = m.fit(block(noise(3, 800)))
    joined = m.join(state, block(np.zeros((1, 0)), first=3))
    assert len(joined.arrays["c.lines"]) == 4
    fresh = np.concatenate([noise(3, 4, seed=3), [[0.0, 0.1, 0.0, 8.0]]])
    surprise = m.score(joined, block(fresh, 800), cut=3.0)[0].surprise
    assert surprise[3, 2] < 1.5
    assert surprise[3, 3] > 4


def test_held_series_stay_surprising() -> None:
    """A level that is held is not learned, once the series is not young: it stays surprising as long as it lasts."""
    m = model()
    state = m.fit(block(noise(1, 1_500)))
    scores, _ = m.score(state, block(np.full((1, 200), 10.0), 1_500), 3.0, hold=np.array([True]))
    assert (scores.surprise > 4).all()


def test_old_samples_are_refused() -> None:
    """Samples not newer than the state raise, and do not change it."""
    m = model()
    state = m.fit(block(noise(1, 100)))
    with pytest.raises(DetectorError, match="old"):
        m.score(state, block(noise(1, 1), 50), cut=3.0)


def test_version_names_everything_that_decides_a_score() -> None:
    """Equal specs share a version; another parameter, grid or seed has another."""
    base = Model(DetectorSpec("level", {"a": 1}), GRID, 0, Level(True))
    same = Model(DetectorSpec("level", {"a": 1}), GRID, 0, Level(True))
    others = [
        Model(DetectorSpec("level", {"a": 2}), GRID, 0, Level(True)),
        Model(DetectorSpec("level", {"a": 1}), Grid(1000), 0, Level(True)),
        Model(DetectorSpec("level", {"a": 1}), GRID, 1, Level(True)),
    ]
    assert base.version == same.version
    assert len({m.version for m in [base, *others]}) == 4


class Newer(Model):
    """A model as the next release may make it."""

    code = Model.code + 1


def test_a_version_names_the_code_and_the_days() -> None:
    """States of other code or of other holidays are not taken for ours, whatever the release is called."""
    spec = DetectorSpec("level", {"a": 1})
    some = [Holidays("x", digest, ()) for digest in ("1", "2")]
    models = [
        Model(spec, GRID, 0, Level(True)), Newer(spec, GRID, 0, Level(True)),
        *(Model(spec, replace(GRID, holidays=days), 0, Level(True)) for days in some),
    ]  # fmt: skip
    assert len({model.version for model in models}) == 4


def test_min_history_is_enough_for_a_surprise() -> None:
    """With ``min_history`` samples the next one has a surprise."""
    for streaming in (True, False):
        m = model(streaming)
        state = m.fit(block(noise(1, m.min_history)))
        assert np.isfinite(m.score(state, block(noise(1, 1), m.min_history), 3.0)[0].surprise).all()
    assert model(True).min_history == 2 + FEWEST


def test_a_version_names_all_that_decides_the_scores_but_the_samples() -> None:
    """Query, history, detector, parameters, seed, zone, direction, windows, delay are part of it; tiers are not."""
    rule = Rule("Load", "g", "load", detector=DetectorSpec("mad", {"window": "4h"}))
    changes: list[dict[str, Any]] = [
        {"expr": "load5"}, {"source": "edge"}, {"history_ms": DAY_MS}, {"detector": DetectorSpec("iqr")},
        {"detector": DetectorSpec("mad", {"window": "5h"})}, {"seed": 1}, {"timezone": "Europe/Berlin"},
        {"interval_ms": 5 * MINUTE_MS}, {"query_delay_ms": 0}, {"drop_labels": ("pod",)},
        {"dont_learn": (Interval(times=((120, 180),)),)}, {"direction": "up"},
    ]  # fmt: skip
    versions = {model_of(replace(rule, **change)).version for change in [{}, *changes]}
    assert len(versions) == len(changes) + 1
    same = replace(rule, labels={"team": "a"}, for_ms=MINUTE_MS, receivers=("x",), refit_on_drift=False)
    assert model_of(same).version == model_of(rule).version
    assert model_of(rule).version != Model(rule.detector, Grid(rule.interval_ms), rule.seed).version


def test_an_incident_of_the_past_is_neither_counted_nor_learned_from() -> None:
    """A batch detector's tail after a history with an outage that nobody knew of is that without it."""
    values = noise(1, 2_000)
    tails = []
    for gap in (np.nan, 60.0):
        values[0, 1_500:1_524] = gap
        tails.append(model(streaming=False).fit(block(values)).arrays)
    for name in ("c.counts", "c.lines"):
        np.testing.assert_allclose(tails[1][name], tails[0][name], rtol=0.05, atol=2.0)
    assert tails[1]["c.lines"][0, tail.SEEN] == 2_000 - 1_200 - 24
