"""The shape of a rule test file: pydantic models whose fields are the keys a user may write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from anomalyd.clock import MINUTE_MS
from anomalyd.conform import PositiveDuration, Section, Whole
from anomalyd.durations import format_duration, parse_duration
from anomalyd.incident import Reason
from anomalyd.workbench.testseries import RawSeriesModel, SeriesField, SeriesModel

START = "2026-01-05T00:00:00Z"
"""When a test goes live unless it says otherwise: a Monday, midnight UTC."""

Trap = Literal[
    "deploy", "nightly_job", "restart", "dst", "drop_to_zero", "slow_leak", "scrape_gap", "rhythm", "spike",
    "neighbour", "below_floor", "holiday",
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
    rule: str = ""


class BesideModel(Section):
    """A rule that lives beside the tested one."""

    rule: str
    history: PositiveDuration | None = None
    input_series: list[SeriesModel] = Field(min_length=1)


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
    beside: list[BesideModel] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_input(self) -> TestModel:
        if (self.input_series is None) == (self.raw_series is None):
            raise ValueError("needs either input_series (what expr returns) or raw_series (what expr reads)")
        return self


class TestFileModel(Section):
    """A file of rule tests."""

    rule_files: list[str] = Field(min_length=1)
    settings: str = ""
    tests: list[Any] = Field(min_length=1)
