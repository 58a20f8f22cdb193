"""The progress bar of the workbench's commands."""

from __future__ import annotations

import io

from rich.console import Console

from anomalyd.cli.backtest import bar


def test_a_bar_is_for_terminals() -> None:
    """A log or a pipe gets nothing of it, not even an empty line; a terminal sees what is done."""
    for terminal in (False, True):
        out = io.StringIO()
        with bar(Console(file=out, force_terminal=terminal), "reading") as tick:
            tick(1, 2)
        assert bool(out.getvalue()) == terminal
