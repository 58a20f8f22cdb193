"""Workers of the processes executor: they do not outlive the daemon, and it outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path

import pytest

from anomalyd.errors import DetectorError
from anomalyd.executors import open_executor

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


LEAVES = """
import os, sys, threading
from pathlib import Path
from anomalyd.executors import open_executor
def compute(told):
    Path(told).write_text(str(os.getpid()))
    threading.Event().wait()
if __name__ == "__main__":
    pool = open_executor("processes", 2)
    pool.submit(compute, sys.argv[1])
    pool.submit(os.getpid).result()
    while not (os.path.exists(sys.argv[1]) and Path(sys.argv[1]).read_text()):
        threading.Event().wait(0.01)
    pool.shutdown(wait=False, cancel_futures=True)
    os._exit(0)
"""


def test_a_daemon_that_stops_in_the_middle_of_a_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """It ends at once, its worker is dead by then, and nobody complains of semaphores that leaked."""
    script, told = tmp_path / "leaves.py", tmp_path / "worker"
    script.write_text(LEAVES, encoding="utf-8")
    done = subprocess.run([sys.executable, script, told], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert not alive(int(told.read_text(encoding="utf-8")))
    assert done.stderr == ""


def test_what_comes_after_the_end_is_not_computed() -> None:
    """A task that waits for a process when the pool is shut down is cancelled, or told that the daemon stops."""
    pool = open_executor("processes", 1)
    running, waiting = pool.submit(os.getpid), pool.submit(os.getpid)
    running.result(60)
    pool.shutdown(wait=False, cancel_futures=True)
    with suppress(CancelledError, DetectorError):
        waiting.result(60)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(os.getpid)


def die(how: int) -> int:
    """What the kernel does to a process when memory runs out."""
    os.kill(os.getpid(), how)
    return how


def test_a_worker_that_is_killed_takes_only_its_own_task_along() -> None:
    """Its task says so, the task beside it ends well, and the next ones find a new process."""
    pool = open_executor("processes", 2)
    try:
        beside = pool.submit(sum, range(10))
        killed = pool.submit(die, signal.SIGKILL)
        with pytest.raises(DetectorError, match="out of memory") as caught:
            killed.result(60)
        assert caught.value.reason == "worker"
        assert beside.result(60) == 45
        assert [pool.submit(abs, -i).result(60) for i in range(4)] == [0, 1, 2, 3]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@pytest.mark.skipif(sys.platform != "linux", reason="the order in which a kernel ends processes is Linux's")
def test_a_worker_gives_way_to_the_daemon() -> None:
    """It is nicer, and goes first when memory runs out."""
    pool = open_executor("processes", 1)
    try:
        assert pool.submit(os.nice, 0).result(60) >= os.nice(0) + 5
        assert int(pool.submit(Path.read_text, Path("/proc/self/oom_score_adj")).result(60)) >= 500
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
