"""False alarms per budget on anomaly-free data: how honest a budget is, by noise family, for `auto` and for `mad`.

Generated series of eight weeks at five minutes with nothing wrong in them: eight families of noise, with and without a
daily rhythm. A rule has 25 series of one family. The first two weeks are history; in the other six each alert is a
false one: an episode that opens by what is news and lasts while the surprise is above the cut, as in the daemon. A rule
keeps its budget when their number is within a factor of two of it.
``FULL=1`` takes 1,000 series (40 rules), otherwise 200 (8 rules). The noise is drawn with seeds from ``REPORTED`` on;
what was chosen by looking at such noise was chosen on the seeds below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from anomalyd.block import F64, Block, Bool, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.rule import DetectorSpec
from bench.harness import Context, Figure, quality

STEP = 5 * MINUTE_MS
PER_DAY = DAY_MS // STEP
WEEKS, HISTORY_WEEKS = 8, 2
SAMPLES = WEEKS * 7 * PER_DAY
HISTORY = HISTORY_WEEKS * 7 * PER_DAY
SERIES_PER_RULE = 25
START = 1_760_054_400_000
REPORTED = 1_000


def rhythm() -> F64:
    """One sine a day, between -1 and 1."""
    wave: F64 = np.sin(2 * np.pi * np.arange(SAMPLES) / PER_DAY)
    return wave


def autoregressive(rng: np.random.Generator) -> F64:
    """AR(1) with coefficient 0.8."""
    noise = rng.normal(size=(SERIES_PER_RULE, SAMPLES))
    values = np.zeros_like(noise)
    for t in range(1, SAMPLES):
        values[:, t] = 0.8 * values[:, t - 1] + noise[:, t]
    return values


SHAPE = (SERIES_PER_RULE, SAMPLES)
FAMILIES: dict[str, Callable[[np.random.Generator], F64]] = {
    "gaussian": lambda rng: 10 + rng.normal(size=SHAPE),
    "gaussian, daily": lambda rng: 100 + 20 * rhythm() + rng.normal(size=SHAPE),
    "autoregressive": autoregressive,
    "laplace": lambda rng: rng.laplace(size=SHAPE),
    "student 4": lambda rng: rng.standard_t(4, size=SHAPE),
    "lognormal, daily": lambda rng: np.exp(0.5 * rng.normal(size=SHAPE) + rhythm()),
    "counts, daily": lambda rng: rng.poisson(3 * (1.2 + rhythm()), size=SHAPE).astype(np.float64),
    "spread with the day": lambda rng: 10 + (1.3 + rhythm()) * rng.normal(size=SHAPE),
}


def false_alarms(detector: str, values: F64, cuts: list[float]) -> list[int]:
    """Alerts at each cut after the history."""
    labels = tuple(make_labels({"series": str(i)}) for i in range(len(values)))
    block = Block(labels, START + STEP * np.arange(1, SAMPLES + 1, dtype=np.int64), values)
    model = Model(DetectorSpec(detector), Grid(STEP))
    state = model.fit(block.window(0, HISTORY))
    scores = model.score(state, block.window(HISTORY), max(cuts))[0]
    surprise = np.nan_to_num(scores.surprise)
    opens = surprise if scores.page is None else np.nan_to_num(scores.page)
    return [alerts(surprise > cut, opens > cut) for cut in cuts]


def alerts(above: Bool, begins: Bool) -> int:
    """Runs above the cut in which an episode begins; both [N, T]."""
    first = np.c_[above[:, :1], above[:, 1:] & ~above[:, :-1]]
    run = np.cumsum(first.ravel())  # a run ends with its series
    return len(np.unique(run[(above & begins).ravel()]))


def run(context: Context) -> Iterator[Figure]:
    """Measure both budgets for both detectors over the rules."""
    rules = 40 if context.full else 8
    periods = {"1 a day": DAY_MS, "1 a week": WEEK_MS}
    cuts = [math.log10(period / STEP) for period in periods.values()]
    weeks = (WEEKS - HISTORY_WEEKS) * SERIES_PER_RULE
    for detector in ("auto", "mad"):
        kept = dict.fromkeys(periods, 0)
        ratios: dict[str, dict[str, list[float]]] = {name: {} for name in periods}
        for r in range(rules):
            family = list(FAMILIES)[r % len(FAMILIES)]
            counts = false_alarms(detector, FAMILIES[family](np.random.default_rng(REPORTED + r)), cuts)
            for (name, period), count in zip(periods.items(), counts, strict=True):
                ratio = count / (weeks * WEEK_MS / period)
                ratios[name].setdefault(family, []).append(ratio)
                kept[name] += 0.5 <= ratio <= 2.0
        for name in periods:
            note = ", ".join(f"{family} {np.mean(values):.2f}" for family, values in ratios[name].items())
            title = f"{detector}, budget {name}: share of {rules} rules within a factor of 2"
            yield quality(title, kept[name] / rules, at_least=0.95, note=f"alarms over budget: {note}")
