"""``anomalyd init``: a first anomalyd.yml and first rules, made for the Prometheus that is there."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from anomalyd.cli.check import check_files
from anomalyd.cli.starter import STARTERS, TARGETS, rules_text, settings_text
from anomalyd.clock import SystemClock
from anomalyd.errors import ConfigError, Problem, SourceError
from anomalyd.prometheus.spec import SourceSpec

DEFAULT_URL = "http://localhost:9090"
SETTINGS_FILE = "anomalyd.yml"
RULES_FILE = "rules/first.yml"
PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Probe:
    """Which well-known metrics a Prometheus has, with their number of series; ``failure`` when it did not answer."""

    found: dict[str, int]
    failure: str = ""


def probe(spec: SourceSpec) -> Probe:
    """Ask a Prometheus once which of the metrics of ``STARTERS`` it has."""
    from anomalyd.prometheus.source import PrometheusSource

    names = "|".join(s.metric for s in (TARGETS, *STARTERS))
    source = PrometheusSource(spec)
    try:
        reply = source.instant(f'count by (__name__) ({{__name__=~"{names}"}})', SystemClock().now_ms())
    except SourceError as error:
        return Probe({}, str(error))
    finally:
        source.close()
    counts = zip(reply.block.labels, reply.block.values[:, -1], strict=True)
    return Probe({dict(labels).get("__name__", ""): int(count) for labels, count in counts})


def _spec(url: str) -> SourceSpec:
    try:
        return SourceSpec("default", url, timeout_s=PROBE_TIMEOUT_S)
    except ValueError as error:
        raise ConfigError([Problem("--prometheus", 0, 0, str(error))]) from None


def _refuse_existing(folder: Path) -> None:
    """Overwrite nothing that somebody may have edited."""
    there = [path for path in (folder / SETTINGS_FILE, folder / RULES_FILE) if path.exists()]
    if there:
        hint = "--force overwrites it, or name another folder"
        raise ConfigError([Problem(str(path), 0, 0, "is there already", hint) for path in there])


def _write(folder: Path, texts: dict[str, str]) -> list[Path]:
    paths = {folder / name: text for name, text in texts.items()}
    try:
        for path, text in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        where = str(error.filename or folder)
        raise ConfigError([Problem(where, 0, 0, f"cannot be written: {error.strerror or error}")]) from error
    return list(paths)


def _neighbours(folder: Path) -> list[Path]:
    """Other files where the rules go: somebody's rules, or the packs of a checkout, which are not taken unasked."""
    rules = folder / RULES_FILE
    return sorted(path for path in rules.parent.glob("*.yml") if path != rules)


def _note(url: str, probed: Probe) -> str:
    if probed.failure:
        return f"No metrics were looked up: {url} did not answer. Run `anomalyd init --force` again when it does."
    titles = [f"{s.title} ({probed.found[s.metric]} series)" for s in STARTERS if s.metric in probed.found]
    return f"Found at {url}: {', '.join(titles) or 'none of the metrics that are known here'}."


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write.")] = Path(),
    prometheus: Annotated[str, typer.Option("--prometheus", metavar="URL", help="Your Prometheus.")] = DEFAULT_URL,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Write a commented anomalyd.yml and a first rules file for your Prometheus.

    The Prometheus is asked which well-known metrics it has (node_exporter, HTTP requests, Prometheus itself), and the
    rules are written for those. Without an answer they are written for what every Prometheus has.
    """
    spec = _spec(prometheus)
    if not force:
        _refuse_existing(folder)
    probed = probe(spec)
    note = _note(prometheus, probed)
    others = _neighbours(folder)
    texts = {SETTINGS_FILE: settings_text(prometheus, not others), RULES_FILE: rules_text(probed.found, note)}
    written = _write(folder, texts)
    if probed.failure:
        print(f"warning: {probed.failure}", file=sys.stderr)
    print(note)
    checked = check_files([str(written[0])])
    for path in written:
        print(f"wrote {path}")
    for one in checked:
        for problem in one.problems:
            print(problem, file=sys.stderr)
    if others:
        print(f"{SETTINGS_FILE} names {RULES_FILE} alone: {len(others)} other in {others[0].parent} are left out")
    print(f"\nNext: anomalyd check {written[0]}\n      anomalyd run --config {written[0]}")
    if any(one.problems for one in checked):
        raise typer.Exit(2)
