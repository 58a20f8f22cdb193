"""STL follows the clocks of a rule's zone through daylight-saving time, and other rhythms the time that passes."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from anomalyd.block import F64, I64, Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec

STEP = 5 * MINUTE_MS
CUT = 4.5
AUTUMN, SPRING = datetime(2025, 10, 26, tzinfo=UTC), datetime(2026, 3, 29, tzinfo=UTC)
LABELS = tuple(make_labels({"host": f"h{i}"}) for i in range(3))


def around(change: datetime, before: int = 15, after: int = 5) -> I64:
    """Times of so many days around a change of the clocks."""
    at = round(change.timestamp() * 1000)
    return np.arange(at - before * DAY_MS, at + after * DAY_MS, STEP)


def office(times: I64, zone: str) -> F64:
    """Busy from seven to seven by the clocks of a zone."""
    ahead = [datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).utcoffset() for at in times.tolist()]
    hour = (times + np.array([one.total_seconds() * 1000 for one in ahead if one is not None])) % DAY_MS / HOUR_MS
    noise = np.random.default_rng(3).normal(size=(len(LABELS), len(times)))
    values: F64 = np.where((hour >= 7) & (hour < 19), 80, 20) * (1 + 0.04 * noise)
    return values


def surprises(values: F64, times: I64, zone: str, fitted: int, days: int) -> F64:
    """What is said of the days after a fit to what was before day ``fitted``."""
    at = fitted * DAY_MS // STEP
    model = Model(DetectorSpec("stl"), Grid(STEP, zone), 0)
    state = model.fit(Block(LABELS, times[:at], values[:, :at]))
    fresh = slice(at, at + days * DAY_MS // STEP)
    scores, _ = model.score(state, Block(LABELS, times[fresh], values[:, fresh]), CUT, np.zeros(len(LABELS), np.bool_))
    return scores.surprise


@pytest.mark.parametrize("fitted", [14, 15, 17])
@pytest.mark.parametrize("change", [AUTUMN, SPRING])
def test_the_profile_follows_the_clocks(change: datetime, fitted: int) -> None:
    """Fitted a day before the clocks change, at midnight of that day, and two days after: no edge is a surprise."""
    times = around(change)
    assert np.nanmax(surprises(office(times, "Europe/Madrid"), times, "Europe/Madrid", fitted, 3)) < CUT


@pytest.mark.parametrize("change", [AUTUMN, SPRING])
def test_without_the_zone_each_edge_is_an_hour_off(change: datetime) -> None:
    """The same in UTC, which is what the zone is for."""
    times = around(change)
    late = surprises(office(times, "Europe/Madrid"), times, "UTC", 14, 3)
    assert (late > CUT).any(axis=1).all()


def test_a_rhythm_that_no_clock_makes_goes_on_through_the_change() -> None:
    """A job of every fifty minutes does not wait for the clocks: an hour more would put it out of step."""
    times = around(AUTUMN)
    busy = times // STEP % 10 < 3
    values = np.where(busy, 80, 20) * (1 + 0.04 * np.random.default_rng(5).normal(size=(len(LABELS), len(times))))
    assert np.nanmax(surprises(values, times, "Europe/Madrid", 14, 3)) < CUT
