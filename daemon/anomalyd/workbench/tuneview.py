"""What tuning shows: the highest-scoring places, what each threshold would have paged, the change as a diff. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomalyd.block import F64, Labels
from anomalyd.clock import HOUR_MS
from anomalyd.episode import Episode
from anomalyd.rule import Rule, RuleGroup
from anomalyd.rulefiles.edit import edit_rule, patch
from anomalyd.rulefiles.read import RuleSet
from anomalyd.rulefiles.write import write_rules
from anomalyd.workbench.backtest import Backtest
from anomalyd.workbench.report.figures import Alarm, Change, alarms_above, alarms_of, budget_lines, compare
from anomalyd.workbench.truth import Truth, touches
from anomalyd.workbench.tuning import Tuned


@dataclass(frozen=True, slots=True)
class Peak:
    """A place where a series scored highest: ``paged`` says that the rule raised an alert there."""

    row: int
    labels: Labels
    at: int
    surprise: float
    value: float
    expected: float
    paged: bool


def peaks(test: Backtest, most: int = 12) -> list[Peak]:
    """The highest-scoring places, highest first: one for each alert, and for each stretch of a series without one."""
    apart = max(HOUR_MS, 10 * test.rule.interval_ms)
    chosen: list[tuple[int, int]] = []
    shown: set[str] = set()
    mine: dict[Labels, list[Episode]] = {}
    for episode in test.episodes:
        mine.setdefault(episode.labels, []).append(episode)
    found: list[Peak] = []
    hits, times = test.hits, test.tape.times
    for i in np.argsort(-hits.surprise, kind="stable").tolist():
        row, at = int(hits.row[i]), int(hits.at[i])
        if any(row == r and abs(at - t) < apart for r, t in chosen):
            continue
        labels = test.labels[row]
        told = next((e for e in mine.get(labels, ()) if _within(e, at, test.end)), None)
        if told is not None and told.id in shown:
            continue
        shown |= {told.id} if told is not None else set()
        chosen.append((row, at))
        column = int(np.searchsorted(times, at, side="right")) - 1
        high, low = float(test.tape.high[row, column]), float(test.tape.low[row, column])
        expected = float(test.tape.expected[row, column])
        value = high if not abs(low - expected) > abs(high - expected) else low
        found.append(Peak(row, labels, at, float(hits.surprise[i]), value, expected, told is not None))
        if len(found) == most:
            break
    return found


def _within(episode: Episode, at: int, end: int) -> bool:
    return episode.started_at <= at <= (episode.closed_at or end)


BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float] | F64) -> str:
    """Values as small bars, a blank where there is none."""
    array = np.asarray(values, np.float64)
    known = array[np.isfinite(array)]
    if not len(known):
        return " " * len(array)
    low, room = float(known.min()), float(known.max() - known.min())
    steps = np.zeros(len(array)) if room <= 0 else np.nan_to_num((array - low) / room)
    return "".join(
        BLOCKS[min(len(BLOCKS) - 1, int(step * len(BLOCKS)))] if there else " "
        for step, there in zip(steps.tolist(), np.isfinite(array).tolist(), strict=True)
    )


def around(test: Backtest, peak: Peak, width: int = 32) -> F64:
    """The values around a peak, ``width`` columns with it in the middle; NaN beyond the ends."""
    column = int(np.searchsorted(test.tape.times, peak.at, side="right")) - 1
    values = np.full(width, np.nan)
    first = column - width // 2
    there = slice(max(0, first), min(len(test.tape.times), first + width))
    outer = test.tape.high if peak.value >= peak.expected else test.tape.low
    values[there.start - first : there.stop - first] = outer[peak.row, there]
    return values


@dataclass(frozen=True, slots=True)
class ThresholdLine:
    """What a cut would have paged; ``found`` of the known anomalies, None where nothing is known."""

    name: str
    cut: float
    alerts: int
    per_week: float
    found: int | None


def threshold_lines(test: Backtest, truth: Truth) -> list[ThresholdLine]:
    """What each budget would have paged, the rule as it is first."""
    own = ThresholdLine("this rule", test.cut, len(test.episodes), len(test.episodes) / test.weeks,
                        _found(test, truth, alarms_of(test.episodes, test.end)))  # fmt: skip
    lines = [own]
    for line in budget_lines(test):
        raised = alarms_above(test, np.full(len(test.hits.at), line.cut))
        lines.append(ThresholdLine(line.name, line.cut, line.episodes, line.per_week, _found(test, truth, raised)))
    return lines


def _found(test: Backtest, truth: Truth, raised: Sequence[Alarm]) -> int | None:
    if not truth.real:
        return None
    slack = test.rule.for_ms + test.rule.interval_ms
    return sum(any(touches(alarm, span, slack) for alarm in raised) for span in truth.real)


def file_diff(changes: Sequence[tuple[Rule, Rule]], text: str, path: str) -> list[str]:
    """Changes of rules as a diff of their own file for ``patch -p1``; empty where one cannot be made in place."""
    after = text
    for old, new in changes:
        edited = edit_rule(after, old, new)
        if edited is None:
            return []
        after = edited
    return patch(text, after, path)


def yaml_diff(old: Rule, new: Rule) -> list[str]:
    """The change as a unified diff of the rule in YAML, as the daemon writes it."""
    before, after = (write_rules(RuleSet((RuleGroup(r.group, r.interval_ms, (r,)),))).splitlines() for r in (old, new))
    file = old.where.rpartition(":")[0] or old.where or "rules.yml"
    return list(difflib.unified_diff(before, after, file, f"{file} (tuned)", lineterm=""))


def consequence(tuned: Tuned) -> str:
    """What the best version would have changed, in a sentence: where a part was held out, there."""
    assert tuned.best is not None, "only a change has a consequence"
    old, new = tuned.base.later or tuned.base, tuned.best.later or tuned.best
    change: Change = compare(new.test, old.test)
    parts = []
    if change.lost:
        parts.append(f"removed {_counted(len(change.lost), 'alert')}")
    if change.gained:
        parts.append(f"raised {_counted(len(change.gained), 'other alert')}")
    kept = len(old.found & new.found)
    if kept:
        known = "labelled" if tuned.truth.complete else "confirmed"
        parts.append(f"kept {({1: f'the {known} one', 2: f'both {known} ones'}).get(kept, f'all {kept} {known} ones')}")
    more = len(new.found - old.found)
    if more:
        parts.append(f"found {_counted(more, 'anomaly', 'anomalies')} that it misses")
    if not parts:
        return "would have raised the same alerts"
    return "would have " + (" and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0])


def _counted(number: int, one: str, many: str = "") -> str:
    return f"1 {one}" if number == 1 else f"{number} {many or one + 's'}"
