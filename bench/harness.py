"""The one form of every benchmark: figures printed a line each and appended to ``bench/results/<name>.jsonl``.

A benchmark is a module ``bench/<name>.py`` with a docstring (its first line is shown by ``make bench``) and a function
``run(context) -> Iterable[Figure]``. A figure that falls short stays, as short.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter, process_time

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("anomalyd", "numpy", "numba", "scipy", "pandas", "scikit-learn", "river", "statsmodels", "sqlalchemy",
            "prometheus-api-client")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Context:
    """What a benchmark may ask for.

    Attributes:
        full: the whole size instead of the one that ends in a few minutes (``FULL=1``).
        data: folder of labelled series (``DATA=``, else ``ANOMALYD_DATA``, else ``../shared/data``).
        scores: folder that the detection benchmark writes scores to (``SCORES=``), if asked for.
    """

    full: bool
    data: Path
    scores: Path | None


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured, with its size ("tick of 10,000 series, CPU s").
        ours, theirs: the two sides in the same unit; ``theirs`` None where there is no other side.
        ratio: how many times better ours is (costs: theirs / ours, qualities: ours / theirs); None without theirs.
        target: what was promised, in words (">= 20", "< 2 s").
        ok: whether the target is met; None where the figure is only reported.
    """

    name: str
    ours: float
    theirs: float | None = None
    ratio: float | None = None
    target: str = "none"
    ok: bool | None = None
    note: str = ""

    def line(self) -> str:
        word = {True: "ok", False: "short", None: "reported"}[self.ok]
        theirs = "-" if self.theirs is None else _short(self.theirs)
        ratio = "-" if self.ratio is None else _short(self.ratio)
        note = f" ({self.note})" if self.note else ""
        sides = f"ours {_short(self.ours)}, theirs {theirs}, ratio {ratio}"
        return f"{self.name}: {sides}, target {self.target}: {word}{note}"


def cost(name: str, ours: float, theirs: float, *, at_least: float, note: str = "") -> Figure:
    """A figure where less is better: the ratio is theirs / ours and should be at least ``at_least``."""
    ratio = theirs / ours
    return Figure(name, ours, theirs, ratio, f">= {_short(at_least)}", ratio >= at_least, note)


def quality(name: str, ours: float, *, at_least: float, theirs: float | None = None, note: str = "") -> Figure:
    """A figure where more is better, with its own target; ``theirs`` is shown beside it."""
    ratio = None if not theirs else ours / theirs
    return Figure(name, ours, theirs, ratio, f">= {_short(at_least)}", ours >= at_least, note)


def limit(name: str, ours: float, *, at_most: float, theirs: float | None = None, note: str = "") -> Figure:
    """A figure that must stay at or below a bound."""
    ratio = None if not theirs or not ours else theirs / ours
    return Figure(name, ours, theirs, ratio, f"<= {_short(at_most)}", ours <= at_most, note)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(slots=True)
class Timing:
    """Seconds spent inside a ``timed()`` block."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


@contextmanager
def timed() -> Iterator[Timing]:
    """Measure CPU seconds of this process (all threads) and wall seconds."""
    timing = Timing()
    cpu, wall = process_time(), perf_counter()
    try:
        yield timing
    finally:
        timing.cpu_s, timing.wall_s = process_time() - cpu, perf_counter() - wall


def best_of(times: int, work: Callable[[], object]) -> Timing:
    """The run with the least CPU of several: other work on the machine only ever adds."""
    runs = []
    for _ in range(times):
        with timed() as timing:
            work()
        runs.append(timing)
    return min(runs, key=lambda t: t.cpu_s)


@dataclass(slots=True)
class Report:
    """Prints figures as they come and appends them to the results file."""

    name: str
    command: str
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    short: int = 0

    def add(self, figure: Figure) -> None:
        print(figure.line(), flush=True)
        self.short += figure.ok is False
        RESULTS.mkdir(exist_ok=True)
        row = {"date": self.started, "command": self.command, **asdict(figure), "versions": versions()}
        with (RESULTS / f"{self.name}.jsonl").open("a") as out:
            out.write(json.dumps(row, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """Versions of what was measured, and the machine in words."""
    found = {"python": platform.python_version(), "cpus": str(os.cpu_count())}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def context_from_environment() -> Context:
    """Read FULL, DATA, SCORES and ANOMALYD_DATA as ``make bench`` passes them."""
    default = os.environ.get("ANOMALYD_DATA") or str(Path(__file__).parents[1] / ".." / "shared" / "data")
    data = os.environ.get("DATA") or default
    scores = os.environ.get("SCORES")
    return Context(os.environ.get("FULL", "") not in ("", "0"), Path(data), Path(scores) if scores else None)


def command_line(name: str) -> str:
    """The command as a user would type it again; paths of this machine are left out."""
    parts = ["make bench", f"NAME={name}"]
    if os.environ.get("FULL", "") not in ("", "0"):
        parts.append("FULL=1")
    parts += [f"{key}=<folder>" for key in ("DATA", "SCORES") if os.environ.get(key)]
    return " ".join(parts)


def fail(message: str) -> None:
    """Say what is wrong with the call and leave."""
    print(message, file=sys.stderr)
    raise SystemExit(2)
