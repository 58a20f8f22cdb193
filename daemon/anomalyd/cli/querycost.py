"""``anomalyd query-cost``: what rules ask of their source, before they ask it every minute."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalyd import logs
from anomalyd.app import open_sources
from anomalyd.clock import SystemClock
from anomalyd.prometheus.source import PrometheusSource
from anomalyd.rulefiles.read import load_rules
from anomalyd.settings import load_settings
from anomalyd.workbench.querycost import Cost, Query, measure
from anomalyd.workbench.report.svg import short


def query_cost(
    files: Annotated[list[str] | None, typer.Argument(help="Rules files. Default: those of the settings.")] = None,
    config: Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")] = Path("anomalyd.yml"),
    whole: Annotated[bool, typer.Option("--whole", help="Read whole histories instead of scaling 6 hours.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure on the source what each rule costs it: series, samples and time of a tick and of the warm-up.

    Exit code 0: all rules can work; 1: one answers nothing, is refused, or has more series than it may score; 2: a file
    is wrong.
    """
    logs.configure("error", stream=sys.stderr)
    settings = load_settings(config)
    rules = load_rules(files or settings.rule_files, settings)
    sources = open_sources(settings)
    clock = SystemClock()
    try:
        costs = [measure(rule, sources[rule.source], clock.now_ms(), clock, whole) for rule in rules.rules]
    finally:
        for source in sources.values():
            if isinstance(source, PrometheusSource):
                source.close()
    if json_out:
        print(json.dumps([asdict(cost) | {"verdict": cost.word} for cost in costs], indent=2))
    else:
        print_costs(Console(), costs)
    if any(cost.over for cost in costs):
        raise typer.Exit(1)


def print_costs(console: Console, costs: list[Cost]) -> None:
    """The table for people; samples are those that the server read, or with ~ those that it sent."""
    table = Table()
    table.add_column("rule", overflow="fold", min_width=16)
    for column in ("series", "samples\na tick", "ms\na tick", "samples to\nwarm up", "s to\nwarm up"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for cost in costs:
        tick, warm_up = cost.tick, cost.warm_up
        if tick is None or warm_up is None:
            table.add_row(escape(cost.rule), "", "", "", "", "", cost.word)
            continue
        about = "" if cost.scaled == 1 else "≈ "
        table.add_row(
            escape(cost.rule), str(tick.series), _samples(tick), f"{1000 * tick.seconds:.0f}",
            about + _samples(warm_up), f"{about}{warm_up.seconds:.1f}", cost.word,
        )  # fmt: skip
    console.print(table)
    for cost in costs:
        for verdict in cost.verdicts:
            console.print(f"{cost.rule}: {verdict}", markup=False, highlight=False, soft_wrap=True)


def _samples(query: Query) -> str:
    return short(query.read) if query.read is not None else f"~{short(query.samples)}"
