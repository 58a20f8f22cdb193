"""Where computing happens: inline, threads, processes or Dask, all as one ``concurrent.futures.Executor``.

A task is data and a top-level function, so it runs the same in each of them. Processes are spawned, never forked (the
daemon has threads), and ``max_tasks_per_child`` is not used (it hangs: cpython #115634). Each process is a pool by
itself: one that is killed, for want of memory say, takes only its own task along, and the next task finds a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from anomalyd.errors import ConfigError, DetectorError, Problem

P = ParamSpec("P")
T = TypeVar("T")

DASK_TIMEOUT_S = 10
"""How long a start waits for a Dask scheduler."""


class InlineExecutor(Executor):
    """Runs each task at once in the caller's thread; its futures are done when they are returned."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # the future carries it to whoever asks for the result, as every executor does
            future.set_exception(error)
        return future


def open_executor(kind: str, workers: int = 2) -> Executor:
    """Open an executor by its name in the settings: ``inline``, ``threads``, ``processes`` or ``dask://host:port``."""
    if kind == "inline":
        return InlineExecutor()
    if kind == "threads":
        return ThreadPoolExecutor(workers, thread_name_prefix="compute")
    if kind == "processes":
        return Processes(workers)
    if kind.startswith("dask://"):
        return _open_dask("tcp://" + kind.removeprefix("dask://"))
    remedy = "use inline, threads, processes or dask://host:port"
    raise ConfigError([Problem("anomalyd.yml", 0, 0, f"unknown executor {kind!r}", remedy)])


class Processes(Executor):
    """So many processes, each begun with its first task and replaced when it dies.

    A task whose process dies ends with ``DetectorError`` ("worker"). One pool for all processes would break for good by
    the first death, and end the tasks of the others too.
    """

    def __init__(self, workers: int):
        self._idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        self._all: set[ProcessPoolExecutor] = set()
        self._lock, self._over = threading.Lock(), False
        for _ in range(workers):
            self._idle.put(self._begin())
        self._waiting = ThreadPoolExecutor(workers, thread_name_prefix="fit")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._waiting.submit(self._run, fn, *args, **kwargs)

    def _run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        pool = self._idle.get()
        try:
            with self._lock:  # whom ``shutdown`` ends has begun before it, or never begins
                if self._over:
                    raise DetectorError("worker", "the daemon stops")
                future = pool.submit(fn, *args, **kwargs)
            return future.result()
        except BrokenExecutor as error:
            pool = self._replace(pool)
            text = "the process that computed it died: killed, or out of memory (fewer workers or series need less)"
            raise DetectorError("worker", text) from error
        finally:
            self._idle.put(pool)

    def _begin(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=as_worker)
        self._all.add(pool)
        return pool

    def _replace(self, pool: ProcessPoolExecutor) -> ProcessPoolExecutor:
        with self._lock:
            if self._over:
                return pool
            self._all.discard(pool)
            pool.shutdown(wait=False)
            return self._begin()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the processes; without ``wait`` what they compute is given up, and they are ended at once."""
        with self._lock:
            self._over = True
        self._waiting.shutdown(wait=wait, cancel_futures=cancel_futures)
        for pool in self._all:
            if not wait:
                _kill(pool)
            # A pool whose process is gone ends at once. Not to wait for that would leave its semaphores to the
            # resource tracker, which complains of a leak when the daemon has left.
            pool.shutdown(wait=True, cancel_futures=cancel_futures)


def _kill(pool: ProcessPoolExecutor) -> None:
    """End a pool's processes; what ``ProcessPoolExecutor.kill_workers`` does from Python 3.14 on."""
    for process in list((pool._processes or {}).values()):
        process.kill()


FIRST_TO_GO = 500
"""How much sooner than the daemon a worker is chosen when the machine is out of memory (``oom_score_adj``)."""

NICENESS = 5
"""Fits give way to ticks where there are not enough cores for both."""


def as_worker() -> None:
    """What a process does first: it ends with the daemon, gives way to it, and goes before it when memory runs out."""
    end_with_parent()
    os.nice(NICENESS)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO), encoding="ascii")
    except OSError:
        return  # not Linux, or not allowed: the kernel chooses as it does


def end_with_parent() -> None:
    """Let this worker end when the daemon does, by ``kill -9`` too: the pool's own workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), name="parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


class _DaskExecutor(Executor):
    """A Dask cluster's executor that lets go of its connection when it is shut down."""

    def __init__(self, client: Any):
        self._client = client
        # pure=False: Dask would answer equal calls with one result (measured), and a fit must never be a stale one.
        self._tasks: Any = client.get_executor(pure=False)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._tasks.submit(fn, *args, **kwargs)  # type: ignore[no-any-return]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # Dask's own takes no cancel_futures; what is under way ends with the connection.
        self._tasks.shutdown(wait=wait and not cancel_futures)
        self._client.close()


def _open_dask(address: str) -> Executor:
    try:
        from distributed import Client
    except ImportError:
        problem = Problem("anomalyd.yml", 0, 0, "executor dask:// needs a package", "pip install 'anomalyd[dask]'")
        raise ConfigError([problem]) from None
    try:
        return _DaskExecutor(Client(address, set_as_default=False, timeout=DASK_TIMEOUT_S))  # type: ignore[no-untyped-call]
    except OSError as error:
        what = f"no Dask scheduler answers at {address}: {error}"
        remedy = "start one (dask scheduler), correct executor, or use threads"
        raise ConfigError([Problem("anomalyd.yml", 0, 0, what, remedy)]) from None
