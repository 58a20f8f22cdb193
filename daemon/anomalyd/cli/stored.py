"""What the commands share that work on the store of a settings file: opening it, and printing lists."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalyd import logs
from anomalyd.console.parts import plain
from anomalyd.settings import Settings, load_settings
from anomalyd.store import Store, open_store

Config = Annotated[Path, typer.Option("--config", "--config.file", help="Settings file; it names the database.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
By = Annotated[str, typer.Option("--by", help="Who you are; the system's user by default.")]
DEFAULT = Path("anomalyd.yml")
WIDE = 1_000


@contextmanager
def opened(config: Path) -> Iterator[tuple[Settings, Store]]:
    """The settings and their store, closed at the end. What is logged goes to stderr: stdout is for results."""
    logs.configure("error")
    settings = load_settings(config)
    store = open_store(settings.database.get())
    try:
        yield settings, store
    finally:
        store.close()


def person(by: str) -> str:
    """Who acts on the command line."""
    if by:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "somebody"


def print_json(value: Any) -> None:
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], nothing: str) -> None:
    """A table on a terminal, aligned columns elsewhere; a word where there is nothing."""
    if not rows:
        print(nothing)
        return
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDE)  # for a pipe nothing is cut
    console.print(table)
