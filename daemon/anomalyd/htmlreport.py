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
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anomalyd import __version__
from anomalyd.backtest import Backtest
from anomalyd.block import Labels
from anomalyd.clock import HOUR_MS
from anomalyd.durations import format_budget, format_duration
from anomalyd.episode import Episode
from anomalyd.report.figures import (
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
from anomalyd.report.svg import HEIGHT, SCORE_HEIGHT, Chart, Mark, Strip, draw, short
from anomalyd.rule import Rule, TierPolicy
from anomalyd.score import TIERS, Tier

CHARTS_MAX = 16
ZOOMS_MAX = 12
ROWS_MAX = 300


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


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart with its caption."""

    title: str
    caption: str
    chart: Chart
    tier: str = ""


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
    held: Mapping[str, int]
    told: tuple[tuple[str, int], ...]
    included: tuple[str, ...]
    end: int


def render_report(judged: Sequence[Judged], title: str = "Backtest") -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("anomalyd", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "when": when, "labels": label_text, "duration": rough_duration, "short": short, "svg": Markup, "share": share,
    }  # fmt: skip
    page = environment.get_template("page.html.j2")
    sections = [section_of(one) for one in judged]
    return page.render(title=title, sections=sections, version=__version__, height=HEIGHT, score_height=SCORE_HEIGHT)


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
        test.rule, test.rule.timezone, _tier_texts(test.rule), _span(test), _facts(one), _weeks(test),
        tuple(budget_lines(test)), own_line(test), dummy_line(test), tuple(lines[:ROWS_MAX]),
        max(0, len(lines) - ROWS_MAX), test.episodes[:ROWS_MAX], max(0, len(test.episodes) - ROWS_MAX),
        tuple(_zoom(one, episode) for episode in loud[:ZOOMS_MAX]),
        tuple(_overview(one, line) for line in lines[:CHARTS_MAX]), max(0, len(lines) - CHARTS_MAX),
        one.change, one.scored, one.dummy_scored, test.held, test.told, test.included, test.end,
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
        ("a week", f"{len(test.episodes) / test.weeks:.1f}"),
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
    chart = draw(_strip(test, line.row), _marks(one, line.labels), test.rule.timezone)
    return Picture(label_text(line.labels), caption, chart, tier.word if tier else "")


def _zoom(one: Judged, episode: Episode) -> Picture:
    test = one.test
    ends = episode.closed_at or test.end
    room = max(HOUR_MS, 20 * test.rule.interval_ms, int(0.75 * (ends - episode.started_at)))
    times = test.tape.times
    first = max(0, int(np.searchsorted(times, episode.started_at - room)))
    stop = max(first + 2, int(np.searchsorted(times, ends + room, side="right")))
    zone = test.rule.timezone
    chart = draw(_strip(test, test.labels.index(episode.labels), first, stop), _marks(one, episode.labels), zone)
    over = f"{str(episode.close).replace('_', ' ')} {when(episode.closed_at, zone)}"
    how = over if episode.closed_at else "still open"
    lasted = rough_duration(ends - episode.opened_at)
    seen = f"peak {short(episode.peak_value)} where {short(episode.peak_expected)} was expected"
    return Picture(label_text(episode.labels), f"{when(episode.opened_at, zone)}, {lasted}, {how}; {seen}", chart,
                   episode.tier.word)  # fmt: skip


def _strip(test: Backtest, row: int, first: int = 0, stop: int | None = None) -> Strip:
    t, there = test.tape, slice(first, stop)
    return Strip(
        t.times[there], t.low[row, there], t.high[row, there], t.expected[row, there], t.lower[row, there],
        t.upper[row, there], t.surprise[row, there], test.cut,
    )  # fmt: skip


def _marks(one: Judged, labels: Labels) -> list[Mark]:
    marks = [Mark(span.start, span.end, "label") for span in one.spans if span.holds(labels)]
    test = one.test
    return marks + [
        Mark(e.opened_at, e.closed_at or test.end, e.tier.word) for e in test.episodes if e.labels == labels
    ]


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


def day_of(ms: int, zone: str) -> str:
    """The day of a time."""
    there = _there(ms, zone)
    return f"{there.day} {there:%b}"


def _there(ms: int, zone: str) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC if zone == "UTC" else ZoneInfo(zone))


def _span(test: Backtest) -> str:
    zone = test.rule.timezone
    return f"{when(test.start, zone)} to {when(test.end, zone)} {zone}"


def label_text(labels: Labels) -> str:
    """A label set for people; the metric's name stands in front."""
    pairs = ", ".join(f"{name}={value}" for name, value in labels if name != "__name__")
    return f"{dict(labels).get('__name__', '')}{{{pairs}}}" if pairs else dict(labels).get("__name__", "{}")


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


