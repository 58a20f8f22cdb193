"""``Past``: what was like an alert before, and what people said of that and of this one; for messages and pages.

And the updates that follow from what they say: receivers that keep one message of an incident have it written in.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.episode import Episode, Phase
from anomalyd.feedback.alike import Alike, Said, alike, look_of_alert, look_of_episode, said_of
from anomalyd.feedback.belief import FeedbackPolicy
from anomalyd.feedback.votes import labels_of
from anomalyd.incident import UNJUDGED, Alert, Notification, Reason, Statement, group_of
from anomalyd.records import VERDICTS, Feedback, FeedbackLabel, OutboxRow, OutboxState
from anomalyd.render import Background, Verdict, clean
from anomalyd.rule import Rule

LOOK_BACK_MS = 90 * DAY_MS
SIMILAR = 20
REFRESH_MS = MINUTE_MS
UPDATES_OF_MS = DAY_MS
MAX_INCIDENTS = 1_000

WORDS: Mapping[FeedbackLabel, str] = {
    FeedbackLabel.TRUE: "real",
    FeedbackLabel.FALSE: "false alarm",
    FeedbackLabel.EXPECTED: "expected",
    FeedbackLabel.NEW_NORMAL: "new normal",
    FeedbackLabel.MISSED: "missed",
    FeedbackLabel.ACKNOWLEDGED: "acknowledged",
    FeedbackLabel.RESOLVED: "resolved elsewhere",
}


class Book(Protocol):
    """What is asked of the store."""

    def episodes(
        self, *, rule: str | None = None, start: int | None = None, end: int | None = None, phase: Phase | None = None,
        incident: str | None = None, fingerprint: str | None = None, limit: int = 1000,
    ) -> list[Episode]: ...  # fmt: skip

    def episode(self, id: str) -> Episode | None: ...

    def feedback(self, *, rule: str | None = None, episode: str | None = None) -> list[Feedback]: ...

    def feedback_stamp(self) -> tuple[int, ...]: ...

    def notifications(
        self, *, incident: str | None = None, receiver: str | None = None, state: OutboxState | None = None,
        limit: int = 100,
    ) -> list[OutboxRow]: ...  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Known:
    """What was said of a rule's episodes as of a vote and a time; ``live``: one of them was not over."""

    stamp: tuple[int, ...]
    at: int
    live: bool
    said: Sequence[Said]


class Past:
    """Reads votes once for as long as nobody votes: a storm asks for them thousands of times."""

    def __init__(self, book: Book, policy: Callable[[str], FeedbackPolicy] = lambda rule: FeedbackPolicy()):
        self._book, self._policy = book, policy
        self._votes: dict[str, tuple[tuple[int, ...], list[Feedback]]] = {}
        self._said: dict[str, _Known] = {}

    def __call__(self, s: Statement) -> Background:
        """The background of a statement, as things stand now; raises only ``StoreError``."""
        lead = s.alerts[0] if s.alerts else None
        if lead is None or s.reason == Reason.TEST or lead.why in UNJUDGED:
            return Background()
        votes = self._of_rule(s.rule)
        own = {alert.episode for alert in s.alerts}
        here = [vote for vote in votes if vote.episode in own]
        found = similar(self._book, s.rule, lead.fingerprint, lead.started_at)
        past = [e for e in found if e.id not in own and e.started_at >= s.at - LOOK_BACK_MS]
        labels = labels_of(vote for vote in votes if vote.label in VERDICTS)
        judged = Counter(WORDS[labels[e]] for e in sorted(own) if e in labels)
        verdict = judged.most_common(1)[0][0] if judged else ""
        like = self._alike(s, lead, votes) if votes else None
        return Background(past_words(past, labels), verdict, verdicts_of(here), like=like.words if like else "")

    def _alike(self, s: Statement, lead: Alert, votes: Sequence[Feedback]) -> Alike | None:
        policy = self._policy(s.rule)
        own = {*(alert.episode for alert in s.alerts), s.incident} - {""}
        said = self._judged(s, votes, policy)
        return alike(look_of_alert(lead), s.group_labels, own, said, s.at, policy.half_life_ms)

    def _judged(self, s: Statement, votes: Sequence[Feedback], policy: FeedbackPolicy) -> Sequence[Said]:
        """What was said of episodes: read anew after a vote, and once a minute while one of them is open."""
        stamp, known = self._votes[s.rule][0], self._said.get(s.rule)
        if known is not None and known.stamp == stamp and (not known.live or 0 <= s.at - known.at < REFRESH_MS):
            return known.said
        recent = [vote for vote in votes if s.at - vote.at <= policy.half_life_ms]
        episodes = judged_episodes(self._book, {vote.episode for vote in recent if vote.episode})
        live = any(episode.phase != Phase.CLOSED for episode in episodes.values())
        self._said[s.rule] = _Known(stamp, s.at, live, said_of(recent, episodes, policy))
        return self._said[s.rule].said

    def _of_rule(self, rule: str) -> list[Feedback]:
        stamp = self._book.feedback_stamp()
        known = self._votes.get(rule)
        if known is None or known[0] != stamp:
            known = self._votes[rule] = stamp, [v for v in self._book.feedback(rule=rule) if not v.undone_at]
        return known[1]


def similar(book: Book, rule: str, fingerprint: str, before: int, limit: int = SIMILAR) -> list[Episode]:
    """Earlier episodes of a series that were told, newest first."""
    past = book.episodes(rule=rule, fingerprint=fingerprint, end=before, limit=limit + 1)
    return [e for e in past if e.opened_at and e.started_at < before][:limit]


def judged_episodes(book: Book, ids: Collection[str]) -> dict[str, Episode]:
    """Episodes by id; those that the store has forgotten are left out."""
    return {id: found for id in sorted(ids) if (found := book.episode(id)) is not None}


def alike_to(book: Book, episode: Episode, rule: Rule | None, policy: FeedbackPolicy, now: int) -> Alike | None:
    """What people called what an episode is like, by the votes that count now."""
    votes = [v for v in book.feedback(rule=episode.rule) if now - v.at <= policy.half_life_ms and not v.undone_at]
    said = said_of(votes, judged_episodes(book, {vote.episode for vote in votes if vote.episode}), policy)
    group = group_of(rule, episode.labels) if rule is not None else ()
    own = {episode.id, episode.incident} - {""}
    return alike(look_of_episode(episode), group, own, said, now, policy.half_life_ms)


def past_words(past: Sequence[Episode], labels: Mapping[str, FeedbackLabel]) -> str:
    """In one line: how often, what they were, and the last one; empty when there was none."""
    if not past:
        return ""
    day = datetime.fromtimestamp(past[0].started_at / 1000, UTC).strftime("%d %b").lstrip("0")
    word = WORDS[labels[past[0].id]] if past[0].id in labels else ""
    if len(past) == 1:
        return f"once, on {day}" + (f": {word}" if word else "")
    words = Counter(WORDS[labels[e.id]] for e in past if e.id in labels)
    judged = ", ".join(f"{count} {one}" for one, count in words.most_common())
    often = f"{len(past)}{'+' if len(past) >= SIMILAR else ''} times"
    return f"{often}, last on {day}" + (f" ({word})" if word else "") + (f"; {judged}" if judged else "")


def verdicts_of(votes: Sequence[Feedback]) -> tuple[Verdict, ...]:
    """What was said, once for each person and word though it was said of many series; oldest first."""
    said: dict[tuple[str, str], Verdict] = {}
    for vote in votes:
        if not vote.undone_at:
            word, who = WORDS[vote.label], clean(vote.who, 60)
            said[word, who] = Verdict(word, who, vote.at, vote.via)
    return tuple(sorted(said.values(), key=lambda one: one.at))


def updates(book: Book, receivers: Collection[str], now: int) -> list[Notification]:
    """What receivers that show verdicts are owed for the votes of the last day; enqueuing it twice changes nothing."""
    recent = [v for v in book.feedback() if v.episode and max(v.at, v.undone_at) > now - UPDATES_OF_MS]
    incidents: dict[str, list[Feedback]] = {}
    for vote in recent if receivers else ():
        episode = book.episode(vote.episode)
        if episode is not None and episode.incident:
            incidents.setdefault(episode.incident, []).append(vote)
    owed = []
    for incident, votes in list(incidents.items())[-MAX_INCIDENTS:]:
        newest = max(votes, key=lambda vote: (max(vote.at, vote.undone_at), vote.id))
        said = f"{newest.id}\0{newest.undone_at}"
        for receiver in receivers:
            rows = book.notifications(incident=incident, receiver=receiver, state=OutboxState.DELIVERED, limit=1)
            if rows:
                statement = replace(rows[0].notification.statement, reason=Reason.JUDGED)
                identity = f"{incident}\0judged\0{receiver}\0{said}".encode("utf-8", "replace")
                id = hashlib.blake2b(identity, digest_size=12).hexdigest()
                owed.append(Notification(id, receiver, statement, now))
    return owed
