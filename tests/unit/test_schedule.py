"""Slot arithmetic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anomalyd.clock import MINUTE_MS
from anomalyd.rule import Rule, RuleGroup
from anomalyd.schedule import due, newest_slot, next_start_ms, offset_ms

M = MINUTE_MS
GROUPS = st.builds(
    lambda name, interval, delay: RuleGroup(name, interval, (Rule("r", name, "up", query_delay_ms=delay),), "f.yml"),
    st.text(min_size=1, max_size=8), st.sampled_from([1_000, 15_000, M, 5 * M]), st.sampled_from([0, 30_000, 90_000]),
)  # fmt: skip
NOW = st.integers(1_600_000_000_000, 1_900_000_000_000)


@given(GROUPS, NOW)
def test_slots_lie_on_the_grid_and_never_in_the_future(group: RuleGroup, now: int) -> None:
    """A slot is a multiple of the interval, at least the query delay behind the clock."""
    slot = newest_slot(group, now)
    assert slot % group.interval_ms == 0
    assert slot + group.query_delay_ms <= now < slot + 2 * group.interval_ms + group.query_delay_ms + offset_ms(group)


@given(GROUPS, NOW, st.lists(st.integers(0, 400_000), max_size=30))
def test_each_slot_is_evaluated_once_or_counted_as_missed(group: RuleGroup, now: int, waits: list[int]) -> None:
    """Over any sequence of visits, evaluated and missed slots are exactly the slots that went by."""
    first = due(group, now, None)
    assert first is not None
    last, evaluated, missed = first.at, 1, 0
    for wait in waits:
        now += wait
        slot = due(group, now, last)
        if slot is not None:
            assert slot.at > last
            last, evaluated, missed = slot.at, evaluated + 1, missed + slot.missed
    assert (last - first.at) // group.interval_ms + 1 == evaluated + missed


@given(GROUPS, NOW)
def test_the_next_start_is_when_the_next_slot_becomes_due(group: RuleGroup, now: int) -> None:
    """One millisecond earlier the slot is not due yet."""
    slot = newest_slot(group, now)
    start = next_start_ms(group, slot)
    assert due(group, start - 1, slot) is None
    following = due(group, start, slot)
    assert following is not None
    assert (following.at, following.missed) == (slot + group.interval_ms, 0)


def test_a_clock_that_goes_back_evaluates_nothing_twice() -> None:
    """After a jump back of an hour nothing is due until the clock has caught up."""
    group = RuleGroup("g", M, (Rule("r", "g", "up", query_delay_ms=0),))
    now = 1_700_000_000_000
    slot = newest_slot(group, now)
    assert due(group, now - 60 * M, slot) is None


def test_a_clock_that_jumps_forward_takes_one_slot_and_counts_the_rest() -> None:
    """A jump of an hour is one evaluation and 59 missed slots, no burst."""
    group = RuleGroup("g", M, (Rule("r", "g", "up", query_delay_ms=0),))
    now = 1_700_000_000_000
    slot = newest_slot(group, now)
    later = due(group, now + 60 * M, slot)
    assert later is not None
    assert (later.at, later.missed) == (slot + 60 * M, 59)


def test_groups_spread_over_the_interval() -> None:
    """Offsets are stable for a group and differ between groups."""
    groups = [RuleGroup(f"g{i}", 5 * M, (), "f.yml") for i in range(50)]
    assert len({offset_ms(group) for group in groups}) > 40
    assert [offset_ms(group) for group in groups] == [offset_ms(group) for group in groups]
