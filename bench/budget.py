"""False alarms per budget on anomaly-free data: how honest a budget is, by step and noise family.

Generated series with nothing wrong in them: eight families of noise, with and without a daily rhythm, at steps from 15
seconds to an hour. What is correlated is so for the same time at every step. A rule has many series of one family. The
first two weeks are history; after them each alert is a false one: an episode that opens by what is news and lasts while
the surprise is above the cut, as in the daemon. A rule keeps its budget when their number is within a factor of two of
it. ``auto`` also begins with nothing, so the first week of a series is told as well: what it pages while it is young.
``mad`` stands beside it at five minutes.

``FULL=1`` takes 40 rules a step, otherwise 8. The noise is drawn with seeds from ``REPORTED`` on; what was chosen by
looking at such noise was chosen on the seeds below it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, WEEK_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec
from bench.harness import Context, Figure, limit, quality

HISTORY_WEEKS = 2
START = 1_760_054_400_000
REPORTED = 1_000
PERIODS = {"1 a day": DAY_MS, "1 a week": WEEK_MS}


@dataclass(frozen=True, slots=True)
class Stage:
    """How noise is drawn: its step, the weeks in all, the series of a rule."""

    name: str
    step: int
    weeks: int
    series: int

    @property
    def per_day(self) -> int:
        return DAY_MS // self.step

    @property
    def shape(self) -> tuple[int, int]:
        return self.series, self.weeks * 7 * self.per_day

    @property
    def times(self) -> I64:
        return START + self.step * np.arange(1, self.shape[1] + 1, dtype=np.int64)

    def rhythm(self) -> F64:
        """One sine a day, between -1 and 1."""
        wave: F64 = np.sin(2 * np.pi * np.arange(self.shape[1]) / self.per_day)
        return wave


USUAL = Stage("5 min", 5 * MINUTE_MS, 8, 25)
STAGES = (
    Stage("15 s", 15 * SECOND_MS, 4, 8), Stage("1 min", MINUTE_MS, 6, 12), USUAL, Stage("1 h", HOUR_MS, 26, 25),
)  # fmt: skip


def autoregressive(stage: Stage, rng: np.random.Generator) -> F64:
    """AR(1) whose coefficient over five minutes is 0.8."""
    kept = 0.8 ** (stage.step / USUAL.step)
    noise = rng.normal(size=stage.shape)
    values = np.zeros_like(noise)
    for t in range(1, values.shape[1]):
        values[:, t] = kept * values[:, t - 1] + noise[:, t]
    return values


FAMILIES: dict[str, Callable[[Stage, np.random.Generator], F64]] = {
    "gaussian": lambda at, rng: 10 + rng.normal(size=at.shape),
    "gaussian, daily": lambda at, rng: 100 + 20 * at.rhythm() + rng.normal(size=at.shape),
    "autoregressive": autoregressive,
    "laplace": lambda at, rng: rng.laplace(size=at.shape),
    "student 4": lambda at, rng: rng.standard_t(4, size=at.shape),
    "lognormal, daily": lambda at, rng: np.exp(0.5 * rng.normal(size=at.shape) + at.rhythm()),
    "counts, daily": lambda at, rng: rng.poisson(3 * (1.2 + at.rhythm()), size=at.shape).astype(np.float64),
    "spread with the day": lambda at, rng: 10 + (1.3 + at.rhythm()) * rng.normal(size=at.shape),
}


@dataclass(frozen=True, slots=True)
class Counted:
    """Alerts of a rule over what its budget grants, by budget: while it is young, in both halves of the rest, there."""

    family: str
    young: tuple[float, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    rest: tuple[float, ...]


def measure(detector: str, stage: Stage, number: int) -> Counted:
    """One rule: the noise of its number, scored from nothing by ``auto``, after two weeks' fit by others."""
    family = list(FAMILIES)[number % len(FAMILIES)]
    values = FAMILIES[family](stage, np.random.default_rng(REPORTED + number))
    labels = tuple(make_labels({"series": str(i)}) for i in range(len(values)))
    block, week = Block(labels, stage.times, values), 7 * stage.per_day
    model = Model(DetectorSpec(detector), Grid(stage.step))
    learned, total = HISTORY_WEEKS * week, len(stage.times)
    begin = 0 if detector == "auto" else learned
    cuts = [math.log10(period / stage.step) for period in PERIODS.values()]
    scores = model.score(model.fit(block.window(0, begin)), block.window(begin), max(cuts))[0]
    surprise = np.nan_to_num(scores.surprise)
    opens = surprise if scores.page is None else np.nan_to_num(scores.page)

    def over(first: int, last: int) -> tuple[float, ...]:
        part, granted = slice(max(first - begin, 0), last - begin), stage.series * (last - first) * stage.step
        return tuple(
            alerts(surprise[:, part] > cut, opens[:, part] > cut) * period / granted
            for cut, period in zip(cuts, PERIODS.values(), strict=True)
        )  # fmt: skip

    half = (learned + total) // 2
    young = over(0, week) if begin == 0 else ()
    return Counted(family, young, over(learned, half), over(half, total), over(learned, total))


def alerts(above: Bool, begins: Bool) -> int:
    """Runs above the cut in which an episode begins; both [N, T]."""
    first = np.c_[above[:, :1], above[:, 1:] & ~above[:, :-1]]
    run = np.cumsum(first.ravel())  # a run ends with its series
    return len(np.unique(run[(above & begins).ravel()]))


def run(context: Context) -> Iterator[Figure]:
    """Measure both budgets over the rules: ``auto`` at every step, ``mad`` at five minutes."""
    rules = range(40 if context.full else 8)
    with ProcessPoolExecutor(os.cpu_count() or 1) as pool:
        for detector, stage in [*(("auto", stage) for stage in STAGES), ("mad", USUAL)]:
            found = list(pool.map(partial(measure, detector, stage), rules))
            for k, name in enumerate(PERIODS):
                title = f"{detector}, {stage.name}, budget {name}"
                ratios = [one.rest[k] for one in found]
                kept = sum(0.5 <= ratio <= 2.0 for ratio in ratios) / len(found)
                halves = [float(np.mean([half[k] for half in part])) for part in _halves(found)]
                note = f"{_by_family(found, k)}; halves of the time {halves[0]:.2f}, {halves[1]:.2f}"
                share = f"{title}: share of {len(found)} rules within a factor of 2"
                yield quality(share, kept, at_least=0.95, note=note)
                if detector == "auto":
                    young = float(np.mean([one.young[k] for one in found]))
                    yield limit(f"{title}: alarms over budget in the first week of a series", young, at_most=2.0)


def _halves(found: Sequence[Counted]) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    return [one.first for one in found], [one.second for one in found]


def _by_family(found: Sequence[Counted], k: int) -> str:
    """Alarms over a budget, mean of each family."""
    ratios: dict[str, list[float]] = {}
    for one in found:
        ratios.setdefault(one.family, []).append(one.rest[k])
    return "alarms over budget: " + ", ".join(f"{family} {np.mean(values):.2f}" for family, values in ratios.items())
