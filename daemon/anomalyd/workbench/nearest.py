"""How near the scores of a test came to an episode that was expected and did not come. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anomalyd.block import Labels
from anomalyd.durations import format_duration
from anomalyd.rule import Rule
from anomalyd.score import Kind, Observation, Why
from anomalyd.workbench.testfile import ExpectedEpisode

REFUSED: Mapping[Why, str] = {
    Why.DIRECTION: "on the side that direction does not ask for", Why.MIN_DEVIATION: "by less than min_deviation",
    Why.NO_NEWS: "but no news (the series shows this often, or has shown it lately)",
    Why.YOUNG: "but the series is young", Why.DOUBTED: "but the samples are doubted: sudden gaps",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A rule's slots with the cut that each was held to, and the labels of its series by row."""

    slots: Sequence[tuple[Observation, float]] = ()
    labels: Mapping[int, Labels] | None = None


def nearest(rule: Rule, wanted: ExpectedEpisode, scored: Scored, start: int) -> str:
    """What the highest score was in the time in which the episode should have begun; empty where none is known."""
    labels = scored.labels or {}
    best, words, kinds = -math.inf, "", set[Kind]()
    for seen, cut in scored.slots:
        at = seen.at - start
        if not wanted.opens.first - rule.for_ms <= at <= wanted.opens.last or not 0 < cut < math.inf:
            continue
        for i, row in enumerate(seen.series.tolist()):
            if not set(wanted.series) <= set(labels.get(row, ())):
                continue
            kinds.add(Kind(int(seen.verdicts.kind[i])))
            score = float(seen.surprise[i]) / cut
            if np.isfinite(score) and score > best:
                best, words = score, _words(seen, i, score, at)
    if words or not kinds:
        return words
    return f"nothing was scored then ({', '.join(sorted(kind.name.lower() for kind in kinds))})"


def _words(seen: Observation, i: int, score: float, at: int) -> str:
    usual = f" where {seen.expected[i]:.4g} was expected" if np.isfinite(seen.expected[i]) else ""
    said = f"the highest score then was {score:.2f}, at {format_duration(at)}: {seen.value[i]:.4g}{usual}"
    if score <= 1:
        return f"{said}; an episode begins above 1"
    why = REFUSED.get(Why(int(seen.verdicts.why[i])), "but not for long enough")
    return f"{said}; above the cut, {why}"
