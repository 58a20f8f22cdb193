"""Annotation templates: what Prometheus users write works, what could do harm does not."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.rule import Rule
from anomalyd.template import MAX_OUTPUT, check_template, render_annotations
from fakes.statements import HOSTILE, an_alert

GOOD = [
    ("plain text", "plain text"),
    ("p99 in {{ $labels.region }} is {{ $value | humanizeDuration }}", "p99 in eu is 1.93s"),
    ("{{$labels.region}}/{{ $labels.nope }}/", "eu//"),
    ("{{ $labels['region'] | toUpper }}", "EU"),
    ('{{ $value | printf "%.1f" }} {{ printf "%.3f" $value }}', "1.9 1.930"),
    ("{{ $value }} {{ $expected }} {{ $lower }}..{{ $upper }}", "1.93 0.4 0.31..0.52"),
    ("{{ $tier }} {{ $rule }} {{ $labels.alertname }} {{ $labels.team }}", "critical P99 P99 payments"),
    ("{{ $value | humanizePercentage }} {{ 1234567 | humanize }} {{ 1048576 | humanize1024 }}", "193% 1.235M 1Mi"),
    ("{{ $startsAt | humanizeTimestamp }}", "2026-01-02 03:04:05 UTC"),
    ("{% if $value > 1 %}high{% else %}low{% endif %}", "high"),
    ("{{ ($value / $expected) | round(1) }}x", "4.8x"),
    ("100% of $5", "100% of $5"),
    ("{{ $labels.items }}{{ $labels.__class__ }}", ""),
]


def annotate(text: str, **labels: str) -> str:
    rule = Rule("P99", "g", "x", labels={"team": "payments"}, annotations={"a": text})
    alert = an_alert()
    return render_annotations(rule, replace(alert, labels=(*alert.labels, *labels.items())))["a"]


@pytest.mark.parametrize(("text", "out"), GOOD)
def test_good_templates(text: str, out: str) -> None:
    """Labels, values and Prometheus's own filters."""
    assert annotate(text) == out
    assert check_template(text) == ""


BAD = [
    "{{ $value", "{{ nope }}", "{{ $value | nope }}", "{% for x in $labels %}a{% endfor %}",
    "{% set x = 1 %}", "{% macro m() %}{% endmacro %}", "{% include 'x' %}", "{{ $labels.get('a') }}",
    "{{ range(10) }}", "{{ self }}", "{{ [1,2,3] }}", "{{ {'a': 1} }}", "{{ 10 ** 10 ** 10 }}", "{{ lipsum() }}",
    "{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "x" * 5_000 + "{{ $value }}",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_templates_are_found_at_load_and_still_send(text: str) -> None:
    """The check names the fault; at run time the same template gives a text instead of an exception."""
    assert check_template(text)
    assert annotate(text).startswith("<error in template: ")


HARM = [
    "{{ 'a' * 1000000000 }}", "{{ $value.__class__.__mro__ }}", "{{ ''.__class__ }}", "{{ '%1000000000d' % 5 }}",
    "{{ $value | printf('%1000000000.3f') }}", "{{ $value | round(1000000000) | humanize }}", "{{ 1 / 0 }}",
    "{{ ('a' ~ 'b') * 9 }}", "{{ 'x' | humanize }}", "{{ 9" + "9" * 4_000 + " * 9 }}",
]  # fmt: skip


@pytest.mark.parametrize("text", HARM, ids=range(len(HARM)))
def test_harmful_templates(text: str) -> None:
    """Nothing runs code, takes long or grows large; the alert is always sent."""
    began = time.perf_counter()
    out = annotate(text)
    assert time.perf_counter() - began < 1
    assert len(out) <= MAX_OUTPUT
    assert "class" not in out or "error in template" in out


def test_label_values_are_data() -> None:
    """What looks like a template inside a label value is text."""
    assert "{{ 7*7 }}" in annotate("{{ $labels.host }}", host=HOSTILE[:300])


def test_output_is_cut() -> None:
    """A long label repeated many times ends with an ellipsis."""
    out = annotate("{{ $labels.host }}" * 20, host="h" * 1_000)
    assert len(out) == MAX_OUTPUT
    assert out.endswith("…")


@given(st.text(max_size=200))
def test_any_template_gives_text(text: str) -> None:
    """No template whatsoever raises."""
    assert isinstance(annotate("{{" + text), str)
    assert isinstance(annotate(text), str)
