"""Matchers on labels, as in Alertmanager: ``team="payments"``, ``region=~"eu-.*"``. Pure.

All matchers of a set must hold; an absent label equals the empty string; expressions are anchored at both ends. In
doubt nothing matches: an expression that this daemon cannot compile never keeps an alert quiet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import get_args

from anomalyd.incident import Alert, Statement
from anomalyd.records import Matcher, MatchOp, Silence

MAX_PATTERN = 512
MAX_VALUE = 1_024
_TEXT = re.compile(
    r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(=~|!~|!=|=)\s*(?:\"((?:[^\"\\]|\\.)*)\"|((?:[^\",{}\s=][^\",{}\s]*)?))\s*"
)
_ESCAPE = re.compile(r"\\(.)")
# A repeat of something that itself repeats without end: what makes an expression take exponential time.
_NESTED = re.compile(r"\([^()]*[*+}][^()]*\)\s*[*+{]")


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Read ``{team="payments", region=~"eu-.*"}`` (braces and quotes may be left out); raise ``ValueError``."""
    rest = text.strip()
    if rest.startswith("{") and rest.endswith("}"):
        rest = rest[1:-1].strip()
    found: list[Matcher] = []
    while rest:
        match = _TEXT.match(rest)
        if match is None:
            raise ValueError(f'{rest[:60]!r} is not a matcher; write for example team="payments", region=~"eu-.*"')
        name, op, quoted, bare = match.groups()
        value = _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], quoted) if quoted is not None else bare
        found.append(Matcher(name, _op(op), value))
        rest = rest[match.end() :]
        if rest and not rest.startswith(","):
            raise ValueError(f"a comma is missing before {rest[:40]!r}")
        rest = rest[1:]
    if not found:
        raise ValueError('there is no matcher; one that matches everything is alertname=~".+"')
    for matcher in found:
        check_matcher(matcher)
    return tuple(found)


def _op(text: str) -> MatchOp:
    return next(op for op in get_args(MatchOp) if op == text)


def check_matcher(matcher: Matcher) -> None:
    """Raise ``ValueError`` for an expression that cannot be used."""
    if matcher.op not in ("=~", "!~"):
        return
    if len(matcher.value) > MAX_PATTERN:
        raise ValueError(f"the expression for {matcher.name} is longer than {MAX_PATTERN} characters")
    if _NESTED.search(matcher.value):
        raise ValueError(f"the expression for {matcher.name} repeats a repeat, which can take for ever; simplify it")
    try:
        re.compile(matcher.value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"the expression for {matcher.name} cannot be compiled: {error}") from None


@lru_cache(maxsize=4_096)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        check_matcher(Matcher("", "=~", pattern))
    except ValueError:
        return None
    return re.compile(pattern)


def matches(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether all matchers hold for a label set."""
    return all(_holds(matcher, labels.get(matcher.name, "")[:MAX_VALUE]) for matcher in matchers)


def _holds(matcher: Matcher, value: str) -> bool:
    if matcher.op == "=":
        return value == matcher.value
    if matcher.op == "!=":
        return value != matcher.value
    pattern = _compiled(matcher.value)
    if pattern is None:
        return False
    return (pattern.fullmatch(value) is not None) == (matcher.op == "=~")


def labels_for_matching(s: Statement, alert: Alert) -> dict[str, str]:
    """What matchers see of an alert: its series' labels, the rule's, and alertname, rule, group and tier."""
    return {
        **dict(alert.labels), **s.labels, "alertname": s.name, "rule": s.rule, "group": s.group,
        "tier": alert.tier.word, "severity": s.labels.get("severity", alert.tier.word),
    }  # fmt: skip


def statement_labels(s: Statement) -> dict[str, str]:
    """What matchers see of an incident as a whole: its group's labels and its tier."""
    return {
        **dict(s.group_labels), **s.labels, "alertname": s.name, "rule": s.rule, "group": s.group,
        "tier": s.tier.word, "severity": s.labels.get("severity", s.tier.word),
    }  # fmt: skip


def silence_of(s: Statement, silences: Sequence[Silence], now: int) -> Silence | None:
    """The silence that ends last among those that keep every alert of a statement quiet; None if one may speak."""
    active = [silence for silence in silences if silence.starts_at <= now < silence.ends_at and silence.matchers]
    if not active:
        return None
    sets = [labels_for_matching(s, alert) for alert in s.alerts] or [statement_labels(s)]
    chosen: list[Silence] = []
    for labels in sets:
        found = [silence for silence in active if matches(silence.matchers, labels)]
        if not found:
            return None
        chosen.append(max(found, key=lambda silence: silence.ends_at))
    return min(chosen, key=lambda silence: silence.ends_at)
