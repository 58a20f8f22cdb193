"""Reading from a real Prometheus: our range and instant queries against prometheus-api-client's own way.

Theirs is what the library's users write: ``custom_query_range`` and ``MetricRangeDataFrame``. CPU is that of both
sides together, the client's process and Prometheus itself, because what one saves may cost the other. Both read the
same samples over loopback in the same run, and the values are compared.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from os import sysconf
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_api_client import MetricRangeDataFrame, PrometheusConnect
from tests.servers import Server, fill_prometheus, running_prometheus

from anomalyd.prometheus.decode import warm
from anomalyd.prometheus.source import PrometheusSource, SourceSpec
from bench.harness import Context, Figure, cost, limit, timed

MINUTE_MS = 60_000
RUNS = 3
TICKS = 10
TICK_SERIES = 10_000


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of the client and of Prometheus."""

    client: float
    server: float

    @property
    def total(self) -> float:
        return self.client + self.server


def run(context: Context) -> Iterator[Figure]:
    series, hours = (2_000, 24) if context.full else (1_000, 12)
    points = hours * 60
    end = time.time_ns() // 1_000_000 // MINUTE_MS * MINUTE_MS - 10 * MINUTE_MS
    times = end - MINUTE_MS * np.arange(points - 1, -1, -1)
    values = np.random.default_rng(1).random((series, points)) * 1000
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "metrics", times, values, end)
        fill_prometheus(Path(folder) / "prometheus-data", Path(folder) / "metrics")
        with running_prometheus(Path(folder)) as server:
            yield from _ranges(server, times, values)
            yield from _ticks(server, end)


def _write(path: Path, times: np.ndarray, values: np.ndarray, at: int) -> None:
    """Rates with six digits and label sets of about 110 bytes, in OpenMetrics text; ``many`` has one sample each."""
    with path.open("w") as out:
        for i in range(TICK_SERIES):
            out.write(f"many{{{_labels(i)}}} {i / 7!r} {at / 1000:.3f}\n")
        for i, row in enumerate(values):
            head = f"requests_rate{{{_labels(i)}}}"
            out.writelines(f"{head} {value:.6g} {ms / 1000:.3f}\n" for ms, value in zip(times, row, strict=True))
        out.write("# EOF\n")


def _labels(i: int) -> str:
    instance = f'instance="10.0.{i // 250}.{i % 250}:9100"'
    return f'{instance},job="checkout",pod="checkout-7d9f-{i:05d}",zone="eu-central-1"'


def _ranges(server: Server, times: np.ndarray, values: np.ndarray) -> Iterator[Figure]:
    start, end = int(times[0]), int(times[-1])
    samples = f"{values.size / 1e6:.2f} million samples"
    source = PrometheusSource(SourceSpec("bench", server, timeout_s=300.0, max_response_bytes=1 << 30))
    warm()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    block, ours = _measured(server, lambda: source.range("requests_rate", start, end, MINUTE_MS).block)
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

    library = PrometheusConnect(url=server)

    def theirs_way() -> object:
        first, last = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (start, end))
        return MetricRangeDataFrame(library.custom_query_range("requests_rate", first, last, "60s"))

    frame, theirs = _measured(server, theirs_way)
    same = np.array_equal(np.sort(frame["value"].to_numpy(np.float64)), np.sort(block.values, axis=None))
    assert same, "both ways must read the same samples"
    note = f"ours {ours.client:.2f} + {ours.server:.2f}, theirs {theirs.client:.2f} + {theirs.server:.2f}"
    yield cost(f"range of {samples}, CPU s of client + Prometheus", ours.total, theirs.total, at_least=15, note=note)
    yield cost(f"range of {samples}, CPU s of the client", ours.client, theirs.client, at_least=30)
    yield limit(
        f"range of {samples}, peak memory growth, MB per 3 million", peak_mb / values.size * 3e6, at_most=150
    )
    source.close()


def _ticks(server: Server, at: int) -> Iterator[Figure]:
    """One instant query a tick, as the daemon reads."""
    source = PrometheusSource(SourceSpec("bench", server))
    library = PrometheusConnect(url=server)
    params = {"time": at / 1000}
    assert len(source.instant("many", at).block) == TICK_SERIES

    def their_tick() -> object:
        found = library.custom_query("many", params)
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in found}

    their_tick()
    _, ours = _measured(server, lambda: [source.instant("many", at) for _ in range(TICKS)])
    _, theirs = _measured(server, lambda: [their_tick() for _ in range(TICKS)])
    yield cost(
        f"tick of {TICK_SERIES:,} series, CPU ms of the client", ours.client / TICKS * 1e3, theirs.client / TICKS * 1e3,
        at_least=5, note=f"Prometheus {ours.server / TICKS * 1e3:.1f} ms against {theirs.server / TICKS * 1e3:.1f} ms",
    )  # fmt: skip
    source.close()


def _measured(server: Server, work: Callable[[], Any]) -> tuple[Any, Cost]:
    """Result and the cheapest of several runs: other work, and Go's garbage of earlier queries, only ever add."""
    costs = []
    for _ in range(RUNS):
        before = _server_cpu(server)
        with timed() as timing:
            result = work()
        costs.append(Cost(timing.cpu_s, _server_cpu(server) - before))
    return result, min(costs, key=lambda cost: cost.total)


def _server_cpu(server: Server) -> float:
    """CPU seconds that the server's process has used."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / sysconf("SC_CLK_TCK")
