"""A rule with a direction is calibrated by the deviations on its side: what happens on the other hides nothing."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.calibrate import directed
from anomalyd.detectors.model import Model, model_of
from anomalyd.rule import DetectorSpec, Direction, Rule
from anomalyd.shard import FitTask, fit_shard

STEP = 5 * MINUTE_MS
DAY = DAY_MS // STEP
PAST = 7 * DAY
WEEKLY = np.log10(7 * DAY)


def block(values: np.ndarray, first: int = 0) -> Block:
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    return Block(labels, STEP * (1 + first + np.arange(values.shape[1], dtype=np.int64)), values)


def with_rises() -> np.ndarray:
    """A week about 100 with noise 2, and a rise to 130 to 190 for half an hour every sixth hour."""
    rng = np.random.default_rng(3)
    values = 100 + 2 * rng.normal(size=(1, PAST))
    for first in range(40, PAST, 72):
        values[0, first : first + 6] += rng.uniform(30, 90)
    return values


def surprise_of(direction: Direction, value: float, detector: DetectorSpec, past: np.ndarray) -> float:
    """The surprise of a value after a past, in a rule with this direction."""
    grid = Grid(STEP, direction=direction)
    state = fit_shard(FitTask(detector, grid, 0, block(past))).state
    return float(Model(detector, grid).score(state, block(np.array([[value]]), PAST), WEEKLY)[0].surprise[0, 0])


@pytest.mark.parametrize("name", ["mad", "iqr", "zscore", "rls"])
def test_rises_do_not_hide_a_drop(name: str) -> None:
    """After a week of large rises a fall of 80 % is as surprising as if there had been none, in a rule that asks so."""
    spec, past = DetectorSpec(name), with_rises()
    calm = np.where(past > 115, 100.0, past)
    down, both, alone = (
        surprise_of(direction, 20.0, spec, values)
        for direction, values in (("down", past), ("both", past), ("down", calm))
    )
    assert down > WEEKLY
    assert down > both + 0.3
    assert both < WEEKLY or name == "rls"
    assert alone > WEEKLY
    assert surprise_of("down", 190.0, spec, past) < 0.01
    assert surprise_of("up", 20.0, spec, past) < 0.01


def test_members_of_an_ensemble_are_directed() -> None:
    """An ensemble's members are calibrated as they would be alone."""
    spec = DetectorSpec("ensemble", {"members": [{"type": "mad"}, {"type": "iqr"}]})
    assert surprise_of("down", 20.0, spec, with_rises()) > WEEKLY
    assert surprise_of("up", 20.0, spec, with_rises()) < 0.05


def test_half_of_the_deviations_make_the_tail() -> None:
    """Of noise, one sample in a hundred is beyond surprise 2 on the side asked for, and none on the other."""
    values = np.random.default_rng(5).normal(size=(20, 6_000))
    model = Model(DetectorSpec("mad", {"window": 500}), Grid(STEP, direction="up"))
    scores, _ = model.score(model.fit(block(values[:, :3_000])), block(values[:, 3_000:], 3_000), 2.0)
    beyond = scores.surprise > 2
    assert beyond.mean() == pytest.approx(0.01, rel=0.25)
    assert not (beyond & (values[:, 3_000:] < scores.expected)).any()


def test_a_side_is_kept_or_nothing() -> None:
    """Up keeps rises, down falls, both all; where there is no side the score stays; NaN stays NaN."""
    score, side = np.array([[1.0, 2.0, 3.0, 4.0, np.nan]]), np.array([[5.0, -5.0, 0.0, np.nan, 1.0]])
    np.testing.assert_array_equal(directed("up", score, side), [[1, 0, 3, 4, np.nan]])
    np.testing.assert_array_equal(directed("down", score, side), [[0, 2, 3, 4, np.nan]])
    np.testing.assert_array_equal(directed("both", score, side), score)


def test_the_direction_is_part_of_what_was_learned() -> None:
    """A rule whose direction changes is fitted anew: its tail is another one."""
    rules = [Rule("r", "g", "up", detector=DetectorSpec("mad"), direction=d) for d in ("both", "up", "down")]
    assert len({rule.model_key for rule in rules}) == 3
    assert [model_of(rule).grid.direction for rule in rules] == ["both", "up", "down"]


def test_a_chart_speaks_of_its_sum_and_not_of_the_sample() -> None:
    """While the sum of rises is high a single sample below the expectation does not end it in a rule for rises."""
    values = np.random.default_rng(6).normal(size=(1, PAST + 80))
    values[0, PAST:] += 1.5
    model = Model(DetectorSpec("cusum"), Grid(STEP, direction="up"))
    scores, _ = model.score(model.fit(block(values[:, :PAST])), block(values[:, PAST:], PAST), WEEKLY, np.ones(1, bool))
    late = np.s_[0, 40:]
    assert (values[:, PAST:][late] < scores.expected[late]).any()
    assert scores.side is not None
    assert (scores.side[late] > 0).all()
    assert (scores.surprise[late] > WEEKLY).all()
