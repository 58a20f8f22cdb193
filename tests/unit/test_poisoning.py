"""A level that is raised slowly, so that each step is small: who is told, when, and what is learned of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anomalyd.block import Block
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.episode import Close
from anomalyd.rule import DetectorSpec, Rule, RuleGroup, TierPolicy
from anomalyd.score import Tier
from life import RULE, START, Life, hosts

STEP = 5 * MINUTE_MS
PAST, DAYS, RISES = 14 * DAY_MS, 2 * DAY_MS, 6 * HOUR_MS


class Blind:
    """A witness that looks away."""

    def saw(self, sheet: object) -> None:
        """Nothing."""

    def committed(self, at: int, owed: int) -> None:
        """Nothing."""


def raised() -> Block:
    """Two weeks of a daily rhythm with 3 % of noise, then one of two series rises by 2 % an hour."""
    times = np.arange(START - PAST, START + DAYS, STEP)
    noise = np.random.default_rng(1).normal(size=(2, len(times)))
    values = (100 + 30 * np.sin(2 * np.pi * times / DAY_MS)) * (1 + 0.03 * noise)
    values[0] *= 1.02 ** np.maximum(0, (times - START - RISES) / HOUR_MS)
    return Block(hosts(2), times, values)


def lived(learn: Any) -> Life:
    rule: Rule = replace(
        RULE, interval_ms=STEP, history_ms=PAST, detector=DetectorSpec("stl", {}), learn=learn, for_ms=0, admit_after=1,
        keep_firing_for_ms=0, accept_after_ms=DAY_MS, tiers=(TierPolicy(Tier.WARNING, surprise=3.9),),
    )  # fmt: skip
    life = Life(raised(), rule)
    life.group = RuleGroup("g", STEP, (rule,))
    at, until = START, START + DAYS - STEP
    while at <= until:
        at = life.evaluator.live(life.group, at, until, Blind())
    return life


@pytest.fixture(scope="module")
def held() -> Life:
    return lived("normal_only")


def test_a_slow_rise_pages_within_hours_and_stays_open(held: Life) -> None:
    """`stl`: told within hours, and then open until the rule's `accept_after` calls it the level."""
    told = sorted((e for e in held.store.episodes(rule=held.rule.id) if e.opened_at), key=lambda e: e.opened_at)
    assert {dict(e.labels)["host"] for e in told} == {"h0"}
    assert RISES < told[0].opened_at - START < RISES + 8 * HOUR_MS
    [lasts] = [e for e in told if e.close == Close.NEW_LEVEL]
    assert lasts.opened_at - START < RISES + 12 * HOUR_MS
    assert lasts.closed_at - lasts.started_at == DAY_MS


def test_what_is_learned_all_the_same_goes_quiet(held: Life) -> None:
    """`learn: all` follows the rise: no alert lasts, which is what `normal_only` is there against."""
    life = lived("all")
    told = [e for e in life.store.episodes(rule=life.rule.id) if e.opened_at]
    assert max(e.closed_at - e.opened_at for e in told) < 3 * HOUR_MS
    assert {e.close for e in told} == {Close.RECOVERED}
