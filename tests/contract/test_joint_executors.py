"""Joint models learned by any executor: the same state and the same scores, to the bit, as learned in place."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.detectors.base import Grid, State
from anomalyd.detectors.model import Model
from anomalyd.errors import ConfigError
from anomalyd.executors import InlineExecutor, open_executor
from anomalyd.rule import DetectorSpec
from anomalyd.shard import FitTask, fit_shard

STEP, START, PAST, LIVE = 300_000, 1_760_054_400_000, 420, 30
GRID = Grid(STEP, group_by=("host",))
DETECTORS = (
    DetectorSpec("auto", {"joint": True}),
    DetectorSpec("knn", {"joint": True, "contexts": 512}),
    DetectorSpec("ensemble", {"members": [
        {"type": "auto", "params": {"joint": True}}, {"type": "knn", "params": {"joint": True, "contexts": 256}},
    ]}),
)  # fmt: skip


def machines() -> Block:
    """Two machines, of three channels and of two; one channel has a gap."""
    rng = np.random.default_rng(11)
    load = np.sin(np.arange(PAST + LIVE) * 2 * np.pi / 72) + rng.normal(size=PAST + LIVE) * 0.3
    values = np.vstack([np.outer([1.0, 2.0, 3.0], load), rng.normal(size=(2, PAST + LIVE))])
    values += rng.normal(size=values.shape) * 0.1
    values[1, 100:140] = np.nan
    values[0, PAST + 20 : PAST + 24] += 9
    labels = tuple(make_labels({"host": host, "metric": m}) for host, m in ("a0", "a1", "a2", "b0", "b1"))
    return Block(labels, START + STEP * np.arange(PAST + LIVE, dtype=np.int64), values)


@contextmanager
def executor(kind: str) -> Iterator[Executor]:
    """An executor of the kind, with a Dask scheduler and one worker process of the test's own where it needs them."""
    if kind != "dask":
        with open_executor(kind, 1) as found:
            yield found
        return
    from distributed import LocalCluster

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, protocol="tcp"
    ) as cluster:
        found = open_executor("dask://" + cluster.scheduler_address.removeprefix("tcp://"))
        try:
            yield found
        finally:
            found.shutdown()


def learned(by: Executor, block: Block) -> list[State]:
    """What each detector learns of the past, all tasks under way at once."""
    past = block.window(0, PAST)
    futures = [by.submit(fit_shard, FitTask(spec, GRID, 5, past)) for spec in DETECTORS]
    return [future.result(timeout=120).state for future in futures]


@pytest.mark.parametrize("kind", ["threads", "processes", "dask"])
def test_any_executor_gives_the_same_joint_scores(kind: str) -> None:
    """What another thread, process or machine learned scores the live samples as what was learned in place does."""
    block = machines()
    wanted = learned(InlineExecutor(), block)
    with executor(kind) as by:
        found = learned(by, block)
    for spec, here, there in zip(DETECTORS, wanted, found, strict=True):
        assert here.shared == there.shared
        assert here.arrays.keys() == there.arrays.keys()
        for name, array in here.arrays.items():
            np.testing.assert_array_equal(array, there.arrays[name], err_msg=f"{spec.type} {name}")
        model, fresh = Model(spec, GRID, 5), block.window(PAST)
        mine, theirs = model.score(here, fresh, 3.0)[0], model.score(there, fresh, 3.0)[0]
        assert np.isfinite(mine.surprise).any(), spec.type
        np.testing.assert_array_equal(mine.surprise, theirs.surprise)


def test_a_dask_scheduler_that_does_not_answer() -> None:
    """Told with address and remedy, not as a traceback of a library."""
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9: .*start one"):
        open_executor("dask://127.0.0.1:9")
