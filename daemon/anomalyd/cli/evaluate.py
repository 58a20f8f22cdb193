"""``anomalyd evaluate``: how right a rule's scores and alerts are, or without labels how clearly they speak."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from anomalyd import logs
from anomalyd.ballot import cuts_now
from anomalyd.block import fingerprint
from anomalyd.cli.asked import moment, seconds, within
from anomalyd.cli.backtest import Runner, choose
from anomalyd.cli.evaluateview import Judged, as_json, print_judged, sheet_of
from anomalyd.clock import SystemClock
from anomalyd.detectors.registry import load_detector
from anomalyd.errors import StoreError
from anomalyd.rule import DetectorSpec, Rule
from anomalyd.settings import Settings
from anomalyd.store import Store, open_store
from anomalyd.workbench.appraise import (
    appraise,
    appraise_alarms,
    appraise_dummy,
    likeness,
    look_at,
    look_at_dummy,
    stored,
)
from anomalyd.workbench.backtest import Backtest, grid_span
from anomalyd.workbench.htmlreport import span_text
from anomalyd.workbench.report.figures import alarms_above
from anomalyd.workbench.report.sheet import write_sheets
from anomalyd.workbench.truth import Row, Truth, labelled, read_rows, said
from anomalyd.workbench.tuning import live_within, name_of, spec_of, usable

SEEDS = 2
OTHERS = ("mad", "stl", "auto")
"""What a replayed rule is compared with where nothing else is asked for."""
_SQLITE = "sqlite:///"


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
        where = f"{first.rule or 'any rule'}, {span_text(first.start, first.end)}"
        print(f"{len(idle)} of {len(rows)} labelled spans meet no series in the span; the first: {where}",
              file=sys.stderr)  # fmt: skip


def judge(test: Backtest, truth: Truth, replayed: bool) -> Judged:
    """All measures that need no other replay."""
    labels = (appraise(test, truth), appraise_dummy(test, truth)) if truth else None
    return Judged(test, truth, replayed, labels, (look_at(test), look_at_dummy(test)))


def judge_now(one: Judged, store: Store, settings: Settings, now: int) -> Judged:
    """Add what the cuts of now, votes and exceptions included, would have raised on the stored scores."""
    test, hits = one.test, one.test.hits
    series = [fingerprint(labels) for labels in test.labels]
    cuts = cuts_now(store, test.rule, series, (hits.row, hits.at, hits.surprise), now, settings.feedback)
    raised = alarms_above(test, cuts)
    labels = appraise_alarms(test, one.truth, raised) if one.labels is not None else None
    return replace(one, now=labels, alerts_now=len(raised))


def members_of(spec: DetectorSpec) -> tuple[DetectorSpec, ...]:
    """The members of an ensemble, also of one that names none; nothing for any other detector."""
    if spec.type != "ensemble" or spec.members:
        return spec.members
    defaults = load_detector("ensemble").Params().model_dump()["members"]
    return tuple(DetectorSpec(member["type"], member["params"]) for member in defaults)


def compare(one: Judged, others: Sequence[str], still: Callable[[], bool]) -> Judged:
    """Replay the rule with the members of its ensemble, other seeds and other detectors, as long as there is time."""
    rule, found, untried = one.test.rule, [], []
    versions = [(f"member {name_of(one)}", replace(rule, detector=one)) for one in members_of(rule.detector)]
    versions += [(f"seed {rule.seed + i}", replace(rule, seed=rule.seed + i)) for i in range(1, SEEDS + 1)]
    for name in others:
        spec = spec_of(name)
        if spec.type != rule.detector.type and usable(spec, rule):
            versions.append((name, replace(rule, detector=spec)))
    for name, version in versions:
        test = live_within(version, one.test.history, one.test.start, one.test.end, still)
        if test is None:
            untried.append(name)
        else:
            found.append(likeness(name, one.test, test, one.truth if one.labels is not None else None))
    return replace(one, likenesses=tuple(found), untried=tuple(untried))


def _stored(store: Store | None, rule: Rule, first: int, last: int) -> Backtest | None:
    """What is stored of a rule; None, and a word about it, where there is nothing."""
    start, end = grid_span(rule, first, last)
    test = stored(store, rule, start, end) if store is not None and start <= end else None
    if test is None:
        span = span_text(first, last, rule.timezone)
        print(f"{rule.id}: the database holds no scores from {span}", file=sys.stderr)
    return test


# The command ---------------------------------------------------------------------------------------------------------


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
                if not replay and store is not None:
                    one = judge_now(one, store, wanted.settings, now)
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
