"""Ticks of axes: civil round times of a time zone, also where the clocks change, and round numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.ticks import round_numbers, time_ticks

BERLIN = "Europe/Berlin"


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("first", "length", "zone", "texts"),
    [
        ("2026-01-05T10:07", 35 * MINUTE_MS, "UTC", ["10:10", "10:15", "10:20", "10:25", "10:30", "10:35", "10:40"]),
        ("2026-01-05T19:40", 18 * HOUR_MS, "UTC", ["21:00", "6 Jan", "03:00", "06:00", "09:00", "12:00"]),
        ("2026-01-05T19:40", 18 * HOUR_MS, BERLIN, ["21:00", "6 Jan", "03:00", "06:00", "09:00", "12:00"]),
        ("2026-01-05T19:40", 2 * DAY_MS, "UTC", ["6 Jan", "12:00", "7 Jan", "12:00"]),
        ("2026-01-05T19:40", 5 * DAY_MS, BERLIN, ["6 Jan", "7 Jan", "8 Jan", "9 Jan", "10 Jan"]),
        ("2026-01-01T00:00", 30 * DAY_MS, "UTC", ["5 Jan", "12 Jan", "19 Jan", "26 Jan"]),
        ("2025-09-10T00:00", 200 * DAY_MS, "UTC", ["Oct", "Nov", "Dec", "Jan 2026", "Feb", "Mar"]),
        ("2026-03-28T22:30", 6 * HOUR_MS, BERLIN, ["29 Mar", "01:00", "03:00", "04:00", "05:00", "06:00"]),
        ("2026-10-24T22:00", 5 * HOUR_MS, BERLIN, ["25 Oct", "01:00", "02:00", "03:00", "04:00"]),
        ("2026-01-05T10:00", 0, "UTC", ["10:00"]),
    ],
)
def test_ticks_are_where_people_look_for_them(first: str, length: int, zone: str, texts: list[str]) -> None:
    """Minutes, hours from midnight, days, Mondays and firsts of months; no hour that the clocks leave out."""
    begin = ms(first)
    assert [tick.text for tick in time_ticks(begin, begin + length, zone)] == texts


@pytest.mark.parametrize(
    ("first", "length", "texts"),
    [
        ("2026-01-05T10:07:05", 30_000, ["10:07"]), ("2026-01-05T10:07:05", 60_000, ["10:08"]),
        ("2026-01-05T23:59:55", 2_000, ["23:59"]),
    ],
)  # fmt: skip
def test_a_span_without_a_round_time_shows_its_begin(first: str, length: int, texts: list[str]) -> None:
    """Half a minute between two minutes still has a time written below it."""
    assert [tick.text for tick in time_ticks(ms(first), ms(first) + length)] == texts


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12), st.integers(3, 8))
def test_round_numbers_lie_in_the_range_and_are_few(low: float, length: float, about: int) -> None:
    """Whatever the range: inside it, rising, at least one and at most one more than asked for."""
    high = low + max(length, abs(low) * 1e-6)
    found = round_numbers(low, high, about)
    slack = 1e-9 * max(abs(low), abs(high))
    assert found == sorted(found)
    assert 1 <= len(found) <= about + 1
    assert all(low - slack <= value <= high + slack for value in found)


@given(
    st.integers(ms("2000-01-01"), ms("2035-01-01")), st.integers(1, 3 * 365 * DAY_MS),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Asia/Kathmandu", "Africa/Cairo"]),
)  # fmt: skip
def test_ticks_lie_on_the_axis_in_order_and_are_few(first: int, length: int, zone: str) -> None:
    """Whatever the span: between its ends, rising, at most nine, each at a whole minute there or a lone begin."""
    ticks = time_ticks(first, first + length, zone)
    places = [tick.at for tick in ticks]
    assert places == sorted(set(places))
    assert all(0 <= at <= 1 for at in places)
    assert 1 <= len(ticks) <= 9
    for tick in ticks if places != [0.0] else ():
        civil = datetime.fromtimestamp(round(first + tick.at * length) / 1000, ZoneInfo(zone))
        assert abs(civil.second + civil.microsecond / 1e6 - 30) > 29.9
