"""Logs: one event a line, nothing forged, no credential."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import numpy as np
import pytest

from anomalyd import logs


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def written(form: str) -> tuple[io.StringIO, logging.Logger]:
    out = io.StringIO()
    logs.configure("info", form, out)
    return out, logging.getLogger("uvicorn.error")


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_a_hostile_value_cannot_forge_a_line(form: str) -> None:
    """Newlines, escape sequences and marks that turn the text stay inside the one line of their event."""
    out, _ = written(form)
    logs.get_logger("x").info("seen", series='a\nlevel=error msg="forged"\x1b[31m\u202e')
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert "\x1b" not in lines[0]
    assert "\u202e" not in lines[0]


def test_urls_in_errors_lose_their_credentials() -> None:
    """A webhook's address in an exception is not in the log."""
    out, _ = written("logfmt")
    try:
        raise ValueError("POST https://hooks.example.org/services/T0/B0/canary failed")
    except ValueError:
        logs.get_logger("x").exception("not sent")
    assert "canary" not in out.getvalue()
    assert "hooks.example.org/<redacted>" in out.getvalue()


def test_other_libraries_speak_the_same_form() -> None:
    """uvicorn's loggers come out as JSON lines too, with level and time."""
    out, foreign = written("json")
    foreign.warning("took %s", "long")
    line = json.loads(out.getvalue())
    assert (line["level"], line["msg"]) == ("warning", "took long")
    assert line["ts"].endswith("Z")


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_numbers_are_as_long_as_somebody_reads(form: str) -> None:
    """A value is logged with six significant digits, numpy's too; a whole number, a time say, keeps all of its."""
    out, _ = written(form)
    values = {"a": 55.90169943749474, "b": np.float64(1 / 3000), "c": float("nan"), "at": 1_759_708_800_123}
    logs.get_logger("x").info("seen", **values)
    told = dict(re.findall(r'"?(\w+)"?[=:] ?"?([^ ,"}\n]+)', out.getvalue()))
    assert [told[name] for name in values] == ["55.9017", "0.000333333", told["c"], "1759708800123"]
    assert told["c"].lower() == "nan"


def test_a_later_configuration_reaches_loggers_that_have_spoken() -> None:
    """A logger made before the level was lowered follows it."""
    out, _ = written("logfmt")
    logger = logs.get_logger("x")
    logger.info("one")
    logs.configure("error", "logfmt", out)
    logger.info("two")
    assert "one" in out.getvalue()
    assert "two" not in out.getvalue()
