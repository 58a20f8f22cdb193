"""``Ballot``: takes votes, writes down what they change, and tells the evaluation what holds.

The votes and the threshold history in the store are all the state there is: whoever votes - the console, Slack, the
command line in another process - writes rows, and the daemon reads them (``StoredFeedback``) within a minute, at once
where the vote came in through itself. A vote that is refused changes nothing; a repeated one is harmless.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anomalyd.block import F32, F64, I64, Fingerprint
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.delivery.past import alike_to
from anomalyd.episode import Episode
from anomalyd.errors import AnomalydError, StoreError
from anomalyd.evaluation.jointly import count_units
from anomalyd.feedback.alike import Alike
from anomalyd.feedback.cuts import (
    ALONE,
    NO_FEEDBACK,
    TOGETHER_MS,
    FeedbackPolicy,
    Moved,
    Preview,
    RuleFeedback,
    apply,
    believe,
    changes_of,
    factors,
    in_effect,
    moved_of,
    policy_of,
    preview,
    steps,
)
from anomalyd.feedback.recurring import Recurring, recurring
from anomalyd.feedback.votes import began_alone, counted, judgements, labels_of, voter
from anomalyd.logs import get_logger
from anomalyd.records import Feedback, FeedbackLabel, ThresholdChange
from anomalyd.render import clean
from anomalyd.rule import Rule
from anomalyd.store import Store
from anomalyd.threshold import initial_threshold

REFRESH_MS = MINUTE_MS
MAX_TEXT = 1_000
PREVIEW_DAYS = 30

log = get_logger("feedback")


class Refused(AnomalydError):
    """A vote that is not taken.

    ``reason``: not_found, rate_limited, bad_vote.
    """

    def __init__(self, reason: str, message: str):
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Cast:
    """What a vote did: the vote as it is kept, whether it is new, the rows it wrote, and its effect in words."""

    vote: Feedback
    added: bool
    changes: tuple[ThresholdChange, ...] = ()
    effect: str = ""


@dataclass(frozen=True, slots=True)
class _Standing:
    """The votes that count on a rule with all they are about."""

    votes: list[Feedback]
    episodes: dict[str, Episode]
    missed: dict[str, float]
    history: list[ThresholdChange]
    base: tuple[float, float, float]
    alone: frozenset[str] = frozenset()


class Ballot:
    """Casts votes and takes them back.

    Args:
        rules: the rules that are running, by id; votes on others are kept and move nothing.
        changed: told the id of a rule whose feedback has changed.
    """

    def __init__(
        self,
        store: Store,
        rules: Callable[[], Mapping[str, Rule]],
        policy: FeedbackPolicy,
        changed: Callable[[str], None] = lambda rule: None,
    ):
        self._store, self._rules, self.policy, self._changed = store, rules, policy, changed
        self._one_at_a_time = threading.Lock()

    def vote_on(
        self, episode: str, label: FeedbackLabel, who: str, via: str, now: int, *, cause: str = "", text: str = "",
        id: str = "",
    ) -> Feedback:  # fmt: skip
        """A vote on an episode, ready to be cast; raise ``Refused`` (not_found) when there is no such episode."""
        found = self._store.episode(episode)
        if found is None:
            raise Refused("not_found", f"there is no episode {clean(episode, 60)!r}")
        parts = f"{via}\0{who}\0{episode}\0{label}\0{now}"
        identity = id or hashlib.blake2b(parts.encode(), digest_size=10).hexdigest()
        return Feedback(
            id=identity, label=label, rule=found.rule, at=now, who=who, via=via, episode=episode,
            fingerprint=found.fingerprint, start=found.started_at, end=found.closed_at or found.seen_at, cause=cause,
            text=text,
        )  # fmt: skip

    def cast(self, vote: Feedback, now: int) -> Cast:
        """Take a vote and move the cuts that follow from it; raise ``Refused``."""
        vote = _tidy(vote)
        with self._one_at_a_time:
            self._check(vote)
            if not self._store.add_feedback(vote):
                return Cast(vote, False, effect="this vote was counted before")
            changes = self._rewrite(vote, now, "feedback")
        self._changed(vote.rule)
        effect = self._effect(vote, changes)
        log.info("vote", rule=vote.rule, episode=vote.episode, label=vote.label.value, who=vote.who, via=vote.via,
                 effect=effect)  # fmt: skip
        return Cast(vote, True, tuple(changes), effect)

    def undo(self, id: str, who: str, now: int) -> Feedback:
        """Take a vote back and undo what it changed; raise ``Refused`` when there is none that counts."""
        with self._one_at_a_time:
            vote = next((vote for vote in self._store.feedback() if vote.id == id and not vote.undone_at), None)
            if vote is None or not self._store.undo_feedback(id, now):
                raise Refused("not_found", f"there is no vote {clean(id, 60)!r} that counts")
            self._rewrite(replace(vote, who=clean(who, 200)), now, "undo")
        self._changed(vote.rule)
        log.info("vote taken back", rule=vote.rule, episode=vote.episode, who=who, vote=id)
        return replace(vote, undone_at=now)

    def undo_change(self, rule: str, id: int, now: int) -> None:
        """Take one entry of the threshold history back: the one before it holds again, until the next vote."""
        if not any(row.id == id for row in self._store.thresholds(rule)) or not self._store.undo_threshold(id, now):
            raise Refused("not_found", f"rule {clean(rule, 100)!r} has no threshold change {id} that counts")
        self._changed(rule)

    def preview(self, vote: Feedback, now: int) -> Preview:
        """What a vote, were it cast now, would have spared and cost over the last 30 days."""
        rule = self._rules().get(vote.rule)
        if rule is None:
            raise Refused("not_found", f"rule {clean(vote.rule, 100)!r} is not running")
        standing = self._standing(rule, [vote])
        after = _feedback(rule, standing, self._asked(rule, standing, now), now, policy_of(rule, self.policy))
        return self._compare(rule, after, standing.base, now)

    def standing(self, rule_id: str, now: int) -> Preview:
        """What the feedback that holds now spares and costs over the last 30 days."""
        rule = self._rules().get(rule_id)
        if rule is None:
            raise Refused("not_found", f"rule {clean(rule_id, 100)!r} is not running")
        standing = self._standing(rule, [])
        after = _feedback(rule, standing, moved_of(standing.history), now, policy_of(rule, self.policy))
        return self._compare(rule, after, standing.base, now)

    def real(self, episode: Episode, now: int) -> float | None:
        """The probability that an alert like this one is real, from the votes on its series; None without votes."""
        rule = self._rules().get(episode.rule)
        if rule is None:
            return None
        standing, policy = self._standing(rule, []), policy_of(rule, self.policy)
        base = min(standing.base)
        judged = judgements(standing.votes, standing.episodes, standing.missed, base, now, policy, standing.alone)
        mine = [one for one in judged if one.fingerprint == episode.fingerprint]
        if not mine or not math.isfinite(episode.peak_surprise):
            return None
        return believe(mine, 0.0, 1.0, policy).real(episode.peak_surprise / base)

    def alike(self, episode: Episode, now: int) -> Alike | None:
        """What people called earlier ones that were like it; None where nobody judged any."""
        rule = self._rules().get(episode.rule)
        return alike_to(self._store, episode, rule, policy_of(rule, self.policy) if rule else self.policy, now)

    def _check(self, vote: Feedback) -> None:
        if vote.label == FeedbackLabel.MISSED:
            if not vote.rule or not vote.fingerprint or vote.end < vote.start:
                raise Refused("bad_vote", "a missed span needs rule, fingerprint, start and end")
            if vote.end - vote.start > DAY_MS:
                raise Refused("bad_vote", "a missed span is at most a day long")
        elif not vote.episode:
            raise Refused("bad_vote", "the vote names no episode")
        day = [v for v in self._store.feedback() if v.at // DAY_MS == vote.at // DAY_MS and voter(v) == voter(vote)]
        known = any(v.id == vote.id or v.at == vote.at for v in day)
        if len({v.at for v in day}) >= self.policy.votes_per_person_per_day and not known:
            limit = self.policy.votes_per_person_per_day
            raise Refused("rate_limited", f"{vote.who} has given {limit} votes today, which is the limit")

    def _rewrite(self, vote: Feedback, now: int, reason: str) -> list[ThresholdChange]:
        """Bring the threshold history up to date with the votes that count now."""
        rule = self._rules().get(vote.rule)
        if rule is None or not rule.feedback.enabled:
            return []
        standing, policy = self._standing(rule, []), policy_of(rule, self.policy)
        base = min(standing.base)
        judged = judgements(standing.votes, standing.episodes, standing.missed, base, now, policy, standing.alone)
        moves = steps(factors(judged, policy), standing.history, now, policy)
        rows = changes_of(rule.id, standing.base, moves, judged, vote, now, policy, reason)
        return [replace(row, id=self._store.save_threshold(row)) for row in rows]

    def _standing(self, rule: Rule, more: Sequence[Feedback]) -> _Standing:
        votes = counted([*self._store.feedback(rule=rule.id), *more], self.policy)
        episodes = {vote.episode: self._store.episode(vote.episode) for vote in votes if vote.episode}
        missed = {v.id: self._surprise(v) for v in votes if v.label == FeedbackLabel.MISSED}
        known = {id: episode for id, episode in episodes.items() if episode is not None}
        alone = frozenset(id for id, episode in known.items() if self._alone(episode))
        return _Standing(votes, known, missed, self._store.thresholds(rule.id), base_cuts(self._store, rule), alone)

    def _alone(self, e: Episode) -> bool:
        """Whether hardly another series of its rule began an episode with this one."""
        around = self._store.episodes(
            rule=e.rule, start=e.started_at - TOGETHER_MS, end=e.started_at + TOGETHER_MS + 1, limit=1_000
        )
        return e.id in began_alone([*around, e])

    def _surprise(self, vote: Feedback) -> float:
        """The largest surprise that was scored within a span; NaN where no scores are kept."""
        row = next((s.row for s in self._store.series(vote.rule) if s.fingerprint == vote.fingerprint), None)
        if row is None:
            return math.nan
        seen = self._store.scores(vote.rule, vote.start, vote.end + 1, [row])
        values = np.array([one.surprise[0] for one in seen if len(one.surprise)])
        finite = values[np.isfinite(values)]
        return float(finite.max()) if len(finite) else math.nan

    def _asked(self, rule: Rule, standing: _Standing, now: int) -> dict[str, Moved]:
        base, policy = min(standing.base), policy_of(rule, self.policy)
        judged = judgements(standing.votes, standing.episodes, standing.missed, base, now, policy, standing.alone)
        moves = steps(factors(judged, policy), standing.history, now, policy)
        return {**moved_of(standing.history), **{name: Moved(after, now) for name, (_, after) in moves.items()}}

    def _compare(self, rule: Rule, after: RuleFeedback, base: tuple[float, float, float], now: int) -> Preview:
        past = self._store.episodes(rule=rule.id, start=now - PREVIEW_DAYS * DAY_MS, limit=10_000)
        return preview(after, past, base, now, policy_of(rule, self.policy), PREVIEW_DAYS)

    def _effect(self, vote: Feedback, changes: Sequence[ThresholdChange]) -> str:
        if vote.label == FeedbackLabel.NEW_NORMAL:
            return "the episode is closed and the series is learned anew from its beginning"
        rule = self._rules().get(vote.rule)
        if rule is not None and not rule.feedback.enabled:
            return "noted; the rule says that votes do not move its thresholds"
        if vote.label == FeedbackLabel.EXPECTED:
            found = self.exceptions(rule) if rule else ()
            words = next((one.words for one in found if one.feedback == vote.id), "")
            return f"expected again {words}" if words else "noted; it makes no exception that recurs"
        mine = [change for change in changes if change.fingerprint in (vote.fingerprint, "")]
        if not mine:
            return "noted; the thresholds stay"
        lowest = min(mine[-1].cuts)
        return f"this series is now told from a surprise of {lowest:.2f} on"

    def exceptions(self, rule: Rule) -> tuple[Recurring, ...]:
        """The recurring exceptions of a rule."""
        standing = self._standing(rule, [])
        return _feedback(rule, standing, {}, 0, policy_of(rule, self.policy)).recurring


def base_cuts(store: Store, rule: Rule) -> tuple[float, float, float]:
    """A rule's own cuts; a budget stated per rule is shared by all series it scores now, or groups of a joint rule."""
    shared = any(policy.budget is not None and policy.budget.per == "rule" for policy in rule.tiers)
    units = count_units(rule, [row.labels for row in store.scored_series(rule.id)]) if shared else 1
    return initial_threshold(rule, max(1, units)).cuts


def cuts_now(
    store: Store, rule: Rule, series: Sequence[Fingerprint], hits: tuple[I64, I64, F32], now: int,
    policy: FeedbackPolicy,
) -> F64:  # fmt: skip
    """The lowest cut that samples would meet today [H], votes and exceptions included.

    Args:
        hits: rows of ``series``, times and surprises [H], in order of time.
    """
    rows, times, surprise = hits
    heard, own = StoredFeedback(store, policy)(rule, now), policy_of(rule, policy)
    base, (standing, ever) = np.array([base_cuts(store, rule)]), in_effect(heard, now, own)
    plain, all_of_them = RuleFeedback(standing.moved), np.repeat(base, len(series), axis=0)
    alone, together = (apply(plain, all_of_them, series, now, ever, one).min(axis=1)[rows] for one in (True, False))
    at, series_above = np.unique(times[surprise > base.min()], return_counts=True)
    crowds: I64 = np.concatenate([[-TOGETHER_MS - 1], at[series_above > ALONE]]).astype(np.int64)
    last = crowds[np.searchsorted(crowds, times) - 1]
    cuts: F64 = np.where(times - last <= TOGETHER_MS, together, alone)
    for one in heard.recurring:
        mine = [i for i, row in enumerate(rows.tolist()) if series[row] == one.fingerprint]
        for i in mine:
            cuts[i] = apply(standing, base, [one.fingerprint], int(times[i]), ever).min()
    return cuts


def _feedback(
    rule: Rule, standing: _Standing, moved: Mapping[str, Moved], now: int, policy: FeedbackPolicy
) -> RuleFeedback:
    votes = standing.votes
    if not rule.feedback.enabled:
        return RuleFeedback(labels=labels_of(votes), missed=_missed(votes))
    exceptions = recurring(
        votes, standing.episodes, min(standing.base), rule.timezone, policy.max_factor, policy.half_life_ms
    )
    return RuleFeedback(moved, exceptions, labels_of(votes), _missed(votes))


def _missed(votes: Sequence[Feedback]) -> tuple[tuple[str, int, int], ...]:
    return tuple((v.fingerprint, v.start, v.end) for v in votes if v.label == FeedbackLabel.MISSED)


def _tidy(vote: Feedback) -> Feedback:
    """People's text is cleaned once, before it is kept."""
    return replace(
        vote, who=clean(vote.who, 200) or "somebody", cause=clean(vote.cause, 200),
        text=clean(vote.text, MAX_TEXT, lines=True),
    )  # fmt: skip


class StoredFeedback:
    """What holds for each rule, read from the store and kept until something was said; asked once a minute of slots.

    A store that does not answer leaves what was known: a vote can wait, a slot cannot.
    """

    def __init__(self, store: Store, policy: FeedbackPolicy):
        self._store, self.policy = store, policy
        self._known: dict[str, tuple[tuple[int, ...], RuleFeedback]] = {}
        self._asked: tuple[int, tuple[int, ...]] | None = None

    def __call__(self, rule: Rule, at: int) -> RuleFeedback:
        """The feedback on a rule as of a slot."""
        read, known = self._known.get(rule.id, ((), NO_FEEDBACK))
        try:
            stamp = self._stamp(at)
            if rule.id not in self._known or read != stamp:
                known = self._read(rule)
                self._known[rule.id] = (stamp, known)
        except StoreError as error:
            log.warning("feedback not read; what was known holds", rule=rule.id, reason=error.reason)
        return known

    def _stamp(self, at: int) -> tuple[int, ...]:
        """The store's stamp as of a slot; rules of one slot ask once."""
        if self._asked is None or not 0 <= at - self._asked[0] < REFRESH_MS:
            self._asked = (at, self._store.feedback_stamp())
        return self._asked[1]

    def changed(self, rule: str) -> None:
        """Read a rule's feedback anew at its next slot."""
        self._known.pop(rule, None)
        self._asked = None

    def _read(self, rule: Rule) -> RuleFeedback:
        votes = counted(self._store.feedback(rule=rule.id), self.policy)
        history = self._store.thresholds(rule.id)
        if not votes and not history:
            return NO_FEEDBACK
        wanted = {vote.episode for vote in votes if vote.label == FeedbackLabel.EXPECTED}
        episodes = {id: found for id in wanted if (found := self._store.episode(id)) is not None}
        standing = _Standing(votes, episodes, {}, history, base_cuts(self._store, rule))
        return _feedback(rule, standing, moved_of(history), 0, policy_of(rule, self.policy))
