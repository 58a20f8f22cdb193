"""Backtest and its figures: what was lived through, budgets, dummy, labels, another version, and the page."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS
from anomalyd.errors import ConfigError, QueryRejected
from anomalyd.recorded import RecordedReply, RecordedSource
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.ticks import round_numbers, time_ticks
from anomalyd.workbench.backtest import Backtest, backtest, grid_span, read_history
from anomalyd.workbench.htmlreport import Judged, render_report
from anomalyd.workbench.report.figures import (
    Alarm,
    Span,
    alarms,
    alarms_above,
    alarms_of,
    budget_lines,
    compare,
    dummy_alarms,
    read_spans,
    score,
    series_lines,
    week_counts,
)
from anomalyd.workbench.report.svg import short

STEP = 5 * MINUTE_MS
START = 1_760_054_400_000
END = START + DAY_MS - STEP
HOSTILE = "<script>alert(1)</script>"
RULE = Rule(
    "Load", "g", "load", detector=DetectorSpec("mad", {"window": "12h"}), interval_ms=STEP, history_ms=DAY_MS,
    query_delay_ms=0, for_ms=STEP, keep_firing_for_ms=2 * STEP, suppress_ms=2 * HOUR_MS,
    tiers=(TierPolicy(Tier.WARNING, surprise=2.6), TierPolicy(Tier.CRITICAL, surprise=5)),
    annotations={"summary": "load of {{ $labels.host }}"},
)  # fmt: skip


def series() -> Block:
    """A host with two spikes an hour apart, one with an outage, and one that is only noisy."""
    times = np.arange(START - DAY_MS - STEP, END + 1, STEP, dtype=np.int64)
    rng = np.random.default_rng(3)
    values = 20 + rng.normal(size=(3, len(times)))
    live = int(np.searchsorted(times, START))
    values[0, live + 40 : live + 44] += 30
    values[0, live + 56 : live + 60] += 30
    values[1, live + 150 : live + 200] = 1 + rng.normal(size=50) / 50  # not stuck: that would be told by itself
    labels = tuple(make_labels({"host": name}) for name in (HOSTILE, "b", "c"))
    return Block(labels, times, values)


@pytest.fixture(scope="module")
def lived() -> Backtest:
    block = series()
    return backtest(RULE, block, START, END)


def test_what_was_planted_is_found_and_told(lived: Backtest) -> None:
    """Three episodes at their times; of two spikes within `suppress` the second is held back."""
    spans = [(dict(e.labels)["host"][0], (e.opened_at - START) // STEP) for e in lived.episodes]
    assert spans == [("<", 41), ("<", 57), ("b", 151)]
    reasons = [(s.reason, (s.at - START) // STEP) for s in lived.sent]
    assert reasons == [("new", 41), ("resolved", 46), ("new", 151), ("resolved", 202)]
    assert sum(lived.held.values()) >= 1
    assert lived.kinds["ok"] + lived.kinds["anomalous"] == 3 * 288


def test_a_shadow_rule_without_receivers_is_lived_through_as_well() -> None:
    """Mode and receivers do not matter: what would have been told is the question."""
    found = backtest(replace(RULE, mode="shadow", receivers=()), series(), START, END)
    assert len(found.sent) == 4
    assert found.rule.mode == "shadow"


def test_history_is_read_in_chunks_on_one_grid() -> None:
    """However long the span, chunks join without a gap, series may come and go, and warnings are kept."""
    times = np.arange(START - DAY_MS - STEP, START + 30 * DAY_MS, STEP, dtype=np.int64)
    values = np.arange(2 * len(times), dtype=np.float64).reshape(2, -1)
    values[1, : len(times) // 2] = np.nan
    block = Block((make_labels({"host": "a"}), make_labels({"host": "b"})), times, values)
    asked: list[tuple[int, int]] = []

    class Chunked(RecordedSource):
        def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> RecordedReply:
            asked.append((start_ms, end_ms))
            return replace(super().range(expr, start_ms, end_ms, step_ms), warnings=("slow",))

    start, end = grid_span(RULE, START + 1, START + 20 * DAY_MS - 1)
    assert (start, end) == (START + STEP, START + 20 * DAY_MS - STEP)
    done: list[int] = []
    history = read_history(Chunked({"load": block}), RULE, start, end, lambda n, _: done.append(n))
    assert len(asked) > 1
    assert done[-1] == history.block.values.shape[1]
    assert history.warnings == ("slow",)
    np.testing.assert_array_equal(np.diff(history.block.times), STEP)
    np.testing.assert_array_equal(history.block.values, block.values[:, 1 : 1 + len(history.block.times)])


def test_a_span_without_series_is_refused() -> None:
    """The error names the rule and what is wrong."""
    empty = Block((), np.arange(START - DAY_MS, END, STEP, dtype=np.int64), np.zeros((0, 2 * 288 - 1)))
    with pytest.raises(QueryRejected, match="g/Load: the expression gives no series"):
        backtest(RULE, empty, START, END)


def test_counts_by_week_series_and_budget(lived: Backtest) -> None:
    """Tables add up to the episodes, and a smaller budget never pages more."""
    assert sum(sum(counts.values()) for _, counts in week_counts(lived)) == 3
    lines = series_lines(lived)
    assert [line.episodes for line in lines] == [2, 1, 0]
    assert sum(sum(line.tiers) for line in lines) == 3
    budgets = budget_lines(lived)
    assert [b.name for b in budgets] == ["1 per day", "1 per week", "1 per month", "1 per quarter"]
    assert sorted((b.episodes for b in budgets), reverse=True) == [b.episodes for b in budgets]
    assert budgets[0].episodes >= 3


def test_alarms_follow_for_and_keep_firing_for() -> None:
    """Single samples open nothing under a `for`; a gap within keep_firing_for does not split; series stay apart."""
    rows = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    times = START + STEP * np.array([1, 5, 6, 8, 20, 21, 6, 7])
    labels = [make_labels({"host": "a"}), make_labels({"host": "b"})]
    found = alarms(RULE, rows, times, labels)
    assert [(dict(a.labels)["host"], (a.opened_at - START) // STEP, (a.closed_at - START) // STEP) for a in found] == [
        ("a", 6, 11), ("b", 7, 10), ("a", 21, 24),
    ]  # fmt: skip


def test_what_is_no_news_goes_on_with_an_alarm_and_makes_none() -> None:
    """Of two stretches above the cut the one without news is no alarm; with news in its middle it begins there."""
    rows, times = np.zeros(8, np.int64), START + STEP * np.array([1, 2, 3, 20, 21, 22, 23, 24])
    news = np.array([True, False, False, False, False, True, False, False])
    found = alarms(replace(RULE, for_ms=0), rows, times, [make_labels({"host": "a"})], news)
    assert [(a.opened_at - START) // STEP for a in found] == [1, 22]
    assert not alarms(RULE, rows, times, [make_labels({"host": "a"})], np.zeros(8, np.bool_))


def test_budgets_count_what_would_be_told(lived: Backtest) -> None:
    """The rule's own cut gives its own episodes; samples above a budget's cut that are no news page nobody."""
    own = alarms_above(lived, np.full(len(lived.hits.at), lived.cut))
    assert [(a.labels, a.opened_at) for a in own] == [(e.labels, e.opened_at) for e in lived.episodes]
    stale = replace(lived.hits, opens=np.full_like(lived.hits.surprise, np.nan))
    assert {line.episodes for line in budget_lines(replace(lived, hits=stale))} == {0}


def test_the_dummy_has_no_sense_of_direction_but_the_rules(lived: Backtest) -> None:
    """Three standard deviations find the spikes and the outage; with direction up only the spikes."""
    hosts = {dict(a.labels)["host"] for a in dummy_alarms(lived)}
    assert {HOSTILE, "b"} <= hosts
    up = replace(lived, rule=replace(lived.rule, direction="up"))
    assert "b" not in {dict(a.labels)["host"] for a in dummy_alarms(up)}


def test_scores_against_labels() -> None:
    """Precision counts episodes, recall counts spans, delay is the middle one; other series' spans do not match."""
    a, b = make_labels({"host": "a"}), make_labels({"host": "b"})
    spans = [Span(100, 200, a), Span(500, 600), Span(5000, 6000)]
    found = score([Alarm(a, 120, 130), Alarm(a, 150, 160), Alarm(b, 150, 160), Alarm(b, 610, 700)], spans, 0, 1000, 20)
    assert (found.spans, found.found, found.episodes, found.right, found.delay_ms) == (2, 2, 4, 3, 65)
    assert (found.precision, found.recall) == (0.75, 1.0)
    nothing = score([], [], 0, 1000, 20)
    assert (nothing.precision, nothing.recall, nothing.delay_ms) == (None, None, None)


@pytest.mark.parametrize(("text", "problem"), [
    ("from,to\n1,2\n", "must name the columns start and end"),
    ("start,end\nyesterday,2\n", "'yesterday' is not a time"),
    ("start,end\n200,100\n", "ends before it starts"),
    ("start,end\nnan,100\n", "'nan' is not a time"),
    ("start,end\n1,\n", "'' is not a time"),
])  # fmt: skip
def test_labels_that_cannot_be_used_are_refused_with_their_line(tmp_path: Path, text: str, problem: str) -> None:
    """Every mistake names file, line and cause."""
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as error:
        read_spans(path)
    assert str(path) in str(error.value)


def test_labels_are_read_in_all_forms_of_time(tmp_path: Path) -> None:
    """RFC 3339 with and without a zone, seconds and milliseconds; empty cells match every series."""
    path = tmp_path / "labels.csv"
    path.write_text("start,end,host\n2025-10-10T00:00:00Z,2025-10-10T01:00:00,a\n1760054400,1760054400000,\n")
    assert read_spans(path) == [
        Span(START, START + HOUR_MS, make_labels({"host": "a"})), Span(START, START),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="cannot be read"):
        read_spans(tmp_path / "none.csv")


def test_another_version_gains_and_loses(lived: Backtest) -> None:
    """A deaf version loses the outage, which counts as confirmed where a label lies on it; the same one nothing."""
    deaf = replace(lived, episodes=lived.episodes[:2])
    span = Span(lived.episodes[2].started_at, lived.episodes[2].closed_at, lived.episodes[2].labels)
    change = compare(deaf, lived, [span])
    assert (change.both, len(change.gained), len(change.lost), len(change.lost_confirmed)) == (2, 0, 1, 1)
    back = compare(lived, deaf, [span])
    assert (len(back.gained), len(back.lost_confirmed)) == (1, 0)
    same = compare(lived, lived, [span])
    assert (same.gained, same.lost) == ((), ())


def test_the_page_needs_nothing_and_escapes_labels(lived: Backtest) -> None:
    """No address is fetched, hostile label values stay text, every number in a drawing is finite."""
    spans = (Span(START, START + HOUR_MS),)
    scored = score(alarms_of(lived.episodes, END), spans, START, END, STEP)
    page = render_report([Judged(lived, compare(lived, lived), scored, scored, spans, 1.0, 0.5)])
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=|url\(|@import", page)
    for points in re.findall(r'points="([^"]*)"', page):
        assert all(math.isfinite(float(number)) for number in re.split("[ ,]", points))
    assert page.count('class="card"') >= 8


def test_a_page_of_a_quiet_rule() -> None:
    """A backtest in which nothing happened, of a series that is constant and mostly absent, still draws."""
    block = series().take([2])
    block.values[0, 10:] = np.nan
    block.values[0, -20:] = 7.0
    quiet = backtest(replace(RULE, detector=DetectorSpec("ewma")), block, START, END)
    page = render_report([Judged(quiet)])
    assert "nan" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)
    assert "The loudest episodes" not in page


def test_axes_are_round() -> None:
    """Ticks lie on round numbers and times, and numbers are short."""
    assert round_numbers(0.3, 9.7) == [2, 4, 6, 8]
    assert [short(v) for v in (0, 1500, 2.5e6, 0.03, -4e9)] == ["0", "1.5k", "2.5M", "0.03", "-4G"]
    assert [t.text for t in time_ticks(START, START + 2 * DAY_MS)] == ["10 Oct", "12:00", "11 Oct", "12:00", "12 Oct"]
    assert [t.text for t in time_ticks(START, START + 5 * DAY_MS)][:2] == ["10 Oct", "11 Oct"]
    assert [t.text for t in time_ticks(START, START + HOUR_MS)][:2] == ["10 Oct", "00:10"]
