"""Rule tests whose series come from a CSV file, labelled or not, and what is said when that cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from anomalyd.cli import main
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.errors import ConfigError
from anomalyd.workbench.ruletest import Verdict, run_test
from anomalyd.workbench.testfile import RuleTest, Window, read_tests
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
"""
FIRST = 1_767_571_200_000
HEAD = "rule_files: [r.yml]\ntests:\n  - name: t\n    rule: Errors\n"
CSV = "    input_series: [{series: 'errors{a=\"1\"}', csv: errors.csv}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "r.yml").write_text(RULES)
    return tmp_path


def write(folder: Path, bad: tuple[int, int] = (0, 0), labelled: tuple[int, int] = (0, 0), offset: int = 0) -> None:
    """Two days around five, every five minutes; 50 in the minutes ``bad``, label 1 in the minutes ``labelled``."""
    rng = np.random.default_rng(1)
    lines = ["timestamp,value,label"]
    for minute in range(0, 2880, 5):
        value = 50.0 if bad[0] <= minute < bad[1] else 5 + rng.normal(0, 0.3)
        label = int(labelled[0] <= minute < labelled[1])
        lines.append(f"{(FIRST + minute * MINUTE_MS + offset) // 1000},{value:.3f},{label}")
    (folder / "errors.csv").write_text("\n".join(lines) + "\n")


def read(folder: Path, body: str) -> RuleTest:
    return read_tests(read_yaml(HEAD + body, str(folder / "x.test.yml")))[0]


def verdict(folder: Path, body: str) -> Verdict:
    return run_test(read(folder, body))


def test_samples_of_a_file_stand_for_what_the_expression_returns(folder: Path) -> None:
    """The rule goes live its history after the first sample; times in the test count from there."""
    write(folder, bad=(1500, 1530))
    test = read(folder, CSV + "    expect: [{opens: 1h10m, closes: 1h30m}]\n")
    assert test.start == FIRST + DAY_MS
    assert run_test(test).diff == ()


def test_a_sample_belongs_to_the_slot_that_sees_it_first(folder: Path) -> None:
    """Samples ten seconds after the slots are seen five minutes later, as a query would."""
    write(folder, bad=(1500, 1530), offset=10_000)
    test = read(folder, CSV + "    expect: []\n")
    assert int(test.block.times[0]) == FIRST + 5 * MINUTE_MS
    assert np.isfinite(test.block.values).all()
    assert test.start == FIRST + DAY_MS + 5 * MINUTE_MS


def test_labelled_spans_are_the_expected_episodes(folder: Path) -> None:
    """What the file labels must be found, and nothing else."""
    write(folder, bad=(1500, 1530), labelled=(1500, 1530))
    test = read(folder, CSV + "    expect: labels\n")
    assert [e.opens for e in test.episodes] == [Window(HOUR_MS, HOUR_MS + 40 * MINUTE_MS)]
    assert dict(test.episodes[0].series) == {"a": "1"}
    assert run_test(test).diff == ()


def test_a_labelled_span_that_is_not_found_fails(folder: Path) -> None:
    """And what is found elsewhere is told beside it."""
    write(folder, bad=(1500, 1530), labelled=(2000, 2030))
    lines = verdict(folder, CSV + "    expect: labels\n").diff
    assert lines[0].startswith('- episode Errors{a="1"}, opens 9h20m..10h')
    assert lines[1].startswith('+ episode Errors{a="1"}, opened 1h10m')


def test_several_episodes_in_one_labelled_span_are_right(folder: Path) -> None:
    """Labels of real data cover more than the worst of it."""
    write(folder, bad=(1500, 1530), labelled=(1500, 1700))
    text = (folder / "errors.csv").read_text().splitlines()
    for i in range(len(text)):
        if text[i].startswith(tuple(str((FIRST // 1000) + 60 * m) for m in range(1600, 1630, 5))):
            text[i] = f"{text[i].partition(',')[0]},60,1"
    (folder / "errors.csv").write_text("\n".join(text))
    found = verdict(folder, CSV + "    expect: labels\n")
    assert len(found.outcomes.episodes) == 2
    assert found.diff == ()


def command(*args: str) -> int:
    """Run `anomalyd test` in this process; its exit code."""
    argv, sys.argv = sys.argv, ["anomalyd", "test", *args]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = argv
    return 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (CSV.replace("errors.csv", "none.csv") + "    expect: []\n", "none.csv: cannot be read"),
        ("    interval: 1m\n" + CSV + "    expect: []\n", "are 5m apart, and 1m is asked for (add interval: 5m)"),
        (CSV.replace("csv:", "noise: 1, csv:") + "    expect: []\n", "seasons and noise belong to values"),
        (CSV.replace("csv:", "values: 1x2d, csv:") + "    expect: []\n", "needs either values or csv"),
        (CSV + "    expect: labels\n", "labels: no file labels a sample after the history"),
        ("    history: 3d\n" + CSV + "    expect: []\n", "the series end within the history of 3d"),
        ("    expect: []\n", "needs either input_series (what expr returns) or raw_series"),
        ("    raw_series: [{series: '{a=\"1\"}', values: 1x2d}]\n    expect: []\n", "a raw series has a name"),
        ("    raw_series: [{series: a, csv: errors.csv}]\n    expect: []\n", "(add scrape_interval: 5m)"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, body: str, message: str) -> None:
    """A test file and its data files are checked before anything runs."""
    write(folder)
    with pytest.raises(ConfigError) as caught:
        read(folder, body)
    assert message in str(caught.value)


def test_without_a_prometheus_raw_series_are_refused_with_the_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before any test has run."""
    file = folder / "x.test.yml"
    file.write_text(HEAD + "    raw_series: [{series: errors, values: 1x2d}]\n    expect: []\n")
    assert command(str(file), "--prometheus", str(folder / "none")) == 2
    said = capsys.readouterr()
    assert "is no program that can be run" in said.err
    assert "name its program with --prometheus" in said.err
    assert "ok" not in said.out


def test_a_program_that_is_no_prometheus_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends at once; what it said last is shown."""
    program = folder / "prometheus"
    program.write_text("#!/bin/sh\necho unknown flag >&2\nexit 1\n")
    program.chmod(0o700)
    file = folder / "x.test.yml"
    file.write_text(HEAD + "    raw_series: [{series: errors, values: 1x2d}]\n    expect: []\n")
    assert command(str(file), "--prometheus", str(program)) == 2
    assert "has ended instead of answering; it said: unknown flag" in capsys.readouterr().err
