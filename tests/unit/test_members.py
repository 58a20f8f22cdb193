"""What is said of an ensemble's members and of a group's series: by evaluate, by explain, on the page of an alert."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.cli.evaluate import compare, members_of
from anomalyd.cli.evaluateview import Judged, as_json, likeness_rows
from anomalyd.cli.explain import as_json as explained_json
from anomalyd.cli.explain import print_explanation
from anomalyd.clock import DAY_MS
from anomalyd.episode import Episode, Phase
from anomalyd.explain import Explanation, Said, explain
from anomalyd.feedback.alike import Alike
from anomalyd.incident import Channel
from anomalyd.recorded import RecordedSource
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.replay import Finding, Replay
from anomalyd.rule import DetectorSpec
from anomalyd.score import Tier
from anomalyd.workbench.appraise import appraise, appraise_dummy, look_at, look_at_dummy
from anomalyd.workbench.backtest import backtest
from anomalyd.workbench.report.figures import Span
from anomalyd.workbench.truth import Truth
from life import RULE, START, Life, M, change, recorded

ENSEMBLE = replace(RULE, detector=DetectorSpec("ensemble", {"members": [
    {"type": "mad", "params": {"window": "4h"}, "weight": 3.0}, {"type": "ewma"},
]}))  # fmt: skip


def block() -> Block:
    return change(recorded(n=2, minutes=150), 1, 60, 90, 40.0)


def an_alert(life: Life) -> Episode:
    return next(e for e in life.store.episodes(rule=life.rule.id) if e.opened_at)


def test_members_of_an_ensemble() -> None:
    """Those it names with their parameters, or its own where it names none; no other detector has any."""
    assert [m.type for m in members_of(ENSEMBLE.detector)] == ["mad", "ewma"]
    assert [m.type for m in members_of(DetectorSpec("ensemble"))] == ["rls", "seasonal", "knn"]
    assert members_of(DetectorSpec("mad")) == ()


def test_evaluate_measures_each_member_by_itself() -> None:
    """Each member lives through the span alone; with labels its own F1 and VUS-PR stand beside it."""
    rule = replace(ENSEMBLE, tiers=RULE.tiers[:1])
    test = backtest(rule, block(), START, START + 140 * M)
    span = Span(START + 60 * M, START + 90 * M, (("__name__", "load"), ("host", "h1")))
    truth = Truth((span,), origin="a file")
    labels = appraise(test, truth), appraise_dummy(test, truth)
    one = Judged(test, truth, True, labels, (look_at(test), look_at_dummy(test)))
    done = compare(one, (), lambda: True)
    assert [x.name for x in done.likenesses] == ["member mad, window 4h", "member ewma", "seed 1", "seed 2"]
    assert done.likenesses[0].f1 == 1.0
    assert all(0 < x.vus_pr <= 1 for x in done.likenesses)
    assert all(len(row) == 6 for row in likeness_rows(done))
    assert as_json(done)["versions"][0]["f1"] == 1.0
    without = compare(replace(one, labels=None), (), lambda: True)
    assert np.isnan(without.likenesses[0].f1)


def test_explain_says_what_each_member_said() -> None:
    """The weighted mean of what the members said at the worst is the alert's surprise."""
    life = Life(block(), ENSEMBLE)
    life.live(0, 110)
    episode = an_alert(life)
    found = explain(episode, ENSEMBLE, life.store, RecordedSource({"load": block()}), START)
    assert found.replayed.finding == Finding.EQUAL
    assert [(m.name, m.weight) for m in found.members] == [("mad (window 4h)", 3.0), ("ewma", 1.0)]
    said = [m.surprise for m in found.members]
    assert (3 * said[0] + said[1]) / 4 == pytest.approx(episode.peak_surprise, rel=1e-4)
    assert found.channels == ()
    assert found.alike is None
    earlier = replace(episode, id="earlier", started_at=episode.started_at - DAY_MS, incident="before")
    life.store.save_episodes([earlier])
    life.store.add_feedback(Feedback("v", FeedbackLabel.TRUE, RULE.id, START, "anna", "cli", "earlier"))
    again = explain(episode, ENSEMBLE, life.store, RecordedSource({"load": block()}), START)
    assert again.alike is not None
    assert again.alike.words.startswith("one like it was called real (")


def test_explain_without_a_rule_says_why_it_cannot() -> None:
    """A rule that is gone leaves nothing to compute with; the cause is said."""
    life = Life(block(), ENSEMBLE)
    life.live(0, 110)
    found = explain(an_alert(life), None, life.store, RecordedSource({"load": block()}), START)
    assert (found.replayed.finding, found.members) == (Finding.IMPOSSIBLE, ())
    assert "not in the rules files any more" in found.replayed.causes[0]


def explanation() -> Explanation:
    episode = Episode(
        "e1", "g/R", "f" * 16, make_labels({"host": "a"}), Phase.CLOSED, Tier.WARNING, START, START, peak_at=START,
        peak_value=9.0, peak_expected=4.0, peak_surprise=4.5,
    )  # fmt: skip
    return Explanation(episode, START, (), (), (), Replay(episode, Finding.EQUAL))


def test_an_explanation_for_people_and_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    """Members in a table, the model in words, series by how far they are; in JSON a silent member is null."""
    members = (Said("mad", 1.0, 6.25), Said("knn (joint True)", 2.0, float("nan")))
    channels = (Channel(make_labels({"__name__": "load1", "host": "a"}), 42.0, 3.0, 13.04),)
    like = Alike(4, FeedbackLabel.FALSE, 3, START, "anna")
    models = ("the net runs: it is better",)
    full = replace(explanation(), members=members, models=models, channels=channels, alike=like)
    print_explanation(full)
    out = capsys.readouterr().out
    assert "g/R  {host=a}  at its worst" in out
    assert "6.25" in out
    assert "could not say" in out
    assert "model: the net runs: it is better" in out
    assert "  load1 is 42, usually 3 (13 usual deviations away)" in out
    row = json.loads(json.dumps(explained_json(full)))
    assert row["members"][1] == {"name": "knn (joint True)", "weight": 2.0, "surprise": None}
    assert row["channels"][0]["away"] == 13.04
    assert f"votes: {like.words}\n" in out
    assert row["alike"] == {"judged": 4, "label": "false", "count": 3, "at": START, "who": "anna", "words": like.words}


def test_an_explanation_of_what_has_no_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """One model on one series cannot be taken apart, and scores that come out otherwise are warned of."""
    print_explanation(explanation())
    out = capsys.readouterr().out
    assert ": 9, expected 4; surprise 4.5\n" in out
    assert "no parts to tell by name" in out
    result = replace(explanation().replayed, finding=Finding.DIFFERENT, causes=("the source is new",))
    print_explanation(replace(explanation(), replayed=result))
    assert "  the source is new" in capsys.readouterr().out
