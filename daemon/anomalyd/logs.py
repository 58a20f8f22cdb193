"""Structured logs on stderr: logfmt (Prometheus's form) or JSON, one event a line.

Values are escaped by the renderers, so a label with a newline or an escape sequence cannot forge a line; URLs in
exceptions lose everything that may be a credential; numbers have six significant digits. uvicorn's and APScheduler's
own loggers go the same way.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from anomalyd.errors import redact_urls

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _clean(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, float):
            event[key] = float(f"{value:.6g}")
        elif isinstance(value, str):
            event[key] = _CONTROL.sub(lambda m: m.group().encode("unicode_escape").decode(), redact_urls(value))
    return event


def _prometheus_keys(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    ordered = {"ts": event.pop("timestamp"), "level": event.pop("level"), "msg": event.pop("event")}
    return {**ordered, **event}


def configure(level: str = "info", form: str = "logfmt", stream: TextIO | None = None) -> None:
    """Set up logging for the whole process; ``form`` is logfmt or json."""
    out = stream or sys.stderr
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _clean,
        _prometheus_keys,
    ]
    logfmt, json_lines = structlog.processors.LogfmtRenderer(bool_as_flag=False), structlog.processors.JSONRenderer()
    renderer: Any = json_lines if form == "json" else logfmt
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a later configuration reaches loggers that have spoken before
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("apscheduler", "httpx", "httpcore", "urllib3", "uvicorn.access", "alembic", "numba"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get_logger(component: str) -> structlog.stdlib.BoundLogger:
    """A logger that names its component on every line."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(component=component)
    return logger
