"""The HTML report of a backtest: one file that needs nothing else, readable in light and dark, on wide and phone.

Everything that comes from a series or a rules file is escaped by the template; the charts hold numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from anomalyd.block import Labels
from anomalyd.clock import HOUR_MS
from anomalyd.durations import format_budget, format_duration
from anomalyd.episode import Episode
from anomalyd.render import clean
from anomalyd.rule import Rule, TierPolicy
from anomalyd.score import TIERS, Tier
from anomalyd.workbench.backtest import Backtest
from anomalyd.workbench.report.figures import (
    Alarm,
    BudgetLine,
    Change,
    Scored,
    SeriesLine,
    Span,
    budget_lines,
    dummy_alarms,
    series_lines,
    week_counts,
)
from anomalyd.workbench.report.pictures import Picture, chart_of, environment
from anomalyd.workbench.report.svg import Mark, short

CHARTS_MAX = 16
ZOOMS_MAX = 12
ROWS_MAX = 300
VALUE_MAX = 120


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A backtest with what it was held against."""

    test: Backtest
    change: Change | None = None
    scored: Scored | None = None
    dummy_scored: Scored | None = None
    spans: tuple[Span, ...] = ()
    read_s: float = 0.0
    lived_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Week:
    """A bar of the chart of weeks: its label and counts; heights are shares of the highest bar."""

    label: str
    total: int
    parts: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """One rule's part of the report, ready for the template."""

    rule: Rule
    zone: str
    tiers: tuple[str, ...]
    span: str
    facts: tuple[tuple[str, str], ...]
    weeks: tuple[Week, ...]
    budgets: tuple[BudgetLine, ...]
    own: BudgetLine
    dummy: BudgetLine
    lines: tuple[SeriesLine, ...]
    hidden_lines: int
    episodes: tuple[Episode, ...]
    hidden_episodes: int
    zooms: tuple[Picture, ...]
    charts: tuple[Picture, ...]
    hidden_charts: int
    change: Change | None
    scored: Scored | None
    dummy_scored: Scored | None
    labelled: bool
    held: Mapping[str, int]
    told: tuple[tuple[str, int], ...]
    included: tuple[str, ...]
    end: int


def render_report(judged: Sequence[Judged], title: str = "Backtest") -> str:
    """The whole page."""
    templates = environment()
    templates.filters |= {
        "when": when, "labels": label_text, "duration": rough_duration, "short": short, "share": share,
    }  # fmt: skip
    page = templates.get_template("page.html.j2")
    return page.render(title=title, sections=[section_of(one) for one in judged])


def write_report(path: Path, judged: Sequence[Judged]) -> None:
    """Write the page to a file."""
    path.write_text(render_report(judged), encoding="utf-8")


def section_of(one: Judged) -> Section:
    """What the page shows of one rule."""
    test = one.test
    lines = series_lines(test)
    # Loudest first: what would have woken somebody is looked at first.
    loud = sorted(test.episodes, key=lambda e: (-e.tier, -_finite(e.peak_surprise), e.opened_at))
    return Section(
        test.rule, test.rule.timezone, _tier_texts(test.rule), span_text(test.start, test.end, test.rule.timezone),
        _facts(one), _weeks(test), tuple(budget_lines(test)), own_line(test), dummy_line(test), tuple(lines[:ROWS_MAX]),
        max(0, len(lines) - ROWS_MAX), test.episodes[:ROWS_MAX], max(0, len(test.episodes) - ROWS_MAX),
        tuple(_zoom(one, episode) for episode in loud[:ZOOMS_MAX]),
        tuple(_overview(one, line) for line in lines[:CHARTS_MAX]), max(0, len(lines) - CHARTS_MAX),
        one.change, one.scored, one.dummy_scored, bool(one.spans), test.held, test.told, test.included, test.end,
    )  # fmt: skip


def own_line(test: Backtest) -> BudgetLine:
    """The rule as it is, in the form of the table of budgets."""
    series = len({e.labels for e in test.episodes})
    return BudgetLine("this rule", test.cut, len(test.episodes), len(test.episodes) / test.weeks, series)


def dummy_line(test: Backtest) -> BudgetLine:
    """The dummy in the form of the table of budgets."""
    alarms: list[Alarm] = dummy_alarms(test)
    series = len({alarm.labels for alarm in alarms})
    return BudgetLine("3 standard deviations", float("nan"), len(alarms), len(alarms) / test.weeks, series)


def _facts(one: Judged) -> tuple[tuple[str, str], ...]:
    test = one.test
    pages = sum(s.reason != "resolved" for s in test.sent)
    facts = [
        ("episodes", f"{len(test.episodes)}"),
        ("episodes a week", f"{len(test.episodes) / test.weeks:.1f}"),
        ("notifications", f"{pages} + {len(test.sent) - pages} resolved"),
        ("series", f"{len(test.labels)}"),
    ]
    if one.lived_s:
        speed = (test.end - test.start + test.rule.interval_ms) / 1000 / one.lived_s
        facts.append(("lived through in", f"{one.lived_s:.1f} s, {speed:,.0f} × real time"))
    return tuple(facts)


def _weeks(test: Backtest) -> tuple[Week, ...]:
    counts = week_counts(test)
    highest = max((sum(by_tier.values()) for _, by_tier in counts), default=0) or 1
    return tuple(
        Week(
            day_of(start, test.rule.timezone), sum(by_tier.values()),
            tuple((t.word, by_tier[t], by_tier[t] / highest) for t in reversed(TIERS) if by_tier[t]),
        )
        for start, by_tier in counts
    )  # fmt: skip


def _overview(one: Judged, line: SeriesLine) -> Picture:
    test = one.test
    count = f"{line.episodes} episode" + ("" if line.episodes == 1 else "s")
    caption = f"{count}, largest score {line.peak_surprise / test.cut:.1f}" if test.cut > 0 else count
    tier = max((e.tier for e in test.episodes if e.labels == line.labels), default=Tier.NONE)
    chart = chart_of(test, line.row, _marks(one, line.labels), test.start, test.end)
    return Picture(label_text(line.labels), caption, chart, tier.word if tier else "")


def _zoom(one: Judged, episode: Episode) -> Picture:
    test = one.test
    ends = episode.closed_at or test.end
    room = max(HOUR_MS, 20 * test.rule.interval_ms, int(0.75 * (ends - episode.started_at)))
    zone, row = test.rule.timezone, test.labels.index(episode.labels)
    chart = chart_of(test, row, _marks(one, episode.labels), episode.started_at - room, ends + room)
    over = f"{str(episode.close).replace('_', ' ')} {when(episode.closed_at, zone)}"
    how = over if episode.closed_at else "still open"
    lasted = rough_duration(ends - episode.opened_at)
    seen = f"peak {short(episode.peak_value)} where {short(episode.peak_expected)} was expected"
    return Picture(label_text(episode.labels), f"{when(episode.opened_at, zone)}, {lasted}, {how}; {seen}", chart,
                   episode.tier.word)  # fmt: skip


def _marks(one: Judged, labels: Labels) -> list[Mark]:
    test = one.test
    marks = day_marks(test.rule, test.start, test.end)
    marks += [Mark(span.start, span.end, "label") for span in one.spans if span.holds(labels)]
    return marks + [
        Mark(e.opened_at, e.closed_at or test.end, e.tier.word) for e in test.episodes if e.labels == labels
    ]


def day_marks(rule: Rule, start: int, end: int) -> list[Mark]:
    """The rule's holidays in a span of time."""
    if rule.holidays is None:
        return []
    return [Mark(first, last, "day", str(day)) for first, last, day in rule.holidays.between(start, end, rule.timezone)]


def _tier_texts(rule: Rule) -> tuple[str, ...]:
    def text(policy: TierPolicy) -> str:
        if policy.budget is not None:
            return f"{policy.tier.word}: {format_budget(policy.budget)}"
        if policy.sigma is not None:
            return f"{policy.tier.word}: {policy.sigma:g} sigma"
        if policy.surprise is None:
            return f"{policy.tier.word}: {policy.spread:.0%} of the series"
        return f"{policy.tier.word}: surprise {policy.surprise:g}"

    return tuple(text(policy) for policy in rule.tiers)


def when(ms: int, zone: str = "UTC") -> str:
    """A time as a reader scans it, in a time zone."""
    return _there(ms, zone).strftime("%a %d %b %H:%M") if ms else ""


def span_text(start: int, end: int, zone: str = "UTC") -> str:
    """Two times and the zone they are told in; the year stands once, or with each where they differ."""
    first, last = _there(start, zone), _there(end, zone)
    year = f" {first.year}" if first.year != last.year else ""
    return f"{first:%a} {first.day} {first:%b}{year} {first:%H:%M} to {last:%a} {last.day} {last:%b %Y %H:%M}, {zone}"


def day_of(ms: int, zone: str) -> str:
    """The day of a time."""
    there = _there(ms, zone)
    return f"{there.day} {there:%b}"


def _there(ms: int, zone: str) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC if zone == "UTC" else ZoneInfo(zone))


def label_text(labels: Labels) -> str:
    """A label set for people: the metric's name in front, nothing that turns text around, long values cut."""
    pairs = ", ".join(f"{clean(name, 64)}={clean(value, VALUE_MAX)}" for name, value in labels if name != "__name__")
    metric = clean(dict(labels).get("__name__", ""), VALUE_MAX)
    return f"{metric}{{{pairs}}}" if pairs else metric or "{}"


def rough_duration(ms: int) -> str:
    """A duration with its two largest units: 3h12m, 2d5h."""
    for size, keep in ((86_400_000, 3_600_000), (3_600_000, 60_000), (60_000, 1_000)):
        if ms >= size:
            return format_duration(ms // keep * keep)
    return format_duration(ms)


def share(value: float | None) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{100 * value:.0f} %"


def _finite(value: float) -> float:
    return value if np.isfinite(value) else 0.0


