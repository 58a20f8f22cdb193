"""Several processes that open one new or old database at the same time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anomalyd.store import open_store
from anomalyd.store.upgrade import SCHEMA
from contract.store_kit import PostgresServer, whole_slot

PROCESSES = 3

OPEN = """
import sys
from anomalyd.store import open_store
print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1])
print(store.schema_version, flush=True)
"""

DIE_MIDWAY = """
import os, signal, sys
from pathlib import Path
from anomalyd.store.engine import connect
from anomalyd.store.upgrade import SCHEMA, Schema, upgrade
upgrade(connect(sys.argv[1], 5000), backup=True, schema=Schema((*SCHEMA.revisions, "0005"), Path(sys.argv[2])))
"""

LETHAL = """
import os, signal
import sqlalchemy as sa
from alembic import op
revision = "0005"
down_revision = "0004"
def upgrade():
    op.add_column("slots", sa.Column("note", sa.Text()))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def open_at_once(url: str) -> list[str]:
    """Let several processes open the database in the same moment; return what each said."""
    command = [sys.executable, "-c", OPEN, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        answers.append(out.strip())
    return answers


def test_a_new_file_opened_by_three(tmp_path: Path) -> None:
    """All three find the schema in place, one of them has made it."""
    url = f"sqlite:///{tmp_path}/anomalyd.db"
    assert open_at_once(url) == [SCHEMA.head] * PROCESSES
    store = open_store(url)
    assert store.commit_slot(whole_slot(1))
    assert store.integrity_check() == []
    store.close()


@pytest.mark.server("postgres")
def test_a_new_postgres_database_opened_by_three(postgres: PostgresServer) -> None:
    """All three find the schema in place, one of them has made it."""
    url = postgres.empty()
    assert open_at_once(url) == [SCHEMA.head] * PROCESSES
    store = open_store(url)
    assert store.commit_slot(whole_slot(1))
    store.close()


def test_a_migration_killed_half_way(tmp_path: Path) -> None:
    """kill -9 in the middle of a migration leaves the old schema with all its data, and a whole backup."""
    url = f"sqlite:///{tmp_path}/anomalyd.db"
    store = open_store(url)
    store.commit_slot(whole_slot(1))
    store.close()
    scripts = tmp_path / "migrations"
    shutil.copytree(SCHEMA.folder, scripts)
    (scripts / "versions" / "v0005_lethal.py").write_text(LETHAL)
    command = [sys.executable, "-c", DIE_MIDWAY, url, str(scripts)]
    assert subprocess.run(command, check=False).returncode == -9
    for file in ("anomalyd.db", "anomalyd.db.before-0005-from-0004"):
        store = open_store(f"sqlite:///{tmp_path}/{file}")
        assert len(store.notifications()) == 1
        assert store.integrity_check() == []
        store.close()
