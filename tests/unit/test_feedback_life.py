"""Feedback in a living rule: what is told, closed and learned after a vote, from the store and slot by slot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.ballot import Ballot, StoredFeedback
from anomalyd.block import Block
from anomalyd.clock import HOUR_MS
from anomalyd.episode import Close, Episode, Phase
from anomalyd.errors import StoreBusy
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.feedback.cuts import Detail, FeedbackPolicy, write_detail
from anomalyd.incident import Reason
from anomalyd.records import Feedback, FeedbackLabel, ThresholdChange
from anomalyd.rule import FeedbackTerms, TierPolicy
from anomalyd.score import Kind, Tier, Why
from anomalyd.template import render_annotations
from life import RULE, START, Life, M, change, recorded

POLICY = FeedbackPolicy(min_votes=2)
MILD = replace(RULE, tiers=(TierPolicy(Tier.WARNING, surprise=3.0),))


class Judged(Life):
    """A rule whose alerts are voted on."""

    def born(self) -> Evaluator:
        inline = InlineExecutor()
        self.heard = StoredFeedback(self.store, POLICY)
        self.ballot = Ballot(self.store, lambda: {self.rule.id: self.rule}, POLICY, self.heard.changed)
        evaluator = Evaluator(
            self.store, {"default": self.source}, annotate=render_annotations, links=lambda _: {}, fit=inline,
            background=inline, operators=("hook",), feedback=self.heard,
        )  # fmt: skip
        evaluator.add(self.rule)
        return evaluator

    def vote(self, label: FeedbackLabel, minute: int, host: str = "h1") -> Feedback:
        """Vote on the newest alert of a host."""
        told = [e for e in self.store.episodes(rule=self.rule.id) if e.opened_at and dict(e.labels)["host"] == host]
        now = START + minute * M
        return self.ballot.cast(self.ballot.vote_on(told[0].id, label, "ana", "api", now), now).vote

    def alerts(self, host: str = "h1") -> list[Episode]:
        found = [e for e in self.store.episodes(rule=self.rule.id) if e.opened_at and dict(e.labels)["host"] == host]
        return sorted(found, key=lambda e: e.started_at)


def spikes(*heights: float) -> Block:
    """On h1 a spike of ten minutes at each full hour, each of its height."""
    block = recorded(minutes=60 * (len(heights) + 1))
    for i, height in enumerate(heights):
        block = change(block, 1, 60 * i + 30, 60 * i + 40, height)
    return block


def test_false_alarms_of_a_kind_are_not_told_again_and_a_far_worse_one_is() -> None:
    """After two votes the third spike of that size is quiet; one that is far beyond it pages."""
    life = Judged(spikes(15.5, 15.5, 15.5, 60.0))
    for hour in (0, 1):
        life.live(60 * hour, 60 * (hour + 1))
        life.vote(FeedbackLabel.FALSE, 60 * (hour + 1) - 1)
    assert len(life.alerts()) == 2
    life.live(120, 180)
    assert len(life.alerts()) == 2
    life.live(180, 240)
    assert len(life.alerts()) == 3
    quiet = Life(spikes(15.5, 15.5, 15.5, 60.0))
    quiet.live(0, 240)
    assert len([e for e in quiet.store.episodes(rule=RULE.id) if e.opened_at]) == 4


def test_a_vote_that_is_taken_back_has_done_nothing() -> None:
    """After undo the next spike is told as if nobody had voted."""
    life = Judged(spikes(15.5, 15.5, 15.5))
    votes = []
    for hour in (0, 1):
        life.live(60 * hour, 60 * (hour + 1))
        votes.append(life.vote(FeedbackLabel.FALSE, 60 * (hour + 1) - 1))
    for vote in votes:
        life.ballot.undo(vote.id, "ana", START + 120 * M)
    life.live(120, 180)
    assert len(life.alerts()) == 3


def test_a_new_normal_closes_the_alert_and_is_learned_from_its_beginning() -> None:
    """The next slot resolves it, the level is learned from there on, and it is not told again while it lasts."""
    block = change(recorded(minutes=600), 1, 60, 420, 30.0)
    noise = np.random.default_rng(5).normal(size=360)
    block.values[1, 12 * 60 + 60 : 12 * 60 + 420] += noise
    life = Judged(block)
    life.live(0, 70)
    assert [e.phase for e in life.alerts()] == [Phase.OPEN]
    life.vote(FeedbackLabel.NEW_NORMAL, 69)
    life.live(70, 72)
    assert [e.close for e in life.alerts()] == [Close.NEW_NORMAL]
    assert (70, Reason.RESOLVED) in life.told()
    life.live(72, 430)
    kinds = [int(o.verdicts.kind[1]) for o in life.store.scores(RULE.id, START + 75 * M, START + 420 * M)]
    assert kinds[-60:].count(Kind.OK) > 50
    assert len([e for e in life.alerts() if e.started_at < START + 420 * M]) == 1


def lasting(*spans: tuple[int, int, float]) -> Block:
    """On h1 a level so far above the usual one in each span of minutes."""
    block = recorded(minutes=260)
    for first, stop, height in spans:
        block = change(block, 1, first, stop, height)
    return block


@pytest.mark.parametrize("label", [FeedbackLabel.FALSE, FeedbackLabel.EXPECTED])
def test_an_open_alert_that_is_dismissed_closes_and_pages_no_more(label: FeedbackLabel) -> None:
    """The next slot says why it is closed; while the level lasts nothing opens; what comes after it does."""
    life = Judged(lasting((60, 120, 30.0), (180, 200, 300.0)), MILD)
    life.live(0, 70)
    assert [e.phase for e in life.alerts()] == [Phase.OPEN]
    life.vote(label, 69)
    life.live(70, 72)
    assert [e.close for e in life.alerts()] == [Close.DISMISSED]
    assert life.told()[-1] == (70, Reason.RESOLVED)
    (closed,) = [row for row in life.store.notifications() if row.notification.statement.reason == Reason.RESOLVED]
    assert closed.notification.statement.alerts[0].close == "dismissed"
    life.live(72, 120)
    assert len(life.alerts()) == 1
    seen = life.store.scores(RULE.id, START + 70 * M, START + 120 * M)
    assert {int(o.verdicts.kind[1]) for o in seen} == {Kind.OK}
    # What is expected at this hour has a higher cut besides; what is false by itself has no more than this.
    assert label == FeedbackLabel.EXPECTED or Why.DISMISSED in {int(o.verdicts.why[1]) for o in seen}
    life.live(120, 200)
    assert len(life.alerts()) == 2


def test_a_rules_raised_cut_holds_what_is_alone_and_not_a_crowd() -> None:
    """With the rule's cut raised, a spike on one host is held; the same spike on all hosts at once is told."""
    block = change(recorded(minutes=180), 1, 30, 40, 15.5)
    for row in range(3):
        block = change(block, row, 150, 160, 22.0)
    life = Judged(block)
    raised = ThresholdChange(RULE.id, START, (14.0,) * 3, "feedback", detail=write_detail(Detail(4.0)))
    life.store.save_threshold(raised)
    life.live(0, 170)
    assert [(e.started_at - START) // M for host in ("h0", "h1", "h2") for e in life.alerts(host)] == [151] * 3
    why = [int(o.verdicts.why[1]) for o in life.store.scores(RULE.id, START + 30 * M, START + 40 * M)]
    assert why[0] == Why.HELD


def test_an_emergency_is_not_dismissed_while_it_lasts() -> None:
    """A vote waits for its end: what is that surprising stays open and pages."""
    life = Judged(lasting((60, 120, 30.0)), replace(MILD, tiers=(TierPolicy(Tier.EMERGENCY, surprise=3.0),)))
    life.live(0, 70)
    life.vote(FeedbackLabel.FALSE, 69)
    life.live(70, 110)
    assert [e.phase for e in life.alerts()] == [Phase.OPEN]


def test_a_rule_may_keep_its_thresholds_whatever_is_voted() -> None:
    """With feedback off a third spike is told like the first two, and the vote says why it changed nothing."""
    life = Judged(spikes(15.5, 15.5, 15.5), replace(RULE, feedback=FeedbackTerms(enabled=False)))
    for hour in (0, 1):
        life.live(60 * hour, 60 * (hour + 1))
        life.vote(FeedbackLabel.FALSE, 60 * (hour + 1) - 1)
    life.live(120, 180)
    assert len(life.alerts()) == 3
    assert life.store.thresholds(RULE.id) == []
    told = life.ballot.vote_on(life.alerts()[0].id, FeedbackLabel.FALSE, "bob", "api", START + 180 * M)
    assert life.ballot.cast(told, START + 180 * M).effect.startswith("noted; the rule says")


def test_a_rule_may_ask_for_more_votes() -> None:
    """With a minimum of its own two votes move nothing yet."""
    life = Judged(spikes(15.5, 15.5, 15.5), replace(RULE, feedback=FeedbackTerms(min_votes=3)))
    for hour in (0, 1, 2):
        life.live(60 * hour, 60 * (hour + 1))
        life.vote(FeedbackLabel.FALSE, 60 * (hour + 1) - 1)
        assert bool(life.store.thresholds(RULE.id)) == (hour == 2)


def test_a_restarted_daemon_remembers_what_was_voted() -> None:
    """Cuts come from the store: a fresh process keeps the third spike quiet too."""
    life = Judged(spikes(15.5, 15.5, 15.5))
    for hour in (0, 1):
        life.live(60 * hour, 60 * (hour + 1))
        life.vote(FeedbackLabel.FALSE, 60 * (hour + 1) - 1)
    life.evaluator = life.born()
    life.live(120, 180)
    assert len(life.alerts()) == 2


def test_another_process_is_heard_within_a_minute_and_a_busy_store_changes_nothing() -> None:
    """Feedback is read again after a minute of slots; a database that does not answer leaves what was known."""
    life = Judged(spikes(15.5, 15.5))
    life.live(0, 120)
    first, second = life.alerts()
    for e in (first, second):
        vote = life.ballot.vote_on(e.id, FeedbackLabel.FALSE, "ben", "cli", START + 119 * M)
        Ballot(life.store, lambda: {RULE.id: RULE}, POLICY).cast(vote, START + 119 * M)
    before = life.heard(RULE, START + 119 * M)
    assert not before.moves_cuts
    after = life.heard(RULE, START + 120 * M)
    assert after.moves_cuts

    class Busy:
        def feedback_stamp(self) -> tuple[int, ...]:
            raise StoreBusy("locked", "somebody else writes")

    life.heard._store = Busy()  # type: ignore[assignment]
    assert life.heard(RULE, START + 12 * HOUR_MS) == after
