"""``anomalyd evaluate``: how right a rule's scores and alerts are, or without labels how clearly they speak."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalyd import logs
from anomalyd.appraise import (
    Labelled,
    Likeness,
    Unlabelled,
    appraise,
    appraise_dummy,
    curve,
    histogram,
    likeness,
    look_at,
    look_at_dummy,
    stored,
)
from anomalyd.backtest import Backtest, grid_span
from anomalyd.cli.backtest import Runner, choose
from anomalyd.clock import Clock, SystemClock
from anomalyd.durations import parse_duration, read_time
from anomalyd.errors import ConfigError, Problem, StoreError
from anomalyd.htmlreport import label_text, rough_duration, when
from anomalyd.report.figures import Span, series_lines
from anomalyd.report.sheet import Grid, Line, Part, Sheet, bars, curve_plot, series_plot, write_sheets
from anomalyd.report.svg import Mark
from anomalyd.rule import Rule
from anomalyd.settings import Settings
from anomalyd.store import Store, open_store
from anomalyd.truth import Row, Truth, labelled, read_rows, said
from anomalyd.tuning import live_within, spec_of, usable

CHARTS_MAX = 8
SEEDS = 2
OTHERS = ("mad", "stl", "auto")
"""What a replayed rule is compared with where nothing else is asked for."""
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A rule with all that was measured of it; ``labels`` are (rule, dummy), None where nothing is known."""

    test: Backtest
    truth: Truth
    replayed: bool
    labels: tuple[Labelled, Labelled] | None
    clarity: tuple[Unlabelled, Unlabelled]
    likenesses: tuple[Likeness, ...] = ()
    untried: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of a table: its name, what it measures, and how it is written."""

    name: str
    field: str
    write: Callable[[float], str]


def number(value: float) -> str:
    """Three digits."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def count(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}".removesuffix(".0")


def delay(value: float) -> str:
    return "–" if math.isnan(value) else rough_duration(round(value))


WITH_LABELS = (
    Figure("precision by event", "precision", percent),
    Figure("recall by event", "recall", percent),
    Figure("F1 by event", "f1", number),
    Figure("anomalies found", "found", count),
    Figure("alerts on an anomaly", "right", count),
    Figure("median delay", "delay_ms", delay),
    Figure("average precision", "average_precision", number),
    Figure("AUC-ROC", "roc_auc", number),
    Figure("precision at k", "precision_at_k", number),
    Figure("VUS-PR", "vus_pr", number),
    Figure("alerts a week", "alerts_per_week", count),
)
WITHOUT_LABELS = (
    Figure("samples flagged", "flagged", count),
    Figure("separation", "separation", number),
    Figure("doubtful", "doubtful", percent),
    Figure("bimodality", "bimodality", number),
    Figure("silhouette of flagged", "silhouette", number),
    Figure("alerts a week", "alerts_per_week", count),
)


# Measuring -----------------------------------------------------------------------------------------------------------


@contextmanager
def daemon_store(settings: Settings) -> Iterator[Store | None]:
    """The daemon's database; None where there is none yet."""
    url = settings.database.get()
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).is_file():
        yield None
        return
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


def truth_of(test: Backtest, rows: Sequence[Row] | None, store: Store | None, settings: Settings) -> Truth:
    """What the file says where one was given, else what people said."""
    if rows is not None:
        return labelled(rows, test.rule, test.labels, test.start, test.end)
    if store is None:
        return Truth((), complete=False, origin="feedback")
    return said(store, test.rule, settings.feedback, test.start, test.end)


def warn_unmatched(rows: Sequence[Row], tests: Sequence[Backtest]) -> None:
    """Say which lines of the file met no rule and series in the span: a slip there makes a rule look bad."""
    used = {id(span) for test in tests for span in labelled(rows, test.rule, test.labels, test.start, test.end).real}
    idle = [row for row in rows if id(row) not in used]
    if idle:
        first = idle[0]
        where = f"{first.rule or 'any rule'}, {when(first.start)} to {when(first.end)}"
        print(f"{len(idle)} of {len(rows)} labelled spans meet no series in the span; the first: {where}",
              file=sys.stderr)  # fmt: skip


def judge(test: Backtest, truth: Truth, replayed: bool) -> Judged:
    """All measures that need no other replay."""
    labels = (appraise(test, truth), appraise_dummy(test, truth)) if truth else None
    return Judged(test, truth, replayed, labels, (look_at(test), look_at_dummy(test)))


def compare(one: Judged, others: Sequence[str], still: Callable[[], bool]) -> Judged:
    """Replay the rule with other seeds and other detectors, as long as there is time."""
    rule, found, untried = one.test.rule, [], []
    versions = [(f"seed {rule.seed + i}", replace(rule, seed=rule.seed + i)) for i in range(1, SEEDS + 1)]
    for name in others:
        spec = spec_of(name)
        if spec.type != rule.detector.type and usable(spec, rule):
            versions.append((name, replace(rule, detector=spec)))
    for name, version in versions:
        test = live_within(version, one.test.history, one.test.start, one.test.end, still)
        if test is None:
            untried.append(name)
        else:
            found.append(likeness(name, one.test, test))
    return replace(one, likenesses=tuple(found), untried=tuple(untried))


def _stored(store: Store | None, rule: Rule, first: int, last: int) -> Backtest | None:
    """What is stored of a rule; None, and a word about it, where there is nothing."""
    start, end = grid_span(rule, first, last)
    test = stored(store, rule, start, end) if store is not None and start <= end else None
    if test is None:
        print(f"{rule.id}: the database holds no scores between {when(first)} and {when(last)} UTC", file=sys.stderr)
    return test


# Telling -------------------------------------------------------------------------------------------------------------


def rows_of(figures: Sequence[Figure], own: Any, dummy: Any) -> list[tuple[str, str, str]]:
    return [(f.name, f.write(float(getattr(own, f.field))), f.write(float(getattr(dummy, f.field)))) for f in figures]


def likeness_rows(one: Judged) -> list[tuple[str, str, str, str]]:
    return [(x.name, number(x.correlation), percent(x.overlap), str(x.alerts)) for x in one.likenesses]


def origin(one: Judged) -> str:
    """Where the labels come from, and what is left out."""
    if one.labels is None:
        return "Nothing is known of this span: give --labels, or vote on alerts."
    own = one.labels[0]
    text = f"{own.events} labelled anomalies from {one.truth.origin}; k is {own.k} samples, VUS to {own.vus_width}."
    if own.unjudged:
        text += f" {own.unjudged} of {own.alerts} alerts were judged by nobody and are left out."
    return text


def print_judged(console: Console, one: Judged) -> None:
    """The result for people."""
    test = one.test
    how = "replayed" if one.replayed else "as the daemon stored it"
    console.print(
        f"\n[bold]{escape(test.rule.id)}[/]  {when(test.start)} to {when(test.end)} UTC, {how}; {len(test.labels)} "
        f"series, {len(test.episodes)} alerts", highlight=False,
    )  # fmt: skip
    if one.labels is not None:
        console.print(_table("Against what is known", ("", "this rule", "dummy"), rows_of(WITH_LABELS, *one.labels)))
    console.print(escape(origin(one)), highlight=False)
    console.print(
        _table("What the scores say by themselves", ("", "this rule", "dummy"), rows_of(WITHOUT_LABELS, *one.clarity))
    )
    if one.likenesses:
        heads = ("version", "rank correlation", "flagged by both", "alerts")
        console.print(_table("Other seeds and detectors", heads, likeness_rows(one)))
    if one.untried:
        console.print(f"No time was left for {', '.join(one.untried)}; give --time.", highlight=False)
    if not one.replayed:
        console.print("Alerts are those of then; scores are held against the cut that the rule states now.")
        console.print("Stability over seeds and agreement between detectors: with --replay.", highlight=False)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def as_json(one: Judged) -> dict[str, Any]:
    """The result for scripts: null where there is nothing to measure, times in milliseconds."""
    test = one.test
    found: dict[str, Any] = {
        "rule": test.rule.id, "start": test.start, "end": test.end, "series": len(test.labels), "cut": test.cut,
        "replayed": one.replayed, "labels_from": one.truth.origin if one.labels else None,
        "labels": None, "labels_dummy": None,
        "scores": _plain(one.clarity[0]), "scores_dummy": _plain(one.clarity[1]),
        "versions": [_plain(x) for x in one.likenesses], "untried": list(one.untried),
    }  # fmt: skip
    if one.labels is not None:
        found["labels"], found["labels_dummy"] = (_plain(x) for x in one.labels)
    return found


def _plain(value: Labelled | Unlabelled | Likeness) -> dict[str, Any]:
    row = asdict(value)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def sheet_of(one: Judged) -> Sheet:
    """The rule's part of the HTML report."""
    test, own = one.test, one.clarity[0]
    facts = [("series", f"{len(test.labels)}"), ("alerts", f"{len(test.episodes)}"),
             ("alerts a week", count(own.alerts_per_week))]  # fmt: skip
    parts: list[Part] = []
    if one.labels is not None:
        mine = one.labels[0]
        facts += [("F1 by event", number(mine.f1)), ("VUS-PR", number(mine.vus_pr)), ("delay", delay(mine.delay_ms))]
        parts.append(_grid("Against what is known", rows_of(WITH_LABELS, *one.labels), origin(one)))
        points = curve(test, one.truth)
        if points:
            level = one.labels[1].average_precision
            note = "By sample, at falling cuts; the line is what chance reaches."
            parts.append(curve_plot("Precision over recall", points, 0.0 if math.isnan(level) else level, note))
    note = "" if one.labels else origin(one)
    parts.append(_grid("What the scores say by themselves", rows_of(WITHOUT_LABELS, *one.clarity), note))
    counts, edges = histogram(test.tape.surprise, test.cut)
    parts.append(bars("Scores", counts, edges, 1.0, "How many samples have which score; 1 is the cut, the scale is "
                      "logarithmic."))  # fmt: skip
    if one.likenesses:
        lines = tuple(Line(row) for row in likeness_rows(one))
        parts.append(
            Grid("Other seeds and detectors", ("version", "rank correlation", "flagged by both", "alerts"), lines)
        )
    parts += _charts(one)
    how = "replayed" if one.replayed else "as stored by the daemon"
    span = f"{when(test.start)} to {when(test.end)} UTC, {how} · {test.rule.detector.type}"
    return Sheet(test.rule.name, test.rule.group, span, test.rule.expr, tuple(facts), tuple(parts))


def _grid(title: str, rows: Sequence[Sequence[str]], note: str) -> Grid:
    return Grid(title, ("", "this rule", "dummy"), tuple(Line(tuple(row)) for row in rows), note)


def _charts(one: Judged) -> list[Part]:
    """The series with labels first, then those with most to tell."""
    test = one.test
    lines = series_lines(test)
    lines.sort(key=lambda line: not any(span.holds(line.labels) for span in one.truth.real))
    charts: list[Part] = []
    for line in lines[:CHARTS_MAX]:
        marks = [_mark(span) for span in one.truth.real if span.holds(line.labels)]
        marks += [Mark(e.opened_at, e.closed_at or test.end, e.tier.word) for e in test.episodes
                  if e.labels == line.labels]  # fmt: skip
        note = f"{line.episodes} alerts; green: labelled"
        charts.append(series_plot(test, line.row, label_text(line.labels), note, marks, test.start, test.end))
    return charts


def _mark(span: Span) -> Mark:
    return Mark(span.start, span.end, "label")


# The command ---------------------------------------------------------------------------------------------------------


def moment(text: str, option: str, now: int) -> int:
    """A time, or how long ago it is; ``ConfigError`` that names the option."""
    try:
        return read_time(text) if text.count("-") == 2 else now - parse_duration(text)
    except ValueError as error:
        raise ConfigError([Problem(option, 0, 0, str(error))]) from None


def seconds(text: str, option: str) -> float:
    """A duration in seconds; ``ConfigError`` that names the option."""
    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise ConfigError([Problem(option, 0, 0, str(error))]) from None


def within(clock: Clock, limit_s: float) -> Callable[[], bool]:
    """Whether there is time left, counted from now."""
    until = clock.monotonic_s() + limit_s
    return lambda: clock.monotonic_s() < until


def _write(judged: Sequence[Judged], report: Path | None, json_out: bool) -> None:
    """All results at once, for machines and as a report."""
    if json_out:
        print(json.dumps([as_json(one) for one in judged], indent=2, allow_nan=False))
    if report is not None:
        write_sheets(report, "Evaluation", [sheet_of(one) for one in judged])
        print(f"report: {report}", file=sys.stderr)


def run_evaluate(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE|FILE]...", help="Rules by name, or rules files. Default: all.")
    ] = None,
    config: Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")] = Path("anomalyd.yml"),
    since: Annotated[str, typer.Option(help="How far back (30d) or from when (2026-01-31T12:00:00Z).")] = "30d",
    until: Annotated[str, typer.Option(help="How far back, or when, the span ends.")] = "0",
    labels: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Known anomalies: start,end; rule, series or labels. Default: votes."),
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Score history from the source, not what the daemon has stored.")
    ] = False,
    versus: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="DETECTOR", help="With --replay: compare with these. Default: mad, stl, auto."),
    ] = None,
    time: Annotated[str, typer.Option(help="With --replay: time a rule for other seeds and detectors.")] = "60s",
    report: Annotated[Path | None, typer.Option(metavar="HTML", help="Write a report into one file.")] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how right rules are, against labels or votes, and how clearly their scores speak without any.

    Always beside a dummy that scores at random and raises as many alerts. Exit code 0: done; 1: the source or the
    database failed, or holds no scores; 2: wrong files or arguments.
    """
    logs.configure("error", stream=sys.stderr)
    clock, console = SystemClock(), Console(soft_wrap=True)
    limit_s = seconds(time, "--time")
    rows = read_rows(labels) if labels else None
    wanted = choose(targets or [], config, None)
    others = tuple(versus) if versus else OTHERS
    for name in others:
        spec_of(name)  # a slip in a name is told before anything is read
    now = clock.now_ms()
    first, last = moment(since, "--since", now), moment(until, "--until", now)
    runner = Runner(wanted.settings, clock, Console(stderr=True), first, last)
    judged: list[Judged] = []
    try:
        with daemon_store(wanted.settings) as store:
            for rule in wanted.rules:
                test = runner.live(rule)[0] if replay else _stored(store, rule, first, last)
                if test is None:
                    continue
                one = judge(test, truth_of(test, rows, store, wanted.settings), replay)
                if replay:
                    one = compare(one, others, within(clock, limit_s))
                judged.append(one)
                if not json_out:
                    print_judged(console, one)
    finally:
        runner.close()
    if not judged:
        raise StoreError("nothing", "nothing to evaluate: a longer --since, or --replay to score history anew")
    if rows is not None:
        warn_unmatched(rows, [one.test for one in judged])
    _write(judged, report, json_out)
