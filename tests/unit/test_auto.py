"""``auto``: what its two signals and its joint form promise."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.detectors.auto import Auto, AutoParams
from anomalyd.detectors.base import Grid, state_from_bytes
from anomalyd.detectors.kernels.auto import DOUBT, YOUTH, youth

STEP = 300_000
DAY = 288
START = 1_760_054_400_000


def auto(**params: object) -> Auto:
    """The detector at five minutes with a short book."""
    return Auto(AutoParams(**({"contexts": 256} | params)), Grid(STEP))  # type: ignore[arg-type]


def block(values: np.ndarray) -> Block:
    """Series [N, T] five minutes apart."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    return Block(labels, START + STEP * np.arange(1, values.shape[1] + 1, dtype=np.int64), values)


def rhythm(series: int = 1, days: int = 10, seed: int = 0) -> np.ndarray:
    """A daily sine of 20 around 100, noise 1."""
    t = np.arange(days * DAY)
    return 100 + 20 * np.sin(2 * np.pi * t / DAY) + np.random.default_rng(seed).normal(size=(series, len(t)))


def signals(values: np.ndarray, **params: object) -> tuple[np.ndarray, np.ndarray]:
    """Surprise and page of the first series, scored from nothing."""
    detector = auto(**params)
    raw, page, _ = detector.signals(detector.fit(block(values[:, :0]), 0), block(values))
    return raw.score[0], page[0]


def test_a_spike_is_the_most_surprising_sample_and_pages_once() -> None:
    """Eight standard deviations on the rhythm stand out of ten days, and are told once."""
    values = rhythm()
    at = 8 * DAY + 100
    values[0, at] += 15
    score, page = signals(values)
    assert np.nanargmax(score[DAY:]) + DAY == at
    assert score[at] > 4
    assert page[at] > 1
    assert (np.nan_to_num(page[at + 1 : at + 40]) <= 1).all()


def test_an_ordinary_value_at_the_wrong_time_is_surprising() -> None:
    """The night's value at noon lies inside the range seen, and is found by its context."""
    values = rhythm()
    at = 8 * DAY + 72
    values[0, at : at + 6] = 82.0
    score, _ = signals(values)
    assert score[at : at + 6].max() > 4


def test_a_span_ranks_above_the_ordinary() -> None:
    """Hours of a shifted level rank high as a whole, not only where they begin."""
    values = rhythm()
    span = slice(8 * DAY, 8 * DAY + 60)
    values[0, span] += 12
    score, _ = signals(values)
    assert np.median(score[span]) > np.nanquantile(score[2 * DAY : 8 * DAY], 0.95)


def test_habit_quiets_the_tenth_peak_of_a_kind() -> None:
    """A series that has the same spike again and again is paged less for it."""
    values = rhythm(days=20)
    peaks = np.arange(3 * DAY, 19 * DAY, DAY + 37)
    values[0, peaks] += 15
    _, page = signals(values)
    assert page[peaks[0]] > 1
    assert page[peaks[-1]] < 0.8 * page[peaks[0]]


@pytest.mark.parametrize(("step", "grown"), [(60_000, 4032), (STEP, 4032), (3_600_000, 336)])
def test_news_is_worth_less_while_a_series_is_young(step: int, grown: int) -> None:
    """Each halving of the age costs the same, from two weeks (or as many samples as they have at 5 m) on down."""
    detector = Auto(AutoParams(), Grid(step))
    assert detector.grown == grown
    assert youth(grown - 1.0, detector.grown) == youth(10.0 * grown, detector.grown) == 0
    assert youth(grown / 2 - 1.0, detector.grown) == pytest.approx(YOUTH)
    assert youth(grown / 8 - 1.0, detector.grown) == pytest.approx(3 * YOUTH)


def test_young_series_warm_up() -> None:
    """No score before the warm-up, one for each sample after it."""
    score, page = signals(rhythm(days=1))
    assert np.isnan(score[:120]).all()
    assert np.isfinite(score[120:]).all()
    assert np.isfinite(page[120:]).all()


def test_noise_has_few_alarms() -> None:
    """A week of noise without a fault has about as many samples above a cut as the cut allows, not many times more."""
    values = 50 + np.random.default_rng(1).normal(size=(10, 14 * DAY))
    detector = auto()
    raw, _, _ = detector.signals(detector.fit(block(values[:, :0]), 0), block(values))
    alarms = (raw.score[:, 7 * DAY :] > np.log10(DAY)).sum()
    assert 10 <= alarms <= 3 * 70


def test_scores_below_the_seam_only_rank() -> None:
    """The span's rank never reaches the seam, whatever goes on."""
    values = rhythm(days=6)
    values[0, 4 * DAY : 5 * DAY] *= np.random.default_rng(2).uniform(0.2, 3, DAY)
    score, _ = signals(values)
    assert not ((score > 0.99 * DOUBT) & (score < DOUBT)).any()
    assert np.nanmax(score) <= 300


def test_joint_finds_a_broken_relation() -> None:
    """Two channels that always moved together part: each is ordinary by itself, their vector is not."""
    rng = np.random.default_rng(3)
    t = np.arange(8 * DAY)
    load = np.sin(2 * np.pi * t / DAY) + 0.3 * rng.normal(size=len(t))
    values = np.stack([load * k + 0.05 * rng.normal(size=len(t)) for k in (1, 2, 5, -3, 4, 2)])
    at = slice(7 * DAY, 7 * DAY + 20)
    values[2, at] = -values[2, at]
    detector = auto(joint=True)
    state = detector.fit(block(values).window(0, 6 * DAY), 0)
    raw, page, after = detector.signals(state, block(values).window(6 * DAY))
    score = raw.score[0]
    assert score[DAY : DAY + 20].max() > 2 * np.quantile(score[:DAY], 0.99)
    assert np.nanmax(page[0, DAY : DAY + 20]) > 2
    np.testing.assert_array_equal(raw.score, np.broadcast_to(score, raw.score.shape))
    again = state_from_bytes(after.to_bytes())
    assert again.shared == after.shared


@pytest.mark.parametrize("joint", [False, True])
def test_missing_channels_and_samples(joint: bool) -> None:
    """A channel that is missing has no score; the others have."""
    values = rhythm(4, 6)
    detector = auto(joint=joint)
    state = detector.fit(block(values).window(0, 5 * DAY), 0)
    values[1, 5 * DAY :] = np.nan
    raw, _ = detector.score(state, block(values).window(5 * DAY))
    assert np.isnan(raw.score[1]).all()
    assert np.isfinite(raw.score[[0, 2, 3]]).all()
    assert np.isfinite(raw.expected).all()


@pytest.mark.parametrize("gap", [12, 36, 72])
def test_a_series_that_comes_back_is_no_news(gap: int) -> None:
    """After hours without a sample a strong rhythm is far from where it was, and that is as it should be."""
    values = rhythm(10, 16)
    values[:, 15 * DAY - 20 : 15 * DAY - 20 + gap] = np.nan
    detector = auto()
    _, page, _ = detector.signals(detector.fit(block(values[:, :0]), 0), block(values))
    assert (page[:, 15 * DAY - 20 + gap : 15 * DAY + gap] > 1).any(axis=1).sum() <= 1


@pytest.mark.parametrize("gap", [0, 36, 72])
def test_a_break_while_nobody_looked_is_news(gap: int) -> None:
    """A series that comes back where it never was pages, as it does without an outage."""
    values = rhythm(10, 16)
    values[:, 15 * DAY - 20 : 15 * DAY - 20 + gap] = np.nan
    values[:, 15 * DAY - 20 + gap :] -= 60
    detector = auto()
    _, page, _ = detector.signals(detector.fit(block(values[:, :0]), 0), block(values))
    assert (page[:, 15 * DAY - 20 + gap : 15 * DAY + gap] > 1).any(axis=1).sum() >= 9


def test_an_episode_is_learned_when_it_is_over_but_not_its_level() -> None:
    """Held samples leave the expectation where it was; that such scores happen is known once the hold ends."""
    values = rhythm(days=6)
    at = 5 * DAY
    values[0, at : at + 12] += 30
    detector = auto()
    _, state = detector.score(detector.fit(block(values[:, :0]), 0), block(values).window(0, at))
    hold = np.ones(1, np.bool_)
    held, after = detector.score(state, block(values).window(at, at + 12), hold)
    for name in ("counts", "extremes", "weights", "book"):
        np.testing.assert_array_equal(after.arrays[name], state.arrays[name], err_msg=name)
    assert held.score.min() > 4
    again = block(values).window(at + 12, at + 13)
    again.values[:] = values[0, at]
    fresh, _ = detector.score(state, again)
    known, ended = detector.score(after, again)
    assert known.score[0, 0] < fresh.score[0, 0]
    assert abs(known.expected[0, 0] - fresh.expected[0, 0]) < 5
    assert ended.arrays["tails"][0, 0, 3] == state.arrays["tails"][0, 0, 3] + 13


def test_a_series_that_has_not_settled_is_learned_in_an_episode_too() -> None:
    """What is held back is held back of series that are known: the first three hundred samples teach, held or not."""
    values = rhythm(days=2)
    detector = auto()
    _, young = detector.score(detector.fit(block(values[:, :0]), 0), block(values).window(0, 200))
    hold = np.ones(1, np.bool_)
    fresh = block(values).window(200, 299)
    held, free = detector.score(young, fresh, hold)[1], detector.score(young, fresh)[1]
    for name in ("counts", "extremes", "weights", "book", "recent"):
        np.testing.assert_array_equal(held.arrays[name], free.arrays[name], err_msg=name)
    settled = detector.score(free, block(values).window(299, 340))[1]
    after = detector.score(settled, block(values).window(340, 360), hold)[1]
    np.testing.assert_array_equal(after.arrays["weights"], settled.arrays["weights"])


def test_an_episode_opens_where_the_paging_signal_says_so() -> None:
    """What may open an episode is the paging signal as a surprise; 1 of it is a budget of one alarm a week."""
    values = rhythm(days=12)
    values[0, 8 * DAY + 100] += 15
    detector = auto()
    state = detector.fit(block(values[:, :0]), 0)
    _, page, _ = detector.signals(state, block(values))
    raw, _ = detector.score(state, block(values))
    assert raw.page is not None
    seen = np.isfinite(page)
    weekly = np.log10(7 * DAY)
    np.testing.assert_array_equal(raw.page[seen] > weekly, page[seen] > 1)
    assert (raw.page[seen] <= raw.score[seen]).all()
    assert (raw.page[seen] == 0).mean() > 0.98
