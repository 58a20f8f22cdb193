"""The shape of a rule test file, and reading it: ``RuleTest`` values or every problem with file:line:column.

    rule_files: [node.yml]
    tests:
      - name: a busy night is found, the nightly backup is not
        rule: NodeCpu
        input_series:
          - series: '{instance="a"}'          # what the rule's expr returns
            values: 0.3x14d 0.3x6h 0.9x30m 0.3x4h
            seasons: [{period: 1d, amplitude: 0.1, peak: 14h}, {period: 1d, at: 2h, for: 20m, add: 0.4}]
            noise: 0.01
        expect:
          - {series: '{instance="a"}', opens: 6h..6h10m, closes: 6h30m..6h50m, tier: critical}

Times count from the moment the rule goes live, which is its ``history`` after the first sample.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import promql_parser
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from anomalyd.block import Block, Labels, make_labels
from anomalyd.conform import Duration, Number, PositiveDuration, Section, Whole, conform
from anomalyd.durations import format_duration, parse_duration
from anomalyd.errors import ConfigError
from anomalyd.incident import Reason
from anomalyd.notation import Line, Pulse, Wave, compose, parse_line
from anomalyd.rule import Rule
from anomalyd.rules import RuleSet, load_rules
from anomalyd.yamlfile import Document, Loc, did_you_mean

START = "2026-01-05T00:00:00Z"
"""When a test goes live unless it says otherwise: a Monday, midnight UTC."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time, or a span in which something happens; milliseconds since the test went live, both ends included."""

    first: int
    last: int

    def __contains__(self, at: int) -> bool:
        return self.first <= at <= self.last

    def __str__(self) -> str:
        span = format_duration(self.first)
        return span if self.first == self.last else f"{span}..{format_duration(self.last)}"


@dataclass(frozen=True, slots=True)
class ExpectedEpisode:
    """An episode that must come; None and empty are what the test does not care about.

    Attributes:
        series: label pairs that the episode's series must have.
        closes: when it ends; None with ``stays`` set is an episode still open at the end.
    """

    series: Labels
    opens: Window
    closes: Window | None = None
    stays: bool = False
    tier: str = ""
    close: str = ""


@dataclass(frozen=True, slots=True)
class ExpectedNotification:
    """A notification that must be delivered."""

    at: Window
    reason: str
    tier: str = ""
    receiver: str = ""


@dataclass(frozen=True, slots=True)
class RuleTest:
    """One test: a rule, what its expression returns, and what must come of it.

    Attributes:
        start: when the rule goes live, milliseconds; the block begins its history before that.
        until: end of the test, milliseconds since ``start``.
        notifications: None when the test does not care.
    """

    name: str
    rule: Rule
    block: Block
    start: int
    until: int
    episodes: tuple[ExpectedEpisode, ...]
    notifications: tuple[ExpectedNotification, ...] | None
    where: str


def _window(value: Any) -> Any:
    if isinstance(value, Window):
        return value
    if not isinstance(value, str) and value != 0:
        raise ValueError("must be a time such as 6h, or a span such as 6h..6h15m")
    first, dots, last = str(value).partition("..")
    window = Window(parse_duration(first), parse_duration(last if dots else first))
    if window.first > window.last:
        raise ValueError("the span ends before it begins")
    return window


def parse_series(text: str) -> Labels:
    """The labels of ``name{a="b"}``; raise ``ValueError``."""
    if text.strip() == "{}":
        return ()
    try:
        tree = promql_parser.parse(text) if len(text) < 4_000 else None
    except ValueError as error:
        raise ValueError(f"{text!r} is no series: {error}") from None
    if not isinstance(tree, promql_parser.VectorSelector) or tree.offset is not None or tree.at is not None:
        raise ValueError(f'{text[:80]!r} is no series; write for example {{instance="a"}}')
    if any(m.op != promql_parser.MatchOp.Equal for m in tree.matchers.matchers):
        raise ValueError("a series has labels, not matchers: use = only")
    labels = {m.name: m.value for m in tree.matchers.matchers}
    return make_labels(labels | ({"__name__": tree.name} if tree.name else {}))


def _series(value: Any) -> Any:
    if isinstance(value, str):
        return parse_series(value)
    raise ValueError("must be text such as '{instance=\"a\"}'")


def _instant(text: str) -> str:
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write for example {START}") from None
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write for example {START}")
    return text


WindowField: TypeAlias = Annotated[Window, BeforeValidator(_window)]
SeriesField: TypeAlias = Annotated[Labels, BeforeValidator(_series)]
TierWord: TypeAlias = Literal["", "warning", "critical", "emergency"]


class SeasonModel(Section):
    """A rhythm: smooth (amplitude, peak) or with edges (at, for, add)."""

    period: PositiveDuration
    amplitude: Number | None = None
    peak: Duration = 0
    add: Number | None = None
    at: Duration = 0
    for_: Duration | None = Field(None, alias="for")

    @model_validator(mode="after")
    def _one_kind(self) -> SeasonModel:
        smooth, edged = self.amplitude is not None, self.add is not None and self.for_ is not None
        if smooth == edged or (smooth and (self.add is not None or self.for_ is not None)):
            raise ValueError("needs either amplitude (and peak), or at, for and add")
        return self

    def made(self) -> Wave | Pulse:
        if self.amplitude is not None:
            return Wave(self.period, self.amplitude, self.peak)
        return Pulse(self.period, self.add or 0.0, self.at, self.for_ or 0)


class SeriesModel(Section):
    """What the rule's expression returns for one series."""

    series: SeriesField
    values: str
    seasons: list[SeasonModel] = Field(default_factory=list)
    noise: Number = Field(0.0, ge=0)


class EpisodeModel(Section):
    """An episode that must come."""

    series: SeriesField = ()
    opens: WindowField
    closes: Annotated[Window | None, BeforeValidator(lambda v: None if v == "never" else _window(v))] = None
    tier: TierWord = ""
    close: Literal["", "recovered", "ended", "new_level"] = ""


class NotificationModel(Section):
    """A notification that must be delivered."""

    at: WindowField
    reason: Annotated[str, AfterValidator(lambda text: Reason(text).value)]
    tier: TierWord = ""
    receiver: str = ""


class TestModel(Section):
    """One test of one rule."""

    name: str = Field(min_length=1)
    rule: str
    start: Annotated[str, AfterValidator(_instant)] = START
    interval: PositiveDuration | None = None
    history: PositiveDuration | None = None
    seed: Whole = 1
    input_series: list[SeriesModel] = Field(min_length=1)
    expect: list[EpisodeModel]
    notifications: list[NotificationModel] | None = None


class TestFileModel(Section):
    """A file of rule tests."""

    rule_files: list[str] = Field(min_length=1)
    tests: list[Any] = Field(min_length=1)


def is_tests(data: Any) -> bool:
    """Whether a file holds tests of rules."""
    return isinstance(data, Mapping) and "tests" in data


def read_tests(document: Document) -> tuple[RuleTest, ...]:
    """Make tests of a parsed file; raise ``ConfigError`` with all problems, those of the rules files included."""
    model = conform(document, TestFileModel)
    document_rules = _rules(document, model) if model else RuleSet(())
    tests: list[RuleTest] = []
    names: set[str] = set()
    for i in range(len(model.tests) if model else 0):
        test = _test(document, ("tests", i), document_rules)
        if test is None:
            continue
        if test.name in names:
            document.problem(("tests", i, "name"), f"duplicate test {test.name!r}")
        names.add(test.name)
        tests.append(test)
    document.raise_problems()
    return tuple(tests)


def _rules(document: Document, model: TestFileModel) -> RuleSet:
    folder = Path(document.file).parent
    try:
        return load_rules([str(folder / pattern) for pattern in model.rule_files])
    except ConfigError as error:
        document.problems += error.problems
        document.raise_problems()
        raise


def _test(document: Document, loc: Loc, rules: RuleSet) -> RuleTest | None:
    model = conform(document, TestModel, loc)
    if model is None:
        return None
    found = [rule for rule in rules.rules if model.rule in (rule.name, rule.id)]
    if len(found) != 1:
        known = [rule.name for rule in rules.rules]
        message = f"{len(found)} rules are called {model.rule!r}" if found else f"unknown rule {model.rule!r}"
        hint = "write group/rule" if found else did_you_mean(model.rule, known)
        document.problem((*loc, "rule"), message, hint)
        return None
    rule = found[0]
    if model.interval is not None and model.interval != rule.interval_ms:
        rule = replace(rule, interval_ms=model.interval)
    history = (model.history or rule.history_ms) // rule.interval_ms * rule.interval_ms
    rule = replace(rule, history_ms=history, source="test", receivers=rule.receivers or ("test",))
    start = int(datetime.fromisoformat(model.start.replace("Z", "+00:00")).astimezone(UTC).timestamp() * 1000)
    start = start // rule.interval_ms * rule.interval_ms
    block = _block(document, loc, model, start - history, rule.interval_ms)
    if block is None:
        return None
    until = int(block.times[-1]) - start
    if until <= 0:
        document.problem((*loc, "input_series"), f"the series end within the history of {format_duration(history)}")
        return None
    return RuleTest(
        model.name, rule, block, start, until, tuple(map(_episode, model.expect)), _notifications(model),
        document.where(loc),
    )  # fmt: skip


def _block(document: Document, loc: Loc, model: TestModel, first: int, interval: int) -> Block | None:
    lines: list[Line] = []
    for i, one in enumerate(model.input_series):
        try:
            lines.append(parse_line(one.values, interval))
        except ValueError as error:
            document.problem((*loc, "input_series", i, "values"), f"values: {error}")
    labels = [one.series for one in model.input_series]
    if len(set(labels)) < len(labels):
        document.problem((*loc, "input_series"), "two series have the same labels")
    if len(lines) < len(labels) or len(set(labels)) < len(labels):
        return None
    longest = max(len(line.values) for line in lines)
    times = first + np.arange(longest, dtype=np.int64) * interval
    values = np.full((len(lines), longest), np.nan)
    for i, (line, one) in enumerate(zip(lines, model.input_series, strict=True)):
        seasons = [season.made() for season in one.seasons]
        waves = [s for s in seasons if isinstance(s, Wave)]
        pulses = [s for s in seasons if isinstance(s, Pulse)]
        rng = np.random.default_rng((model.seed, i))
        length = len(line.values)
        values[i, :length] = compose(line, times[:length], waves, pulses, one.noise, rng)
    return Block(tuple(labels), times, values)


def _episode(model: EpisodeModel) -> ExpectedEpisode:
    stays = "closes" in model.model_fields_set and model.closes is None
    return ExpectedEpisode(model.series, model.opens, model.closes, stays, model.tier, model.close)


def _notifications(model: TestModel) -> tuple[ExpectedNotification, ...] | None:
    if model.notifications is None:
        return None
    return tuple(ExpectedNotification(n.at, n.reason, n.tier, n.receiver) for n in model.notifications)


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def shown(labels: Labels) -> str:
    """Labels as people write them."""
    name = dict(labels).get("__name__", "")
    inner = ",".join(f'{k}="{_CONTROL.sub("?", v)}"' for k, v in labels if k != "__name__")
    return f"{name}{{{inner}}}"
