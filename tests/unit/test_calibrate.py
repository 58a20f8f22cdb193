"""Calibration: surprise means what it says, is causal, monotone, invertible and finite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.detectors.calibrate import ADOPTED, FEWEST, Calibrator, incidents
from anomalyd.detectors.kernels import tail


def learned(raw: np.ndarray, half_life: int = 50_000):
    """A calibrator and its state after the given raw scores [N, T]."""
    calibrator = Calibrator(half_life)
    return calibrator, calibrator.score(calibrator.empty(len(raw)), raw, 3.0)[2]


@pytest.mark.parametrize("noise", ["gauss", "laplace", "pareto", "exponential"])
def test_surprise_is_minus_log10_of_the_tail_probability(noise: str) -> None:
    """Of independent samples, about 1 in 100 and 1 in 1,000 exceed surprise 2 and 3, whatever the noise."""
    rng = np.random.default_rng(1)
    draw = {
        "gauss": lambda: np.abs(rng.normal(size=(20, 12_000))),
        "laplace": lambda: np.abs(rng.laplace(size=(20, 12_000))),
        "pareto": lambda: rng.pareto(4.0, size=(20, 12_000)),
        "exponential": lambda: rng.exponential(size=(20, 12_000)),
    }[noise]
    calibrator = Calibrator()
    surprise = calibrator.score(calibrator.empty(20), draw(), 3.0)[0][:, 2048:]
    assert (surprise > 2).mean() == pytest.approx(0.01, rel=0.2)
    assert (surprise > 3).mean() == pytest.approx(0.001, rel=0.6)


def test_old_scores_fade() -> None:
    """After many half-lives at a new scale, what was normal before counts for nothing."""
    rng = np.random.default_rng(2)
    raw = np.concatenate([rng.exponential(size=(1, 2000)), 100 * rng.exponential(size=(1, 4000))], axis=1)
    calibrator, state = learned(raw, half_life=300)
    assert calibrator.score(state, np.array([[100.0]]), 3.0)[0][0, 0] < 1.0
    slow, state = learned(raw, half_life=50_000)
    assert slow.score(state, np.array([[100.0]]), 3.0)[0][0, 0] < 1.0
    assert slow.score(state, np.array([[10.0]]), 3.0)[0][0, 0] > calibrator.score(
        learned(raw, half_life=300)[1], np.array([[10.0]]), 3.0
    )[0][0, 0]


def test_young_series_have_no_surprise() -> None:
    """Until FEWEST scores were seen the surprise is NaN; from then on it is given."""
    calibrator = Calibrator()
    surprise, bound, _ = calibrator.score(calibrator.empty(1), np.ones((1, FEWEST + 5)), 3.0)
    assert np.isnan(surprise[0, :FEWEST]).all()
    assert np.isfinite(surprise[0, FEWEST:]).all()
    assert np.isfinite(bound[0, FEWEST:]).all()


def test_missing_scores_are_neither_judged_nor_learned() -> None:
    """NaN gives NaN and leaves the state as it was."""
    calibrator, state = learned(np.random.default_rng(3).exponential(size=(2, 200)))
    surprise, _, after = calibrator.score(state, np.full((2, 3), np.nan), 3.0)
    assert np.isnan(surprise).all()
    for name in state:
        np.testing.assert_array_equal(after[name], state[name])


def test_held_series_are_judged_and_not_learned() -> None:
    """With hold the surprise is given and the state of that series stays."""
    calibrator, state = learned(np.random.default_rng(4).exponential(size=(2, 200)))
    surprise, _, after = calibrator.score(state, np.full((2, 20), 50.0), 3.0, np.array([True, False]))
    assert (surprise[0] == surprise[0, 0]).all()
    assert surprise[1, 19] < surprise[1, 0]
    assert after["lines"][:, tail.SEEN].tolist() == [200, 220]


def test_score_leaves_the_old_state_alone() -> None:
    """The state passed in can be used again: nothing was committed yet."""
    calibrator, state = learned(np.random.default_rng(5).exponential(size=(1, 300)))
    first = calibrator.score(state, np.array([[9.0]]), 3.0)[0]
    again = calibrator.score(state, np.array([[9.0]]), 3.0)[0]
    np.testing.assert_array_equal(first, again)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1e308, allow_nan=False) | st.just(float("nan")), min_size=70, max_size=120),
    st.integers(1, 69),
)
def test_cutting_changes_nothing_and_everything_is_finite(values: list[float], cut: int) -> None:
    """However the samples are cut into calls, the surprises are the same, finite and not negative."""
    raw = np.array([values])
    calibrator = Calibrator(half_life=64)
    whole, bound, _ = calibrator.score(calibrator.empty(1), raw, 4.0)
    head, _, state = calibrator.score(calibrator.empty(1), raw[:, :cut], 4.0)
    rest, _, _ = calibrator.score(state, raw[:, cut:], 4.0)
    np.testing.assert_array_equal(whole, np.concatenate([head, rest], axis=1))
    given_surprise = whole[~np.isnan(whole)]
    assert np.isfinite(given_surprise).all()
    assert (given_surprise >= 0).all()
    assert np.isfinite(bound[~np.isnan(bound)]).all()


def test_the_first_score_after_long_silence_is_finite() -> None:
    """A past of zeros, then one score and more of them: large surprises, none infinite."""
    calibrator, state = learned(np.zeros((1, 500)))
    surprise, bound, _ = calibrator.score(state, np.array([[0.001, 1000.0, 0.0, 1e30, 0.001]]), 3.0)
    assert np.isfinite(surprise).all()
    assert np.isfinite(bound).all()
    assert surprise[0, 1] > surprise[0, 0] > 2.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(2.0, 12.0))
def test_bound_is_the_inverse_of_surprise(seed: int, cut: float) -> None:
    """A score at the bound has the surprise it was asked for; a larger score a larger surprise."""
    rng = np.random.default_rng(seed)
    calibrator, state = learned(rng.exponential(size=(1, 400)))
    bound = calibrator.score(state, np.array([[0.0]]), cut, np.array([True]))[1]
    edge = calibrator.score(state, bound, cut, np.array([True]))[0][0, 0]
    beyond = calibrator.score(state, bound * 1.5, cut, np.array([True]))[0][0, 0]
    assert edge == pytest.approx(cut, abs=1e-3)
    assert beyond > edge


def test_newcomers_adopt_their_siblings_past_and_outgrow_it() -> None:
    """A young series is judged by its siblings' median at once, and by itself alone after a window of its own."""
    rng = np.random.default_rng(6)
    loud = np.array([[1.0], [1.0], [1.0], [1.0], [1000.0]])
    calibrator, siblings = learned(rng.exponential(size=(5, 3000)) * loud, half_life=500)
    young = calibrator.adopt(calibrator.empty(1), siblings)
    assert young["lines"][0, tail.SEEN] == ADOPTED
    surprise = calibrator.score(young, np.array([[20.0]]), 3.0)[0][0, 0]
    assert 3.0 < surprise < 20.0
    _, _, grown = calibrator.score(young, rng.exponential(size=(1, 6000)) * 1000, 3.0)
    assert calibrator.score(grown, np.array([[20.0]]), 3.0)[0][0, 0] < 0.2


def test_the_first_anomaly_of_a_flat_line_is_rarer_than_one_in_its_samples() -> None:
    """After nothing but zeros a score of many spreads exceeds a cut that no count of samples could reach."""
    calibrator = Calibrator()
    _, _, state = calibrator.score(calibrator.empty(1), np.zeros((1, 2_880)), 4.6)
    surprise, bound, _ = calibrator.score(state, np.array([[1_000.0]]), 4.6)
    assert surprise[0, 0] > 4.6
    assert 0 < bound[0, 0] < 1_000
    at_bound, _, _ = calibrator.score(state, bound, 4.6)
    assert at_bound[0, 0] == pytest.approx(4.6)
    small, _, _ = calibrator.score(state, np.array([[0.5]]), 4.6)
    assert small[0, 0] < 4.6, "half a spread on a flat line is nothing"


def test_first_scores_fade_while_a_series_settles() -> None:
    """Half-blind first scores widen the tail of a detector that settles for days only; without settling for weeks."""
    rng = np.random.default_rng(8)
    raw = rng.exponential(size=(1, 4_032))
    raw[0, :288] *= 30
    tails = [
        Calibrator(settling=settling).score(Calibrator().empty(1), raw, 3.0)[2] for settling in (2_016, 0)
    ]
    settled, blind = (Calibrator().score(state, np.array([[15.0]]), 3.0)[0][0, 0] for state in tails)
    assert blind < 2 < 3.5 < settled


def test_settling_leaves_enough_to_judge_by() -> None:
    """While it settles a series still has the weight of some ninety scores, and noise keeps its surprise."""
    raw = np.random.default_rng(9).exponential(size=(40, 860))
    calibrator = Calibrator(settling=864)
    surprise, _, state = calibrator.score(calibrator.empty(40), raw, 3.0)
    weight = state["lines"][:, tail.TOTAL] / state["lines"][:, tail.INCREMENT]
    assert (weight > 90).all()
    assert (surprise[:, 400:] > 2).mean() == pytest.approx(0.01, rel=0.5)


def test_an_incident_stands_out_of_a_past() -> None:
    """Two hours far above all other scores are an incident, whatever the noise; noise alone has none."""
    rng = np.random.default_rng(10)
    raw = np.stack([np.abs(rng.normal(size=1_600)), rng.exponential(size=1_600), np.abs(rng.standard_t(4, size=1_600))])
    assert not incidents(raw).any()
    raw[:, 700:724] += 40
    assert [row.nonzero()[0].tolist() for row in incidents(raw)] == [list(range(700, 724))] * 3


def test_what_happens_often_is_no_incident() -> None:
    """Bursts that a series has by nature count, and so do single spikes and runs with gaps that are short without."""
    raw = np.abs(np.random.default_rng(11).normal(size=(3, 1_600)))
    for first in range(100, 1_600, 250):
        raw[0, first : first + 10] += 40
    raw[1, [200, 500, 501]] += 40
    raw[2, [300, 302]] += 40
    raw[2, 301] = np.nan
    assert not incidents(raw).any()
    raw[2, 303] += 40
    assert incidents(raw)[2].nonzero()[0].tolist() == [300, 302, 303]
