"""While an episode is open nothing is learned, and what is expected follows the rhythm known before."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import F64, I64, Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.detectors.base import Grid, State
from anomalyd.detectors.kernels import seasonal
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec

MONDAY = 1_759_708_800_000
"""2025-10-06 00:00 UTC."""
PAST = 15 * 1440 + 6 * 60
"""Two weeks and a day of minutes: the outage begins on a Tuesday at six, while the weekend still counts as an error."""
HELD = 15 * 60


def rhythm(times: I64) -> F64:
    """A strong day and weekends half as high; smooth enough that the last minute is the best guess of the next."""
    weekend = (times - MONDAY) // DAY_MS % 7 >= 5
    values: F64 = 60 - 30.0 * weekend + 15 * np.sin(2 * np.pi * times / DAY_MS)
    return values


def lived(detector: str, values: F64, times: I64) -> tuple[Model, State]:
    model = Model(DetectorSpec(detector), Grid(MINUTE_MS, "UTC"), 0)
    return model, model.fit(Block((make_labels({"host": "a"}),), times, values[None, :]))


def expected_in_outage(detector: str, usual: F64, times: I64) -> tuple[F64, F64]:
    """What is expected of an outage [HELD] that is held, and the surprises of the hour after it."""
    model, state = lived(detector, usual[:PAST], times[:PAST])
    labels = (make_labels({"host": "a"}),)
    outage = Block(labels, times[PAST : PAST + HELD], np.full((1, HELD), 5.0))
    scores, state = model.score(state, outage, 4.0, np.ones(1, np.bool_))
    after = slice(PAST + HELD, PAST + HELD + 60)
    back, _ = model.score(state, Block(labels, times[after], usual[None, after]), 4.0, np.zeros(1, np.bool_))
    return scores.expected[0], back.surprise[0]


@pytest.mark.parametrize("detector", ["auto", "seasonal"])
def test_the_rhythm_goes_on_through_a_long_episode(detector: str) -> None:
    """15 hours held from the day's peak on: what is expected falls and rises with the day; its end is no surprise."""
    times = MONDAY + np.arange(PAST + HELD + 60) * MINUTE_MS
    usual = rhythm(times) + np.random.default_rng(3).normal(size=len(times)) * 1.5
    expected, after = expected_in_outage(detector, usual, times)
    off = np.abs(expected - rhythm(times[PAST : PAST + HELD]))
    assert off.mean() < 1.5
    assert np.quantile(off, 0.99) < 5
    assert after.max() < 4.0


@pytest.mark.parametrize("detector", ["auto", "seasonal"])
def test_without_a_rhythm_the_last_level_stays(detector: str) -> None:
    """A series of levels that last for hours and follow no clock: the newest of them is expected, not a profile."""
    times = MONDAY + np.arange(PAST + HELD + 60) * MINUTE_MS
    rng = np.random.default_rng(5)
    stays = np.repeat(rng.normal(scale=30, size=200), rng.integers(2 * 60, 9 * 60, size=200))[: len(times)]
    stays[PAST - 2 * 60 :] = 50.0
    expected, _ = expected_in_outage(detector, stays + rng.normal(size=len(times)), times)
    assert np.abs(expected - 50).mean() < 5


def test_the_hold_of_an_hour_changes_nothing_of_the_next_day() -> None:
    """Whether an hour was held or missing, what is expected the day after is the same within the noise."""
    times = MONDAY + np.arange(PAST + 1440) * MINUTE_MS
    usual = rhythm(times) + np.random.default_rng(3).normal(size=len(times)) * 1.5
    model, state = lived("seasonal", usual[:PAST], times[:PAST])
    labels = (make_labels({"host": "a"}),)
    hour = HOUR_MS // MINUTE_MS
    outcomes = []
    for value, held in ((5.0, True), (np.nan, False)):
        hour_block = Block(labels, times[PAST : PAST + hour], np.full((1, hour), value))
        after = model.score(state, hour_block, 4.0, np.array([held]))[1]
        rest = Block(labels, times[PAST + hour :], usual[None, PAST + hour :])
        outcomes.append(model.score(after, rest, 4.0, np.zeros(1, np.bool_))[0].expected[0, -720:])
    assert np.abs(outcomes[0] - outcomes[1]).max() < 1.5


@pytest.mark.parametrize(("slow", "weekly", "follows"), [(9.0, 1.3, 1), (9.0, 1.5, 0), (2.2, 1.3, None)])
def test_where_the_last_level_is_the_best_guess_a_profile_speaks_while_it_is_held(
    slow: float, weekly: float, follows: int | None
) -> None:
    """Held for two hours: the week's profile or the day's, where they know the series well; else the last level."""
    samples, bins = 120, 288
    profiles = np.zeros((1, 8 * bins), np.float32)
    profiles[0, :bins] = np.linspace(70, 40, bins)
    profiles[0, bins : 2 * bins] = np.linspace(80, 20, bins)
    line = np.zeros((1, seasonal.LINE))
    line[0, seasonal.LEVEL], line[0, seasonal.SEEN], line[0, seasonal.SLOW] = 75.0, 20_000.0, 60.0
    line[0, seasonal.ERRORS : seasonal.ERRORS + 4] = (1.0, 1.2, weekly, slow)
    days = np.arange(samples) * bins // samples
    said = [np.full((1, samples), np.nan) for _ in range(3)]
    seasonal.seasonal_block(
        np.full((1, samples), 5.0), days, bins + days, days, np.ones(1, np.bool_), 0.0, profiles,
        np.full((1, 8 * bins), 50, np.uint8), line, np.zeros((1, 0), np.float32), np.zeros((1, 0), np.uint8),
        np.zeros((1, 2)), *said,
    )  # fmt: skip
    expected = said[1][0]
    wanted = np.full(samples, 75.0) if follows is None else profiles[0, follows * bins + days]
    assert np.allclose(expected, wanted)
    assert line[0, seasonal.LEVEL] == pytest.approx(expected[-1]), "what comes after it begins where the rhythm is"
