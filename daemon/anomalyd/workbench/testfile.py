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

``settings``, a file, says who is told of what, and when again: routes, reminders, escalation, quiet. Rules ``beside``
the tested one live at the same time on series of their own; what is told of them counts too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anomalyd.arrangement import Arrangement, arrangement_of
from anomalyd.block import Block, Labels, empty_block
from anomalyd.conform import conform
from anomalyd.durations import format_duration
from anomalyd.errors import ConfigError
from anomalyd.rule import Rule
from anomalyd.rulefiles.read import RuleSet, load_rules
from anomalyd.settings import load_settings
from anomalyd.workbench.testmodel import START, EpisodeModel, TestFileModel, TestModel, Window
from anomalyd.workbench.testseries import Given, Recording, first_of, read_given, record
from anomalyd.yamlfile import Document, Loc, did_you_mean


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
    rule: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """A rule that lives beside the tested one, and what its expression returns."""

    rule: Rule
    block: Block


@dataclass(frozen=True, slots=True)
class RuleTest:
    """One test: a rule, what its expression returns, and what must come of it.

    Attributes:
        block: what the expression returns; empty where ``raw`` is to be evaluated.
        start: when the rule goes live, milliseconds; the block begins its history before that.
        until: end of the test, milliseconds since ``start``.
        notifications: None when the test does not care.
        traps: which of the things that call people for nothing the series hold.
        arrangement: who is told of what; without receivers whom the rules name, or one of the name "test".
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
    beside: tuple[Beside, ...] = ()
    arrangement: Arrangement = field(default_factory=Arrangement)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The tested rule and those beside it."""
        return (self.rule, *(one.rule for one in self.beside))


def is_tests(data: Any) -> bool:
    """Whether a file holds tests of rules."""
    return isinstance(data, Mapping) and "tests" in data


def read_tests(document: Document) -> tuple[RuleTest, ...]:
    """Make tests of a parsed file; raise ``ConfigError`` with all problems, those of the rules files included."""
    model = conform(document, TestFileModel)
    book = _book(document, model) if model else _Book(RuleSet(()), Arrangement())
    tests: list[RuleTest] = []
    names: set[str] = set()
    for i in range(len(model.tests) if model else 0):
        test = _test(document, ("tests", i), book)
        if test is None:
            continue
        if test.name in names:
            document.problem(("tests", i, "name"), f"duplicate test {test.name!r}")
        names.add(test.name)
        tests.append(test)
    document.raise_problems()
    return tuple(tests)


@dataclass(frozen=True, slots=True)
class _Book:
    """What all tests of a file share."""

    rules: RuleSet
    arrangement: Arrangement


def _book(document: Document, model: TestFileModel) -> _Book:
    folder = Path(document.file).parent
    try:
        settings = load_settings(folder / model.settings) if model.settings else None
        rules = load_rules([str(folder / pattern) for pattern in model.rule_files], settings)
    except ConfigError as error:
        document.problems += error.problems
        document.raise_problems()
        raise
    return _Book(rules, arrangement_of(settings) if settings is not None else Arrangement())


def _test(document: Document, loc: Loc, book: _Book) -> RuleTest | None:
    model = conform(document, TestModel, loc)
    if model is None:
        return None
    found = _found(document, (*loc, "rule"), model.rule, book.rules)
    test = _made(document, loc, model, _prepared(found, model, model.history, "test")) if found is not None else None
    if test is None:
        return None
    made = [_beside(document, loc, i, test, model, book) for i in range(len(model.beside))]
    test = replace(test, beside=tuple(one for one in made if one is not None), arrangement=book.arrangement)
    if len({rule.id for rule in test.rules}) < len(test.rules):
        document.problem((*loc, "beside"), "a rule lives once in a test", "name another rule")
    return test


def _found(document: Document, loc: Loc, name: str, rules: RuleSet) -> Rule | None:
    found = [rule for rule in rules.rules if name in (rule.name, rule.id)]
    if len(found) == 1:
        if found[0].holidays is not None and not found[0].holidays.known:
            said = f"{found[0].name} has a calendar of the settings: {found[0].holidays.written}"
            document.problem(loc, said, "name the settings file beside rule_files: settings: anomalyd.yml")
        return found[0]
    known = [rule.name for rule in rules.rules]
    message = f"{len(found)} rules are called {name!r}" if found else f"unknown rule {name!r}"
    document.problem(loc, message, "write group/rule" if found else did_you_mean(name, known))
    return None


def _prepared(rule: Rule, model: TestModel, history: int | None, source: str) -> Rule:
    """A rule as the test wants it: its interval and history, and a source of its own."""
    interval = model.interval or rule.interval_ms
    history = (history or rule.history_ms) // interval * interval
    receivers = rule.receivers or ("test",)
    return replace(rule, interval_ms=interval, history_ms=history, source=source, receivers=receivers)


def _beside(document: Document, loc: Loc, i: int, test: RuleTest, model: TestModel, book: _Book) -> Beside | None:
    wanted, loc = model.beside[i], (*loc, "beside", i)
    found = _found(document, (*loc, "rule"), wanted.rule, book.rules)
    if found is None:
        return None
    rule = _prepared(found, model, wanted.history, f"test {i}")
    given = read_given(document, (*loc, "input_series"), wanted.input_series, rule.interval_ms, "interval")
    if given is None:
        return None
    try:
        recording = record(given, test.start - rule.history_ms, rule.interval_ms, model.seed, rule.holidays)
    except ValueError as error:
        document.problem((*loc, "input_series"), str(error))
        return None
    return Beside(rule, recording.block)


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
        begins = (start - rule.history_ms) // interval * interval
        recording = record(given, begins, interval, model.seed, rule.holidays)
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
    return tuple(
        ExpectedNotification(n.at, n.reason, n.tier, n.receiver, n.rule) for n in model.notifications
    )


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def shown(labels: Labels) -> str:
    """Labels as people write them."""
    name = dict(labels).get("__name__", "")
    inner = ",".join(f'{k}="{_CONTROL.sub("?", v)}"' for k, v in labels if k != "__name__")
    return f"{name}{{{inner}}}"
