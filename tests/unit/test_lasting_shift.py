"""A small shift that lasts: ``cusum`` is for it, and half-space trees do not lose a large one, at ordinary budgets."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.cusum import Cusum, CusumParams
from anomalyd.detectors.kernels.control import HIGHEST_SUM, summed
from anomalyd.detectors.model import Model
from anomalyd.episode import Close, Episode
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.recorded import RecordedSource
from anomalyd.rule import Budget, DetectorSpec, Direction, Rule, RuleGroup, TierPolicy
from anomalyd.score import Tier
from anomalyd.store import open_store
from anomalyd.stretch import Sheet
from anomalyd.template import render_annotations

STEP, START = 5 * MINUTE_MS, 1_760_054_400_000
DAY = DAY_MS // STEP
PAST, CHANGE, LASTS, AFTER = 14 * DAY, 60, 120, 80
SERIES = 12


class _Nobody:
    def saw(self, sheet: Sheet) -> None:
        pass

    def committed(self, at: int, owed: int) -> None:
        pass


def lived(
    detector: str, shift: float, direction: Direction, seed: int = 4
) -> dict[str, list[tuple[Episode, int, int]]]:
    """Episodes by host, each with the slots in which it opened and closed; the first half of the hosts shifts."""
    samples = PAST + CHANGE + LASTS + AFTER
    t = np.arange(samples)
    values = 100 + 10 * np.sin(2 * np.pi * t / DAY) + np.random.default_rng(seed).normal(size=(SERIES, samples))
    values[: SERIES // 2, PAST + CHANGE : PAST + CHANGE + LASTS] += shift
    labels = tuple(make_labels({"__name__": "load", "host": f"h{i}"}) for i in range(SERIES))
    rule = Rule(
        "Load", "g", "load", detector=DetectorSpec(detector), interval_ms=STEP, history_ms=PAST * STEP,
        query_delay_ms=0, for_ms=0, keep_firing_for_ms=6 * STEP, direction=direction, receivers=("hook",),
        tiers=(TierPolicy(Tier.WARNING, Budget(1, WEEK_MS)),),
    )  # fmt: skip
    store, inline = open_store("sqlite://"), InlineExecutor()
    source = RecordedSource({"load": Block(labels, START + STEP * t, values)})
    evaluator = Evaluator(
        store, {"default": source}, annotate=render_annotations, links=lambda _: {}, fit=inline, background=inline
    )
    evaluator.add(rule)
    at, last = START + PAST * STEP, START + (samples - 1) * STEP
    while at <= last:
        at = evaluator.live(RuleGroup("g", STEP, (rule,)), at, last, _Nobody())
    found: dict[str, list[tuple[Episode, int, int]]] = {f"h{i}": [] for i in range(SERIES)}
    for e in store.episodes(rule=rule.id, limit=1000):
        if e.opened_at:
            slots = [(when - START) // STEP - PAST for when in (e.opened_at, e.closed_at)]
            found[dict(e.labels)["host"]].append((e, slots[0], slots[1]))
    store.close()
    return found


@pytest.mark.parametrize(("shift", "direction"), [(1.5, "up"), (1.5, "both"), (1.0, "up"), (-1.5, "down")])
def test_cusum_opens_on_a_small_lasting_shift_and_stays_open(shift: float, direction: Direction) -> None:
    """Within three times what theory gives at a budget of one a week, and until the level is back."""
    chart = Cusum(CusumParams(), Grid(STEP))
    theory = chart.limit / (abs(shift) - chart.step)
    found = lived("cusum", shift, direction)
    for host in range(SERIES // 2):
        episodes = sorted((one for one in found[f"h{host}"] if one[1] >= CHANGE), key=lambda one: one[1])
        spans = [(opened, closed) for _, opened, closed in episodes]
        assert 1 <= len(spans) <= 2, (host, spans)
        assert spans[0][0] - CHANGE < 3 * theory, (host, spans)
        until = CHANGE + LASTS
        told = sum(max(0, min(closed, until) - opened) for opened, closed in spans)
        assert told > 0.85 * (until - spans[0][0]), (host, spans)
        assert until - 10 <= spans[-1][1] < until + 50, (host, spans)
        assert {episode.close for episode, _, _ in episodes} == {Close.RECOVERED}
    quiet = [one for host in range(SERIES // 2, SERIES) for one in found[f"h{host}"]]
    assert len(quiet) <= 1


def test_a_sum_returns_the_faster_the_higher_it_is() -> None:
    """Up to the limit the sum is Page's; above it a step down counts more, and there is an end."""
    assert summed(3.0, -0.5, 6.0) == 2.5
    assert summed(3.0, 4.0, 6.0) == 7.0
    assert summed(12.0, -0.6, 6.0) == 11.0
    assert summed(0.2, -0.5, 6.0) == 0.0
    assert summed(23.0, 8.0, 6.0) == HIGHEST_SUM * 6.0
    total, samples = HIGHEST_SUM * 6.0, 0
    while total > 6.0:
        total, samples = summed(total, -0.5, 6.0), samples + 1
    assert samples < 30


def test_half_space_trees_keep_a_large_shift_open() -> None:
    """At a budget of one a week a level eight spreads off opens within some samples and stays open until it is back."""
    found = lived("half_space_trees", 8.0, "both")
    for host in range(SERIES // 2):
        episodes = [one for one in found[f"h{host}"] if CHANGE <= one[1] < CHANGE + LASTS]
        assert len(episodes) == 1, (host, [(a, b) for _, a, b in episodes])
        assert episodes[0][1] - CHANGE <= 5
        assert CHANGE + LASTS <= episodes[0][2] < CHANGE + LASTS + 20


def test_knn_is_quiet_again_when_the_series_is() -> None:
    """While it is held the book is not written on, but the last samples move on: what recovers has its neighbours."""
    day, rng = 288, np.random.default_rng(6)
    times = np.arange(15 * day)
    values = 100 + 60 * np.sin(2 * np.pi * times / day) + 2 * rng.normal(size=len(times))
    values[14 * day + 60 : 14 * day + 90] = 30.0
    block = Block((make_labels({"host": "a"}),), 300_000 * (1 + times), values[None, :])
    model = Model(DetectorSpec("knn"), Grid(300_000))
    state = model.fit(block.window(0, 14 * day))
    above = []
    for t in range(14 * day, 15 * day):
        hold = np.array([bool(above and above[-1])])
        scores, state = model.score(state, block.window(t, t + 1), 3.0, hold)
        above.append(bool(scores.surprise[0, 0] > 3.0))
    assert all(above[60:90]), "the outage stays open"
    assert not any(above[90 + 12 :]), "and ends when the last of it has left the context"
    assert not any(above[:60])
