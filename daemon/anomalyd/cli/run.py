"""``anomalyd run``: the daemon."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from anomalyd import logs
from anomalyd.app import App, build
from anomalyd.clock import SystemClock
from anomalyd.console.mount import parts_of
from anomalyd.console.parts import Parts
from anomalyd.console.server import WebServer
from anomalyd.console.web import Probes, build_web
from anomalyd.errors import StoreError
from anomalyd.evaluation.rulerun import Attendance
from anomalyd.preflight import load_checked
from anomalyd.rulefiles.read import load_rules
from anomalyd.run import Drive


def run(
    config: Annotated[Path, typer.Option("--config", "--config.file", help="Settings file.")] = Path("anomalyd.yml"),
    log_level: Annotated[str, typer.Option("--log.level", help="debug, info, warn or error; over the file's.")] = "",
    log_format: Annotated[str, typer.Option("--log.format", help="logfmt or json; over the file's.")] = "",
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; SIGHUP reloads the files."""
    settings = load_checked(config)
    level = (log_level or settings.log.level).lower()
    logs.configure("warning" if level == "warn" else level, log_format or settings.log.format)
    rules = load_rules(settings.rule_files, settings)
    os.umask(0o077)  # the database and what lies beside it are the daemon's own
    app = build(settings, rules, SystemClock())
    drive = Drive(app.daemon, app.reload, app.files_changed)
    drive.handle_signals()
    server = None
    try:
        web = build_web(probes_of(app, drive), app.daemon.metrics.registry, console_of(app))
        server = WebServer(web, settings.web.host, settings.web.port, settings.file)
        server.start()
        log = logs.get_logger("main")
        listen = f"{settings.web.host}:{server.port}"
        log.info("running", rules=len(rules.rules), groups=len(rules.groups), listen=listen)
        drive.run()
        log.info("stopped")
    finally:
        if server is not None:
            server.stop()
        app.close()
    _leave()


def _leave() -> None:
    """End the process though a query may hang: pool threads would be waited for until its deadline.

    Everything worth keeping is in the store, and the store is closed.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def probes_of(app: App, drive: Drive) -> Probes:
    """What the web server may ask of a running daemon."""

    def ready() -> tuple[bool, str]:
        try:
            app.store.ping()
        except StoreError as error:
            return False, f"the database does not answer ({error.reason})"
        return True, "ready" if app.daemon.leading else "ready; standing by, another daemon leads"

    return Probes(app.daemon.healthy, ready, drive.reload_now if app.settings.web.enable_lifecycle else None)


def console_of(app: App) -> Parts:
    """What the pages and the API may ask of a running daemon."""

    def attendance(rule_id: str) -> Attendance | None:
        run = app.daemon.evaluator.runs.get(rule_id)
        return run.attendance if run is not None else None

    return parts_of(
        app.store, app.daemon.clock, lambda: app.settings, lambda: {rule.id: rule for rule in app.rules.rules},
        app.feedback.changed, app.wiring.pictures, attendance, app.daemon.evaluator.runs.get,
    )  # fmt: skip
