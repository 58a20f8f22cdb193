"""What holidays do to scores: the day is held against the day it is like, and no other day learns from it."""

from __future__ import annotations

import pickle
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from anomalyd.block import F64, Block
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.detectors.base import Grid, state_from_bytes
from anomalyd.detectors.model import Model
from anomalyd.errors import ConfigError
from anomalyd.holiday import Day, Holidays, make_holidays
from anomalyd.rule import DetectorSpec, Rule
from anomalyd.score import Scores
from anomalyd.shard import FitTask, fit_shard
from anomalyd.workbench.htmlreport import day_marks
from anomalyd.workbench.report.svg import Mark, Strip, draw
from anomalyd.workbench.testfile import RuleTest, read_tests
from anomalyd.yamlfile import read_yaml

BERLIN = ZoneInfo("Europe/Berlin")
STEP = 10 * MINUTE_MS
HOLIDAY = date(2025, 12, 17)  # a Wednesday
BEGINS = int(datetime(2025, 11, 10, tzinfo=BERLIN).timestamp() * 1000)
SERIES = 4
CUT = 3.3
WEEKLY = {
    "auto": {}, "rls": {}, "seasonal": {}, "ewma": {}, "half_space_trees": {}, "stl": {"period": ["1d", "1w"]},
}  # fmt: skip


def calendar(*days: date) -> Holidays:
    """These days count as Sundays."""
    return make_holidays('"x"', [Day(day.toordinal(), name="Day of rest") for day in days])


def traffic(days: int, rest: date | None = HOLIDAY) -> Block:
    """Series with the rhythm of a week, less on Sundays and on a day of rest; each day blends into the next."""
    times = np.arange(BEGINS, BEGINS + days * DAY_MS, STEP)
    local = [datetime.fromtimestamp(at / 1000, BERLIN) for at in times.tolist()]
    levels = {day: 0.35 if day.weekday() == 6 or day == rest else 1.0 for day in _days(local)}
    hours = np.array([at.hour + at.minute / 60 for at in local])
    now = np.array([levels[at.date()] for at in local])
    before = np.array([levels[at.date() - timedelta(1)] for at in local])
    blend = np.clip(hours / 6, 0, 1)
    shape = 0.3 + 0.7 * np.clip(np.sin((hours - 6) / 24 * 2 * np.pi), 0, None)
    noise = np.random.default_rng(5).normal(0, 2, (SERIES, len(times)))
    values = 100 * (before * (1 - blend) + now * blend) * shape + noise
    return Block(tuple((("i", str(i)),) for i in range(SERIES)), times, values)


def _days(local: list[datetime]) -> set[date]:
    first, last = local[0].date() - timedelta(1), local[-1].date()
    return {first + timedelta(i) for i in range((last - first).days + 1)}


def model_of(name: str, holidays: Holidays | None) -> Model:
    """A detector for Berlin."""
    return Model(DetectorSpec(name, WEEKLY.get(name, {})), Grid(STEP, "Europe/Berlin", holidays=holidays), 1)


def column(block: Block, day: date, hour: int = 0) -> int:
    """Where an hour of a day is in a block."""
    at = datetime(day.year, day.month, day.day, hour, tzinfo=BERLIN).timestamp() * 1000
    return int(np.searchsorted(block.times, at))


def scored(name: str, holidays: Holidays | None, block: Block) -> Scores:
    """The scores of the holiday and the eight days from it on, by what the days before it taught."""
    model, first = model_of(name, holidays), column(block, HOLIDAY)
    state = model.fit(block.window(0, first))
    return model.score(state, block.window(first), CUT)[0]


def missed(scores: Scores, block: Block, day: date) -> float:
    """How far what was expected at daytime of a day is from what came, on average."""
    shift = column(block, HOLIDAY)
    there = slice(column(block, day, 9) - shift, column(block, day, 18) - shift)
    values = block.values[:, column(block, day, 9) : column(block, day, 18)]
    return float(np.nanmean(np.abs(scores.expected[:, there] - values)))


@pytest.mark.parametrize("name", WEEKLY)
def test_a_holiday_is_expected_to_be_like_a_sunday_and_teaches_no_wednesday(name: str) -> None:
    """With the calendar what is expected on the day is nearer, and a week later as near as after an ordinary week."""
    block, after = traffic(46), HOLIDAY + timedelta(7)
    with_it, without = (scored(name, h, block) for h in (calendar(HOLIDAY), None))
    never = scored(name, None, traffic(46, rest=None))
    assert missed(with_it, block, HOLIDAY) < 0.85 * missed(without, block, HOLIDAY)
    assert missed(with_it, block, after) < missed(never, block, after) + 1.5
    assert missed(with_it, block, after) <= missed(without, block, after) + 0.5


@pytest.mark.parametrize("name", ["auto", "seasonal", "rls"])
def test_an_outage_on_a_holiday_is_surprising_and_the_day_is_not(name: str) -> None:
    """An hour with a tenth of a Sunday's traffic on a day that counts as one."""
    block = traffic(39)
    broken = Block(block.labels, block.times, block.values.copy())
    there = slice(column(block, HOLIDAY, 13), column(block, HOLIDAY, 14))
    broken.values[:, there] *= 0.1
    first = column(block, HOLIDAY)
    quiet, found = (scored(name, calendar(HOLIDAY), one).surprise for one in (block, broken))
    at = slice(there.start - first, there.stop - first)
    assert np.nanmedian(np.nanmax(quiet[:, : DAY_MS // STEP], axis=1)) < CUT
    assert (np.nanmax(found[:, at], axis=1) > CUT).all()


@pytest.mark.parametrize("name", WEEKLY)
def test_scores_are_the_same_however_the_holiday_is_cut(name: str) -> None:
    """In one block, sample by sample, and from a state that was stored in the middle of the day."""
    block, holidays = traffic(38), calendar(HOLIDAY)
    first, stop = column(block, HOLIDAY, 0) - 3, column(block, HOLIDAY, 23) + 12
    model = model_of(name, holidays)
    learned = model.fit(block.window(0, first))
    whole = model.score(learned, block.window(first, stop), CUT)[0]
    state, parts = learned, []
    for at in range(first, stop):
        scores, state = model.score(state, block.window(at, at + 1), CUT)
        parts.append(scores.surprise)
        if at == first + 60:
            state, model = state_from_bytes(state.to_bytes()), model_of(name, pickle.loads(pickle.dumps(holidays)))
    assert np.array_equal(whole.surprise, np.concatenate(parts, axis=1), equal_nan=True)


def test_a_fit_on_another_machine_knows_the_same_holidays() -> None:
    """A task that was pickled, as it is for processes and Dask, learns the same."""
    task = FitTask(DetectorSpec("seasonal"), Grid(STEP, "Europe/Berlin", holidays=calendar(HOLIDAY)), 1, traffic(39))
    here, there = fit_shard(task).state, fit_shard(pickle.loads(pickle.dumps(task))).state
    assert all(np.array_equal(array, there.arrays[name], equal_nan=True) for name, array in here.arrays.items())


@pytest.mark.parametrize("name", ["mad", "knn", "isolation_forest"])
def test_detectors_that_know_no_week_score_as_without(name: str) -> None:
    """A calendar changes nothing where no day of the week is known."""
    block = traffic(16, rest=None)
    first, holidays = len(block.times) - 200, calendar(date(2025, 11, 25))
    found: list[F64] = []
    for one in (holidays, None):
        model = model_of(name, one)
        found.append(model.score(model.fit(block.window(0, first)), block.window(first), CUT)[0].surprise)
    assert np.array_equal(found[0], found[1], equal_nan=True)


def test_stl_keeps_a_rhythm_that_no_whole_days_fit_in_step() -> None:
    """A job every seven hours goes on through a holiday; only the rhythm of a week is moved."""
    times = np.arange(BEGINS, BEGINS + 39 * DAY_MS, HOUR_MS)
    values = np.tile(10 + 5.0 * (np.arange(len(times)) % 7 == 0), (2, 1))
    block = Block(((("i", "0"),), (("i", "1"),)), times, values)
    first = int(np.searchsorted(times, datetime(2025, 12, 17, tzinfo=BERLIN).timestamp() * 1000))
    spec, found = DetectorSpec("stl", {"period": "7h"}), []
    for holidays in (calendar(HOLIDAY), None):
        model = Model(spec, Grid(HOUR_MS, "Europe/Berlin", holidays=holidays), 1)
        found.append(model.score(model.fit(block.window(0, first)), block.window(first), CUT)[0].expected)
    assert np.array_equal(found[0], found[1], equal_nan=True)


RULES = """\
groups:
  - name: g
    interval: 10m
    rules:
      - {anomaly: A, expr: up, history: 7d, timezone: Europe/Berlin, holidays: %s}
"""
TESTS = """\
rule_files: [r.yml]
tests:
  - name: t
    rule: A
    start: 2025-12-23T23:00:00Z
    traps: [holiday]
    input_series:
      - series: '{i="0"}'
        values: 10x12d
        seasons: [{period: 1w, at: 6d, for: 1d, add: -5, timezone: Europe/Berlin}]
        holidays: %s
    expect: []
"""


def made(folder: Path, holidays: str, kept: str) -> tuple[RuleTest, ...]:
    """A file of tests of a rule with holidays."""
    (folder / "r.yml").write_text(RULES % holidays)
    return read_tests(read_yaml(TESTS % kept, str(folder / "r.test.yml")))


def test_the_series_of_a_test_keep_the_rules_holidays(tmp_path: Path) -> None:
    """Christmas has the season of a Sunday where the series says so, and its own where it does not."""
    for kept, expected in (("true", [10, 5, 5, 10, 5]), ("false", [10, 10, 10, 10, 5])):
        (test,) = made(tmp_path, "DE", kept)
        noons = [test.start + day * DAY_MS + 12 * HOUR_MS for day in range(5)]  # from Christmas Eve to Sunday
        columns = np.searchsorted(test.block.times, noons)
        assert test.block.values[0, columns].tolist() == expected


def test_a_test_of_a_rule_whose_calendar_is_unknown_says_which_file_knows_it(tmp_path: Path) -> None:
    """Without the settings a test would pass or fail for the wrong reason."""
    with pytest.raises(ConfigError, match=r"r\.test\.yml:4:.*calendar of the settings.*settings: anomalyd\.yml"):
        made(tmp_path, "germany", "true")


def test_the_day_is_told_and_shaded() -> None:
    """In words for explanations, and as a span with its words in reports."""
    rule = Rule("A", "g", "up", timezone="Europe/Berlin", holidays=calendar(HOLIDAY))
    noon = int(datetime(2025, 12, 17, 12, tzinfo=BERLIN).timestamp() * 1000)
    words = "Wed 17 Dec counts as a Sunday: Day of rest"
    assert rule.day_at(noon) == words
    assert rule.day_at(noon + DAY_MS) == ""
    (mark,) = day_marks(rule, noon - 5 * DAY_MS, noon + 5 * DAY_MS)
    assert (mark.start, mark.end, mark.title) == (noon - 12 * HOUR_MS, noon + 12 * HOUR_MS - 1, words)
    assert day_marks(Rule("A", "g", "up"), noon - 5 * DAY_MS, noon) == []
    times = np.arange(noon, noon + 4 * HOUR_MS, HOUR_MS)
    flat = np.ones(len(times), np.float32)
    chart = draw(Strip(times, flat, flat, flat, flat, flat, flat, 1.0), [Mark(mark.start, mark.end, "day", "<&>")])
    assert '<rect class="mark day"' in chart.body
    assert "<title>&lt;&amp;&gt;</title></rect>" in chart.body
