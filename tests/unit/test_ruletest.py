"""Rule tests: reading the file, living through it, and what the user is told when it comes out otherwise."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from anomalyd.cli import main
from anomalyd.clock import HOUR_MS
from anomalyd.errors import ConfigError
from anomalyd.workbench.ruletest import run_test
from anomalyd.workbench.testfile import RuleTest, Window, read_tests, shown
from anomalyd.workbench.testseries import parse_series
from anomalyd.yamlfile import read_yaml

RULES = """\
groups:
  - name: g
    interval: 5m
    rules:
      - anomaly: Errors
        expr: errors
        detector: mad
        history: 1d
        direction: up
        for: 10m
        min_deviation: {absolute: 1}
        tiers: {warning: {budget: 2 per week}}
        suppress: 0
        receivers: [pager]
"""
HEAD = "rule_files: [r.yml]\ntests:\n"
SERIES = "    input_series: [{series: 'errors{a=\"1\"}', values: 5x1d 5x1h 50x30m 5x1h, noise: 0.3}]\n"
FOUND = "    expect: [{series: '{a=\"1\"}', opens: 1h10m, closes: 1h30m, tier: warning, close: recovered}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "r.yml").write_text(RULES)
    return tmp_path


def read(folder: Path, text: str) -> tuple[RuleTest, ...]:
    return read_tests(read_yaml(text, str(folder / "x.test.yml")))


def diff_of(folder: Path, body: str) -> tuple[str, ...]:
    """What a test with this body says when it has run."""
    return run_test(read(folder, HEAD + "  - name: t\n    rule: Errors\n" + body)[0]).diff


def test_an_incident_is_found_where_it_is_expected(folder: Path) -> None:
    """Episode, notifications in order, and nothing else."""
    first, last = "{at: 1h10m, reason: new, tier: warning, receiver: pager}", "{at: 1h30m, reason: resolved}"
    assert diff_of(folder, SERIES + FOUND + f"    notifications: [{first}, {last}]\n") == ()


@pytest.mark.parametrize(
    ("expect", "diff"),
    [
        ("[]", ['+ episode Errors{a="1"}, opened 1h10m, closed 1h30m (recovered), warning, peak ']),
        ("[{opens: 2h}]", ["- episode Errors{}, opens 2h", '+ episode Errors{a="1"}, opened 1h10m']),
        ("[{opens: 1h10m, tier: critical}]", ["- episode Errors{}, opens 1h10m, critical", "+ episode"]),
        ("[{opens: 1h..2h, closes: never}]", ["- episode Errors{}, opens 1h..2h, stays open", "+ episode"]),
        ("[{opens: 1h..2h, closes: 2h..3h}]", ["- episode Errors{}, opens 1h..2h, closes 2h..3h", "+ episode"]),
        ("[{opens: 1h10m, close: new_level}]", ["- episode Errors{}, opens 1h10m, new_level", "+ episode"]),
        ("[{opens: 1h10m, series: '{a=\"2\"}'}]", ['- episode Errors{a="2"}, opens 1h10m', "+ episode"]),
        ("[{opens: 1h10m}, {opens: 1h10m}]", ["- episode Errors{}, opens 1h10m"]),
    ],
)
def test_what_comes_out_otherwise_is_a_diff(folder: Path, expect: str, diff: list[str]) -> None:
    """Every condition can fail; an episode counts once."""
    lines = diff_of(folder, SERIES + f"    expect: {expect}\n")
    assert len(lines) == len(diff)
    assert all(line.startswith(start) for line, start in zip(lines, diff, strict=True))


@pytest.mark.parametrize(
    ("series", "expect", "said"),
    [
        ("5x1d 5x3h", "opens: 10m..50m", r"the highest score then was 0\.\d\d, at .* an episode begins above 1"),
        ("5x1d 5x1h 50x5m 5x1h", "opens: 1h..2h", r"at 1h: [45]\d.* was expected; above the cut, but not for long"),
        ("5x1d 5x1h 5.9x30m 5x1h", "opens: 1h..1h30m", r"above the cut, by less than min_deviation"),
        ("5x1d 5x1h _x2h 5x1h", "opens: 1h15m..2h", r"nothing was scored then \(missing\)"),
    ],
)
def test_what_did_not_come_says_how_near_it_was(folder: Path, series: str, expect: str, said: str) -> None:
    """Below the cut, too short, too little, or nothing to score: each is told with its figures."""
    body = f"    input_series: [{{series: '{{}}', values: {series}, noise: 0.1}}]\n    expect: [{{{expect}}}]\n"
    assert re.search(said, diff_of(folder, body)[0]), diff_of(folder, body)


def test_notifications_that_are_not_expected_fail(folder: Path) -> None:
    """An empty list promises silence."""
    lines = diff_of(folder, SERIES + FOUND + "    notifications: [{at: 1h10m, reason: worse}]\n")
    assert lines[0] == "- notification at 1h10m, worse"
    assert lines[1].startswith("+ notification at 1h10m, new, warning, pager: ")
    assert lines[2].startswith("+ notification at 1h30m, resolved, warning, pager: ")


def test_overlapping_windows_do_not_steal_each_others_episode(folder: Path) -> None:
    """A wide expectation gives way to a narrow one that has no other choice."""
    series = "    input_series: [{series: '{}', values: 5x1d 5x1h 50x30m 5x1h 60x30m 5x1h, noise: 0.3}]\n"
    assert diff_of(folder, series + "    expect: [{opens: 0..5h}, {opens: 1h10m}]\n") == ()


def test_gaps_are_not_anomalies(folder: Path) -> None:
    """`_` is what the expression does not return; it neither opens nor closes."""
    series = "    input_series: [{series: '{}', values: 5x1d 5x1h _x30m 5x30m stale 5x1h, noise: 0.3}]\n"
    assert diff_of(folder, series + "    expect: []\n    notifications: []\n") == ()


def test_the_same_test_gives_the_same_outcome(folder: Path) -> None:
    """Noise has a seed, the clock is virtual."""
    body = HEAD + "  - name: t\n    rule: g/Errors\n" + SERIES + "    expect: []\n"
    first, second = (run_test(read(folder, body)[0]) for _ in range(2))
    assert first.diff == second.diff
    assert first.outcomes.sent == second.outcomes.sent


def a_test(series: str = SERIES, expect: str = "[]", rule: str = "Errors", more: str = "") -> str:
    """A file with one test."""
    return f"{HEAD}  - name: t\n    rule: {rule}\n{more}{series}    expect: {expect}\n"


TWICE = "    input_series: [{series: '{}', values: 1x2d}, {series: '{}', values: 1x2d}]\n"
SHAPELESS = SERIES.replace("noise: 0.3", "seasons: [{period: 1d}]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule_files: [r.yml]\n", "x.test.yml:1:1: missing key 'tests'"),
        ("rule_files: [none.yml]\ntests: [{}]\n", "no file matches"),
        (HEAD + "  - {}\n", "missing key 'name'"),
        (a_test(rule="Error"), ":4:11: unknown rule 'Error' (did you mean 'Errors'?)"),
        (a_test("    input_series: []\n"), "at least 1 item"),
        (a_test(SERIES.replace("5x1h", "5y1h")), "values: '5y1h' is no item"),
        (a_test(SERIES.replace("errors{", "errors{{")), "is no series"),
        (a_test(SERIES.replace('a="1"', 'a=~"1"')), "a series has labels, not matchers"),
        (a_test(SERIES.replace("noise", "nois")), "(did you mean 'noise'?)"),
        (a_test(more="    history: 9d\n"), "the series end within the history of 9d"),
        (a_test(expect="[{opens: 2h..1h}]"), "the span ends before it begins"),
        (a_test(expect="[{opens: soon}]"), "'soon' is not a duration"),
        (a_test(more="    start: 2026-01-05\n"), "'2026-01-05' has no time zone"),
        (a_test() + a_test().removeprefix(HEAD), "duplicate test 't'"),
        (a_test(SHAPELESS), "needs either amplitude (and peak), or at, for and add"),
        (a_test(TWICE), "two series have the same labels"),
    ],
)
def test_what_is_wrong_with_a_test_file_is_said_with_its_place(folder: Path, text: str, message: str) -> None:
    """Test files are checked like rules."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert message in str(caught.value)


def test_series_as_text() -> None:
    """Labels are read and shown in PromQL's form."""
    assert parse_series('up{b="2",a="1"}') == (("__name__", "up"), ("a", "1"), ("b", "2"))
    assert shown(parse_series('up{b="2",a="1"}')) == 'up{a="1",b="2"}'
    assert parse_series("{}") == ()
    assert str(Window(0, HOUR_MS)) == "0s..1h"


def command(*args: str) -> int:
    """Run `anomalyd test` in this process."""
    argv = sys.argv
    sys.argv = ["anomalyd", "test", *args]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = argv
    return 0


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Passing, failing, chosen by name; text, JSON and JUnit; exit codes 0, 1 and 2."""
    good = "  - name: good\n    rule: Errors\n" + SERIES + FOUND
    bad = "  - name: bad & <wrong>\n    rule: Errors\n" + SERIES + "    expect: []\n"
    file = folder / "x.test.yml"
    file.write_text(HEAD + good + bad)
    assert command(str(file), "--junit", str(folder / "j.xml")) == 1
    out = capsys.readouterr().out
    assert "  ok      good" in out
    assert "  FAILED  bad & <wrong>" in out
    assert "          + episode Errors" in out
    assert "1 of 2 tests pass" in out
    suite = ET.parse(folder / "j.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite] == ["good", "bad & <wrong>"]
    assert (suite[1][0].text or "").startswith("+ episode Errors")
    assert command(str(file), "--run", "^good$", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"]
    assert [test["name"] for test in result["tests"]] == ["good"]
    assert command(str(file), "--run", "nothing") == 1
    assert command(str(file), "--run", "(") == 2
    assert command(str(folder / "r.yml")) == 2
    assert "this is no test file" in capsys.readouterr().err
    assert command(str(file), "--run", "good", "--junit", str(folder / "none" / "j.xml")) == 2


def test_check_takes_test_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are recognised by their keys."""
    file = folder / "x.test.yml"
    file.write_text(HEAD + "  - name: t\n    rule: Errors\n" + SERIES + "    expect: []\n")
    argv, sys.argv = sys.argv, ["anomalyd", "check", str(file)]
    try:
        main()
    except SystemExit as end:
        assert not end.code  # noqa: PT017 - the exit code is what is tested
    finally:
        sys.argv = argv
    assert "SUCCESS: 1 test found" in capsys.readouterr().out


SETTINGS = """\
sources: {default: {url: 'http://127.0.0.1:9'}}
receivers:
  pager: {type: webhook, url: 'http://127.0.0.1:9/', repeat_interval: 15m, send_resolved: false}
  chief: {type: webhook, url: 'http://127.0.0.1:9/'}
escalation: [{after: 10m, receivers: [chief], from_tier: warning}]
"""


def with_settings(folder: Path, notifications: str, more: str = "") -> tuple[str, ...]:
    """The diff of a test whose settings remind after 15 minutes and escalate after ten."""
    (folder / "anomalyd.yml").write_text(SETTINGS)
    body = f"  - name: t\n    rule: Errors\n{SERIES}{FOUND}    notifications: [{notifications}]\n{more}"
    return run_test(read(folder, "settings: anomalyd.yml\n" + HEAD + body)[0]).diff


def test_settings_say_who_is_reminded_and_who_hears_of_it_last(folder: Path) -> None:
    """A reminder and an escalation at their times; each of them that is left out, or comes otherwise, is a diff."""
    new, last = "{at: 1h10m, reason: new, receiver: pager}", "{at: 1h20m, reason: escalated, receiver: chief}"
    again, over = "{at: 1h25m, reason: repeat, receiver: pager}", "{at: 1h30m, reason: resolved, receiver: chief}"
    assert with_settings(folder, f"{new}, {last}, {again}, {over}") == ()
    (line,) = with_settings(folder, f"{new}, {last}, {over}")
    assert line.startswith("+ notification at 1h25m, repeat, warning, pager: ")
    late = again.replace("1h25m", "1h40m")
    assert with_settings(folder, f"{new}, {last}, {late}, {over}")[0] == "- notification at 1h40m, repeat, pager"


def test_a_rule_beside_the_tested_one_tells_too(folder: Path) -> None:
    """Its notifications are expected by its name, and are shown with it; its episodes are its own business."""
    (folder / "r.yml").write_text(RULES + RULES.partition("rules:\n")[2].replace("Errors", "Late"))
    series = "{series: '{a=\"1\"}', values: 5x1d 5x30m 50x20m 5x2h, noise: 0.3}"
    beside = f"    beside: [{{rule: Late, input_series: [{series}]}}]\n"
    late = "{at: 40m, reason: new, rule: g/Late}, {at: 50m..1h, reason: resolved, rule: Late}"
    expected = f"{late}, {{at: 1h10m, reason: new}}"
    body = f"  - name: t\n    rule: Errors\n{SERIES}{FOUND}{beside}"
    (line,) = run_test(read(folder, HEAD + body + f"    notifications: [{expected}]\n")[0]).diff
    assert line.startswith("+ notification at 1h30m, resolved, warning, pager, g/Errors: ")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("beside: [{rule: Nobody, input_series: [{series: '{}', values: 1x1d}]}]", "unknown rule 'Nobody'"),
        ("beside: [{rule: Errors, input_series: [{series: '{}', values: 1x1d}]}]", "a rule lives once in a test"),
        ("beside: [{rule: Errors}]", "missing key 'input_series'"),
    ],
)
def test_a_rule_beside_that_cannot_live_is_told(folder: Path, more: str, told: str) -> None:
    """With its place; nothing has run."""
    with pytest.raises(ConfigError, match=told):
        read(folder, f"{HEAD}  - name: t\n    rule: Errors\n{SERIES}{FOUND}    {more}\n")


def test_settings_that_are_wrong_are_told_with_their_place(folder: Path) -> None:
    """As they would be by check."""
    (folder / "anomalyd.yml").write_text(SETTINGS + "lgo: {}\n")
    with pytest.raises(ConfigError, match=r"anomalyd.yml:6:1: unknown key 'lgo'"):
        read(folder, "settings: anomalyd.yml\n" + HEAD + "  - name: t\n    rule: Errors\n" + SERIES + FOUND)
