"""``anomalyd silence``: keep alerts quiet for a time."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from anomalyd.cli.stored import DEFAULT, AsJson, By, Config, opened, person, print_json, print_table
from anomalyd.clock import SystemClock
from anomalyd.console import apiview
from anomalyd.console.parts import check_silence
from anomalyd.durations import parse_duration
from anomalyd.matcher import parse_matchers
from anomalyd.records import Silence
from anomalyd.render import clean, clock_time

silence = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True,
    help="Keep alerts quiet for a time; list and end silences.",
)  # fmt: skip


@silence.command("add")
def add(
    matchers: Annotated[str, typer.Argument(help="As in Alertmanager: 'rule=\"shop/Latency\", region=~\"eu-.*\"'.")],
    lasting: Annotated[str, typer.Option("--for", help="How long from now: 2h, 1d.")] = "2h",
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    by: By = "",
    as_json: AsJson = False,
    config: Config = DEFAULT,
) -> None:
    """Silence what meets all matchers, from now on."""
    now = SystemClock().now_ms()
    try:
        chosen, length = parse_matchers(matchers), parse_duration(lasting)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    text = clean(comment, 1_000)
    made = Silence(secrets.token_hex(10), chosen, now, now + length, person(by), text, created_at=now)
    check_silence(made, now)
    with opened(config) as (_, store):
        store.add_silence(made)
    if as_json:
        print_json(apiview.silence(made))
    else:
        print(f"{made.id}: silent until {clock_time(made.ends_at, now)}")


@silence.command("list")
def list_silences(
    ended: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    as_json: AsJson = False,
    config: Config = DEFAULT,
) -> None:
    """List the silences that hold or will."""
    now = SystemClock().now_ms()
    with opened(config) as (_, store):
        found = store.silences(None if ended else now)
    if as_json:
        print_json([apiview.silence(one) for one in found])
        return
    rows = [
        (
            s.id, clock_time(s.starts_at, now), clock_time(s.ends_at, now),
            ", ".join(f'{m.name}{m.op}"{clean(m.value, 60)}"' for m in s.matchers), s.created_by, clean(s.comment, 80),
        )
        for s in found
    ]
    print_table(("SILENCE", "FROM", "UNTIL", "MATCHERS", "BY", "WHY"), rows, "no silences")


@silence.command("expire")
def expire(
    id: Annotated[str, typer.Argument(help="As `silence list` shows it.")],
    config: Config = DEFAULT,
) -> None:
    """End a silence now."""
    with opened(config) as (_, store):
        if not store.expire_silence(id, SystemClock().now_ms()):
            print("there is no such silence, or it has ended")
            raise typer.Exit(1)
    print("ended")
