"""Votes to cuts, as pure functions: what moves, how far, what never does, and what is learned from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.episode import Close, Phase
from anomalyd.feedback.belief import LEAST_TRUST, trust
from anomalyd.feedback.cuts import (
    EMERGENCY_FACTOR,
    Detail,
    FeedbackPolicy,
    Judged,
    Moved,
    RuleFeedback,
    apply,
    believe,
    factors,
    faded,
    moved_cuts,
    moved_of,
    preview,
    read_detail,
    steps,
    training_gaps,
    write_detail,
)
from anomalyd.feedback.recurring import recurring
from anomalyd.feedback.votes import began_alone, counted, judgements, labels_of, voter
from anomalyd.records import Feedback, FeedbackLabel, ThresholdChange
from anomalyd.threshold import NEVER
from console_kit import NOW, episode, vote

POLICY = FeedbackPolicy(min_votes=2)
BASE = (3.5, 5.0, 9.0)
TRUE, FALSE = FeedbackLabel.TRUE, FeedbackLabel.FALSE


def judged(score: float, real: float, name: str = "s", incident: str = "", missed: bool = False) -> Judged:
    return Judged(name, score, real, NOW, missed=missed, incident=incident or f"{name}{score}{real}")


def asked(*votes: Judged) -> float:
    return factors(votes, POLICY).get("s", (1.0, 0))[0]


def test_false_alarms_raise_the_cut_above_them() -> None:
    """Three false alarms at a score of 1.5 move the cut beyond it; one alone moves nothing."""
    assert asked(*[judged(1.5, 0)] * 3) > 1.5
    assert asked(judged(1.5, 0)) == 1.0


def test_a_real_alarm_among_them_holds_the_cut_below_it() -> None:
    """Real alarms at a score of 3 keep the cut under 3 however many false ones there are at 1.5."""
    moved = asked(*[judged(1.5, 0)] * 20, *[judged(3.0, 1)] * 3)
    assert 1.5 < moved < 3.0


def test_real_alarms_alone_change_nothing() -> None:
    """Confirming alerts neither raises nor lowers the cut."""
    assert asked(*[judged(1.2, 1)] * 10) == 1.0


def test_a_missed_span_lowers_the_cut_within_its_bounds() -> None:
    """One missed span below the cut lowers it; many never below the configured share."""
    assert asked(judged(0.7, 1, missed=True)) < 1.0
    assert asked(*[judged(0.2, 1, missed=True)] * 50) >= POLICY.min_factor


def test_a_tenth_of_wrong_votes_changes_little() -> None:
    """One wrong vote in ten leaves the cut above the false alarms."""
    assert asked(*[judged(1.5, 0)] * 9, judged(1.5, 1)) > 1.4


@given(
    st.lists(st.tuples(st.floats(0.05, 50), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=20),
    st.floats(0.5, 20),
)
@settings(max_examples=60, deadline=None)
def test_one_more_false_alarm_never_lowers_and_the_bounds_hold(votes: list[tuple[float, float]], score: float) -> None:
    """Law: a further false vote never lowers the factor, and a factor is always within the policy."""
    before = [judged(s, r) for s, r in votes]
    after = [*before, judged(score, 0.0)]
    low, high = believe(before, 0, 1, POLICY).mean, believe(after, 0, 1, POLICY).mean
    assert high >= low - 1e-9
    assert all(1.0 <= factor <= POLICY.max_factor for factor, _ in factors(after, POLICY).values())


@given(st.floats(0.5, 6), st.floats(1, 8), st.floats(0, 4), st.floats(0, 4))
@settings(max_examples=200, deadline=None)
def test_moved_cuts_stay_in_order_and_an_emergency_still_pages(
    factor: float, warning: float, more: float, most: float
) -> None:
    """Law: cuts rise with the tiers, and neither the emergency's cut nor any other passes it by more than a tenth."""
    base = (warning, warning + more, warning + more + most)
    cuts = moved_cuts(base, factor, POLICY)
    assert cuts[0] <= cuts[1] + 1e-9
    assert cuts[1] <= cuts[2] + 1e-9
    assert cuts[2] <= base[2] * EMERGENCY_FACTOR + 1e-9
    assert min(cuts) >= min(POLICY.floor, warning) - 1e-9


def test_a_raise_belongs_to_the_lowest_tier() -> None:
    """A raise that stays below the critical cut leaves that cut alone; what the rule has not stays away."""
    assert moved_cuts(BASE, 1.2, POLICY) == pytest.approx((4.2, 5.0, 9.9))
    assert moved_cuts((3.5, NEVER, NEVER), 2.0, POLICY) == (7.0, NEVER, NEVER)


def test_a_flood_of_votes_by_one_person_has_a_limit() -> None:
    """Fault 94: beyond the daily limit a person's votes do not count, one episode counts once, others' still count."""
    policy = replace(POLICY, votes_per_person_per_day=5)
    flood = [vote(episode(f"e{i}"), FALSE, "mallory", at=NOW + i) for i in range(100)]
    assert len(counted(flood, policy)) == 5
    again = [vote(episode("e"), label, "mallory", at=NOW + i) for i, label in enumerate([FALSE] * 3 + [TRUE])]
    assert [v.label for v in counted(again, policy)] == [TRUE]
    assert len(counted([*flood, vote(episode("x"), TRUE, "ana", at=NOW + 500)], policy)) == 6


def test_a_name_typed_on_a_link_is_no_other_person() -> None:
    """Fault 94: names in front of a link's receiver all share its limit."""
    votes = [vote(episode("e"), FALSE, f"name{i}@slack", at=NOW + i, via="link") for i in range(9)]
    assert len({voter(v) for v in votes}) == 1
    assert len(counted(votes, POLICY)) == 1


def test_votes_taken_back_were_never_given() -> None:
    """An undone vote counts for nothing."""
    gone = replace(vote(episode("e"), FALSE), undone_at=NOW)
    assert counted([gone], POLICY) == []


def test_a_day_moves_a_cut_by_a_bounded_factor() -> None:
    """Fault 94: however much is asked for, a day moves a cut so far at most, and undoing buys no second step."""
    policy = replace(POLICY, max_factor_per_day=2.0)
    history: list[ThresholdChange] = []
    asked_for = {"s": (6.0, 99)}
    factor = 1.0
    for hour in range(48):
        now = NOW + hour * HOUR_MS
        for name, (_, after) in steps(asked_for, history, now, policy).items():
            undone = now + 1 if hour == 3 else 0
            detail = write_detail(Detail(after))
            history.append(ThresholdChange("r", now, BASE, "feedback", name, detail=detail, undone_at=undone))
            factor = max(factor, after)
        limit = policy.max_factor_per_day ** (2 if hour >= 24 else 1)
        assert factor <= limit * 1.01, hour
    assert factor > 3


def test_a_moved_cut_fades() -> None:
    """After a half-life the cut has gone half of the way back, in proportion; the rule's own is never passed."""
    moved = Moved(4.0, NOW)
    assert faded(moved, NOW + POLICY.half_life_ms, POLICY) == pytest.approx(2.0)
    assert faded(moved, NOW + 100 * POLICY.half_life_ms, POLICY) == pytest.approx(1.0, abs=0.01)


def test_a_series_follows_its_rule_until_it_has_votes() -> None:
    """Votes on several series of several incidents move the series nobody voted on; one incident alone does not."""
    several = [judged(1.6, 0, name, f"{name}{i}") for name in ("a", "b", "c") for i in range(2)]
    assert factors(several, POLICY)[""][0] > 1.01
    one_incident = [judged(1.6, 0, name, "same") for name in ("a", "b", "c")]
    assert "" not in factors(one_incident, POLICY)


def test_what_was_abnormal_together_says_nothing_of_the_others() -> None:
    """Votes on alerts that came with others move their own series alone; a crowd is not held to the rule's cut."""
    several = [judged(1.6, 0, name, f"{name}{i}") for name in ("a", "b", "c") for i in range(2)]
    crowd = [replace(one, alone=False) for one in several]
    assert "" not in factors(crowd, POLICY)
    assert factors(crowd, POLICY)["a"] == factors(several, POLICY)["a"]
    feedback, base = RuleFeedback({"": Moved(1.2, NOW), "a": Moved(2.0, NOW)}), np.tile(BASE, (2, 1))
    assert apply(feedback, base, ["a", "b"], NOW, POLICY, False)[:, 0] == pytest.approx([7.0, 3.5])


def test_who_began_alone() -> None:
    """Of episodes within ten minutes two series are alone and three are not; what was never told does not count."""
    pair = [episode("a", region="a"), episode("b", region="b", started=NOW - HOUR_MS + 8 * MINUTE_MS)]
    third = episode("c", region="c", started=NOW - HOUR_MS + 9 * MINUTE_MS)
    later = episode("d", region="d")
    assert began_alone(pair) == {"a", "b"}
    assert began_alone([*pair, third]) == set()
    assert began_alone([*pair, replace(third, opened_at=0)]) == {"a", "b"}
    assert "d" in began_alone([*pair, third, replace(later, started_at=NOW + HOUR_MS)])


def test_one_vote_is_not_believed_everything() -> None:
    """A single "false" on an alert far above the cut leaves the cut below it; said again and again it is believed."""
    policy = replace(POLICY, min_votes=1)
    once = factors([judged(5.0, 0)], policy)["s"][0]
    often = factors([judged(5.0, 0)] * 4, policy)["s"][0]
    assert once < 2.5 < 4.9 < often
    assert factors([judged(1.2, 0)], policy)["s"][0] > 1.2


def test_cuts_are_applied_by_series_and_time() -> None:
    """A moved series, one that follows the rule, and nothing before the vote."""
    feedback = RuleFeedback({"": Moved(1.2, NOW), "a": Moved(2.0, NOW)})
    base = np.tile(BASE, (2, 1))
    now = apply(feedback, base, ["a", "b"], NOW, POLICY)
    assert now[:, 0] == pytest.approx([7.0, 4.2])
    assert (apply(feedback, base, ["a", "b"], NOW - 1, POLICY) == base).all()


def test_people_who_disagree_are_heard_both() -> None:
    """The label of an episode is what most say; its judgement is their share."""
    e = episode("e", surprise=7.0)
    votes = [vote(e, FALSE, "a"), vote(e, FALSE, "b"), vote(e, TRUE, "c")]
    assert labels_of(votes) == {"e": FALSE}
    (one,) = judgements(counted(votes, POLICY), {"e": e}, {}, 3.5, NOW, POLICY, ())
    assert (one.real, one.score, one.weight) == (pytest.approx(1 / 3, abs=0.02), pytest.approx(2.0), pytest.approx(1.0))


def test_who_is_contradicted_weighs_less() -> None:
    """Fault 94: of a voter whom two others contradict time and again the word weighs little; theirs hardly less."""
    found = trust([{"ana": True, "ben": True, "mallory": False}] * 40)
    assert found["mallory"] == LEAST_TRUST
    assert found["ana"] == found["ben"] > 0.6
    assert trust([{"ana": True}] * 30) == {"ana": 1.0}
    agreeing = trust([{"ana": True, "ben": True}] * 5)
    assert agreeing == {"ana": 1.0, "ben": 1.0}
    alone = [vote(episode(f"a{i}", started=NOW - i * HOUR_MS), FALSE, "mallory", at=NOW + i) for i in range(3)]
    words = (("ana", TRUE), ("ben", TRUE), ("mallory", FALSE))
    both = [vote(episode("x"), label, who, at=NOW + 9) for who, label in words]
    known = {v.episode: episode(v.episode) for v in [*alone, *both]}
    weights = {round(one.weight, 2) for one in judgements([*alone, *both], known, {}, 3.5, NOW, POLICY, ())}
    assert weights == {0.91, 1.0}, "alone it weighs as little as it is trusted, together never more than one vote"


def test_expected_makes_a_weekly_exception_in_the_rules_time_zone() -> None:
    """A vote on a Monday 13:00 (Madrid) holds the next Monday, also across the change of clocks, and no other day."""
    e = episode("e", started=NOW - HOUR_MS, surprise=5.0)
    (one,) = recurring([vote(e, FeedbackLabel.EXPECTED)], {"e": e}, 3.5, "Europe/Madrid", 6.0, POLICY.half_life_ms)
    assert one.words == "Mondays 12:30 to 13:50 Europe/Madrid"
    week = 7 * DAY_MS
    assert one.interval.holds(e.started_at + week)
    assert not one.interval.holds(e.started_at + DAY_MS)
    winter = e.started_at + 6 * week
    assert one.interval.holds(winter + HOUR_MS)  # clocks went back an hour
    feedback = RuleFeedback(recurring=(one,))
    base = np.array([BASE])
    lifted = apply(feedback, base, [e.fingerprint], e.started_at + week, POLICY)
    assert lifted[0, 0] > 5.0
    assert lifted[0, 2] <= 9.9 + 1e-9
    assert apply(feedback, base, ["other"], e.started_at + week, POLICY)[0, 0] == 3.5


def test_exceptions_become_daily_and_cover_no_more_than_a_quarter_of_the_week() -> None:
    """Three weekdays at one time make it daily; a flood of exceptions stops at a quarter of the week (fault 94)."""
    days = {f"d{i}": episode(f"d{i}", started=NOW - i * DAY_MS) for i in range(3)}
    votes = [vote(e, FeedbackLabel.EXPECTED, at=NOW + i) for i, e in enumerate(days.values())]
    found = recurring(votes, days, 3.5, "UTC", 6.0, POLICY.half_life_ms)
    assert [one.words.startswith("every day") for one in found] == [True]
    hours = {f"h{i}": episode(f"h{i}", started=NOW - i * 5 * HOUR_MS, minutes=180) for i in range(40)}
    flood = [vote(e, FeedbackLabel.EXPECTED, at=NOW + i) for i, e in enumerate(hours.values())]
    many = recurring(flood, hours, 3.5, "UTC", 6.0, POLICY.half_life_ms)
    assert sum(one.minutes for one in many) <= 7 * 1440 / 4
    endless = {"x": episode("x", minutes=24 * 60)}
    assert recurring([vote(endless["x"], FeedbackLabel.EXPECTED)], endless, 3.5, "UTC", 6.0, DAY_MS) == ()


def test_what_was_called_real_is_not_learned_and_what_was_called_false_is() -> None:
    """Spans that stay out of training, label by label."""
    plain = episode("plain", region="a")
    level = replace(episode("level", region="b"), close=Close.NEW_LEVEL)
    fresh = replace(episode("fresh", region="c"), close=Close.NEW_NORMAL)
    quiet = replace(episode("quiet", region="d"), opened_at=0)
    all_of_them = [plain, level, fresh, quiet]

    def gaps(labels: dict[str, FeedbackLabel], learn_all: bool = False) -> set[tuple[str, int, int]]:
        missed = (("m", 5, 9),)
        found = training_gaps(RuleFeedback(labels=labels, missed=missed), all_of_them, 0, NOW, frozenset(), learn_all)
        return set(found)

    span = (plain.fingerprint, plain.started_at, plain.closed_at)
    renewed = (fresh.fingerprint, 0, fresh.started_at)
    assert gaps({}) == {span, renewed, ("m", 5, 10)}
    assert gaps({"plain": FALSE}) == {renewed, ("m", 5, 10)}
    assert gaps({"plain": FeedbackLabel.EXPECTED}) == {renewed, ("m", 5, 10)}
    real = (level.fingerprint, level.started_at, level.closed_at)
    assert gaps({"level": TRUE}) == {span, renewed, real, ("m", 5, 10)}
    assert gaps({}, learn_all=True) == {renewed}


def test_an_open_episode_is_left_out_only_while_it_is_live() -> None:
    """An episode that the store has open and that is over by now does not hide history without end."""
    running = replace(episode("run", live=True), phase=Phase.OPEN)
    assert training_gaps(RuleFeedback(), [running], 0, NOW, frozenset(), False) == []
    (gap,) = training_gaps(RuleFeedback(), [running], 0, NOW, frozenset({"run"}), False)
    assert gap == (running.fingerprint, running.started_at, NOW + 1)


def test_preview_counts_what_would_have_been_spared() -> None:
    """Of the last 30 days: removed, kept, and whether a confirmed one is among the removed."""
    past = [episode(f"e{i}", surprise=4.0 + i) for i in range(4)] + [episode("old", started=NOW - 40 * DAY_MS)]
    after = RuleFeedback({past[0].fingerprint: Moved(1.6, NOW)}, labels={"e1": TRUE})
    found = preview(after, past, BASE, NOW, POLICY)
    assert (found.removed, found.kept, found.confirmed) == (2, 2, 1)
    assert found.words == "would have removed 2 alerts and 1 confirmed in 30 days"
    assert preview(RuleFeedback(), past, BASE, NOW, POLICY).words == "would have changed nothing in 30 days"


def test_details_survive_the_store_and_foreign_text() -> None:
    """The row of a change gives back what was written; anything else is taken for a reason."""
    detail = Detail(1.5, (3.5, NEVER, NEVER), "2 false")
    row = ThresholdChange("r", NOW, BASE, "feedback", detail=write_detail(detail))
    assert read_detail(row) == detail
    for text in ("by hand", "{}", "[1]", "null", '{"factor": "x", "before": [], "why": ""}'):
        assert read_detail(replace(row, detail=text)) == Detail(why=text)
    assert moved_of([row, replace(row, detail="by hand", fingerprint="b")]) == {"": Moved(1.5, NOW)}


def test_hostile_numbers_say_nothing() -> None:
    """An episode without a finite surprise and a missed span without scores are no judgement."""
    e = replace(episode("e"), peak_surprise=math.nan)
    missed = Feedback("m", FeedbackLabel.MISSED, e.rule, NOW, "a", "api", fingerprint="s", start=1, end=2)
    assert judgements([vote(e, FALSE), missed], {"e": e}, {"m": math.nan}, 3.5, NOW, POLICY, ()) == []
