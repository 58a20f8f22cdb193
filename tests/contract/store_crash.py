"""A process that is killed while it writes: run with a database URL and a number of rounds.

In round k a child commits slots and kills itself with SIGKILL right before its k-th statement of the last slot; what
it had acknowledged by then it has printed. It forks, because a fresh interpreter a round would take minutes.
"""

from __future__ import annotations

import os
import signal
import sys

import sqlalchemy as sa

from anomalyd.store import open_store
from contract.store_kit import whole_slot


def die_at(statement: int, url: str, slot: int) -> None:
    """Commit one slot, then a second one that is killed right before its ``statement``-th statement."""
    store = open_store(url)
    acknowledged = [slot] if store.commit_slot(whole_slot(slot)) else []
    print(*acknowledged, flush=True)
    seen = 0

    def kill(*_args: object) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", kill)
    sa.event.listen(sa.Engine, "commit", kill)
    if store.commit_slot(whole_slot(slot + 1)):
        print(slot + 1, flush=True)
    os._exit(0)


def main(url: str) -> None:
    """Kill at every statement in turn until a child comes through."""
    for statement in range(1, 100):
        child = os.fork()
        if child == 0:
            die_at(statement, url, 1000 * statement)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            print("done", statement, flush=True)
            return
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"child ended with {status}"


if __name__ == "__main__":
    main(sys.argv[1])
