"""The ensemble combines surprises, not raw scores, and shows what each member says."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from anomalyd.block import Block, Bool, make_labels
from anomalyd.detectors.base import Grid, Params, Raw, State
from anomalyd.detectors.ensemble import Ensemble, EnsembleParams, Member

GRID = Grid(60_000)
SAMPLES = 600


class Scaled:
    """A strict fake: |x| times a factor, so that members have quite different raw units."""

    name, streaming, multivariate, has_band, calibrated = "scaled", True, False, True, False
    Params: ClassVar[type[Params]] = Params
    min_history = 1

    def __init__(self, factor: float):
        self.factor = factor

    def fit(self, history: Block, seed: int) -> State:
        return State({"n": np.zeros(len(history))}, as_of=int(history.times[-1]) if len(history.times) else 0)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        raw = Raw(np.abs(fresh.values) * self.factor, np.zeros_like(fresh.values), np.full_like(fresh.values, 1.0))
        return raw, State(dict(state.arrays), as_of=int(fresh.times[-1]))


def ensemble(combine: str, factors: tuple[float, ...] = (1.0, 1e6), **params: object) -> Ensemble:
    """An ensemble of scaled members."""
    members = tuple(Member(type="mad") for _ in factors)
    spec = EnsembleParams(members=members, combine=combine, **params)  # type: ignore[arg-type]
    return Ensemble(spec, GRID, [Scaled(f) for f in factors])


def block(values: np.ndarray, start: int = 0) -> Block:
    """Series one minute apart."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(len(values)))
    return Block(labels, 60_000 * (1 + start + np.arange(values.shape[1], dtype=np.int64)), values)


def scored(detector: Ensemble, value: float) -> tuple[float, np.ndarray]:
    """Combined surprise of one sample after noise, and what each member says."""
    noise = np.random.default_rng(0).normal(size=(1, SAMPLES))
    state = detector.fit(block(noise), 0)
    fresh = block(np.array([[value]]), SAMPLES)
    said = np.array([one.surprise[0, 0] for one in detector.opinions(state, fresh)])
    return float(detector.score(state, fresh)[0].score[0, 0]), said


def test_members_weigh_alike_whatever_their_unit() -> None:
    """A member whose raw score is a million times larger says the same surprise."""
    combined, members = scored(ensemble("mean"), 5.0)
    assert members[0] == pytest.approx(members[1], abs=0.1)
    assert combined == pytest.approx(members.mean())


@pytest.mark.parametrize(("combine", "expected"), [("mean", 2.5), ("max", 4.0), ("min", 1.0), ("quorum", 2.5)])
def test_ways_to_combine(combine: str, expected: float) -> None:
    """Mean, maximum, minimum and the second largest of 4, 2.5 and 1."""
    detector = ensemble(combine, (1.0, 1.0, 1.0))
    surprises = np.array([4.0, 2.5, 1.0])[:, None, None]
    assert detector._combined(surprises)[0, 0] == pytest.approx(expected)


def test_weights() -> None:
    """A member of weight 3 counts three times; one that cannot say counts nothing."""
    params = EnsembleParams(members=(Member(type="mad", weight=3), Member(type="mad")))
    detector = Ensemble(params, GRID, [Scaled(1), Scaled(1)])
    assert detector._combined(np.array([4.0, 0.0])[:, None, None])[0, 0] == pytest.approx(3.0)
    assert detector._combined(np.array([np.nan, 1.0])[:, None, None])[0, 0] == pytest.approx(1.0)
    assert np.isnan(detector._combined(np.full((2, 1, 1), np.nan))[0, 0])


def test_quorum_needs_enough_members_that_can_say() -> None:
    """Two of three must agree; with two silent there is no score."""
    detector = ensemble("quorum", (1.0, 1.0, 1.0))
    assert np.isnan(detector._combined(np.array([4.0, np.nan, np.nan])[:, None, None])[0, 0])


def test_bad_parameters_are_refused() -> None:
    """An impossible quorum, an ensemble inside an ensemble, no members."""
    for bad in (
        {"members": [{"type": "mad"}], "combine": "quorum", "quorum": 2},
        {"members": [{"type": "ensemble"}]},
        {"members": []},
        {"members": [{"type": "mad", "weight": 0}]},
    ):
        with pytest.raises(ValidationError):
            EnsembleParams.model_validate(bad)


def test_budgets_hold_however_members_are_combined() -> None:
    """On noise a surprise of 3 comes once in a thousand samples, where the plain combination is far from that."""
    rng = np.random.default_rng(4)
    samples, history = 7_000, 4_000
    noise = rng.normal(size=(30, samples))
    members = tuple(Member(type=name) for name in ("mad", "ewma", "rls"))
    rates, plain = {}, {}
    for combine in ("mean", "max", "min", "quorum"):
        detector = Ensemble(EnsembleParams(members=members, combine=combine), Grid(300_000))
        whole = Block(block(noise).labels, 300_000 * np.arange(1, samples + 1, dtype=np.int64), noise)
        state = detector.fit(whole.window(0, history), 0)
        fresh = whole.window(history)
        rates[combine] = 1000 * float((detector.score(state, fresh)[0].score > 3).mean())
        said = np.stack([one.surprise for one in detector.opinions(state, fresh)])
        plain[combine] = 1000 * float((detector._combined(said) > 3).mean())
    assert all(0.5 < rate < 1.5 for rate in rates.values()), rates
    assert plain["max"] > 1.8, plain
    assert max(plain["mean"], plain["min"]) < 0.5, plain


def test_what_is_said_together_is_judged_only_where_all_members_say_something() -> None:
    """A member that is silent all through the history leaves the combination as it is."""

    class Silent(Scaled):
        def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
            raw, after = super().score(state, fresh, hold)
            return Raw(np.full_like(raw.score, np.nan), raw.expected, raw.unit), after

    noise = np.random.default_rng(0).normal(size=(1, 2_000))
    fresh = block(np.array([[5.0]]), 2_000)
    members = (Member(type="mad"), Member(type="mad"))
    detector = Ensemble(EnsembleParams(members=members, combine="min"), GRID, [Scaled(1.0), Silent(1.0)])
    state = detector.fit(block(noise), 0)
    said = detector.opinions(state, fresh)[0].surprise[0, 0]
    assert detector.score(state, fresh)[0].score[0, 0] == said
    loud = Ensemble(EnsembleParams(members=members, combine="min"), GRID, [Scaled(1.0), Scaled(2.0)])
    state = loud.fit(block(noise), 0)
    plain = min(one.surprise[0, 0] for one in loud.opinions(state, fresh))
    assert loud.score(state, fresh)[0].score[0, 0] != plain


class Surprised(Scaled):
    """A strict fake that speaks in surprises: |x|, of which a share is news; without one it does not know news."""

    calibrated = True

    def __init__(self, factor: float, news: float | None):
        super().__init__(factor)
        self.news = news

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        raw, after = super().score(state, fresh, hold)
        return Raw(raw.score, raw.expected, raw.unit, None if self.news is None else raw.score * self.news), after


@pytest.mark.parametrize(
    ("combine", "share"), [("mean", 0.6), ("max", 1.0), ("min", 0.0), ("quorum", 0.0)], ids=lambda x: str(x)
)
def test_an_episode_opens_by_what_is_news_of_what_members_say(combine: str, share: float) -> None:
    """A member that says 4 and knows that nothing is new, beside one that says 6: 3 of 5, 6 of 6, 0 of 4 are news."""
    params = EnsembleParams(members=(Member(type="auto"), Member(type="mad")), combine=combine)  # type: ignore[arg-type]
    fresh = block(np.array([[2.0]]), 10)
    for news, expected in ((0.0, share), (1.0, 1.0)):
        detector = Ensemble(params, GRID, [Surprised(2.0, news), Surprised(3.0, None)])
        raw, _ = detector.score(detector.fit(block(np.ones((1, 5))), 0), fresh)
        assert raw.page is not None
        assert raw.page[0, 0] == pytest.approx(expected * raw.score[0, 0])
    plain = Ensemble(params, GRID, [Surprised(2.0, None), Surprised(3.0, None)])
    assert plain.score(plain.fit(block(np.ones((1, 5))), 0), fresh)[0].page is None


def test_news_is_that_of_members_that_can_say_something() -> None:
    """A member that is silent takes no part in what is news; where nothing is said nothing opens."""
    params = EnsembleParams(members=(Member(type="auto"), Member(type="mad")))
    detector = Ensemble(params, GRID, [Surprised(1.0, 0.5), Surprised(1.0, None)])
    said = np.array([[[4.0, np.nan, 0.0]], [[np.nan, np.nan, 0.0]]])
    news = np.array([[[2.0, np.nan, 0.0]], [[np.nan, np.nan, 0.0]]])
    opens = detector._opens(np.array([[4.0, np.nan, 0.0]]), said, news)
    np.testing.assert_array_equal(opens, [[2.0, np.nan, 0.0]])


def test_auto_opens_less_in_company_too() -> None:
    """An ensemble of `auto` alone, and one with `mad` that must agree, opens nothing where `auto` sees no news."""
    rng = np.random.default_rng(2)
    t = np.arange(2_400)
    values = 50 + 10 * np.sin(2 * np.pi * t / 288)[None, :] + rng.normal(size=(3, 2_400))
    values[0, 2_000:2_100] += 15
    times = 300_000 * np.arange(1, 2_401, dtype=np.int64)
    whole = Block(block(values).labels, times, values)
    members = (Member(type="auto"), Member(type="mad"))
    detector = Ensemble(EnsembleParams(members=members, combine="min"), Grid(300_000))
    raw, _ = detector.score(detector.fit(whole.window(0, 1_900), 0), whole.window(1_900))
    own = detector.models[0].detector
    alone = own.score(own.fit(whole.window(0, 1_900), 0), whole.window(1_900))[0]
    assert raw.page is not None
    assert alone.page is not None
    assert (raw.page <= raw.score).all()
    assert raw.page[0, 100:110].max() > 0
    assert not raw.page[alone.page == 0].any()
    assert (raw.page == 0).sum() > (raw.score == 0).sum()
