"""Holidays: which days a calendar means, where in the week they are moved, and what a wrong calendar is told."""

from __future__ import annotations

import pickle
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.app import digest_of
from anomalyd.arrangement import Arrangement, deliverer_of
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS, VirtualClock
from anomalyd.detectors.base import Grid
from anomalyd.detectors.common import civil_times, days_back
from anomalyd.detectors.model import model_of
from anomalyd.errors import ConfigError
from anomalyd.holiday import Day, Holidays, make_holidays
from anomalyd.incident import Reason
from anomalyd.rulefiles.calendars import FIRST_YEAR, LAST_YEAR
from anomalyd.rulefiles.read import RuleSet, diff, load_rules, read_rules
from anomalyd.rulefiles.write import write_rules
from anomalyd.settings import Settings, load_settings, read_settings
from anomalyd.store import open_store
from anomalyd.yamlfile import read_yaml
from fakes.receiver import FakeReceiver
from fakes.statements import a_statement, an_alert

BERLIN = ZoneInfo("Europe/Berlin")
CHRISTMAS = date(2024, 12, 25)  # a Wednesday
RULE = "groups:\n  - name: g\n    rules:\n      - anomaly: A\n        expr: up\n        timezone: Europe/Berlin\n"
SOURCES = "sources: {default: {url: 'http://localhost:9090'}}\n"


def ms(*when: int, zone: ZoneInfo = BERLIN) -> int:
    """A wall-clock time in milliseconds."""
    return int(datetime(*when, tzinfo=zone).timestamp() * 1000)  # type: ignore[arg-type,misc]


def one(day: date, **rest: object) -> Holidays:
    """A calendar of one day."""
    return make_holidays('"x"', [Day(day.toordinal(), **rest)])  # type: ignore[arg-type]


def rules_of(value: str, settings: Settings | None = None) -> RuleSet:
    """A rule with these holidays."""
    return read_rules([read_yaml(f"{RULE}        holidays: {value}\n", "r.yml")], settings)


def days_of(value: str, year: int, settings: Settings | None = None) -> dict[date, Day]:
    """The days of a year that a rule's holidays mean."""
    holidays = rules_of(value, settings).rules[0].holidays
    assert holidays is not None
    return {day.date: day for day in holidays.days if day.date.year == year}


def settings_of(calendars: str) -> Settings:
    """Settings with calendars."""
    return read_settings(read_yaml(SOURCES + "calendars:\n" + calendars, "anomalyd.yml"), Path())


def refused(value: str, settings: Settings | None = None) -> str:
    """What a rule with wrong holidays is told."""
    with pytest.raises(ConfigError) as caught:
        rules_of(value, settings)
    return str(caught.value)


def test_a_holiday_is_moved_to_the_sunday_of_its_week_and_keeps_the_time_of_day() -> None:
    """Wednesday noon becomes Sunday noon of the same week; the minutes around midnight stay what they are."""
    times = np.array([ms(2024, 12, 24, 23, 59), ms(2024, 12, 25, 0, 0), ms(2024, 12, 25, 12), ms(2024, 12, 26)])
    plain, moved = (civil_times(times, "Europe/Berlin", h) for h in (None, one(CHRISTMAS)))
    assert ((moved - plain) // DAY_MS).tolist() == [0, 4, 4, 0]
    assert (moved[2] % WEEK_MS) == 6 * DAY_MS + 12 * HOUR_MS


def test_without_holidays_in_sight_civil_times_are_the_same_array_of_numbers() -> None:
    """A calendar that has no day there changes nothing, bit for bit."""
    times = np.arange(ms(2025, 3, 1), ms(2025, 4, 5), 5 * MINUTE_MS)
    assert np.array_equal(civil_times(times, "Europe/Berlin"), civil_times(times, "Europe/Berlin", one(CHRISTMAS)))


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2025, 3, 30), 23), (date(2025, 10, 26), 25), (date(2025, 6, 19), 24)]
)
def test_a_day_of_the_zone_has_as_many_hours_as_its_clocks_show(day: date, hours: int) -> None:
    """A holiday on the day the clocks change is 23 or 25 hours long, from midnight to midnight there."""
    start = ms(day.year, day.month, day.day)
    times = np.arange(start - 2 * HOUR_MS, start + 27 * HOUR_MS, 15 * MINUTE_MS)
    holidays = one(day, like=0)
    moved = civil_times(times, "Europe/Berlin", holidays) != civil_times(times, "Europe/Berlin")
    assert moved.sum() == 4 * hours
    assert [holidays.at(int(at), "Europe/Berlin") is not None for at in times] == moved.tolist()
    ((first, last, _),) = holidays.between(start, start, "Europe/Berlin")
    assert (times[moved][0], last + 1 - first) == (first, hours * HOUR_MS)


def test_zones_in_one_process_do_not_disturb_each_other() -> None:
    """The same day begins at other moments in other zones."""
    holidays, at = one(CHRISTMAS), np.array([int(datetime(2024, 12, 25, 3, tzinfo=UTC).timestamp() * 1000)])
    zones = ("Asia/Tokyo", "UTC", "America/New_York", "Asia/Tokyo")
    moved = [int(civil_times(at, zone, holidays)[0] - civil_times(at, zone)[0]) // DAY_MS for zone in zones]
    assert moved == [4, 4, 0, 4]


@given(st.integers(0, 3000), st.integers(0, 6))
def test_the_day_to_compare_with_is_the_last_one_of_that_kind(after: int, like: int) -> None:
    """So many days back is a day of the week that the day counts as, at most a week ago."""
    day = date(2020, 1, 1) + timedelta(after)
    grid = Grid(MINUTE_MS, "UTC", holidays=one(day, like=like))
    at = np.array([ms(day.year, day.month, day.day, 12, zone=ZoneInfo("UTC"))])
    back = int(days_back(at, grid)[0])
    assert 1 <= back <= 7
    assert (day - timedelta(back)).weekday() == like
    assert days_back(at + DAY_MS, grid).tolist() == [7]


def test_half_a_day_is_moved_in_its_hours_only_and_the_later_entry_holds() -> None:
    """A whole day is given way where a later entry says otherwise of a part of it."""
    whole, eve = Day(CHRISTMAS.toordinal(), name="all"), Day(CHRISTMAS.toordinal(), 14 * 60, 18 * 60, 5, "part")
    holidays = make_holidays('"x"', [whole, eve])
    found = [holidays.at(ms(2024, 12, 25, hour), "Europe/Berlin") for hour in (0, 13, 14, 17, 18, 23)]
    assert [day.name for day in found if day] == ["all", "all", "part", "part", "all", "all"]
    assert str(found[2]) == "Wed 25 Dec, 14:00 to 18:00, counts as a Saturday: part"
    times = np.array([ms(2024, 12, 25, hour) for hour in (13, 14, 18)])
    moved = civil_times(times, "Europe/Berlin", holidays) - civil_times(times, "Europe/Berlin")
    assert (moved // DAY_MS).tolist() == [4, 3, 4]


def test_a_day_that_counts_as_what_it_is_anyway_is_no_special_day() -> None:
    """A holiday on a Sunday is neither moved nor told of."""
    holidays = one(date(2024, 12, 22), name="Fourth of Advent")
    assert holidays.at(ms(2024, 12, 22, 12), "Europe/Berlin") is None
    assert not holidays.between(ms(2024, 12, 20), ms(2024, 12, 24), "Europe/Berlin")


def test_a_country_has_its_own_days_and_its_part_more_of_them() -> None:
    """Bavaria keeps Corpus Christi, Germany as a whole does not; names are English where the package knows them."""
    assert days_of("DE", 2026)[date(2026, 12, 25)].name == "Christmas Day"
    assert date(2026, 6, 4) not in days_of("DE", 2026)
    for value in ("DE-BY", "{country: DE, subdivision: BY}", "{country: de-by}"):
        assert days_of(value, 2026)[date(2026, 6, 4)].name == "Corpus Christi"


def test_holidays_count_as_the_last_day_of_the_countrys_weekend() -> None:
    """Sunday in Germany, Saturday in Israel, and whatever the calendar says."""
    likes = {value: {day.like for day in days_of(value, 2026).values()}
             for value in ("DE", "IL", "{country: DE, like: saturday}")}  # fmt: skip
    assert likes == {"DE": {6}, "IL": {5}, "{country: DE, like: saturday}": {5}}


def test_days_of_ones_own_are_added_and_days_of_the_country_left_out() -> None:
    """Recurring and single days, half days, working days in place of days off; by name or by date none."""
    found = days_of(
        '{country: DE, without: ["labor day", "10-03"], days: ["12-24 14:00-24:00 Christmas Eve", "2026-11-27",'
        ' {date: "2026-11-28", like: friday, name: made up for}]}', 2026,
    )  # fmt: skip
    assert not {date(2026, 5, 1), date(2026, 10, 3)} & set(found)
    assert date(2026, 4, 3) in found
    eve = found[date(2026, 12, 24)]
    assert (eve.first, eve.last, eve.name, eve.like) == (14 * 60, 24 * 60, "Christmas Eve", 6)
    assert found[date(2026, 11, 28)].like == 4


def test_a_file_of_days_is_read_and_its_change_is_a_change_of_the_settings(tmp_path: Path) -> None:
    """One day a line, comments apart; the daemon's poll of its files sees it."""
    file, settings = tmp_path / "days.txt", tmp_path / "anomalyd.yml"
    file.write_text("# works council\n2026-11-27  Summer party, late\n\n12-31 12:00-24:00  # half\n")
    settings.write_text(SOURCES + "calendars: {ours: {days_file: days.txt}}\n")
    loaded = load_settings(settings)
    days = {day.date: day for day in loaded.calendars["ours"].days}
    assert days[date(2026, 11, 27)].name == "Summer party, late"
    assert (days[date(2030, 12, 31)].first, len(days)) == (720, LAST_YEAR - FIRST_YEAR + 2)
    before = digest_of(loaded, RuleSet(()))
    file.write_text("2026-11-27\n")
    assert digest_of(loaded, RuleSet(())) != before
    file.write_text("2026-11-27\n27.11.2026\n")
    with pytest.raises(ConfigError, match=r"anomalyd\.yml:2:.*days\.txt:2: '27\.11\.2026' is no day; write for"):
        load_settings(settings)


def test_a_rules_own_file_of_days_is_watched_too(tmp_path: Path) -> None:
    """Its path is relative to the rules file; a file that changes or goes is a change."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "anomalyd.yml").write_text(SOURCES + "rule_files: [rules/*.yml]\n")
    file = tmp_path / "rules" / "days.txt"
    file.write_text("2026-11-27\n")
    (tmp_path / "rules" / "r.yml").write_text(f"{RULE}        holidays: {{days_file: days.txt}}\n")
    settings = load_settings(tmp_path / "anomalyd.yml")
    rules = load_rules(settings.rule_files, settings)
    before = digest_of(settings, rules)
    assert digest_of(settings, rules) == before
    file.write_text("2026-11-28\n")
    changed = digest_of(settings, rules)
    file.unlink()
    assert len({before, changed, digest_of(settings, rules)}) == 3


def test_a_message_says_on_which_holiday_its_incident_began() -> None:
    """By the rule's clocks, as fact and in plain text; not on the day after, at the end, or of a rule that is gone."""
    rule = rules_of("DE-BY").rules[0]
    store = open_store("sqlite://")
    deliverer = deliverer_of(Arrangement, store, {}, {rule.id: rule}.get, VirtualClock(0))

    def said(at: int, reason: Reason = Reason.NEW, of: str = rule.id) -> tuple[str | None, str]:
        alert = an_alert(started_at=at, status="resolved" if reason == Reason.RESOLVED else "firing")
        s = a_statement(reason, rule=of, at=at + HOUR_MS, opened_at=at, alerts=(alert,))
        rendered = deliverer.words.of(s, at + HOUR_MS, FakeReceiver())
        return dict(rendered.fields).get("Day"), rendered.text

    words = "Thu 4 Jun counts as a Sunday: Corpus Christi"
    corpus_christi = ms(2026, 6, 4, 0, 30)
    field, text = said(corpus_christi)
    assert field == words
    assert f"\n{words}.\n" in text
    for other in (said(ms(2026, 6, 5)), said(corpus_christi, Reason.RESOLVED), said(corpus_christi, of="g/Gone")):
        assert other[0] is None
        assert "counts as" not in other[1]
    store.close()


def test_a_rule_names_a_calendar_of_the_settings() -> None:
    """The name in the rule, the days in the settings; without settings the name is believed and noted."""
    settings = settings_of('  germany: {country: DE, days: ["2026-11-27"]}\n')
    assert date(2026, 11, 27) in days_of("germany", 2026, settings)
    alone = rules_of("germany")
    assert alone.rules[0].holidays is not None
    assert not alone.rules[0].holidays.known
    assert "r.yml:7:19: holidays: whether there is a calendar 'germany' only the settings know" in str(alone.notices[0])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("germny", "r.yml:7:19: holidays: unknown calendar 'germny' (did you mean 'germany'?)"),
        ("norway", "r.yml:7:19: holidays: unknown calendar 'norway' (did you mean 'NO' (Norway)?)"),
        ("QQ", "unknown country 'QQ'"),
        ("DE-XX", "DE has no part 'XX' (its parts are BB, BE"),
        ("{country: Germany}", "unknown country 'Germany' (did you mean 'DE' (Germany)?)"),
        ("{market: XNYX}", "r.yml:7:28: holidays: unknown market 'XNYX' (did you mean"),
        ("{country: US, categories: [bnk]}", "US has no days of the kind 'bnk' (known: government"),
        ("{country: DE, without: [Xmas Day]}", "r.yml:7:43: holidays: 'Xmas Day' is none of its days (did you mean"),
        ('{country: DE, without: ["13-01"]}', "'13-01' is no date"),
        ('{days: ["2026-02-30"]}', "'2026-02-30' is no date; write"),
        ('{days: ["12-24 22:00-06:00"]}', "goes past midnight"),
        ('{days: [{date: "12-24", like: noday}]}', "'noday' is not one of monday"),
        ("{country: DE, market: XNYS}", "country and market exclude each other"),
        ("{subdivision: BY, days: ['12-24']}", "subdivision needs a country"),
        ("{}", "needs at least one of country, market, days and days_file"),
        ("[DE]", "must be the name of a calendar"),
        ("{contry: DE}", "did you mean 'country'?"),
        ("{days_file: no.txt}", "no.txt: No such file or directory"),
    ],
)
def test_a_wrong_calendar_is_told_with_its_place_and_remedy(value: str, said: str) -> None:
    """Each mistake names file, line and column, and what to write instead."""
    assert said in refused(value, settings_of("  germany: {country: DE}\n"))


def test_a_wrong_calendar_of_the_settings_is_told_there() -> None:
    """Its own file and line, whether a rule uses it or not."""
    with pytest.raises(ConfigError, match=r"anomalyd\.yml:3:\d+: germany: unknown country 'DX'"):
        settings_of("  germany: {country: DX}\n")


@pytest.mark.parametrize("value", ["DE-BY", "germany", '{days: ["12-24 14:00-24:00 Eve"], like: saturday}', "XX-Y"])
def test_holidays_survive_being_written_and_sent(value: str) -> None:
    """Written as YAML and read again, and pickled for another process, they are the same days."""
    settings = settings_of("  germany: {country: DE}\n  XX-Y: {days: ['2026-11-27']}\n")
    rules = rules_of(value, settings)
    again = read_rules([read_yaml(write_rules(rules), "r.yml")], settings)
    holidays, copy = rules.rules[0].holidays, again.rules[0].holidays
    assert holidays is not None
    assert copy is not None
    sent = pickle.loads(pickle.dumps(holidays))
    assert holidays == copy == sent
    assert holidays.days == copy.days == sent.days


def test_a_calendar_that_changes_has_the_rule_learned_anew_and_other_words_do_not() -> None:
    """Models know days by where they are moved: a day more is another model, a day's name or the calendar's is not."""
    texts = {"one": "", "named": " Party", "two": '", "12-24', "sunday": '", "2026-11-29'}
    days = {name: rules_of(f'{{days: ["2026-11-27{text}"]}}') for name, text in texts.items()}
    assert diff(days["one"], days["named"]).kept == ("g/A",)
    assert diff(days["one"], days["sunday"]).rebuilt == ()
    assert diff(days["one"], days["two"]).rebuilt == ("g/A",)
    versions = {name: model_of(rules.rules[0]).version for name, rules in days.items()}
    assert versions["one"] == versions["named"] == versions["sunday"] != versions["two"]
