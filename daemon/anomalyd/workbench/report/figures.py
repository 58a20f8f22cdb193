"""Figures of a backtest: per week and tier, per series, by budget, beside a dummy, against labels and another version.

Pure. The table of budgets and the dummy count spans of abnormal samples by the rule's own ``for`` and
``keep_firing_for``, but learn from every sample: only the rule's own line was lived through.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, Labels
from anomalyd.clock import DAY_MS, WEEK_MS
from anomalyd.durations import format_budget, read_time
from anomalyd.episode import Episode
from anomalyd.errors import ConfigError, Problem
from anomalyd.rule import Budget, Rule, TierPolicy
from anomalyd.score import TIERS, Tier
from anomalyd.threshold import initial_threshold
from anomalyd.workbench.backtest import Backtest

BUDGETS = (Budget(1, DAY_MS), Budget(1, WEEK_MS), Budget(1, 30 * DAY_MS), Budget(1, 13 * WEEK_MS))
DUMMY_SIGMA = 3.0


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """One series in the table: episodes by tier, time in episodes, largest surprise of any."""

    labels: Labels
    episodes: int
    tiers: tuple[int, int, int]
    open_ms: int
    peak_surprise: float
    row: int


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """What a cut would have given: episodes in all, a week, and on how many series."""

    name: str
    cut: float
    episodes: int
    per_week: float
    series: int


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled anomaly; ``labels`` are pairs that its series carry, none for every series. Milliseconds."""

    start: int
    end: int
    labels: Labels = ()

    def holds(self, labels: Labels) -> bool:
        return set(self.labels) <= set(labels)


@dataclass(frozen=True, slots=True)
class Scored:
    """Episodes against labelled spans; precision, recall and delay are None where there is nothing to divide by."""

    spans: int
    found: int
    episodes: int
    right: int
    delay_ms: int | None

    @property
    def precision(self) -> float | None:
        return self.right / self.episodes if self.episodes else None

    @property
    def recall(self) -> float | None:
        return self.found / self.spans if self.spans else None


@dataclass(frozen=True, slots=True)
class Change:
    """What a version of a rule does that another does not; ``lost_confirmed`` are lost ones on labelled spans."""

    gained: tuple[Episode, ...]
    lost: tuple[Episode, ...]
    lost_confirmed: tuple[Episode, ...]
    both: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """An episode of a counted rule, as far as scoring it needs."""

    labels: Labels
    opened_at: int
    closed_at: int = 0


def week_counts(test: Backtest) -> list[tuple[int, dict[Tier, int]]]:
    """Episodes opened in each week from the start of the span, by tier: (start of the week, counts)."""
    weeks = range(test.start, test.end + 1, WEEK_MS)
    return [
        (week, {t: sum(e.tier == t and week <= e.opened_at < week + WEEK_MS for e in test.episodes) for t in TIERS})
        for week in weeks
    ]


def series_lines(test: Backtest) -> list[SeriesLine]:
    """A line for each series, those with most to tell first."""
    mine: dict[Labels, list[Episode]] = {}
    for episode in test.episodes:
        mine.setdefault(episode.labels, []).append(episode)
    surprise = test.tape.surprise
    peaks = np.fmax.reduce(surprise, axis=1, initial=0.0) if surprise.size else np.zeros(len(test.labels))
    lines = []
    for row, labels in enumerate(test.labels):
        found = mine.get(labels, [])
        tiers = tuple(sum(e.tier == tier for e in found) for tier in TIERS)
        open_ms = sum((e.closed_at or test.end) - e.opened_at for e in found)
        lines.append(SeriesLine(labels, len(found), (tiers[0], tiers[1], tiers[2]), open_ms, float(peaks[row]), row))
    return sorted(lines, key=lambda line: (-line.episodes, -line.peak_surprise, line.labels))


def budget_lines(test: Backtest) -> list[BudgetLine]:
    """What other budgets would have paged."""
    lines = []
    for budget in BUDGETS:
        if budget.count * test.rule.interval_ms > budget.period_ms:
            continue
        policy = TierPolicy(Tier.WARNING, budget)
        cut = initial_threshold(replace(test.rule, tiers=(policy,)), max(1, len(test.labels))).lowest
        runs = alarms_above(test, np.full(len(test.hits.at), cut))
        series = len({alarm.labels for alarm in runs})
        lines.append(BudgetLine(format_budget(budget), cut, len(runs), len(runs) / test.weeks, series))
    return lines


def alarms_above(test: Backtest, cuts: F64) -> list[Alarm]:
    """What other cuts, one a hit [H], would have paged: as in the daemon, an alarm begins by what is news."""
    over = test.hits.surprise > cuts
    above = test.hits.take(over)
    begins = np.nan_to_num(above.opens) > cuts[over]
    return alarms(test.rule, above.row, above.at, test.labels, begins)


def alarms(
    rule: Rule, rows: I64, times: I64, labels: Sequence[Labels], begins: Bool | None = None
) -> list[Alarm]:
    """Spans that samples make, under the rule's ``for`` and ``keep_firing_for``; samples in order of time.

    ``begins`` tells by which of them a span may begin; None: by any.
    """
    order = np.lexsort((times, rows))
    found: list[Alarm] = []
    row, since, last, opened = -1, 0, 0, 0

    def close() -> None:
        if opened:
            found.append(Alarm(labels[row], opened, last + rule.interval_ms + rule.keep_firing_for_ms))

    for i in order.tolist():
        at = int(times[i])
        gap = rule.interval_ms + (rule.keep_firing_for_ms if opened else 0)
        if rows[i] != row or at - last > gap:
            close()
            row, since, opened = int(rows[i]), at, 0
            if begins is not None and not begins[i]:
                row = -1  # nothing began, so nothing goes on
                continue
        last = at
        if not opened and at - since >= rule.for_ms:
            opened = at
    close()
    return sorted(found, key=lambda alarm: (alarm.opened_at, alarm.labels))


def dummy_alarms(test: Backtest) -> list[Alarm]:
    """What three standard deviations around the mean of the history before the span would have paged."""
    block, rule = test.history, test.rule
    past = _columns(block, 0, test.start)
    span = _columns(block, test.start, test.end + 1)
    there = np.isfinite(past).any(axis=1)
    mean, spread = np.zeros(len(block)), np.full(len(block), np.inf)
    mean[there], spread[there] = np.nanmean(past[there], axis=1), np.nanstd(past[there], axis=1)
    deviation = span - mean[:, None]
    far = np.abs(deviation) > DUMMY_SIGMA * spread[:, None]
    if rule.direction != "both":
        far &= deviation > 0 if rule.direction == "up" else deviation < 0
    rows, columns = np.nonzero(far)
    times = block.times[(block.times >= test.start) & (block.times <= test.end)]
    labels = [tuple(p for p in ls if p[0] not in rule.drop_labels) for ls in block.labels]
    return alarms(rule, rows, times[columns], labels)


def _columns(block: Block, start: int, stop: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    inside = (block.times >= start) & (block.times < stop)
    first, last = int(np.argmax(inside)), int(inside.sum())
    return block.values[:, first : first + last]


def read_spans(path: Path) -> list[Span]:
    """Read labelled anomalies: CSV with the columns start, end and any label names; empty cells match all series.

    Times are RFC 3339 (UTC where they name no zone), seconds or milliseconds. Raises ``ConfigError`` with the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"start", "end"} <= set(reader.fieldnames or ()):
                raise ConfigError([Problem(str(path), 1, 1, "the first line must name the columns start and end",
                                           "for example: start,end,host")])  # fmt: skip
            return [_span(row, path, reader.line_num) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([Problem(str(path), 0, 0, f"cannot be read: {error}")]) from error


def _span(row: dict[str, str | None], path: Path, line: int) -> Span:
    try:
        start, end = read_time(row["start"] or ""), read_time(row["end"] or "")
    except ValueError as error:
        raise ConfigError([Problem(str(path), line, 1, str(error))]) from None
    if end < start:
        raise ConfigError([Problem(str(path), line, 1, "the span ends before it starts")])
    pairs = sorted((k, v) for k, v in row.items() if k and k not in ("start", "end") and v)
    return Span(start, end, tuple(pairs))


def score(alarms: Sequence[Alarm], spans: Iterable[Span], start: int, end: int, slack_ms: int) -> Scored:
    """Hold episodes against the labelled spans that lie in the backtest; opening ``slack_ms`` late still counts."""
    inside = [span for span in spans if span.end >= start and span.start <= end]
    right = sum(any(_hits(alarm, span, slack_ms) for span in inside) for alarm in alarms)
    delays = []
    for span in inside:
        own = [alarm.opened_at for alarm in alarms if _hits(alarm, span, slack_ms)]
        if own:
            delays.append(max(0, min(own) - span.start))
    delay = int(median(delays)) if delays else None
    return Scored(len(inside), len(delays), len(alarms), right, delay)


def _hits(alarm: Alarm, span: Span, slack_ms: int) -> bool:
    """The alarm opened in the span, or was still open when it began."""
    ends = alarm.closed_at or alarm.opened_at
    return span.holds(alarm.labels) and alarm.opened_at <= span.end + slack_ms and ends >= span.start


def alarms_of(episodes: Iterable[Episode], end: int) -> list[Alarm]:
    """Episodes as alarms; one that is still open lasts to the end."""
    return [Alarm(e.labels, e.opened_at, e.closed_at or end) for e in episodes]


def compare(new: Backtest, old: Backtest, confirmed: Iterable[Span] = ()) -> Change:
    """What a version of a rule pages that another does not, and the other way round."""
    gained = _without(new.episodes, old.episodes, new.end)
    lost = _without(old.episodes, new.episodes, new.end)
    spans = list(confirmed)
    slack = new.rule.for_ms + new.rule.interval_ms
    real = tuple(e for e in lost if any(_hits(a, s, slack) for a in alarms_of([e], new.end) for s in spans))
    return Change(gained, lost, real, len(new.episodes) - len(gained))


def _without(episodes: Sequence[Episode], others: Sequence[Episode], end: int) -> tuple[Episode, ...]:
    by_series: dict[Labels, list[Episode]] = {}
    for other in others:
        by_series.setdefault(other.labels, []).append(other)
    return tuple(e for e in episodes if not any(overlap(e, o, end) for o in by_series.get(e.labels, ())))


def overlap(a: Episode, b: Episode, end: int) -> bool:
    """Whether two episodes of one series share a time."""
    return a.started_at <= (b.closed_at or end) and b.started_at <= (a.closed_at or end)
