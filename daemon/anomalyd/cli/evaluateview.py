"""How ``anomalyd evaluate`` shows what it measured: tables, JSON, the rule's part of the HTML report. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalyd.score import Tier
from anomalyd.workbench.appraise import Labelled, Likeness, Unlabelled, curve, histogram
from anomalyd.workbench.backtest import Backtest
from anomalyd.workbench.htmlreport import day_marks, label_text, rough_duration, span_text
from anomalyd.workbench.report.figures import series_lines
from anomalyd.workbench.report.pictures import Picture, chart_of
from anomalyd.workbench.report.sheet import Grid, Line, Part, Sheet, bars, curve_plot, told_columns
from anomalyd.workbench.report.svg import Mark
from anomalyd.workbench.truth import Truth

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
    """A line of a table: its name, what it measures, how it is written, what it means (with the names of measures in
    braces), and whether it measures the scores against the cut of now rather than the alerts."""

    name: str
    field: str
    write: Callable[[float], str]
    means: str
    of_now: bool = False


def number(value: float) -> str:
    """Three digits."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def count(value: float) -> str:
    if 0 < value < 0.1:
        return f"{value:.2g}"  # seldom is not never
    return "–" if math.isnan(value) else f"{value:.1f}".removesuffix(".0")


def whole(value: float) -> str:
    return f"{value:,.0f}"


def delay(value: float) -> str:
    return "–" if math.isnan(value) else rough_duration(round(value))


WITH_LABELS = (
    Figure("precision by event", "precision", percent, "alerts on an anomaly, of all alerts"),
    Figure("recall by event", "recall", percent, "anomalies with an alert, of all anomalies"),
    Figure("F1 by event", "f1", number, "harmonic mean of the two"),
    Figure("anomalies found", "found", count, "of {events}"),
    Figure("alerts on an anomaly", "right", count, "of {alerts}"),
    Figure("median delay", "delay_ms", delay, "from the start of an anomaly to its first alert"),
    Figure("average precision", "average_precision", number, "over samples in the order of their scores, at any cut"),
    Figure("AUC-ROC", "roc_auc", number, "an abnormal sample scores above a normal one; flatters where few are"),
    Figure("precision at k", "precision_at_k", number, "of the {k} highest scores, as many as are labelled"),
    Figure("VUS-PR", "vus_pr", number, "as average precision, forgiving within {vus_width} samples of a label's edge"),
    Figure("alerts a week", "alerts_per_week", count, "over all series"),
)
WITHOUT_LABELS = (
    Figure("samples flagged", "flagged", whole, "above the cut, of {scored:,}", of_now=True),
    Figure("separation", "separation", number, "of the scores' variance, what parts flagged from other samples; good "
           "near 1", of_now=True),
    Figure("doubtful", "doubtful", percent, "of the samples near the cut or above it, those within 20 % of it; good "
           "near 0", of_now=True),
    Figure("bimodality", "bimodality", number, "0.56 while nothing is wrong, more where two kinds of samples are"),
    Figure("silhouette of flagged", "silhouette", number, "how like each other flagged samples are, and unlike the "
           "rest; good near 1", of_now=True),
    Figure("alerts a week", "alerts_per_week", count, "over all series"),
)  # fmt: skip
DUMMY_MEANS = (
    "The dummy scores at random and raises as many alerts as the rule: a figure that it reaches as well says nothing."
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


def origin(one: Judged, measures: bool = True) -> str:
    """Where the labels come from, what is left out, and how far the ``measures`` look."""
    if one.labels is None:
        return "Nothing is known of this span: give --labels, or vote on alerts."
    own = one.labels[0]
    events = "1 labelled anomaly" if own.events == 1 else f"{own.events} labelled anomalies"
    text = f"{events} from {one.truth.origin}; k is {own.k} samples, VUS to {own.vus_width}." if measures else (
        f"{events} from {one.truth.origin}."
    )
    if own.unjudged:
        text += f" {own.unjudged} of {own.alerts} alerts were judged by nobody and are left out."
    return text


def print_judged(console: Console, one: Judged) -> None:
    """The result for people."""
    test = one.test
    how = "replayed" if one.replayed else "as the daemon stored it"
    console.print(
        f"\n[bold]{escape(test.rule.id)}[/]  {span_of(test)}, {how}; "
        f"{counted(len(test.labels), 'series', 'series')}, {counted(len(test.episodes), 'alert')}", highlight=False,
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


def span_of(test: Backtest) -> str:
    """The span of a backtest, in its rule's time zone."""
    return span_text(test.start, test.end, test.rule.timezone)


def counted(number: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"1 {one}" if number == 1 else f"{number:,} {many or one + 's'}"


def sheet_of(one: Judged) -> Sheet:
    """The rule's part of the HTML report."""
    test, measures, plots = one.test, list[Part](), list[Part]()
    if one.labels is not None:
        note = f"{origin(one, measures=False)} {DUMMY_MEANS} {_then(one)}".strip()
        measures.append(_grid(one, "Against what is known", label_rows(one), WITH_LABELS, note))
        points = curve(test, one.truth)
        if points:
            level = one.labels[1].average_precision
            note = "Each point is a cut; the rule's own is one of them. The dashed line is what chance reaches."
            plots.append(curve_plot("Precision and recall", points, 0.0 if math.isnan(level) else level, note))
    note = "" if one.labels else f"{origin(one)} {DUMMY_MEANS} {_then(one)}".strip()
    measures.append(_grid(one, "What the scores say by themselves", clarity_rows(one), WITHOUT_LABELS, note))
    counts, edges = histogram(test.tape.surprise, test.cut)
    note = "1 is the cut: an alert begins above it. A clear rule has few samples just below and just above."
    plots.append(bars("Scores", counts, edges, 1.0, note))
    if one.likenesses:
        head, rows = told_columns(VERSION_HEADS, likeness_rows(one))
        note = "How like this rule's scores theirs are, and of the samples that either flags, what share both do."
        plots.append(Grid(VERSIONS, head, tuple(Line(row) for row in rows), note))
    pictures, rest = _pictures(one)
    how = "replayed from the source" if one.replayed else "as the daemon stored it"
    return Sheet(
        test.rule.name, test.rule.group, f"{span_of(test)} · {how} · {test.rule.detector.type}", test.rule.expr,
        _facts(one), test.rule.timezone, (), (tuple(measures), tuple(plots)), pictures,
        labelled=bool(one.truth.real), rest=rest,
    )  # fmt: skip


def _facts(one: Judged) -> tuple[tuple[str, str], ...]:
    facts = [("series", f"{len(one.test.labels):,}"), ("alerts", f"{len(one.test.episodes):,}"),
             ("alerts a week", count(one.clarity[0].alerts_per_week))]  # fmt: skip
    if one.labels is not None:
        own = one.labels[0]
        facts += [("anomalies found", f"{own.found:.0f} of {own.events}"),
                  ("alerts on nothing", f"{own.alerts - own.right - own.unjudged:,.0f}")]  # fmt: skip
        facts += [("judged by nobody", f"{own.unjudged:,}")] if own.unjudged else []
        facts += [] if math.isnan(own.delay_ms) else [("median delay", delay(own.delay_ms))]
    return tuple(facts)


def _grid(
    one: Judged, title: str, rows: Sequence[tuple[str, ...]], figures: Sequence[Figure], note: str
) -> Grid:  # fmt: skip
    names = asdict(one.clarity[0]) | (asdict(one.labels[0]) if one.labels is not None else {})
    lines = (Line(row, hint=f.means.format(**names)) for f, row in zip(figures, rows, strict=True))
    return Grid(title, heads_of(one), tuple(lines), note)


def _then(one: Judged) -> str:
    return "" if one.replayed else NOW_MEANS


def _pictures(one: Judged) -> tuple[tuple[Picture, ...], str]:
    """The series with labels first, then those with most to tell; and what is not shown."""
    test, real = one.test, one.truth.real
    lines = series_lines(test)
    lines.sort(key=lambda line: not any(span.holds(line.labels) for span in real))
    pictures = []
    for line in lines[:CHARTS_MAX]:
        mine = [span for span in real if span.holds(line.labels)]
        told = [e for e in test.episodes if e.labels == line.labels]
        marks = day_marks(test.rule, test.start, test.end) + [Mark(span.start, span.end, "label") for span in mine]
        marks += [Mark(e.opened_at, e.closed_at or test.end, e.tier.word) for e in told]
        caption = counted(line.episodes, "alert")
        caption += f", {counted(len(mine), 'labelled anomaly', 'labelled anomalies')}" if mine else ""
        tier = max((e.tier for e in told), default=Tier.NONE)
        chart = chart_of(test, line.row, marks, test.start, test.end)
        pictures.append(Picture(label_text(line.labels), caption, chart, tier.word if tier else ""))
    more = len(lines) - len(pictures)
    return tuple(pictures), f"{more:,} more series are not drawn; these have most to tell." if more else ""
