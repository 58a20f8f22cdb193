"""Detection quality: online scores of ``auto`` for a folder of labelled series, and what the evaluator says of them.

    make bench NAME=detection DATA=<folder> SCORES=<folder>

writes the scores of every series of the folder (``nab/``, ``kpi/``, ``wsd/``, ``smd/``, ``asd/``, ``services/``; any of
them) in the form the evaluator reads, one configuration for all, every score from samples up to its own only:

    SCORES/<set>/...             the signal meant for the set: what pages for nab, the continuous score for the others
    SCORES/page/<set>/...        the other signal for all but nab
    SCORES/continuous/<set>/...  the other signal for nab
    SCORES/frozen/<set>/...      what a frozen model would open, for smd, asd and services

What pages is what the daemon would tell: each univariate series is lived through by the daemon's own evaluation under
the shipped rule (a budget of one alarm a week), and the signal is the surprise in units of the rule's cut where
somebody is told that an episode has opened or gone far beyond its peak, 0 elsewhere. The continuous score is the
detector's surprise divided by the cut of a budget of one a day; its figures at the shipped rule's cut are told beside.
Multivariate groups have ``train`` for their history and live through ``test`` as one joint rule; their continuous score
is that of one model of all of ``train``.

The evaluator is looked for as ``tools/evaluate.py`` beside the data folder; without it only the scores are written.
Without SCORES they go to a temporary folder. ``FULL=1`` also measures what stands beside ``auto``
(``make bench NAME=beside`` by itself) and what its constants are worth on series that had no say in them
(``make bench NAME=selection``).
"""

from __future__ import annotations

import json
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
from anomalyd.clock import DAY_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors.auto import Auto, AutoParams
from anomalyd.detectors.base import Grid
from bench._paged import paged
from bench._replay import cut_of, notified
from bench._series import read_nab, read_npz, stems, usual_step
from bench._together import lived_together, openings, paged_together
from bench.harness import Context, Figure, limit, quality, timed

BUDGET_MS = DAY_MS
"""The continuous score is 1 at one false alarm a day and series, while nothing is wrong."""
STEPS = {"smd": MINUTE_MS}
MULTIVARIATE = ("smd", "asd", "services")
UNIVARIATE = ("kpi", "wsd")
SETS = ("nab", *UNIVARIATE, *MULTIVARIATE)


@dataclass(frozen=True, slots=True)
class Job:
    """One file to score: its set, and its path below the set's folder without suffix."""

    data: str
    scores: str
    set: str
    name: str


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
        yield from at_the_shipped_rule(evaluator, scores, context.data)
        for name in UNIVARIATE:
            if (context.data / name).is_dir():
                yield from paged(name, scores / "page", context.data)
        for name in MULTIVARIATE:
            if (context.data / name).is_dir():
                step = STEPS.get(name, 5 * MINUTE_MS)
                yield from paged_together(name, step, scores / "page", context.data, "what pages")
                yield from paged_together(name, step, scores / "frozen", context.data, "a frozen model opens")
        if context.full:
            from bench.beside import beside
            from bench.selection import selection

            yield from selection(evaluator, context.data)
            yield from beside(evaluator, context.data)


def write_scores(data: Path, scores: Path, sets: tuple[str, ...] = SETS) -> int:
    """Score every file of a data folder; return the number of samples."""
    jobs = [Job(str(data), str(scores), name, stem) for name in sets for stem in stems(data, name)]
    workers = max(1, min(len(jobs), os.cpu_count() or 1))
    total = 0
    with ProcessPoolExecutor(workers) as pool:
        for count in pool.map(score_file, jobs):
            total += count
    return total


def score_file(job: Job) -> int:
    """Score one file and write both signals; return its number of samples."""
    data, root = Path(job.data) / job.set, Path(job.scores)
    if job.set in MULTIVARIATE:
        continuous, page, frozen = score_group(data / f"{job.name}.npz", STEPS.get(job.set, 5 * MINUTE_MS))
        signals = {root: continuous, root / "page": page, root / "frozen": frozen}
    elif job.set == "nab":
        continuous, page = score_series(*read_nab(data / "data" / f"{job.name}.csv"))
        signals = {root: page, root / "continuous": continuous}
    else:
        continuous, page = score_series(*read_npz(data, job.name))
        signals = {root: continuous, root / "page": page}
    for folder, signal in signals.items():
        target = folder / job.set / f"{job.name}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target, scores=signal.astype(np.float32))
    return len(continuous)


def score_series(times: I64, values: F64) -> tuple[F64, F64]:
    """Continuous score and what pages [T] of one series."""
    step = usual_step(times)
    return continuous_score(times, values, step), notified(times, values, step)


def continuous_score(times: I64, values: F64, step: int) -> F64:
    """Continuous score [T] of one series, from nothing."""
    detector = Auto(AutoParams(), Grid(step))
    block = Block((make_labels({"series": "0"}),), times, values[None, :])
    raw, _ = detector.score(detector.fit(block.window(0, 0), 0), block)
    score: F64 = raw.score[0] / cut_of(step, BUDGET_MS)
    return score


def score_group(path: Path, step: int) -> tuple[F64, F64, F64]:
    """Continuous score, what pages, and what a frozen model opens [T] of the test part of one multivariate group."""
    with np.load(path) as z:
        train, test = z["train"].astype(np.float64), z["test"].astype(np.float64)
    values = np.ascontiguousarray(np.concatenate([train, test]).T)
    labels = tuple(make_labels({"channel": str(i)}) for i in range(len(values)))
    times = step * np.arange(1, values.shape[1] + 1, dtype=np.int64)
    block = Block(labels, times, values)
    detector = Auto(AutoParams(joint=True), Grid(step))
    state = detector.fit(block.window(0, len(train)), 0)
    raw, _ = detector.score(state, block.window(len(train)))
    assert raw.page is not None, "auto tells news from what goes on"
    # All channels carry the same score where they have a sample; the first one that has speaks for the group.
    first = np.argmax(~np.isnan(raw.score), axis=0)
    columns = np.arange(raw.score.shape[1])
    score = raw.score[first, columns]
    frozen = openings(score, raw.page[first, columns], cut_of(step, WEEK_MS))
    return score / cut_of(step, BUDGET_MS), lived_together(block, len(train), step), frozen


def at_the_shipped_rule(evaluator: Path, scores: Path, data: Path) -> Iterator[Figure]:
    """The continuous score of the univariate sets where a budget of one a week cuts it."""
    names = [name for name in UNIVARIATE if (data / name).is_dir()]
    with tempfile.TemporaryDirectory(prefix="anomalyd-weekly-") as scratch:
        for name in names:
            for stem in stems(data, name):
                step = usual_step(read_npz(data / name, stem)[0])
                target = Path(scratch) / name / f"{stem}.npz"
                target.parent.mkdir(parents=True, exist_ok=True)
                with np.load(scores / name / f"{stem}.npz") as z:
                    np.savez(target, scores=z["scores"] * (cut_of(step, BUDGET_MS) / cut_of(step, WEEK_MS)))
        for name, result in evaluate(evaluator, Path(scratch), data).items():
            yield from _univariate_figures(name.upper(), result, "continuous at one a week: ", WEEK_MS)


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
            yield from _univariate_figures(name.upper(), result[name], prefix, WEEK_MS if prefix else BUDGET_MS)
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


def _univariate_figures(name: str, result: dict[str, Any], prefix: str, budget_ms: int) -> Iterator[Figure]:
    best, shipped = result["pooled_one_threshold"], result["pooled_fixed_threshold"]
    for kind, title in (("delay", "within 5"), ("event", "by event")):
        share = shipped[kind] / best[kind] if best[kind] else 0.0
        text = f"{name} F1 {title}, shipped threshold as a share of the best"
        note = f"{shipped[kind]:.3f} of {best[kind]:.3f}"
        yield Figure(prefix + text, share, note=note) if prefix else quality(text, share, at_least=0.9, note=note)
    alarms = result["false_alarms_per_series_week"]
    text = f"{name} false alarms per series and week, shipped threshold"
    weekly = WEEK_MS / budget_ms
    bounded = limit(text, alarms, at_most=2 * weekly, note=f"budget {weekly:g}")
    yield Figure(prefix + text, alarms, note=f"budget {weekly:g}") if prefix else bounded
    yield Figure(f"{prefix}{name} AP, mean", float(result["per_series_best"]["ap"] or 0.0))
    if name != "KPI":
        yield Figure(f"{prefix}{name} VUS-PR, mean", float(result["per_series_best"]["vus_pr"] or 0.0))
