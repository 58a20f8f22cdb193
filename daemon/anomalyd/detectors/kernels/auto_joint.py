"""``auto`` over the channels of one vector per time: what is unusual in a channel, in how many, and for how long.

Four residuals of each channel: its deviation from the usual level at that time of day; what its own last samples do
not foretell; and each of the two once more given what the other channels do at the same time (the residual of a
regression on them, from a shrunk covariance). Two views of each residual: the root mean square over the channels, which
sees a little in many, and the mean tail of the root of their number that stand out most, which sees much in few. Each
view's surprise is its Hill tail in the history. Their mean is held and fades over memories of 1, 10, 100 and 1,000
samples at once, since nobody knows how long an incident lasts; the mean of the four ranks every sample.

What a budget is spent on are episodes, not samples, and samples that follow each other are not independent. So what
pages is another surprise: by how often separate peaks of the mean were that high (``kernels/peaks.py``), lately
included, each quarter of the history judged by a model of the other three, since a model knows its own past too well.
An episode opens where the mean of the last three minutes is that high and higher than lately (with longer steps it is
the sample's own), and goes on by the first three memories. Where these are rarer than once a week that is the surprise
that is told; all else is ranked by the four memories and told as less.

Arrays of the state whose first axis is the channel: ``middle`` and ``range`` [C, 2] (of the plain channel and of what
the day's rhythm leaves over), ``profile`` [C, BINS], ``weights`` [C, 5] and ``past`` [C, 5] of the forecast, ``scale``
[C, 4] and ``tails`` [C, 4, LINE] of the residuals. All others are shared: ``given`` [2, C, C] and ``offset`` [2, C] of
the regressions, ``views`` [VIEWS + 1, WHOLE] the tails of the views and of their held mean, ``peaks`` what
``kernels/peaks.py`` knows, ``average`` the samples that are averaged, ``held`` [FADES + AVERAGED] the memories, that of
the average, and the samples it is of but the newest.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64, Bool
from anomalyd.detectors.kernels.foreseen import MISSED, contexts, unforeseen
from anomalyd.detectors.kernels.jit import kernel
from anomalyd.detectors.kernels.levels import levels, usual_level
from anomalyd.detectors.kernels.memories import AVERAGED, FADES, hold_and_fade
from anomalyd.detectors.kernels.peaks import fit_peaks, follow_peaks, weekly

Arrays = dict[str, npt.NDArray[Any]]

RESIDUALS = 4
"""Level, level given the others, forecast, forecast given the others."""
VIEWS = 2 * RESIDUALS
SEAM, HIGHEST = 1e-3, 300.0
"""Surprise that is only ranked stays below the seam by this, in order; the largest surprise."""
LEAST_CROSSED = 256
"""A history with fewer samples is too short to be judged in parts."""
FOLDS = 4
DISTINCT, WHOLE = 64, 512
"""Quantiles that stand for the past of a channel's residual, and of a view."""
EDGE, SHAPE = -2, -1
"""The last two places of a tail: where it begins, and Hill's shape."""
LINE = DISTINCT + 2
TAIL_SHARE = 0.02
HILL_SHAPE, HILL_WEIGHT = 0.3, 10.0
MOST = 8.0
"""No channel and no view counts for more than this surprise."""
SQUARED_TO = 10.0
"""A deviation counts for at most this in a mean square."""
LIMIT, LARGEST = 20.0, 1e3
"""What one channel may add to what is expected of others; the largest deviation."""
ALIKE = 50.0
"""So many neighbouring samples tell of the covariance what one independent sample would."""
RIDGE = 1e-3
LEAST_SCALE = 1e-3
TINY = 1e-9


@kernel
def given_others(r: Any, offset: Any, inverse: Any) -> Any:
    """What the other channels do not explain of each channel of r [T, C]; the same however r is cut."""
    out = np.zeros(r.shape)
    for t in range(r.shape[0]):
        for i in range(r.shape[1]):
            d = min(max(r[t, i], -LIMIT), LIMIT) - offset[i]
            if d != 0.0:
                for j in range(r.shape[1]):
                    out[t, j] += d * inverse[i, j]
    return out


@kernel
def surprise_in(tail: Any, x: Any) -> Any:
    """-log10 of the share of a past, kept as quantiles, edge and shape, that was as high as x."""
    edge, quantiles = tail[EDGE], len(tail) - 2
    if x > edge:
        return -math.log10(TAIL_SHARE) + math.log(x / edge) / tail[SHAPE] / math.log(10.0)
    k = np.searchsorted(tail[:quantiles], x)
    below = float(k)
    if 0 < k < quantiles and tail[k] > tail[k - 1]:
        below += (x - tail[k - 1]) / (tail[k] - tail[k - 1]) - 0.5
    return -math.log10(min(max(1.0 - below / quantiles, TAIL_SHARE), 1.0))


@kernel
def seen_together(r: Any, there: Any, scale: Any, tails: Any, most: Any, out: Any) -> Any:
    """Both views, out [2, T], of a residual r [T, C]: mean square, and the mean of the ``most`` largest tails."""
    channels = r.shape[1]
    own = np.empty(channels)
    for t in range(r.shape[0]):
        total = 0.0
        for c in range(channels):
            own[c] = 0.0
            if there[t, c]:
                size = abs(r[t, c])
                total += min(size / scale[c], SQUARED_TO) ** 2
                own[c] = min(surprise_in(tails[c], size), MOST)
        out[0, t] = math.sqrt(total / channels)
        out[1, t] = np.sort(own)[channels - most :].sum() / most


@kernel
def each_surprise(views: Any, tails: Any) -> Any:
    """Surprise [V, T] of views in their own pasts."""
    out = np.empty(views.shape)
    for v in range(views.shape[0]):
        for t in range(views.shape[1]):
            out[v, t] = surprise_in(tails[v], views[v, t])
    return out


@kernel
def averaged(found: Any) -> Any:
    """Mean [T] of what the views [V, T] say, each for at most ``MOST``; always summed in the same order."""
    out = np.zeros(found.shape[1])
    for v in range(found.shape[0]):
        for t in range(found.shape[1]):
            out[t] += min(found[v, t], MOST) / found.shape[0]
    return out


def fit_joint(values: F64, bins: I64, days: I64, half_day: int = 144, average: int = 1) -> Arrays:
    """Learn from history [C, T], NaN allowed; ``bins`` [T] of the day, below ``levels.BINS``, and ``days`` counted [T].

    ``half_day``: samples in half a day; ``average`` samples, at most ``AVERAGED``, are as good as one.
    """
    arrays, together = _learned(values, bins, days)
    if not len(together):
        return arrays
    # Time without samples, also what is left out as an incident, is no quiet time: nothing is counted in it.
    seen = _seen(values)
    # What the history's end still holds goes on: a fit amid an incident does not forget it.
    lasting, _, fresh, _ = hold_and_fade(together, average, arrays["held"])
    arrays["views"][VIEWS] = _tail(lasting[seen], WHOLE)
    if np.count_nonzero(seen) >= LEAST_CROSSED:
        crossed = _crossed(values, bins, days)
        fresh = hold_and_fade(crossed, average, np.zeros_like(arrays["held"]))[2]
    arrays["peaks"], arrays["average"] = fit_peaks(fresh[seen], half_day), np.array([average])
    return arrays


def _crossed(values: F64, bins: I64, days: I64) -> F64:
    """What is said of each quarter of a history [T], by the samples that are there, by a model of the others."""
    found, seen = np.empty(len(bins)), _seen(values)
    edges = _quarters(seen)
    for first, stop in pairwise(edges.tolist()):
        others = np.r_[0:first, stop : len(bins)]
        model, _ = _learned(np.ascontiguousarray(values[:, others]), bins[others], days[others])
        model["past"][:] = 0.0
        part = np.ascontiguousarray(values[:, first:stop])
        found[first:stop] = averaged(surprises(model, part, bins[first:stop]))
    found[~seen] = 0.0
    return found


def _seen(values: F64) -> Bool:
    """At which times [T] a channel of [C, T] has a sample at all."""
    return np.asarray(~np.isnan(values).all(axis=0), np.bool_)


def _quarters(seen: Bool) -> I64:
    """Where a history [T] is cut into parts that have as many samples each [FOLDS + 1]."""
    there = np.flatnonzero(seen)
    inner = there[np.linspace(0, len(there), FOLDS + 1).astype(np.int64)[1:-1]]
    return np.concatenate([[0], inner, [len(seen)]]).astype(np.int64)


def _learned(values: F64, bins: I64, days: I64) -> tuple[Arrays, F64]:
    """A model without the tail of the whole, and the mean of its views over its own history [T]."""
    channels, samples = values.shape
    arrays = levels(values, bins, days) | _blank(channels)
    seen = _seen(values)
    if np.count_nonzero(seen) < 2 or not channels:
        return arrays, np.zeros(0)
    there = np.ascontiguousarray(~np.isnan(values.T))
    level, z = standardised(arrays, values, bins, 1), standardised(arrays, values, bins, 0)
    arrays["weights"] = _forecast_weights(z, there)
    ahead = unforeseen(np.clip(z, -LIMIT, LIMIT), there, arrays["weights"], arrays["past"])
    views = np.empty((VIEWS, samples))
    for k, residual in enumerate((level, ahead)):
        explained, arrays["offset"][k], arrays["given"][k] = _cross_fitted(residual, seen)
        for j, r in ((2 * k, residual), (2 * k + 1, explained)):
            _fit_channels(arrays, j, r, there)
            _see(arrays, j, r, there, views)
    for v in range(VIEWS):
        arrays["views"][v] = _tail(views[v, seen], WHOLE)
    together = np.asarray(averaged(each_surprise(views, arrays["views"][:VIEWS])), np.float64)
    together[~seen] = 0.0
    return arrays, together


def _blank(channels: int) -> Arrays:
    return {
        "weights": np.zeros((channels, 5)),
        "past": np.zeros((channels, MISSED + 1)),
        "scale": np.ones((channels, RESIDUALS)),
        "tails": np.ones((channels, RESIDUALS, LINE)),
        "given": np.stack([np.eye(channels)] * 2),
        "offset": np.zeros((2, channels)),
        "views": np.ones((VIEWS + 1, WHOLE + 2)),
        "peaks": fit_peaks(np.zeros(0), 1),
        "held": np.zeros(len(FADES) + AVERAGED),
        "average": np.ones(1, np.int64),
    }


def _most(channels: int) -> int:
    """How many channels stand out together at most: the root of their number."""
    return max(1, round(math.sqrt(channels)))


def standardised(arrays: Arrays, values: F64, bins: I64, how: int) -> F64:
    """Deviations [T, C] in the channels' own ranges, plain (0) or from the usual level (1); 0 where missing."""
    usual = usual_level(arrays, bins) if how else arrays["middle"][:, :1]
    z = (values - usual) / arrays["range"][:, how, None]
    return np.ascontiguousarray(np.nan_to_num(np.clip(z, -LARGEST, LARGEST)).T)


def _forecast_weights(z: F64, there: Bool) -> F64:
    """Ridge regression [C, 5] of each channel on its own context and one, where it is there."""
    samples, channels = z.shape
    known = np.ones((channels, samples, 5))
    contexts(np.clip(z, -LIMIT, LIMIT), there, known[:, :, :4])
    if not there.all():
        known *= there.T[:, :, None]
    weights = np.empty((channels, 5))
    for c in range(channels):
        square = known[c].T @ known[c] + RIDGE * samples * np.eye(5)
        weights[c] = np.linalg.solve(square, known[c].T @ np.clip(z[:, c], -LIMIT, LIMIT))
    return weights


def _cross_fitted(r: F64, seen: Bool) -> tuple[F64, F64, F64]:
    """What the others leave over of r [T, C], each quarter by a regression on the rest, and the regression on all."""
    limited = np.clip(r[seen], -LIMIT, LIMIT)
    edges = np.linspace(0, len(limited), FOLDS + 1).astype(np.int64)
    parts = [limited[a:b] for a, b in pairwise(edges.tolist())]
    centre = limited.mean(axis=0)
    sums = [_moments(part - centre) for part in parts]
    whole = tuple(sum(s[k] for s in sums) for k in range(4))
    found = []
    for part, own in zip(parts, sums, strict=True):
        offset, inverse = _regression(tuple(w - o for w, o in zip(whole, own, strict=True)))
        found.append(given_others(part, centre + offset, inverse))
    offset, inverse = _regression(whole)
    explained = np.zeros(r.shape)
    explained[seen] = np.concatenate(found)
    return explained, centre + offset, inverse


def _moments(q: F64) -> tuple[Any, ...]:
    squares = q**2
    return float(len(q)), q.sum(axis=0), q.T @ q, squares.T @ squares


def _regression(sums: tuple[Any, ...]) -> tuple[F64, F64]:
    """Mean [C] and the inverse covariance scaled so that it gives residuals of each channel on the others [C, C].

    The covariance is shrunk towards equal variances as Ledoit and Wolf (2004) do, for samples that are not independent.
    """
    count, total, products, fourths = sums
    size = len(total)
    mean = total / max(count, 1.0)
    covariance = products / max(count, 1.0) - np.outer(mean, mean)
    usual = float(np.trace(covariance)) / size
    if not usual > TINY**2:
        return mean, np.eye(size)
    away = float(((covariance - usual * np.eye(size)) ** 2).sum())
    noise = float((fourths / count - covariance**2).sum()) / count
    share = min(1.0, max(ALIKE * noise / max(away, TINY**2), RIDGE))
    inverse = np.linalg.inv((1 - share) * covariance + share * usual * np.eye(size))
    return mean, np.ascontiguousarray(inverse / np.diag(inverse))


def _fit_channels(arrays: Arrays, k: int, r: F64, there: Bool) -> None:
    """Scale and tail of one residual in each channel, from the samples that there are."""
    for c in range(r.shape[1]):
        own = np.abs(r[there[:, c], c])
        if len(own):
            arrays["scale"][c, k] = max(float(np.sqrt((own**2).mean())), LEAST_SCALE)
            arrays["tails"][c, k] = _tail(own, DISTINCT)


def _tail(past: F64, quantiles: int) -> F64:
    """A past as quantiles, edge of the tail and its shape (Hill's, shrunk)."""
    ordered = np.sort(past)
    samples = len(ordered)
    count = max(1, int(samples * TAIL_SHARE))
    edge = max(float(ordered[-count - 1] if samples > count else ordered[0]), TINY)
    excess = np.log(np.maximum(ordered[-count:], edge) / edge).sum()
    found = np.empty(quantiles + 2)
    found[:quantiles] = ordered[((np.arange(quantiles) + 0.5) / quantiles * samples).astype(np.int64)]
    found[EDGE], found[SHAPE] = edge, (excess + HILL_WEIGHT * HILL_SHAPE) / (count + HILL_WEIGHT)
    return found


def _see(arrays: Arrays, k: int, r: F64, there: Bool, views: F64) -> None:
    """Both views of the k-th residual [T, C] into their rows of ``views`` [VIEWS, T]."""
    scale, tails = np.ascontiguousarray(arrays["scale"][:, k]), np.ascontiguousarray(arrays["tails"][:, k])
    seen_together(r, there, scale, tails, _most(r.shape[1]), views[2 * k : 2 * k + 2])


def surprises(arrays: Arrays, values: F64, bins: I64) -> F64:
    """Surprise [VIEWS, T] of each view of new samples [C, T]; ``past`` is replaced by one moved on."""
    there = np.ascontiguousarray(~np.isnan(values.T))
    arrays["past"] = arrays["past"].copy()
    z = np.clip(standardised(arrays, values, bins, 0), -LIMIT, LIMIT)
    views = np.empty((VIEWS, values.shape[1]))
    level, ahead = standardised(arrays, values, bins, 1), unforeseen(z, there, arrays["weights"], arrays["past"])
    for k, residual in enumerate((level, ahead)):
        explained = given_others(residual, arrays["offset"][k], arrays["given"][k])
        for j, r in ((2 * k, residual), (2 * k + 1, explained)):
            _see(arrays, j, r, there, views)
    return np.asarray(each_surprise(views, arrays["views"][:VIEWS]), np.float64)


def surprise(arrays: Arrays, values: F64, bins: I64) -> tuple[F64, F64]:
    """What is told [T], and with what an episode may open [T] (0 where nothing is new); NaN where every channel is
    missing.

    ``past``, ``held`` and ``peaks`` of the arrays are replaced by those moved on.
    """
    now = averaged(surprises(arrays, values, bins))
    nobody = np.isnan(values).all(axis=0)
    now[nobody] = 0.0
    arrays["held"], arrays["peaks"] = arrays["held"].copy(), arrays["peaks"].copy()
    lasting, short, fresh, rises = hold_and_fade(now, int(arrays["average"][0]), arrays["held"])
    opens, goes_on = follow_peaks(fresh, short, nobody, arrays["peaks"])
    ranked, seam = each_surprise(lasting[None, :], arrays["views"][VIEWS:])[0], weekly(arrays["peaks"])
    # Only what is rarer than once a week may lift the ranking: each of many small rises would tear it apart.
    rare = np.maximum(np.where(rises & (opens > seam), opens, 0.0), goes_on)
    told = np.where(rare > seam, rare, np.minimum(ranked, seam * (1.0 - SEAM / (1.0 + ranked))))
    told = np.minimum(told, HIGHEST)
    page = np.where(rises, np.clip(opens, 0.0, told), 0.0)
    told[nobody], page[nobody] = np.nan, np.nan
    return told, page
