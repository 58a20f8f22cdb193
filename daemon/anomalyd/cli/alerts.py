"""``anomalyd alerts``: what was told, newest first, with the ids that votes need."""

from __future__ import annotations

from typing import Annotated

import typer

from anomalyd.cli.stored import DEFAULT, AsJson, Config, opened, print_json, print_table
from anomalyd.clock import SystemClock
from anomalyd.console import apiview
from anomalyd.episode import Episode, Phase
from anomalyd.feedback.votes import labels_of
from anomalyd.render import clean, clock_time, label_text, number, span


def alerts(
    rule: Annotated[str, typer.Option(help="Of this rule only (GROUP/NAME).")] = "",
    open_only: Annotated[bool, typer.Option("--open", help="Only what is open now.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    as_json: AsJson = False,
    config: Config = DEFAULT,
) -> None:
    """List alerts (episodes that were told), newest first, with their verdicts."""
    with opened(config) as (_, store):
        # Episodes that never opened are in the store too, so more than the limit is read.
        found = store.episodes(rule=rule or None, phase=Phase.OPEN if open_only else None, limit=limit * 5)
        told = [episode for episode in found if episode.opened_at][:limit]
        verdicts: dict[str, str] = {}
        for episode in told:
            given = [vote for vote in store.feedback(episode=episode.id) if not vote.undone_at]
            verdicts |= {id: label.value for id, label in labels_of(given).items()}
        if as_json:
            print_json([{**apiview.episode(e), "verdict": verdicts.get(e.id)} for e in told])
            return
    now = SystemClock().now_ms()
    rows = [_row(e, verdicts.get(e.id, ""), now) for e in told]
    head = ("EPISODE", "SINCE", "LASTED", "TIER", "RULE", "SERIES", "WORST", "EXPECTED", "VERDICT")
    print_table(head, rows, "no alerts")


def _row(e: Episode, verdict: str, now: int) -> tuple[str, ...]:
    lasted = span(e.closed_at - e.started_at) if e.phase == Phase.CLOSED else "open"
    return (
        e.id, clock_time(e.started_at, now), lasted, e.tier.word, clean(e.rule, 80), label_text(e.labels, 80),
        number(e.peak_value), number(e.peak_expected), verdict,
    )  # fmt: skip
