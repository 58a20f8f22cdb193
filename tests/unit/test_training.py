"""Training of nets: capped in time, with the best weights so far, and told; the joint net forecasts vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import VirtualClock
from anomalyd.detectors.autoencoder import Autoencoder, AutoencoderParams
from anomalyd.detectors.base import Choice, Grid, Shaped, State
from anomalyd.detectors.lstm import Lstm, LstmParams
from anomalyd.detectors.lstm_joint import choice_of
from anomalyd.detectors.model import Model
from anomalyd.detectors.registry import make_detector
from anomalyd.detectors.training import ROUNDS, Effort, processors, train_autoencoder, train_lstm
from anomalyd.rule import DetectorSpec
from anomalyd.slot import NoticeKind
from life import RULE, START, Life, M, recorded

torch = pytest.importorskip("torch", reason="the lstm extra is not installed")
STEP = 300_000
GRID = Grid(STEP)


class Hasty(VirtualClock):
    """A clock that moves on by so many seconds whenever it is looked at."""

    def __init__(self, seconds: float):
        super().__init__(0)
        self.seconds = seconds

    def monotonic_s(self) -> float:
        self.advance_to(self.now_ms() + int(1000 * self.seconds))
        return super().monotonic_s()


class Card:
    """A strict stand-in for torch: whether there is a graphics processor."""

    def __init__(self, there: bool):
        self.cuda, self.there = self, there

    def is_available(self) -> bool:
        return self.there

    def device(self, name: str) -> str:
        return name


def vectors() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(600, 2)) @ rng.normal(size=(2, 5))).astype(np.float32)


def walk(n: int = 3, samples: int = 900) -> Block:
    """Channels of which each follows the one before it by one step."""
    rng = np.random.default_rng(2)
    lead = np.convolve(rng.normal(size=samples + n), np.ones(3) / 3, "same")
    values = np.stack([np.roll(lead, i)[n:] for i in range(n)]) + rng.normal(size=(n, samples)) * 0.01
    labels = tuple(make_labels({"i": str(i)}) for i in range(n))
    return Block(labels, 1_760_054_400_000 + STEP * np.arange(samples, dtype=np.int64), values)


@pytest.mark.parametrize("limit_s", [2.5, 0.0])
def test_training_stops_at_the_end_of_the_round_in_which_its_time_is_up(limit_s: float) -> None:
    """At a second a round it stops after the third; without any time it still has one round's weights."""
    effort = Effort(40_000, limit_s, Hasty(1.0))
    cut = train_autoencoder(vectors(), 8, 2, effort, 3)
    assert (cut.stopped, cut.rounds) == (3 if limit_s else 1, ROUNDS)
    again = train_autoencoder(vectors(), 8, 2, Effort(40_000, limit_s, Hasty(1.0)), 3)
    for name, weights in cut.weights.items():
        np.testing.assert_array_equal(weights, again.weights[name])


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    """With time enough the weights are those of training without a limit, on whatever machine."""
    free = train_autoencoder(vectors(), 8, 2, Effort(10_000), 3)
    timed = train_autoencoder(vectors(), 8, 2, Effort(10_000, 1e9, Hasty(1.0)), 3)
    assert (free.stopped, timed.stopped) == (0, 0)
    for name, weights in free.weights.items():
        np.testing.assert_array_equal(weights, timed.weights[name])


def test_more_rounds_are_never_worse_on_what_was_kept_aside() -> None:
    """The best weights so far are kept, so that training that went on has not lost by it."""
    inputs = np.random.default_rng(1).normal(size=(400, 16, 3)).astype(np.float32)
    targets = inputs[..., :1] * 0.5
    cut = train_lstm(inputs, targets, 4, Effort(20_000, 0.0, Hasty(1.0)), 1)
    whole = train_lstm(inputs, targets, 4, Effort(20_000), 1)
    assert cut.stopped == 1
    assert whole.weights["head"].shape == (1, 5)
    assert not np.array_equal(cut.weights["head"], whole.weights["head"])


def test_the_processor_is_the_graphics_card_where_there_is_one() -> None:
    """Then the ordinary one, and that alone where there is none, as on the machine that runs this unless it has one."""
    assert processors(Card(True)) == ("cuda", "cpu")
    assert processors(Card(False)) == ("cpu",)
    assert [d.type for d in processors(torch)] == [*(["cuda"] if torch.cuda.is_available() else []), "cpu"]


ABSENT = "mps" if torch.cuda.is_available() else "cuda"
"""A graphics processor that is not there."""


@pytest.mark.parametrize("device", [ABSENT, "meta"])
def test_training_goes_on_on_the_ordinary_processor_where_another_one_fails(device: str) -> None:
    """One that is absent fails at once, one that can hold no values in the midst; the weights are as without it."""
    plain = train_autoencoder(vectors(), 8, 2, Effort(4_000), 3)
    chosen: list[str] = []

    def devices(torch: Any) -> tuple[Any, ...]:
        chosen.append(device)
        return torch.device(device), torch.device("cpu")

    tried = train_autoencoder(vectors(), 8, 2, Effort(4_000), 3, devices)
    assert chosen == [device]
    assert tried.trouble
    assert not plain.trouble
    for name, weights in plain.weights.items():
        np.testing.assert_array_equal(weights, tried.weights[name])
    told = choice_of(gate([0.5, 1.0, 1.0, 0.0, 20.0, 0.0], tried.trouble), "the linear forecast")
    assert str(told).endswith(f"since the graphics processor failed ({tried.trouble})")


def test_what_fails_on_the_ordinary_processor_is_an_error() -> None:
    """There is nothing else to go on with."""
    with pytest.raises((RuntimeError, AssertionError)):
        train_autoencoder(vectors(), 8, 2, Effort(4_000), 3, lambda torch: (torch.device(ABSENT),))


def test_time_lost_on_another_processor_counts() -> None:
    """What is left of the limit is what the ordinary one has: here nothing, so it stops after its first round."""
    late = train_autoencoder(
        vectors(), 8, 2, Effort(40_000, 1.5, Hasty(1.0)), 3, lambda torch: (torch.device(ABSENT), torch.device("cpu"))
    )
    assert late.stopped == 1


def test_trainings_in_threads_do_not_disturb_each_other() -> None:
    """Two at a time give the weights of one after the other, and torch is as before when both are done."""
    threads, random = torch.get_num_threads(), torch.random.get_rng_state()
    alone = [train_autoencoder(vectors(), 8, 2, Effort(20_000), seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda seed: train_autoencoder(vectors(), 8, 2, Effort(20_000), seed), (1, 2)))
    for one, other in zip(alone, both, strict=True):
        for name, weights in one.weights.items():
            np.testing.assert_array_equal(weights, other.weights[name])
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_net_that_is_hopeless_is_given_up_and_any_other_is_not() -> None:
    """It is asked once, at the end of the first round with steps enough; what it says changes nothing else."""
    asked: list[int] = []

    def answer(hopeless: bool) -> Any:
        def say(weights: dict[str, np.ndarray]) -> bool:
            asked.append(len(weights))
            return hopeless

        return say

    whole = train_autoencoder(vectors(), 8, 2, Effort(40_000), 3)
    trusted = train_autoencoder(vectors(), 8, 2, Effort(40_000), 3, hopeless=answer(False))
    left = train_autoencoder(vectors(), 8, 2, Effort(40_000), 3, hopeless=answer(True))
    assert asked == [8, 8]
    assert (whole.given_up, trusted.given_up, left.given_up) == (0, 0, 13), "96 of 156 steps are done in round 13 of 20"
    np.testing.assert_array_equal(trusted.weights["w1"], whole.weights["w1"])
    short = train_autoencoder(vectors(), 8, 2, Effort(10_000), 3, hopeless=answer(True))
    assert (short.given_up, len(asked)) == (0, 2), "39 steps say nothing yet"
    told = str(choice_of(gate([9.0, 1.0, 0.0, 0.0, 20.0, 5.0]), "the linear forecast"))
    assert told.endswith("9 against 1 of the linear forecast and was given up after 5 of 20 rounds")


def test_no_example_is_trained_on_for_ever() -> None:
    """Four examples are worth two batches, whatever the effort allows."""
    assert train_autoencoder(vectors()[:4], 8, 2, Effort(100_000), 3).rounds == 2


@pytest.mark.parametrize("name", ["lstm", "autoencoder"])
def test_a_part_of_a_history_is_learned_by_what_the_whole_chose(name: str) -> None:
    """The net where it runs, however badly it does; else the simpler model, and no net is trained."""
    detector = make_detector(DetectorSpec(name, {"window": 16, "hidden": 4, "windows": 512}), GRID)
    assert isinstance(detector, Shaped)
    past = walk(2, 400)
    state = detector.fit(past, 1)
    for runs in (0.0, 1.0):
        chosen = State({**state.arrays, "gate": np.array([1.0, 1.0, runs, 0.0, 20.0, 0.0])}, state.shared, state.as_of)
        part = detector.fit_as(past.window(0, 300), 1, chosen)
        assert part.arrays["gate"][2] == runs
        trained = any(part.arrays[key].any() for key in ("w_rec", "w2") if key in part.arrays)
        assert trained == bool(runs)
        assert np.isfinite(detector.score(part, past.window(300))[0].score).all()


def gate(numbers: list[float], trouble: str = "") -> dict[str, np.ndarray]:
    """The arrays that a training leaves of its verdict."""
    return {"gate": np.array(numbers), "trouble": np.array([trouble])}


def test_a_choice_says_what_runs_and_why() -> None:
    """The net, or the simpler model with the errors of both; nothing without a past; and where training was cut."""
    won = choice_of(gate([0.5, 1.0, 1.0, 0.0, 20.0, 0.0]), "the linear forecast")
    assert str(won) == "the net runs: mean squared error on hold-out 0.5 against 1 of the linear forecast"
    lost = choice_of(gate([2.0, 1.0, 0.0, 3.0, 20.0, 0.0]), "the linear forecast")
    assert not lost.learned
    assert str(lost) == (
        "the linear forecast runs: the net has mean squared error on hold-out 2 against 1 of the linear forecast; "
        "training was stopped by its limit of time after 3 of 20 rounds"
    )
    assert choice_of(gate([np.nan, np.nan, -1.0, 0.0, 0.0, 0.0]), "x") == Choice(
        "nothing", False, "there is not enough history to train on"
    )


def test_groups_share_the_time_that_training_may_take() -> None:
    """Of three groups each has a third; their choices say which group they are of."""
    params = LstmParams(window=16, hidden=4, windows=600, joint=True)
    assert isinstance(third := Lstm(params, GRID).with_share(1 / 3), Lstm)
    assert third.share == pytest.approx(1 / 3)
    assert isinstance(auto := Autoencoder(AutoencoderParams(), GRID).with_share(0.5), Autoencoder)
    assert auto.share == 0.5
    block = walk(4)
    labels = tuple(make_labels({"host": f"h{i // 2}", "i": str(i)}) for i in range(4))
    model = Model(DetectorSpec("lstm", params.model_dump()), replace(GRID, group_by=("host",)))
    choices = model.choices(model.fit(Block(labels, block.times, block.values)))
    assert [one.labels for one in choices] == [(("host", "h0"),), (("host", "h1"),)]


def test_joint_lstm_forecasts_a_channel_from_the_others() -> None:
    """Each channel repeats the one before it: the joint forecast is far better than what each knows of itself."""
    block = walk()
    detector = Lstm(LstmParams(window=16, hidden=16, windows=20_000, joint=True), GRID)
    state = detector.fit(block.window(0, 700), 1)
    fresh = block.window(700)
    raw, _ = detector.score(state, fresh)
    off = np.abs(raw.expected - fresh.values)
    assert off[1:].mean() < 0.3 * off[0].mean(), "the first follows nobody"
    np.testing.assert_array_equal(raw.score[0], raw.score[2])
    assert np.isfinite(raw.score).all()
    broken = fresh.values.copy()
    broken[2, 100] += 3
    again, _ = detector.score(state, Block(fresh.labels, fresh.times, broken))
    assert int(np.argmax(again.score[0])) in (100, 101)


def test_joint_lstm_gives_the_same_scores_however_the_samples_come() -> None:
    """A block at once or one sample at a time, and the same again from the stored state; a hold learns nothing."""
    block = walk()
    detector = Lstm(LstmParams(window=16, hidden=4, windows=600, joint=True), GRID)
    state = detector.fit(block.window(0, 700), 1)
    at_once = detector.score(state, block.window(700))[0].score
    one, parts = state, []
    for t in range(700, 900):
        raw, one = detector.score(one, block.window(t, t + 1))
        parts.append(raw.score)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), at_once)
    np.testing.assert_array_equal(detector.score(state, block.window(700))[0].score, at_once)
    held = detector.score(state, block.window(700, 720), np.array([True, False, False]))[1]
    np.testing.assert_array_equal(held.arrays["error"], state.arrays["error"])


def test_what_a_fit_puts_to_work_is_a_notice_when_it_changes() -> None:
    """The first fit notes which model runs; later ones only where it is another one, and the API shows the newest."""
    spec = DetectorSpec("lstm", {"window": 16, "hidden": 4, "windows": 512})
    life = Life(recorded(), replace(RULE, detector=spec, refit_every_ms=20 * M))
    run, running = life.evaluator.runs[RULE.id], [""]
    for minute in range(90):
        life.live(minute, minute + 1)
        assert run.attendance is not None
        (choice,) = run.attendance.choices
        running += [choice.runs] if choice.runs != running[-1] else []
    notices = life.store.notices(kind=NoticeKind.MODEL)[::-1]
    assert [one.text.partition(" runs: ")[0] for one in notices] == running[1:]
    assert (notices[0].at, notices[0].labels) == (START, ())
    assert "mean squared error on hold-out" in notices[0].text
    assert run.memory.fitted_at > START, "it was fitted again"


def test_training_that_was_cut_is_told_with_every_fit() -> None:
    """A limit that is reached is noted each time: the net could be better."""
    spec = DetectorSpec("lstm", {"window": 16, "hidden": 4, "windows": 10_000, "train_time": "1ms"})
    life = Life(recorded(), replace(RULE, detector=spec, refit_every_ms=40 * M))
    life.live(0, 70)
    texts = [one.text for one in life.store.notices(kind=NoticeKind.MODEL)]
    assert len(texts) >= 2
    assert all("stopped by its limit of time after 1 of 20 rounds" in text for text in texts)
