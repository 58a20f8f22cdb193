"""A store that writes down late: whoever looks finds what committing slot by slot would have left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from anomalyd.episode import Episode, Phase
from anomalyd.incident import Incident, Notification
from anomalyd.judge import uniform
from anomalyd.score import Kind, Observation, Tier
from anomalyd.slot import RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store, open_store
from anomalyd.workbench.letters import Noting
from console_kit import NOW, RULE, M, episode, labels, statement

SLOTS = 12


@pytest.fixture
def stores() -> Iterator[tuple[Store, Store]]:
    pair = open_store("sqlite://"), open_store("sqlite://")
    yield pair
    for store in pair:
        store.close()


def commits() -> list[SlotCommit]:
    """A series that is new, then an episode that changes in every slot, is told in two of them, and ends."""
    one = np.zeros(1, np.int64)
    seen = Observation(NOW, one, *([np.ones(1)] * 5), uniform(Kind.OK, 1))
    row = SeriesRow(RULE.id, 0, "f", labels("eu"), NOW)
    found = [SlotCommit("shop", NOW, (RuleSlot(RULE.id, NOW, "ok", observation=seen),), series=(row,))]
    live = episode("e", live=True, started=NOW, incident="i")
    for i in range(1, SLOTS):
        at = NOW + i * M
        here = replace(live, seen_at=at, value=float(i), phase=Phase.CLOSED if i == SLOTS - 1 else Phase.OPEN)
        told = [Notification(f"n{i}", "r", statement(here), at)] if i in (1, SLOTS - 1) else []
        incident = Incident("i", "key", RULE.id, (), Tier.WARNING, NOW, episodes=1)
        found.append(SlotCommit("shop", at, (RuleSlot(RULE.id, at, "ok"),), episodes=(here,), incidents=(incident,),
                                outbox=tuple(told)))  # fmt: skip
    return found


def kept(store: Store) -> tuple[list[Episode], list[str], list[SeriesRow]]:
    """What is looked up in a backtest."""
    owed = sorted(row.notification.id for row in store.notifications(limit=100))
    return store.episodes(rule=RULE.id), owed, store.series(RULE.id)


def test_the_same_is_found_whenever_somebody_looks(stores: tuple[Store, Store]) -> None:
    """After every slot that is looked at, and at the end; and each slot has its letter."""
    plain, late = stores
    noting = Noting(late, RULE)
    for i, commit in enumerate(commits()):
        plain.commit_slot(commit)
        assert noting.commit_slot(commit)
        if i in (0, 3, 4, 9):
            assert kept(cast(Store, noting)) == kept(plain)
    assert late.episodes(rule=RULE.id)[0].value == 9.0, "nobody has looked since"
    noting.write()
    assert kept(late) == kept(plain)
    assert late.episodes(rule=RULE.id)[0].value == SLOTS - 1
    assert [letter.at for letter in noting.letters] == [NOW + i * M + RULE.query_delay_ms for i in range(1, SLOTS)]
    assert [bool(letter.outbox) for letter in noting.letters].count(True) == 2


def test_what_waits_is_written_before_series_change(stores: tuple[Store, Store]) -> None:
    """Series that go or come, and scores, are never committed before what happened earlier."""
    _, late = stores
    noting = Noting(late, RULE)
    first, *rest = commits()
    noting.commit_slot(first)
    for commit in rest[:3]:
        noting.commit_slot(commit)
    assert late.episodes(rule=RULE.id) == []
    at = NOW + SLOTS * M
    noting.commit_slot(SlotCommit("shop", at, (RuleSlot(RULE.id, at, "ok"),), gone={RULE.id: (0,)}))
    assert late.episodes(rule=RULE.id)[0].value == 3.0
