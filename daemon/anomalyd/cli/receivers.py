"""``anomalyd receivers``: the receivers of the settings, and a marked test message to one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from anomalyd.clock import SystemClock
from anomalyd.incident import OutcomeKind
from anomalyd.receivers import build_receiver
from anomalyd.render import render
from anomalyd.settings import load_settings
from anomalyd.trial import trial

receivers = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Look at receivers and try them."
)

Config = Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")]


@receivers.command("list")
def list_receivers(config: Config = Path("anomalyd.yml")) -> None:
    """Show the receivers of the settings; no secret is shown."""
    settings = load_settings(config)
    table = Table()
    for column in ("name", "type", "from tier", "default"):
        table.add_column(column)
    for name, receiver in settings.receivers.items():
        default = "yes" if name in settings.default_receivers else ""
        table.add_row(name, receiver.kind, receiver.min_tier, default)
    Console().print(table)


@receivers.command("test")
def send_test(
    name: Annotated[str, typer.Argument(help="Name of the receiver in the settings.")],
    config: Config = Path("anomalyd.yml"),
) -> None:
    """Send a message that says it is a test, past every silence and window; exit 1 when it does not arrive."""
    settings = load_settings(config)
    if name not in settings.receivers:
        known = ", ".join(settings.receivers) or "none"
        typer.echo(f"{config}: there is no receiver {name!r} (there are: {known})", err=True)
        raise typer.Exit(2)
    now = SystemClock().now_ms()
    notification = trial(name, now)
    receiver = build_receiver(settings.receivers[name])
    try:
        outcome = receiver.send(notification, render(notification.statement, now, name), now)
    finally:
        receiver.close()
    if outcome.kind != OutcomeKind.DELIVERED:
        typer.echo(f"{name}: not delivered ({outcome.reason}): {outcome.message}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{name}: delivered")
