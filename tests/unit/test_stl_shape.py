"""``stl`` is calibrated by a model that takes a series for what the running one takes it for."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.detectors.base import Grid, Shaped, State
from anomalyd.detectors.calibrate import Calibrator
from anomalyd.detectors.model import FOLDS, STEADY, Model
from anomalyd.detectors.stl import Stl, StlParams
from anomalyd.rule import DetectorSpec

STEP = 5 * MINUTE_MS
DAY = DAY_MS // STEP
GRID = Grid(STEP, "UTC")


def block(*values: np.ndarray) -> Block:
    """Series of these values from the beginning of time on."""
    labels = tuple((("s", str(i)),) for i in range(len(values)))
    return Block(labels, np.arange(1, len(values[0]) + 1) * STEP, np.vstack(values))


def moody(seed: int) -> np.ndarray:
    """Two weeks about a level, of which the first five days swing every 40 minutes and the others do not."""
    values = 34 + np.random.default_rng(seed).normal(size=14 * DAY)
    values[: 5 * DAY] += 1.33 * np.sin(2 * np.pi * np.arange(5 * DAY) / 8)
    return values


def rhythm(length: int, samples: int, seed: int) -> np.ndarray:
    t = np.arange(samples)
    return 50 + 20 * np.sin(2 * np.pi * t / length) + np.random.default_rng(seed).normal(size=samples)


def stl() -> Stl:
    return Stl(StlParams(), GRID)


def with_periods(state: State, *periods: tuple[int, int]) -> State:
    return State(dict(state.arrays) | {"periods": np.array(periods, np.int64)}, state.shared, state.as_of)


def test_the_older_part_takes_the_periods_of_the_whole() -> None:
    """Periods that fit twice into the history are taken over, none where the model has none, own ones else."""
    detector, short = stl(), block(*(rhythm(DAY, 8 * DAY, seed) for seed in range(4)))
    model = with_periods(detector.fit(short, 0), (0, 0), (DAY, 7 * DAY), (7 * DAY, 0), (36, 0))
    periods = detector.fit_as(short, 0, model).arrays["periods"].tolist()
    assert periods == [[0, 0], [DAY, 0], [DAY, 0], [36, 0]]


def test_a_series_that_begins_late_has_no_cycles_before() -> None:
    """What counts is the history from a series' first sample on; without samples or series nothing is found."""
    detector, values = stl(), rhythm(DAY, 8 * DAY, 0)
    values[: 7 * DAY] = np.nan
    late = block(values, np.full(8 * DAY, np.nan))
    model = with_periods(detector.fit(late, 0), (DAY, 0), (DAY, 0))
    assert detector.fit_as(late, 0, model).arrays["periods"][:, 0].tolist() != [DAY, DAY]
    nothing = late.window(0, 0)
    assert not detector.fit_as(nothing, 0, model).arrays["periods"].any()
    assert isinstance(detector, Shaped)


def test_fitted_as_itself_a_state_is_the_same() -> None:
    """With the periods that it would find itself the detector learns what it learns by itself."""
    detector, history = stl(), block(rhythm(DAY, 8 * DAY, 1), 34 + np.random.default_rng(2).normal(size=8 * DAY))
    own = detector.fit(history, 0)
    for name, array in detector.fit_as(history, 0, own).arrays.items():
        np.testing.assert_array_equal(array, own.arrays[name])


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_is_that_of_the_model_that_runs(seed: int) -> None:
    """Where the older part shows a rhythm that the whole has not, the surprise is that of a level's scores."""
    detector, history = stl(), block(moody(seed))
    first, second = (int(len(history.times) * share) for share in FOLDS)
    learned = detector.fit(history, 0)
    assert not learned.arrays["periods"].any()
    alone = detector.fit(history.window(0, first), 0)
    assert alone.arrays["periods"].any(), "the case is one: the older part alone looks rhythmic"
    calibrator = Calibrator(steadiness=STEADY)
    parts = [
        detector.score(detector.fit_as(history.window(0, cut), 0, learned), history.window(cut, stop))[0].score
        for cut, stop in ((first, second), (second, len(history.times)))
    ]
    known = calibrator.score(calibrator.empty(1), np.concatenate(parts, axis=1), 0.0)[2]
    fall = Block(history.labels, history.times[-1:] + STEP, np.array([[20.0]]))
    expected = calibrator.score(known, detector.score(learned, fall)[0].score, 3.0)[0]
    model = Model(DetectorSpec("stl", {}), GRID)
    told = model.score(model.fit(history), fall, 3.0)[0].surprise
    np.testing.assert_array_equal(told, expected)
    assert told[0, 0] > 4
