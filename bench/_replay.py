"""What `anomalyd run` would tell of one series: it lives through the daemon's own evaluation.

The rule is the shipped one (`auto`, a budget of one alarm a week unless another is asked for, every default), on one
series, begun with its first sample: no history, no label. A backtest is the daemon with another clock, so what it sends
is what the daemon would have sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anomalyd import logs
from anomalyd.block import F64, I64, Block, make_labels
from anomalyd.clock import WEEK_MS
from anomalyd.incident import Reason
from anomalyd.rule import Budget, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.workbench.backtest import Backtest, backtest

MOST_GAPS = 20
"""Slots a sample; a series with fewer samples is no series on a grid."""


@dataclass(frozen=True, slots=True, eq=False)
class OnGrid:
    """A series on the grid of its step: one row, the index [T] of the newest sample by each slot, samples in all."""

    block: Block
    index: I64
    samples: int


def on_grid(times: I64, values: F64, step: int) -> OnGrid:
    """Samples on the grid of the step; of several in one slot the last counts."""
    if (times[-1] - times[0]) // step > MOST_GAPS * len(times):
        # Nearly all of it is missing: it is lived through without its gaps.
        times = times[0] + step * np.arange(len(times), dtype=np.int64)
    slots = -(-times // step)
    last = np.append(slots[1:] != slots[:-1], True)
    grid = np.arange(slots[0], slots[-1] + 1, dtype=np.int64)
    place = slots[last] - slots[0]
    row = np.full((1, len(grid)), np.nan)
    row[0, place] = values[last]
    index = np.full(len(grid), -1)
    index[place] = np.flatnonzero(last)
    return OnGrid(
        Block((make_labels({"series": "0"}),), grid * step, row), np.maximum.accumulate(index), len(times)
    )  # fmt: skip


def shipped_rule(step: int, budget_ms: int = WEEK_MS) -> Rule:
    """The rule with nothing but its budget."""
    return Rule(
        "Detection", "bench", "series", interval_ms=step, query_delay_ms=0, receivers=("bench",),
        tiers=(TierPolicy(Tier.WARNING, Budget(1, budget_ms)),),
    )  # fmt: skip


def cut_of(step_ms: int, budget_ms: int) -> float:
    """The surprise that a budget allows, as ``threshold.initial_threshold`` has it."""
    return max(0.3, math.log10(budget_ms / step_ms))


def live_through(series: OnGrid, step: int, budget_ms: int = WEEK_MS) -> Backtest:
    """Live through a series from its first sample on."""
    logs.configure("error")
    times = series.block.times
    return backtest(shipped_rule(step, budget_ms), series.block, int(times[1]), int(times[-1]))


def notified(times: I64, values: F64, step: int, budget_ms: int = WEEK_MS) -> F64:
    """Signal [T]: surprise in units of the rule's cut where somebody is told of an episode, 0 elsewhere."""
    series = on_grid(times, values, step)
    if len(series.block.times) < 3:
        return np.zeros(len(times))
    return told(live_through(series, step, budget_ms), series, cut_of(step, budget_ms))


def told(lived: Backtest, series: OnGrid, cut: float, row: int = 0) -> F64:
    """What was sent, as ``notified``, of the series or group in this row of what was lived through.

    Told is that an episode has opened (later where `suppress` holds it back, not at all where it is over by then), and
    that it has gone far beyond what it was.
    """
    signal = np.zeros(series.samples)
    tape, incidents = lived.tape, {episode.incident for episode in lived.episodes}
    first, step = int(series.block.times[0]), lived.rule.interval_ms
    for one in lived.sent:
        # The end is no page, and an incident of the data's quality is none of the detector's.
        if one.reason == Reason.RESOLVED or one.incident not in incidents:
            continue
        column = int(np.searchsorted(tape.times, one.at, side="right")) - 1
        surprise = float(tape.surprise[row, column])
        # Where the sample is missing there is no surprise; whatever is told was above the cut.
        at = series.index[(one.at - first) // step]
        signal[at] = max(surprise / cut if math.isfinite(surprise) else 1.0, 1.0 + 1e-6)
    return signal
