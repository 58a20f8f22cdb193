"""The registry in the store: who has gone is known as long as its last score, and a row id never means another."""

from __future__ import annotations

from dataclasses import replace

from anomalyd.block import fingerprint
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.slot import RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store
from contract.store_kit import MINUTE, RULE, observation


def row(number: int, at: int = 0) -> SeriesRow:
    labels = (("pod", str(number)),)
    return SeriesRow(RULE, number, fingerprint(labels), labels, at)


def commit(store: Store, minute: int, scored: list[int], gone: tuple[int, ...] = (), *new: SeriesRow) -> None:
    at = minute * MINUTE
    rule = RuleSlot(RULE, at, "ok", cut=3.5, observation=observation(at, [1.0] * len(scored), scored))
    assert store.commit_slot(SlotCommit("shop", at, (rule,), series=new, gone={RULE: gone} if gone else {}))


def living(store: Store) -> tuple[list[int], int]:
    rows, after = store.living_series(RULE)
    return [one.row for one in rows], after


def kept(store: Store) -> list[int]:
    return [one.row for one in store.series(RULE)]


def test_who_has_gone_is_known_until_the_last_score_is_forgotten(store: Store) -> None:
    """Gone is gone from the living at once; the row goes with the last slot that has a score of it."""
    commit(store, 1, [0, 1, 2], (), row(0), row(1), row(2))
    commit(store, 5, [0, 1, 2], (1,))
    commit(store, 6, [0, 2])
    assert living(store) == ([0, 2], 3)
    assert kept(store) == [0, 1, 2]
    assert [one.row for one in store.scored_series(RULE)] == [0, 2]
    assert store.gone_series(RULE, [row(n).labels for n in (0, 1, 7)]) == {row(1).labels: (1, 5 * MINUTE)}
    assert store.scored_since(RULE, 0).tolist() == [0, 1, 2]
    assert store.scored_since(RULE, 6 * MINUTE).tolist() == [0, 2]
    store.delete_before(5 * MINUTE)
    assert kept(store) == [0, 1, 2], "the slot in which it went is kept"
    store.delete_before(6 * MINUTE, batch=1)
    assert kept(store) == [0, 2]
    assert {n for o in store.scores(RULE, 0, 99 * MINUTE) for n in o.series.tolist()} == {0, 2}


def test_the_newest_row_stays_so_that_no_id_is_given_twice(store: Store) -> None:
    """Gone or not, however old: the id after it is the next one, of each rule by itself."""
    commit(store, 1, [0, 1], (), row(0), row(1))
    commit(store, 2, [0, 1], (0, 1))
    commit(store, 9, [])
    store.delete_before(99 * MINUTE)
    assert (kept(store), living(store)) == ([1], ([], 2))
    commit(store, 10, [2], (), row(2, 10 * MINUTE))
    store.delete_before(99 * MINUTE)
    assert (kept(store), living(store)) == ([2], ([2], 3))


def test_a_series_that_is_back_has_its_old_row(store: Store) -> None:
    """It is one of the living again, with the time of its return; a second loss counts from then."""
    commit(store, 1, [0, 1, 2], (), row(0), row(1), row(2))
    commit(store, 2, [0, 1, 2], (1,))
    commit(store, 3, [0, 2, 1], (), row(1, 3 * MINUTE))
    assert living(store) == ([0, 1, 2], 3)
    assert [one.first_seen for one in store.series(RULE)] == [0, 3 * MINUTE, 0]
    assert store.gone_series(RULE, [row(1).labels]) == {}
    store.delete_before(3 * MINUTE)
    assert kept(store) == [0, 1, 2]


def test_a_series_is_back_although_its_row_was_forgotten_in_between(store: Store) -> None:
    """Retention runs beside the slots: between the question who has gone and the commit a row may be deleted."""
    commit(store, 1, [0, 1], (), row(0), row(1))
    commit(store, 2, [0, 1], (0,))
    assert store.gone_series(RULE, [row(0).labels]) == {row(0).labels: (0, 2 * MINUTE)}
    commit(store, 8, [1])
    store.delete_before(7 * MINUTE)
    assert kept(store) == [1]
    commit(store, 9, [1, 0], (), row(0, 9 * MINUTE))
    assert living(store) == ([0, 1], 2)


def test_what_people_spoke_of_keeps_its_labels(store: Store) -> None:
    """A vote on a span of a series that has gone can still be read with its labels."""
    commit(store, 1, [0, 1, 2], (), row(0), row(1), row(2))
    commit(store, 2, [0, 1, 2], (0, 1))
    commit(store, 9, [2])
    store.add_feedback(
        Feedback("v", FeedbackLabel.MISSED, RULE, 1, "ann", "cli", fingerprint=row(1).fingerprint, start=1, end=2)
    )
    store.delete_before(8 * MINUTE)
    assert kept(store) == [1, 2]


def test_rules_let_all_their_series_go(store: Store) -> None:
    """Named, or all but the named; those of other rules stay."""
    other = replace(row(0), rule="shop/Errors")
    commit(store, 1, [0, 1], (), row(0), row(1), other)
    assert store.let_series_go([RULE], 5 * MINUTE) == 2
    assert (living(store), len(store.living_series("shop/Errors")[0])) == (([], 2), 1)
    assert store.let_series_go([RULE], 6 * MINUTE) == 0
    assert store.let_series_go([RULE], 7 * MINUTE, but=True) == 1
    assert store.gone_series(RULE, [row(0).labels]) == {row(0).labels: (0, 5 * MINUTE)}
    assert store.let_series_go(["nobody"], 8 * MINUTE) == 0
