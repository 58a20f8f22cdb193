"""Why an alert was: who found it, in which series, by which model.

The scores of the alert are computed again (see ``replay``), and at its worst the model is asked for what it is made of:
what each member of an ensemble said, which model runs where a fit had a choice. Which series of a group are furthest
from usual is read from the stored scores. What cannot be had is left out, and the cause said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomalyd.block import Labels
from anomalyd.delivery.past import alike_to
from anomalyd.episode import Episode
from anomalyd.evaluation.jointly import furthest
from anomalyd.feedback.alike import Alike
from anomalyd.feedback.cuts import Heard, Unheard, policy_of
from anomalyd.incident import Channel
from anomalyd.replay import Peak, Replay, replay
from anomalyd.rule import Rule
from anomalyd.score import Observation
from anomalyd.slot import SeriesRow
from anomalyd.sources import Source
from anomalyd.store import Store


@dataclass(frozen=True, slots=True)
class Said:
    """What one member of an ensemble said at the worst of an alert; NaN where it could not say."""

    name: str
    weight: float
    surprise: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of an alert's making.

    Attributes:
        at: the slot it speaks of: that of the largest surprise.
        members: of an ensemble, in the order of the rule.
        models: which model runs, in words, where the detector had a choice.
        channels: of a group that was judged as a whole, the series furthest from usual.
        day: what is said of its day, where a calendar of the rule has it count as another one.
        replayed: how computing the scores again went; without it members and models are not known.
        alike: what people called earlier ones that were like it; None where nobody judged any.
    """

    episode: Episode
    at: int
    members: tuple[Said, ...]
    models: tuple[str, ...]
    channels: tuple[Channel, ...]
    replayed: Replay
    day: str = ""
    alike: Alike | None = None


def explain(
    episode: Episode, rule: Rule | None, store: Store, source: Source, now: int, feedback: Heard | None = None
) -> Explanation:
    """Explain an episode by what is known ``now``; raises ``SourceError`` and ``StoreError`` only."""
    peak = Peak()
    result = replay(episode, rule, store, source, feedback, peak)
    members: tuple[Said, ...] = ()
    models: tuple[str, ...] = ()
    if peak.model is not None and peak.state is not None and peak.fresh is not None:
        opinions = peak.model.opinions(peak.state, peak.fresh)
        members = tuple(
            Said(one.name, one.weight, float(np.fmax.reduce(one.surprise[peak.places, 0], initial=np.nan)))
            for one in opinions
        )
        chosen = peak.model.choices(peak.state.take(peak.places))
        models = tuple(str(one) for one in chosen if one.labels in ((), episode.labels))
    day = rule.day_at(episode.peak_at) if rule is not None else ""
    policy = (feedback or Unheard()).policy
    like = alike_to(store, episode, rule, policy_of(rule, policy) if rule else policy, now)
    channels = channels_at_worst(store, rule, episode)
    return Explanation(episode, episode.peak_at, members, models, channels, result, day, like)


def channels_at_worst(store: Store, rule: Rule | None, episode: Episode) -> tuple[Channel, ...]:
    """The series of a joint rule's group that were furthest from usual at its worst; nothing for any other rule."""
    if rule is None or not rule.detector.joint or not episode.peak_at:
        return ()
    rows = _members(rule, store.series(rule.id), episode.labels)
    seen: list[Observation] = store.scores(rule.id, episode.peak_at, episode.peak_at + 1, sorted(rows)) if rows else []
    return furthest([rows[row] for row in seen[0].series.tolist()], seen[0]) if seen else ()


def _members(rule: Rule, rows: Sequence[SeriesRow], group: Labels) -> dict[int, Labels]:
    return {r.row: r.labels for r in rows if r.labels != group and rule.unit_of(r.labels) == group}
