"""How ``anomalyd evaluate`` shows what it measured: tables, JSON, the rule's part of the HTML report. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalyd.appraise import Labelled, Likeness, Unlabelled, curve, histogram
from anomalyd.backtest import Backtest
from anomalyd.htmlreport import label_text, rough_duration, when
from anomalyd.report.figures import Span, series_lines
from anomalyd.report.sheet import Grid, Line, Part, Sheet, bars, curve_plot, series_plot
from anomalyd.report.svg import Mark
from anomalyd.truth import Truth

CHARTS_MAX = 8
NOW_MEANS = (
    "As it was: the alerts that were raised then. As it would be now: the stored scores against the cuts of now, votes "
    "and exceptions included; after a change of the detector --replay tells more."
)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A rule with all that was measured of it.

    Attributes:
        labels: of the alerts as they were, and of the dummy; None where nothing is known.
        now: of the alerts that the cuts of now would have raised on the same scores; None where the rule was replayed,
            by which its alerts are those of now.
        alerts_now: how many those would be.
    """

    test: Backtest
    truth: Truth
    replayed: bool
    labels: tuple[Labelled, Labelled] | None
    clarity: tuple[Unlabelled, Unlabelled]
    likenesses: tuple[Likeness, ...] = ()
    untried: tuple[str, ...] = ()
    now: Labelled | None = None
    alerts_now: int | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of a table: its name, what it measures, how it is written, and whether it measures the scores against the
    cut of now rather than the alerts."""

    name: str
    field: str
    write: Callable[[float], str]
    of_now: bool = False


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
    Figure("samples flagged", "flagged", count, of_now=True),
    Figure("separation", "separation", number, of_now=True),
    Figure("doubtful", "doubtful", percent, of_now=True),
    Figure("bimodality", "bimodality", number),
    Figure("silhouette of flagged", "silhouette", number, of_now=True),
    Figure("alerts a week", "alerts_per_week", count),
)


def heads_of(one: Judged) -> tuple[str, ...]:
    """The columns: of a replayed rule its alerts are those of now."""
    return ("", "this rule", "dummy") if one.alerts_now is None else ("", "as it was", "as it would be now", "dummy")


def label_rows(one: Judged) -> list[tuple[str, ...]]:
    """The measures against what is known; none where nothing is."""
    if one.labels is None:
        return []
    own, dummy = one.labels
    columns = (own, dummy) if one.now is None else (own, one.now, dummy)
    return [(f.name, *(f.write(float(getattr(column, f.field))) for column in columns)) for f in WITH_LABELS]


def clarity_rows(one: Judged) -> list[tuple[str, ...]]:
    """The measures of the scores by themselves; what depends on the cut has no value of then."""
    own, dummy = one.clarity
    now = None if one.alerts_now is None else replace(own, alerts_per_week=one.alerts_now / one.test.weeks)

    def cells(f: Figure) -> tuple[str, ...]:
        mine, chance = (f.write(float(getattr(column, f.field))) for column in (own, dummy))
        if now is None:
            return (mine, chance)
        return ("–" if f.of_now else mine, f.write(float(getattr(now, f.field))), chance)

    return [(f.name, *cells(f)) for f in WITHOUT_LABELS]


VERSIONS = "Members, other seeds and detectors"
VERSION_HEADS = ("version", "rank correlation", "flagged by both", "alerts", "F1 by event", "VUS-PR")


def likeness_rows(one: Judged) -> list[tuple[str, ...]]:
    """The members of an ensemble each by itself, and other versions of the rule."""
    return [
        (x.name, number(x.correlation), percent(x.overlap), str(x.alerts), number(x.f1), number(x.vus_pr))
        for x in one.likenesses
    ]


def origin(one: Judged) -> str:
    """Where the labels come from, and what is left out."""
    if one.labels is None:
        return "Nothing is known of this span: give --labels, or vote on alerts."
    own = one.labels[0]
    events = "1 labelled anomaly" if own.events == 1 else f"{own.events} labelled anomalies"
    text = f"{events} from {one.truth.origin}; k is {own.k} samples, VUS to {own.vus_width}."
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
        console.print(_table("Against what is known", heads_of(one), label_rows(one)))
    console.print(escape(origin(one)), highlight=False)
    console.print(_table("What the scores say by themselves", heads_of(one), clarity_rows(one)))
    if one.likenesses:
        console.print(_table(VERSIONS, VERSION_HEADS, likeness_rows(one)))
    if one.untried:
        console.print(f"No time was left for {', '.join(one.untried)}; give --time.", highlight=False)
    if not one.replayed:
        console.print(escape(NOW_MEANS), highlight=False)
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
        "alerts": len(test.episodes), "alerts_now": one.alerts_now,
        "replayed": one.replayed, "labels_from": one.truth.origin if one.labels else None,
        "labels": None, "labels_now": None if one.now is None else _plain(one.now), "labels_dummy": None,
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
        parts.append(_grid(one, "Against what is known", label_rows(one), f"{origin(one)} {_then(one)}".strip()))
        points = curve(test, one.truth)
        if points:
            level = one.labels[1].average_precision
            note = "By sample, at falling cuts; the line is what chance reaches."
            parts.append(curve_plot("Precision over recall", points, 0.0 if math.isnan(level) else level, note))
    note = "" if one.labels else f"{origin(one)} {_then(one)}".strip()
    parts.append(_grid(one, "What the scores say by themselves", clarity_rows(one), note))
    counts, edges = histogram(test.tape.surprise, test.cut)
    parts.append(bars("Scores", counts, edges, 1.0, "How many samples have which score; 1 is the cut, the scale is "
                      "logarithmic."))  # fmt: skip
    if one.likenesses:
        parts.append(Grid(VERSIONS, VERSION_HEADS, tuple(Line(row) for row in likeness_rows(one))))
    parts += _charts(one)
    how = "replayed" if one.replayed else "as stored by the daemon"
    span = f"{when(test.start)} to {when(test.end)} UTC, {how} · {test.rule.detector.type}"
    return Sheet(test.rule.name, test.rule.group, span, test.rule.expr, tuple(facts), tuple(parts))


def _grid(one: Judged, title: str, rows: Sequence[Sequence[str]], note: str) -> Grid:
    return Grid(title, heads_of(one), tuple(Line(tuple(row)) for row in rows), note)


def _then(one: Judged) -> str:
    return "" if one.replayed else NOW_MEANS


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
