"""Leave-one-group-out: what the constants of ``auto`` that were chosen by labels are worth on series they never saw.

What the members say of every sample is kept once; the signals are then put together again for each choice of a small
grid of round values. For each group of series the best choice on all *other* groups is taken and measured on the group;
what comes out beside the shipped choice shows how much of a figure is owed to looking.

Groups: the kinds of NAB (its artificial files are one), two halves of KPI (every second series), and SMD, ASD and
services as three. NAB is judged by what pages, as the daemon lives through it (``bench/_nab.py``), where the shipped
rule pages; once more with the threshold chosen elsewhere too. Its choices are made on several copies of its files
(with noise, begun later, every second sample): one file more or less found by chance decides less. What pages is also
told of each copy: nothing was chosen for any of them alone.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from anomalyd.block import F64, I64, Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.detectors.auto import Auto, AutoParams
from anomalyd.detectors.base import Grid
from anomalyd.detectors.calibrate import HALF_LIFE
from anomalyd.detectors.kernels import auto, auto_joint, levels, memories, promise
from bench._nab import COPIES, Lived, Page, live_file, pages, write_copy
from bench._series import increasing, read_npz, stems, usual_step
from bench.detection import find_evaluator
from bench.harness import Context, Figure

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Continuous:
    """Constants of the continuous score that labels chose."""

    doubt: float = auto.DOUBT
    fades: float = auto.SPAN_FADES
    forecast: float = 2.0
    """Weight of the forecast's residual in what begins now."""


@dataclass(frozen=True, slots=True)
class Joint:
    """Choices of the score of several channels that labels could make: memories, and what each view counts for."""

    fades: tuple[float, ...] = tuple(memories.FADES.tolist())
    views: tuple[float, ...] = (1.0,) * auto_joint.VIEWS


PAGES = [
    Page(*choice)
    for choice in product((7.0, 10.0, 14.0), (0.15, 0.2, 0.25), (12.0, 25.0, 50.0), (1.0, 2.0), (0.0, 0.05, 0.1))
]  # fmt: skip
CUTS = (1.0, 1.02, 1.05, 1.1, 1.2)
"""Thresholds of what pages that a choice elsewhere may take."""
CONTINUOUS = [
    *(Continuous(*choice) for choice in product((1.8, 2.2, 2.6), (0.95, 0.97, 0.98))),
    Continuous(forecast=1.0), Continuous(forecast=3.0),
]  # fmt: skip
EACH = (
    (1, 1, 1, 1), (0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0),
    (0, 0, 0, 1), (1, 0, 1, 0), (1, 0, 0, 1),
)  # fmt: skip
"""What the residuals may count for: level, level given the others, forecast, forecast given the others."""
VIEWS = [
    *(tuple(float(weight) for weight in residuals for _ in range(2)) for residuals in EACH),
    (1.0, 0.0) * auto_joint.RESIDUALS, (0.0, 1.0) * auto_joint.RESIDUALS,
]  # fmt: skip
MEMORIES = (
    (0.0, 0.9, 0.99, 0.999), (0.9, 0.99, 0.999), (0.0, 0.9, 0.99), (0.9, 0.97, 0.99, 0.997), (0.985,), (0.995,),
)  # fmt: skip
JOINTS = [Joint(*choice) for choice in product(MEMORIES, VIEWS)]


def load(path: Path) -> ModuleType:
    """The evaluator as a module."""
    spec = importlib.util.spec_from_file_location("evaluator", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluator"] = module
    spec.loader.exec_module(module)
    return module


def run(context: Context) -> Iterator[Figure]:
    """Figures of all that is there, where there is an evaluator."""
    evaluator = find_evaluator(context.data)
    if evaluator is None:
        raise SystemExit(f"no evaluator found beside {context.data}")
    yield from selection(evaluator, context.data)


def selection(evaluator: Path, data: Path) -> Iterator[Figure]:
    """Figures of all that is there."""
    judge = load(evaluator)
    if (data / "nab").is_dir():
        yield from nab(judge, data)
    if (data / "kpi").is_dir():
        yield from kpi(judge, data)
    if all((data / name).is_dir() for name in ("smd", "asd", "services")):
        yield from joint(judge, data)


def seen_by_members(times: NDArray[np.int64], values: F64) -> F32:
    """What the members say [T, VIEWS] of one series, scored from nothing."""
    detector = Auto(AutoParams(), Grid(usual_step(times)))
    block = Block((make_labels({"series": "0"}),), increasing(times), values[None, :])
    found = detector.views(detector.fit(block.window(0, 0), 0), block)[0][0]
    narrow: F32 = np.nan_to_num(found).astype(np.float32)
    return narrow


# NAB ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of NAB, lived through: its evaluator, its files."""

    name: str
    corpus: Any
    files: Mapping[str, Lived]

    def at(self, found: Mapping[str, F64], cut: float, files: Sequence[str]) -> float:
        """Standard profile where a signal is above a cut."""
        return float(self.corpus.at(found, "standard", math.nextafter(cut, 2.0), files))


Kinds = dict[str, list[str]]
Worth = NDArray[np.float64]
"""What choices are worth [copies, choices, cuts, kinds], standard profile."""


def nab(judge: ModuleType, data: Path) -> Iterator[Figure]:
    """What pages of each copy of NAB; then each kind, judged by what was chosen on the others."""
    copies: list[Copy] = []
    with tempfile.TemporaryDirectory(prefix="anomalyd-copies-") as scratch:
        for name in COPIES:
            copies.append(_live_copy(judge, data / "nab", Path(scratch) / name.replace(" ", "-"), name))
            yield from _as_paged(copies[-1])
    kinds = _kinds(copies[0].corpus.files)
    weights = np.array([float(_windows(copies[0], files)) for files in kinds.values()])
    worth = np.array([[_worth(copy, kinds, choice) for choice in PAGES] for copy in copies])
    usual = _worth(copies[0], kinds, Page())[0]
    for title, cuts in (("", 1), (", threshold too", len(CUTS))):
        yield from _left_out(kinds, weights, worth[:, :, :cuts], usual, title)
    looked = float((worth[0, :, 0] @ weights).max() / weights.sum())
    here = float(usual @ weights / weights.sum())
    yield Figure("chosen here: NAB as paged, the best of the grid on all files (shipped choice)", looked, here)


def _left_out(kinds: Kinds, weights: Worth, worth: Worth, usual: Worth, title: str) -> Iterator[Figure]:
    """Each kind by what the others choose on all copies; the whole is weighted by the number of labelled windows."""
    unseen = np.zeros(len(kinds))
    for k, kind in enumerate(kinds):
        rest = np.where(np.arange(len(kinds)) == k, 0.0, weights)
        elsewhere = (worth.mean(axis=0) @ rest) / rest.sum()
        choice, cut = np.unravel_index(int(elsewhere.argmax()), elsewhere.shape)
        unseen[k] = worth[0, choice, cut, k]
        note = f"chosen elsewhere: {_changed(PAGES[choice], Page())}, cut {CUTS[cut]}"
        yield Figure(f"left out{title}: NAB as paged, {kind} (shipped choice)", unseen[k], usual[k], note=note)
    whole, shipped = float(unseen @ weights / weights.sum()), float(usual @ weights / weights.sum())
    yield Figure(f"left out{title}: NAB as paged, each kind by the others' choice (shipped choice)", whole, shipped)


def _live_copy(judge: ModuleType, nab_folder: Path, target: Path, name: str) -> Copy:
    write_copy(nab_folder, target, name)
    corpus = judge.NabCorpus(target)
    with ProcessPoolExecutor(os.cpu_count() or 1) as pool:
        found = list(pool.map(live_file, [target / "data" / file for file in corpus.files]))
    return Copy(name, corpus, dict(zip(corpus.files, found, strict=True)))


def _as_paged(copy: Copy) -> Iterator[Figure]:
    """What the daemon pages of a copy, and what is made of it here for the same constants."""
    told = {file: lived.told for file, lived in copy.files.items()}
    again = {file: pages(lived, Page()) for file, lived in copy.files.items()}
    best = float(copy.corpus.curve(told, "standard", copy.corpus.files)[1].max())
    note = f"put together again {copy.at(again, 1.0, copy.corpus.files):.1f}"
    shipped = copy.at(told, 1.0, copy.corpus.files)
    yield Figure(f"NAB {copy.name}, as paged, shipped threshold (best threshold)", shipped, best, note=note)


def _kinds(files: Sequence[str]) -> Kinds:
    found: Kinds = {}
    for file in files:
        kind = file.split("/")[0]
        found.setdefault("artificial" if kind.startswith("artificial") else kind, []).append(file)
    return found


def _windows(copy: Copy, files: Sequence[str]) -> int:
    return sum(len(set(copy.corpus.window[file][copy.corpus.window[file] >= 0].tolist())) for file in files)


def _worth(copy: Copy, kinds: Kinds, choice: Page) -> Worth:
    """What a choice is worth on each kind [cuts, kinds]."""
    found = {file: pages(lived, choice) for file, lived in copy.files.items()}
    return np.array([[copy.at(found, cut, files) for files in kinds.values()] for cut in CUTS])


def _changed(choice: Any, usual: Any) -> str:
    fields = [name for name in choice.__dataclass_fields__ if getattr(choice, name) != getattr(usual, name)]
    return ", ".join(f"{name} {getattr(choice, name)}" for name in fields) or "the shipped choice"


# KPI ----------------------------------------------------------------------------------------------------------------


@njit(cache=True)
def continuous_score(views: Any, doubt: float, fades: float, forecast: float) -> Any:
    """The continuous score [T] of ``kernels/auto.py`` with other constants."""
    samples = len(views)
    out = np.zeros(samples)
    span = 0.0
    for t in range(samples):
        v = views[t]
        onset = (forecast * v[0] + v[1]) / (forecast + 1.0)
        lasting = 0.5 * (min(v[2], auto.CAP) + min(v[3], auto.CAP))
        span = max(lasting, fades * span)
        if onset >= doubt:
            out[t] = doubt + auto.STRETCH * (onset - doubt)
        else:
            out[t] = 0.99 * doubt * span / (span + auto.SPAN_HALF)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A KPI series: what the members say of it, its labels from the second part on, its width for VUS-PR."""

    views: F32
    truth: F64
    first: int
    width: int


@dataclass(frozen=True, slots=True)
class Marks:
    """What a choice is worth on one series."""

    vus: float
    delay: float
    event: float

    @property
    def mean(self) -> float:
        return (self.vus + self.delay + self.event) / 3


def kpi(judge: ModuleType, data: Path) -> Iterator[Figure]:
    """Two halves of KPI, each judged by what was chosen on the other."""
    series = [_labelled(judge, data / "kpi", stem) for stem in stems(data, "kpi")]
    halves = {"even": list(range(0, len(series), 2)), "odd": list(range(1, len(series), 2))}
    marks = {choice: [_marks(judge, one, choice) for one in series] for choice in CONTINUOUS}
    usual = marks[Continuous()]
    for name, mine in halves.items():
        others = [i for i in range(len(series)) if i not in mine]
        chosen = max(CONTINUOUS, key=lambda c: _mean(marks[c], others, "mean"))
        looked = max(CONTINUOUS, key=lambda c: _mean(marks[c], mine, "mean"))
        for title, field in (("VUS-PR", "vus"), ("F1 within 5", "delay"), ("F1 by event", "event")):
            note = f"{_changed(chosen, Continuous())}; chosen on it: {_mean(marks[looked], mine, field):.3f}"
            here = _mean(marks[chosen], mine, field)
            before = _mean(usual, mine, field)
            yield Figure(f"left out: KPI {name} half, {title} (shipped choice)", here, before, note=note)


def _mean(marks: Sequence[Marks], which: Sequence[int], field: str) -> float:
    return float(np.nanmean([getattr(marks[i], field) for i in which]))


def _labelled(judge: ModuleType, folder: Path, stem: str) -> Labelled:
    times, values = read_npz(folder, stem)
    with np.load(folder / f"{stem}.npz") as z:
        first, labels = int(z["train_length"]), z["labels"]
    return Labelled(seen_by_members(times, values), labels[first:], first, int(judge.vus_width(values)))


def _marks(judge: ModuleType, one: Labelled, choice: Continuous) -> Marks:
    score = continuous_score(one.views, choice.doubt, choice.fades, choice.forecast)[None, :]
    lines = np.zeros((1, promise.LINE))
    promise.keep_block(score, np.zeros(1, np.bool_), choice.doubt, 2.0 ** (-1.0 / HALF_LIFE), lines)
    late = score[0, one.first :]
    delay, event = (judge.f1_best([judge.f1_parts(one.truth, late, kind)]) for kind in ("delay", "event"))
    return Marks(judge.vus_pr(one.truth, late, one.width), delay, event)


# Several channels ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A group of channels: surprise of each view [VIEWS, T] on its test part, labels, width for VUS-PR."""

    surprises: F64
    truth: F64
    width: int


def joint(judge: ModuleType, data: Path) -> Iterator[Figure]:
    """SMD, ASD and services, each judged by what was chosen on the other two."""
    sets = {
        name: [_machine(judge, path) for path in sorted((data / name).glob("*.npz"))]
        for name in ("smd", "asd", "services")
    }
    worth: dict[Joint, Mapping[str, float]] = {
        choice: {name: _vus(judge, machines, choice) for name, machines in sets.items()} for choice in JOINTS
    }
    usual = {name: _vus(judge, machines, Joint()) for name, machines in sets.items()}
    for name in sets:
        others = [other for other in sets if other != name]
        chosen = max(JOINTS, key=lambda c: sum(worth[c][other] for other in others))
        looked = max(worth[c][name] for c in JOINTS)
        note = f"{_changed(chosen, Joint())}; best of the grid on it: {looked:.3f}"
        yield Figure(f"left out: {name} VUS-PR (shipped choice)", worth[chosen][name], usual[name], note=note)


def _machine(judge: ModuleType, path: Path) -> Machine:
    with np.load(path) as z:
        train, test, labels = z["train"].astype(np.float64), z["test"].astype(np.float64), z["labels"]
    values = np.ascontiguousarray(np.concatenate([train, test]).T)
    bins, days = _calendar(path.parent.name, values.shape[1])
    cut = len(train)
    arrays = auto_joint.fit_joint(values[:, :cut], bins[:cut], days[:cut])
    found = auto_joint.surprises(arrays, values[:, cut:], bins[cut:])
    return Machine(found, labels, int(judge.vus_width(test[:, 0])))


def _calendar(name: str, samples: int) -> tuple[I64, I64]:
    """Bins of the day and days of a group's samples, as ``score_group`` has them."""
    times = (MINUTE_MS if name == "smd" else 5 * MINUTE_MS) * np.arange(1, samples + 1, dtype=np.int64)
    return times % DAY_MS * levels.BINS // DAY_MS, times // DAY_MS


def _vus(judge: ModuleType, machines: Sequence[Machine], choice: Joint) -> float:
    weights = np.array(choice.views)
    found = []
    for machine in machines:
        now = weights @ np.minimum(machine.surprises, auto_joint.MOST) / weights.sum()
        held = np.mean([_fading(now, fade) for fade in choice.fades], axis=0)
        found.append(judge.vus_pr(machine.truth, held, machine.width))
    return float(np.nanmean(found))


@njit(cache=True)
def _fading(values: Any, fades: float) -> Any:
    out = np.empty(len(values))
    held = 0.0
    for t in range(len(values)):
        held = max(values[t], fades * held)
        out[t] = held
    return out
