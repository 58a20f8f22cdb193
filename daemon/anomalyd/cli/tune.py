"""``anomalyd tune``: what a rule scores highest on its history, and a change that would serve it better."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalyd import logs
from anomalyd.cli.asked import moment, seconds, within
from anomalyd.cli.backtest import Runner, bar, choose
from anomalyd.cli.evaluate import daemon_store, truth_of, warn_unmatched
from anomalyd.cli.evaluateview import count, counted, delay, number, span_of
from anomalyd.clock import HOUR_MS, SystemClock
from anomalyd.durations import format_budget, format_duration, parse_budget
from anomalyd.errors import ConfigError, Problem
from anomalyd.rule import Budget, Rule
from anomalyd.score import Tier
from anomalyd.workbench.backtest import Backtest
from anomalyd.workbench.htmlreport import day_marks, label_text, when
from anomalyd.workbench.report.pictures import Picture, chart_of
from anomalyd.workbench.report.sheet import Grid, Line, Sheet, Text, told_columns, write_sheets
from anomalyd.workbench.report.svg import Mark, short
from anomalyd.workbench.truth import read_rows
from anomalyd.workbench.tuneview import (
    Peak,
    ThresholdLine,
    around,
    consequence,
    file_diff,
    peaks,
    sparkline,
    threshold_lines,
    yaml_diff,
)
from anomalyd.workbench.tuning import Trial, Tuned, tune
from anomalyd.workbench.tuning import within as within_span

WIDE = 120
"""Columns of a terminal in which the pictures of the highest scores have their full width."""
SHOWN = 10
CHARTS_MAX = 12


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """All that is told of one rule; ``diff`` is empty where nothing is better by a margin, and ``in_file`` says whether
    it is one of the rule's own file."""

    tuned: Tuned
    peaks: tuple[Peak, ...]
    thresholds: tuple[ThresholdLine, ...]
    diff: tuple[str, ...]
    words: str
    in_file: bool

    @property
    def test(self) -> Backtest:
        return self.tuned.base.whole


def look_into(tuned: Tuned) -> Findings:
    """Put together what is told."""
    base, best = tuned.base, tuned.best
    diff: list[str] = []
    in_file = False
    if best is not None:
        diff = own_diff(file_of(base.rule), [(base.rule, best.rule)])
        in_file = bool(diff)
        diff = diff or yaml_diff(base.rule, best.rule)
    thresholds = tuple(threshold_lines(base.whole, tuned.truth))
    found = tuple(peaks(base.whole, CHARTS_MAX))
    return Findings(tuned, found, thresholds, tuple(diff), verdict(tuned), in_file)


def own_diff(file: str, changes: Sequence[tuple[Rule, Rule]]) -> list[str]:
    """Changes of rules in the file they stand in; empty where that cannot be read or not be changed in place."""
    path = Path(file)
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return []
    here, full = Path.cwd(), path.resolve()
    name = full.relative_to(here) if full.is_relative_to(here) else full
    return file_diff(changes, text, name.as_posix().lstrip("/"))


def file_of(rule: Rule) -> str:
    return rule.where.rpartition(":")[0]


def verdict(tuned: Tuned) -> str:
    """What came of it, in a sentence."""
    if tuned.best is not None:
        return consequence(tuned)
    if tuned.refuted is not None:
        return f"{tuned.refuted.name} is better on the first part and not on the rest, so nothing is proposed"
    if (one := tuned.thin) is not None:
        return (
            f"{one.name} looks better ({counted(one.alerts, 'alert')} for {tuned.base.alerts}, separation"
            f" {number(one.clarity.separation)} for {number(tuned.base.clarity.separation)}), by no more than chance"
            " gives: the rule stays as it is"
        )
    return "nothing tried is better than the rule as it is, by a margin"


# Telling -------------------------------------------------------------------------------------------------------------


def peak_rows(f: Findings, width: int = 32) -> list[tuple[str, ...]]:
    cut, zone = f.test.cut, f.test.rule.timezone
    return [
        (when(p.at, zone), label_text(p.labels), sparkline(around(f.test, p, width)), short(p.value), short(p.expected),
         f"{p.surprise / cut:.2f}" if 0 < cut < math.inf else "–", "paged" if p.paged else "")
        for p in f.peaks
    ]  # fmt: skip


def threshold_rows(f: Findings) -> list[tuple[str, ...]]:
    return [
        (t.name, f"{t.cut:.2f}", str(t.alerts), f"{t.per_week:.1f}", "–" if t.found is None else str(t.found))
        for t in f.thresholds
    ]


def trial_rows(f: Findings) -> list[tuple[str, ...]]:
    return [trial_row(trial) for trial in (f.tuned.base, *f.tuned.trials)]


def later_rows(f: Findings) -> list[tuple[str, ...]]:
    """The rule, and what was chosen, on the part that was held out."""
    shown = [f.tuned.base, f.tuned.best or f.tuned.refuted]
    return [trial_row(trial.later) for trial in shown if trial is not None and trial.later is not None]


def trial_row(trial: Trial) -> tuple[str, ...]:
    return (
        trial.name, str(trial.alerts), count(round(trial.excess, 1)), number(trial.f1), delay(trial.delay_ms),
        number(trial.clarity.separation),
    )  # fmt: skip


def tried_title(f: Findings) -> str:
    before = "" if f.tuned.split is None else f", until {_split(f)}"
    return f"What was tried, best first{before}"


def later_title(f: Findings) -> str:
    return "" if f.tuned.split is None else f"Held out: from {_split(f)} on, which nothing was chosen on"


def _split(f: Findings) -> str:
    """Where the part begins that was held out."""
    return when(f.tuned.split or 0, f.test.rule.timezone)


PEAK_HEAD = ("at", "series", "around it", "value", "expected", "score", "")
THRESHOLD_HEAD = ("budget", "cut", "alerts", "a week", "known found")
HELD_OUT_MEANS = "What looks best on the part it was chosen on is often luck; only this part tells."
TRIAL_HEAD = ("version", "alerts", "beyond budget", "F1 by event", "delay", "separation")


def basis(f: Findings) -> str:
    """What the versions were judged by."""
    t = f.tuned
    granted = f"{format_budget(t.budget)} grants {t.base.allowed:.1f} alerts in this span"
    known = len(within_span(t.truth, t.base.test).real)
    if known:
        return f"Judged by {known} anomalies known from {t.truth.origin}: F1, then delay; {granted}."
    rests = f"it rests on {counted(t.base.alerts, 'alert')} that nobody has judged: vote on them, or give --labels"
    return f"Judged without labels: alerts within the budget, then separation; {granted}; {rests}."


def fixed(rule: Rule) -> str:
    """The business facts that tuning leaves alone."""
    facts = [f"direction {rule.direction}", f"for {format_duration(rule.for_ms)}"]
    floor = rule.min_deviation
    if floor.absolute or floor.relative:
        facts.append(f"min_deviation {short(floor.absolute)} and {100 * floor.relative:g} %")
    if rule.valid_range is not None:
        facts.append(f"valid_range {short(rule.valid_range[0])} to {short(rule.valid_range[1])}")
    return f"Left as they are: {', '.join(facts)}."


def print_findings(console: Console, f: Findings) -> None:
    """The result for people."""
    test = f.test
    console.print(
        f"\n[bold]{escape(test.rule.id)}[/]  {span_of(test)}; "
        f"{counted(len(test.labels), 'series', 'series')}, {counted(len(test.episodes), 'alert')}", highlight=False,
    )  # fmt: skip
    width = 32 if console.width >= WIDE else 12
    console.print(_table("The highest scores", PEAK_HEAD, peak_rows(f, width)[:SHOWN]))
    console.print(_table("What each threshold would have paged", THRESHOLD_HEAD, threshold_rows(f)))
    console.print(_table(tried_title(f), TRIAL_HEAD, trial_rows(f)))
    if f.tuned.split is not None:
        console.print(_table(later_title(f), TRIAL_HEAD, later_rows(f)))
    for line in (basis(f), fixed(test.rule)):
        console.print(escape(line), highlight=False)
    if f.tuned.untried:
        untried = ", ".join(f.tuned.untried)
        console.print(f"No time was left for {escape(untried)}; give --time.", highlight=False)
    if f.tuned.best is None:
        console.print(f"\n{f.words}.", highlight=False)
        return
    console.print(f"\n[bold]{escape(f.tuned.best.name)}[/] {escape(f.words)}{_on_held_out(f)}:\n", highlight=False)
    if not f.in_file:
        console.print("The file could not be changed in place; this is the rule as the daemon writes it:\n")
    for line in f.diff:
        console.print(escape(line), style=_colour(line), highlight=False)


def _colour(line: str) -> str:
    return "green" if line.startswith("+") else "red" if line.startswith("-") else ""


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, head in enumerate(heads):
        left = i == 0 or head in ("series", "around it", "")
        cells = max((len(row[i]) for row in rows), default=0)
        table.add_column(
            head, justify="left" if left else "right", no_wrap=head == "around it", overflow="fold",
            min_width=min(cells, 10) if i else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def as_json(f: Findings) -> dict[str, Any]:
    """The result for scripts: null where there is nothing to measure, times in milliseconds."""
    t, test = f.tuned, f.test
    return {
        "rule": test.rule.id, "start": test.start, "end": test.end, "series": len(test.labels),
        "budget": format_budget(t.budget), "allowed": t.base.allowed,
        "labels_from": t.truth.origin if t.truth else None,
        "highest": [_finite({**asdict(p), "labels": dict(p.labels)}) for p in f.peaks],
        "thresholds": [_finite(asdict(line)) for line in f.thresholds],
        "tried": [_trial(trial) for trial in (t.base, *t.trials)], "untried": list(t.untried),
        "held_out_from": t.split, "refuted": t.refuted.name if t.refuted else None,
        "best": t.best.name if t.best else None, "words": f.words, "diff": list(f.diff), "diff_of_file": f.in_file,
    }  # fmt: skip


def _trial(trial: Trial) -> dict[str, Any]:
    detector = {"type": trial.rule.detector.type, **trial.rule.detector.params}
    row = {
        "name": trial.name, "detector": detector, "alerts": trial.alerts, "excess": trial.excess,
        "found": len(trial.found), "f1": trial.f1, "delay_ms": trial.delay_ms,
        "separation": trial.clarity.separation, "held_out": _trial(trial.later) if trial.later else None,
    }  # fmt: skip
    return _finite(row)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def sheet_of(f: Findings) -> Sheet:
    """The rule's part of the HTML report."""
    t, test = f.tuned, f.test
    facts = (("series", f"{len(test.labels):,}"), ("alerts", f"{len(test.episodes):,}"),
             ("budget", format_budget(t.budget)), ("versions tried", str(len(t.trials))))  # fmt: skip
    note = f"{basis(f)} {fixed(test.rule)}"
    if t.untried:
        note += f" No time was left for {', '.join(t.untried)}; give --time."
    if t.best is not None:
        result = Text(f"The change: {t.best.name}", f.diff, f"It {f.words}{_on_held_out(f)}.")
    else:
        result = Text("The rule stays as it is", (), f"{f.words[:1].upper()}{f.words[1:]}.")
    tried = [_trials(tried_title(f), trial_rows(f), note)]
    if t.split is not None:
        tried.append(_trials(later_title(f), later_rows(f), HELD_OUT_MEANS))
    head, rows = told_columns(THRESHOLD_HEAD, threshold_rows(f))
    lines = tuple(Line(row, "own" if i == 0 else "") for i, row in enumerate(rows))
    note = "This rule was lived through; the other lines count its scores above other cuts."
    thresholds = Grid("What each threshold would have paged", head, lines, note)
    pictures = tuple(_picture(f, peak) for peak in f.peaks)
    return Sheet(
        test.rule.name, test.rule.group, f"{span_of(test)} · {test.rule.detector.type}", test.rule.expr, facts,
        test.rule.timezone, (result,), ((tried[0],), (*tried[1:], thresholds)), pictures, "The highest scores",
        labelled=bool(t.truth.real),
    )  # fmt: skip


def _trials(title: str, rows: Sequence[tuple[str, ...]], note: str) -> Grid:
    head, shown = told_columns(TRIAL_HEAD, rows)
    return Grid(title, head, tuple(Line(row, "own" if i == 0 else "") for i, row in enumerate(shown)), note)


def _on_held_out(f: Findings) -> str:
    return "" if f.tuned.split is None else f" on the part that was held out, from {_split(f)} on"


def _picture(f: Findings, peak: Peak) -> Picture:
    test, zone = f.test, f.test.rule.timezone
    room = max(2 * HOUR_MS, 40 * test.rule.interval_ms)
    told = [e for e in test.episodes if e.labels == peak.labels]
    marks = day_marks(test.rule, test.start, test.end)
    marks += [Mark(span.start, span.end, "label") for span in f.tuned.truth.real if span.holds(peak.labels)]
    marks += [Mark(e.opened_at, e.closed_at or test.end, e.tier.word) for e in told]
    tier = max((e.tier for e in told if e.started_at <= peak.at <= (e.closed_at or test.end)), default=Tier.NONE)
    score = f"score {peak.surprise / test.cut:.1f}, " if 0 < test.cut < math.inf else ""
    caption = f"{when(peak.at, zone)}: {score}{short(peak.value)} where {short(peak.expected)} was expected"
    caption += "" if peak.paged else "; not paged"
    chart = chart_of(test, peak.row, marks, peak.at - room, peak.at + room)
    return Picture(label_text(peak.labels), caption, chart, tier.word if tier else "")


# The command ---------------------------------------------------------------------------------------------------------


def _budget(text: str | None) -> Budget | None:
    try:
        return parse_budget(text) if text else None
    except ValueError as error:
        raise ConfigError([Problem("--budget", 0, 0, str(error))]) from None


def _check_budget(budget: Budget | None, rule: Rule) -> None:
    if budget is not None and budget.count * rule.interval_ms > budget.period_ms:
        raise ConfigError([Problem("--budget", 0, 0, f"allows more alerts than {rule.id} has samples")])


def _write_patch(file: Path, found: Sequence[Findings]) -> None:
    """Write one diff for each file that is to be changed; say which changes are not in it."""
    changes: dict[str, list[tuple[Rule, Rule]]] = {}
    for f in found:
        if f.tuned.best is not None and f.in_file:
            changes.setdefault(file_of(f.test.rule), []).append((f.test.rule, f.tuned.best.rule))
        elif f.tuned.best is not None:
            print(f"{f.test.rule.id}: its file could not be changed in place, it is not in {file}", file=sys.stderr)
    lines = [line for name, pairs in changes.items() for line in own_diff(name, pairs)]
    file.write_bytes("".join(f"{line}\n" for line in lines).encode())
    print(f"patch: {file}" if lines else f"patch: {file} is empty, nothing is to be changed", file=sys.stderr)


def run_tune(
    targets: Annotated[list[str], typer.Argument(metavar="RULE|FILE...", help="Rules by name, or rules files.")],
    config: Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")] = Path("anomalyd.yml"),
    since: Annotated[str, typer.Option(help="How far back (14d) or from when (2026-01-31T12:00:00Z).")] = "14d",
    until: Annotated[str, typer.Option(help="How far back, or when, the span ends.")] = "0",
    budget: Annotated[
        str | None, typer.Option(help='False alarms to allow, as "1 per week". Default: the rule\'s own.')
    ] = None,
    time: Annotated[str, typer.Option(help="Time a rule for trying detectors and parameters.")] = "60s",
    labels: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Known anomalies: start,end; rule, series or labels. Default: votes."),
    ] = None,
    held_out: Annotated[
        float, typer.Option(metavar="SHARE", min=0.0, max=0.9, help="Share of the span that nothing is chosen on.")
    ] = 0.5,
    patch_out: Annotated[
        Path | None, typer.Option("--patch", metavar="FILE", help="Write the change for patch -p1 or git apply.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="HTML", help="Write a report into one file.")] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Try detectors, parameters and budgets for a rule on its history, and print the change that would serve it better.

    What the business has decided stays as it is: expression, direction, min_deviation, valid_range, for, missing,
    receivers. Exit code 0: done, whether or not something better was found; 1: the source or the database failed;
    2: wrong files or arguments.
    """
    logs.configure("error", stream=sys.stderr)
    clock, console, stderr = SystemClock(), Console(soft_wrap=True), Console(stderr=True)
    limit_s, asked = seconds(time, "--time"), _budget(budget)
    rows = read_rows(labels) if labels else None
    wanted = choose(targets, config, None)
    now = clock.now_ms()
    runner = Runner(wanted.settings, clock, stderr, moment(since, "--since", now), moment(until, "--until", now))
    found: list[Findings] = []
    try:
        with daemon_store(wanted.settings) as store:
            for rule in wanted.rules:
                _check_budget(asked, rule)
                base = runner.live(rule)[0]
                truth = truth_of(base, rows, store, wanted.settings)
                with bar(stderr, f"{rule.name}: trying"):
                    found.append(look_into(tune(base, truth, asked, within(clock, limit_s), held_out)))
                if not json_out:
                    print_findings(console, found[-1])
    finally:
        runner.close()
    if rows is not None:
        warn_unmatched(rows, [f.test for f in found])
    if json_out:
        print(json.dumps([as_json(f) for f in found], indent=2, allow_nan=False))
    if patch_out is not None:
        _write_patch(patch_out, found)
    if report is not None:
        write_sheets(report, "Tuning", [sheet_of(f) for f in found])
        print(f"report: {report}", file=sys.stderr)
