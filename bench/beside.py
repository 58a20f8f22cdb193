"""What stands beside ``auto``: a dummy, every single detector of ours, and other libraries' plain use.

``make bench NAME=detection FULL=1`` measures it too. All of it on NAB's files and on the ``KPI_FILES`` shortest of KPI,
``auto`` included, so that the rows compare; the slow ones would not end in an hour on the whole. Ours are calibrated as
in the product; those that learn in fits do so from the first tenth on, each week anew from two weeks, and are
silent in the first tenth. The others are used as their documentation shows: what must be fitted learns from the first
tenth of a series (at most ``MOST_LEARNED`` samples), eight lags of the value as features where a method takes vectors.
``pyod`` lives in a virtual environment of its own under ``.bench/``; where it cannot be made, its row is left out and
that is said.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalyd.block import F64, I64, Block, make_labels
from anomalyd.clock import DAY_MS, WEEK_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec
from bench._replay import cut_of, notified
from bench._series import read_nab, read_npz, stems, usual_step
from bench.detection import BUDGET_MS, continuous_score, evaluate, figures, find_evaluator
from bench.harness import Context, Figure, timed

SINGLE = ("zscore", "mad", "iqr", "ewma", "cusum", "seasonal", "rls", "knn", "extreme", "half_space_trees", "adwin")
FITTED = (
    "stl", "isolation_forest", "extended_isolation_forest", "lof", "matrix_profile", "autoencoder", "lstm",
)  # fmt: skip
FOREIGN = (
    "dummy", "river half-space trees", "sklearn isolation forest", "sklearn local outlier factor", "pyod ecod",
    "prophet-style band",
)  # fmt: skip
SETS = ("nab", "kpi")
KPI_FILES = 6
LAGS = 8
MOST_LEARNED = 5_000
HARMONICS = {DAY_MS: 10, WEEK_MS: 3}
"""Periods and numbers of harmonics of the Prophet-style band (Prophet's own defaults)."""
PYOD = Path(__file__).parents[1] / ".bench" / "pyod"
PYOD_SCORE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from pyod.models.ecod import ECOD
with np.load(sys.argv[1]) as z:
    learned, windows = z["learned"], z["windows"]
model = ECOD()
model.fit(learned)
np.save(sys.argv[2], np.concatenate([model.decision_function(part) for part in np.array_split(windows, 20)]))
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One file to score: data and scores folders, its set, its path below it, and by what."""

    data: str
    scores: str
    set: str
    name: str
    by: str


def run(context: Context) -> Iterator[Figure]:
    """Figures of everything, where there is an evaluator."""
    evaluator = find_evaluator(context.data)
    if evaluator is None:
        raise SystemExit(f"no evaluator found beside {context.data}")
    yield from beside(evaluator, context.data)


def beside(evaluator: Path, data: Path) -> Iterator[Figure]:
    """Figures of everything, by name."""
    with tempfile.TemporaryDirectory(prefix="anomalyd-beside-") as scratch:
        part = _part_of(data, Path(scratch) / "data")
        names = [name for name in SETS if (part / name).is_dir()]
        for by in (*FOREIGN, *SINGLE, *FITTED, "auto"):
            if by.startswith("pyod") and not _have_pyod():
                print("no pyod: its row is left out", flush=True)
                continue
            scores = Path(scratch) / by.replace(" ", "-")
            jobs = [Job(str(part), str(scores), name, stem, by) for name in names for stem in stems(part, name)]
            with timed() as timing, ProcessPoolExecutor(os.cpu_count() or 1) as pool:
                list(pool.map(_score, jobs))
            print(f"{by}: scored in {timing.wall_s:.0f} s", flush=True)
            yield from figures(evaluate(evaluator, scores, part), f"{by}, {KPI_FILES} KPI files: ")


def _part_of(data: Path, target: Path) -> Path:
    """A data folder with NAB as it is and the shortest series of KPI."""
    target.mkdir()
    if (data / "nab").is_dir():
        (target / "nab").symlink_to((data / "nab").resolve())
    if (data / "kpi").is_dir():
        (target / "kpi").mkdir()
        for path in sorted((data / "kpi").glob("*.npz"), key=lambda p: (p.stat().st_size, p.name))[:KPI_FILES]:
            (target / "kpi" / path.name).symlink_to(path.resolve())
    return target


def _score(job: Job) -> None:
    root = Path(job.data) / job.set
    times, values = read_nab(root / "data" / f"{job.name}.csv") if job.set == "nab" else read_npz(root, job.name)
    if job.by == "auto":
        step = usual_step(times)
        score = notified(times, values, step) if job.set == "nab" else continuous_score(times, values, step)
    elif job.by in FITTED:
        score = by_fitted(job.by, times, values)
    else:
        score = by_single(job.by, times, values) if job.by in SINGLE else by_foreign(job.by, times, values)
    target = Path(job.scores) / job.set / f"{job.name}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, scores=score.astype(np.float32))


def by_single(name: str, times: I64, values: F64) -> F64:
    """One detector of ours with the product's calibration, in units of the cut of a budget of one a day."""
    step = usual_step(times)
    model = Model(DetectorSpec(name), Grid(step))
    block = Block((make_labels({"series": "0"}),), times, values[None, :])
    scores, _ = model.score(model.fit(block.window(0, 0)), block, cut_of(step, BUDGET_MS))
    surprise: F64 = scores.surprise[0] / cut_of(step, BUDGET_MS)
    return surprise


def by_fitted(name: str, times: I64, values: F64) -> F64:
    """One that learns in fits, likewise: refitted each week on the two weeks before, as the daemon refits a rule."""
    step = usual_step(times)
    model, cut = Model(DetectorSpec(name), Grid(step)), cut_of(step, BUDGET_MS)
    block = Block((make_labels({"series": "0"}),), times, values[None, :])
    week, surprise = max(1, WEEK_MS // step), np.zeros(len(times))
    for begin in range(max(50, len(times) // 10), len(times), week):
        end = min(len(times), begin + week)
        state = model.fit(block.window(max(0, begin - 2 * week), begin))
        scores, _ = model.score(state, block.window(begin, end), cut)
        surprise[begin:end] = np.nan_to_num(scores.surprise[0] / cut)
    return surprise


def by_foreign(name: str, times: I64, values: F64) -> F64:
    """Other libraries as their documentation shows."""
    head = max(50, len(values) // 10)
    filled = np.nan_to_num(values, nan=float(np.nanmedian(values[:head])))
    if name == "dummy":
        random: F64 = np.random.default_rng(len(values)).random(len(values))
        return random
    if name == "river half-space trees":
        return _river(filled)
    if name == "prophet-style band":
        return _band(times, filled, head)
    windows = np.lib.stride_tricks.sliding_window_view(np.r_[np.full(LAGS - 1, filled[0]), filled], LAGS)
    learned = windows[: min(head, MOST_LEARNED)]
    if name == "pyod ecod":
        return _pyod(learned, windows)
    if name == "sklearn isolation forest":
        from sklearn.ensemble import IsolationForest

        forest: F64 = -IsolationForest(random_state=0).fit(learned).score_samples(windows)
        return forest
    from sklearn.neighbors import LocalOutlierFactor

    factor: F64 = -LocalOutlierFactor(novelty=True).fit(learned).score_samples(windows)
    return factor


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


def _have_pyod() -> bool:
    """Whether there is an environment with pyod, made where it can be."""
    python = PYOD / "bin" / "python"
    if not python.exists():
        PYOD.parent.mkdir(exist_ok=True)
        for command in (
            [sys.executable, "-m", "venv", str(PYOD)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pyod"],
        ):
            if subprocess.run(command, check=False).returncode:
                return False
    tried = subprocess.run([str(python), "-c", "import pyod.models.ecod"], capture_output=True, check=False)
    return tried.returncode == 0


def _pyod(learned: F64, windows: F64) -> F64:
    with tempfile.TemporaryDirectory(prefix="anomalyd-pyod-") as folder:
        asked, answer = Path(folder) / "asked.npz", Path(folder) / "answer.npy"
        np.savez(asked, learned=learned, windows=windows)
        subprocess.run([str(PYOD / "bin" / "python"), "-c", PYOD_SCORE, str(asked), str(answer)], check=True)
        scores: F64 = np.load(answer)
        return scores
