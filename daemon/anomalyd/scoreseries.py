"""Scores as series: what they are called, which labels they carry, and what of a slot becomes a sample. Pure.

The same names and labels on ``/metrics`` and by remote write, so that a query, an alert rule or a dashboard does not
ask how a sample came.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from anomalyd.block import F64, Labels
from anomalyd.score import Kind, Observation

SCORE, VALUE, THRESHOLD, EPISODE = "anomaly_score", "anomaly_value", "anomaly_threshold", "anomaly_episode"
EXPECTED, LOWER, UPPER = "anomaly_expected", "anomaly_lower", "anomaly_upper"

SERIES_HELP = {
    SCORE: "Surprise divided by the cut of the lowest tier; above 1 is anomalous.",
    VALUE: "The value that was scored.",
    EXPECTED: "What the detector expected.",
    LOWER: "Lower end of the band outside which the lowest tier begins.",
    UPPER: "Upper end of that band.",
    THRESHOLD: "Surprise at which a rule's lowest tier begins; votes move it.",
    EPISODE: "1 while an episode of the series is open, by tier; no sample otherwise.",
}

COLUMNS = (SCORE, VALUE, EXPECTED, LOWER, UPPER)
"""The series that each scored series has of its own."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "score": (SCORE,),
    "value": (VALUE,),
    "band": (EXPECTED, LOWER, UPPER),
    "threshold": (THRESHOLD,),
    "episode": (EPISODE,),
}
"""What may be asked for, and the series that it is."""

_NOT_CLASSIC = re.compile(r"[^a-zA-Z0-9_]")


def samples_of(seen: Observation, cut: float) -> dict[str, F64]:
    """The samples of a slot by the name of their series, each [N]; NaN where there is none."""
    known = seen.verdicts.kind != Kind.MISSING
    score = seen.surprise / cut if 0 < cut < math.inf else np.full(len(seen.series), np.nan)
    columns = {SCORE: score, VALUE: seen.value, EXPECTED: seen.expected, LOWER: seen.lower, UPPER: seen.upper}
    return {name: np.where(known & np.isfinite(column), column, np.nan) for name, column in columns.items()}


def names_of(series: Iterable[Labels]) -> set[str]:
    """The metric names of series."""
    return {value for labels in series for name, value in labels if name == "__name__"}


def labels_of(labels: Labels, own: Mapping[str, str], several: bool = False) -> dict[str, str]:
    """The labels of a series about ``labels``: those, and ``own``.

    A label that is called like one of ours gets ``exported_`` before its name, as a scrape without ``honor_labels``
    does. ``__name__`` and other internal labels go; where a rule's series have ``several`` names, each is kept as
    ``metric``, or two series would be one.
    """
    name = dict(labels).get("__name__", "") if several else ""
    ours = {**own, "metric": name} if name else dict(own)
    given = {key: value for key, value in labels if not key.startswith("__")}
    return _beside(given, ours) | ours


def with_external(labels: Mapping[str, str], external: Mapping[str, str]) -> dict[str, str]:
    """Labels of the one who writes, where the series has none of that name."""
    return {**external, **labels}


def classic(labels: Mapping[str, str]) -> dict[str, str]:
    """The same with names of letters, digits and ``_`` only, which every server takes."""
    plain: dict[str, str] = {}
    for name, value in labels.items():
        fit = _NOT_CLASSIC.sub("_", name)
        fit = f"_{fit}" if fit[:1].isdigit() else fit
        while fit in plain:
            fit = f"exported_{fit}"
        plain[fit] = value
    return plain


def _beside(given: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    taken, moved = set(given) | set(ours), {}
    for name, value in given.items():
        fit = name
        if name in ours:
            while fit in taken:
                fit = f"exported_{fit}"
            taken.add(fit)
        moved[fit] = value
    return moved
