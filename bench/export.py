"""Remote write of 10,000 series a slot: what reading, encoding and packing cost the daemon, and a backlog of an hour.

The real store and lane; the target takes everything at once, so that its own time does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np

from anomalyd.block import fingerprint, make_labels
from anomalyd.clock import MINUTE_MS, VirtualClock
from anomalyd.export import Lane, RemoteWrite
from anomalyd.metrics import Metrics
from anomalyd.prometheus.remotewrite import snappy
from anomalyd.prometheus.spec import SourceSpec
from anomalyd.prometheus.target import QueuePolicy, WriteTarget
from anomalyd.prometheus.writer import RemoteWriter, Written
from anomalyd.rulefiles.read import load_rules
from anomalyd.score import Observation, Verdicts
from anomalyd.scoreseries import SERIES_HELP
from anomalyd.slot import RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store, open_store
from bench.harness import Context, Figure, limit, timed

SERIES, BACKLOG = 10_000, 60
START = 1_767_571_200_000
RULE = "groups: [{name: g, interval: 1m, rules: [{anomaly: R, expr: up, detector: mad, max_series: 100000}]}]\n"


class Taker:
    """A target that takes everything; ``sent`` counts bytes as they would go over the wire."""

    def __init__(self) -> None:
        self.sent = 0

    def write(self, body: bytes, attempt: int = 0) -> Written:
        size = len(snappy(body))
        self.sent += size
        return Written("ok", sent=size)


def run(context: Context) -> Iterable[Figure]:
    """One slot after another, then an hour of them at once."""
    series = SERIES if context.full else SERIES // 10
    with TemporaryDirectory() as folder:
        (Path(folder) / "rules.yml").write_text(RULE)
        rules = load_rules([f"{folder}/rules.yml"]).rules
        store, taker = open_store(f"sqlite:///{folder}/anomalyd.db"), Taker()
        target = WriteTarget(
            "t", "http://t/w", SourceSpec("t", "http://t/w"), ("*",), frozenset(SERIES_HELP), {}, QueuePolicy(1)
        )
        writer, clock = cast("RemoteWriter", taker), VirtualClock(START)
        remote = RemoteWrite(store, target, lambda: rules, Metrics(), writer, clock)
        (lane,) = remote.lanes
        lane.step(START)
        best = min((_slot(store, lane, series, i, taker) for i in range(1, 7)), key=lambda found: found[0])
        yield limit(f"{series:,} series: CPU seconds a slot", best[0], at_most=0.3 * series / SERIES)
        yield limit("bytes a sample, packed", best[1] / (5 * series + 1), at_most=40)
        for i in range(7, 7 + BACKLOG):
            _commit(store, series, i)
        with timed() as timing:
            lane.owe("g/R")
            lane.step(START + (6 + BACKLOG) * MINUTE_MS)
        note = f"{BACKLOG} slots"
        yield limit(f"{series:,} series: CPU seconds for an hour's backlog", timing.cpu_s,
                    at_most=0.3 * BACKLOG * series / SERIES, note=note)  # fmt: skip
        store.close()


def _slot(store: Store, lane: Lane, series: int, number: int, taker: Taker) -> tuple[float, int]:
    """CPU seconds and bytes of one slot."""
    _commit(store, series, number)
    before = taker.sent
    with timed() as timing:
        lane.owe("g/R")
        assert lane.step(START + number * MINUTE_MS) is None
    return timing.cpu_s, taker.sent - before


def _commit(store: Store, series: int, number: int) -> None:
    at, chance = START + number * MINUTE_MS, np.random.default_rng(number)
    value, surprise = chance.normal(10, 3, series), np.abs(chance.normal(1, 1, series))
    calm = Verdicts(*(np.zeros(series, np.int8) for _ in range(3)))
    seen = Observation(at, np.arange(series), value, value * 1.01, value - 5, value + 5, surprise, calm)
    slot = RuleSlot("g/R", at, "ok", cut=3.0, observation=seen)
    rows = tuple(_row(i, at) for i in range(series)) if number == 1 else ()
    store.commit_slot(SlotCommit("g", at, (slot,), series=rows))


def _row(number: int, at: int) -> SeriesRow:
    labels = make_labels({
        "__name__": "latency", "namespace": f"ns{number % 40}", "pod": f"checkout-{number:05}-abcdefgh",
        "job": "kubernetes-pods", "instance": f"10.2.{number // 250}.{number % 250}:8080", "region": "eu-west-1",
    })  # fmt: skip
    return SeriesRow("g/R", number, fingerprint(labels), labels, at)
