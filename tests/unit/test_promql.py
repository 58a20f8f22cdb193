"""Expressions: what can be watched, and where in the text it goes wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.promql import MAX_OPERATORS, check_expr, cuts_off, is_metricsql, kept_labels, reach_ms

GOOD = [
    "up", "sum by (job) (rate(http_requests_total[5m]))", "time()", "vector(1)", "a > 3", "count(x_total)",
    "x_total - x_total offset 5m", "changes(x_total[1h])", "max_over_time(rate(x_total[5m])[1h:])", "up and x_total",
    "group by (v) (build_info_total)", "scalar(up)", 'histogram_quantile(0.9, sum by (le) (rate(x_bucket[5m])))',
    "absent(x_total)", "# comment (\nup",
]  # fmt: skip


@pytest.mark.parametrize("expr", GOOD)
def test_what_can_be_watched(expr: str) -> None:
    """Instant vectors and scalars that are no raw counters."""
    assert check_expr(expr) is None


@pytest.mark.parametrize(
    ("expr", "message", "offset"),
    [
        ("sum(rate(foo[5m]))) by", "unexpected right parenthesis", 18),
        ("foo{a=b}", "expected string", 6),
        ('foo{a="b"', "end of input inside braces", 9),
        ("rate(foo[5x])", "bad number or duration", 9),
        ("", "expression is empty", 0),
        ("histogram_quantle(0.9,x)", "unknown function", 0),
        ("sum(a", "unclosed left parenthesis", 3),
        ('sum(a{b="("}', "unclosed left parenthesis", 3),
        ('a{x=~"("}', "illegal regex", 6),
        ("a[5m]", "range vector", 0),
        ("(a[5m:1m])", "range vector", 0),
        ('"x"', "gives a string", 0),
        ("sum(x_total)", "x_total is a counter", 4),
        ("max_over_time(x_total[5m])", "x_total is a counter", 14),
        ('{__name__="x_total"}', "x_total is a counter", 11),
        ("rate(y_total[5m]) / x_total", "x_total is a counter", 20),
        ("x_total - y_total", "x_total is a counter", 0),
    ],
)  # fmt: skip
def test_what_cannot_be_watched(expr: str, message: str, offset: int) -> None:
    """The message says why, the offset where."""
    finding = check_expr(expr)
    assert finding is not None
    assert message in finding.message
    assert finding.offset == offset


def test_hints() -> None:
    """A misspelt function, a missing range, a variable of Grafana's and a counter come with what to write instead."""
    for expr, hint in (
        ("histogram_quantle(0.9,x)", "did you mean 'histogram_quantile'?"),
        ("rate(x)", "add a range such as [5m]"),
        ("rate(x[$__rate_interval])", "Grafana's variables"),
        ("x_total", "watch rate(x_total[5m])"),
    ):
        finding = check_expr(expr)
        assert finding is not None
        assert hint in finding.hint


def test_a_raw_counter_may_be_asked_for() -> None:
    """Some gauges end in _total."""
    assert check_expr("x_total", raw_counter=True) is None


@pytest.mark.parametrize("expr", ["(" * 50_000, "-" * 50_000 + "a", "a" + "+a" * (MAX_OPERATORS + 1), "a" * 20_000])
def test_an_expression_too_deep_for_the_parser_is_refused(expr: str) -> None:
    """The native parser would end the process on these (a stack overflow); they never reach it."""
    finding = check_expr(expr)
    assert finding is not None
    assert "too long" in finding.message


SOUP = st.lists(
    st.sampled_from(
        ["sum", "(", ")", "{", "}", "[5m]", "a", "_total", '"', "'", "by", ",", "=~", "+", " ", "rate", "é", "1", "#"]
    ),
    max_size=20,
).map("".join)  # fmt: skip


@given(SOUP | st.text(max_size=40))
def test_no_expression_gives_a_traceback(expr: str) -> None:
    """Whatever it is, the answer is None or a finding inside the text."""
    finding = check_expr(expr)
    assert finding is None or 0 <= finding.offset <= len(expr)


@pytest.mark.parametrize(
    ("expr", "minutes"),
    [
        ("up", 0),
        ("rate(a[5m])", 5),
        ("sum by (x) (rate(a[5m]) / ignoring (y) rate(b[10m]))", 10),
        ("max_over_time(rate(a[5m])[30m:1m])", 35),
        ("histogram_quantile(0.9, sum by (le) (rate(a_bucket[1h])))", 60),
        ("no promql(", 0),
    ],
)
def test_how_far_an_expression_looks_back(expr: str, minutes: int) -> None:
    """The longest way through its ranges."""
    assert reach_ms(expr) == minutes * 60_000


@pytest.mark.parametrize(
    ("expr", "wider"),
    [
        ("median_over_time(load[5m])", True),
        ('WITH (x = rate(a{b="c"}[5m])) sum(x) keep_metric_names', True),
        ("rate(a)", True),
        ("rate(a[5m])", False),
        ("median_over_time(load[5m]", False),
        ("median_over_time(load)[5m])", False),
        ('label_set(a, "b, "c")', False),
        ("", False),
    ],
)
def test_what_may_be_metricsql(expr: str, wider: bool) -> None:
    """What is PromQL is checked as that; what is open at the end is nobody's language."""
    assert is_metricsql(expr) is wider


def test_a_function_of_metricsql_is_named_as_that() -> None:
    """To a Prometheus it is an unknown function, and the remedy is another source."""
    found = check_expr("median_over_time(load[5m])")
    assert found is not None
    assert "kind: victoriametrics" in found.hint


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ("sum by (a, b) (x)", {"a", "b"}), ("(sum(x))", set()), ("-avg by (a) (x)", {"a"}),
        ("histogram_quantile(0.9, sum by (le, a) (rate(x_bucket[5m])))", {"a"}),
        ("100 * sum by (a) (x)", {"a"}), ("sum by (a) (x) / sum by (a) (y)", {"a"}),
        ("sum by (a) (x) / on (a) group_left (b) y", None), ("topk by (a) (3, x)", None), ("topk(3, x)", None),
        ('count_values("v", x)', None), ("sum without (a) (x)", None), ("x", None), ("rate(x[5m])", None),
        ('label_replace(sum by (a) (x), "b", "$1", "a", "(.*)")', None), ("sum by (a) (x) or y", None), ("(", None),
    ],
)  # fmt: skip
def test_labels_that_series_can_have_are_known_where_an_aggregation_says_so(expr: str, labels: set[str] | None) -> None:
    """And nowhere else: whatever may add a label makes it unknown."""
    assert kept_labels(expr) == labels


@pytest.mark.parametrize(
    ("expr", "sign"),
    [("x > 5", ">"), ("(x != 0)", "!="), ("x > bool 5", ""), ("x > y", ""), ("sum(x > 5)", ""), ("(", "")],
)
def test_a_comparison_with_a_number_that_leaves_out_samples_is_seen(expr: str, sign: str) -> None:
    """At the top of the expression only: within an aggregation it chooses what is counted."""
    assert cuts_off(expr) == sign
