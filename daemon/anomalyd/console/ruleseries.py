"""The series of a rule in its newest slot, the most surprising first, and what they are like as data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anomalyd.block import F64, I64, Labels
from anomalyd.clock import SECOND_MS
from anomalyd.console.rulestate import RuleState
from anomalyd.episode import Episode, Phase
from anomalyd.evaluation.datafeatures import features_of
from anomalyd.evaluation.jointly import groups_seen
from anomalyd.evaluation.memory import Memory
from anomalyd.incident import DATA_FAULTS
from anomalyd.render import label_text, number, span
from anomalyd.score import Kind, Observation, Tier, Why

FAULTY = 20

KINDS = {
    Kind.OK: "fine", Kind.ANOMALOUS: "abnormal", Kind.WARMING_UP: "warming up", Kind.MISSING: "no sample",
    Kind.PARTIAL: "unknown: answered in part", Kind.LIMITED: "not scored", Kind.ERROR: "unknown: error",
}  # fmt: skip
REASONS = {
    Why.OUT_OF_RANGE: "outside its valid range", Why.ABSENT: "has stopped reporting",
    Why.DIRECTION: "above, on the side that is not asked for", Why.MIN_DEVIATION: "above, by less than min_deviation",
    Why.NO_NEWS: "above, but no news", Why.YOUNG: "young", Why.DISMISSED: "above, judged harmless",
    Why.DOUBTED: "above, its data are doubted", Why.HELD: "above, held by votes",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """One series, or group of a joint rule, in the newest slot; ``i`` is where the observation has it."""

    labels: Labels
    seen: Observation
    i: int
    score: float
    episode: Episode | None

    def shown(self) -> dict[str, str]:
        """As the page has it; the score is above 1 where the lowest tier begins, as ``anomaly_score`` is."""
        s, i = self.seen, self.i
        kind, why = Kind(int(s.verdicts.kind[i])), Why(int(s.verdicts.why[i]))
        live = self.episode is not None and self.episode.phase == Phase.OPEN
        low, high = float(s.lower[i]), float(s.upper[i])
        both = math.isfinite(low) and math.isfinite(high)
        band = f"{number(low)} to {number(high)}" if both else number(float(s.expected[i]))
        return {
            "labels": label_text(self.labels, 240) or "the whole rule", "value": number(float(s.value[i])),
            "expected": band, "score": f"{self.score:.2f}" if math.isfinite(self.score) else "none",
            "words": REASONS.get(why, KINDS[kind]), "tier": Tier(int(s.verdicts.tier[i])).word if live else "",
            "episode": self.episode.id if live and self.episode is not None else "",
        }  # fmt: skip


def series_rows(state: RuleState, wanted: Callable[[Labels], bool]) -> list[Place]:
    """The series that are wanted, the highest score first; those without one last."""
    memory = state.run.memory if state.run is not None else None
    if memory is None or memory.last is None or len(memory.last.series) != len(memory.active):
        return []
    seen = groups_seen(memory, memory.last)
    cuts = _cuts_of(memory, seen.series)
    score = np.divide(seen.surprise, cuts, out=np.full(len(cuts), np.nan), where=np.isfinite(cuts) & (cuts > 0))
    order = np.argsort(-np.where(np.isfinite(score), score, -1.0), kind="stable").tolist()
    rows, series, units = memory.registry.rows, seen.series.tolist(), memory.registry.unit(seen.series).tolist()
    return [
        Place(labels, seen, i, float(score[i]), memory.episodes.get(units[i]))
        for i in order
        if wanted(labels := rows[series[i]].labels)
    ]


def _cuts_of(memory: Memory, rows: I64) -> F64:
    """The lowest cut of each series or group."""
    lowest: F64 = memory.cuts.min(axis=1) if len(memory.cuts) else np.zeros(0)
    if not memory.registry.joint:
        return lowest
    of_unit = dict(zip(memory.units.tolist(), lowest.tolist(), strict=True))
    return np.array([of_unit.get(row, math.inf) for row in rows.tolist()], float)


def quality_rows(state: RuleState) -> list[dict[str, str]]:
    """Of each feature the series that is furthest beyond what is usual of it."""
    memory = state.run.memory if state.run is not None else None
    if memory is None or not len(memory.active) or len(memory.quality.lines) != len(memory.active):
        return []
    f = features_of(memory.quality, state.rule.interval_ms)

    def share(value: float) -> str:
        return f"{value:.0%}" if math.isfinite(value) else "not known yet"

    def time(value: float) -> str:
        return span(int(value * SECOND_MS)) if math.isfinite(value) else "not known yet"

    table = (
        ("missing samples", f.gap_share, f.gap_share_usual, 1, share),
        ("same value again", f.repeat_share, f.repeat_share_usual, 1, share),
        ("different values", f.entropy, f.entropy_usual, -1, share),
        ("silence", f.silence_s, f.silence_usual_s, 1, time),
    )
    found = []
    for name, now, usual, sign, words in table:
        beyond = np.where(np.isfinite(now), sign * (now - np.where(np.isfinite(usual), usual, 0.0)), -np.inf)
        i = int(beyond.argmax())
        if math.isfinite(beyond[i]):
            labels = memory.registry.rows[int(memory.active[i])].labels
            row = {"name": name, "now": words(float(now[i])), "usual": words(float(usual[i]))}
            found.append(row | {"series": label_text(labels, 160)})
    return found


def faulty_rows(state: RuleState) -> list[tuple[str, str]]:
    """The series whose data are faulty, and how."""
    seen = state.run.attendance if state.run is not None else None
    faulty = seen.faulty[:FAULTY] if seen is not None else ()
    return [(label_text(labels, 160), "; ".join(DATA_FAULTS[one] for one in faults)) for labels, faults in faulty]
