"""Calibration: a detector's raw score becomes a surprise, -log10 of its tail probability in the series' own past.

So all detectors speak one unit, combine, and can be cut at a budget. Streaming and exact: each series keeps a fading
histogram of its scores; the body of the distribution is empirical, the tail above the 98 % quantile generalised Pareto
with a shape shrunk to a prior (``kernels/tail.py``; the idea is SPOT's, Siffer et al. 2017). A score is judged before
it is counted, so a surprise never depends on later samples, nor on how they were cut into blocks.

A young series starts with its siblings' scores: ``adopt`` gives it the middle sibling's histogram with the weight of a
hundred scores, which fades as its own come in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, Bool
from anomalyd.detectors.kernels import tail

Arrays = dict[str, npt.NDArray[Any]]

FEWEST = 64
"""Scores a series must have seen, of its own or its siblings', before a surprise means anything."""

ADOPTED = 128
"""Scores that what siblings taught counts for."""

HALF_LIFE = 50_000
"""Scores after which one counts half: five weeks of minutes, half a year of five minutes."""

FAR, RUN, NEAR, MOST_INCIDENTS = 4.0, 3, 12, 2
"""What an incident in a past is: see ``incidents``."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Recipe of the calibration. Its state is two arrays with the series as first axis, 1.4 kB a series.

    Attributes:
        half_life: scores after which an old one counts half.
        fewest: scores needed before a surprise is given; NaN until then.
        settling: so many first scores fade fast: those of a detector that does not know the series well yet.
        steadiness: exceedances that the prior of the tail's shape counts for.
    """

    half_life: int = HALF_LIFE
    fewest: int = FEWEST
    settling: int = 0
    steadiness: float = tail.MOMENTS_WEIGHT

    def empty(self, series: int) -> Arrays:
        """The state of series that have no past."""
        return {"counts": np.zeros((series, tail.BINS), np.float32), "lines": blank_lines(series)}

    def score(
        self, state: Mapping[str, npt.NDArray[Any]], raw: F64, cut: float, hold: Bool | None = None
    ) -> tuple[F64, F64, Arrays]:
        """Judge, then count, the raw scores [N, T].

        Returns the surprise [N, T] (never negative, NaN where raw is or while young), the raw score at which the
        surprise would be ``cut`` [N, T] (the edge of the band), and the new state. Series with ``hold`` [N] are judged
        and not counted. Raw scores below 0 count as 0; scores beyond 1e30 as 1e30.
        """
        after = {name: array.copy() for name, array in state.items()}
        kept = np.zeros(len(raw), np.bool_) if hold is None else np.ascontiguousarray(hold, np.bool_)
        growth = 2.0 ** (1.0 / self.half_life)
        surprise, bound = tail.calibrate_block(
            np.ascontiguousarray(raw, np.float64), kept, min(max(cut, 0.0), 300.0), self.fewest, growth,
            self.settling, self.steadiness, after["counts"], after["lines"],
        )  # fmt: skip
        return surprise, bound, after

    def adopt(self, state: Mapping[str, npt.NDArray[Any]], siblings: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Give each series of ``state`` without a past the middle histogram of its siblings as a start.

        Siblings still young themselves do not count; without any other the state is returned as it is.
        """
        after = {name: array.copy() for name, array in state.items()}
        seen = siblings["lines"][:, tail.SEEN]
        mature = np.flatnonzero((seen >= max(self.fewest, ADOPTED)) & (siblings["lines"][:, tail.ORIGIN] > -1e3))
        young = np.flatnonzero(state["lines"][:, tail.SEEN] == 0)
        if len(mature) and len(young):
            counts, line = _middle(siblings["counts"][mature], siblings["lines"][mature])
            after["counts"][young] = counts
            after["lines"][young] = line
        return after


def directed(direction: Literal["up", "down", "both"], score: F64, side: F64) -> F64:
    """Scores [N, T] for a rule with a direction: what lies on the other side is no deviation at all.

    ``side`` [N, T] is above 0 for a rise and below 0 for a fall; where it is 0 or NaN the score stays.
    """
    if direction == "both":
        return score
    with np.errstate(invalid="ignore"):
        other = side < 0 if direction == "up" else side > 0
    return np.where(other & ~np.isnan(score), 0.0, score)


def incidents(raw: F64) -> Bool:
    """Which scores [N, T] of a past belong to incidents: runs of ``RUN`` samples and more far above all the others.

    Far is ``FAR`` times as far above the 90 % quantile as that is above the median; runs that are ``NEAR`` each other
    are one. A series with more than ``MOST_INCIDENTS`` such runs has them by nature: then none is one. A missing sample
    neither begins nor ends a run.
    """
    found = np.zeros(raw.shape, np.bool_)
    for s, scores in enumerate(raw):
        there = np.flatnonzero(~np.isnan(scores))
        if len(there) < FEWEST:
            continue
        middle, high = np.quantile(scores[there], (0.5, 0.9))
        wild = np.concatenate([[False], scores[there] > high + FAR * (high - middle), [False]])
        first, stop = np.flatnonzero(wild[1:] & ~wild[:-1]), np.flatnonzero(~wild[1:] & wild[:-1])
        apart = first[1:] - stop[:-1] > NEAR
        first, stop = first[np.r_[True, apart][: len(first)]], stop[np.r_[apart, True][: len(stop)]]
        counted = np.cumsum(np.r_[0, wild[1:]])
        long = counted[stop] - counted[first] >= RUN
        if long.sum() > MOST_INCIDENTS:
            continue
        for a, b in zip(first[long].tolist(), stop[long].tolist(), strict=True):
            found[s, there[a:b]] = True
    return found


def blank_lines(*shape: int) -> F64:
    """Lines of histograms that hold nothing, [*shape, LINE]."""
    lines = np.zeros((*shape, tail.LINE))
    lines[..., tail.ORIGIN] = tail.NO_ORIGIN
    lines[..., tail.INCREMENT] = 1.0
    return lines


def _middle(counts: npt.NDArray[np.float32], lines: F64) -> tuple[npt.NDArray[np.float32], F64]:
    """The sibling whose 98 % quantile is the middle one, rescaled to the weight of what is adopted.

    One loud sibling must not make a new series deaf, so it is one of them and not their mean.
    """
    order = np.argsort(lines[:, tail.EDGE], kind="stable")
    i = int(order[len(order) // 2])
    line = lines[i].copy()
    share = ADOPTED / line[tail.TOTAL]
    line[tail.TOTAL], line[tail.INCREMENT], line[tail.SEEN] = ADOPTED, 1.0, ADOPTED
    line[tail.ABOVE] *= share
    return (counts[i] * share).astype(np.float32), line
