"""``anomalyd replay``: would the daemon say the same again?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from anomalyd import logs
from anomalyd.app import open_sources
from anomalyd.ballot import StoredFeedback
from anomalyd.episode import Episode
from anomalyd.errors import AnomalydError
from anomalyd.prometheus.source import PrometheusSource
from anomalyd.replay import Finding, Replay, replay
from anomalyd.rule import Rule
from anomalyd.rulefiles.read import load_rules
from anomalyd.settings import load_settings
from anomalyd.sources import Source
from anomalyd.store import Store, open_store
from anomalyd.workbench.htmlreport import label_text, when
from anomalyd.workbench.report.svg import short

SLOTS_SHOWN = 40


class NoSuchEpisode(AnomalydError):
    """The database has no episode with this id."""

    reason = "not_found"


@dataclass(frozen=True, slots=True)
class PastAlert:
    """An episode with all that computing it again takes."""

    episode: Episode
    rule: Rule | None
    store: Store
    source: Source
    feedback: StoredFeedback


@contextmanager
def past_alert(episode: str, config: Path) -> Iterator[PastAlert]:
    """Look up an episode, its rule and its source; raise ``NoSuchEpisode``. All is closed at the end."""
    logs.configure("error", stream=sys.stderr)
    settings = load_settings(config)
    rules = load_rules(settings.rule_files, settings)
    store = open_store(settings.database.get())
    sources = open_sources(settings)
    try:
        found = store.episode(episode)
        if found is None:
            raise NoSuchEpisode(f"the database knows no episode {episode!r}; `anomalyd alerts` lists their ids")
        rule = rules.rule(found.rule)
        source = sources[rule.source] if rule is not None else next(iter(sources.values()))
        yield PastAlert(found, rule, store, source, StoredFeedback(store, settings.feedback))
    finally:
        for one in sources.values():
            if isinstance(one, PrometheusSource):
                one.close()
        store.close()


def run_replay(
    episode: Annotated[str, typer.Argument(metavar="EPISODE", help="Id of an episode, as notifications name it.")],
    config: Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")] = Path("anomalyd.yml"),
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compute the scores of a past alert again, from the source and its model, and compare them with the stored ones.

    Exit code 0: equal; 1: they differ or cannot be computed, and what has changed is said; 2: wrong files.
    """
    with past_alert(episode, config) as past:
        result = replay(past.episode, past.rule, past.store, past.source, past.feedback)
    day = past.rule.day_at(past.episode.peak_at) if past.rule is not None else ""
    if json_out:
        print(json.dumps({**as_json(result), "day": day}, indent=2))
    else:
        print_replay(Console(soft_wrap=True), result, day)
    if result.finding != Finding.EQUAL:
        raise typer.Exit(1)


def as_json(result: Replay) -> dict[str, Any]:
    """The result for scripts."""
    slots = [{k: None if v != v else v for k, v in asdict(slot).items()} for slot in result.slots]
    return {
        "episode": result.episode.id, "rule": result.episode.rule, "finding": result.finding.value,
        "causes": list(result.causes), "largest_difference": min(result.largest, 1e9), "slots": slots,
    }  # fmt: skip


def print_replay(console: Console, result: Replay, day: str = "") -> None:
    """The result for people; ``day`` is what is said of the day."""
    e = result.episode
    console.print(f"{e.rule}  {label_text(e.labels)}  {when(e.started_at)} UTC", markup=False, highlight=False)
    if day:
        console.print(day, markup=False, highlight=False)
    words = {
        Finding.EQUAL: f"equal: {len(result.slots)} slots, largest relative difference {result.largest:.1e}",
        Finding.DIFFERENT: "different",
        Finding.IMPOSSIBLE: "cannot be computed again",
    }
    console.print(words[result.finding], highlight=False)
    for cause in result.causes:
        console.print(f"  {cause}", markup=False, highlight=False)
    differing = [slot for slot in result.slots if not slot.equal]
    if differing:
        table = Table(title="Slots that differ", title_justify="left")
        for column in ("slot", "value then", "now", "expected then", "now", "surprise then", "now"):
            table.add_column(column, justify="right")
        for s in differing[:SLOTS_SHOWN]:
            numbers = (s.value, s.value_now, s.expected, s.expected_now, s.surprise, s.surprise_now)
            table.add_row(when(s.at), *(short(number) for number in numbers))
        console.print(table)
