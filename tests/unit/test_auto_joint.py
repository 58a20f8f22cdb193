"""``auto`` over the channels of one vector: each view sees what it is for, whatever the channels are like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.block import F64, Block, Bool, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.auto import Auto, AutoParams
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.kernels import auto_joint as kernels
from anomalyd.detectors.kernels import levels, memories

STEP = 5 * MINUTE_MS
DAY = 288
WEEKLY = float(np.log10(7 * DAY))


def block(values: F64, first: int = 0) -> Block:
    labels = tuple(make_labels({"channel": str(i)}) for i in range(len(values)))
    return Block(labels, STEP * np.arange(first + 1, first + values.shape[1] + 1, dtype=np.int64), values)


def lived(values: F64, history: int) -> tuple[Raw, State]:
    """What is said of the samples behind the history, and the state after them."""
    detector = Auto(AutoParams(joint=True), Grid(STEP))
    whole = block(values)
    return detector.score(detector.fit(whole.window(0, history), 0), whole.window(history))


def noise(channels: int, days: int, seed: int = 0) -> F64:
    """Channels that follow a common load, each with noise of its own."""
    rng = np.random.default_rng(seed)
    load = np.cumsum(rng.normal(size=days * DAY))
    load -= np.convolve(load, np.ones(DAY) / DAY, "same")
    return np.outer(rng.uniform(0.5, 2, channels), load / load.std()) + rng.normal(size=(channels, days * DAY))


def test_a_level_of_another_hour_is_found() -> None:
    """A value that is usual at noon is unusual at midnight, though no channel leaves its reach or its relations."""
    rng = np.random.default_rng(1)
    t = np.arange(16 * DAY)
    values = 10 * np.sin(2 * np.pi * t / DAY) + rng.normal(size=(5, len(t)))
    at = slice(15 * DAY, 15 * DAY + 24)
    values[:, at] = np.roll(values, DAY // 4, axis=1)[:, at]
    raw, _ = lived(values, 14 * DAY)
    assert raw.score[0, DAY : DAY + 24].max() > WEEKLY
    assert raw.score[0, DAY : DAY + 24].max() > raw.score[0, :DAY].max()


def test_one_channel_that_leaves_the_others_is_found() -> None:
    """Of forty channels under one load a single one stands out by what the others make of it."""
    values = noise(40, 16)
    usual = float(values[7].std())
    values[7, 15 * DAY : 15 * DAY + 12] -= 8 * usual
    raw, _ = lived(values, 14 * DAY)
    assert raw.score[0, DAY : DAY + 12].max() > WEEKLY
    assert raw.page is not None
    assert raw.page[0, DAY : DAY + 12].max() > WEEKLY


@pytest.mark.parametrize("moved", [0.01, 1.0, -1e6, 1e25])
def test_a_channel_that_never_moved_is_heard_when_it_does(moved: float) -> None:
    """A channel constant in the history is no news while it stays, and news as soon as it does not."""
    values = noise(6, 9)
    values[2] = 0.0
    values[2, 8 * DAY : 8 * DAY + 6] = moved
    raw, _ = lived(values, 7 * DAY)
    assert raw.score[0, DAY : DAY + 6].max() > 2 * np.median(raw.score[0, :DAY])
    assert raw.score[0, DAY : DAY + 6].max() > WEEKLY


def episodes(above: Bool, news: Bool) -> int:
    """How many episodes open, by news above the cut, and last while the score is above it."""
    count, live = 0, False
    for high, new in zip(above.tolist(), news.tolist(), strict=True):
        count += int(high and new and not live)
        live = high and (live or new)
    return count


def test_channels_without_a_fault_open_little() -> None:
    """Four weeks after the history of ten groups: no more openings than twice a budget of one a week."""
    opened = 0
    for seed in range(10):
        raw, _ = lived(noise(8, 42, seed), 14 * DAY)
        assert raw.page is not None
        opened += episodes(raw.score[0] > WEEKLY, raw.page[0] > WEEKLY)
    assert opened <= 2 * 4 * 10


def test_what_lasts_is_ranked_by_every_memory() -> None:
    """The held mean is that of four maxima, of which three fade at their own rates; an episode goes on by the first."""
    values = np.zeros(101)
    values[0] = 4.0
    lasting, short, fresh, rises = memories.hold_and_fade(values, 1, np.zeros(7))
    np.testing.assert_allclose(lasting[[0, 1, 100]], [4, (0.9 + 0.99 + 0.999), 0.9**100 + 0.99**100 + 0.999**100])
    np.testing.assert_allclose(short[[0, 1, 100]], np.array([12, 4 * (0.9 + 0.99), 4 * (0.9**100 + 0.99**100)]) / 3)
    np.testing.assert_array_equal(fresh, values)
    np.testing.assert_array_equal(np.flatnonzero(rises), [0])


def test_the_last_samples_are_averaged_before_they_are_news() -> None:
    """Three samples weigh as one; what is no higher than it lately was is no news, and no cut of the block matters."""
    values = np.array([0.0, 6.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0, 1.0])
    _, _, fresh, rises = memories.hold_and_fade(values, 3, np.zeros(7))
    np.testing.assert_allclose(fresh, [0, 2, 2, 2, 1, 2, 3, 3, 7 / 3])
    np.testing.assert_array_equal(np.flatnonzero(rises), [1, 6])
    held = np.zeros(7)
    parts = [memories.hold_and_fade(part, 3, held) for part in (values[:2], values[2:3], values[3:])]
    for k, whole in enumerate(memories.hold_and_fade(values, 3, np.zeros(7))):
        np.testing.assert_array_equal(np.concatenate([part[k] for part in parts]), whole)


def test_what_opens_an_episode_is_told_as_that_rare() -> None:
    """Where something is news rarer than once a week the score says as much; elsewhere it only ranks, below that."""
    values = noise(6, 9)
    values[:, 8 * DAY : 8 * DAY + 3] += 20 * values.std()
    raw, _ = lived(values, 7 * DAY)
    assert raw.page is not None
    assert (raw.score >= raw.page).all()
    assert raw.page[0, DAY] > WEEKLY
    lasts = raw.score[0, DAY : DAY + 120] > WEEKLY
    assert lasts[:3].all()
    assert not lasts[60:].any(), "an episode of three samples is over soon"
    after = raw.score[0, DAY + 60 : DAY + 120]
    assert after.min() > np.median(raw.score[0, :DAY]), "and is still ranked for long"


def test_a_fit_amid_an_incident_goes_on_with_it() -> None:
    """A new fit, of a history that ends in an incident, still holds it for the samples that follow."""
    values = noise(6, 10)
    calm, _ = lived(values, 8 * DAY)
    values[:, 8 * DAY - 6 : 8 * DAY] += 30 * values.std()
    amid, _ = lived(values, 8 * DAY)
    assert amid.score[0, :10].min() > calm.score[0, :10].max()
    assert amid.score[0, :10].min() > 1.5


def rhythms(channels: int, days: int, seed: int = 2) -> F64:
    """Channels with a strong rhythm of the day, each at an hour of its own."""
    rng = np.random.default_rng(seed)
    hours = rng.uniform(0, DAY, (channels, 1))
    return np.sin(2 * np.pi * (np.arange(days * DAY) - hours) / DAY) + rng.normal(size=(channels, days * DAY)) / 10


@pytest.mark.parametrize(("gap", "one"), [(1, True), (3, False), (60, True), (60, False)])
def test_channels_that_come_back_are_no_news(gap: int, one: bool) -> None:
    """After outages of minutes and hours, one every eight hours, nothing opens that would not have opened anyhow."""
    values = rhythms(8, 18)
    before, _ = lived(values, 14 * DAY)
    for at in range(14 * DAY + 60, 18 * DAY - 60, DAY // 3):
        values[: 1 if one else None, at : at + gap] = np.nan
    after, _ = lived(values, 14 * DAY)
    assert before.page is not None
    assert after.page is not None
    assert (after.page[1:] > WEEKLY).sum() <= (before.page[1:] > WEEKLY).sum()


def test_time_without_samples_teaches_nothing() -> None:
    """Four days of history say the same with ten days of nothing before them, and as much with holes in them."""
    values = noise(6, 16)
    states = []
    for first, hole in ((10, 0), (0, 0), (10, 30)):
        history = values[:, first * DAY : 14 * DAY].copy()
        history[:, : (10 - first) * DAY] = np.nan
        for at in range((10 - first) * DAY, history.shape[1], 144):
            history[:, at : at + hole] = np.nan
        detector = Auto(AutoParams(joint=True), Grid(STEP))
        states.append(detector.fit(block(history, first * DAY), 0))
    # The level that is reached once a week: the middle peak and what is above it.
    plain, empty, holes = (state.arrays["peaks"][:2] @ [1.0, np.log(14 / 2)] for state in states)
    assert empty == pytest.approx(plain, rel=0.02)
    assert holes == pytest.approx(plain, rel=0.1)


def test_a_group_that_nobody_saw_is_not_known() -> None:
    """However long a history is, without enough samples there is no score."""
    values = noise(3, 4)
    values[:, : 3 * DAY - 119] = np.nan
    raw, _ = lived(values, 3 * DAY)
    assert np.isnan(raw.score).all()
    values[:, 3 * DAY - 120] = 0.0
    raw, _ = lived(values, 3 * DAY)
    assert np.isfinite(raw.score).all()
    values[:, : 3 * DAY] = np.nan
    raw, _ = lived(values, 3 * DAY)
    assert np.isnan(raw.score).all()


def test_each_quarter_is_judged_by_the_others() -> None:
    """What is fitted to a quarter explains it better than the others could, and is not let to."""
    r = np.random.default_rng(5).normal(size=(4000, 3))
    r[1000:, 1] = r[1000:, 0] + 0.3 * r[1000:, 1]
    r[:1000, 1] = 0.3 * r[:1000, 1] - r[:1000, 0]
    crossed, offset, inverse = kernels._cross_fitted(r, np.ones(len(r), np.bool_))
    plain = kernels.given_others(r, offset, inverse)
    assert np.abs(crossed[:1000, 1]).mean() > 1.2 * np.abs(plain[:1000, 1]).mean()
    assert np.abs(plain[1000:, 1]).mean() < 0.8 * np.abs(r[1000:, 1]).mean()


def test_a_rhythm_is_believed_as_far_as_odd_days_show_that_of_even_ones() -> None:
    """Noise has next to no profile of the day, a wave has its own."""
    rng = np.random.default_rng(6)
    t = np.arange(14 * DAY)
    values = np.stack([rng.normal(size=len(t)), 3 * np.sin(2 * np.pi * t / DAY) + rng.normal(size=len(t))])
    found = levels.rhythm(values, t % DAY * levels.BINS // DAY, t // DAY)
    assert np.abs(found[0]).max() < 0.3
    np.testing.assert_allclose(found[1], 3 * np.sin(2 * np.pi * (np.arange(48) + 0.5) / 48), atol=0.5)


def test_hours_without_a_sample_lie_between_their_neighbours() -> None:
    """With a step of two hours most bins of the day are empty; the rhythm is known between them all the same."""
    t = np.arange(14 * 12)
    wave = 5 * np.sin(2 * np.pi * t / 12)[None, :] + 0.01 * np.random.default_rng(7).normal(size=(1, len(t)))
    found = levels.rhythm(wave, t % 12 * levels.BINS // 12, t // 12)
    assert np.abs(np.diff(found[0])).max() < 1.5
    assert found[0].max() > 4


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(0, 400))
def test_any_vector_has_a_finite_score(seed: int, channels: int, history: int) -> None:
    """Whatever is missing, constant or huge: no warning, no NaN where there is a sample, nothing below 0."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(channels, history + 60)) * 10.0 ** rng.integers(-20, 40, size=(channels, 1))
    values[rng.random(values.shape) < rng.choice([0.0, 0.3, 1.0])] = np.nan
    values[rng.random(channels) < 0.3] = rng.choice([0.0, 1e12, -3.0])
    raw, after = lived(values, history)
    there = ~np.isnan(values[:, history:])
    assert np.isfinite(raw.expected).all()
    assert (raw.unit > 0).all()
    if history >= 120:
        assert (raw.score[there] >= 0).all()
        assert (raw.score[there] <= 300).all()
    else:
        assert np.isnan(raw.score).all()
    assert all(np.isfinite(array).all() for array in after.arrays.values())
