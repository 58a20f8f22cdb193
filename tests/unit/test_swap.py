"""Another source at the old address: its series come in place of the old ones, nobody is paged, and it is said once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from anomalyd.block import Block
from anomalyd.clock import HOUR_MS
from anomalyd.delivery.notices import USUAL
from anomalyd.rule import Rule
from anomalyd.score import Kind
from anomalyd.slot import Notice, NoticeKind
from life import HISTORY, RULE, START, Life, M, hosts

SWAP = 7 * 60
"""Minutes after which the source is another one."""
PATIENT: Rule = replace(RULE, admit_after=3, interval_ms=10 * M, history_ms=HISTORY * M, for_ms=20 * M)
SLOTS = SWAP // 10


def sources(old: int, new: int, stay: int = 0, gap: int = 0, level: float = 500.0, hours: float = 9) -> Block:
    """``old`` series around 10 up to the swap, and after a gap ``new`` others with a past of their own; some stay."""
    times = START + np.arange(-HISTORY, int(hours * 60), 10) * M
    values = 10 + np.random.default_rng(3).uniform(-1, 1, size=(old + new + stay, len(times)))
    swap = int(np.searchsorted(times, START + SWAP * M))
    values[:old, swap:] = np.nan
    values[old : old + new] += level
    values[old : old + new, : swap + gap] = np.nan
    return Block(hosts(old + new + stay), times, values)


class Swapped(Life):
    """Whose source has the new series' past too, as soon as it is the other one."""

    def to(self, minute: int) -> None:
        for at in range(self.lived, minute, 10):
            evaluated = self.evaluator.evaluate(replace(self.group, interval_ms=10 * M), START + at * M)
            assert evaluated.rules[self.rule.id].failure is None
        self.lived = minute

    lived = 0

    def noted(self) -> list[Notice]:
        return self.store.notices(rule=self.rule.id, kind=NoticeKind.SERIES)


@pytest.mark.parametrize(("old", "new", "gap"), [(20, 18, 0), (20, 3, 0), (20, 40, 5)])
def test_another_source_is_noted_once_and_pages_nobody(old: int, new: int, gap: int) -> None:
    """Mass end and mass beginning, at once or after an outage: one notice, no message, scores of the new ones."""
    life = Swapped(sources(old, new, gap=gap), PATIENT)
    life.to(9 * 60)
    [said] = life.noted()
    assert said.at == START + (SWAP + (gap + 2) * 10) * M, "when they are let in"
    assert said.since == START + (SWAP - 10) * M
    assert f"{old} series ended together and {new} others came" in said.text
    assert life.told() == []
    assert NoticeKind.SERIES in USUAL, "told by default to whoever asks for notices"
    memory = life.evaluator.runs[PATIENT.id].memory
    assert memory.last is not None
    assert np.isfinite(memory.last.value[-new:]).all()
    assert Kind.ANOMALOUS not in memory.last.verdicts.kind


QUIET: list[tuple[str, Callable[[], Block]]] = [
    ("a few of many are replaced", lambda: sources(4, 4, stay=16)),
    ("all end and nothing comes", lambda: sources(20, 0)),
    ("two are two", lambda: sources(2, 2)),
    ("some come and none ends", lambda: sources(0, 20, stay=20)),
]


@pytest.mark.parametrize("block", [one for _, one in QUIET], ids=[name for name, _ in QUIET])
def test_what_is_no_other_source(block: Callable[[], Block]) -> None:
    """Series that come, go, or are replaced a few at a time."""
    life = Swapped(block(), PATIENT)
    life.to(9 * 60)
    assert life.noted() == []


def test_jobs_of_the_hour_are_no_other_source() -> None:
    """Whose series all end with each run and come anew with the next."""
    times = START + np.arange(-HISTORY, 9 * 60, 10) * M
    values = np.full((9 * 5, len(times)), np.nan)
    for hour in range(9):
        inside = (times >= START + hour * HOUR_MS) & (times < START + (hour + 1) * HOUR_MS)
        values[5 * hour : 5 * hour + 5, inside] = 10.0 + np.arange(inside.sum()) % 2
    life = Swapped(Block(hosts(45), times, values), PATIENT)
    life.to(9 * 60)
    assert life.noted() == []
