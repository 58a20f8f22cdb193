"""How rare an episode is: the laws of peaks that are counted by the half day."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.block import F64
from anomalyd.detectors.kernels import peaks

SPAN = 144
NOBODY = np.zeros(28 * 2 * SPAN, np.bool_)


def clustered(days: int, seed: int = 0, middle: float = 4.0, mean: float = 1.0) -> F64:
    """Scores of which each half day has one burst: the square of its peak is ``middle`` plus an exponential excess."""
    rng = np.random.default_rng(seed)
    x = np.zeros((2 * days, SPAN))
    x[:, 50:60] = np.sqrt(middle - math.log(2) * mean + rng.exponential(mean, size=(2 * days, 1)))
    return x.ravel()


def followed(line: F64, x: F64) -> F64:
    return np.asarray(peaks.follow_peaks(x, x, NOBODY[: len(x)], line)[0])


def test_bursts_are_peaks_whatever_they_last() -> None:
    """Ten samples of one height are one event: the level of once a week is exceeded by four bursts of 28 days."""
    line = peaks.fit_peaks(clustered(200, seed=1), SPAN)
    assert line[peaks.MIDDLE] == pytest.approx(4.0, abs=0.2)
    assert line[peaks.EXCESS] == pytest.approx(1.0, abs=0.25)
    counted = 0
    for seed in range(2, 12):
        x = clustered(28, seed)
        rare = np.array([peaks.rarity(line, level) for level in x.reshape(-1, SPAN).max(axis=1)])
        counted += int((rare > peaks.weekly(line)).sum())
    assert 20 <= counted <= 80, "a budget of one a week for ten times four weeks"


def test_incidents_in_a_past_do_not_make_deaf() -> None:
    """One half day in eight with an incident of any size moves the level of once a week by little."""
    calm = clustered(14)
    wild = calm.copy()
    wild.reshape(-1, SPAN)[::8, 70:90] = 8.0
    levels = [line[peaks.MIDDLE] + line[peaks.EXCESS] for line in (peaks.fit_peaks(x, SPAN) for x in (calm, wild))]
    assert levels[1] < 1.3 * levels[0]


def test_a_future_unlike_the_past_is_followed() -> None:
    """Scores that are higher for good soon page no more than once a week again; before that they page daily."""
    line = peaks.fit_peaks(clustered(14), SPAN)
    said = followed(line, clustered(28, 3, middle=9.0)).reshape(-1, 2 * SPAN).max(axis=1)
    above = said > peaks.weekly(line)
    assert above[:2].all()
    assert above[14:].sum() <= 4


def test_a_single_incident_hardly_moves_what_is_expected() -> None:
    """However high it is, an incident counts for little more than two mean excesses."""
    line = peaks.fit_peaks(clustered(14), SPAN)
    before = line.copy()
    followed(line, np.full(SPAN, 8.0))
    assert line[peaks.EXCESS] <= 1.14 * before[peaks.EXCESS] + 1e-12
    assert line[peaks.MIDDLE] <= before[peaks.MIDDLE] + 0.12 * before[peaks.EXCESS] + 1e-12


def test_time_without_samples_is_no_quiet_time() -> None:
    """Where nobody is there nothing is counted."""
    line = peaks.fit_peaks(clustered(14), SPAN)
    before = line.copy()
    peaks.follow_peaks(np.zeros(10 * SPAN), np.zeros(10 * SPAN), np.ones(10 * SPAN, np.bool_), line)
    np.testing.assert_array_equal(line, before)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 700), st.integers(1, 200), st.floats(0, 8), st.floats(0, 8), st.integers(0, 2**31))
def test_higher_is_rarer(samples: int, span: int, a: float, b: float, seed: int) -> None:
    """Whatever the past, surprise is finite and grows with the level; once a week is log10 of a week's samples."""
    line = peaks.fit_peaks(8 * np.random.default_rng(seed).random(samples), span)
    assert np.isfinite(line).all()
    low, high = sorted((a, b))
    assert peaks.rarity(line, low) <= peaks.rarity(line, high)
    assert peaks.weekly(line) == pytest.approx(math.log10(14 * span))
