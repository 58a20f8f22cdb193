"""What a person reads: titles, the reason in words, hostile text made harmless."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.incident import Reason
from anomalyd.render import Chart, clean, clock_time, cut, label_text, number, render, rfc3339, safe_url, span
from anomalyd.score import Tier
from fakes.statements import HOSTILE, MINUTE, START, a_statement, an_alert, hostile_statement


def test_says_it_in_three_lines() -> None:
    """Title: how bad, what, where. Sentence: value against band, tier, since when. Then links."""
    rendered = render(a_statement(), START)
    assert rendered.text == (
        "[CRITICAL] CheckoutLatencyP99: eu\n"
        "p99 in eu is 1.93s\n"
        "CheckoutLatencyP99 eu is 1.93, expected 0.31 to 0.52 (critical, since 03:04 UTC)\n"
        "Runbook: https://runbook.example/p99\n"
        "Episode: https://anomalyd.example/episodes/ep-eu"
    )


TITLES = [
    (a_statement(Reason.NEW, Tier.EMERGENCY), "[EMERGENCY] CheckoutLatencyP99: eu"),
    (a_statement(Reason.WORSE, Tier.EMERGENCY), "[WORSE, NOW EMERGENCY] CheckoutLatencyP99: eu"),
    (a_statement(Reason.MORE, total=12), "[CRITICAL, MORE SERIES] CheckoutLatencyP99: eu (12 series)"),
    (a_statement(Reason.REPEAT), "[STILL CRITICAL] CheckoutLatencyP99: eu"),
    (a_statement(Reason.RESOLVED), "[RESOLVED] CheckoutLatencyP99: eu"),
    (a_statement(Reason.TEST), "[TEST] CheckoutLatencyP99: eu"),
    (a_statement(group_labels=()), "[CRITICAL] CheckoutLatencyP99: eu"),
    (a_statement(group_labels=(), total=3), "[CRITICAL] CheckoutLatencyP99 (3 series)"),
]


@pytest.mark.parametrize(("statement", "title"), TITLES, ids=[t for _, t in TITLES])
def test_titles(statement: object, title: str) -> None:
    """The first line for each reason."""
    assert render(statement, START).title == title  # type: ignore[arg-type]


SENTENCES = [
    (an_alert(why="absent", value=None, lower=None, upper=None, expected=None), "has stopped reporting (critical"),
    (an_alert(why="out_of_range", value=-1.0), "is -1, expected 0.31 to 0.52, outside its valid range (critical"),
    (an_alert(lower=None, upper=None), "is 1.93, expected 0.4 (critical"),
    (an_alert(lower=None, upper=None, expected=None), "is 1.93 (critical"),
    (an_alert(why="source", value=None, lower=None, upper=None, expected=None), "does not answer (critical"),
]  # fmt: skip


@pytest.mark.parametrize(("alert", "said"), SENTENCES, ids=[said for _, said in SENTENCES])
def test_sentences(alert: object, said: str) -> None:
    """The reason in words for each kind of abnormal."""
    assert said in render(a_statement(alerts=(alert,)), START).sentence


CLOSED = [
    ("recovered", "is back to normal after 30m: 0.41, expected 0.31 to 0.52"),
    ("ended", "has stopped reporting after 30m"),
    ("new_level", "counts as normal now after 30m"),
    ("rule_removed", "its rule was removed after 30m"),
    ("new_normal", "was called the new normal by an analyst after 30m"),
]


@pytest.mark.parametrize(("close", "said"), CLOSED)
def test_why_it_ended(close: str, said: str) -> None:
    """The end says why it is one."""
    statement = a_statement(Reason.RESOLVED)
    statement = replace(statement, alerts=(replace(statement.alerts[0], close=close),))
    assert render(statement, START).sentence.endswith(said)


def test_many_series_are_listed_and_counted() -> None:
    """The five most surprising by name, the rest as a number."""
    alerts = tuple(an_alert(f"r{i}") for i in range(50))
    rendered = render(a_statement(alerts=alerts, total=1_000, group_labels=()), START)
    assert len(rendered.lines) == 5
    assert rendered.lines[0].startswith("region=r0 is 1.93, expected 0.31 to 0.52")
    assert "…and 995 more" in rendered.text


def test_fields() -> None:
    """The short facts, in the order of reading."""
    assert render(a_statement(), START).fields == (
        ("Value", "1.93"), ("Expected", "0.31 to 0.52"), ("Since", "03:04 UTC (0s)"),
        ("Why", "seen once in 158.5k samples when all is well (score 1.7)"),
    )  # fmt: skip


def test_hostile_text_is_harmless() -> None:
    """No control character, terminal code, direction mark or bad link survives, and everything is short."""
    rendered = render(hostile_statement(), START, chart=lambda s: Chart())
    assert len(rendered.title) <= 140
    assert "\n" not in rendered.title + rendered.summary + rendered.sentence
    for text in (rendered.text, *rendered.lines, *(v for _, v in rendered.fields)):
        assert not set(text) & set("\x1b\x00\r\u202e\x07")
        text.encode()
    assert [link.text for link in rendered.links] == ["Good"]
    assert len(rendered.text) < 10_000


@given(st.text(st.characters(codec=None, exclude_categories=())), st.integers(2, 300))
def test_clean_is_safe_for_any_text(text: str, limit: int) -> None:
    """Whatever comes in, what goes out is short, one line, encodable and without invisible characters."""
    out = clean(text, limit)
    assert len(out) <= limit
    out.encode()
    assert not any(c in out for c in "\n\r\x00\x1b\u202e\u2066\u200b\x9b\x85")
    assert clean(out, limit) == out


def test_clean_keeps_what_people_write() -> None:
    """Ordinary text in any script stays as it is."""
    for text in ("p99 > 0.5 s & rising", "Überlauf", "延迟", "🔥 hot", "a\tb", "ערך"):
        assert clean(text, 100) == text
    assert clean("a\r\nb\nc", 100, lines=True) == "a\nb\nc"
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07done", 100) == "red done"
    assert len(clean(HOSTILE, 256)) == 256


NUMBERS = [
    (None, "unknown"), (math.nan, "unknown"), (0.0, "0"), (0.31271, "0.3127"), (1.0, "1"), (1234.0, "1234"),
    (1_234_567.0, "1.235M"), (-1_234_567.0, "-1.235M"), (1.2e-7, "1.2e-07"), (math.inf, "+Inf"), (1e300, "1e+276Y"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_numbers(value: float | None, text: str) -> None:
    """Four significant digits, large values with a prefix."""
    assert number(value) == text


def test_times() -> None:
    """UTC throughout; a date where it is another day; far years do not crash."""
    assert clock_time(START, START + MINUTE) == "03:04 UTC"
    assert clock_time(START, START + 24 * 60 * MINUTE) == "2026-01-02 03:04 UTC"
    assert rfc3339(START) == "2026-01-02T03:04:05.000Z"
    assert rfc3339(2**62).startswith("9999-12-31")
    assert rfc3339(-5) == "1970-01-01T00:00:00.000Z"
    assert [span(m * MINUTE) for m in (0, 5, 65, 60, 1_440, 1_501)] == ["0s", "5m", "1h 5m", "1h", "1d", "1d 1h"]


def test_safe_urls() -> None:
    """Only plain http and https addresses become links."""
    assert safe_url("https://a.example/x?y=1#z")
    for bad in ("javascript:alert(1)", "//x", "https://a b", "https://a\nb", "data:text/html,x", 'https://a"x', ""):
        assert not safe_url(bad)


def test_cut_and_labels() -> None:
    """Cutting leaves an ellipsis; labels read as pairs without the metric's name."""
    assert cut("abcdef", 4) == "abc…"
    assert label_text((("__name__", "m"), ("a", "1"), ("b", "x\ny"))) == "a=1, b=x y"
