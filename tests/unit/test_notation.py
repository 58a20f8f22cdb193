"""The one-line notation of series."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.notation import MONDAY_MS, Line, Pulse, Wave, compose, parse_line

NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 2 -3.5", [1, 2, -3.5]),
        ("1x3", [1, 1, 1, 1]),
        ("0+10x3", [0, 10, 20, 30]),
        ("1-1x2", [1, 0, -1]),
        ("-1-2x1", [-1, -3]),
        ("1e2+1e-1x1", [100, 100.1]),
        ("_ 1 _x2 stale", [NAN, 1, NAN, NAN, NAN]),
        ("7x3m", [7, 7, 7]),
        ("_x2m 1", [NAN, NAN, 1]),
        ("1..3x5m", [1, 1.5, 2, 2.5, 3]),
        ("3..1x2", [3, 2, 1]),
        ("=0x2m 1", [0, 0, 1]),
        (".5x1m", [0.5]),
    ],
)
def test_what_an_item_means(text: str, values: list[float]) -> None:
    """Counts are those of promtool; durations fill exactly their time."""
    np.testing.assert_allclose(parse_line(text, MINUTE_MS).values, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no samples"), ("x5", "'x5' is no item"), ("1x", "'1x' is no item"), ("1x5q", "not a duration"),
        ("_+1x3", "nothing cannot climb"), ("1x90s", "no multiple of the interval"), ("1x0s", "no multiple"),
        ("1x99999999", "more than 2,000,000 samples"), ("1x100y", "more than 2,000,000 samples"),
        ("1x1999999 1x1999999", "more than 2,000,000 samples"), ("1....3x2", "is no item"), ("{{1}}", "is no item"),
    ],
)  # fmt: skip
def test_what_is_no_item_is_refused(text: str, message: str) -> None:
    """The message names the word."""
    with pytest.raises(ValueError, match=message):
        parse_line(text, MINUTE_MS)


def test_fixed_items_have_neither_season_nor_noise() -> None:
    """Nothing is really nothing, while the samples beside it swing."""
    line = parse_line("5x1d =0x1h", HOUR_MS)
    times = MONDAY_MS + np.arange(25) * HOUR_MS
    values = compose(line, times, [Wave(DAY_MS, 2, 12 * HOUR_MS)], [], 0.1, np.random.default_rng(1))
    assert values[-1] == 0
    assert values[12] == pytest.approx(7, abs=0.5)
    assert values[0] == pytest.approx(3, abs=0.5)


def test_seasons_lie_in_civil_weeks() -> None:
    """A pulse at two days and three hours is on Wednesday at three, for as long as it says."""
    times = MONDAY_MS + np.arange(7 * 24) * HOUR_MS
    line = Line(np.zeros(len(times)), np.ones(len(times), bool), np.zeros(len(times), bool))
    values = compose(line, times, [], [Pulse(7 * DAY_MS, 1, 51 * HOUR_MS, 2 * HOUR_MS)], 0, np.random.default_rng(1))
    assert np.nonzero(values)[0].tolist() == [51, 52]


@given(st.text(st.sampled_from("0123456789.+-x_=smhd stale"), max_size=20))
def test_no_line_gives_a_traceback(text: str) -> None:
    """Samples or a ValueError, whatever is written."""
    try:
        line = parse_line(text, MINUTE_MS)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either answer is right
    else:
        assert len(line.values) == len(line.plain) > 0


def test_a_season_follows_the_clocks_of_its_zone() -> None:
    """In Berlin the job of two o'clock runs at 1:00 UTC in winter and at 0:00 UTC in summer."""
    day = 86_400_000
    first = 1_774_569_600_000  # Friday 2026-03-27 00:00 UTC; clocks change on Sunday
    times = first + np.arange(0, 4 * day, 3_600_000, dtype=np.int64)
    line = Line(np.zeros(len(times)), np.ones(len(times), bool), np.zeros(len(times), bool))
    job = Pulse(day, 1.0, 2 * 3_600_000, 3_600_000, "Europe/Berlin")
    values = compose(line, times, [], [job], 0.0, np.random.default_rng(0))
    assert [(at - first) // 3_600_000 % 24 for at, v in zip(times.tolist(), values.tolist(), strict=True) if v] == [
        1, 1, 0,
    ]  # fmt: skip
