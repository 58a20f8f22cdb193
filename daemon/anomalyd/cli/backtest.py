"""``anomalyd backtest``: what a rule would have paged, had it been there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from anomalyd import logs
from anomalyd.app import open_sources
from anomalyd.cli.asked import moment
from anomalyd.cli.backtestview import as_json, print_judged
from anomalyd.clock import Clock, SystemClock
from anomalyd.errors import ConfigError, Problem
from anomalyd.prometheus.source import PrometheusSource
from anomalyd.rule import Rule
from anomalyd.rulefiles.read import RuleSet, load_rules
from anomalyd.settings import Settings, load_settings
from anomalyd.sources import Source
from anomalyd.store import Store, open_store
from anomalyd.workbench.backtest import Backtest, History, grid_span, lived, read_history, told_with
from anomalyd.workbench.htmlreport import Judged, write_report
from anomalyd.workbench.relived import NOTHING_AROUND, Surroundings, concerns, remembering, surroundings
from anomalyd.workbench.report.figures import Span, alarms_of, compare, dummy_alarms, read_spans, score
from anomalyd.workbench.report.votes import confirmed_spans
from anomalyd.yamlfile import did_you_mean


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: rules, and for each the other version or None; ``all`` is what they were chosen from."""

    settings: Settings
    rules: tuple[Rule, ...]
    old: dict[str, Rule]
    all: tuple[Rule, ...] = ()


def choose(targets: Sequence[str], config: Path, old_file: Path | None) -> Wanted:
    """Find the rules by file, name or id; ``ConfigError`` says which target names none."""
    settings = load_settings(config)
    files = [t for t in targets if t.endswith((".yml", ".yaml"))]
    names = [t for t in targets if t not in files]
    rules = load_rules(files, settings) if files else load_rules(settings.rule_files, settings)
    chosen = rules.rules if not names else tuple(r for r in rules.rules if r.name in names or r.id in names)
    missing = [n for n in names if not any(n in (r.name, r.id) for r in chosen)]
    if missing:
        known = f"known: {', '.join(sorted(rule.id for rule in rules.rules))}"
        names = [name for rule in rules.rules for name in (rule.name, rule.id)]
        near = {name: did_you_mean(name, names) for name in missing}
        hints = {name: hint if hint.startswith("did") else known for name, hint in near.items()}
        raise ConfigError([Problem(name, 0, 0, "no rule has this name", hints[name]) for name in missing])
    return Wanted(settings, chosen, _old_versions(chosen, old_file, settings), rules.rules)


def _old_versions(rules: Sequence[Rule], file: Path | None, settings: Settings) -> dict[str, Rule]:
    """The other version of each rule: the one with its id or name, or the only one of both files."""
    if file is None:
        return {}
    old: RuleSet = load_rules([str(file)], settings)
    found = {}
    for rule in rules:
        named = [o for o in old.rules if o.id == rule.id] or [o for o in old.rules if o.name == rule.name]
        if not named and len(rules) == len(old.rules) == 1:
            named = list(old.rules)
        if not named:
            raise ConfigError([Problem(str(file), 0, 0, f"has no other version of {rule.id}")])
        found[rule.id] = named[0]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Lived:
    """A rule that lived through history, how long reading and living took in seconds, and its other version if any."""

    test: Backtest
    read_s: float
    lived_s: float
    old: Backtest | None = None


class Runner:
    """Reads histories, once for each expression, and lives through them."""

    def __init__(
        self, settings: Settings, clock: Clock, console: Console, since: int, until: int,
        around: Surroundings = NOTHING_AROUND,
    ):  # fmt: skip
        self._clock, self._console, self._around = clock, console, around
        self._since, self._until = since, until
        self._sources: dict[str, Source] = dict(open_sources(settings))
        self._read: dict[tuple[str, str, int, int], tuple[History, float]] = {}

    def live_all(self, wanted: Wanted) -> list[Lived]:
        """Live through the rules and their other versions, and through those of all that may change who is told."""
        names, chosen = {rule.id for rule in wanted.rules}, wanted.rules
        others = [
            self.live(rule)[0] for rule in wanted.all
            if rule.mode == "live" and rule.id not in names and any(concerns(rule, one, self._around) for one in chosen)
        ]  # fmt: skip
        mine = []
        for rule in chosen:  # the other version at once, while its history is at hand
            found, old = self.live(rule), wanted.old.get(rule.id)
            mine.append(Lived(*found, self.live(old)[0] if old is not None else None))
        told = told_with([one.test for one in mine], others, self._around)
        return [replace(one, test=test) for one, test in zip(mine, told, strict=True)]

    def judge(self, found: Lived, spans: tuple[Span, ...], confirmed: Sequence[Span]) -> Judged:
        """Hold a backtest against labels, and against the rule's other version if there is one."""
        test = found.test
        slack = test.rule.for_ms + test.rule.interval_ms
        scored = dummy = None
        spans = tuple(span for span in spans if any(span.holds(labels) for labels in test.labels))
        if spans:
            scored = score(alarms_of(test.episodes, test.end), spans, test.start, test.end, slack)
            dummy = score(dummy_alarms(test), spans, test.start, test.end, slack)
        change = compare(test, found.old, (*spans, *confirmed)) if found.old is not None else None
        return Judged(test, change, scored, dummy, spans, found.read_s, found.lived_s)

    def live(self, rule: Rule) -> tuple[Backtest, float, float]:
        """Live through a rule; how long reading and living took, seconds."""
        start, end = grid_span(rule, self._since, self._until)
        if end < start:
            raise ConfigError([Problem("--since", 0, 0, f"the span holds no slot of {rule.id}", "make it longer")])
        history, read_s = self._history(rule, start, end)
        began = self._clock.monotonic_s()
        with bar(self._console, f"{rule.name}: living") as tick:
            test = lived(rule, history.block, start, end, tick, self._around)
        return test, read_s, self._clock.monotonic_s() - began

    def _history(self, rule: Rule, start: int, end: int) -> tuple[History, float]:
        # Versions of a rule differ in history or detector more often than in what they read.
        key = (rule.source, rule.expr, rule.interval_ms, rule.history_ms)
        if key not in self._read:
            began = self._clock.monotonic_s()
            with bar(self._console, f"{rule.name}: reading") as tick:
                history = read_history(self._sources[rule.source], rule, start, end, tick)
            self._read = {key: (history, self._clock.monotonic_s() - began)}
            for warning in (*history.warnings, *(["the source answered in part"] if history.partial else [])):
                print(f"{rule.id}: {warning}", file=sys.stderr)
        return self._read[key]

    def close(self) -> None:
        for source in self._sources.values():
            if isinstance(source, PrometheusSource):
                source.close()


@contextmanager
def bar(console: Console, what: str) -> Iterator[Any]:
    """A progress bar as a callback (done, total); only on a terminal, elsewhere it would leave an empty line each."""
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=console,
        transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with progress:
        task = progress.add_task(escape(what), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def failures(judged: Sequence[Judged], fail_on_more: int | None) -> list[str]:
    """Why CI should stop, in words."""
    found = []
    for one in judged:
        change, name = one.change, one.test.rule.id
        if change is None:
            continue
        if change.lost_confirmed:
            found.append(f"{name}: {len(change.lost_confirmed)} confirmed episodes are lost")
        if fail_on_more is not None and len(change.gained) > fail_on_more:
            found.append(f"{name}: {len(change.gained)} episodes more, {fail_on_more} allowed")
    return found


def run_backtest(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE|FILE]...", help="Rules by name, or rules files. Default: all.")
    ] = None,
    config: Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")] = Path("anomalyd.yml"),
    since: Annotated[str, typer.Option(help="How far back (30d) or from when (2026-01-31T12:00:00Z).")] = "30d",
    until: Annotated[str, typer.Option(help="How far back, or when, the span ends.")] = "0",
    diff: Annotated[Path | None, typer.Option(metavar="OLD.yml", help="Compare with the rules of this file.")] = None,
    fail_on_more: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="With --diff: exit 1 when more than N episodes are gained.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Known anomalies: start,end and any label names.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="HTML", help="Write a report into one file.")] = None,
    as_lived: Annotated[
        bool,
        typer.Option("--as-lived", help="Count silences, votes and acknowledgements of that time, from the database."),
    ] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """See what rules would have paged: replay history from the source as the daemon would have lived it.

    Exit code 0: done; 1: the source failed, or with --diff a confirmed episode is lost (a span of --labels, or one that
    somebody confirmed in the daemon's database) or more than --fail-on-more are gained; 2: wrong files or arguments.
    """
    logs.configure("error", stream=sys.stderr)
    clock, console = SystemClock(), Console(soft_wrap=True)
    spans = tuple(read_spans(labels)) if labels else ()
    wanted = choose(targets or [], config, diff)
    now = clock.now_ms()
    first, last = moment(since, "--since", now), moment(until, "--until", now)
    store = _database(wanted.settings) if as_lived else None
    around = surroundings(wanted.settings, wanted.all)
    around = remembering(around, store, wanted.settings.feedback) if store is not None else around
    runner = Runner(wanted.settings, clock, Console(stderr=True), first, last, around)
    try:
        judged = []
        for found in runner.live_all(wanted):
            confirmed = confirmed_spans(wanted.settings, found.test.rule, first, last) if diff else []
            one = runner.judge(found, spans, confirmed)
            judged.append(one)
            if not json_out:
                print_judged(console, one)
    finally:
        runner.close()
        if store is not None:
            store.close()
    if json_out:
        print(json.dumps([as_json(one) for one in judged], indent=2, allow_nan=False))
    if report is not None:
        _write(report, judged)
    why = failures(judged, fail_on_more)
    for line in why:
        print(line, file=sys.stderr)
    if why:
        raise typer.Exit(1)


def _database(settings: Settings) -> Store:
    """The daemon's database, which must be there; ``ConfigError`` where it is not."""
    url = settings.database.get()
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        path = url.removeprefix("sqlite:///")
        raise ConfigError([Problem("--as-lived", 0, 0, f"there is no database {path}", "leave the option out")])
    return open_store(url)


def _write(report: Path, judged: list[Judged]) -> None:
    try:
        write_report(report, judged)
    except OSError as error:
        raise ConfigError([Problem(str(report), 0, 0, f"cannot be written: {error.strerror or error}")]) from error
    print(f"report: {report}", file=sys.stderr)
