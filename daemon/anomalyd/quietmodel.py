"""How mute windows, inhibition and routes are written in ``anomalyd.yml``: Alertmanager's words where it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from anomalyd.conform import Flag, PositiveDuration, Section
from anomalyd.delivery.escalate import Step
from anomalyd.delivery.hush import InhibitRule, MuteWindow
from anomalyd.delivery.routing import Route
from anomalyd.delivery.together import Company
from anomalyd.holiday import Holidays
from anomalyd.intervals import Interval
from anomalyd.matcher import parse_matchers
from anomalyd.records import Matcher
from anomalyd.rulefiles.calendars import CalendarField, referred
from anomalyd.rulefiles.intervalmodel import IntervalModel
from anomalyd.score import Tier

TierWord: TypeAlias = Literal["warning", "critical", "emergency"]


def _matchers(text: str) -> str:
    parse_matchers(text)
    return text


MatcherText: TypeAlias = Annotated[str, AfterValidator(_matchers)]
"""One or several matchers, e.g. ``team="payments"``."""


def _all(texts: list[str]) -> tuple[Matcher, ...]:
    return tuple(matcher for text in texts for matcher in parse_matchers(text))


def _tiers(words: list[TierWord]) -> tuple[Tier, ...]:
    return tuple(Tier[word.upper()] for word in words)


class MuteIntervalModel(IntervalModel):
    """A recurring time: everything that is given must hold."""

    holidays: CalendarField | None = Field(
        None, description="Only on these days, if whole: a calendar of the settings, a country (DE-BY), or a mapping."
    )

    def on(self, calendars: Mapping[str, Holidays], folder: Path) -> Interval:
        """The interval with the days of its calendar; raise ``CalendarError``."""
        made = self.made()
        if self.holidays is None:
            return made
        days = referred(self.holidays, calendars, folder).days
        return replace(made, dates=frozenset(day.ordinal for day in days if day.whole))


class MuteWindowModel(Section):
    """A time in which some notifications are not wanted; what is still true when it ends is told then."""

    intervals: list[MuteIntervalModel] = Field(min_length=1, description="Any of these times.")
    matchers: list[MatcherText] = Field([], description="About which incidents; all by default.")
    receivers: list[str] = Field([], description="Which receivers; all by default.")
    tiers: list[TierWord] = Field(["warning", "critical"], description="Emergencies pass unless they are named.")

    def made(self, name: str, intervals: Sequence[Interval] | None = None) -> MuteWindow:
        """The window; ``intervals`` are its own with the days of their calendars."""
        times = [one.made() for one in self.intervals] if intervals is None else intervals
        return MuteWindow(
            name, tuple(times), _all(list(self.matchers)), tuple(self.receivers),
            _tiers(self.tiers),
        )  # fmt: skip


class InhibitModel(Section):
    """While an incident meets the source matchers, those that meet the target's stay quiet."""

    source_matchers: list[MatcherText] = Field(min_length=1, description='E.g. alertname="ClusterDown".')
    target_matchers: list[MatcherText] = Field(min_length=1, description='E.g. tier="warning".')
    equal: list[str] = Field([], description="Labels that both sides must share.")

    def made(self) -> InhibitRule:
        return InhibitRule(_all(list(self.source_matchers)), _all(list(self.target_matchers)), tuple(self.equal))


class TogetherModel(Section):
    """What makes incidents of several rules one notification."""

    labels: list[str] = Field(min_length=1, max_length=10, description="Labels whose values are equal, e.g. service.")
    within: PositiveDuration = Field(10 * 60_000, description="How far apart they may begin.")

    def made(self) -> Company:
        return Company(tuple(self.labels), self.within)


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
