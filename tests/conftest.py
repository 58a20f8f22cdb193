"""What all tests share: servers that are absent skip with the reason on a laptop and fail in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

# A property is about what holds, not about how fast a busy machine shows it; pytest's own timeout ends what hangs.
settings.register_profile("anomalyd", deadline=None)
settings.load_profile("anomalyd")

PROGRAMS = {
    "prometheus": ("prometheus", "promtool"),
    "alertmanager": ("prometheus-alertmanager",),
    "node-exporter": ("prometheus-node-exporter",),
    "victoria-metrics": ("victoria-metrics",),
    "postgres": ("/usr/lib/postgresql/*/bin/initdb",),
    "chromium": ("chromium",),
}


def missing_program(server: str) -> str | None:
    """The first program of a server that is not on this machine."""
    for program in PROGRAMS[server]:
        found = any(Path("/").glob(program.lstrip("/"))) if program.startswith("/") else shutil.which(program)
        if not found:
            return program
    return None


REAL = ("system", "browser")
"""Folders whose tests wait for real processes and real clocks."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that waits for real processes gets a second try, told in the summary: a machine may stop for seconds.

    All others run under clocks of their own and have to hold at once.
    """
    for item in items:
        waits = item.path.parent.name in REAL or item.path.name == "test_source_faults.py"
        if waits or item.get_closest_marker("server"):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("server"):
        for server in mark.args:
            if program := missing_program(server):
                reason = f"{server} is not installed here ({program} not found)"
                if os.environ.get("CI") == "true":
                    pytest.fail(f"{reason}; in CI every server must be there", pytrace=False)
                pytest.skip(reason)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What a command sets up for its logs ends with its test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def labelled_data() -> Path:
    """The folder of labelled real series (``ANOMALYD_DATA``, else ``../shared/data``); skip where it is absent."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("ANOMALYD_DATA") or default)
    if not folder.is_dir():
        pytest.skip("labelled series are not here; set ANOMALYD_DATA to their folder")
    return folder
