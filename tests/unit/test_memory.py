"""Aligning a source's answer with what a rule knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.block import Block, Labels, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.evaluation.dataquality import Quality
from anomalyd.evaluation.intake import expire
from anomalyd.evaluation.memory import Memory, align, empty_memory, keep_rows
from anomalyd.evaluation.registry import Registry
from anomalyd.rule import Rule


def labels(*names: str) -> tuple[Labels, ...]:
    return tuple(make_labels({"instance": name, "pod": f"{name}-7f"}) for name in names)


def block(names: str, *values: float) -> Block:
    return Block(labels(*names), np.array([60_000]), np.array([[v] for v in values]))


def knows(names: str) -> Memory:
    registry, _ = Registry("r").register(list(labels(*names)), 0)
    n = len(names)
    return replace(
        empty_memory("r"), registry=registry, active=np.arange(n), last_seen=np.zeros(n, np.int64),
        cuts=np.ones((n, 3)), quality=Quality().grown(n),
    )  # fmt: skip


def test_series_come_in_any_order_and_absent_ones_are_missing() -> None:
    """Values land on their rows; a series that does not answer is NaN."""
    got = align(knows("abc"), block("ca", 3.0, 1.0), (), 10)
    assert got.values[0, 0] == 1.0
    assert np.isnan(got.values[1, 0])
    assert got.values[2, 0] == 3.0
    assert got.added == ()


def test_an_unchanged_answer_takes_the_remembered_way_with_the_same_result() -> None:
    """The second alignment of the same series does no lookup and agrees with the first."""
    first = align(knows("abc"), block("ca", 3.0, 1.0), (), 10)
    again = align(first.memory, block("ca", 30.0, 10.0), (), 10)
    assert again.memory is first.memory
    np.testing.assert_array_equal(again.values, first.values * 10)


def test_series_beyond_the_limit_are_counted_and_known_ones_stay() -> None:
    """A cardinality explosion never drops a series that is watched."""
    got = align(knows("ab"), block("xyab", 9.0, 8.0, 1.0, 2.0), (), 3)
    assert got.values[:, 0].tolist() == [1.0, 2.0]
    assert (got.added, got.limited) == (labels("x"), 1)
    full = align(knows("ab"), block("xyab", 9.0, 8.0, 1.0, 2.0), (), 2)
    assert (full.added, full.limited) == ((), 2)
    assert align(full.memory, block("xyab", 9.0, 8.0, 1.0, 2.0), (), 2).limited == 2


def test_dropping_a_label_makes_the_next_pod_the_same_series() -> None:
    """Identity is by chosen labels; two series that become equal count as duplicates, the first one wins."""
    known = align(empty_memory("r"), block("a", 1.0), ("pod",), 10)
    assert known.added == (make_labels({"instance": "a"}),)
    twins = Block(
        (make_labels({"instance": "a", "pod": "1"}), make_labels({"instance": "a", "pod": "2"})),
        np.array([0]), np.array([[1.0], [2.0]]),
    )  # fmt: skip
    got = align(empty_memory("r"), twins, ("pod",), 10)
    assert (len(got.added), got.added_values[0, 0], got.duplicates) == (1, 1.0, 1)


def test_pods_that_follow_each_other_are_one_series_and_no_duplicates() -> None:
    """In a range the samples of one identity come from many label sets; only those of the same time are duplicates."""
    pods = tuple(make_labels({"instance": "a", "pod": f"{i}"}) for i in range(3))
    nan = np.nan
    values = np.array([[1.0, 2.0, nan, nan], [nan, nan, 3.0, nan], [nan, nan, 9.0, 4.0]])
    got = align(empty_memory("r"), Block(pods, np.arange(4) * 60_000, values), ("pod",), 10)
    assert got.added_values.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert got.duplicates == 1
    known = replace(got.memory, active=np.array([0]), registry=Registry("r").register(list(got.added), 0)[0])
    again = align(known, Block(pods[1:], np.array([300_000]), np.array([[5.0], [nan]])), ("pod",), 10)
    assert (again.values.tolist(), again.duplicates) == ([[5.0]], 0)


def test_registering_keeps_rows_stable() -> None:
    """Row ids are dense, in order of arrival, and the old registry is untouched."""
    one, added = Registry("r").register(list(labels("a", "b")), 5)
    two, _ = one.register(list(labels("c")), 6)
    assert [row.row for row in added] == [0, 1]
    assert (len(one.rows), two.index[labels("c")[0]], two.rows[2].first_seen) == (2, 2, 6)


def test_rows_that_are_let_go_stay_registered() -> None:
    """A vanished series leaves the active ones and keeps its id for its return."""
    memory = keep_rows(knows("abc"), np.array([True, False, True]))
    assert memory.active.tolist() == [0, 2]
    back = align(memory, block("b", 5.0), (), 10)
    assert back.added == labels("b")


def test_an_empty_answer_after_additions_finds_every_series_missing() -> None:
    """What was remembered of an answer with additions is not taken for an answer without series."""
    added = align(knows("ab"), block("abx", 1.0, 2.0, 3.0), (), 10)
    nothing = Block((), np.array([120_000]), np.zeros((0, 1)))
    empty = align(added.memory, nothing, (), 10)
    assert np.isnan(empty.values).all()
    assert empty.values.shape == (2, 1)


@pytest.mark.parametrize(("interval", "after"), [(MINUTE_MS, DAY_MS), (5 * MINUTE_MS, DAY_MS), (HOUR_MS, 12 * DAY_MS)])
def test_a_series_that_is_away_leaves_after_a_day_and_as_many_slots_as_that_has(interval: int, after: int) -> None:
    """A day is little to an hourly rule: what it has learned in months stays for 288 slots."""
    rule = Rule("r", "g", "x", interval_ms=interval)
    memory = replace(knows("ab"), last_seen=np.array([0, after], np.int64))
    assert len(expire(rule, memory, after - 1)[0].active) == 2
    assert expire(rule, memory, after)[0].active.tolist() == [1]
