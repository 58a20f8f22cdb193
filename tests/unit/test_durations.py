"""Durations and budgets: what users write, what it means, and what they are told when it means nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.durations import MAX_DURATION_MS, format_budget, format_duration, parse_budget, parse_duration
from anomalyd.rule import Budget

MEANINGS = [
    ("0", 0), ("0s", 0), ("5m", 5 * MINUTE_MS), ("1h30m", 90 * MINUTE_MS), ("1d", DAY_MS), ("1w", WEEK_MS),
    ("1y", 365 * DAY_MS), ("1h1ms", HOUR_MS + 1), ("90m", 90 * MINUTE_MS), ("250ms", 250),
]  # fmt: skip


@pytest.mark.parametrize(("text", "ms"), MEANINGS)
def test_a_duration_means_what_prometheus_says(text: str, ms: int) -> None:
    """Whole numbers with units, largest first."""
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("90", "write 90s, 90m, 90h or 90d"), ("1.5h", "write 1h30m"), ("", "write for example"),
        ("m5", "write for example"),
        ("1m1h", "write for example"), ("-5m", "write for example"), ("5 m", "write for example"),
        ("5M", "write for example"), ("5m\n", "write for example"), ("200y", "longer than 100 years"),
        ("٣m", "write for example"), ("1" * 30 + "s", "write for example"),
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_advice(text: str, advice: str) -> None:
    """The message shows what to write instead."""
    with pytest.raises(ValueError, match=advice):
        parse_duration(text)


@given(st.integers(0, MAX_DURATION_MS))
def test_durations_survive_being_written_and_read(ms: int) -> None:
    """``parse_duration`` undoes ``format_duration``, for every whole number of milliseconds."""
    assert parse_duration(format_duration(ms)) == ms


def test_ten_days_are_not_a_week_and_three_days() -> None:
    """Weeks and years are written only when nothing remains."""
    assert format_duration(10 * DAY_MS) == "10d"
    assert format_duration(14 * DAY_MS) == "2w"


BUDGETS = [
    ("2 per week", Budget(2, WEEK_MS)), ("1 per month", Budget(1, 30 * DAY_MS)),
    ("1 per quarter", Budget(1, 13 * WEEK_MS)),
    ("1 per week per rule", Budget(1, WEEK_MS, "rule")), ("1 per day per series", Budget(1, DAY_MS)),
    ("0.5 per hour", Budget(0.5, HOUR_MS)), ("3 per 10d", Budget(3, 10 * DAY_MS)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "budget"), BUDGETS)
def test_a_budget_means_what_it_says(text: str, budget: Budget) -> None:
    """So many false alarms in each period, per series unless it says per rule."""
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("two per week", "not a budget"), ("1 per fortnight", "not a period"), ("1/week", "not a budget"),
        ("0 per week", "allows nothing"), ("1 per 0s", "allows nothing"),
        ("1 per week per pod", "per series or per rule"),
        ("-1 per week", "not a budget"), ("1 per 5", "no unit"), ("", "not a budget"),
    ],
)  # fmt: skip
def test_what_is_no_budget_is_refused_with_advice(text: str, advice: str) -> None:
    """The message names the part that is wrong."""
    with pytest.raises(ValueError, match=advice):
        parse_budget(text)


@given(
    st.integers(1, 10**9).map(lambda n: n / 1000), st.integers(1, MAX_DURATION_MS), st.sampled_from(["series", "rule"])
)
def test_budgets_survive_being_written_and_read(count: float, period: int, per: str) -> None:
    """``parse_budget`` undoes ``format_budget``."""
    budget = Budget(count, period, "rule" if per == "rule" else "series")
    assert parse_budget(format_budget(budget)) == budget
