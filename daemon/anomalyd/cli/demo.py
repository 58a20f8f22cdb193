"""``anomalyd demo``: the daemon on four weeks of a small web shop, with nothing to install beside it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from anomalyd import logs
from anomalyd.clock import MINUTE_MS
from anomalyd.demo.report import Found, Report
from anomalyd.demo.sink import Received
from anomalyd.demo.stage import Played, play

COLOURS = {"emergency": "bold white on red", "critical": "bold red", "warning": "yellow", "resolved": "green"}


def demo(
    directory: Annotated[Path | None, typer.Option("--dir", help="Where settings and database go; kept.")] = None,
) -> None:
    """Watch two weeks of a small web shop after two weeks of learning; four incidents are planted in them."""
    logs.configure("error")
    folder = directory or Path(tempfile.mkdtemp(prefix="anomalyd-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "anomalyd.db").exists():
        typer.echo(f"{folder} holds the database of an earlier demo; name an empty folder with --dir", err=True)
        raise typer.Exit(2)
    console = Console(soft_wrap=True)
    console.print(
        "A small web shop, thirteen series, four weeks at five minutes. The daemon learns the first two weeks and\n"
        "lives through the other two, fast. Alerts arrive at a webhook and are shown as they come.\n"
    )
    began = time.monotonic()
    with _progress(console) as bar:
        task = bar.add_task("learning", total=None)

        def received(one: Received) -> None:
            bar.console.print(_alert_line(one.body), highlight=False)

        def progressed(first: int, now: int, last: int) -> None:
            bar.update(task, total=last - first, completed=now - first, description=_when(now))

        played = play(folder, received, progressed)
    _summary(console, played, time.monotonic() - began)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>16}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%a %d %b %H:%M")


def _alert_line(body: Mapping[str, Any]) -> str:
    """One notification as the sink got it: when, tier, what, and the reason with value and band."""
    resolved = body["event"] == "resolved"
    word = "resolved" if resolved else str(body["tier"])
    at = datetime.fromisoformat(str(body["at"]).replace("Z", "+00:00")).strftime("%a %d %b %H:%M")
    colour = COLOURS.get(word, "")
    name = escape(str(body["rule"]["name"]))
    return f"{at}  [{colour}]{word.upper():<9}[/] [bold]{name}[/]  {escape(str(body['sentence']))}"


def _summary(console: Console, played: Played, seconds: float) -> None:
    report = played.report
    console.print()
    for line in report.lines:
        console.print(f"  [bold]{escape(line.planted.name)}[/]: {escape(line.planted.story)}", highlight=False)
    console.print()
    console.print(_planted_table(report))
    if report.false_alarms:
        console.print(_false_table(report.false_alarms))
    planted = len(report.lines)
    console.print(
        f"\n{report.found} of {planted} planted incidents found, {len(report.false_alarms)} false alarms, "
        f"{played.notifications} notifications for {played.slots:,} rule evaluations, in {seconds:.0f} s.",
        highlight=False,
    )
    console.print(f"The database: {played.database}", highlight=False)


def _planted_table(report: Report) -> Table:
    table = Table(title="What was planted, and what was found", title_justify="left")
    for column in ("incident", "began", "lasted", "found after", "tier", "episodes"):
        table.add_column(column)
    for line in report.lines:
        lasted = (line.planted.end_ms - line.planted.start_ms) // MINUTE_MS
        tier = line.tier.word if line.found else "-"
        table.add_row(
            escape(line.planted.name),
            _when(line.planted.start_ms),
            f"{lasted} min",
            f"{line.delay_ms // MINUTE_MS} min" if line.found else "[bold red]missed[/]",
            f"[{COLOURS.get(tier, '')}]{tier}[/]" if line.found else "-",
            str(line.episodes),
        )
    return table


def _false_table(false_alarms: tuple[Found, ...]) -> Table:
    table = Table(title="False alarms", title_justify="left")
    for column in ("opened", "rule", "series", "tier"):
        table.add_column(column)
    for one in false_alarms:
        series = ", ".join(f"{name}={value}" for name, value in one.labels if name != "__name__")
        table.add_row(_when(one.opened_at), escape(one.rule), escape(series), one.tier.word)
    return table
