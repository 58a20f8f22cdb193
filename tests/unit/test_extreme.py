"""``extreme`` equals its definition written out plainly: ranges of all samples and of times of day, in civil time."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.detectors.base import Grid, Raw
from anomalyd.detectors.registry import make_detector
from anomalyd.rule import DetectorSpec

STEP = 10 * MINUTE_MS
DAY = DAY_MS // STEP
START = 1_774_224_000_000  # 2026-03-23 00:00 UTC, six days before clocks change in Berlin
ZONE = "Europe/Berlin"
FORGET = 1 / 500


class Range:
    """The lowest and the highest sample, drawing together."""

    def __init__(self) -> None:
        self.low = self.high = np.nan
        self.seen, self.days = 0, set[object]()

    def wide(self, least: float = 0.0) -> float:
        return float(max(self.high - self.low, least, 1e-3 * max(abs(self.low), abs(self.high)), 1e-9))

    def take(self, x: float, forget: float) -> None:
        step = forget * (self.high - self.low)
        self.high, self.low = (max(self.high - step, x), min(self.low + step, x)) if self.seen else (x, x)
        self.seen += 1

    def clipped(self, x: float, most: float) -> float:
        return float(np.clip(x, self.low - most, self.high + most))


def plainly(times: np.ndarray, values: np.ndarray, by_hour: bool) -> np.ndarray:
    """Scores, expectations and units [3, T] of one series, as the page of the detector tells it."""
    whole, hours = Range(), [Range() for _ in range(24)]
    out = np.full((3, len(values)), np.nan)
    for t, (at, x) in enumerate(zip(times, values, strict=True)):
        wall = datetime.fromtimestamp(at / 1000, ZoneInfo(ZONE))
        hour = hours[wall.hour]
        span = whole.wide() if whole.seen else np.nan
        if whole.seen:
            out[1:, t] = (whole.low + whole.high) / 2, span
        known = by_hour and len(hour.days) >= 8 and hour.seen >= 40
        if known:
            out[1:, t] = (hour.low + hour.high) / 2, hour.wide(0.1 * span)
        if np.isnan(x):
            continue
        if whole.seen >= 40:
            out[0, t] = abs(x - out[1, t]) / out[2, t]
            x = whole.clipped(x, 0.1 * span)
        whole.take(x, FORGET)
        hour.take(hour.clipped(x, 0.1 * span) if known else x, 24 * FORGET)
        hour.days.add(wall.date())
    return out


def wave(seed: int = 1, days: int = 20) -> Block:
    """A daily rhythm of two series, with gaps, a wild sample and a negative level."""
    rng = np.random.default_rng(seed)
    times = START + STEP * np.arange(days * DAY)
    values = np.array([[100.0], [-30.0]]) + 20 * np.sin(2 * np.pi * times / DAY_MS) + rng.normal(size=(2, len(times)))
    values[:, 300:330] = np.nan
    values[0, 1500], values[1, 1700] = 500.0, -300.0
    return Block((make_labels({"i": "0"}), make_labels({"i": "1"})), times, values)


def scored(block: Block, timezone: str = ZONE, **params: object) -> Raw:
    """What the detector says of a block, with nothing before it."""
    detector = make_detector(DetectorSpec("extreme", params), Grid(block.times[1] - block.times[0], timezone))
    return detector.score(detector.fit(block.window(0, 0), 0), block)[0]


@pytest.mark.parametrize("by_hour", [True, False])
def test_as_it_is_told(by_hour: bool) -> None:
    """Scores, expectations and units are the definition's through gaps, wild samples and a change of the clocks."""
    block = wave()
    raw = scored(block, forget=500, by_time_of_day=by_hour)
    for s in range(len(block)):
        score, expected, unit = plainly(block.times, block.values[s], by_hour)
        np.testing.assert_allclose(raw.score[s], score, rtol=1e-9)
        np.testing.assert_allclose(raw.expected[s], expected, rtol=1e-9)
        np.testing.assert_allclose(raw.unit[s], unit, rtol=1e-9)


def test_the_value_of_noon_at_night_is_beyond_only_by_time_of_day() -> None:
    """What is ordinary at another hour scores highest with ranges by time of day, and nothing special without."""
    block = wave()
    values = block.values.copy()
    at = 18 * DAY + 3 * 6 + np.argmin(values[0, 18 * DAY + 18 : 19 * DAY + 18])
    values[0, at] = 118.0
    odd = Block(block.labels, block.times, values)
    last = slice(18 * DAY, 20 * DAY)
    assert int(np.nanargmax(scored(odd).score[0, last])) == at - 18 * DAY
    assert scored(odd, by_time_of_day=False).score[0, at] < 0.5


def test_a_young_time_of_day_is_judged_by_all_samples() -> None:
    """In the first week, and with samples too far apart for times of day, the range is that of all samples."""
    block = wave()
    week = block.window(0, 7 * DAY - 6)
    np.testing.assert_array_equal(scored(week).score, scored(week, by_time_of_day=False).score)
    sparse = Block(block.labels, START + 2 * HOUR_MS * np.arange(len(block.times)), block.values)
    np.testing.assert_array_equal(scored(sparse).score, scored(sparse, by_time_of_day=False).score)


def test_a_still_hour_is_no_hair_trigger() -> None:
    """A night without any load counts as having a tenth of the whole range: one request then is not the worst ever."""
    rng = np.random.default_rng(2)
    times = START + STEP * np.arange(20 * DAY)
    day = 100 * np.maximum(0, np.sin(2 * np.pi * times / DAY_MS))
    values = np.where(day > 0, day + rng.normal(size=len(times)), 0.0)
    night = 19 * DAY + 110
    values[night] = 1.0
    raw = scored(Block((make_labels({"i": "0"}),), times, values[None]), "UTC")
    assert values[night - 1] == 0
    assert raw.score[0, night] < 0.2
