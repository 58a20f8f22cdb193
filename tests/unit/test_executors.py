"""Workers of the processes executor do not outlive the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PARENT = """
import os, sys
from anomalyd.executors import open_executor
if __name__ == "__main__":
    print(open_executor("processes", 1).submit(os.getpid).result(), flush=True)
    sys.stdin.read()  # until it is killed
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # ended, and nobody has asked for its exit code
    except OSError:
        return False


def test_workers_end_with_a_killed_daemon(tmp_path: Path) -> None:
    """`kill -9` of the daemon leaves no worker behind: it would keep its memory until somebody found it."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert not alive(worker)
