"""What the system tests share: configuration on disk, the daemon as a process, labelled series in time's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from servers import Series, free_port, wait_until

WEEK_MS = 7 * 86_400_000


def write_config(
    folder: Path, source: str, rules: Mapping[str, Any], receivers: Mapping[str, Any], database: str = "", **more: Any
) -> Path:
    """Write settings and rules as a user would and return the settings file."""
    (folder / "rules.yml").write_text(yaml.safe_dump(rules, sort_keys=False))
    document = {
        "sources": {"default": {"url": str(source)}},
        "database": {"url": str(database) or "sqlite:///anomalyd.db"},
        "rule_files": ["rules.yml"],
        "receivers": dict(receivers),
        "executor": {"fit": "threads"},
        **more,
    }
    path = folder / "anomalyd.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@dataclass
class Running:
    """A daemon process with its address and its log."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its label sets, 0 where it is not there."""
        _, text = self.get("/metrics")
        found = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 10) -> int:
        self.process.send_signal(how)
        return self.process.wait(seconds)


@contextmanager
def running_daemon(config: Path, crashpoint: str = "", log: str = "daemon.log") -> Iterator[Running]:
    """Run ``anomalyd run``; the settings file must not name a listen address, a free port is added."""
    port = free_port()
    document = yaml.safe_load(config.read_text())
    document["web"] = {**document.get("web", {}), "listen": f"127.0.0.1:{port}"}
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    path = config.parent / log
    environment = {**os.environ, "ANOMALYD_CRASHPOINT": crashpoint}
    with path.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "anomalyd", "run", "--config", str(config)], stderr=out, stdout=out, env=environment
        )
    daemon = Running(process, f"http://127.0.0.1:{port}", path)
    try:
        yield daemon
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def wait_ready(daemon: Running, seconds: float = 60) -> None:
    """Wait for /-/ready; show the log when the daemon ends instead."""

    def ready() -> bool:
        assert daemon.process.poll() is None, daemon.log.read_text()
        try:
            return daemon.get("/-/ready")[0] == 200
        except OSError:
            return False

    wait_until(ready, seconds, "the daemon's readiness")


@dataclass(frozen=True)
class Labelled:
    """A real series with its labelled windows, moved by whole weeks so that it ends in the last one."""

    series: Series
    windows: tuple[tuple[int, int], ...]
    step_ms: int

    @property
    def first(self) -> int:
        return self.series.times[0]

    @property
    def last(self) -> int:
        return self.series.times[-1]


def nab_series(data: Path, name: str, metric: str, now_ms: int, step_ms: int = 300_000) -> Labelled:
    """Read a file of the Numenta benchmark, moved by whole weeks to end in the last whole week before ``now_ms``.

    Time of day, day of week and the place of several series to each other are the same whenever the test runs.
    """
    frame = pd.read_csv(data / "nab" / "data" / name)
    times = pd.to_datetime(frame.timestamp).astype("datetime64[ms]").astype("int64") // step_ms * step_ms
    frame = frame.assign(ms=times).drop_duplicates("ms")
    shift = (now_ms // WEEK_MS * WEEK_MS - int(frame.ms.iloc[-1])) // WEEK_MS * WEEK_MS
    windows = json.loads((data / "nab" / "labels" / "combined_windows.json").read_text())[name]
    spans = tuple(tuple(int(pd.Timestamp(edge).value // 10**6) + shift for edge in window) for window in windows)
    series = Series(metric, {"job": "nab"}, (frame.ms + shift).tolist(), frame.value.tolist())
    return Labelled(series, spans, step_ms)
