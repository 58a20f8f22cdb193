"""From votes to judgements: which votes count, and what they say of the scores of what was voted on. Pure.

Invariants: a person counts once an episode and no more than so often a day; a vote taken back was never given; a vote
fades with its age.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence

from anomalyd.block import Fingerprint
from anomalyd.clock import DAY_MS
from anomalyd.episode import Episode
from anomalyd.feedback.belief import ALONE, TOGETHER_MS, FeedbackPolicy, Judged, trust
from anomalyd.records import VERDICTS, Feedback, FeedbackLabel
from anomalyd.threshold import NEVER

_COUNTED = (*VERDICTS, FeedbackLabel.MISSED)


def voter(vote: Feedback) -> str:
    """Whose limit a vote counts against: the person, or for a signed link the receiver it was sent to.

    The name that somebody types on a page that needs no login proves nothing.
    """
    who = vote.who.rpartition("@")[2] if vote.via == "link" else vote.who
    return f"{vote.via}:{who}"


def counted(votes: Iterable[Feedback], policy: FeedbackPolicy) -> list[Feedback]:
    """The votes that count, oldest first: not taken back, one a person and episode (the newest), within the limit."""
    chosen: dict[tuple[str, str, Fingerprint, int], Feedback] = {}
    a_day: dict[tuple[str, int], set[int]] = {}
    for vote in sorted(votes, key=lambda v: (v.at, v.id)):
        if vote.undone_at or vote.label not in _COUNTED:
            continue
        acts = a_day.setdefault((voter(vote), vote.at // DAY_MS), set())
        acts.add(vote.at)  # a vote on a whole incident is one act
        if len(acts) > policy.votes_per_person_per_day:
            continue
        key = (voter(vote), vote.episode, vote.fingerprint, 0 if vote.episode else vote.start)
        chosen.pop(key, None)
        chosen[key] = vote
    return list(chosen.values())


def labels_of(votes: Iterable[Feedback]) -> dict[str, FeedbackLabel]:
    """The verdict on each episode: what most say, the newest word where it is a draw."""
    said: dict[str, list[FeedbackLabel]] = {}
    for vote in votes:
        if vote.episode:
            said.setdefault(vote.episode, []).append(vote.label)
    return {
        episode: max(labels, key=lambda label: (labels.count(label), len(labels) - labels[::-1].index(label)))
        for episode, labels in said.items()
    }


def judgements(
    votes: Sequence[Feedback],
    episodes: Mapping[str, Episode],
    missed: Mapping[str, float],
    base: float,
    now: int,
    policy: FeedbackPolicy,
    alone: Collection[str],
) -> list[Judged]:
    """What counted votes say about scores.

    Args:
        votes: as ``counted`` gives them.
        episodes: those voted on, by id; a vote whose episode is gone says nothing about scores.
        missed: largest surprise within each missed span, by the vote's id.
        base: the rule's own lowest cut.
        alone: ids of the episodes that began with hardly another series of the rule (``began_alone``).
    """
    by_episode: dict[str, list[Feedback]] = {}
    for vote in votes:
        if vote.label in (FeedbackLabel.TRUE, FeedbackLabel.FALSE) and vote.episode in episodes:
            by_episode.setdefault(vote.episode, []).append(vote)
    word = trust({voter(vote): vote.label == FeedbackLabel.TRUE for vote in given} for given in by_episode.values())
    found = []
    for name, given in by_episode.items():
        episode, newest = episodes[name], max(vote.at for vote in given)
        said = sum(word[voter(vote)] for vote in given)
        real = sum(word[voter(vote)] for vote in given if vote.label == FeedbackLabel.TRUE) / said
        if score := _score(episode.peak_surprise, base):
            weight = fading(now - newest, policy) * min(1.0, said)
            group = episode.incident or name
            by_itself = name in alone
            found.append(Judged(episode.fingerprint, score, real, newest, weight, incident=group, alone=by_itself))
    for vote in votes:
        if vote.label == FeedbackLabel.MISSED and (score := _score(missed.get(vote.id, math.nan), base)):
            weight = fading(now - vote.at, policy)
            found.append(Judged(vote.fingerprint, score, 1.0, vote.at, weight, missed=True, incident=vote.id))
    return sorted(found, key=lambda judged: judged.at)


def began_alone(told: Sequence[Episode]) -> set[str]:
    """Ids of a rule's episodes around whose beginning no more than ``ALONE`` series began one, theirs included."""
    ordered = sorted((e for e in told if e.opened_at), key=lambda e: e.started_at)
    starts = [e.started_at for e in ordered]
    found = set()
    for e in ordered:
        first, stop = bisect_left(starts, e.started_at - TOGETHER_MS), bisect_right(starts, e.started_at + TOGETHER_MS)
        if len({other.fingerprint for other in ordered[first:stop]}) <= ALONE:
            found.add(e.id)
    return found


def _score(surprise: float, base: float) -> float:
    return surprise / base if math.isfinite(surprise) and surprise > 0 and 0 < base < NEVER else 0.0


def fading(age_ms: int, policy: FeedbackPolicy) -> float:
    """What is left of a vote, or of a moved cut, at an age: half after each half-life."""
    return float(0.5 ** (max(0, age_ms) / policy.half_life_ms))
