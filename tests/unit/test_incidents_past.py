"""Incidents in a history that nobody lived through are not learned; what is a series' nature is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.block import F64, Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.incidents import incidents_of
from anomalyd.episode import Episode
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.evaluation.fits import fit_task
from anomalyd.executors import InlineExecutor
from anomalyd.recorded import RecordedSource
from anomalyd.rule import Budget, DetectorSpec, Rule, RuleGroup, TierPolicy
from anomalyd.score import Tier
from anomalyd.shard import fit_shard
from anomalyd.slot import Notice, NoticeKind
from anomalyd.store import open_store
from anomalyd.template import render_annotations
from anomalyd.workbench.backtest import Backtest, backtest

STEP = 5 * MINUTE_MS
DAY, HOUR = DAY_MS // STEP, HOUR_MS // STEP
START = 1_760_054_400_000 // STEP * STEP
PAST, LIVE = 14 * DAY, 8 * HOUR
LASTS = 16
"""Slots of an incident: 80 minutes."""
THIRD = PAST + 2 * HOUR
RULE = Rule(
    "Load", "g", "load", interval_ms=STEP, query_delay_ms=0, receivers=("hook",),
    tiers=(TierPolicy(Tier.WARNING, Budget(1, WEEK_MS)),),
)  # fmt: skip


def block(values: F64) -> Block:
    labels = tuple(make_labels({"__name__": "load", "host": f"h{i}"}) for i in range(len(values)))
    return Block(labels, START + STEP * np.arange(values.shape[1]), values)


def calm(series: int = 1, samples: int = PAST, seed: int = 5) -> F64:
    """Around 10 with a rhythm of a day and a noise of 5 %."""
    day = 2 * np.pi * np.arange(samples) / DAY
    noise = np.random.default_rng(seed).normal(size=(series, samples))
    values: F64 = (10 + 4 * np.sin(day)) * (1 + 0.05 * noise)
    return values


def spoiled(series: int = 4) -> Block:
    """Two incidents of the first series, 40 times normal, in two weeks of history, and a third one live."""
    values = calm(series, PAST + LIVE)
    for first in (3 * DAY + 171, 9 * DAY + 26, THIRD):
        values[0, first : first + LASTS] *= 40
    return block(values)


def lived(detector: DetectorSpec, **changes: Any) -> Backtest:
    known = spoiled()
    return backtest(replace(RULE, detector=detector, **changes), known, START + PAST * STEP, int(known.times[-1]))


def of_third(test: Backtest) -> list[Episode]:
    first, stop = START + THIRD * STEP, START + (THIRD + LASTS) * STEP
    return [e for e in test.episodes if e.opened_at and e.started_at < stop and (e.closed_at or stop) > first]


ENSEMBLE = DetectorSpec("ensemble", {"members": [{"type": "mad"}, {"type": "seasonal"}, {"type": "rls"}]})
JOINT_LSTM = DetectorSpec("lstm", {"joint": True, "window": 16, "hidden": 4, "windows": 256, "train_time": "2s"})


@pytest.mark.parametrize(
    "detector",
    [
        DetectorSpec("mad"), DetectorSpec("seasonal"), DetectorSpec("auto"), DetectorSpec("peer"), ENSEMBLE,
        DetectorSpec("knn", {"joint": True}), JOINT_LSTM,
    ],
    ids=lambda spec: f"{spec.type}{' joint' if spec.joint else ''}",
)  # fmt: skip
def test_a_third_outage_is_told_and_stays_open(detector: DetectorSpec) -> None:
    """After two outages in the history that a new daemon learns from, a third opens at once and lasts until its end."""
    if detector.type == "lstm":
        pytest.importorskip("torch", reason="the lstm extra is not installed")
    (episode,) = of_third(lived(detector))
    assert 0 <= episode.opened_at - (START + THIRD * STEP) <= 2 * STEP
    assert episode.closed_at >= START + (THIRD + LASTS) * STEP


def test_a_rule_that_learns_all_learns_them_too() -> None:
    """With `learn: all` the third outage is nothing new: that is what the rule asks for."""
    assert not of_third(lived(DetectorSpec("mad"), learn="all"))


def test_without_incidents_a_fit_is_what_it_was() -> None:
    """A history without incidents teaches the same to the bit, whether incidents are looked for or not."""
    history = block(calm(3))
    for name in ("mad", "auto", "isolation_forest"):
        rule = replace(RULE, detector=DetectorSpec(name))
        task = fit_task(rule, history, [int(history.times[-1])] * 3)
        looked, plain = fit_shard(task), fit_shard(replace(task, watched=None))
        assert looked.left_out == ()
        for key, array in plain.state.arrays.items():
            assert looked.state.arrays[key].tobytes() == array.tobytes(), (name, key)


def test_only_the_series_with_incidents_learns_otherwise() -> None:
    """What the siblings of a spoiled series learn does not change."""
    history = spoiled().window(0, PAST)
    task = fit_task(RULE, history, [int(history.times[-1])] * 4)
    task = replace(task, spec=DetectorSpec("auto"))
    looked, plain = fit_shard(task), fit_shard(replace(task, watched=None))
    assert {row for row, _, _ in looked.left_out} == {0}
    for key, array in plain.state.arrays.items():
        assert looked.state.arrays[key][1:].tobytes() == array[1:].tobytes(), key
    assert any(looked.state.arrays[key][0].tobytes() != array[0].tobytes() for key, array in plain.state.arrays.items())


def test_what_was_watched_is_left_to_the_episodes() -> None:
    """An incident after a series' first slot was judged as it came: a fit does not judge it again."""
    history = spoiled().window(0, PAST)
    first, second = START + (3 * DAY + 171) * STEP, START + (9 * DAY + 26) * STEP
    between = fit_shard(fit_task(RULE, history, [first + DAY_MS] * 4))
    assert between.left_out == ((0, first, first + (LASTS - 1) * STEP + 1),)
    assert fit_shard(fit_task(RULE, history, [first] * 4)).left_out == ()
    assert len(fit_shard(fit_task(RULE, history, [second + 1] * 4)).left_out) == 2


def test_a_channels_incident_is_its_groups() -> None:
    """Of a vector the time of an incident is left out in all of its channels, and in no other group's."""
    values = calm(4)
    values[0, 3 * DAY : 3 * DAY + LASTS] *= 40
    labels = [make_labels({"host": f"h{i // 2}", "what": f"w{i % 2}"}) for i in range(4)]
    history = Block(tuple(labels), START + STEP * np.arange(PAST), values)
    joint = replace(RULE, detector=DetectorSpec("knn", {"joint": True}), group_by=("host",))
    left_out = fit_shard(fit_task(joint, history, [int(history.times[-1])] * 4)).left_out
    assert [row for row, _, _ in left_out] == [0, 1]
    assert left_out[0][1:] == left_out[1][1:]


def found(values: F64, direction: Any = "both", longest_ms: int = DAY_MS) -> list[tuple[int, int]]:
    """The incidents of one series: first sample and how many."""
    flags = incidents_of(block(values), Grid(STEP, direction=direction), longest_ms)[0]
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False].astype(np.int8)))
    return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]


def test_incidents_are_found_whole_on_the_side_that_matters() -> None:
    """A rise is one where rises are looked for, a fall where falls are; each is found from its first sample on."""
    values = calm()
    values[0, 1000 : 1000 + LASTS] *= 40
    values[0, 2500 : 2500 + LASTS] = 0
    assert found(values) == [(1000, LASTS), (2500, LASTS)]
    assert found(values, "up") == [(1000, LASTS)]
    assert found(values, "down") == [(2500, LASTS)]


@pytest.mark.parametrize(
    ("every", "lasts"), [(DAY, 2), (DAY, 12), (7 * DAY, 12), (HOUR, 1), (12 * HOUR, 6)],
    ids=["daily job", "daily batch", "weekly backup", "hourly", "twice a day"],
)  # fmt: skip
def test_habits_are_learned(every: int, lasts: int) -> None:
    """What comes at its time is no incident, however high it is."""
    values = calm()
    for first in range(30, PAST - lasts, every):
        values[0, first : first + lasts] *= 40
    assert found(values) == []


def test_an_incident_stands_out_from_a_daily_job() -> None:
    """Of a series with a batch job each night an outage far above it is left out, and the job is not."""
    values = calm()
    for first in range(30, PAST, DAY):
        values[0, first : first + 6] *= 3
    values[0, 2000 : 2000 + LASTS] *= 60
    assert found(values) == [(2000, LASTS)]


def test_what_comes_often_is_learned() -> None:
    """Nine bursts in two weeks, at whatever times, are the nature of a series."""
    values = calm()
    for first in np.random.default_rng(1).choice(PAST // 60 - 1, 9, replace=False) * 60:
        values[0, first : first + 6] *= 20
    assert found(values) == []


@pytest.mark.parametrize("since", [PAST // 2, PAST - 2 * DAY, PAST - 12 * HOUR, PAST - 6])
def test_a_level_that_has_moved_is_learned(since: int) -> None:
    """A step, a ramp, or an outage that goes on to the end of the history may be the new level."""
    step, ramp = calm(), calm()
    step[0, since:] *= 40
    ramp[0, since:] += np.linspace(0, 400, PAST - since)
    assert found(step) == []
    assert found(ramp) == []


def test_what_lasts_as_long_as_a_new_level_is_learned() -> None:
    """Thirty hours are an incident only where the rule takes longer to accept a level."""
    values = calm()
    values[0, 5 * DAY : 5 * DAY + 30 * HOUR] *= 40
    assert found(values) == []
    assert found(values, longest_ms=2 * DAY_MS) == [(5 * DAY, 30 * HOUR)]


def test_sparse_counts_keep_their_spikes() -> None:
    """Of a series that is zero nearly always, a count now and then is its nature; two long bursts are incidents."""
    rare = np.zeros((1, PAST))
    rare[0, np.random.default_rng(2).choice(PAST, 60, replace=False)] = 3
    assert found(rare) == []
    flat = np.zeros((1, PAST))
    flat[0, 1000 : 1000 + LASTS] = 50
    flat[0, 2511 : 2511 + LASTS] = 80
    assert found(flat) == [(1000, LASTS), (2511, LASTS)]


def test_of_a_short_history_everything_is_learned() -> None:
    """In less than three days nobody knows what a time of the day is like."""
    values = calm()[:, : 2 * DAY]
    values[0, 300 : 300 + LASTS] *= 40
    assert found(values) == []


@given(st.integers(0, 10_000), st.sampled_from(["normal", "laplace", "walk", "counts", "weekend"]))
@settings(max_examples=40, deadline=None)
def test_ordinary_noise_has_no_incidents(seed: int, family: str) -> None:
    """Series with nothing wrong in them, levels that wander and weekends included, are learned whole."""
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.normal(size=(1, PAST)),
        "laplace": lambda: rng.laplace(size=(1, PAST)),
        "walk": lambda: rng.normal(size=(1, PAST)).cumsum(axis=1),
        "counts": lambda: rng.poisson(0.1, size=(1, PAST)).astype(np.float64),
        "weekend": lambda: calm(seed=seed) * np.where(np.arange(PAST) // DAY % 7 >= 5, 0.2, 1.0),
    }[family]()
    assert found(values) == []


def test_what_was_left_out_is_a_notice_and_no_page() -> None:
    """The first fit says what it did not learn, at which series and when; a later one does not say it again."""
    known = spoiled()
    store, inline = open_store("sqlite://"), InlineExecutor()
    rule = replace(RULE, detector=DetectorSpec("isolation_forest"), refit_every_ms=HOUR_MS)
    evaluator = Evaluator(
        store, {"default": RecordedSource({"load": known})}, annotate=render_annotations, links=lambda _: {},
        fit=inline, background=inline, operators=("hook",),
    )  # fmt: skip
    evaluator.add(rule)
    for slot in range(PAST, PAST + 3 * HOUR):
        evaluator.evaluate(RuleGroup("g", STEP, (rule,)), START + slot * STEP)
    notices: list[Notice] = store.notices(kind=NoticeKind.LEFT_OUT)
    assert evaluator.runs[rule.id].memory.fitted_at > START + PAST * STEP, "it was fitted again"
    (notice,) = notices
    assert notice.labels == known.labels[0]
    assert notice.since == START + (3 * DAY + 171) * STEP
    assert "2 spans" in notice.text
    assert notice.text.count("for 1h 20m") == 2
