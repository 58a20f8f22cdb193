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

Times count from the moment the rule goes live, which is its ``history`` after the first sample. A series may have
``csv``, a file, instead of ``values``; ``expect: labels`` then takes what the file labels. A test may have
``raw_series``, what is scraped, instead of ``input_series``: a real Prometheus then evaluates ``expr``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from anomalyd.block import Block, Labels, empty_block
from anomalyd.clock import MINUTE_MS
from anomalyd.conform import PositiveDuration, Section, Whole, conform
from anomalyd.durations import format_duration, parse_duration
from anomalyd.errors import ConfigError
from anomalyd.incident import Reason
from anomalyd.rule import Rule
from anomalyd.rules import RuleSet, load_rules
from anomalyd.testseries import (
    Given,
    RawSeriesModel,
    Recording,
    SeriesField,
    SeriesModel,
    first_of,
    read_given,
    record,
)
from anomalyd.yamlfile import Document, Loc, did_you_mean

START = "2026-01-05T00:00:00Z"
"""When a test goes live unless it says otherwise: a Monday, midnight UTC."""


Trap = Literal[
    "deploy", "nightly_job", "restart", "dst", "drop_to_zero", "slow_leak", "scrape_gap", "rhythm", "spike",
    "neighbour", "below_floor",
]  # fmt: skip
"""What is known to call people for nothing."""


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
        many: further episodes that open in the same window are right too.
    """

    series: Labels
    opens: Window
    closes: Window | None = None
    stays: bool = False
    tier: str = ""
    close: str = ""
    many: bool = False


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
        block: what the expression returns; empty where ``raw`` is to be evaluated.
        start: when the rule goes live, milliseconds; the block begins its history before that.
        until: end of the test, milliseconds since ``start``.
        notifications: None when the test does not care.
        traps: which of the things that call people for nothing the series hold.
    """

    name: str
    rule: Rule
    block: Block
    start: int
    until: int
    episodes: tuple[ExpectedEpisode, ...]
    notifications: tuple[ExpectedNotification, ...] | None
    where: str
    raw: Recording | None = None
    traps: tuple[str, ...] = ()


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


def _instant(text: str) -> str:
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write for example {START}") from None
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write for example {START}")
    return text


WindowField: TypeAlias = Annotated[Window, BeforeValidator(_window)]
TierWord: TypeAlias = Literal["", "warning", "critical", "emergency"]


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
    start: Annotated[str, AfterValidator(_instant)] = ""
    interval: PositiveDuration | None = None
    history: PositiveDuration | None = None
    seed: Whole = 1
    traps: list[Trap] = Field(default_factory=list)
    input_series: list[SeriesModel] | None = Field(None, min_length=1)
    raw_series: list[RawSeriesModel] | None = Field(None, min_length=1)
    scrape_interval: PositiveDuration = MINUTE_MS
    expect: Literal["labels"] | list[EpisodeModel]
    notifications: list[NotificationModel] | None = None

    @model_validator(mode="after")
    def _one_input(self) -> TestModel:
        if (self.input_series is None) == (self.raw_series is None):
            raise ValueError("needs either input_series (what expr returns) or raw_series (what expr reads)")
        return self


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
    return _made(document, loc, model, replace(rule, history_ms=history, source="test",
                                               receivers=rule.receivers or ("test",)))  # fmt: skip


def _made(document: Document, loc: Loc, model: TestModel, rule: Rule) -> RuleTest | None:
    """The test of a rule that is ready for it."""
    raw = model.raw_series is not None
    key, models = ("raw_series", model.raw_series) if raw else ("input_series", model.input_series)
    interval = model.scrape_interval if raw else rule.interval_ms
    remedy = "scrape_interval" if raw else "interval"
    given = read_given(document, (*loc, key), models or [], interval, remedy)
    if given is None:
        return None
    start = _start(model, given, rule)
    try:
        recording = record(given, (start - rule.history_ms) // interval * interval, interval, model.seed)
    except ValueError as error:
        document.problem((*loc, key), str(error))
        return None
    times = recording.block.times
    until = (int(times[-1]) - start) // rule.interval_ms * rule.interval_ms if len(times) else 0
    if until <= 0:
        document.problem((*loc, key), f"the series end within the history of {format_duration(rule.history_ms)}")
        return None
    by_labels = model.expect == "labels"
    episodes = _marked(document, loc, recording, rule, start, raw) if by_labels else _listed(model.expect)
    return RuleTest(
        model.name, rule, empty_block() if raw else recording.block, start, until, episodes, _notifications(model),
        document.where(loc), recording if raw else None, tuple(model.traps),
    )  # fmt: skip


def _start(model: TestModel, given: Sequence[Given], rule: Rule) -> int:
    """When the rule goes live: as the test says, else its history after the first sample of a file, else ``START``."""
    first = first_of(given, rule.interval_ms)
    if first is not None and not model.start:
        return first + rule.history_ms
    at = datetime.fromisoformat((model.start or START).replace("Z", "+00:00")).astimezone(UTC)
    return int(at.timestamp() * 1000) // rule.interval_ms * rule.interval_ms


def _listed(expect: Sequence[EpisodeModel] | str) -> tuple[ExpectedEpisode, ...]:
    return tuple(_episode(one) for one in expect if isinstance(one, EpisodeModel))


def _marked(
    document: Document, loc: Loc, recording: Recording, rule: Rule, start: int, raw: bool
) -> tuple[ExpectedEpisode, ...]:
    """One episode, or more, for each span that a file labels: it opens in the span or as late as ``for`` makes it."""
    late = rule.for_ms + rule.interval_ms
    found = []
    for span in recording.marked:
        if span.last < start:
            continue  # in the history: there is nobody to open anything
        # What the expression makes of a raw series' labels is not known here.
        series = () if raw else tuple(pair for pair in span.series if pair[0] != "__name__")
        window = Window(max(0, span.first - start), span.last - start + late)
        found.append(ExpectedEpisode(series, window, many=True))
    if not found:
        hint = "give a csv a column label, or list the episodes"
        document.problem((*loc, "expect"), "labels: no file labels a sample after the history", hint)
    return tuple(found)


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
