"""What remote write reads and keeps: slots after a cursor, cursors that never go back, episodes open at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anomalyd.episode import Close, Phase
from anomalyd.errors import StoreError
from anomalyd.slot import RuleSlot, SlotCommit
from anomalyd.store import Store
from contract.store_kit import MINUTE, RULE, episode, fence, notice, slot


def test_slots_after_a_cursor(store: Store) -> None:
    """In order, at most so many, with their scores; one of which nothing is known has none."""
    store.commit_slot(slot(MINUTE, first=True))
    failed = RuleSlot(RULE, 2 * MINUTE, "error", "timeout")
    store.commit_slot(SlotCommit("shop", 2 * MINUTE, (failed,)))
    store.commit_slot(slot(3 * MINUTE, values=(5.0, 6.0)))
    first, second = store.exports.after(RULE, 0, 2)
    assert (first.at, first.outcome, first.cut) == (MINUTE, "ok", 3.5)
    assert first.seen is not None
    assert first.seen.value.tolist() == [1.0, 2.0]
    assert (second.at, second.seen) == (2 * MINUTE, None)
    assert [one.at for one in store.exports.after(RULE, 2 * MINUTE, 9)] == [3 * MINUTE]
    assert store.exports.after("shop/Unknown", 0, 9) == []
    assert store.exports.newest(RULE) == 3 * MINUTE
    assert store.exports.newest("shop/Unknown") is None
    before = store.exports.newest_scored(RULE, 2 * MINUTE)
    assert before is not None
    assert before.at == MINUTE
    assert store.exports.newest_scored(RULE, 0) is None
    assert store.exports.count(RULE, MINUTE, 3 * MINUTE) == 2


def test_series_from_a_row_on(store: Store) -> None:
    """Only what is not known yet has to be read."""
    store.commit_slot(slot(MINUTE, first=True))
    assert [row.labels for row in store.exports.series(RULE, 0)] == [(("pod", "0"),), (("pod", "1"),)]
    assert [row.row for row in store.exports.series(RULE, 1)] == [1]


def test_cursors(store: Store) -> None:
    """One a target and rule; they move forward only, and go with their rule or target."""
    store.exports.move("a", RULE, 2 * MINUTE)
    store.exports.move("a", RULE, MINUTE)
    store.exports.move("a", "shop/Other", MINUTE)
    store.exports.move("b", RULE, MINUTE)
    assert store.exports.cursors("a") == {RULE: 2 * MINUTE, "shop/Other": MINUTE}
    store.exports.forget("a", "shop/Other")
    assert store.exports.cursors("a") == {RULE: 2 * MINUTE}
    assert store.exports.keep(["a"]) == 1
    assert store.exports.cursors("b") == {}


def test_who_no_longer_leads_moves_no_cursor(store: Store) -> None:
    """A daemon that was paused past its lease leaves the cursors to its successor."""
    assert store.acquire_lease("leader", "one", 0, 1000) == fence(1)
    assert store.acquire_lease("leader", "two", 5000, 1000) == fence(2)
    with pytest.raises(StoreError) as caught:
        store.exports.move("a", RULE, MINUTE, fence=fence(1))
    assert caught.value.reason == "fenced"
    store.exports.move("a", RULE, MINUTE, fence=fence(2))
    assert store.exports.cursors("a") == {RULE: MINUTE}


def test_episodes_that_were_open(store: Store) -> None:
    """Those that are open and those that ended since, of this rule, and none that never opened."""
    ended = replace(episode("old", start=MINUTE, opened_at=MINUTE), phase=Phase.CLOSED, close=Close.RECOVERED)
    store.save_episodes(
        [
            episode("open", start=MINUTE, opened_at=MINUTE),
            episode("waits", phase=Phase.PENDING, start=MINUTE),
            replace(ended, closed_at=3 * MINUTE),
            replace(ended, id="older", closed_at=2 * MINUTE - 1),
            episode("other", rule="shop/Other", opened_at=MINUTE),
        ]
    )
    assert [one.id for one in store.exports.open_since(RULE, 2 * MINUTE)] == ["open", "old"]


def test_notices_outside_a_slot(store: Store) -> None:
    """What the daemon itself notes is written once."""
    store.add_notices([notice(MINUTE)])
    store.add_notices([notice(MINUTE)])
    assert store.notices() == [notice(MINUTE)]
