"""A combined surprise is kept honest: what is that rare comes that rarely."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomalyd.detectors.kernels.promise import (
    BEYOND,
    DOUBTED,
    JUDGED,
    LEAST_SHIFT,
    LINE,
    MOST_SHIFT,
    NEWS,
    OFTEN,
    ONSET,
    STRETCHES,
    at_pace,
    keep_block,
    keep_pages,
    kept,
    openings,
)

U = 2.2
FADE = 2.0 ** (-1.0 / 50_000)
NO_HOLD = np.zeros(1, np.bool_)


def keep(score: np.ndarray, lines: np.ndarray | None = None, hold: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Run one series through the kernel: corrected scores [T] and what was counted."""
    out = score.reshape(1, -1).copy()
    lines = np.zeros((1, LINE)) if lines is None else lines.copy()
    keep_block(out, np.array([hold]), U, FADE, lines)
    return out[0], lines


def noise(length: int, often: float, mean: float, seed: int = 1) -> np.ndarray:
    """Surprises of single samples above U, ``often`` times as frequent as they say, with an excess of this mean."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0, 2, length)
    at = rng.random(length) < often * 10**-U
    score[at] = U + rng.exponential(mean, int(at.sum()))
    return score


def stretches(score: np.ndarray, cut: float) -> int:
    above = score > cut
    return int(above[0]) + int((above[1:] & ~above[:-1]).sum())


@pytest.mark.parametrize(("often", "mean"), [(1.0, 0.434), (1.0, 0.8), (0.4, 0.5), (0.5, 0.7), (1.5, 0.6)])
@pytest.mark.parametrize("per", [400, 2016])
def test_a_surprise_comes_as_often_as_it_says(often: float, mean: float, per: int) -> None:
    """Whatever the tail of the scores, a cut of one in so many samples is crossed within a factor of two of that."""
    settle, length = 4_000, 400_000
    score, _ = keep(noise(settle + length, often, mean))
    assert 0.5 <= stretches(score[settle:], math.log10(per)) / (length / per) <= 2.0


def test_without_correction_such_scores_would_break_the_promise() -> None:
    """The same heavy tail as it is crosses a cut of one in 2016 more than twice as often."""
    score = noise(400_000, 1.0, 0.8)
    assert stretches(score, math.log10(2016)) / (400_000 / 2016) > 2.0


WEEKLY = math.log10(2016)


def pages(length: int, often: float, mean: float, seed: int = 5) -> np.ndarray:
    """A paging signal [1, T]: news so many times a week, with this mean in the signal's unit."""
    rng = np.random.default_rng(seed)
    page = np.zeros((1, length))
    at = rng.random(length) < often / 2016
    page[0, at] = rng.exponential(mean, int(at.sum()))
    return page


@pytest.mark.parametrize(("often", "mean"), [(4.0, 1.4), (2.0, 1.0), (4.0, 1.9), (5.0, 1.2)])
def test_news_is_kept_honest_too(often: float, mean: float) -> None:
    """However often there is news and however large, about one a week opens by a budget of one a week."""
    page, length = pages(500_000, often, mean), 500_000
    keep_pages(page, np.full_like(page, 300.0), NO_HOLD, WEEKLY, 0, FADE, np.zeros((1, LINE)))
    opens = openings(page, np.zeros_like(page), U, WEEKLY)[0]
    for per in (2016, 8640):
        assert 0.5 <= stretches(opens, math.log10(per)) / (length / per) <= 2.2
    assert np.array_equal(opens > WEEKLY, page[0] > 1.0)


@pytest.mark.parametrize(("per_week", "often"), [(40_320, 8.0), (10_080, 0.5), (2_016, 0.5), (168, 0.144)])
def test_how_much_news_is_expected_goes_with_the_step(per_week: int, often: float) -> None:
    """More at steps below a minute, less above five, and a series that shows it may be corrected by as much more."""
    terms = at_pace(math.log10(per_week))
    assert terms[OFTEN] == pytest.approx(often, abs=0.01)
    assert terms[LEAST_SHIFT] <= NEWS[LEAST_SHIFT]
    assert terms[MOST_SHIFT] >= NEWS[MOST_SHIFT]
    assert terms[MOST_SHIFT] - terms[LEAST_SHIFT] == pytest.approx(1.0 + abs(math.log10(often / 0.5)), abs=0.01)
    same = np.arange(len(NEWS)) < OFTEN
    assert np.array_equal(terms[same], NEWS[same])


@pytest.mark.parametrize("weekly", [math.log10(40_320), WEEKLY])
def test_in_the_first_week_news_needs_an_onset(weekly: float) -> None:
    """The same news is worth what the onset allows while a series is young, and all it is after a week."""
    week = round(10**weekly)
    onset, page = np.full((1, week + 10), weekly - 1.0), np.zeros((1, week + 10))
    page[0, [10, week // 2, week + 5]] = 6.0
    lines = np.zeros((1, LINE))
    keep_pages(page, onset, NO_HOLD, weekly, 0, FADE, lines)
    opens = openings(page, np.zeros_like(page), U, weekly)[0]
    assert opens[10] == pytest.approx(weekly - 1.0 + DOUBTED, abs=0.01)
    assert opens[week // 2] == pytest.approx(weekly - 1.0 + 4 * DOUBTED, abs=0.01)
    assert opens[week + 5] > weekly
    assert 2.0 < lines[0, STRETCHES] <= 3.0
    assert lines[0, JUDGED] == week + 10
    page[0, 10] = 6.0
    keep_pages(page[:, 10:11], onset[:, :1] + 3.0, NO_HOLD, weekly, 0, FADE, np.zeros((1, LINE)))
    assert openings(page[:, 10:11], np.zeros((1, 1)), U, weekly)[0, 0] > weekly


def test_onsets_open_for_frequent_budgets_only() -> None:
    """An onset opens by a budget of one a day, and never by itself by one of one a week."""
    onset = np.array([[2.0, 9.0, np.nan]])
    opens = openings(np.array([[0.0, 0.0, np.nan]]), onset, U, WEEKLY)[0]
    assert math.log10(288) < opens[1] < WEEKLY
    assert opens[0] == 0.0
    assert math.isnan(opens[2])


def test_past_incidents_do_not_make_deaf() -> None:
    """Real incidents in the past, however large, take less than a third from a surprise that follows."""
    rng = np.random.default_rng(3)
    score = noise(60_000, 0.5, 0.434, seed=4)
    for start in rng.integers(0, 59_000, 40):
        score[start : start + 20] = 30.0
    _, lines = keep(score)
    assert float(kept(lines[0], 6.0, U, ONSET)) > 4.0
    assert float(kept(lines[0], 30.0, U, ONSET)) > 20.0


def test_an_episode_counts_once_however_long() -> None:
    """The sample that opens an episode is held and counted; what goes on in it says nothing about how often it is."""
    _, before = keep(noise(5_000, 1.0, 0.8))
    quiet = keep(np.zeros(20), before)[1]
    short = keep(np.full(1, 9.0), quiet, hold=True)[1]
    long = keep(np.full(500, 9.0), quiet, hold=True)[1]
    assert short[0, STRETCHES] == long[0, STRETCHES] == quiet[0, STRETCHES] + 1
    assert short[0, BEYOND] == long[0, BEYOND] == quiet[0, BEYOND] + 1


def test_missing_samples_are_no_samples() -> None:
    """A gap neither counts nor fades what was counted."""
    _, before = keep(noise(5_000, 1.0, 0.8))
    score, after = keep(np.full(500, np.nan), before)
    assert np.isnan(score).all()
    assert np.array_equal(before, after)


SCORES = arrays(np.float64, st.integers(1, 200), elements=st.floats(0, 300))


@given(SCORES, st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_cut_anywhere_it_is_the_same(score: np.ndarray, cut: int) -> None:
    """A score depends on the scores before it, not on how they were cut into blocks."""
    whole, lines = keep(score)
    head, state = keep(score[:cut])
    rest, end = keep(score[cut:], state)
    assert np.array_equal(whole, np.concatenate([head, rest]))
    assert np.array_equal(lines, end)


@given(SCORES, st.floats(0, 300), st.floats(0, 300))
@settings(max_examples=60, deadline=None)
def test_order_and_bounds(score: np.ndarray, a: float, b: float) -> None:
    """After any past the order of surprises stays, what is below U is untouched, and nothing rises far."""
    _, lines = keep(score)
    small, large = sorted((a, b))
    worth = [float(kept(lines[0], x, U, ONSET)) if x > U else x for x in (small, large)]
    assert worth[0] <= worth[1] + 1e-12
    assert all(math.isfinite(x) for x in worth)
    assert worth[1] <= max(large, U + 0.7 + 1.2 * (large - U)) + 1e-9
    corrected, _ = keep(score)
    assert np.array_equal(corrected[score <= U], score[score <= U])
    assert (corrected[score > U] >= U).all()
