"""Measures of scores: with labels how right they are, without labels how clearly they speak. Pure, on numpy arrays.

Scores are larger where a sample is more abnormal; a score that is NaN counts as the lowest. Labels are boolean, one a
sample. A measure that is not defined (no positive label, one class only, too few samples) is NaN, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool

VUS_LEVELS = 250
"""Cuts that the volume under the surface is summed over, at even ranks, as its authors do."""

SILHOUETTE_SAMPLES = 1_500
"""The silhouette compares all pairs; of more samples an even selection is taken."""

Floats = npt.NDArray[np.floating]


def lowest_for_nan(scores: Floats) -> F64:
    """Scores as float64 with NaN below everything else, and infinities where they order right."""
    return np.where(np.isnan(scores), -np.inf, scores).astype(np.float64)


# With labels ---------------------------------------------------------------------------------------------------------


def _ranked(labels: Bool, scores: Floats) -> tuple[F64, F64]:
    """Labelled samples and all samples at or above each distinct score, highest score first."""
    ordered = lowest_for_nan(scores)
    order = np.argsort(-ordered, kind="stable")
    ordered = ordered[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    found = np.cumsum(labels[order].astype(np.float64))[last]
    return found, (np.nonzero(last)[0] + 1).astype(np.float64)


def average_precision(labels: Bool, scores: Floats) -> float:
    """Precision at each distinct score, weighted by the recall it adds; no interpolation. NaN without a label."""
    if not labels.any():
        return math.nan
    found, said = _ranked(labels, scores)
    return float(np.sum(np.diff(found, prepend=0.0) / labels.sum() * found / said))


def roc_auc(labels: Bool, scores: Floats) -> float:
    """The probability that a labelled sample scores above another, ties counting half; NaN with one class only."""
    if not labels.any() or labels.all():
        return math.nan
    found, said = _ranked(labels, scores)
    true = np.append(0.0, found / labels.sum())
    false = np.append(0.0, (said - found) / (~labels).sum())
    return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def precision_at_k(labels: Bool, scores: Floats, k: int) -> float:
    """The share of labelled samples among the ``k`` highest scores; of a tie at the end its average."""
    k = min(k, len(labels))
    if k < 1:
        return math.nan
    found, said = _ranked(labels, scores)
    i = int(np.searchsorted(said, k))
    before = (found[i - 1], said[i - 1]) if i else (0.0, 0.0)
    within = (k - before[1]) / (said[i] - before[1])
    return float((before[0] + within * (found[i] - before[0])) / k)


def f1(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def runs(flags: Bool) -> tuple[I64, I64]:
    """First and last index (inclusive) of each run of true values."""
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    return np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0] - 1


def vus_pr(labels: Bool, scores: Floats, width: int) -> float:
    """Volume under the precision-recall surface of one series (Paparrizos et al., VLDB 2022); NaN without a label.

    For each window from 0 to ``width`` samples the labels get soft edges half the window wide, falling as
    sqrt(1 - distance / window); recall is held against the mean of hard and found soft labels, and multiplied by the
    share of events that are touched. The areas under these curves are averaged.
    """
    if not labels.any():
        return math.nan
    first, last = runs(labels)
    surface = _Surface(labels, lowest_for_nan(scores), first, last)
    return float(np.mean([surface.area(window) for window in range(width + 1)]))


class _Surface:
    """What all windows share: cuts, how many samples each flags, and where each sample ranks."""

    def __init__(self, labels: Bool, scores: F64, first: I64, last: I64):
        self._labels, self._scores, self._first, self._last = labels, scores, first, last
        order = np.argsort(-scores, kind="stable")
        levels = min(VUS_LEVELS, len(scores))
        self._cuts = scores[order][np.linspace(0, len(scores) - 1, levels).astype(np.int64)]
        self._flagged = np.searchsorted(-scores[order], -self._cuts, side="right")
        self._rank = np.empty(len(scores), np.int64)
        self._rank[order] = np.arange(len(scores))
        self._hard = self._found(np.nonzero(labels)[0], np.ones(int(labels.sum())))

    def area(self, window: int) -> float:
        """The area under one curve."""
        where, weight = self._edges(window)
        soft = self._found(where, weight)
        true = self._hard + soft
        recall = np.minimum(true / (self._labels.sum() + soft / 2), 1.0) * self._touched(window // 2)
        return float(np.sum(np.diff(recall, prepend=0.0) * true / self._flagged))

    def _found(self, where: I64, weight: F64) -> F64:
        """Weight of the samples that each cut flags."""
        order = np.argsort(self._rank[where])
        total = np.concatenate([[0.0], np.cumsum(weight[order])])
        found: F64 = total[np.searchsorted(self._rank[where][order], self._flagged)]
        return found

    def _edges(self, window: int) -> tuple[I64, F64]:
        """The samples beside the labels that count in part, and how much."""
        half = window // 2
        if not half:
            return np.zeros(0, np.int64), np.zeros(0)
        away = np.arange(1, half + 1)
        fall = np.sqrt(1 - away / window)
        where = np.concatenate([(self._last[:, None] + away).ravel(), (self._first[:, None] - away).ravel()])
        weight = np.tile(fall, 2 * len(self._first))
        inside = (where >= 0) & (where < len(self._labels))
        where, weight = where[inside], weight[inside]
        beside = ~self._labels[where]
        places, index = np.unique(where[beside], return_inverse=True)
        return places, np.minimum(np.bincount(index, weight[beside], len(places)), 1.0)

    def _touched(self, half: int) -> F64:
        """The share of events, widened by ``half`` and joined where they meet, that each cut flags some sample of."""
        apart = self._last[:-1] + half < self._first[1:] - half
        begins = np.maximum(self._first[np.append(True, apart)] - half, 0)
        ends = np.minimum(self._last[np.append(apart, True)] + half, len(self._scores) - 1)
        peaks = [self._scores[a : b + 1].max() for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
        share: F64 = np.searchsorted(np.sort(-np.array(peaks)), -self._cuts, side="right") / len(peaks)
        return share


# Without labels ------------------------------------------------------------------------------------------------------


def separation(scores: Floats, cut: float) -> float:
    """The share of the scores' variance that lies between those above the cut and the rest (Otsu 1979), 0 to 1.

    Near 1: flagged samples stand far above all others. NaN where nothing, or everything, is flagged.
    """
    known = scores[np.isfinite(scores)].astype(np.float64)
    high = known > cut
    if not high.any() or high.all():
        return math.nan
    spread = float(known.var())
    share = float(high.mean())
    gap = float(known[high].mean() - known[~high].mean())
    return min(1.0, share * (1 - share) * gap * gap / spread) if spread > 0 else math.nan


def doubtful(scores: Floats, cut: float) -> float:
    """Of the samples above 80 % of the cut, the share within 20 % of it: verdicts that a small change would turn."""
    near = scores[np.isfinite(scores) & (scores > 0.8 * cut)]
    return float((near <= 1.2 * cut).mean()) if len(near) else math.nan


def bimodality(values: Floats) -> float:
    """Sarle's coefficient with the correction for small samples: 5/9 for an even spread, above it points to two heaps.

    It is 5/9 for an exponential spread too, which is how calibrated surprise is spread while nothing is wrong.
    """
    known = values[np.isfinite(values)].astype(np.float64)
    n = len(known)
    spread = float(known.std()) if n else 0.0
    if n < 4 or spread <= 1e-12 * max(1.0, float(np.abs(known).max())):
        return math.nan
    z = (known - known.mean()) / spread
    skew = float(np.mean(z**3)) * math.sqrt(n * (n - 1)) / (n - 2)
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (float(np.mean(z**4)) - 3) + 6)
    return (skew * skew + 1) / (excess + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))


def silhouette(points: F64, flagged: Bool) -> float:
    """Mean silhouette of the flagged points [N, D] against the others (Rousseeuw 1987), -1 to 1.

    Near 1: flagged points are like each other and unlike the rest; below 0: they lie among the rest. NaN where a class
    is empty or there are no two points. A lone flagged point has 0, as the definition says.
    """
    known = np.isfinite(points).all(axis=1)
    mine, others = _thinned(points[known & flagged]), _thinned(points[known & ~flagged])
    if not len(mine) or not len(others):
        return math.nan
    if len(mine) == 1:
        return 0.0
    own = _distances(mine, mine).sum(axis=1) / (len(mine) - 1)
    other = _distances(mine, others).mean(axis=1)
    widest = np.maximum(own, other)
    return float(np.mean(np.where(widest > 0, (other - own) / np.where(widest > 0, widest, 1.0), 0.0)))


def _thinned(points: F64) -> F64:
    if len(points) <= SILHOUETTE_SAMPLES:
        return points
    return points[np.linspace(0, len(points) - 1, SILHOUETTE_SAMPLES).astype(np.int64)]


def _distances(one: F64, other: F64) -> F64:
    total = np.zeros((len(one), len(other)))
    for column in range(one.shape[1]):
        total += (one[:, column, None] - other[None, :, column]) ** 2
    distance: F64 = np.sqrt(total)
    return distance


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's correlation over samples that both score; NaN where one of them says the same of all."""
    known = np.isfinite(one) & np.isfinite(other)
    a, b = _midranks(one[known]), _midranks(other[known])
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _midranks(values: Floats) -> F64:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    middle: F64 = ends - (count - 1) / 2.0
    return middle[place]


def overlap(one: Bool, other: Bool) -> float:
    """Of the samples that either flags, the share that both do (Jaccard); 1 where neither flags any."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def by_chance(measure: Callable[[F64], float], size: int, draws: int = 20, seed: int = 0) -> float:
    """The mean of a measure over random scores: what it takes to be better than nothing."""
    rng = np.random.default_rng(seed)
    return float(np.mean([measure(rng.random(size)) for _ in range(draws)]))
