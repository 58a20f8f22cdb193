"""The five changes that the common PromQL rules miss or close too early: all open, and stay open until recovery.

A series that falls to zero, one that disappears, a negative gauge that grows, an outage to one hundredth, a doubling.
Steady before, then the change for three hours, then as before.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.block import Block
from anomalyd.clock import DAY_MS, WEEK_MS
from anomalyd.episode import Close
from anomalyd.rule import Budget, DetectorSpec, Rule, TierPolicy
from anomalyd.score import Tier
from life import START, Life, M, hosts

HISTORY, BEFORE, CHANGED, AFTER = 3 * 24 * 60, 30, 180, 40
CHANGES = {
    "falls to zero": (100.0, 0.0),
    "disappears": (100.0, np.nan),
    "negative gauge grows": (-100.0, -500.0),
    "outage to one hundredth": (100.0, 1.0),
    "doubles": (100.0, 200.0),
}


def series(normal: float, changed: float) -> Block:
    times = START + np.arange(-HISTORY, BEFORE + CHANGED + AFTER) * M
    noise = np.random.default_rng(11).normal(size=len(times))
    values = normal + noise
    values[HISTORY + BEFORE : HISTORY + BEFORE + CHANGED] = changed
    return Block(hosts(1), times, values[None])


def rule(detector: str) -> Rule:
    return Rule(
        "Load", "g", "load", detector=DetectorSpec(detector), history_ms=HISTORY * M, query_delay_ms=0, for_ms=5 * M,
        keep_firing_for_ms=5 * M, accept_after_ms=DAY_MS, missing="alert",
        tiers=(TierPolicy(Tier.WARNING, Budget(1, WEEK_MS)),),
    )  # fmt: skip


@pytest.mark.parametrize("detector", ["auto", "seasonal", "stl"])
@pytest.mark.parametrize("what", CHANGES)
def test_each_change_opens_and_stays_open_until_recovery(detector: str, what: str) -> None:
    """One episode, open within ten minutes, closed within fifteen after recovery, with nothing else beside it."""
    life = Life(series(*CHANGES[what]), replace(rule(detector), seed=1))
    life.live(0, BEFORE + CHANGED + AFTER)
    spans = life.spans()
    assert len(spans) == 1, spans
    _, opened, closed, close = spans[0]
    assert BEFORE + 5 <= opened <= BEFORE + 10
    assert BEFORE + CHANGED <= closed <= BEFORE + CHANGED + 15
    assert close == Close.RECOVERED
