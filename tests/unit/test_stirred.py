"""News that a rule refuses at first, for its direction or its size, is news still when it comes to matter."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from anomalyd.block import Block, Bool
from anomalyd.detectors import base
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.detectors.model import Model
from anomalyd.evaluation.since import as_last_said
from anomalyd.rule import DetectorSpec, MinDeviation, Rule
from anomalyd.score import Why
from unit.test_stretch import PAST, RULE, SLOTS, START, STEP, Life, labels, same

TOO_SMALL = replace(RULE, min_deviation=MinDeviation(absolute=5.0))
DOWN = replace(RULE, direction="down")


class Plain:
    """Takes 0 for normal and the distance from it for the surprise; news is whatever ends in a half."""

    name: ClassVar[str] = "auto"
    streaming: ClassVar[bool] = True
    multivariate: ClassVar[bool] = False
    has_band: ClassVar[bool] = True
    calibrated: ClassVar[bool] = True
    Params: ClassVar[type[base.Params]] = base.Params
    min_history: ClassVar[int] = 1

    def fit(self, history: Block, seed: int) -> State:
        return State({"seen": np.zeros((len(history), 1))}, as_of=int(history.times[-1]) if len(history.times) else 0)

    def score(self, state: State, fresh: Block, hold: Bool | None = None) -> tuple[Raw, State]:
        size = np.abs(fresh.values)
        page = np.where(size % 1 == 0.5, size, 0.0)
        raw = Raw(size, np.zeros_like(size), np.ones_like(size), page)
        return raw, State({"seen": state.arrays["seen"] + len(fresh.times)}, as_of=int(fresh.times[-1]))


def life(rule: Rule, values: dict[int, float]) -> Life:
    """A rule over one series that is 0 but in these slots."""
    series = np.zeros((1, PAST + SLOTS))
    for slot, value in values.items():
        series[0, PAST + slot] = value
    lived = Life(rule, Block(labels(1), START + np.arange(-PAST, SLOTS) * STEP, series))
    run = lived.evaluator.runs[rule.id]
    run.model = Model(DetectorSpec("auto"), Grid(STEP, rule.timezone), detector=Plain())
    return lived


def opened(lived: Life) -> list[int]:
    return [(e["started_at"] - START) // STEP for e in lived.episodes() if e["opened_at"]]


@pytest.mark.parametrize(("rule", "values", "starts", "reason"), [
    (TOO_SMALL, {100: 4.5, 101: 6, 102: 6, 103: 6, 104: 6}, [101], Why.MIN_DEVIATION),
    (TOO_SMALL, {100: 4.5, 101: 4, 102: 4, 103: 6, 104: 6, 105: 6}, [103], Why.MIN_DEVIATION),
    (TOO_SMALL, {100: 4.5, 101: np.nan, 102: 6, 103: 6, 104: 6}, [102], Why.MIN_DEVIATION),
    (TOO_SMALL, {100: 4.5, 101: 1, 102: 6, 103: 6, 104: 6}, [], Why.MIN_DEVIATION),
    (DOWN, {100: 6.5, 101: -6, 102: -6, 103: -6}, [101], Why.DIRECTION),
], ids=["grows", "grows late", "over a gap", "calm between", "turns"])  # fmt: skip
def test_refused_news_opens_when_it_comes_to_matter(
    rule: Rule, values: dict[int, float], starts: list[int], reason: Why
) -> None:
    """An onset that the rule refuses does not use up the news while the surprise lasts; calm does."""
    lived = life(rule, values).one_by_one()
    assert opened(lived) == starts
    assert lived.seen[START + 100 * STEP][0][-1] == reason
    same(lived, life(rule, values).together())


BLIP = {100: 4.5}
LASTS = dict.fromkeys(range(130, 140), 4.0)


@pytest.mark.parametrize(("values", "starts"), [
    (BLIP | LASTS, [130]),
    (LASTS, []),
    (BLIP | {130: 4.0, 131: 4.0}, []),
    (BLIP | dict.fromkeys(range(162, 172), 4.0), []),
    (BLIP | {150: 4.0} | dict.fromkeys(range(170, 180), 4.0), []),
    (dict.fromkeys(range(100, 104), 4.5) | LASTS, [100]),
], ids=["lasts", "no news", "too short", "too late", "what was no news recalls nothing", "told already"])  # fmt: skip
def test_news_that_came_to_nothing_is_news_still(values: dict[int, float], starts: list[int]) -> None:
    """After one odd sample, shorter than `for`, the like of it opens for some hours if it lasts: nobody was told."""
    lived = life(RULE, values).one_by_one()
    assert opened(lived) == starts
    same(lived, life(RULE, values).together())


def test_a_restart_knows_what_came_to_nothing() -> None:
    """From the store alone: the last of two blips within an hour does not prolong what the first one began."""
    lived = life(RULE, {310: 4.5, 315: 4.0}).one_by_one()
    memory = lived.evaluator.runs[RULE.id].memory
    assert list(memory.lapsed.values()) == [START + (311 + 60) * STEP]
    assert as_last_said(RULE, replace(memory, lapsed={}), lived.store).lapsed == memory.lapsed
