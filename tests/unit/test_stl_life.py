"""``stl`` from fit to fit: an outage as surprising whenever it was fitted, a slow leak told, a level accepted once."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import F64, Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.episode import Close, Episode
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.recorded import RecordedSource
from anomalyd.rule import Budget, DetectorSpec, Rule, RuleGroup, TierPolicy
from anomalyd.score import Tier
from anomalyd.store import open_store
from anomalyd.stretch import Sheet
from anomalyd.template import render_annotations

STEP, START = 5 * MINUTE_MS, 1_760_054_400_000
DAY = DAY_MS // STEP
PAST = 14 * DAY
FITS = np.arange(10) * 31
"""Fit times: ten within a day, at other times of it each."""
SPEC = DetectorSpec("stl", {"period": "1d"})


def block(values: F64, first: int = 0) -> Block:
    labels = tuple(make_labels({"__name__": "load", "host": f"h{i}"}) for i in range(len(values)))
    return Block(labels, START + STEP * (first + np.arange(values.shape[1], dtype=np.int64)), values)


def clean(rng: np.random.Generator, samples: int) -> F64:
    """A daily rhythm with noise of 1."""
    wave: F64 = 100 + 20 * np.sin(2 * np.pi * np.arange(samples) / DAY) + rng.normal(size=samples)
    return wave


def realistic(rng: np.random.Generator, samples: int) -> F64:
    """Two peaks a day, noise that remembers and is wider by day, and two past incidents of two hours."""
    phase = 2 * np.pi * np.arange(samples) / DAY
    noise = np.zeros(samples)
    for t in range(1, samples):
        noise[t] = 0.6 * noise[t - 1] + rng.normal()
    values: F64 = 100 + 25 * np.sin(phase) + 10 * np.sin(2 * phase) + (1.2 + 0.5 * np.sin(phase)) * noise
    values[8 * DAY + 100 : 8 * DAY + 124] -= 70
    values[10 * DAY + 40 : 10 * DAY + 64] += 90
    return values


@pytest.mark.parametrize("kind", [clean, realistic])
def test_the_time_of_the_fit_does_not_decide_how_surprising_an_outage_is(kind: object) -> None:
    """Over ten fit times the surprise of the same outage keeps within a quarter of its middle, for every series."""
    assert callable(kind)
    values = np.stack([kind(np.random.default_rng(seed), PAST + int(FITS[-1]) + 1) for seed in range(6)])
    model = Model(SPEC, Grid(STEP))
    surprises = []
    for first in FITS.tolist():
        state = model.fit(block(values[:, first : first + PAST], first))
        outage = block(np.full((len(values), 1), 5.0), first + PAST)
        surprises.append(model.score(state, outage, 3.3)[0].surprise[:, 0])
    found = np.stack(surprises)
    middle = np.median(found, axis=0)
    assert (middle > 4).all()
    assert (found.max(axis=0) / middle).max() < 1.25
    assert (found.min(axis=0) / middle).min() > 0.75


class _Nobody:
    def saw(self, sheet: Sheet) -> None:
        pass

    def committed(self, at: int, owed: int) -> None:
        pass


def lived(values: F64, accept_ms: int = DAY_MS, spec: DetectorSpec = SPEC) -> list[Episode]:
    """What a rule of ``stl`` tells of series after two weeks of history, refitted every day, by when it began."""
    rule = Rule(
        "Load", "g", "load", detector=spec, interval_ms=STEP, history_ms=PAST * STEP, query_delay_ms=0,
        for_ms=2 * STEP, keep_firing_for_ms=2 * STEP, accept_after_ms=accept_ms, receivers=("hook",),
        tiers=(TierPolicy(Tier.WARNING, Budget(1, WEEK_MS)),),
    )  # fmt: skip
    store, inline = open_store("sqlite://"), InlineExecutor()
    evaluator = Evaluator(
        store, {"default": RecordedSource({"load": block(values)})}, annotate=render_annotations, links=lambda _: {},
        fit=inline, background=inline,
    )  # fmt: skip
    evaluator.add(rule)
    at, last = START + PAST * STEP, START + (values.shape[1] - 1) * STEP
    while at <= last:
        at = evaluator.live(RuleGroup("g", STEP, (rule,)), at, last, _Nobody())
    told = [episode for episode in store.episodes(rule=rule.id, limit=1000) if episode.opened_at]
    store.close()
    return sorted(told, key=lambda episode: episode.started_at)


def slot_of(at: int) -> int:
    """Slots after the history."""
    return (at - START) // STEP - PAST


def test_a_slow_leak_is_told_and_ends_with_it() -> None:
    """A level that climbs two spreads a day opens within two days and closes when it is back; steady growth is none."""
    rng = np.random.default_rng(2)
    samples = PAST + 5 * DAY
    t = np.arange(samples)
    values = np.stack([clean(rng, samples) for _ in range(3)])
    leak = np.clip(t - PAST - DAY // 2, 0, None) * 2.0 / DAY
    stop = PAST + 3 * DAY
    values[0] += np.where(t < stop, leak, 0.0)
    values[1] += t * 2.0 / DAY
    told = lived(values)
    assert {dict(e.labels)["host"] for e in told} == {"h0"}
    first = told[0]
    assert DAY // 2 < slot_of(first.opened_at) < 2 * DAY + DAY // 2
    assert first.expected < first.value
    assert max(slot_of(e.closed_at) for e in told) < 3 * DAY + 60


@pytest.mark.parametrize("period", ["1d", None])
def test_a_new_level_is_accepted_once(period: str | None) -> None:
    """With ``accept_after`` of four hours a level that stays is one episode, and none after it."""
    rng = np.random.default_rng(3)
    wave = 1.0 if period else 0.0
    samples = PAST + 2 * DAY
    values = np.stack([50 + rng.normal(size=samples) + wave * 8 * np.sin(2 * np.pi * np.arange(samples) / DAY)])
    values[0, PAST + 60 :] += 40
    (episode,) = lived(values, 4 * HOUR_MS, DetectorSpec("stl", {"period": period} if period else {}))
    assert episode.close == Close.NEW_LEVEL
    assert 60 <= slot_of(episode.started_at) <= 61
    assert slot_of(episode.closed_at) - slot_of(episode.started_at) == pytest.approx(48, abs=2)
