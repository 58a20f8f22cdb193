"""One tick of 10,000 series through read, score (Half-Space Trees on residuals, 10 trees of height 8) and store.

Ours is the daemon's own ``Evaluator`` against a real Prometheus and a SQLite file. Theirs is the loop one would write
with the same libraries: ``custom_query`` and ``MetricSnapshotDataFrame`` of prometheus-api-client, one river pipeline a
series, one SQLAlchemy ORM row a score. Only our own process is counted, Prometheus is not. River's 10,000 models would
need 13 GB, so theirs is run over fewer series and multiplied; the figures say over how many.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from prometheus_api_client import MetricSnapshotDataFrame, PrometheusConnect
from river import anomaly, preprocessing
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.servers import Series, openmetrics, running_prometheus

from anomalyd.block import F64, I64, Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.prometheus.decode import warm
from anomalyd.prometheus.source import PrometheusSource, SourceSpec
from anomalyd.recorded import RecordedSource
from anomalyd.rule import DetectorSpec, Rule, RuleGroup
from anomalyd.store import open_store
from anomalyd.template import render_annotations
from bench.harness import Context, Figure, Timing, best_of, cost, limit, timed

SERIES, HISTORY, TICKS = 10_000, 700, 8
EXPR = "load"
START = 1_767_571_200_000
DETECTOR = DetectorSpec("half_space_trees", {})


class Base(DeclarativeBase):
    """Mapping of a score as a row."""


class ScoreRow(Base):
    """One score as most would store it."""

    __tablename__ = "scores"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[int] = mapped_column(sa.BigInteger, index=True)
    labels: Mapped[str] = mapped_column(index=True)
    value: Mapped[float]
    score: Mapped[float]


class Halves:
    """History from a recording (it is not what is measured), ticks from the real server."""

    def __init__(self, recorded: RecordedSource, live: PrometheusSource):
        self.range, self.instant = recorded.range, live.instant


def run(context: Context) -> Iterator[Figure]:
    """Measure one tick of both sides."""
    theirs_series = 2_000 if context.full else 300
    hosts = (f"host-{i:05d}:9100" for i in range(SERIES))
    labels = tuple(make_labels({"__name__": EXPR, "instance": host, "job": "node"}) for host in hosts)
    times = START + np.arange(HISTORY + TICKS + 1) * MINUTE_MS
    values = np.round(50 + 10 * np.random.default_rng(1).normal(size=(SERIES, len(times))), 3)
    with tempfile.TemporaryDirectory(prefix="anomalyd-bench-") as name:
        folder = Path(name)
        text = openmetrics(_recent(labels, times, values))
        with running_prometheus(folder, blocks=text) as url:
            ours = _ours(str(url), folder, Block(labels, times, values))
            read, score, store = _theirs(str(url), folder, theirs_series, times, values)
    scale = SERIES / theirs_series
    note = f"theirs over {theirs_series:,} series, times {scale:g}"
    theirs = read.cpu_s + (score.cpu_s + store.cpu_s) * scale
    yield cost("tick of 10,000 series, CPU s", ours.cpu_s, theirs, at_least=20, note=note)
    yield limit("tick of 10,000 series, CPU s, absolute", ours.cpu_s, at_most=2.0)
    wall = read.wall_s + (score.wall_s + store.wall_s) * scale
    yield Figure("tick of 10,000 series, wall s", ours.wall_s, wall, wall / ours.wall_s, note=note)


def _recent(labels: tuple[Any, ...], times: I64, values: F64) -> list[Series]:
    stamps = times[HISTORY:].tolist()
    rows = values[:, HISTORY:].tolist()
    return [Series(EXPR, dict(ls[1:]), stamps, row) for ls, row in zip(labels, rows, strict=True)]


def _ours(url: str, folder: Path, block: Block) -> Timing:
    warm()
    store = open_store(f"sqlite:///{folder / 'ours.db'}")
    live = PrometheusSource(SourceSpec("default", url))
    source = Halves(RecordedSource({EXPR: block}), live)
    rule = Rule(
        "Load", "bench", EXPR, detector=DETECTOR, history_ms=HISTORY * MINUTE_MS, query_delay_ms=0, max_series=SERIES
    )
    group = RuleGroup("bench", MINUTE_MS, (rule,))
    inline = InlineExecutor()
    evaluator = Evaluator(
        store, {"default": source}, annotate=render_annotations, links=lambda _: {}, fit=inline, background=inline
    )
    evaluator.add(rule)
    ticks = iter(block.times[HISTORY:].tolist())

    def tick() -> None:
        evaluated = evaluator.evaluate(group, next(ticks))
        failure = evaluated.rules[rule.id].failure
        assert failure is None, failure
        newest = evaluator.runs[rule.id].memory.last
        assert newest is not None
        assert np.isfinite(newest.surprise).all(), "every series is scored, none is still warming up"

    tick()  # warms up and fits
    timing = best_of(TICKS, tick)
    live.close()
    store.close()
    return timing


def _theirs(url: str, folder: Path, series: int, times: I64, values: F64) -> tuple[Timing, Timing, Timing]:
    client = PrometheusConnect(url=url)
    with timed() as read:
        found = client.custom_query(EXPR, params={"time": times[-1] / 1000})
        frame = MetricSnapshotDataFrame(found)
    # As river's documentation shows it: the trees want values in [0, 1].
    models = [
        preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=10, height=8, window_size=250, seed=1)
        for _ in range(series)
    ]
    for model, row in zip(models, values, strict=False):
        for value in row[-3:]:
            model.learn_one({"x": value})  # builds the trees
    rows = frame.head(series)
    with timed() as score:
        scored = []
        for model, value in zip(models, rows["value"], strict=True):
            x = {"x": float(value)}
            scored.append((float(value), model.score_one(x)))
            model.learn_one(x)
    engine = sa.create_engine(f"sqlite:///{folder / 'theirs.db'}")
    Base.metadata.create_all(engine)
    instances = rows["instance"].tolist()
    with timed() as store, Session(engine) as session:
        at = int(times[-1])
        session.add_all(
            ScoreRow(at=at, labels=name, value=value, score=result)
            for name, (value, result) in zip(instances, scored, strict=True)
        )
        session.commit()
    return read, score, store
