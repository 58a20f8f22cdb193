"""Measures on a rule's past: what was replayed and what was stored, with labels, with votes, and beside the dummy."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from anomalyd.ballot import Ballot, cuts_now
from anomalyd.block import Block, fingerprint
from anomalyd.errors import ConfigError
from anomalyd.feedback.cuts import FeedbackPolicy
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.rule import DetectorSpec
from anomalyd.store import Store
from anomalyd.workbench.appraise import (
    appraise,
    appraise_alarms,
    appraise_dummy,
    curve,
    histogram,
    likeness,
    look_at,
    look_at_dummy,
    stored,
)
from anomalyd.workbench.backtest import Backtest, backtest
from anomalyd.workbench.report.figures import Alarm, Span, alarms_above
from anomalyd.workbench.truth import Truth, labelled, read_rows, said
from life import RULE, START, Life, M, change, hosts, recorded

END = 399
PLANTED = ((0, 60, 70), (1, 150, 165), (2, 300, 310))
"""Rows and minutes of the planted anomalies."""


def planted_block() -> Block:
    block = recorded(minutes=END + 1)
    for row, first, stop in PLANTED:
        block = change(block, row, first, stop, 30.0)
    return block


@cache
def replayed() -> Backtest:
    """Three series with one anomaly each, replayed once for all tests."""
    return backtest(RULE, planted_block(), START, START + END * M)


def spans(which: tuple[int, ...] = (0, 1, 2)) -> tuple[Span, ...]:
    return tuple(Span(START + PLANTED[i][1] * M, START + (PLANTED[i][2] - 1) * M, hosts(3)[i]) for i in which)


def test_a_rule_that_finds_what_was_planted() -> None:
    """All anomalies are found soon, the measures are near 1, and the dummy is nowhere near."""
    test, truth = replayed(), Truth(spans())
    own, dummy = appraise(test, truth), appraise_dummy(test, truth)
    assert (own.events, own.found, own.recall) == (3, 3, 1.0)
    assert own.precision >= 0.5
    assert own.delay_ms <= 3 * M
    assert min(own.average_precision, own.roc_auc, own.precision_at_k, own.vus_pr) > 0.9
    assert own.k == 35
    assert own.vus_width == 10
    assert dummy.alerts == own.alerts
    assert dummy.average_precision < 0.1 > abs(dummy.roc_auc - 0.5)
    assert dummy.f1 < 0.5 < own.f1
    assert own.alerts_per_week == pytest.approx(own.alerts * 7 * 1440 / (END + 1))


def test_votes_leave_what_nobody_judged_unknown() -> None:
    """With votes only judged alerts count for precision, and samples in unjudged alerts are left out."""
    test = replayed()
    whole = appraise(test, Truth(spans((0,)), complete=True))
    votes = appraise(test, Truth(spans((0,)), spans((1,)), complete=False))
    assert whole.precision == pytest.approx(1 / whole.alerts)
    assert votes.precision == pytest.approx(1 / 2)
    assert votes.unjudged == votes.alerts - 2
    assert votes.average_precision > whole.average_precision


def test_a_labelled_sample_without_a_score_is_missed() -> None:
    """A rule that was blind during an anomaly is not excused: those samples count as its lowest."""
    test = replayed()
    surprise = test.tape.surprise.copy()
    surprise[0, 60:70] = np.nan
    blind = replace(test, tape=replace(test.tape, surprise=surprise))
    assert appraise(blind, Truth(spans())).average_precision < appraise(test, Truth(spans())).average_precision - 0.2


def test_scores_speak_by_themselves() -> None:
    """Planted anomalies stand out without labels; random scores flag as many samples and do not stand out."""
    own, dummy = look_at(replayed()), look_at_dummy(replayed())
    assert own.flagged == dummy.flagged >= 35
    assert own.separation > 0.5 > dummy.separation
    assert own.silhouette > 0.3 > dummy.silhouette
    assert own.bimodality > 0.7 > dummy.bimodality
    assert own.scored == 3 * (END + 1)


def test_likeness_of_versions() -> None:
    """A rule is like itself, much like a near relative, and unlike one that flags nothing."""
    test = replayed()
    same = likeness("same", test, test)
    assert same.correlation == pytest.approx(1.0)
    assert same.overlap == 1.0
    other = backtest(replace(RULE, detector=DetectorSpec("zscore")), planted_block(), START, START + END * M)
    near = likeness("zscore", test, other)
    assert 0.5 < near.correlation < 1
    assert 0.3 < near.overlap <= 1
    assert likeness("mute", test, replace(test, cut=math.inf)).overlap == 0.0


def test_what_is_stored_measures_as_what_is_replayed() -> None:
    """The daemon's stored scores give the measures of a replay of the same slots."""
    life = Life(planted_block())
    life.live(0, END + 1)
    test = stored(life.store, RULE, START, START + END * M)
    assert test is not None
    one, other = appraise(test, Truth(spans())), appraise(replayed(), Truth(spans()))
    assert one.vus_pr == pytest.approx(other.vus_pr, abs=0.02)
    assert (one.found, one.alerts) == (other.found, other.alerts)
    assert stored(life.store, RULE, START + 9_999 * M, START + 10_050 * M) is None


def test_what_was_raised_and_what_would_be_now_are_told_apart() -> None:
    """What an expected vote covers is out of what would be now, and out of nothing that was; others are not."""
    life, now = Life(planted_block()), START + (END + 1) * M
    life.live(0, END + 1)
    ballot = Ballot(life.store, lambda: {RULE.id: RULE}, FeedbackPolicy())
    told = {e.labels: e for e in life.store.episodes(rule=RULE.id) if e.peak_value > 25}
    for labels, word in ((hosts(3)[0], FeedbackLabel.FALSE), (hosts(3)[1], FeedbackLabel.EXPECTED)):
        ballot.cast(ballot.vote_on(told[labels].id, word, "ann", "cli", now), now)
    test = stored(life.store, RULE, START, START + END * M)
    assert test is not None
    series, hits = [fingerprint(labels) for labels in test.labels], test.hits
    cuts = cuts_now(life.store, RULE, series, (hits.row, hits.at, hits.surprise), now, FeedbackPolicy())
    assert (cuts[hits.row == 2] == test.cut).all()
    assert (cuts[hits.row == 0] > test.cut).all()
    assert not (cuts[hits.row == 1] > test.cut).all(), "an exception holds at its hour alone"
    raised = {a.labels for a in alarms_above(test, cuts)}
    assert raised == {hosts(3)[0], hosts(3)[2]}, "one word does not silence what is far above the cut"
    truth = Truth(spans())
    was, would_be = appraise(test, truth), appraise_alarms(test, truth, alarms_above(test, cuts))
    assert (was.found, would_be.found) == (3, 2)
    assert was.vus_pr == would_be.vus_pr


def test_plots_have_points() -> None:
    """The curve ends at full recall, and the histogram holds every scored sample."""
    test = replayed()
    points = curve(test, Truth(spans()))
    assert points[-1][0] == 1.0
    assert points[0][1] == 1.0
    counts, edges = histogram(test.tape.surprise, test.cut)
    assert counts.sum() == look_at(test).scored
    assert len(edges) == len(counts) + 1
    assert curve(test, Truth(())) == []


# Truth ---------------------------------------------------------------------------------------------------------------


def table(folder: Path, text: str) -> Path:
    path = folder / "spans.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_from_a_file(tmp_path: Path) -> None:
    """Rule, matchers and label columns choose; what is of another rule, series or time is left out."""
    start, end = START // 1000, START // 1000 + 600
    path = table(tmp_path, "rule,series,host,start,end\n"
                 f'Load,"host=~""h[01]""",,{start},{end}\n'
                 f"g/Load,,h2,{start},{end}\n"
                 f"Other,,h2,{start},{end}\n"
                 f",,h9,{start},{end}\n"
                 f",,h1,1000,2000\n")  # fmt: skip
    rows = read_rows(path)
    truth = labelled(rows, RULE, hosts(3), START, START + END * M)
    assert [[span.holds(labels) for labels in hosts(3)] for span in truth.real] == [
        [True, True, False], [False, False, True],
    ]  # fmt: skip
    assert truth.complete


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rule,from,to\n", "must name the columns start and end"),
        ("start,end\n5,x\n", ":2:1: 'x' is not a time"),
        ("start,end\n20,10\n", "ends before it starts"),
        ('series,start,end\n"host=~""(a+)+""",1,2\n', "repeats a repeat"),
        ("start,end\n1,2,3\n", "more cells"),
    ],
)
def test_bad_labels_are_told_with_their_line(tmp_path: Path, text: str, says: str) -> None:
    """Each mistake in the file is named with its line."""
    with pytest.raises(ConfigError, match=says):
        read_rows(table(tmp_path, text))


def vote(id: str, label: FeedbackLabel, episode: str = "", **more: object) -> Feedback:
    fields = {"rule": RULE.id, "at": START, "who": "ann", "via": "cli", "episode": episode, **more}
    return Feedback(id, label, **fields)  # type: ignore[arg-type]


def judged_store() -> Store:
    """A store in which one alert was called real, one false, and a span was missed."""
    life = Life(planted_block())
    life.live(0, 200)
    first, second = sorted(
        (e for e in life.store.episodes(rule=RULE.id) if e.peak_value > 25), key=lambda e: e.started_at
    )
    life.store.add_feedback(vote("v1", FeedbackLabel.TRUE, first.id))
    life.store.add_feedback(vote("v2", FeedbackLabel.EXPECTED, second.id))
    missed = {"fingerprint": fingerprint(hosts(3)[2]), "start": START + 100 * M, "end": START + 110 * M}
    life.store.add_feedback(vote("v3", FeedbackLabel.MISSED, **missed))
    return life.store


def test_labels_from_votes() -> None:
    """True and missed are anomalies, expected is refuted, and all the rest is unknown."""
    truth = said(judged_store(), RULE, FeedbackPolicy(), START, START + END * M)
    assert [dict(span.labels)["host"] for span in truth.real] == ["h0", "h2"]
    assert [dict(span.labels)["host"] for span in truth.refuted] == ["h1"]
    assert not truth.complete
    elsewhere = Alarm(hosts(3)[0], START + 120 * M, START + 125 * M)
    assert not truth.known(elsewhere, M)
    assert truth.known(replace(elsewhere, opened_at=START + 61 * M), M)
