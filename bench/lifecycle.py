"""Lifecycle of 10,000 series: keeping and restoring what ``auto`` learned, the look at the data, coming and going.

Learned states of a few hundred series are repeated to 10,000: their size does not depend on the samples. Learning that
many anew, which a restart without a snapshot costs, is measured on the few and multiplied; the figure says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalyd.block import Block, Labels, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.evaluation.dataquality import Quality, observe
from anomalyd.evaluation.memory import Memory, empty_memory
from anomalyd.evaluation.registry import Registry
from anomalyd.evaluation.rulerun import RuleRun, cuts_of
from anomalyd.evaluation.snapshot import HEAD, Snapshots
from anomalyd.executors import InlineExecutor
from anomalyd.recorded import RecordedSource
from anomalyd.records import SnapshotPolicy
from anomalyd.rule import Rule
from anomalyd.store import open_store
from bench.harness import Context, Figure, best_of, cost, limit, timed

SERIES, FITTED, HISTORY, TICKS = 10_000, 100, 14 * 1440, 20
START = 1_767_571_200_000
RULE = Rule("Load", "bench", "load", max_series=SERIES)
AT = START + HISTORY * MINUTE_MS


def run(context: Context) -> Iterator[Figure]:
    """Measure all of it."""
    labels = tuple(make_labels({"__name__": "load", "instance": f"host-{i:05d}:9100"}) for i in range(SERIES))
    yield from _data_quality(labels)
    yield from _coming_and_going(labels)
    memory, fit_s = _learned(labels)
    model = Model(RULE.detector, Grid(RULE.interval_ms, RULE.timezone), RULE.seed)
    with tempfile.TemporaryDirectory(prefix="anomalyd-bench-") as name:
        path = Path(name) / "kept.db"
        store = open_store(f"sqlite:///{path}")
        snapshots = Snapshots(store, InlineExecutor(), SnapshotPolicy(10 * MINUTE_MS, 4 << 30))
        with timed() as kept:
            snapshots.keep(RuleRun(RULE, model, memory), AT)
        note = f"{snapshots.kept[RULE.id].bytes / SERIES / 1000:.0f} kB a series"
        yield limit("snapshot of auto, 10,000 series, GB", snapshots.kept[RULE.id].bytes / 1e9, at_most=2.0)
        yield Figure("writing that snapshot to SQLite, wall s", kept.wall_s, note=note)
        yield Figure("writing that snapshot to SQLite, CPU s", kept.cpu_s)
        snapshots.expect(RULE.id)
        empty = replace(empty_memory(RULE.id), registry=memory.registry, at=AT)
        with timed() as restored:
            back = snapshots.restore(RuleRun(RULE, model, empty), empty, RecordedSource({}), AT + MINUTE_MS)
        assert back.state is not None
        assert store.model(RULE.id, HEAD) is not None
        note = f"theirs: learning 14 d anew, of {FITTED} series times {SERIES // FITTED}, reading left out"
        yield cost("restoring 10,000 series of auto, CPU s", restored.cpu_s, fit_s, at_least=20, note=note)
        yield Figure("restoring 10,000 series of auto, wall s", restored.wall_s)
        store.close()


def _learned(labels: tuple[Labels, ...]) -> tuple[Memory, float]:
    """A memory of all series, and the CPU seconds that learning them takes."""
    times = START + np.arange(HISTORY, dtype=np.int64) * MINUTE_MS
    values = 50 + 10 * np.random.default_rng(1).normal(size=(FITTED, HISTORY))
    model = Model(RULE.detector, Grid(RULE.interval_ms, RULE.timezone), RULE.seed)
    model.fit(Block(labels[:2], times[:3000], values[:2, :3000]))  # compiles
    with timed() as fit:
        state = model.fit(Block(labels[:FITTED], times, values))
    registry, _ = Registry(RULE.id).register(list(labels), START)
    rows = np.arange(SERIES)
    memory = replace(
        empty_memory(RULE.id), registry=registry, active=rows, last_seen=np.full(SERIES, AT),
        cuts=cuts_of(RULE, np.arange(SERIES)), state=replace(state.take(rows % FITTED), as_of=AT), fitted_at=AT,
        model=f"{model.version}-{AT}", at=AT, quality=Quality().grown(SERIES),
    )  # fmt: skip
    return memory, fit.cpu_s * SERIES / FITTED


def _coming_and_going(labels: tuple[Labels, ...]) -> Iterator[Figure]:
    """One slot of a rule with 10,000 series in which some come and as many go: 5,000 a day at one slot a minute."""
    each, slots = -(-5_000 // 1_440), 2_000
    registry, _ = Registry(RULE.id).register(list(labels), START)
    active = np.arange(SERIES)
    names = iter(range(SERIES, SERIES + each * (slots + TICKS + 1)))

    def slot() -> None:
        nonlocal registry, active
        fresh = [make_labels({"__name__": "load", "instance": f"pod-{next(names)}"}) for _ in range(each)]
        registry, added = registry.register(fresh, START)
        gone, active = active[:each], np.concatenate([active[each:], [row.row for row in added]])
        registry, _ = registry.without(gone, active)

    timing = best_of(TICKS, slot)
    yield limit(f"{each} of 10,000 series come and go in a slot, CPU ms", timing.cpu_s * 1000, at_most=20.0)
    for _ in range(slots):
        slot()
    yield limit("rows in memory after 8,000 came and went", len(registry.rows), at_most=SERIES)


def _data_quality(labels: tuple[Labels, ...]) -> Iterator[Figure]:
    """One slot of 10,000 series, after a day of them."""
    random = np.random.default_rng(1)
    quality = Quality().grown(SERIES)
    past = START + np.arange(300, dtype=np.int64) * MINUTE_MS
    quality, _ = observe(RULE, quality, Block(labels, past, random.normal(size=(SERIES, len(past)))))
    slots = iter(range(1, TICKS + 2))
    columns = random.normal(size=(TICKS + 2, SERIES, 1))

    def look() -> None:
        nonlocal quality
        slot = next(slots)
        at = np.array([int(past[-1]) + slot * MINUTE_MS], np.int64)
        quality, _ = observe(RULE, quality, Block(labels, at, columns[slot]))

    look()
    timing = best_of(TICKS, look)
    yield limit("data quality of 10,000 series, one slot, CPU ms", timing.cpu_s * 1000, at_most=10.0)
