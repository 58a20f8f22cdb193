"""``anomalyd shadow``: what a rule that tells nobody would have told, and how to let it speak."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalyd import logs
from anomalyd.clock import SystemClock
from anomalyd.durations import parse_duration
from anomalyd.episode import Episode
from anomalyd.errors import ConfigError, Problem
from anomalyd.rule import Rule
from anomalyd.rulefiles.read import RuleSet, load_rules
from anomalyd.settings import load_settings
from anomalyd.store import Store, open_store
from anomalyd.workbench.htmlreport import label_text, rough_duration, when
from anomalyd.workbench.report.shadow import Beside, beside, promote, sibling

shadow = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Compare and promote shadow rules."
)
Config = Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")]
Against = Annotated[str, typer.Option(metavar="RULE", help="The live rule to stand beside; by default by its name.")]


def _shadows(rules: RuleSet, names: list[str]) -> list[Rule]:
    found = [r for r in rules.rules if r.mode == "shadow" and (not names or r.name in names or r.id in names)]
    missing = [n for n in names if not any(n in (r.name, r.id) for r in found)]
    if missing or not found:
        known = ", ".join(r.id for r in rules.rules if r.mode == "shadow") or "none has mode: shadow"
        wanted = missing or ["the rules files"]
        what = "there is no such shadow rule"
        raise ConfigError([Problem(name, 0, 0, what, f"shadow rules: {known}") for name in wanted])
    return found


def _compare(store: Store, live: Rule, one: Rule, start: int, end: int) -> Beside:
    ours, theirs = (store.episodes(rule=r.id, start=start, end=end, limit=100_000) for r in (live, one))
    return beside(live, one, ours, theirs, start, end)


@shadow.command("report")
def report(
    rules: Annotated[list[str] | None, typer.Argument(metavar="[RULE]...", help="Shadow rules. Default: all.")] = None,
    config: Config = Path("anomalyd.yml"),
    against: Against = "",
    since: Annotated[str, typer.Option(help="How far back, such as 7d.")] = "7d",
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Which episodes shadow rules would have gained and lost, opened earlier and later, from the daemon's database."""
    logs.configure("error", stream=sys.stderr)
    settings = load_settings(config)
    known = load_rules(settings.rule_files, settings)
    chosen = _shadows(known, rules or [])
    pairs = [(sibling(known, one, against), one) for one in chosen]
    end = SystemClock().now_ms()
    try:
        start = end - parse_duration(since)
    except ValueError as error:
        raise ConfigError([Problem("--since", 0, 0, str(error))]) from None
    store = open_store(settings.database.get())
    try:
        compared = [_compare(store, live, one, start, end) for live, one in pairs]
    finally:
        store.close()
    if json_out:
        print(json.dumps([as_json(one) for one in compared], indent=2))
        return
    for one in compared:
        print_beside(Console(soft_wrap=True), one)


@shadow.command("promote")
def print_promotion(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="The shadow rule.")],
    config: Config = Path("anomalyd.yml"),
    against: Against = "",
) -> None:
    """Print the change of the rules files that lets a shadow rule take its live rule's place; apply it with `patch`."""
    settings = load_settings(config)
    known = load_rules(settings.rule_files, settings)
    (one,) = _shadows(known, [rule])[:1]
    print(promote(known, sibling(known, one, against), one, settings), end="")


def print_beside(console: Console, one: Beside) -> None:
    """The comparison for people."""
    span = rough_duration(one.end - one.start)
    console.print(
        f"[bold]{escape(one.shadow.id)}[/] beside {escape(one.live.id)}, the last {span}: {len(one.both)} episodes in "
        f"both ({len(one.earlier)} earlier, {len(one.later)} later), {len(one.gained)} gained, {len(one.lost)} lost.",
        highlight=False,
    )
    table, zone = Table(), one.live.timezone
    for column in ("", "series", "tier", f"opened ({zone})", "lasted"):
        table.add_column(column)
    for word, episodes in (("gained", one.gained), ("lost", one.lost)):
        for e in episodes:
            table.add_row(word, *_columns(e, one.end, zone))
    for pair in one.both:
        if pair.later_ms:
            word = f"{rough_duration(abs(pair.later_ms))} {'later' if pair.later_ms > 0 else 'earlier'}"
            table.add_row(word, *_columns(pair.shadow, one.end, zone))
    if table.row_count:
        console.print(table)


def _columns(e: Episode, end: int, zone: str) -> tuple[str, str, str, str]:
    lasted = rough_duration((e.closed_at or end) - e.opened_at)
    return escape(label_text(e.labels)), e.tier.word, when(e.opened_at, zone), lasted


def as_json(one: Beside) -> dict[str, Any]:
    """The comparison for scripts; times in milliseconds."""
    return {
        "shadow": one.shadow.id, "live": one.live.id, "start": one.start, "end": one.end, "both": len(one.both),
        "median_later_ms": one.median_later_ms,
        "earlier": [_row(p.shadow) | {"later_ms": p.later_ms} for p in one.earlier],
        "later": [_row(p.shadow) | {"later_ms": p.later_ms} for p in one.later],
        "gained": [_row(e) for e in one.gained], "lost": [_row(e) for e in one.lost],
    }  # fmt: skip


def _row(e: Episode) -> dict[str, Any]:
    return {
        "episode": e.id, "labels": dict(e.labels), "tier": e.tier.word, "opened_at": e.opened_at,
        "closed_at": e.closed_at,
    }  # fmt: skip
