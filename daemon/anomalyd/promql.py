"""Checks PromQL offline: syntax, result type, and raw counters, each with the character where it goes wrong.

MetricsQL, the wider language of VictoriaMetrics, is not parsed: what is no PromQL is taken for it where the source
speaks it and brackets and quotes are closed, and whoever asks is told that only the server can check it.

The parser is promql-parser's. It is a native library whose recursion is not guarded, so the size of an expression is
bounded here before it is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import promql_parser

from anomalyd.yamlfile import did_you_mean

MAX_LENGTH = 10_000
MAX_OPERATORS = 200

_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`|#[^\n]*', re.DOTALL)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_OPERATOR = re.compile(r"[-+*/%^(<>=]|\b(?:and|or|unless)\b", re.IGNORECASE)

_COUNTER_FUNCTIONS = frozenset(
    ("rate", "irate", "increase", "resets", "changes", "delta", "idelta", "timestamp", "absent", "absent_over_time",
     "count_over_time", "present_over_time", "ts_of_last_over_time")
)  # fmt: skip
_COUNTING_AGGREGATIONS = frozenset({"count", "group", "count_values"})
_FUNCTIONS = (
    "abs", "absent", "absent_over_time", "avg_over_time", "ceil", "changes", "clamp", "clamp_max", "clamp_min",
    "count_over_time", "day_of_month", "day_of_week", "day_of_year", "days_in_month", "delta", "deriv", "exp", "floor",
    "histogram_avg", "histogram_count", "histogram_fraction", "histogram_quantile", "histogram_sum", "holt_winters",
    "hour", "idelta", "increase", "irate", "label_join", "label_replace", "last_over_time", "ln", "log10", "log2",
    "mad_over_time", "max_over_time", "min_over_time", "minute", "month", "predict_linear", "present_over_time",
    "quantile_over_time", "rate", "resets", "round", "scalar", "sgn", "sort", "sort_desc", "sqrt", "stddev_over_time",
    "stdvar_over_time", "sum_over_time", "time", "timestamp", "vector", "year",
)  # fmt: skip


_METRICSQL = frozenset(
    ("aggr_over_time", "alias", "ascent_over_time", "count_eq_over_time", "count_gt_over_time", "count_le_over_time",
     "default_rollup", "descent_over_time", "distinct_over_time", "first_over_time", "geomean_over_time",
     "histogram_over_time", "increase_pure", "increases_over_time", "integrate", "interpolate", "keep_last_value",
     "label_set", "label_value", "lag", "lifetime", "median_over_time", "mode_over_time", "outlier_iqr_over_time",
     "prometheus_buckets", "quantiles_over_time", "range_over_time", "rate_over_sum", "rollup", "rollup_candlestick",
     "rollup_delta", "rollup_increase", "rollup_rate", "running_avg", "running_max", "running_sum",
     "share_gt_over_time", "share_le_over_time", "smooth_exponential", "sum2_over_time", "tmax_over_time",
     "tmin_over_time", "union", "zscore_over_time")
)  # fmt: skip
"""Functions of MetricsQL that people use, for a better hint."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with an expression, and the character (from 0) where."""

    message: str
    hint: str = ""
    offset: int = 0


def is_metricsql(text: str) -> bool:
    """Whether an expression is no PromQL and may yet be MetricsQL: its brackets, braces and quotes are closed."""
    skeleton = _QUOTED.sub(lambda m: " " * len(m[0]), text)
    if not text.strip() or len(text) > MAX_LENGTH or len(_OPERATOR.findall(skeleton)) > MAX_OPERATORS:
        return False
    try:
        promql_parser.parse(text)
    except ValueError:
        return _closed(skeleton)
    return False


def _closed(skeleton: str) -> bool:
    """Whether every bracket has its partner, and no quote is left."""
    expected: list[str] = []
    for char in skeleton:
        if char in _BRACKETS:
            expected.append(_BRACKETS[char])
        elif char in _BRACKETS.values() and (not expected or expected.pop() != char):
            return False
    return not expected and not set(skeleton) & set("\"'`")


def check_expr(text: str, *, raw_counter: bool = False) -> Finding | None:
    """Return what keeps an expression from being watched, or None.

    It must parse, give an instant vector or a scalar, and must not watch a counter itself (``raw_counter`` allows it):
    a counter only climbs, so nothing can be said of its level.
    """
    skeleton = _QUOTED.sub(lambda m: " " * len(m[0]), text)
    if len(text) > MAX_LENGTH or len(_OPERATOR.findall(skeleton)) > MAX_OPERATORS:
        return Finding("expression is too long", f"at most {MAX_LENGTH:,} characters and {MAX_OPERATORS} operators")
    try:
        tree = promql_parser.parse(text)
    except ValueError as error:
        return _syntax(text, skeleton, str(error))
    kind = result_type(tree)
    if kind == "matrix":
        return Finding(
            "expression gives a range vector; a rule needs an instant vector",
            "wrap it, for example rate(...[5m]) or avg_over_time(...[5m])",
        )
    if kind == "string":
        return Finding("expression gives a string; a rule needs numbers")
    counter = None if raw_counter else _raw_counter(tree)
    if counter is not None:
        return Finding(
            f"{counter} is a counter, and a counter only climbs",
            f"watch rate({counter}[5m]) or increase({counter}[1h]); if it is a gauge, say raw_counter: true",
            max(text.find(counter), 0),
        )
    return None


def reach_ms(text: str) -> int:
    """How far before a time an expression looks through its ranges and subqueries; 0 where that cannot be told."""
    try:
        return _reach(promql_parser.parse(text))
    except ValueError:
        return 0


def _reach(tree: Any) -> int:
    span = getattr(tree, "range", None)
    own = round(span.total_seconds() * 1000) if span is not None else 0
    below = [getattr(tree, name, None) for name in ("expr", "lhs", "rhs", "param", "vector_selector")]
    below += getattr(tree, "args", None) or ()
    return own + max((_reach(one) for one in below if one is not None), default=0)


def result_type(tree: Any) -> Literal["vector", "scalar", "matrix", "string"]:
    """The type of a parsed expression's result."""
    match type(tree).__name__:
        case "ParenExpr" | "UnaryExpr":
            return result_type(tree.expr)
        case "MatrixSelector" | "SubqueryExpr":
            return "matrix"
        case "StringLiteral":
            return "string"
        case "NumberLiteral":
            return "scalar"
        case "Call":
            return "scalar" if tree.func.return_type == promql_parser.ValueType.Scalar else "vector"
        case "BinaryExpr":
            both = {result_type(tree.lhs), result_type(tree.rhs)}
            return "scalar" if both == {"scalar"} else "vector"
        case _:
            return "vector"


_KEEPING = frozenset(
    ("abs", "ceil", "clamp", "clamp_max", "clamp_min", "exp", "floor", "histogram_quantile", "ln", "log10", "log2",
     "round", "sgn", "sqrt")
)  # fmt: skip
_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})


def kept_labels(text: str) -> frozenset[str] | None:
    """The labels that the series of an expression can have; None where an aggregation does not say so."""
    try:
        return _kept(promql_parser.parse(text))
    except ValueError:
        return None


def _kept(tree: Any) -> frozenset[str] | None:
    match type(tree).__name__:
        case "ParenExpr" | "UnaryExpr":
            return _kept(tree.expr)
        case "AggregateExpr" if str(tree.op) not in ("topk", "bottomk", "count_values", "limitk", "limit_ratio"):
            by = tree.modifier
            if by is not None and by.type == promql_parser.AggModifierType.Without:
                return None
            return frozenset(by.labels if by is not None else ())
        case "Call" if tree.func.name in _KEEPING:
            inner = next((_kept(one) for one in tree.args if result_type(one) == "vector"), None)
            return inner - {"le"} if inner is not None and tree.func.name == "histogram_quantile" else inner
        case "BinaryExpr" if tree.modifier is None and str(tree.op) != "or":
            sides = [_kept(one) for one in (tree.lhs, tree.rhs) if result_type(one) == "vector"]
            return sides[0] if sides else None
        case _:
            return None


def cuts_off(text: str) -> str:
    """The comparison by which an expression leaves out samples on their value; empty without one."""
    try:
        tree: Any = promql_parser.parse(text)
    except ValueError:
        return ""
    while type(tree).__name__ == "ParenExpr":
        tree = tree.expr
    if type(tree).__name__ != "BinaryExpr" or str(tree.op) not in _COMPARISONS or result_type(tree.rhs) != "scalar":
        return ""
    return "" if tree.modifier is not None and tree.modifier.return_bool else str(tree.op)


def _raw_counter(tree: Any) -> str | None:
    """The name of the first counter (``*_total``) whose level itself reaches the result."""
    name = type(tree).__name__
    if name == "VectorSelector":
        return _counter_name(tree)
    if name == "MatrixSelector":
        return _counter_name(tree.vector_selector)
    if name == "Call":
        return None if tree.func.name in _COUNTER_FUNCTIONS else _first(*tree.args)
    if name == "AggregateExpr":
        return None if str(tree.op) in _COUNTING_AGGREGATIONS else _first(tree.expr)
    if name == "BinaryExpr":
        # `x - x offset 5m` is an increase written by hand; `and`/`unless` only filter by their right side.
        left, right = _raw_counter(tree.lhs), _raw_counter(tree.rhs)
        if str(tree.op) == "-" and left == right:
            return None
        return left if str(tree.op) in ("and", "unless") else left or right
    return _first(tree.expr) if hasattr(tree, "expr") else None


def _first(*trees: Any) -> str | None:
    return next((found for tree in trees if (found := _raw_counter(tree))), None)


def _counter_name(selector: Any) -> str | None:
    equal = promql_parser.MatchOp.Equal
    exact = [m.value for m in selector.matchers.matchers if m.name == "__name__" and m.op == equal]
    name = selector.name or (exact[0] if exact else "")
    return name if name.endswith("_total") else None


def _syntax(text: str, skeleton: str, message: str) -> Finding:
    """Find the place of a parser message; the parser names the thing and not where it is."""
    hint = ""
    if message == "no expression found in input":
        return Finding("expression is empty")
    if match := re.match(r"unknown function with name '(\w+)'", message):
        hint = did_you_mean(match[1], _FUNCTIONS)
        hint = hint if hint.startswith("did") else ""
        if match[1] in _METRICSQL:
            hint = "that is MetricsQL: the source must be of kind: victoriametrics"
    elif "$__" in text:
        hint = "Grafana's variables are not known here; write a duration such as [5m]"
    elif "expected type matrix" in message:
        hint = "add a range such as [5m]"
    return Finding(f"PromQL: {message}", hint, _offset(text, skeleton, message))


def _offset(text: str, skeleton: str, message: str) -> int:
    if "end of input" in message:
        return len(text.rstrip())
    if "left parenthesis" in message or "right parenthesis" in message:
        return _unbalanced(skeleton)
    for token in re.findall(r"'([^']+)'|: (\S+)$|for (\S+)$", message):
        found = text.find(next(part for part in token if part))
        if found >= 0:
            return found
    return 0


def _unbalanced(skeleton: str) -> int:
    """The parenthesis without a partner."""
    open_at: list[int] = []
    for i, char in enumerate(skeleton):
        if char == "(":
            open_at.append(i)
        elif char == ")":
            if not open_at:
                return i
            open_at.pop()
    return open_at[-1] if open_at else 0
