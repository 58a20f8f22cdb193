"""A level that lasts is accepted after the time the rule states, with an end that says so, whatever the detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.detectors.registry import detector_names
from anomalyd.episode import Close
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.incident import Reason
from anomalyd.recorded import RecordedSource
from anomalyd.rule import DetectorSpec, Rule, RuleGroup, TierPolicy
from anomalyd.score import Tier
from anomalyd.store import open_store
from anomalyd.stretch import Sheet
from anomalyd.template import render_annotations

STEP, START = 5 * MINUTE_MS, 1_760_054_400_000
PAST, SLOTS, CHANGE = 4 * 288, 200, 60
ACCEPT = 6 * HOUR_MS // STEP

NO_LEVEL = {
    "forecast": "knows limits, not levels", "matrix_profile": "knows shapes: a step is one, what follows is none",
    "lstm": "an extra", "autoencoder": "an extra",
}  # fmt: skip
PARAMS: dict[str, dict[str, Any]] = {"ensemble": {"members": [{"type": "mad"}, {"type": "ewma"}]}}
CUTS = {"isolation_forest": 2.0, "extended_isolation_forest": 2.0, "cusum": 1.0}
"""Forests cannot say how far beyond everything a level is; four days are few for the tail of a sum of residuals."""


class _Nobody:
    def saw(self, sheet: Sheet) -> None:
        pass

    def committed(self, at: int, owed: int) -> None:
        pass


def loads() -> Block:
    """Three series with noise 1 and a small rhythm; the first goes from 50 to 90 for good."""
    times = START + np.arange(-PAST, SLOTS) * STEP
    values = 50 + np.random.default_rng(5).normal(size=(3, len(times))) + 3 * np.sin(2 * np.pi * times / DAY_MS)
    values[0, PAST + CHANGE :] += 40
    return Block(tuple(make_labels({"__name__": "load", "host": f"h{i}"}) for i in range(3)), times, values)


@pytest.mark.parametrize("detector", [name for name in detector_names() if name not in NO_LEVEL])
def test_a_level_that_lasts_is_accepted_with_an_event(detector: str) -> None:
    """One episode, closed as the new level when it has lasted as long as stated, told; and never another for it."""
    rule = Rule(
        "Load", "g", "load", detector=DetectorSpec(detector, PARAMS.get(detector, {})), interval_ms=STEP,
        history_ms=PAST * STEP, query_delay_ms=0, for_ms=(2 if detector == "cusum" else 5) * STEP, receivers=("hook",),
        keep_firing_for_ms=2 * STEP, accept_after_ms=ACCEPT * STEP,
        tiers=(TierPolicy(Tier.WARNING, surprise=CUTS.get(detector, 3.5)),),
    )  # fmt: skip
    store, inline = open_store("sqlite://"), InlineExecutor()
    evaluator = Evaluator(
        store, {"default": RecordedSource({"load": loads()})}, annotate=render_annotations, links=lambda _: {},
        fit=inline, background=inline,
    )  # fmt: skip
    evaluator.add(rule)
    at, last = START, START + (SLOTS - 1) * STEP
    while at <= last:
        at = evaluator.live(RuleGroup("g", STEP, (rule,)), at, last, _Nobody())
    told = [e for e in store.episodes(rule=rule.id, limit=1000) if e.opened_at and dict(e.labels)["host"] == "h0"]
    (episode,) = [e for e in told if e.started_at >= START + (CHANGE - 1) * STEP]
    assert episode.close == Close.NEW_LEVEL
    assert 0 <= (episode.closed_at - episode.started_at) // STEP - ACCEPT <= 1
    ends = [row.notification.statement for row in store.notifications(incident=episode.incident)]
    assert [(s.reason, s.alerts[0].close) for s in ends if s.resolved] == [(Reason.RESOLVED, "new_level")]
    store.close()
