"""The demo shop: reproducible, with rhythm, and with exactly the incidents it says."""

from itertools import pairwise

import numpy as np
import pytest

from anomalyd.block import Block, Labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.demo.shop import (
    DATABASE,
    STEP_MS,
    Planted,
    Shop,
    cpu_series,
    errors_series,
    latency_series,
    orders_series,
    requests_series,
    shop,
)
from anomalyd.score import Tier

START = 1_762_000_000_000  # not on the five-minute grid


@pytest.fixture(scope="module")
def made() -> Shop:
    return shop(START)


def row(block: Block, labels: Labels) -> np.ndarray:
    return block.values[block.labels.index(labels)]


def incident(made: Shop, kind: str) -> Planted:
    return next(planted for planted in made.incidents if planted.kind == kind)


def day_earlier(made: Shop, planted: Planted, labels: Labels, days: int = 7) -> tuple[float, float]:
    """Mean of a series during an incident and at the same time some days before."""
    times, values = made.block.times, row(made.block, labels)
    during = (times >= planted.start_ms) & (times < planted.end_ms)
    before = (times >= planted.start_ms - days * DAY_MS) & (times < planted.end_ms - days * DAY_MS)
    return float(np.nanmean(values[during])), float(np.nanmean(values[before]))


def test_same_seed_same_bytes_and_another_seed_another_shop(made: Shop) -> None:
    """The generator is a function of its arguments."""
    again, other = shop(START), shop(START, seed=2)
    assert made.block.values.tobytes() == again.block.values.tobytes()
    assert made.incidents == again.incidents
    assert not np.array_equal(made.block.values, other.block.values, equal_nan=True)


def test_shape_and_grid(made: Shop) -> None:
    """Four weeks on the grid of five minutes, unique recorded series, nothing negative, two short gaps."""
    block = made.block
    assert len(block.times) == 4 * WEEK_MS // STEP_MS
    assert int(block.times[0]) % STEP_MS == 0
    assert 0 <= int(block.times[0]) - START < STEP_MS
    assert block.step_ms() == STEP_MS
    assert 8 <= len(block) <= 14
    assert len(set(block.labels)) == len(block)
    assert all(dict(labels)["__name__"].startswith("shop:") for labels in block.labels)
    assert np.nanmin(block.values) >= 0
    assert np.isnan(block.values).sum() == 2 * 3 * len(block)


def test_another_step_keeps_the_times_of_incidents() -> None:
    """The step is a parameter and moves no incident."""
    fine = shop(START, step_ms=MINUTE_MS)
    assert fine.block.step_ms() == MINUTE_MS
    coarse = {planted.name: planted.start_ms for planted in shop(START).incidents}
    assert {planted.name: planted.start_ms for planted in fine.incidents} == coarse


def test_incidents_lie_in_the_watched_weeks_apart_and_of_four_kinds(made: Shop) -> None:
    """History is clean, incidents do not overlap, and each names series that exist."""
    ordered = sorted(made.incidents, key=lambda planted: planted.start_ms)
    assert {planted.kind for planted in ordered} == {"leak", "burst", "drop", "overrun"}
    assert made.watch_from_ms == int(made.block.times[0]) + 2 * WEEK_MS
    assert ordered[0].start_ms > made.watch_from_ms + DAY_MS
    assert ordered[-1].end_ms < int(made.block.times[-1])
    for one, following in pairwise(ordered):
        assert one.end_ms + DAY_MS < following.start_ms
    for planted in ordered:
        assert planted.start_ms < planted.end_ms
        assert planted.tier > Tier.NONE
        assert set(planted.series + planted.touched) <= set(made.block.labels)
        assert not set(planted.series) & set(planted.touched)


def test_incidents_show_in_the_data(made: Shop) -> None:
    """Each incident moves its series as its story says, against the same hours a week before."""
    during, before = day_earlier(made, incident(made, "leak"), latency_series("eu"))
    assert 1.8 < during / before < 2.8
    during, before = day_earlier(made, incident(made, "burst"), errors_series("us"))
    assert during > 0.05 > 0.01 > before
    for labels in (requests_series("us"), orders_series("us")):
        during, before = day_earlier(made, incident(made, "drop"), labels)
        assert during < 0.1 * before
    during, before = day_earlier(made, incident(made, "overrun"), DATABASE)
    assert during > 0.6 > 0.3 > before


def test_a_drop_takes_along_what_depends_on_traffic(made: Shop) -> None:
    """Causes have consequences: with the traffic of us, its web server's CPU falls, and eu does not notice."""
    drop = incident(made, "drop")
    during, before = day_earlier(made, drop, cpu_series("web-us"))
    assert during < 0.6 * before
    during, before = day_earlier(made, drop, requests_series("eu"))
    assert 0.85 < during / before < 1.2


def test_rhythm_and_noise_that_grows_with_the_load(made: Shop) -> None:
    """Evenings are busy, nights quiet, Sundays busier than Tuesdays, and noise is not the same all day."""
    times, values = made.block.times, row(made.block, requests_series("eu"))
    hour = times % DAY_MS // HOUR_MS
    assert np.nanmean(values[hour == 19]) > 4 * np.nanmean(values[hour == 3])
    weekday = (times // DAY_MS + 3) % 7
    evening = (hour >= 17) & (hour < 22)
    assert np.nanmean(values[evening & (weekday == 6)]) > 1.1 * np.nanmean(values[evening & (weekday == 1)])
    orders = np.diff(row(made.block, orders_series("eu")))
    assert np.nanstd(orders[hour[1:] == 19]) > 1.3 * np.nanstd(orders[hour[1:] == 3])


def test_backup_runs_every_night_and_only_then(made: Shop) -> None:
    """The database is busy from 02:00 to 02:20 each night, and but for the overrun at no other time as busy."""
    job, overrun = made.jobs[0], incident(made, "overrun")
    times, cpu = made.block.times, row(made.block, DATABASE)
    minute = times % DAY_MS // MINUTE_MS
    busy = (minute >= job.from_minute) & (minute < job.to_minute)
    assert (overrun.start_ms % DAY_MS) // MINUTE_MS == job.to_minute
    busy |= (times >= overrun.start_ms) & (times < overrun.end_ms)
    assert job.series == DATABASE
    assert np.nanmin(cpu[busy]) > 0.55 > np.nanmax(cpu[~busy])


def test_deploys_are_short_or_small(made: Shop) -> None:
    """A deploy slows checkout for one sample only and moves the CPU by at most two percent points."""
    times, latency = made.block.times, row(made.block, latency_series("us"))
    assert sum(deploy.at_ms >= made.watch_from_ms for deploy in made.deploys) >= 2
    for deploy in made.deploys:
        sample = int(np.searchsorted(times, deploy.at_ms))
        around = np.median(np.concatenate([latency[sample - 6 : sample], latency[sample + 1 : sample + 7]]))
        assert latency[sample] > 1.25 * around
        assert latency[sample + 1] < 1.2 * around
        assert abs(deploy.cpu_step) <= 0.02
