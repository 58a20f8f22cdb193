"""Detection quality: online scores of ``auto`` for a folder of labelled series, and what the evaluator says of them.

    make bench NAME=detection DATA=<folder> SCORES=<folder>

writes the scores of every series of the folder (``nab/``, ``kpi/``, ``wsd/``, ``smd/``, ``asd/``, ``services/``; any of
them) in the form the evaluator reads, one configuration for all, every score from samples up to its own only:

    SCORES/<set>/...             the signal meant for the set: what pages for nab, the continuous score for the others
    SCORES/page/<set>/...        the other signal for all but nab
    SCORES/continuous/<set>/...  the other signal for nab

The continuous score is the surprise divided by the cut of the shipped budget, so 1 is the shipped threshold; the paging
signal has its own 1. Multivariate groups learn from ``train`` and are scored on ``test``. The evaluator is looked for
as ``tools/evaluate.py`` beside the data folder; without it only the scores are written. Without SCORES they go to a
temporary folder. ``FULL=1`` also scores the univariate sets by what stands beside it: a dummy, every single streaming
detector (calibrated), river and scikit-learn as their documentation shows, and a Prophet-style band.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomalyd.block import F64, I64, Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS, SECOND_MS, WEEK_MS
from anomalyd.detectors.auto import Auto, AutoParams
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec
from bench.harness import Context, Figure, limit, quality, timed

BUDGET_MS = DAY_MS
"""The shipped threshold: one false alarm a day and series, while nothing is wrong."""
STEPS = {"smd": MINUTE_MS}
MULTIVARIATE = ("smd", "asd", "services")
UNIVARIATE = ("kpi", "wsd")
SETS = ("nab", *UNIVARIATE, *MULTIVARIATE)


SINGLE = ("zscore", "mad", "iqr", "ewma", "cusum", "seasonal", "rls", "knn", "extreme", "half_space_trees")
PLAIN = ("dummy", "river half-space trees", "sklearn isolation forest", "prophet-style band")
HARMONICS = {DAY_MS: 10, WEEK_MS: 3}
"""Periods and numbers of harmonics of the Prophet-style band (Prophet's own defaults)."""


@dataclass(frozen=True, slots=True)
class Job:
    """One file to score: its set, its path below the set's folder without suffix, and by what."""

    data: str
    scores: str
    set: str
    name: str
    by: str = "auto"


def run(context: Context) -> Iterator[Figure]:
    """Write the scores, then report what the evaluator measures."""
    with tempfile.TemporaryDirectory(prefix="anomalyd-detection-") as scratch:
        scores = context.scores or Path(scratch)
        with timed() as timing:
            samples = write_scores(context.data, scores)
        yield Figure("million samples scored a minute", samples / 1e6 / max(timing.wall_s, 1e-9) * 60)
        evaluator = find_evaluator(context.data)
        if evaluator is None:
            print(f"no evaluator found beside {context.data}: scores written, not measured")
            return
        first = evaluate(evaluator, scores, context.data)
        other = {
            **evaluate(evaluator, scores / "page", context.data),
            **evaluate(evaluator, scores / "continuous", context.data),
        }
        yield from figures(first)
        yield from figures(other, "the other signal: ")
        if context.full:
            yield from beside(evaluator, context.data)


def write_scores(data: Path, scores: Path, sets: tuple[str, ...] = SETS) -> int:
    """Score every file of a data folder; return the number of samples."""
    jobs = [Job(str(data), str(scores), name, stem) for name in sets for stem in _stems(data, name)]
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    total = 0
    with ProcessPoolExecutor(workers) as pool:
        for count in pool.map(score_file, jobs):
            total += count
    return total


def _stems(data: Path, name: str) -> list[str]:
    root = data / name / "data" if name == "nab" else data / name
    pattern = "*/*.csv" if name == "nab" else "*.npz"
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.glob(pattern))


def score_file(job: Job) -> int:
    """Score one file and write both signals; return its number of samples."""
    data = Path(job.data) / job.set
    if job.by != "auto":
        return _score_beside(job)
    if job.set in MULTIVARIATE:
        continuous, page = score_group(data / f"{job.name}.npz", STEPS.get(job.set, 5 * MINUTE_MS))
    else:
        times, values = read_nab(data / "data" / f"{job.name}.csv") if job.set == "nab" else read_npz(data, job.name)
        continuous, page = score_series(times, values)
    meant, other, folder = (page, continuous, "continuous") if job.set == "nab" else (continuous, page, "page")
    for root, signal in ((Path(job.scores), meant), (Path(job.scores) / folder, other)):
        target = root / job.set / f"{job.name}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target, scores=signal.astype(np.float32))
    return len(continuous)


def read_nab(path: Path) -> tuple[I64, F64]:
    """Times in milliseconds, made strictly increasing (some files repeat an hour), and values."""
    import pandas as pd

    table = pd.read_csv(path)
    stamps = pd.to_datetime(table["timestamp"]).to_numpy().astype("datetime64[ms]").astype(np.int64)
    return increasing(stamps), table["value"].to_numpy(np.float64)


def read_npz(folder: Path, name: str) -> tuple[I64, F64]:
    """Times in milliseconds and values of a univariate file."""
    with np.load(folder / f"{name}.npz") as z:
        return increasing(z["timestamps"].astype(np.int64) * SECOND_MS), z["values"].astype(np.float64)


def increasing(times: I64) -> I64:
    """Times that do not go back or stand still, by at least a millisecond."""
    index = np.arange(len(times), dtype=np.int64)
    return np.maximum.accumulate(times - index) + index


def usual_step(times: I64) -> int:
    """The most common distance between the first times: known before scoring, as a rule's interval is."""
    distances, counts = np.unique(np.diff(times[:100]), return_counts=True)
    return int(distances[np.argmax(counts)]) if len(distances) else MINUTE_MS


def shipped_cut(step_ms: int) -> float:
    """The surprise that the shipped budget allows, as ``threshold.initial_threshold`` has it."""
    return max(0.3, math.log10(BUDGET_MS / step_ms))


def score_series(times: I64, values: F64) -> tuple[F64, F64]:
    """Continuous score and paging signal [T] of one series."""
    step = usual_step(times)
    detector = Auto(AutoParams(), Grid(step))
    block = Block((make_labels({"series": "0"}),), times, values[None, :])
    state = detector.fit(block.window(0, 0), 0)
    raw, page, _ = detector.signals(state, block)
    return raw.score[0] / shipped_cut(step), page[0]


def score_group(path: Path, step: int) -> tuple[F64, F64]:
    """Continuous score and paging signal [T] of the test part of one multivariate group."""
    with np.load(path) as z:
        train, test = z["train"].astype(np.float64), z["test"].astype(np.float64)
    values = np.ascontiguousarray(np.concatenate([train, test]).T)
    labels = tuple(make_labels({"channel": str(i)}) for i in range(len(values)))
    times = step * np.arange(1, values.shape[1] + 1, dtype=np.int64)
    block = Block(labels, times, values)
    detector = Auto(AutoParams(joint=True), Grid(step))
    state = detector.fit(block.window(0, len(train)), 0)
    raw, page, _ = detector.signals(state, block.window(len(train)))
    cut = shipped_cut(step)
    # All channels carry the same score where they have a sample; the first one that has speaks for the group.
    first = np.argmax(~np.isnan(raw.score), axis=0)
    columns = np.arange(raw.score.shape[1])
    return raw.score[first, columns] / cut, page[first, columns] / cut


def _score_beside(job: Job) -> int:
    root = Path(job.data) / job.set
    times, values = read_nab(root / "data" / f"{job.name}.csv") if job.set == "nab" else read_npz(root, job.name)
    score = by_single(job.by, times, values) if job.by in SINGLE else by_plain(job.by, times, values)
    target = Path(job.scores) / job.set / f"{job.name}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, scores=score.astype(np.float32))
    return len(score)


def by_single(name: str, times: I64, values: F64) -> F64:
    """One detector of ours with the product's calibration, in units of the shipped cut."""
    step = usual_step(times)
    model = Model(DetectorSpec(name), Grid(step))
    block = Block((make_labels({"series": "0"}),), times, values[None, :])
    scores, _ = model.score(model.fit(block.window(0, 0)), block, shipped_cut(step))
    return scores.surprise[0] / shipped_cut(step)


def by_plain(name: str, times: I64, values: F64) -> F64:
    """Other libraries as their documentation shows; what must be fitted learns from the first tenth."""
    head = max(50, len(values) // 10)
    filled = np.nan_to_num(values, nan=float(np.nanmedian(values[:head])))
    if name == "dummy":
        return np.random.default_rng(len(values)).random(len(values))
    if name == "river half-space trees":
        return _river(filled)
    if name == "sklearn isolation forest":
        from sklearn.ensemble import IsolationForest

        windows = np.lib.stride_tricks.sliding_window_view(np.r_[np.full(7, filled[0]), filled], 8)
        forest: F64 = -IsolationForest(random_state=0).fit(windows[:head]).score_samples(windows)
        return forest
    return _band(times, filled, head)


def _river(values: F64) -> F64:
    from river import anomaly, compose, preprocessing

    model = compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=42))
    out = np.empty(len(values))
    for t, x in enumerate(values.tolist()):
        sample = {"x": x}
        out[t] = model.score_one(sample)
        model.learn_one(sample)
    return out


def _band(times: I64, values: F64, head: int) -> F64:
    """Trend and Fourier terms fitted by ridge regression on the first tenth; distance in units of the 80 % interval."""
    columns = [np.ones(len(times)), (times - times[0]) / max(1.0, float(times[head - 1] - times[0]))]
    for period, count in HARMONICS.items():
        for k in range(1, count + 1):
            angle = 2 * np.pi * k * (times % period) / period
            columns += [np.sin(angle), np.cos(angle)]
    design = np.stack(columns, axis=1)
    known = design[:head]
    weights = np.linalg.solve(known.T @ known + np.eye(design.shape[1]), known.T @ values[:head])
    error = np.abs(values - design @ weights)
    usual = max(float(np.quantile(error[:head], 0.8)), 1e-9)
    distance: F64 = error / usual
    return distance


def beside(evaluator: Path, data: Path) -> Iterator[Figure]:
    """Figures of everything else on the univariate sets, by name."""
    with tempfile.TemporaryDirectory(prefix="anomalyd-beside-") as scratch:
        for by in (*PLAIN, *SINGLE):
            scores = Path(scratch) / by.replace(" ", "-")
            sets = ("nab", "kpi")
            jobs = [Job(str(data), str(scores), name, stem, by) for name in sets for stem in _stems(data, name)]
            with ProcessPoolExecutor(os.cpu_count() or 1) as pool:
                list(pool.map(score_file, jobs))
            yield from figures(evaluate(evaluator, scores, data), f"{by}: ")


def find_evaluator(data: Path) -> Path | None:
    """``tools/evaluate.py`` beside the data folder or beside the default one."""
    default = Path(os.environ.get("ANOMALYD_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data")
    for folder in (data, default):
        path = folder.resolve().parent / "tools" / "evaluate.py"
        if path.is_file():
            return path
    return None


def evaluate(evaluator: Path, scores: Path, data: Path) -> dict[str, Any]:
    """Run the evaluator on the sets that have scores; empty when there are none."""
    names = [name for name in SETS if (scores / name).is_dir() and (data / name).is_dir()]
    if not names:
        return {}
    command = [sys.executable, "-W", "ignore", str(evaluator), str(scores), "--data", str(data), "--sets", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the evaluator failed: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


TARGETS: dict[tuple[str, str], tuple[Callable[[dict[str, Any]], float], float]] = {
    ("nab", "NAB standard, best threshold"): (lambda r: r["standard"]["best"], 75.1),
    ("kpi", "KPI VUS-PR, mean"): (lambda r: r["per_series_best"]["vus_pr"], 0.55),
    ("kpi", "KPI F1 within 5, mean"): (lambda r: r["per_series_best"]["delay"], 0.88),
    ("kpi", "KPI F1 by event, mean"): (lambda r: r["per_series_best"]["event"], 0.77),
    ("kpi", "KPI F1 within 5, one threshold"): (lambda r: r["pooled_one_threshold"]["delay"], 0.90),
    ("kpi", "KPI F1 by event, one threshold"): (lambda r: r["pooled_one_threshold"]["event"], 0.66),
    ("smd", "SMD VUS-PR"): (lambda r: r["per_group_best"]["vus_pr"], 0.55),
    ("asd", "ASD VUS-PR"): (lambda r: r["per_group_best"]["vus_pr"], 0.40),
    ("services", "services VUS-PR"): (lambda r: r["per_group_best"]["vus_pr"], 0.30),
}


def figures(result: dict[str, Any], prefix: str = "") -> Iterator[Figure]:
    """The figures of one signal; targets only for the signal that is meant for the set."""
    for (name, title), (read, target) in TARGETS.items():
        if name in result:
            value = float(read(result[name]) or 0.0)
            yield Figure(prefix + title, value) if prefix else quality(title, value, at_least=target)
    if "nab" in result:
        yield from _nab_figures(result["nab"], prefix)
    for name in UNIVARIATE:
        if name in result:
            yield from _univariate_figures(name.upper(), result[name], prefix)
    for name in MULTIVARIATE:
        if name in result:
            best = result[name]["per_group_best"]
            yield Figure(f"{prefix}{name} AP", float(best["ap"] or 0.0))
            yield Figure(f"{prefix}{name} F1 by event, mean", float(best["event"] or 0.0))


def _nab_figures(result: dict[str, Any], prefix: str) -> Iterator[Figure]:
    best = result["standard"]["best"]
    shipped = result["standard"]["fixed"]
    if prefix:
        yield Figure(f"{prefix}NAB standard, shipped threshold", shipped)
    else:
        yield limit("NAB points lost at the shipped threshold", best - shipped, at_most=5.0, note=f"{shipped} there")
    for profile in ("reward_low_FP_rate", "reward_low_FN_rate"):
        yield Figure(f"{prefix}NAB {profile}, best threshold", result[profile]["best"])


def _univariate_figures(name: str, result: dict[str, Any], prefix: str) -> Iterator[Figure]:
    best, shipped = result["pooled_one_threshold"], result["pooled_fixed_threshold"]
    for kind, title in (("delay", "within 5"), ("event", "by event")):
        share = shipped[kind] / best[kind] if best[kind] else 0.0
        text = f"{name} F1 {title}, shipped threshold as a share of the best"
        note = f"{shipped[kind]:.3f} of {best[kind]:.3f}"
        yield Figure(prefix + text, share) if prefix else quality(text, share, at_least=0.9, note=note)
    alarms = result["false_alarms_per_series_week"]
    text = f"{name} false alarms per series and week, shipped threshold"
    weekly = 7 * DAY_MS / BUDGET_MS
    bounded = limit(text, alarms, at_most=2 * weekly, note=f"budget {weekly:g}")
    yield Figure(prefix + text, alarms) if prefix else bounded
    yield Figure(f"{prefix}{name} AP, mean", float(result["per_series_best"]["ap"] or 0.0))
    if name != "KPI":
        yield Figure(f"{prefix}{name} VUS-PR, mean", float(result["per_series_best"]["vus_pr"] or 0.0))
