"""Joint detectors by group: each group its own vector, whatever company it is in; kinds of groups share nets."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from anomalyd.block import Block, Labels, make_labels
from anomalyd.detectors.base import Grid, rowwise, state_from_bytes
from anomalyd.detectors.grouped import CHANNEL, OF_GROUP, Grouped, left_out
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec
from anomalyd.score import Scores

STEP, START, PAST, LIVE = 300_000, 1_760_054_400_000, 420, 40
GRID = Grid(STEP, group_by=("host",))
SMALL: dict[str, dict[str, object]] = {
    "auto": {},
    "knn": {"contexts": 512},
    "lof": {"keep": 128},
    "isolation_forest": {"trees": 16},
    "extended_isolation_forest": {"trees": 16},
    "half_space_trees": {"trees": 8, "height": 5, "window": 100},
    "autoencoder": {"windows": 2_048, "code": 2},
    "lstm": {"windows": 1_024, "hidden": 8, "window": 16},
}
TORCH = {"autoencoder", "lstm"}
BREAK = 20
"""The live column in which machine a breaks."""


def joint(name: str) -> DetectorSpec:
    return DetectorSpec(name, {**SMALL[name], "joint": True})


def names() -> list[object]:
    there = importlib.util.find_spec("torch") is not None
    skipped = pytest.mark.skipif(not there, reason="the lstm extra is not installed")
    return [pytest.param(name, marks=[skipped] if name in TORCH else []) for name in SMALL]


def label(host: str, metric: str) -> Labels:
    return make_labels({"__name__": metric, "host": host})


def machines(wide: int = 3, small: int = 2, samples: int = PAST + LIVE) -> Block:
    """Machine a with ``wide`` metrics that go together, machine b with ``small`` others; a breaks for six samples."""
    rng = np.random.default_rng(4)
    load = np.sin(np.arange(samples) * 2 * np.pi / 72) + rng.normal(size=samples) * 0.3
    a = 50 + np.outer(np.arange(1, wide + 1), load) + rng.normal(size=(wide, samples)) * 0.1
    b = 7 + rng.normal(size=(small, samples))
    a[0, PAST + BREAK : PAST + BREAK + 6] += 9
    labels = [label("a", f"m{i}") for i in range(wide)] + [label("b", f"m{i}") for i in range(small)]
    return Block(tuple(labels), START + STEP * np.arange(samples, dtype=np.int64), np.vstack([a, b]))


def lived(model: Model, block: Block) -> Scores:
    """Scores of the live part by a model of the past."""
    return model.score(model.fit(block.window(0, PAST)), block.window(PAST), 3.0)[0]


@pytest.mark.parametrize("name", names())
def test_a_group_is_scored_alike_in_any_company_and_order(name: str) -> None:
    """The scores of a machine are the same to the bit alone, beside another one, and in another order."""
    block, model = machines(), Model(joint(name), GRID, seed=3)
    together = lived(model, block)
    shuffled = lived(model, block.take([4, 2, 0, 3, 1]))
    alone = lived(model, block.take([0, 1, 2]))
    assert np.isfinite(together.surprise).all(), "past and live part are long enough for a score"
    np.testing.assert_array_equal(together.surprise[[4, 2, 0, 3, 1]], shuffled.surprise)
    np.testing.assert_array_equal(together.surprise[:3], alone.surprise)
    np.testing.assert_array_equal(together.raw[0], together.raw[2])
    assert not np.array_equal(together.raw[0], together.raw[3]), "two machines have two models"


@pytest.mark.parametrize("name", names())
def test_what_breaks_in_one_group_is_seen_in_that_group(name: str) -> None:
    """One metric that leaves its machine's pattern raises that machine's score and leaves the other's where it was."""
    scores = lived(Model(joint(name), GRID, seed=3), machines())
    broken = scores.surprise[0, BREAK : BREAK + 3].max()
    assert broken > np.quantile(scores.surprise[0, :BREAK], 0.95)
    calm = machines()
    calm.values[:3, PAST + BREAK :] = calm.values[:3, PAST - 144 + BREAK : PAST - 144 + LIVE]
    other = lived(Model(joint(name), GRID, seed=3), calm)
    np.testing.assert_array_equal(other.surprise[3:], scores.surprise[3:])


@pytest.mark.parametrize("name", names())
def test_a_missing_channel_is_no_score_and_its_group_goes_on(name: str) -> None:
    """A channel without samples has no surprise; the others of its group all have the same one."""
    block = machines()
    block.values[1, PAST + 5 : PAST + 15] = np.nan
    scores = lived(Model(joint(name), GRID, seed=3), block)
    assert np.isnan(scores.surprise[1, 5:15]).all()
    assert np.isfinite(scores.surprise[[0, 2]]).all()
    np.testing.assert_array_equal(scores.surprise[0], scores.surprise[2])
    np.testing.assert_array_equal(scores.surprise[0, 15:], scores.surprise[1, 15:])


@pytest.mark.parametrize("name", names())
def test_state_can_be_stored_cut_and_joined(name: str) -> None:
    """After NPZ and back the next scores are the same; a channel that left is missing; one that joins has no score."""
    block, model = machines(), Model(joint(name), GRID, seed=3)
    state = model.fit(block.window(0, PAST))
    fresh = block.window(PAST)
    wanted = model.score(state, fresh, 3.0)[0].surprise
    stored = state_from_bytes(state.to_bytes())
    np.testing.assert_array_equal(model.score(stored, fresh, 3.0)[0].surprise, wanted)
    gone = fresh.values.copy()
    gone[1] = np.nan
    as_missing = model.score(state, Block(fresh.labels, fresh.times, gone), 3.0)[0].surprise
    kept = state.take([0, 2, 3, 4])
    cut = model.score(kept, fresh.take([0, 2, 3, 4]), 3.0)[0].surprise
    np.testing.assert_array_equal(cut, as_missing[[0, 2, 3, 4]])
    newcomer = Block((label("a", "m9"),), np.zeros(0, np.int64), np.zeros((1, 0)))
    more = model.join(state, newcomer)
    wider = Block((*fresh.labels, label("a", "m9")), fresh.times, np.vstack([fresh.values, fresh.values[:1]]))
    grown = model.score(more, wider, 3.0)[0].surprise
    np.testing.assert_array_equal(grown[:5], wanted)
    assert np.isnan(grown[5]).all()


def test_a_channel_needs_a_past_of_its_own() -> None:
    """A channel with fewer samples than a model needs is left out of its group's vector until a fit finds enough."""
    block = machines()
    block.values[2, : PAST - 50] = np.nan
    model = Model(joint("knn"), GRID)
    state = model.fit(block.window(0, PAST))
    outside = left_out(state)
    assert outside is not None
    assert outside.tolist() == [False, False, True, False, False]
    scores = model.score(state, block.window(PAST), 3.0)[0]
    assert np.isnan(scores.surprise[2]).all()
    without = lived(model, block.take([0, 1, 3, 4]))
    np.testing.assert_array_equal(scores.surprise[[0, 1, 3, 4]], without.surprise)


def test_a_held_channel_holds_its_group_and_no_other() -> None:
    """What a group learned stays while one of its channels is held; the other group learns on."""
    block, model = machines(), Model(joint("half_space_trees"), GRID)
    state = model.fit(block.window(0, PAST))
    hold = np.array([False, True, False, False, False])
    held = model.score(state, block.window(PAST), 3.0, hold)[1]
    free = model.score(state, block.window(PAST), 3.0)[1]
    names_of = [name for name in state.arrays if name.endswith(".latest")]
    assert len(names_of) == 2
    np.testing.assert_array_equal(held.arrays[names_of[0]], state.arrays[names_of[0]])
    np.testing.assert_array_equal(held.arrays[names_of[1]], free.arrays[names_of[1]])
    np.testing.assert_array_equal(held.arrays["c.counts"][:3], state.arrays["c.counts"][:3])


def test_all_series_are_one_vector_without_group_by() -> None:
    """With an empty group_by the rule is one group; the band of a channel is what is usual of it."""
    block, model = machines(), Model(joint("auto"), Grid(STEP))
    scores = lived(model, block)
    assert (scores.raw == scores.raw[0]).all()
    inside = (block.values[3, PAST:] > scores.lower[3]) & (block.values[3, PAST:] < scores.upper[3])
    assert inside.mean() > 0.9
    assert not (scores.lower[0, BREAK] < block.values[0, PAST + BREAK] < scores.upper[0, BREAK])


def test_an_ensemble_of_joint_members_is_joint_and_a_mixed_one_is_not() -> None:
    """Members combine per group; with a member that looks at single series each series has its own score again."""
    members = [{"type": "knn", "params": {"joint": True, "contexts": 512}}, {"type": "auto", "params": {"joint": True}}]
    both, mixed = DetectorSpec("ensemble", {"members": members}), DetectorSpec(
        "ensemble", {"members": [members[0], {"type": "ewma"}]}
    )  # fmt: skip
    assert both.joint
    assert mixed.grouped
    assert not mixed.joint
    block = machines()
    scores = lived(Model(both, GRID), block)
    np.testing.assert_array_equal(scores.surprise[0], scores.surprise[2])
    assert scores.surprise[0, BREAK] > scores.surprise[3, BREAK]
    apart = Model(mixed, GRID)
    assert not rowwise(apart.detector)
    assert not np.array_equal(*lived(apart, block).surprise[[0, 2]])


def test_too_many_channels_name_the_group() -> None:
    """A detector that cannot take so many channels says in which group they are."""
    from anomalyd.errors import DetectorError

    block = machines(wide=64, samples=PAST)
    with pytest.raises(DetectorError, match=r"host=a: .*63 channels at most, not 64"):
        Model(joint("half_space_trees"), GRID).fit(block)


def test_the_state_says_which_series_is_which_channel() -> None:
    """Groups and channels are numbered by label sets, so that a fit of the same series gives the same state."""
    detector = Model(joint("knn"), GRID).detector
    assert isinstance(detector, Grouped)
    state = detector.fit(machines().window(0, PAST).take([4, 0, 2, 1, 3]), 0)
    assert state.arrays[OF_GROUP].tolist() == [1, 0, 0, 0, 1]
    assert state.arrays[CHANNEL].tolist() == [1, 0, 2, 1, 0]


def fleet(hosts: str = "abc", samples: int = PAST + LIVE) -> Block:
    """Machines with the same two metrics, at levels of their own, and machine z with another pair of them."""
    rng = np.random.default_rng(6)
    labels, values = [], []
    for i, host in enumerate((*hosts, "z")):
        load = np.sin(np.arange(samples) * 2 * np.pi / 72) + rng.normal(size=samples) * 0.3
        labels += [label(host, "cpu"), label(host, "net" if host != "z" else "disk")]
        values += [10 * i + load, 100 + 5**i * load + rng.normal(size=samples) * 0.1]
    return Block(tuple(labels), START + STEP * np.arange(samples, dtype=np.int64), np.stack(values))


def nets() -> list[object]:
    return [one for one in names() if one.values[0] in TORCH]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", nets())
def test_groups_of_one_kind_share_one_net_and_nothing_else(name: str) -> None:
    """There is one net for the machines with the same metrics and one for the other; each has scale and memory."""
    model = Model(joint(name), GRID, seed=3)
    state = model.fit(fleet().window(0, PAST))
    weights = [array for key, array in state.arrays.items() if key.rpartition(".")[2] in ("w_in", "w1")]
    assert len(weights) == 2
    assert len(state.arrays["d.g0.c.scale"]) == 6
    assert len(state.arrays["d.g1.c.scale"]) == 2
    three, other = model.choices(state)
    assert (three.groups, three.kind, three.labels) == (3, "cpu, net", ())
    assert " for 3 groups of cpu, net: " in str(three)
    assert (other.groups, other.labels) == (0, (("host", "z"),))
    assert [one.groups for one in model.choices(state.take([2, 3]))] == [3], "what runs for the series of one machine"


@pytest.mark.parametrize("name", nets())
def test_between_fits_groups_that_share_a_net_do_not_meet(name: str) -> None:
    """A machine's scores are the same to the bit alone, in another order, and whatever happens to the others."""
    model, block = Model(joint(name), GRID, seed=3), fleet()
    state, fresh = model.fit(block.window(0, PAST)), block.window(PAST)
    wanted = model.score(state, fresh, 3.0)[0]
    assert np.isfinite(wanted.surprise).all()
    order = [5, 0, 3, 6, 1, 7, 2, 4]
    shuffled = model.score(model.fit(block.window(0, PAST).take(order)), fresh.take(order), 3.0)[0]
    np.testing.assert_array_equal(shuffled.surprise, wanted.surprise[order])
    alone = model.score(state.take([3, 2]), fresh.take([3, 2]), 3.0)[0]
    np.testing.assert_array_equal(alone.surprise, wanted.surprise[[3, 2]])
    np.testing.assert_array_equal(alone.expected, wanted.expected[[3, 2]])
    wild = Block(fresh.labels, fresh.times, fresh.values.copy())
    wild.values[[0, 1]] += 1e6
    disturbed = model.score(state, wild, 3.0)[0]
    np.testing.assert_array_equal(disturbed.surprise[2:], wanted.surprise[2:])
    assert disturbed.surprise[0, 0] > wanted.surprise[0].max()


@pytest.mark.parametrize("name", nets())
def test_groups_that_share_a_net_step_alike_however_the_samples_come(name: str) -> None:
    """A block at once and one sample at a time give the same scores."""
    model, block = Model(joint(name), GRID, seed=3), fleet()
    one = state = model.fit(block.window(0, PAST))
    at_once = model.score(state, block.window(PAST), 3.0)[0].surprise
    parts = []
    for t in range(PAST, PAST + LIVE):
        said, one = model.score(one, block.window(t, t + 1), 3.0)
        parts.append(said.surprise)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), at_once)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the lstm extra is not installed")
def test_a_held_group_does_not_hold_those_it_shares_a_net_with() -> None:
    """Usual errors stay in the group of a held channel, and are followed in the other groups of its kind."""
    model, block = Model(joint("lstm"), GRID, seed=3), fleet()
    state = model.fit(block.window(0, PAST))
    hold = np.zeros(8, np.bool_)
    hold[3] = True
    held = model.score(state, block.window(PAST), 3.0, hold)[1].arrays["d.g0.c.error"]
    free = model.score(state, block.window(PAST), 3.0)[1].arrays["d.g0.c.error"]
    before = state.arrays["d.g0.c.error"]
    np.testing.assert_array_equal(held[2:4], before[2:4])
    np.testing.assert_array_equal(held[[0, 1, 4, 5]], free[[0, 1, 4, 5]])
    assert (free != before).all()


@pytest.mark.parametrize("name", names())
def test_nothing_to_learn_from_and_nothing_to_score_is_no_error(name: str) -> None:
    """A fit without samples leaves all series out; a block without samples changes nothing."""
    model, block = Model(joint(name), GRID, seed=3), machines()
    young = model.fit(block.window(0, 0))
    assert np.isnan(model.score(young, block.window(0, 5), 3.0)[0].surprise).all()
    state = model.fit(block.window(0, PAST))
    nothing, after = model.score(state, block.window(PAST, PAST), 3.0)
    assert nothing.surprise.shape == (5, 0)
    again = model.score(after, block.window(PAST), 3.0)[0].surprise
    np.testing.assert_array_equal(again, model.score(state, block.window(PAST), 3.0)[0].surprise)
