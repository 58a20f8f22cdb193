"""``anomalyd notices``: what was noted about series and paged nobody, newest first."""

from __future__ import annotations

from typing import Annotated

import typer

from anomalyd.cli.stored import DEFAULT, AsJson, Config, opened, print_json, print_table
from anomalyd.clock import SystemClock
from anomalyd.console import apiview
from anomalyd.render import clean, clock_time, label_text
from anomalyd.slot import Notice


def notices(
    rule: Annotated[str, typer.Option(help="Of this rule only (GROUP/NAME).")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    as_json: AsJson = False,
    config: Config = DEFAULT,
) -> None:
    """List notices, newest first: series that drift away from what was learned of them, which model a fit has put to
    work where a detector has a choice, incidents of the history that a fit did not learn, fits that failed, series that
    are back after they had gone, and targets of remote write that take no scores. Nobody is paged by one; `notices` in
    the settings says who is told."""
    with opened(config) as (_, store):
        found = store.notices(rule=rule or None, limit=limit)
    if as_json:
        print_json([apiview.notice(one) for one in found])
        return
    now = SystemClock().now_ms()
    print_table(("FOUND", "SINCE", "KIND", "RULE", "SERIES", "WHAT"), [_row(one, now) for one in found], "no notices")


def _row(one: Notice, now: int) -> tuple[str, ...]:
    since = clock_time(one.since, now) if one.since else ""
    return clock_time(one.at, now), since, one.kind.value, clean(one.rule, 80), label_text(one.labels, 80), one.text
