"""The battery every registered detector passes: what the daemon relies on, whatever the algorithm."""

from __future__ import annotations

import importlib
from functools import cache

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Detector, Grid, Raw, State, join_states, state_from_bytes
from anomalyd.detectors.registry import EXTRA_MODULES, detector_info, detector_names, make_detector
from anomalyd.errors import DetectorError
from anomalyd.rule import DetectorSpec

STEP = 5 * MINUTE_MS
DAY = 288
START = 1_760_054_400_000 + STEP
SERIES = 6
HISTORY = 4 * DAY
FRESH = 120
GRID = Grid(STEP)

CHEAP: dict[str, dict[str, object]] = {
    "forecast": {"limit": 400.0},
    "lstm": {"hidden": 8, "window": 16, "windows": 8_192},
    "autoencoder": {"window": 12, "windows": 20_000},
}
"""Parameters a detector must be given, or that make its fit short enough for a battery; its defaults otherwise."""


def installed(name: str) -> bool:
    """Whether what the detector needs is here."""
    needed = EXTRA_MODULES.get(detector_info(name).extra)
    return needed is None or importlib.util.find_spec(needed) is not None


NAMES = [
    pytest.param(name, marks=() if installed(name) else pytest.mark.skip(f"{name}: its extra is not installed"))
    for name in detector_names()
]
every = pytest.mark.parametrize("name", NAMES)


def make(name: str, **params: object) -> Detector:
    """A detector with the battery's parameters."""
    return make_detector(DetectorSpec(name, CHEAP.get(name, {}) | params), GRID)


def rhythm(series: int = SERIES, samples: int = HISTORY + FRESH, seed: int = 1) -> Block:
    """Series with a daily sine of amplitude 20 around 100 and Gaussian noise of 1."""
    rng = np.random.default_rng(seed)
    times = START + STEP * np.arange(samples)
    wave = 100 + 20 * np.sin(2 * np.pi * np.arange(samples) / DAY)
    labels = tuple(make_labels({"pod": str(i)}) for i in range(series))
    return Block(labels, times, wave + rng.normal(size=(series, samples)))


def with_values(block: Block, values: np.ndarray) -> Block:
    """The same series and times with other samples."""
    return Block(block.labels, block.times, values)


@cache
def fitted(name: str) -> tuple[Detector, State]:
    """A detector fitted once on the battery's history."""
    detector = make(name)
    return detector, detector.fit(rhythm().window(0, HISTORY), 7)


def fresh() -> Block:
    """What comes after the history."""
    return rhythm().window(HISTORY)


def same(a: Raw, b: Raw) -> None:
    """Fail unless two answers are equal, NaN where NaN."""
    np.testing.assert_array_equal(a.score, b.score)
    np.testing.assert_array_equal(a.expected, b.expected)
    np.testing.assert_array_equal(a.unit, b.unit)


def sane(raw: Raw, values: np.ndarray) -> None:
    """Fail unless scores are finite and not negative, and absent where the sample is."""
    given = ~np.isnan(raw.score)
    assert np.isfinite(raw.score[given]).all()
    assert (raw.score[given] >= 0).all()
    assert not given[~np.isfinite(values)].any()
    assert not np.isinf(raw.expected).any()
    units = raw.unit[~np.isnan(raw.unit)]
    assert (units >= 0).all()
    assert np.isfinite(units).all()


@every
def test_facts_and_page(name: str) -> None:
    """A detector states its facts, its parameters make a JSON schema, and its module tells when it works and fails."""
    detector = make(name)
    assert detector.name == name
    assert detector.min_history >= 0
    schema = type(detector).Params.model_json_schema()
    assert all("description" in field for field in schema.get("properties", {}).values()), schema
    page = importlib.import_module(type(detector).__module__).__doc__ or ""
    for section in ("Idea", "Works for", "Fails when", "Toy stream", "Reference"):
        assert section in page, f"the docstring of {name} lacks {section!r}"


@every
def test_scores_and_expects(name: str) -> None:
    """After its history a detector scores every sample, expects something near it, and gives a band if it says so."""
    detector, state = fitted(name)
    block = fresh()
    raw, after = detector.score(state, block)
    sane(raw, block.values)
    assert raw.score.shape == raw.expected.shape == raw.unit.shape == block.values.shape
    assert not np.isnan(raw.score).any()
    assert np.nanmedian(np.abs(raw.expected - block.values)) < 45
    assert not np.isnan(raw.expected).any()
    assert np.isfinite(raw.unit).all() == detector.has_band
    assert after.as_of == block.times[-1]


@every
def test_seeded(name: str) -> None:
    """The same history and seed give the same state, bit for bit."""
    history = rhythm(2).window(0, HISTORY)
    first, second = (make(name).fit(history, 3) for _ in range(2))
    for key, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[key], err_msg=key)


@every
def test_state_is_not_changed(name: str) -> None:
    """Scoring returns a new state and leaves the old one as it was: what was not committed is scored again."""
    detector, state = fitted(name)
    before = {key: array.copy() for key, array in state.arrays.items()}
    first, _ = detector.score(state, fresh())
    for key, array in before.items():
        np.testing.assert_array_equal(array, state.arrays[key], err_msg=key)
    same(first, detector.score(state, fresh())[0])


@every
def test_an_old_state_stays_while_newer_ones_go_on(name: str) -> None:
    """A state scores the same, and is the same, after its successors went on for many ticks, held or not."""
    detector, first = fitted(name)
    _, state = detector.score(first, fresh().window(0, 1))
    before = {key: array.copy() for key, array in state.arrays.items()}
    said, later = detector.score(state, fresh().window(1, 2))
    for i in range(2, 12):
        hold = np.arange(SERIES) < i % 3
        _, later = detector.score(later, fresh().window(i, i + 1), hold)
    for key, array in before.items():
        np.testing.assert_array_equal(array, state.arrays[key], err_msg=key)
    again, other = detector.score(state, fresh().window(1, 2))
    same(said, again)
    for i in range(2, 12):
        hold = np.arange(SERIES) < i % 3
        _, other = detector.score(other, fresh().window(i, i + 1), hold)
    for key, array in later.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[key], err_msg=key)


@every
def test_blocks_can_be_cut_anywhere(name: str) -> None:
    """One block or many give the same scores and the same state."""
    detector, state = fitted(name)
    whole, end = detector.score(state, fresh())
    scores, expected, at = [], [], 0
    for stop in (1, 2, 3, 40, 41, FRESH):
        raw, state = detector.score(state, fresh().window(at, stop))
        scores.append(raw.score)
        expected.append(raw.expected)
        at = stop
    np.testing.assert_array_equal(whole.score, np.concatenate(scores, axis=1))
    np.testing.assert_array_equal(whole.expected, np.concatenate(expected, axis=1))
    for key, array in end.arrays.items():
        np.testing.assert_array_equal(array, state.arrays[key], err_msg=key)


@every
def test_fit_of_a_streaming_detector_is_a_replay(name: str) -> None:
    """A streaming detector fitted on all samples is where it would be after scoring the later ones."""
    detector = make(name)
    if not detector.streaming:
        pytest.skip("learns in fits")
    block = rhythm(2)
    _, stepped = detector.score(detector.fit(block.window(0, 500), 7), block.window(500, 900))
    at_once = detector.fit(block.window(0, 900), 7)
    assert stepped.as_of == at_once.as_of == int(block.times[899])
    for key, array in at_once.arrays.items():
        np.testing.assert_array_equal(array, stepped.arrays[key], err_msg=key)
    same(detector.score(stepped, block.window(900))[0], detector.score(at_once, block.window(900))[0])


@every
def test_slices_and_joins(name: str) -> None:
    """A series gets the same scores alone, in another order and in company: shards and executors cannot matter."""
    detector, state = fitted(name)
    if name == "peer":
        pytest.skip("compares the series of a block with each other")
    whole, _ = detector.score(state, fresh())
    rows = [4, 1, 2]
    part, _ = detector.score(state.take(rows), fresh().take(rows))
    np.testing.assert_array_equal(part.score, whole.score[rows])
    np.testing.assert_array_equal(part.expected, whole.expected[rows])
    joined = join_states([state.take([4, 1]), state.take([2])])
    same(part, detector.score(joined, fresh().take(rows))[0])


@every
def test_fit_does_not_depend_on_the_shard(name: str) -> None:
    """A series learns the same in any shard."""
    detector, state = fitted(name)
    if name == "peer" or state.shared - {"feature", "threshold"}:
        pytest.skip("learns from the series of a block together")
    alone = detector.fit(rhythm().window(0, HISTORY).take([3]), 7)
    for key, array in alone.take([0]).arrays.items():
        expected = state.arrays[key] if key in state.shared else state.take([3]).arrays[key]
        np.testing.assert_array_equal(array, expected, err_msg=key)


@every
def test_snapshot_round_trip(name: str) -> None:
    """A state read back from its bytes gives the same next scores."""
    detector, state = fitted(name)
    back = state_from_bytes(state.to_bytes())
    assert back.as_of == state.as_of
    same(detector.score(state, fresh())[0], detector.score(back, fresh())[0])


@every
def test_old_samples_are_refused(name: str) -> None:
    """A sample not newer than the state raises ``out_of_order`` and times that do not increase do too."""
    detector, state = fitted(name)
    with pytest.raises(DetectorError) as caught:
        detector.score(state, rhythm().window(HISTORY - 1, HISTORY + 5))
    assert caught.value.reason == "out_of_order"
    late = fresh().window(0, 3)
    twisted = Block(late.labels, late.times[[0, 2, 1]], late.values)
    with pytest.raises(DetectorError) as caught:
        detector.score(state, twisted)
    assert caught.value.reason == "out_of_order"


@every
def test_scored_before_learned(name: str) -> None:
    """What a sample is compared with does not depend on it, nor any score on a later sample."""
    detector, state = fitted(name)
    if name == "peer":
        pytest.skip("expects the middle of the siblings at the same time")
    calm, _ = detector.score(state, fresh())
    values = fresh().values.copy()
    values[:, 60:] += 500
    wild, _ = detector.score(state, with_values(fresh(), values))
    np.testing.assert_array_equal(calm.score[:, :60], wild.score[:, :60])
    np.testing.assert_array_equal(calm.expected[:, :61], wild.expected[:, :61])


@every
def test_gaps(name: str) -> None:
    """A missing sample has no score and the ones around it do; a whole gap in the history is survived."""
    detector = make(name)
    block = rhythm()
    values = block.values.copy()
    values[:, 300:360] = np.nan
    values[0, 100:900:7] = np.nan
    values[1, HISTORY + 10 : HISTORY + 20] = np.nan
    values[2, HISTORY + 30] = np.inf
    values[3, HISTORY + 31] = -np.inf
    holes = with_values(block, values)
    state = detector.fit(holes.window(0, HISTORY), 7)
    raw, after = detector.score(state, holes.window(HISTORY))
    sane(raw, values[:, HISTORY:])
    assert np.isnan(raw.score[1, 10:20]).all()
    assert np.isnan(raw.score[2, 30])
    assert np.isnan(raw.score[3, 31])
    assert (np.isnan(raw.score) == ~np.isfinite(values[:, HISTORY:])).mean() > 0.98
    later = Block(block.labels, block.times[-1:] + STEP, np.full((SERIES, 1), np.nan))
    raw, end = detector.score(after, later)
    assert np.isnan(raw.score).all()
    assert end.as_of == after.as_of + STEP


EXTREMES = {
    "constant": np.full(400, 3.0),
    "zero": np.zeros(400),
    "largest": np.full(400, 1e308),
    "signs": np.tile([1e308, -1e308], 200),
    "smallest": np.full(400, 5e-324),
    "one step": np.r_[np.zeros(390), np.full(10, 1e300)],
    "two values": np.r_[np.zeros(399), 1.0],
    "never": np.full(400, np.nan),
    "once": np.r_[np.full(399, np.nan), 1.0],
    "infinite": np.full(400, np.inf),
    "powers": np.tile(10.0 ** np.arange(-200, 200), 1),
}


@every
def test_extreme_values(name: str) -> None:
    """Constants, the largest and smallest floats and infinities never give an infinite score or a warning."""
    detector = make(name)
    values = np.stack(list(EXTREMES.values()))
    labels = tuple(make_labels({"case": case}) for case in EXTREMES)
    block = Block(labels, START + STEP * np.arange(400), values)
    state = detector.fit(block.window(0, 300), 7)
    raw, state = detector.score(state, block.window(300))
    sane(raw, values[:, 300:])
    wild = np.repeat([[0.0, 1e308, -1e308, 1.0]], len(labels), axis=0)
    next_times = block.times[-1] + STEP * np.arange(1, 5)
    raw, state = detector.score(state, Block(labels, next_times, wild))
    sane(raw, wild)
    assert state.as_of == int(next_times[-1])
    assert raw.score.shape == raw.expected.shape == wild.shape
    assert not np.isinf(raw.score).any()


@every
def test_flat_line_has_a_floor(name: str) -> None:
    """A constant series is no anomaly, nor is a change of a millionth of its level the greatest one possible."""
    detector = make(name)
    values = np.full((4, HISTORY + 20), 100.0)
    values[0, HISTORY + 10] = 100.0001
    values[1, HISTORY + 10] = 200.0
    block = Block(rhythm(4).labels, START + STEP * np.arange(HISTORY + 20), values)
    raw, _ = detector.score(detector.fit(block.window(0, HISTORY), 7), block.window(HISTORY))
    sane(raw, values[:, HISTORY:])
    assert raw.score[0, 10] <= raw.score[1, 10]
    assert raw.score[0, 10] < 1e3


@every
def test_young_series(name: str) -> None:
    """No history, no series, one sample and two samples are all scored without an error."""
    detector = make(name)
    nothing = Block((), START + STEP * np.arange(3), np.zeros((0, 3)))
    raw, _ = detector.score(detector.fit(nothing, 7), Block((), nothing.times + 4 * STEP, nothing.values))
    assert raw.score.shape == (0, 3)
    block = rhythm(3, 40)
    for samples in (0, 1, 2):
        state = detector.fit(block.window(0, samples), 7)
        raw, state = detector.score(state, block.window(samples, samples + 2))
        sane(raw, block.values[:, samples : samples + 2])
        raw, same_state = detector.score(state, block.window(0, 0))
        assert raw.score.shape == (3, 0)
        assert same_state.as_of == state.as_of


@every
def test_held_series_are_scored_and_not_learned(name: str) -> None:
    """While an episode is open its samples teach nothing: afterwards the expectation is where it would have been."""
    detector, state = fitted(name)
    if name == "peer":
        pytest.skip("learns nothing")
    hold = np.zeros(SERIES, bool)
    hold[:3] = True
    values = fresh().values.copy()
    values[:3, :100] = 3.0
    raw, held = detector.score(state, with_values(fresh(), values).window(0, 100), hold)
    free, _ = detector.score(state, with_values(fresh(), values).window(0, 100))
    assert not np.isnan(raw.score).any()
    same_rows = detector.score(state, fresh().window(0, 100))[0]
    np.testing.assert_array_equal(raw.score[3:], same_rows.score[3:])
    np.testing.assert_array_equal(raw.score[3:], free.score[3:])
    after, _ = detector.score(held, fresh().window(110))
    settled = 6 if name == "forecast" else 0  # the trend is its subject: it follows an open episode and comes back
    assert np.abs(after.expected - fresh().window(110).values)[:3, settled:].max() < 45


@every
def test_a_spike_does_not_poison(name: str) -> None:
    """One sample a million times too large moves the later expectation by no more than ordinary noise does."""
    detector, state = fitted(name)
    values = fresh().values.copy()
    values[:, 20] = 1e8
    if name == "peer":
        values = fresh().values.copy()
        values[0, 20] = 1e8
    calm, _ = detector.score(state, fresh())
    spiked, _ = detector.score(state, with_values(fresh(), values))
    bound = 45 if name == "extreme" else 5  # what it expects is the middle of all it saw: at most one range wider
    assert np.abs(spiked.expected[:, 60:] - calm.expected[:, 60:]).max() < bound
    assert np.median(spiked.score[:, 60:]) <= 3 * np.median(calm.score[:, 60:]) + 1e-9


@every
def test_wrong_number_of_series(name: str) -> None:
    """A state of six series refuses a block of five."""
    detector, state = fitted(name)
    with pytest.raises(DetectorError) as caught:
        detector.score(state, fresh().take(range(SERIES - 1)))
    assert caught.value.reason == "shape"
