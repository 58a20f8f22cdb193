"""What each series is like as data, in numbers: what ``dataquality`` judges by, to see it come. Pure.

Each feature stands beside what has been usual of the series. It is read from the memory that is there anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from anomalyd.block import F64
from anomalyd.clock import SECOND_MS
from anomalyd.evaluation.dataquality import Quality

LEAST = 16
"""Samples of a window before its entropy is told."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Of N series, each [N]; NaN where it is not known yet.

    Attributes:
        gap_share, gap_share_usual: share of missing slots among the last ones (weights of about 32), and the largest.
        repeat_share, repeat_share_usual: share of samples equal to the one before: rises with a longer scrape interval.
        entropy, entropy_usual: of the values of the window of up to 64 samples that is under way, and the least of all
            whole ones: the logarithm of how many differ by that of how many there are. 1: all differ, 0: all equal.
        low, high: what has been seen; draws together over weeks.
        silence_s, silence_usual_s: seconds without a sample now, and the longest such span.
    """

    gap_share: F64
    gap_share_usual: F64
    repeat_share: F64
    repeat_share_usual: F64
    entropy: F64
    entropy_usual: F64
    low: F64
    high: F64
    silence_s: F64
    silence_usual_s: F64


def features_of(quality: Quality, step_ms: int) -> Features:
    """The features of series of slots of ``step_ms``."""
    from anomalyd.detectors.kernels import soundness as s

    known = np.where(quality.lines[:, s.SEEN : s.SEEN + 1] > 0, quality.lines, np.nan).T
    step = step_ms / SECOND_MS
    return Features(
        known[s.MISSING], known[s.GAPS_MAX], known[s.EQUAL], known[s.EQUAL_MAX], _entropy(quality),
        _hartley(np.where(known[s.WINDOWS] > 0, known[s.FEWEST] * s.WINDOW, np.nan), np.float64(s.WINDOW)),
        known[s.LOW], known[s.HIGH], known[s.GAP] * step, known[s.GAP_MAX] * step,
    )  # fmt: skip


def worst_of(features: Features) -> Mapping[str, float]:
    """The worst of a rule's series in each feature that can be bad by itself; NaN where none is known."""

    def most(values: F64) -> float:
        seen = values[np.isfinite(values)]
        return float(seen.max()) if len(seen) else np.nan

    return {
        "gap_share": most(features.gap_share), "repeat_share": most(features.repeat_share),
        "entropy": -most(-features.entropy), "silence_seconds": most(features.silence_s),
    }  # fmt: skip


def named(features: Features, row: int) -> dict[str, float | None]:
    """The features of one series by name; None where not known."""
    found = {one.name: float(getattr(features, one.name)[row]) for one in fields(features)}
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in found.items()}


def _entropy(quality: Quality) -> F64:
    """Of the window under way: how many values differ is counted by the bits they have set (linear counting)."""
    from anomalyd.detectors.kernels.soundness import COUNT, WORDS

    count = quality.lines[:, COUNT]
    bits = np.ascontiguousarray(quality.bits).view(np.uint8).reshape(len(count), 8 * WORDS)
    size = 64.0 * WORDS
    zeros = size - np.unpackbits(bits, axis=1).sum(axis=1)
    return _hartley(np.where(count >= LEAST, size * np.log(size / np.maximum(zeros, 1.0)), np.nan), count)


def _hartley(different: F64, count: F64 | np.float64) -> F64:
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.log(np.maximum(different, 1.0)) / np.log(np.maximum(count, 2.0))
    found: F64 = np.where(np.isnan(different), np.nan, np.minimum(share, 1.0))
    return found
