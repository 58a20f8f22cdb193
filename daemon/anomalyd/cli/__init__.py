"""The command line. One file per command; a command's module is imported when it is run, so ``--help`` stays quick.

Exit codes: 0 done, 1 failed, 2 wrong arguments or configuration. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from anomalyd import __version__


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: where its function (or its own ``typer.Typer``) is, and its line in the help."""

    module: str
    attribute: str
    help: str


COMMANDS: dict[str, Entry] = {
    "demo": Entry("anomalyd.cli.demo", "demo", "Watch the daemon at work on a small web shop; needs no server."),
    "run": Entry("anomalyd.cli.run", "run", "Run the daemon."),
    "init": Entry("anomalyd.cli.init", "init", "Write a first anomalyd.yml and rules for your Prometheus."),
    "check": Entry("anomalyd.cli.check", "check", "Check settings and rules; say what is wrong, and where."),
    "test": Entry("anomalyd.cli.test", "run_tests", "Run unit tests of rules: what comes of given series."),
    "receivers": Entry("anomalyd.cli.receivers", "receivers", "Look at receivers; send one a test message."),
    "backtest": Entry("anomalyd.cli.backtest", "run_backtest", "See what rules would have paged in the past."),
    "replay": Entry("anomalyd.cli.replay", "run_replay", "Compute the scores of a past alert again and compare."),
    "shadow": Entry("anomalyd.cli.shadow", "shadow", "Compare shadow rules with live ones; promote them."),
    "query-cost": Entry("anomalyd.cli.querycost", "query_cost", "Measure what rules cost their source."),
    "evaluate": Entry("anomalyd.cli.evaluate", "run_evaluate", "Measure how right rules and their scores are."),
    "alerts": Entry("anomalyd.cli.alerts", "alerts", "List alerts, with the ids that votes need."),
    "notices": Entry("anomalyd.cli.notices", "notices", "List what was noted and paged nobody: drift, models, ..."),
    "explain": Entry("anomalyd.cli.explain", "run_explain", "Say who found a past alert: members, series, model."),
    "feedback": Entry("anomalyd.cli.feedback", "feedback", "Vote on alerts; list, preview and undo votes."),
    "silence": Entry("anomalyd.cli.silence", "silence", "Keep alerts quiet for a time; list and end silences."),
    "tune": Entry("anomalyd.cli.tune", "run_tune", "Try what would serve a rule better, and print the change."),
    "schema": Entry("anomalyd.cli.schema", "schema", "Print the JSON Schema of settings or rules, for editors."),
}
"""All commands in the order of the help. A new command is one line here and one file."""


def load_command(name: str) -> Any:
    """Import a command and make it what typer runs."""
    entry = COMMANDS[name]
    target = getattr(importlib.import_module(entry.module), entry.attribute)
    if not isinstance(target, typer.Typer):
        single = _typer()
        single.command(name, help=target.__doc__)(target)
        target = single
    return typer.main.get_command(target)


class _Lazy(TyperCommand):
    """Stands for a command in the help; becomes the real one when it is used."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return load_command(str(self.name)).make_context(info_name, args, parent, **extra)


class LazyGroup(TyperGroup):
    """A group whose commands are in ``COMMANDS``."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else _Lazy(cmd_name, help=entry.help, callback=_nothing)


def _nothing() -> None:
    """A command without a callback is left out of the help."""


def _typer(**more: Any) -> typer.Typer:
    # Tracebacks are for bugs, and then plain ones: rich prints local variables, which may be secrets.
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **more)


app = _typer(cls=LazyGroup, no_args_is_help=True)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"anomalyd {__version__}")
        raise typer.Exit


@app.callback(help="Anomaly detection and alerting for Prometheus.")
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run the command line; errors raised on purpose are told in their own words, without a traceback."""
    from anomalyd.errors import AnomalydError, ConfigError, redact_urls

    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        sys.exit(2)
    except AnomalydError as error:
        print(f"error: {redact_urls(str(error))}", file=sys.stderr)
        sys.exit(1)
