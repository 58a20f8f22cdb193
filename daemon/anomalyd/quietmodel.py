"""How mute windows, inhibition and routes are written in ``anomalyd.yml``: Alertmanager's words where it has them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from anomalyd.conform import Flag, PositiveDuration, Section
from anomalyd.escalate import Step
from anomalyd.hush import InhibitRule, MuteWindow
from anomalyd.intervals import DAYS, MONTHS, Interval, parse_named, parse_numbers, parse_times, zone
from anomalyd.matcher import parse_matchers
from anomalyd.records import Matcher
from anomalyd.routing import Route
from anomalyd.score import Tier

TierWord: TypeAlias = Literal["warning", "critical", "emergency"]


def _matchers(text: str) -> str:
    parse_matchers(text)
    return text


def _zone(name: str) -> str:
    zone(name)
    return name


MatcherText: TypeAlias = Annotated[str, AfterValidator(_matchers)]
"""One or several matchers, e.g. ``team="payments"``."""


def _all(texts: list[str]) -> tuple[Matcher, ...]:
    return tuple(matcher for text in texts for matcher in parse_matchers(text))


def _tiers(words: list[TierWord]) -> tuple[Tier, ...]:
    return tuple(Tier[word.upper()] for word in words)


class IntervalModel(Section):
    """A recurring time: everything that is given must hold."""

    times: list[str] = Field([], description='Spans of the day such as "22:00-06:00"; 24:00 is the end of the day.')
    weekdays: list[str] = Field([], description='Days such as "saturday" or "monday:friday".')
    days_of_month: list[str] = Field([], description='Days such as "1:5"; "-1" is the last of the month.')
    months: list[str] = Field([], description='Months such as "december" or "1:3".')
    years: list[str] = Field([], description='Years such as "2026" or "2026:2028".')
    location: Annotated[str, AfterValidator(_zone)] = Field("UTC", description="IANA time zone of the wall clock.")

    @model_validator(mode="after")
    def _readable(self) -> IntervalModel:
        self.made()
        return self

    def made(self) -> Interval:
        return Interval(
            tuple(parse_times(text) for text in self.times),
            tuple(parse_named(text, DAYS, 0) for text in self.weekdays),
            tuple(parse_numbers(text, -31, 31) for text in self.days_of_month),
            tuple(parse_named(text, MONTHS, 1) for text in self.months),
            tuple(parse_numbers(text, 1970, 9999) for text in self.years),
            self.location,
        )


class MuteWindowModel(Section):
    """A time in which some notifications are not wanted; what is still true when it ends is told then."""

    intervals: list[IntervalModel] = Field(min_length=1, description="Any of these times.")
    matchers: list[MatcherText] = Field([], description="About which incidents; all by default.")
    receivers: list[str] = Field([], description="Which receivers; all by default.")
    tiers: list[TierWord] = Field(["warning", "critical"], description="Emergencies pass unless they are named.")

    def made(self, name: str) -> MuteWindow:
        return MuteWindow(
            name, tuple(i.made() for i in self.intervals), _all(list(self.matchers)), tuple(self.receivers),
            _tiers(self.tiers),
        )  # fmt: skip


class InhibitModel(Section):
    """While an incident meets the source matchers, those that meet the target's stay quiet."""

    source_matchers: list[MatcherText] = Field(min_length=1, description='E.g. alertname="ClusterDown".')
    target_matchers: list[MatcherText] = Field(min_length=1, description='E.g. tier="warning".')
    equal: list[str] = Field([], description="Labels that both sides must share.")

    def made(self) -> InhibitRule:
        return InhibitRule(_all(list(self.source_matchers)), _all(list(self.target_matchers)), tuple(self.equal))


class EscalationModel(Section):
    """Who hears of an incident that nobody acknowledges."""

    after: PositiveDuration = Field(description="How long nobody has voted on it or acknowledged it in PagerDuty.")
    receivers: list[str] = Field(min_length=1, description="Who is told then; they are told of nothing before.")
    from_tier: TierWord = Field("critical", description="Incidents below this tier do not escalate.")
    matchers: list[MatcherText] = Field([], description="Which incidents; all of them by default.")

    def made(self) -> Step:
        return Step(
            self.after, tuple(dict.fromkeys(self.receivers)), Tier[self.from_tier.upper()], _all(list(self.matchers))
        )


class RouteNodeModel(Section):
    """Who is told of what: the first child that matches decides, deeper ones over shallower."""

    receivers: list[str] | None = Field(None, description="Names of receivers; the parent's by default.")
    matchers: list[MatcherText] = Field([], description="Which incidents.")
    tiers: list[TierWord] = Field([], description="Which tiers; all by default.")
    continue_: Flag = Field(False, alias="continue", description="Ask the next sibling too after a match.")
    routes: list[RouteNodeModel] = Field([], description="Children.")

    def made(self) -> Route:
        return Route(
            tuple(self.receivers or ()), _all(list(self.matchers)), _tiers(self.tiers),
            tuple(child.made() for child in self.routes), self.continue_,
        )  # fmt: skip

    def names(self) -> set[str]:
        """All receivers that the tree names."""
        return set(self.receivers or ()).union(*(child.names() for child in self.routes))
