"""Backtest of 1,000 series over 30 days at 1 minute with its report, beside Prophet and statsmodels' STL in a loop.

The others are what one would write instead. Prophet fits each series once over the whole span, which looks ahead; or
causally, as AICoE's prometheus-anomaly-detector does: daily, weekly and yearly seasonality, a rolling window of three
days, fitted anew every two hours, those being its defaults, or each day, which is cheaper. STL is fitted anew each day
on the history before it. All are measured on a few series and fits and scaled. Prophet runs in an environment of its
own under ``.bench/``. The default size is 40 series over 7 days; FULL=1 is the whole. Prometheus's own time is shown
apart, scaled from a small server.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np

from anomalyd import logs
from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.detectors.registry import detector_names
from anomalyd.rule import DetectorSpec, Rule
from anomalyd.workbench.backtest import Backtest, backtest
from anomalyd.workbench.htmlreport import Judged, render_report
from bench.harness import Context, Figure, Timing, cost, timed

START = 1_767_225_600_000
STEP = MINUTE_MS
HISTORY_DAYS = 14
MEASURED = 2
PROPHET = Path(__file__).parents[1] / ".bench" / "prophet"
PROPHET_FIT = """
import json, logging, os, sys, time
logging.disable(logging.CRITICAL)
import numpy as np, pandas as pd
from prophet import Prophet
values = np.load(sys.argv[1])
times = pd.date_range("2026-01-01", periods=values.shape[1], freq="min")
window, ahead, fits = (int(word) for word in sys.argv[2:])

def spent():
    return time.process_time() + sum(os.times()[2:4])

def once(frame):
    model = Prophet(interval_width=0.99)
    model.fit(frame)
    model.predict(frame[["ds"]])

def rolling(frame):
    model = Prophet(daily_seasonality=True, weekly_seasonality=True, yearly_seasonality=True)
    model.fit(frame)
    model.predict(model.make_future_dataframe(periods=ahead, freq="1min", include_history=False))

found = {"once": [], "rolling": []}
for row in values:
    frame = pd.DataFrame({"ds": times, "y": row})
    began = spent()
    once(frame)
    found["once"].append(spent() - began)
    for i in range(fits):
        first = i * (len(frame) - window) // max(1, fits - 1)
        began = spent()
        rolling(frame.iloc[first : first + window])
        found["rolling"].append(spent() - began)
print(json.dumps(found))
"""
WINDOW_DAYS, REFIT_HOURS = 3, 2
"""AICoE's defaults: FLT_ROLLING_TRAINING_WINDOW_SIZE=3d, FLT_RETRAINING_INTERVAL_MINUTES=120."""
ROLLING_FITS = 3


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    series: int
    days: int

    @property
    def text(self) -> str:
        return f"{self.series:,} series, {self.days} days at 1 minute"


def made(size: Size) -> Block:
    """Series with a daily and a weekly rhythm, noise, and an incident of an hour on one in ten."""
    times = START + np.arange(-HISTORY_DAYS * 1440 - 1, size.days * 1440) * STEP
    rng = np.random.default_rng(1)
    day, week = (np.sin(2 * np.pi * times / period) for period in (DAY_MS, 7 * DAY_MS))
    values = np.empty((size.series, len(times)))
    for i in range(size.series):
        level, swing = rng.uniform(20, 200), rng.uniform(2, 15)
        values[i] = level + swing * day + 0.4 * swing * week + rng.normal(size=len(times))
        if i % 10 == 0:
            at = int(rng.integers(HISTORY_DAYS * 1440, len(times) - 120))
            values[i, at : at + 60] += 3 * swing
    return Block(tuple(make_labels({"host": f"host-{i:04}"}) for i in range(size.series)), times, values)


def rule_for(detector: str, history_days: int = HISTORY_DAYS) -> Rule:
    """A rule as `anomalyd init` would write it."""
    return Rule(
        "Load", "bench", "load", detector=DetectorSpec(detector), interval_ms=STEP, history_ms=history_days * DAY_MS,
        query_delay_ms=0, for_ms=2 * STEP, keep_firing_for_ms=5 * STEP,
    )  # fmt: skip


def run(context: Context) -> Iterable[Figure]:
    """Measure."""
    logs.configure("error", stream=sys.stderr)
    size = Size(1_000, 30) if context.full else Size(40, 7)
    detector = "auto" if "auto" in detector_names() else "mad"
    block = made(size)
    _ours(block.take([0, 1]).window(0, (HISTORY_DAYS + 1) * 1440), Size(2, 1), detector)  # compiles the kernels
    timing, test, page = _ours(block, size, detector)
    what = f"{size.text}, {detector}, report of {page / 1e6:.1f} MB, CPU s"
    speed = size.days * 86_400 / timing.wall_s
    yield Figure(f"{size.text}: times real time", speed, None, None, ">= 100", speed >= 100,
                 f"{len(test.episodes)} episodes, wall {timing.wall_s:.0f} s")  # fmt: skip
    span = block.values[:MEASURED, HISTORY_DAYS * 1440 + 1 :]
    scaled = f"measured on {MEASURED} series, scaled"
    prophet = _prophet(span)
    if prophet is not None:
        once, rolling = prophet
        yield cost(f"{what}, against one Prophet fit a series", timing.cpu_s, once * size.series, at_least=100,
                   note=f"{scaled}; {once:.1f} s a series")  # fmt: skip
        each = f"{scaled}; {rolling:.2f} s a fit of {WINDOW_DAYS} days, {ROLLING_FITS} fits a series measured"
        yield cost(f"{what}, against a Prophet fit of {WINDOW_DAYS} days a series and day", timing.cpu_s,
                   rolling * size.series * size.days, at_least=100, note=each)  # fmt: skip
        yield cost(f"{what}, against Prophet as AICoE runs it, every {REFIT_HOURS} hours", timing.cpu_s,
                   rolling * size.series * size.days * 24 / REFIT_HOURS, at_least=100, note=each)  # fmt: skip
    stl = _stl(block.values[:MEASURED, : HISTORY_DAYS * 1440])
    yield cost(f"{what}, against an STL fit a series and day", timing.cpu_s, stl * size.series * size.days,
               at_least=100, note=f"{scaled}; {stl:.2f} s a fit of {HISTORY_DAYS} days")  # fmt: skip
    yield cost(f"{what}, against one STL fit a series", timing.cpu_s, _stl(span) * size.series, at_least=0,
               note=f"{scaled}; one fit over the span, looking ahead")  # fmt: skip
    yield from _prometheus(size)


def _ours(block: Block, size: Size, detector: str) -> tuple[Timing, Backtest, int]:
    end = START + (size.days * 1440 - 1) * STEP
    with timed() as timing:
        test = backtest(rule_for(detector), block, START, end)
        page = len(render_report([Judged(test)]))
    return timing, test, page


def _prophet(values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> tuple[float, float] | None:
    """CPU seconds of a Prophet fit and prediction of one series over the span, and of one of AICoE's rolling windows.

    None where it cannot be installed.
    """
    python = PROPHET / "bin" / "python"
    if not python.exists():
        PROPHET.parent.mkdir(exist_ok=True)
        for command in (
            [sys.executable, "-m", "venv", str(PROPHET)],
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "prophet>=1.1.6"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"prophet cannot be installed: {done.stderr.strip()[-200:]}", file=sys.stderr)
                subprocess.run(["rm", "-rf", str(PROPHET)], check=False)
                return None
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "values.npy", values)
        sizes = (WINDOW_DAYS * 1440, REFIT_HOURS * 60, ROLLING_FITS)
        command = [str(python), "-c", PROPHET_FIT, str(Path(folder) / "values.npy"), *map(str, sizes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"prophet failed: {done.stderr.strip()[-400:]}", file=sys.stderr)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return float(np.mean(found["once"])), float(np.mean(found["rolling"]))


def _stl(values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """CPU seconds of a statsmodels STL fit of one series."""
    from statsmodels.tsa.seasonal import STL

    began = process_time()
    for row in values:
        STL(row, period=1440).fit()
    return (process_time() - began) / len(values)


def _prometheus(size: Size) -> Iterable[Figure]:
    """Seconds in which Prometheus gives the samples, scaled from a small one; nothing where it is not installed."""
    import shutil

    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from anomalyd.prometheus.source import PrometheusSource, SourceSpec
    from anomalyd.workbench.backtest import read_history
    from servers import Series, openmetrics, running_prometheus

    small = Size(10, 2)
    block = made(small).window((HISTORY_DAYS - 2) * 1440)
    series = [
        Series("load", dict(labels), block.times.tolist(), values.tolist())
        for labels, values in zip(block.labels, block.values, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder, running_prometheus(Path(folder), blocks=openmetrics(series)) as url:
        source = PrometheusSource(SourceSpec("bench", url))
        rule = rule_for("mad", 1)
        read_history(source, rule, START, START + DAY_MS)
        with timed() as timing:
            history = read_history(source, rule, START, START + 2 * DAY_MS - STEP)
        source.close()
    samples = history.block.values.size
    whole = size.series * (size.days + HISTORY_DAYS) * 1440
    yield Figure(f"{size.text}: reading history from Prometheus, wall s", timing.wall_s * whole / samples, None, None,
                 note=f"measured on {samples:,} samples, scaled to {whole:,}; not in the figures above")  # fmt: skip
