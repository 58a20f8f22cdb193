"""Young series: a stand-in speaks within minutes, nothing is more than a warning, and the detector takes over."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from anomalyd.block import F64, Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors import young
from anomalyd.detectors.base import Detector, Grid, Raw, State
from anomalyd.detectors.kernels.young import SPEAKS
from anomalyd.detectors.model import Model
from anomalyd.episode import Close
from anomalyd.incident import Reason
from anomalyd.render import render
from anomalyd.rule import Budget, DetectorSpec, Rule, TierPolicy
from anomalyd.score import Kind, Scores, Tier, Why
from life import HISTORY, START, Life, M, change, hosts

BUDGETS = (
    TierPolicy(Tier.WARNING, Budget(1, WEEK_MS)), TierPolicy(Tier.CRITICAL, Budget(1, 4 * WEEK_MS)),
    TierPolicy(Tier.EMERGENCY, Budget(1, 13 * WEEK_MS)),
)  # fmt: skip
RULE = Rule(
    "Load", "g", "load", detector=DetectorSpec("auto"), history_ms=14 * DAY_MS, query_delay_ms=0, for_ms=2 * M,
    keep_firing_for_ms=2 * M, receivers=("hook",), tiers=BUDGETS,
)  # fmt: skip


def newborn(minutes: int, n: int = 1, seed: int = 3) -> Block:
    """Series that nobody has ever seen before ``START``, around 50 with noise 1."""
    times = START + np.arange(-HISTORY, minutes) * M
    values = 50 + np.random.default_rng(seed).normal(size=(n, len(times)))
    values[:, :HISTORY] = np.nan
    return Block(hosts(n), times, values)


@pytest.mark.parametrize("detector", ["auto", "mad", "isolation_forest"])
def test_an_outage_in_the_first_hour_is_a_warning_that_says_how_young_it_is(detector: str) -> None:
    """A new series that drops to nothing after 40 minutes is told at the lowest tier, and resolved when it is back."""
    life = Life(change(newborn(80), 0, 40, 60, 0.0), replace(RULE, detector=DetectorSpec(detector)))
    life.live(0, 80)
    assert life.spans() == [("h0", 42, 62, Close.RECOVERED)]
    assert life.told() == [(42, Reason.NEW), (62, Reason.RESOLVED)]
    (episode,) = [e for e in life.store.episodes(rule=RULE.id) if e.opened_at]
    assert episode.tier == Tier.WARNING
    assert episode.why == Why.YOUNG
    assert 38 * M <= episode.learned_ms <= 40 * M
    statement = life.store.notifications(limit=9)[-1].notification.statement
    said = render(statement, statement.at).sentence
    assert "young: learned from 39m" in said or "young: learned from 40m" in said, said


def test_it_is_scored_within_minutes() -> None:
    """The first quarter of an hour has scores; nothing in an ordinary beginning is abnormal."""
    life = Life(newborn(30, n=5), RULE)
    life.live(0, 30)
    kinds = [set(o.verdicts.kind.tolist()) for o in life.store.scores(RULE.id, START, START + 30 * M)]
    assert kinds[5] == {Kind.WARMING_UP}
    assert kinds[15:] == [{Kind.OK}] * 15


def test_a_rule_without_a_warning_tier_stays_silent() -> None:
    """Where the lowest tier wakes somebody, a young series wakes nobody: it is warming up."""
    rule = replace(RULE, tiers=BUDGETS[1:])
    life = Life(change(newborn(70), 0, 40, 60, 0.0), rule)
    life.live(0, 70)
    assert life.spans() == []
    seen = life.store.scores(rule.id, START + 40 * M, START + 41 * M)[0]
    assert seen.verdicts.kind.tolist() == [Kind.WARMING_UP]
    assert seen.verdicts.why.tolist() == [Why.YOUNG]


STEP = 5 * MINUTE_MS
DAY = DAY_MS // STEP


def rhythmic(n: int, days: int) -> Block:
    """Daily rhythms of any phase and strength, sines and peaky ones, with one to ten percent of noise."""
    rng = np.random.default_rng(0)
    phase, strength, noise = (rng.uniform(a, b, (n, 1)) for a, b in ((0, 1), (0.2, 0.9), (0.01, 0.1)))
    wave = np.sin(2 * np.pi * (np.arange(days * DAY) / DAY + phase))
    peaky = np.arange(n)[:, None] % 2 == 0
    values: F64 = 100 * np.where(peaky, np.exp(1.5 * strength * wave), 1 + strength * wave)
    times = START // DAY_MS * DAY_MS + STEP * np.arange(1, days * DAY + 1)
    return Block(
        tuple(make_labels({"i": str(i)}) for i in range(n)), times, values * (1 + noise * rng.normal(size=values.shape))
    )


@pytest.mark.parametrize("detector", ["auto", "mad", "ewma", "zscore"])
def test_the_rhythm_of_the_first_day_pages_nobody(detector: str) -> None:
    """40 rhythms from their first sample on: in the first day nothing may be more than a warning, and few are that."""
    block = rhythmic(40, 1)
    model = Model(DetectorSpec(detector), Grid(STEP))
    scores, _ = model.score(model.fit(block.window(0, 0)), block, 3.3)
    assert scores.learned is not None
    said = np.isfinite(scores.surprise)
    assert said[:, young.FEWEST :].all()
    assert (scores.learned[said] > 0).all(), "all of it is capped"
    alarms = (scores.surprise > 3.3) & said
    assert alarms[:, : model.min_history].sum() <= 2, "the stand-in takes no rhythm for a break"


def test_the_detector_takes_over_and_the_series_grows_up() -> None:
    """After two periods the seasonal detector scores; from the age of a day on nothing is capped."""
    block = rhythmic(4, 4)
    model = Model(DetectorSpec("seasonal"), Grid(STEP))
    scores, state = model.score(model.fit(block.window(0, 0)), block, 3.3)
    assert scores.learned is not None
    own = np.isfinite(scores.raw)
    first = int(own[0].argmax())
    assert 0 < first <= 2 * DAY, "its own score begins with its second period"
    assert (scores.learned[:, max(first, model.min_history, DAY) + 1 :] == 0).all()
    assert (state.arrays["c.y.life"][:, 1] == -1).all()
    later = Block(block.labels, block.times[-1:] + STEP, block.values[:, -1:])
    assert model.score(state, later, 3.3)[0].learned is None, "a grown series costs nothing"


def test_a_history_shorter_than_a_day_is_enough_where_the_rule_says_so() -> None:
    """A rule that learns from three hours is not told to wait for a day."""
    block = rhythmic(2, 1).window(0, 60)
    model = Model(DetectorSpec("mad", {"window": "1h"}), Grid(MINUTE_MS), history_ms=HOUR_MS)
    state = model.fit(Block(block.labels, block.times, np.random.default_rng(1).normal(10, 1, (2, 60))))
    fresh = Block(block.labels, block.times[-1:] + MINUTE_MS * np.arange(1, 200), np.full((2, 199), 10.0))
    learned = model.score(state, fresh, 3.0)[0].learned
    assert learned is not None
    assert (learned[:, -1] == 0).all()


def test_a_held_series_does_not_age_and_zeros_say_nothing() -> None:
    """While an episode is open its level and age stand still; of a series that was always 0 nothing is said."""
    times = START + M * np.arange(60)
    values = np.stack([np.r_[np.full(30, 50.0), np.full(30, 1.0)], np.r_[np.zeros(50), np.full(10, 7.0)]])
    silent = np.full(values.shape, np.nan)
    block = Block(hosts(2), times, values)
    before = young.begin(block.window(0, 30))
    said, after = young.score(before, block.window(30), silent[:, 30:], 1_440, np.array([True, False]))
    assert said is not None
    assert (said.learned[0] == 30).all()
    assert (said.surprise[0] > 4).all()
    assert (said.expected[0] == 50).all()
    np.testing.assert_array_equal(after["ring"][0], before["ring"][0])
    assert np.isnan(said.surprise[1, :21]).all()


def test_a_series_is_learned_in_its_episode_until_its_detector_has_scored_it() -> None:
    """Whoever was never seen before has no habit that an episode could spoil: its first noon is its first noon."""
    hold = np.array([True, True, False])
    block = Block(hosts(3), START + M * np.arange(90), 50 + np.random.default_rng(5).normal(size=(3, 90)))
    state = young.begin(block)
    state["life"][1, SPEAKS] = 1
    known = young.known(state, hold)
    assert known is not None
    assert known.tolist() == [False, True, False]
    assert young.known({}, hold) is hold


def test_a_held_series_is_learned_to_the_slot_in_which_its_detector_speaks() -> None:
    """Scored at once or sample by sample: the stand-in's series is learned, then it is kept, from the same slot on."""
    block = Block(hosts(1), START + M * np.arange(300), 50 + np.random.default_rng(5).normal(size=(1, 300)))
    model = Model(DetectorSpec("mad", {"window": "1h"}), Grid(M))
    whole = each = model.fit(block.window(0, 4))
    hold = np.ones(1, np.bool_)
    scores, whole = model.score(whole, block.window(4), 3.0, hold)
    for t in range(4, 300):
        one, each = model.score(each, block.window(t, t + 1), 3.0, hold)
        np.testing.assert_array_equal(one.surprise[0], scores.surprise[:, t - 4])
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, each.arrays[name], err_msg=name)
    assert len(set(scores.expected[0, :10].tolist())) > 1, "the stand-in's series is learned"
    free = model.score(model.fit(block.window(0, 4)), block.window(4), 3.0)[1]
    assert any(not np.array_equal(whole.arrays[n], a) for n, a in free.arrays.items() if n[:2] == "d."), "then kept"


@pytest.mark.parametrize("starts", [(20, 21, 150), (40, 40, 280), (70, 280, 300)])
def test_held_series_are_scored_in_blocks_while_nobody_s_detector_begins_to_speak(starts: tuple[int, ...]) -> None:
    """Series that begin at different times, held from the start: the same as sample by sample, in few blocks."""
    values = 50 + np.random.default_rng(5).normal(size=(3, 300))
    for row, first in enumerate(starts):
        values[row, 4:first] = np.nan
    block = Block(hosts(3), START + M * np.arange(300), values)
    model, hold = Model(DetectorSpec("mad", {"window": "1h"}), Grid(M)), np.ones(3, np.bool_)
    counting = Counting(model)
    whole = each = model.fit(block.window(0, 4))
    scores, whole = counting.score(whole, block.window(4), 3.0, hold)
    parts = []
    for t in range(4, 300):
        one, each = model.score(each, block.window(t, t + 1), 3.0, hold)
        parts.append(one)
    for name in ("raw", "expected", "lower", "upper", "surprise"):
        together = np.concatenate([getattr(one, name) for one in parts], axis=1)
        np.testing.assert_array_equal(getattr(scores, name), together, err_msg=name)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, each.arrays[name], err_msg=name)
    assert counting.blocks < 45, "of 296 samples"


class Counting:
    """A model whose detector says how often it was asked."""

    def __init__(self, model: Model):
        self._model, self._inner, self.blocks = model, model.detector, 0

    def score(self, *args: Any) -> tuple[Scores, State]:
        """What the model says, its detector being asked through here."""
        asked = copy(self._model)
        asked.detector = cast(Detector, _Asked(self))
        return asked.score(*args)

    def ask(self, *args: Any) -> tuple[Raw, State]:
        """What the detector says."""
        self.blocks += 1
        return self._inner.score(*args)


class _Asked:
    """A detector that can only score."""

    def __init__(self, counting: Counting):
        self._counting = counting

    def score(self, *args: Any) -> tuple[Raw, State]:
        return self._counting.ask(*args)


def test_the_band_ends_where_the_surprise_is_the_cut() -> None:
    """A sample on the edge of the band is as surprising as the cut."""
    rng = np.random.default_rng(4)
    past = Block(hosts(1), START + M * np.arange(40), 50 + rng.normal(size=(1, 40)))
    model = Model(DetectorSpec("auto"), Grid(M))
    state = model.fit(past)
    edge = Block(hosts(1), past.times[-1:] + M, np.array([[50.0]]))
    upper = model.score(state, edge, 4.0)[0].upper
    on_edge = Block(edge.labels, edge.times, upper)
    assert model.score(state, on_edge, 4.0)[0].surprise[0, 0] == pytest.approx(4.0)
