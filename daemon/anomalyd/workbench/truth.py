"""What is known of a rule's past: labelled spans from a file, or what people said in the daemon.

A file is taken to be complete: what it does not name was normal. What people said is not: an alert that nobody judged
is unknown, and counts neither as right nor as wrong.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomalyd.block import Labels
from anomalyd.durations import read_time
from anomalyd.errors import ConfigError, Problem
from anomalyd.feedback.belief import FeedbackPolicy
from anomalyd.feedback.votes import counted, labels_of
from anomalyd.matcher import matches, parse_matchers
from anomalyd.records import FeedbackLabel, Matcher
from anomalyd.rule import Rule
from anomalyd.store import Store
from anomalyd.workbench.report.figures import Alarm, Span

RESERVED = ("rule", "series", "start", "end")


@dataclass(frozen=True, slots=True)
class Row(Span):
    """A line of the file: one anomaly, on the series that all matchers hold for, of one rule or (empty) of any."""

    rule: str = ""
    matchers: tuple[Matcher, ...] = ()

    def holds(self, labels: Labels) -> bool:
        return matches(self.matchers, dict(labels))


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of one rule in a span of time.

    Attributes:
        real: anomalies.
        refuted: alerts that people called false or expected.
        complete: whatever is not ``real`` was normal; else only ``refuted`` is known to be.
        origin: where it comes from, for people.
    """

    real: tuple[Span, ...]
    refuted: tuple[Span, ...] = ()
    complete: bool = True
    origin: str = "labels"

    def __bool__(self) -> bool:
        return bool(self.real or self.refuted)

    def known(self, alarm: Alarm, slack_ms: int) -> bool:
        """Whether it is known if the alarm is right."""
        return self.complete or any(touches(alarm, span, slack_ms) for span in (*self.real, *self.refuted))


def touches(alarm: Alarm, span: Span, slack_ms: int) -> bool:
    """Whether an alarm opened in a span (``slack_ms`` late still counts), or was still open when it began."""
    ends = alarm.closed_at or alarm.opened_at
    return span.holds(alarm.labels) and alarm.opened_at <= span.end + slack_ms and ends >= span.start


def read_rows(path: Path) -> list[Row]:
    """Read labelled spans; raise ``ConfigError`` with the line.

    CSV with the columns start and end; rule (name or id) and series (matchers) may be given, every other column is a
    label that the series carries. An empty cell restricts nothing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"start", "end"} <= set(reader.fieldnames or ()):
                problem = Problem(str(path), 1, 1, "the first line must name the columns start and end",
                                  "for example: rule,series,start,end")  # fmt: skip
                raise ConfigError([problem])
            return [_row(row, path, reader.line_num) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError([Problem(str(path), 0, 0, f"cannot be read: {error}")]) from error


def _row(row: dict[str, str | None], path: Path, line: int) -> Row:
    try:
        start, end = read_time(row["start"] or ""), read_time(row["end"] or "")
        matchers = parse_matchers(row["series"] or "") if (row.get("series") or "").strip() else ()
    except ValueError as error:
        raise ConfigError([Problem(str(path), line, 1, str(error))]) from None
    if None in row:
        raise ConfigError([Problem(str(path), line, 1, "has more cells than the first line",
                                   "put a cell that holds a comma in double quotes")])  # fmt: skip
    if end < start:
        raise ConfigError([Problem(str(path), line, 1, "the span ends before it starts")])
    pairs = tuple(Matcher(k, "=", v) for k, v in row.items() if k and k not in RESERVED and v)
    return Row(start, end, (), row.get("rule") or "", matchers + pairs)


def labelled(rows: Iterable[Row], rule: Rule, series: Sequence[Labels], start: int, end: int) -> Truth:
    """What the file says of a rule's series between two times."""
    inside = [row for row in rows if row.rule in ("", rule.name, rule.id) and row.end >= start and row.start <= end]
    return Truth(tuple(row for row in inside if any(row.holds(labels) for labels in series)))


def said(store: Store, rule: Rule, policy: FeedbackPolicy, start: int, end: int) -> Truth:
    """What people said of a rule's alerts and of what it missed between two times."""
    votes = counted(store.feedback(rule=rule.id), policy)
    verdicts = labels_of(votes)
    labels = {row.fingerprint: row.labels for row in store.series(rule.id)}
    real, refuted = [], []
    for e in store.episodes(rule=rule.id, start=start, end=end + 1, limit=100_000):
        verdict = verdicts.get(e.id)
        if verdict == FeedbackLabel.TRUE:
            real.append(Span(e.started_at, e.closed_at or end, e.labels))
        elif verdict is not None:
            refuted.append(Span(e.started_at, e.closed_at or end, e.labels))
    missed = [v for v in votes if v.label == FeedbackLabel.MISSED and v.start <= end and v.end >= start]
    real += [Span(vote.start, vote.end, labels.get(vote.fingerprint, ())) for vote in missed]
    return Truth(tuple(real), tuple(refuted), False, "feedback")
