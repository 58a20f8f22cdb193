"""What a backtest found: tables for people, JSON for scripts."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalyd.score import TIERS
from anomalyd.workbench.backtest import Backtest
from anomalyd.workbench.htmlreport import (
    Judged,
    dummy_line,
    label_text,
    own_line,
    rough_duration,
    share,
    span_text,
    when,
)
from anomalyd.workbench.report.figures import budget_lines, series_lines, week_counts

SERIES_SHOWN = 15


def print_judged(console: Console, one: Judged) -> None:
    """The result for people."""
    test = one.test
    span = rough_duration(test.end - test.start + test.rule.interval_ms)
    zone = test.rule.timezone
    console.print(f"\n[bold]{escape(test.rule.id)}[/]  {span_text(test.start, test.end, zone)}", highlight=False)
    sent = sum(s.reason != "resolved" for s in test.sent)
    console.print(
        f"{len(test.episodes)} episodes on {len(test.labels)} series in {span}, {sent} notifications and "
        f"{len(test.sent) - sent} resolves; read in {one.read_s:.1f} s, lived through in {one.lived_s:.1f} s.",
        highlight=False,
    )
    if len(test.told) > 1:
        console.print(f"Told: {', '.join(f'{name} {count}' for name, count in test.told)}.", highlight=False)
    held = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in test.held.items())
    if held:
        console.print(f"Not sent: {held}.", highlight=False)
    if test.included:
        console.print(f"Counted: {', '.join(test.included)}.", highlight=False)
    console.print(_weeks_table(test))
    console.print(_series_table(test))
    console.print(_budget_table(test))
    if one.scored is not None:
        console.print(_labels_table(one))
    if one.change is not None:
        _print_change(console, one)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def _weeks_table(test: Backtest) -> Table:
    table = _table("Episodes a week", "week from", *(tier.word for tier in TIERS), "all")
    for week, counts in week_counts(test):
        begins = when(week, test.rule.timezone)[:10]
        table.add_row(begins, *(str(counts[t] or "") for t in TIERS), str(sum(counts.values())))
    return table


def _series_table(test: Backtest) -> Table:
    lines = series_lines(test)
    more = len(lines) - SERIES_SHOWN
    title = "Series" + (f" (the first {SERIES_SHOWN}; {more} more in the report)" if more > 0 else "")
    table = _table(title, "series", "episodes", "open for", "largest score")
    for line in lines[:SERIES_SHOWN]:
        lasted = rough_duration(line.open_ms) if line.episodes else ""
        largest = f"{line.peak_surprise / test.cut:.1f}" if test.cut > 0 else ""
        table.add_row(escape(label_text(line.labels)), str(line.episodes), lasted, largest)
    return table


def _budget_table(test: Backtest) -> Table:
    table = _table("What each budget would have paged", "budget", "episodes", "a week", "on series")
    for line in (own_line(test), *budget_lines(test), replace(dummy_line(test), name="dummy: 3 standard deviations")):
        table.add_row(line.name, str(line.episodes), f"{line.per_week:.1f}", str(line.series))
    return table


def _labels_table(one: Judged) -> Table:
    table = _table("Against the labels", "", "found", "recall", "precision", "median delay")
    for name, scored in (("this rule", one.scored), ("dummy", one.dummy_scored)):
        if scored is not None:
            delay = "–" if scored.delay_ms is None else rough_duration(scored.delay_ms)
            found = f"{scored.found} of {scored.spans}"
            table.add_row(name, found, share(scored.recall), share(scored.precision), delay)
    return table


def _print_change(console: Console, one: Judged) -> None:
    change = one.change
    assert change is not None, "only a comparison is printed"
    table = _table("Against the other version", "series", "opened", "tier", "lasted", "")
    confirmed = {e.id for e in change.lost_confirmed}
    for word, episodes in (("gained", change.gained), ("lost", change.lost)):
        for e in episodes[:50]:
            opened = when(e.opened_at, one.test.rule.timezone)
            lasted = rough_duration((e.closed_at or one.test.end) - e.opened_at)
            what = f"{word}, was real" if e.id in confirmed else word
            table.add_row(escape(label_text(e.labels)), opened, e.tier.word, lasted, what)
    counts = f"{change.both} in both, {len(change.gained)} gained, {len(change.lost)} lost"
    console.print(table if table.row_count else "", counts, highlight=False)


def as_json(one: Judged) -> dict[str, Any]:
    """The result for scripts; times in milliseconds."""
    test = one.test
    found: dict[str, Any] = {
        "rule": test.rule.id, "start": test.start, "end": test.end, "series": len(test.labels), "cut": test.cut,
        "episodes": [_episode(e) for e in test.episodes],
        "notifications": [asdict(s) for s in test.sent], "held": dict(test.held), "included": list(test.included),
        "verdicts": dict(test.kinds),
        "weeks": [{"start": week, **{t.word: c[t] for t in TIERS}} for week, c in week_counts(test)],
        "budgets": [_finite(asdict(b)) for b in (own_line(test), *budget_lines(test), dummy_line(test))],
        "read_seconds": round(one.read_s, 3), "lived_seconds": round(one.lived_s, 3),
    }  # fmt: skip
    for name, scored in (("labels", one.scored), ("labels_dummy", one.dummy_scored)):
        if scored is not None:
            found[name] = {**asdict(scored), "precision": scored.precision, "recall": scored.recall}
    if one.change is not None:
        found["diff"] = {
            "both": one.change.both,
            "gained": [_episode(e) for e in one.change.gained],
            "lost": [_episode(e) for e in one.change.lost],
            "lost_confirmed": [_episode(e) for e in one.change.lost_confirmed],
        }
    return found


def _episode(e: Any) -> dict[str, Any]:
    row = {
        "id": e.id, "labels": dict(e.labels), "tier": e.tier.word, "started_at": e.started_at,
        "opened_at": e.opened_at, "closed_at": e.closed_at, "close": str(e.close or ""), "peak_value": e.peak_value,
        "peak_expected": e.peak_expected, "peak_surprise": e.peak_surprise,
    }  # fmt: skip
    return _finite(row)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
