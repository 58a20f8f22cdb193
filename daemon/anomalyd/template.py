"""Annotation templates as in a Prometheus alerting rule: ``{{ $labels.region }}``, ``{{ $value | humanizeDuration }}``.

Invariant: a template can neither run code, nor take long, nor grow large. It is an expression language without loops,
assignments, attributes or calls, the operators that multiply text are refused, and what comes out is cut. Values of
labels are data and are never compiled. A template that fails gives a text that says so: the alert is still sent.

``$name`` is rewritten to a name that Jinja knows; Go's ``printf "%.2f" $value`` and ``$value | printf "%.2f"`` too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from anomalyd.incident import Alert
from anomalyd.rule import Rule

MAX_TEMPLATE = 4_096
MAX_OUTPUT = 8_192

_EXPRESSION = re.compile(r"(\{\{|\{%)(.*?)(\}\}|%\})", re.DOTALL)
_DOLLAR = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_PIPED_PRINTF = re.compile(r"\|\s*printf\s+(\"[^\"]*\")")
_CALLED_PRINTF = re.compile(r"^(-?\s*)printf\s+(\"[^\"]*\")\s+(\S+)")
_FORMAT = re.compile(r"%[-+0 ]?\d{0,2}(?:\.\d{1,2})?([sdvfeg])")

_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.If,
    nodes.CondExpr, nodes.Const, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Add, nodes.Sub,
    nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg, nodes.Pos, nodes.Concat, nodes.Test, nodes.Keyword,
)  # fmt: skip

VARIABLES = ("labels", "value", "expected", "lower", "upper", "surprise", "score", "tier", "rule", "startsAt")


class _Labels(dict[str, str]):
    """A label set in which an absent label is the empty string, as in Prometheus."""

    def __missing__(self, name: str) -> str:
        return ""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "/", "//", "%", "**", "+", "-"))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``$labels.x`` is the label x, whatever methods a dict has; nothing else has attributes."""
        if isinstance(obj, _Labels):
            return obj[attribute]
        raise SecurityError(f"only $labels has names behind a dot, {attribute!r} is none")

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self.getattr(obj, str(argument))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        text = operator == "+" and isinstance(left, str) and isinstance(right, str)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if not (text or numbers):
            raise SecurityError(f"{operator} is for numbers")
        return super().call_binop(context, operator, left, right)


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TemplateError(f"{str(value)[:40]!r} is not a number") from None


def humanize(value: Any) -> str:
    """Four significant digits with a metric prefix: 1234567 is "1.235M"."""
    return _scaled(_number(value), 1000.0, ("", "k", "M", "G", "T", "P", "E", "Z", "Y"), ("m", "u", "n", "p", "f"))


def humanize1024(value: Any) -> str:
    """Four significant digits with a binary prefix: 1048576 is "1Mi"."""
    return _scaled(_number(value), 1024.0, ("", "ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"), ())


def _scaled(value: float, base: float, large: tuple[str, ...], small: tuple[str, ...]) -> str:
    if value == 0 or not math.isfinite(value):
        return _plain(value)
    power = 0
    while abs(value) >= base and power < len(large) - 1:
        value /= base
        power += 1
    while abs(value) < 1 and -power < len(small):
        value *= base
        power -= 1
    return f"{value:.4g}{large[power] if power >= 0 else small[-power - 1]}"


def _plain(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return f"{value:.4g}"


def humanize_duration(value: Any) -> str:
    """Seconds as people say them: 3661 is "1h 1m 1s", 0.0123 is "12.3ms"."""
    seconds = _number(value)
    if not math.isfinite(seconds):
        return _plain(seconds)
    sign, rest = ("-" if seconds < 0 else ""), abs(seconds)
    if rest == 0:
        return "0s"
    if rest < 1:
        return _scaled(seconds, 1000.0, ("",), ("m", "u", "n", "p", "f")) + "s"
    if rest < 60:
        return f"{sign}{rest:.4g}s"
    days, left = divmod(int(rest), 86_400)
    hours, left = divmod(left, 3_600)
    minutes, secs = divmod(left, 60)
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {secs}s"
    return f"{sign}{hours}h {minutes}m {secs}s" if hours else f"{sign}{minutes}m {secs}s"


def humanize_percentage(value: Any) -> str:
    """A share as a percentage: 0.123 is "12.3%"."""
    return _plain(_number(value) * 100) + "%"


def humanize_timestamp(value: Any) -> str:
    """Unix seconds as a time in UTC."""
    seconds = _number(value)
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return _plain(seconds)


def printf(value: Any, pattern: Any) -> str:
    """Go's printf for one value: one ``%`` verb of small width."""
    text = str(pattern).replace("%%", "\x00")
    verbs = _FORMAT.findall(text)
    if len(verbs) != 1 or text.count("%") != 1:
        raise TemplateError('printf takes one verb such as "%.2f"')
    if verbs[0] in "sv":
        text = _FORMAT.sub("%s", text)
        shown: Any = _plain(value) if isinstance(value, float) else str(value)
    else:
        shown = _number(value)
        if not math.isfinite(shown):
            return _plain(shown)
        shown = int(shown) if verbs[0] == "d" else shown
    return str(text % shown).replace("\x00", "%")


FILTERS: Mapping[str, Callable[..., Any]] = {
    "humanize": humanize,
    "humanize1024": humanize1024,
    "humanizeDuration": humanize_duration,
    "humanizePercentage": humanize_percentage,
    "humanizeTimestamp": humanize_timestamp,
    "printf": printf,
    "round": lambda value, digits=0: round(_number(value), min(max(int(digits), 0), 15)),
    "toUpper": lambda text: str(text).upper(),
    "toLower": lambda text: str(text).lower(),
}
_BUILT_IN = ("upper", "lower", "title", "trim", "default", "d", "abs", "int", "float", "length")


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, autoescape=False, finalize=_finalize)
    environment.filters = {name: environment.filters[name] for name in _BUILT_IN} | dict(FILTERS)
    environment.globals.clear()
    return environment


def _finalize(value: Any) -> Any:
    return _plain(value) if isinstance(value, float) else "" if value is None else value


@lru_cache(maxsize=4_096)
def _compile(text: str) -> Template:
    if len(text) > MAX_TEMPLATE:
        raise TemplateError(f"a template has at most {MAX_TEMPLATE} characters, this one {len(text)}")
    environment = _environment()
    source = _EXPRESSION.sub(lambda m: m[1] + _rewrite(m[2]) + m[3], text)
    tree = environment.parse(source)
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, _ALLOWED):
            raise TemplateError(f"a template cannot use {type(node).__name__.lower()}: only values, filters and `if`")
        if isinstance(node, nodes.Name) and node.name not in VARIABLES:
            raise TemplateError(f"unknown variable ${node.name}; there are ${', $'.join(VARIABLES)}")
        if isinstance(node, nodes.Filter) and node.name not in environment.filters:
            raise TemplateError(f"unknown filter {node.name!r}; there are {', '.join(sorted(environment.filters))}")
    return environment.from_string(tree)


def _rewrite(expression: str) -> str:
    expression = _CALLED_PRINTF.sub(r"\1\3 | printf(\2)", expression)
    expression = _PIPED_PRINTF.sub(r"| printf(\1)", expression)
    return _DOLLAR.sub(r"\1", expression)


def check_template(text: str) -> str:
    """What is wrong with a template, in one line; the empty string when it can be used."""
    try:
        _compile(text)
    except (TemplateError, RecursionError, ValueError) as error:
        return _cause(error)
    return ""


def _cause(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return str(lines[0])[:300]


def render_annotations(rule: Rule, alert: Alert) -> Mapping[str, str]:
    """The rule's annotations with their templates filled in for the alert that leads a statement.

    Never raises: a template that fails becomes ``<error in template: cause>``, so the alert is still sent.
    """
    variables = _variables(rule, alert)
    return {name: render_template(text, variables) for name, text in rule.annotations.items()}


def render_template(text: str, variables: Mapping[str, Any]) -> str:
    """Fill in one template; a failure is told in the text that comes back."""
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return text[:MAX_OUTPUT]
    try:
        return _limited(_compile(text).generate(variables))
    except Exception as error:  # arithmetic on user values raises many types, and none of them may lose an alert
        return f"<error in template: {_cause(error)}>"


def _limited(pieces: Iterable[str]) -> str:
    parts: list[str] = []
    room = MAX_OUTPUT
    for piece in pieces:
        parts.append(piece[:room])
        room -= len(piece)
        if room <= 0:
            parts[-1] = parts[-1][:-1] + "…"
            break
    return "".join(parts)


def _variables(rule: Rule, alert: Alert) -> dict[str, Any]:
    return {
        "labels": _Labels({**dict(alert.labels), "alertname": rule.name, **rule.labels}),
        "value": _or_nan(alert.value),
        "expected": _or_nan(alert.expected),
        "lower": _or_nan(alert.lower),
        "upper": _or_nan(alert.upper),
        "surprise": _or_nan(alert.surprise),
        "score": _or_nan(alert.anomaly_score),
        "tier": alert.tier.word,
        "rule": rule.name,
        "startsAt": alert.started_at / 1000,
    }


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
