"""kill -9 at every statement of a slot: nothing acknowledged is lost, nothing half-written is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anomalyd.store import Store, open_store
from contract.store_kit import MINUTE, RULE, PostgresServer

SCRIPT = Path(__file__).with_name("store_crash.py")


def killed_everywhere(url: str) -> tuple[list[int], int]:
    """Run the script; return the slots it acknowledged and at how many statements it was killed."""
    here = os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": here, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), url]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.split("\n")[:-1]
    assert last.startswith("done ")
    return [int(line) for line in lines], int(last.split()[1]) - 1


def check(store: Store, acknowledged: list[int], rounds: int) -> None:
    """Each acknowledged slot is there in all its parts, and no part of any other."""
    assert len(acknowledged) == rounds + 2, "one whole slot a round, and in the last round both"
    slots = [number * MINUTE for number in acknowledged]
    assert [row.at for row in store.rule_slots(RULE, 0, 2**62)] == slots
    assert [one.at for one in store.scores(RULE, 0, 2**62)] == slots
    names = {str(number) for number in acknowledged}
    assert {found.id for found in store.live_episodes(RULE)} == {f"e{name}" for name in names}
    assert {found.id for found in store.open_incidents(RULE)} == {f"i{name}" for name in names}
    assert {row.notification.id for row in store.notifications(limit=1000)} == {f"n{name}" for name in names}
    assert store.last_slot("shop") == max(slots)
    assert store.integrity_check() == []


def test_killed_at_every_statement_on_sqlite(tmp_path: Path) -> None:
    """SQLite: slots are whole or not there, whichever statement was the last."""
    url = f"sqlite:///{tmp_path}/anomalyd.db"
    open_store(url).close()
    acknowledged, rounds = killed_everywhere(url)
    assert rounds >= 8
    store = open_store(url)
    check(store, acknowledged, rounds)
    store.close()


@pytest.mark.server("postgres")
def test_killed_at_every_statement_on_postgres(postgres: PostgresServer) -> None:
    """Postgres: slots are whole or not there, whichever statement was the last."""
    url = postgres.migrated()
    acknowledged, rounds = killed_everywhere(url)
    assert rounds >= 8
    store = open_store(url)
    check(store, acknowledged, rounds)
    store.close()
