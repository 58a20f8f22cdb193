"""Databases for the contract tests: one Postgres server a session, a fresh database a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.store import Store, open_store
from contract.store_kit import PostgresServer
from servers import running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres server; tests that ask for it carry the mark ``server("postgres")``."""
    with running_postgres() as url:
        yield PostgresServer(url)


@pytest.fixture(params=["memory", "file", pytest.param("postgres", marks=pytest.mark.server("postgres"))])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on each engine in turn."""
    urls = {"memory": "sqlite://", "file": f"sqlite:///{tmp_path}/anomalyd.db"}
    url = urls[request.param] if request.param in urls else request.getfixturevalue("postgres").emptied()
    opened = open_store(url)
    yield opened
    opened.close()
