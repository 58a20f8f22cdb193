"""Where computing happens: inline, threads, processes or Dask, all as one ``concurrent.futures.Executor``.

A task is data and a top-level function, so it runs the same in each of them. Processes are spawned, never forked (the
daemon has threads), and ``max_tasks_per_child`` is not used (it hangs: cpython #115634).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any, ParamSpec, TypeVar

from anomalyd.errors import ConfigError, Problem

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
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent)
    if kind.startswith("dask://"):
        return _open_dask("tcp://" + kind.removeprefix("dask://"))
    remedy = "use inline, threads, processes or dask://host:port"
    raise ConfigError([Problem("anomalyd.yml", 0, 0, f"unknown executor {kind!r}", remedy)])


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
