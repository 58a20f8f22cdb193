"""A machine as node_exporter shows it: recorded for minutes, stretched to weeks of history, and put under load.

The stretched history is honest about one thing only: the restlessness of the recorded minutes. It is drawn from them in
blocks, all series together, so bursts keep their length and CPU, memory and disk stay in step.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

MINUTE_MS = 60_000
BLOCK = 5
LINE = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$", re.MULTILINE)
COUNTER = re.compile(r"_total(\{|$)")

Scrape = Mapping[str, float]
"""What one scrape gave: value by series, as text (``name{label="value"}``)."""


def scrape(exporter: str, names: frozenset[str]) -> Scrape:
    """The series of some metrics, now; of a CPU only the modes that a pack asks for."""
    with urllib.request.urlopen(f"{exporter}/metrics", timeout=20) as answer:
        return parse(answer.read().decode(), names)


def parse(text: str, names: frozenset[str]) -> Scrape:
    return {
        f"{m['name']}{{{m['labels'] or ''}}}": float(m["value"])
        for m in LINE.finditer(text)
        if m["name"] in names and ('mode="' not in m[0] or 'mode="idle"' in m[0] or 'mode="iowait"' in m[0])
    }


def read_recording(folder: Path, names: frozenset[str]) -> dict[int, Scrape]:
    """Scrapes kept as files whose name is the time in ms."""
    return {int(path.stem): parse(path.read_text(), names) for path in sorted(folder.glob("*.prom"))}


def stretched(recorded: Mapping[int, Scrape], now: Scrape, minutes: int, seed: int) -> dict[str, np.ndarray]:
    """``minutes`` of history for each series of ``now``, drawn from the recorded minutes in blocks of five.

    Counters are summed from what they grew by in the drawn minutes and end below their present value, so that the step
    to the live series is no reset. A series that was not recorded stands still at its present value.
    """
    times = np.array(sorted(recorded))
    grid = np.arange(times[0], times[-1], MINUTE_MS)
    rows = [recorded[int(times[np.searchsorted(times, at)])] for at in grid]
    if len(rows) <= BLOCK:
        raise ValueError(f"only {len(rows)} minutes were recorded; record at least {BLOCK + 1}")
    starts = np.random.default_rng(seed).integers(0, len(rows) - BLOCK, -(-minutes // BLOCK))
    drawn = (starts[:, None] + np.arange(BLOCK)).ravel()[:minutes]
    history = {}
    for series, value in now.items():
        seen = np.array([row.get(series, value) for row in rows])
        if COUNTER.search(series):
            grown = np.cumsum(np.maximum(np.diff(seen), 0.0)[np.minimum(drawn, len(seen) - 2)])
            history[series] = value - grown[-1] + grown
        else:
            history[series] = seen[drawn]
    return history


def calm(history: Mapping[str, np.ndarray], first: int, seed: int) -> dict[str, np.ndarray]:
    """The same machine with little to do: CPU 8 to 22 % busy by the time of day, one percent of it waiting."""
    made = dict(history)
    for i, (series, values) in enumerate(sorted(history.items())):
        if not series.startswith("node_cpu_seconds_total"):
            continue
        rng = np.random.default_rng((seed, i))
        day = (first + MINUTE_MS * np.arange(len(values))) / 86_400_000 * 2 * np.pi
        busy = 0.15 - 0.07 * np.cos(day) + rng.normal(0, 0.02, len(values))
        share = 1 - np.clip(busy, 0, 1) if 'mode="idle"' in series else np.abs(rng.normal(0.01, 0.003, len(values)))
        made[series] = values[-1] - 60 * (share.sum() - np.cumsum(share))
    return made


def write_openmetrics(path: Path, machines: Mapping[str, Mapping[str, np.ndarray]], first: int) -> None:
    """Histories of several instances as the text that promtool makes blocks of."""
    series = sorted((name, instance) for instance, history in machines.items() for name in history)
    with path.open("w") as out:
        for name, instance in series:
            head = name.replace("{", f'{{instance="{instance}",job="node",', 1).replace(",}", "}")
            values = machines[instance][name]
            times = (first + MINUTE_MS * np.arange(len(values))) / 1000
            out.writelines(f"{head} {v!r} {at:.3f}\n" for v, at in zip(values.tolist(), times, strict=True))
        out.write("# EOF\n")


@contextmanager
def small_disk(folder: Path, megabytes: int = 512) -> Iterator[Path]:
    """A file system of its own on a file, which needs root and a free loop device."""
    image, mount = folder / "disk.img", folder / "disk"
    with image.open("wb") as out:
        out.truncate(megabytes << 20)
    mount.mkdir()
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(mount)]):
        subprocess.run(command, check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@contextmanager
def filled_disk(mount: Path, share: float) -> Iterator[None]:
    """A file that takes a share of a small file system."""
    size = int(subprocess.check_output(["df", "--output=avail", "-B1", str(mount)]).split()[-1])
    path = mount / "filler"
    with path.open("wb") as out:
        for _ in range(int(size * share) >> 20):
            out.write(b"\1" * (1 << 20))
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def processes(code: str, count: int, seconds: int) -> Iterator[None]:
    """Processes that load the machine and end with the block, or by themselves after ``seconds``."""
    bounded = f"import signal; signal.alarm({seconds}); {code}"
    started = [subprocess.Popen([sys.executable, "-c", bounded]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait(10)


def busy_cpus(count: int, seconds: int) -> object:
    return processes("exec('while True: pass')", count, seconds)


def taken_memory(byte_count: int, seconds: int) -> object:
    return processes(f"taken = b'\\1' * {byte_count}; signal.pause()", 1, seconds)


def record(exporter: str, names: frozenset[str], minutes: int) -> dict[int, Scrape]:
    """Scrape every fifteen seconds for some minutes."""
    import time

    pause = threading.Event()
    found: dict[int, Scrape] = {}
    while len(found) <= 4 * minutes:
        found[time.time_ns() // 1_000_000] = scrape(exporter, names)
        pause.wait(15)
    return found
