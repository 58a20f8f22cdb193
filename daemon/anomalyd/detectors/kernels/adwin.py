"""ADWIN over many series in packed arrays; widths, totals, variances and detections equal river's bit for bit.

The window of one series is a list of rows; row i holds at most ``most`` + 1 buckets of 2^i samples each, oldest first.
``totals`` and ``variances`` [rows, most + 1] are the buckets' sums and sums of squared deviations, ``fill`` [rows] how
many there are. ``window`` [4]: width, total, sum of squared deviations, samples since the start. ``fill[-1]`` counts
rows in use.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from anomalyd.block import F64, I8, I64, Bool
from anomalyd.detectors.kernels.baseline import expect, fetch, spread_of, teach
from anomalyd.detectors.kernels.jit import kernel, leaf
from anomalyd.detectors.kernels.prefetch import prefetch_cell, prefetch_row

Counts: TypeAlias = I8 | I64
"""Numbers of buckets: none is above ``most`` + 1 or the rows there are, so that a byte each is enough."""
AHEAD = 4
"""Series ahead for which memory is asked."""
USED, NEWEST = 48, 12
"""Cells of the buckets that are asked for: the sums of a window of a thousand samples, and what most samples change."""


@leaf
def forget(totals: F64, variances: F64, fill: Counts, window: F64) -> None:
    """Empty the window; the count of samples starts anew too, as river's detector does after a drift."""
    totals[:] = 0.0
    variances[:] = 0.0
    fill[:] = 0
    fill[-1] = 1
    window[:] = 0.0


@leaf
def push(totals: F64, variances: F64, fill: Counts, row: int, total: float, variance: float) -> None:
    """Append a bucket to a row."""
    at = fill[row]
    totals[row, at] = total
    variances[row, at] = variance
    fill[row] = at + 1


@leaf
def drop(totals: F64, variances: F64, fill: Counts, row: int, count: int) -> None:
    """Remove the oldest buckets of a row."""
    kept = fill[row] - count
    for i in range(kept):
        totals[row, i] = totals[row, i + count]
        variances[row, i] = variances[row, i + count]
    for i in range(kept, fill[row]):
        totals[row, i] = 0.0
        variances[row, i] = 0.0
    fill[row] = kept


@leaf
def drop_oldest(totals: F64, variances: F64, fill: Counts, window: F64) -> None:
    """Remove the oldest bucket of the window."""
    row = fill[-1] - 1
    size = 2.0**row
    total = totals[row, 0]
    mean = total / size
    window[0] -= size
    window[1] -= total
    apart = mean - window[1] / window[0]
    window[2] -= variances[row, 0] + size * window[0] * apart * apart / (size + window[0])
    drop(totals, variances, fill, row, 1)
    if fill[row] == 0 and fill[-1] > 1:
        fill[-1] -= 1


@leaf
def compress(totals: F64, variances: F64, fill: Counts, window: F64, most: int) -> None:
    """Merge the two oldest buckets of every row that overflows into one of the next row."""
    row = 0
    while fill[row] == most + 1:
        if row + 1 == totals.shape[0]:  # the window is as long as there is room for: its oldest bucket goes
            drop_oldest(totals, variances, fill, window)
            return
        if row + 1 == fill[-1]:
            fill[-1] += 1
        size = 2.0**row
        apart = totals[row, 0] / size - totals[row, 1] / size
        between = size * size * apart * apart / (size + size)
        push(
            totals,
            variances,
            fill,
            row + 1,
            totals[row, 0] + totals[row, 1],
            variances[row, 0] + variances[row, 1] + between,
        )
        drop(totals, variances, fill, row, 2)
        if fill[row + 1] <= most:
            break
        row += 1


@leaf
def insert(totals: F64, variances: F64, fill: Counts, window: F64, x: float, most: int) -> None:
    """Take one sample into the window."""
    push(totals, variances, fill, 0, x, 0.0)
    window[0] += 1.0
    if window[0] > 1.0:
        apart = x - window[1] / (window[0] - 1.0)
        window[2] += (window[0] - 1.0) * apart * apart / window[0]
    window[1] += x
    compress(totals, variances, fill, window, most)


@leaf
def confidence_of(window: F64, delta: float) -> float:
    """What all cuts of a window share of the difference that is allowed."""
    return float(np.log(2.0 * np.log(window[0]) / delta))


@leaf
def allowed(n0: float, n1: float, window: F64, confidence: float, least: int) -> float:
    """By how much the means of two parts of the window may differ when nothing has changed (Bifet and Gavaldà's ε)."""
    harmonic = 1.0 / (n0 - least + 1.0) + 1.0 / (n1 - least + 1.0)
    return float(np.sqrt(2.0 * harmonic * (window[2] / window[0]) * confidence) + 2.0 / 3.0 * confidence * harmonic)


@leaf
def find_cut(totals: F64, fill: Counts, window: F64, delta: float, least: int, all_cuts: bool) -> float:
    """Greatest ratio of a cut's difference of means to what is allowed; above 1 is a drift.

    Cuts are tried from the oldest sample on; unless ``all_cuts`` is set, the first ratio above 1 is returned at once.
    """
    n0, n1, u0, u1 = 0.0, window[0], 0.0, window[1]
    worst = 0.0
    confidence = confidence_of(window, delta)
    for row in range(fill[-1] - 1, -1, -1):
        size = 2.0**row
        for k in range(fill[row]):
            n0 += size
            n1 -= size
            u0 += totals[row, k]
            u1 -= totals[row, k]
            if n1 < least or n0 < least:
                continue
            worst = max(worst, abs(u0 / n0 - u1 / n1) / allowed(n0, n1, window, confidence, least))
            if worst > 1.0 and not all_cuts:
                return float(worst)
    return float(worst)


@leaf
def evidence(totals: F64, fill: Counts, window: F64, x: float, delta: float, least: int, scratch: F64) -> float:
    """Greatest ratio over all cuts of the window with x appended; the window itself stays as it is."""
    n = window[0]
    if n < 2 * least:
        return 0.0
    apart = x - window[1] / n
    scratch[0] = n + 1.0
    scratch[1] = window[1] + x
    scratch[2] = window[2] + n * apart * apart / (n + 1.0)
    return float(find_cut(totals, fill, scratch, delta, least, True))


@leaf
def update(
    totals: F64,
    variances: F64,
    fill: Counts,
    window: F64,
    x: float,
    delta: float,
    clock: int,
    most: int,
    least: int,
    grace: int,
) -> bool:
    """Take a sample in and, every ``clock`` samples, drop what is older than a drift; return whether there was one."""
    insert(totals, variances, fill, window, x, most)
    window[3] += 1.0
    if int(window[3]) % clock or window[0] <= grace:
        return False
    drifted = False
    while find_cut(totals, fill, window, delta, least, False) > 1.0:
        drifted = True
        drop_oldest(totals, variances, fill, window)
    return drifted


@leaf
def note(found: I64, spans: I64, at: int, span: int) -> None:
    """Put a drift before the ones that were found earlier; the oldest is forgotten."""
    for i in range(found.shape[0] - 1, 0, -1):
        found[i] = found[i - 1]
        spans[i] = spans[i - 1]
    found[0] = at
    spans[0] = span


@kernel
def fetch_window(totals: F64, variances: F64, fill: Counts, window: F64, drifted: I64, s: int) -> None:
    """Ask for the memory that ``evidence`` and ``update`` will need of series s; buckets as rows of cells."""
    prefetch_cell(window, s, 0)
    prefetch_cell(drifted, s, 0)
    prefetch_row(fill, s)
    prefetch_row(totals, s, USED)
    prefetch_row(variances, s, NEWEST)


@kernel
def drift(
    values: F64, again: int, times: I64, civil: I64, last_hold: Bool, hold: Bool, line: F64, day: F64, week: F64,
    memories: F64, floors: F64, totals: F64, variances: F64, fill: Counts, window: F64, drifted: I64, found: I64,
    spans: I64, quiet_ms: int, settled: int, reach: float, delta: float, clock: int, most: int, least: int,
    score: F64, expected: F64,
) -> None:  # fmt: skip
    """Score each residual by the evidence that the window with it holds two means, then take it into the window.

    The first ``again`` columns were scored before and are learned once more, with their own ``last_hold``; ``score``
    and ``expected`` are those of the columns behind them.

    ``drifted`` [N, 2]: whether the last update found a drift, number of drifts so far. After a drift the expectation's
    level moves to the mean of what is left of the window (if by more than a spread), and the window starts anew. It is
    noted in ``found`` and ``spans`` (see ``drift.py``), unless one was within ``quiet_ms``; when it began is left open,
    because the window still holds some of what was before.
    """
    scratch = np.zeros(4)
    cells = totals.shape[1] * totals.shape[2]
    all_totals, all_variances = totals.reshape(len(totals), cells), variances.reshape(len(variances), cells)
    for s in range(values.shape[0]):
        if values.shape[1]:
            fetch(line, day, week, s + AHEAD, civil[0])
            fetch_window(all_totals, all_variances, fill, window, drifted, s + AHEAD)
        for t in range(values.shape[1]):
            value = values[s, t]
            normal = np.nan
            if line[s, 2] > 0.0:
                normal = expect(line[s], day[s], week[s], civil[t])
            if t >= again:
                expected[s, t - again] = normal
            if np.isnan(value):
                continue
            ready = line[s, 2] >= settled
            spread = spread_of(line[s], floors[0], floors[1])
            z = min(max((value - normal) / spread, -reach), reach) if ready else 0.0
            if ready and t >= again:
                found_now = 0.0  # right after a drift there is no window to compare with
                if drifted[s, 0] == 0:
                    found_now = evidence(totals[s], fill[s], window[s], z, delta, least, scratch)
                score[s, t - again] = found_now
            if (last_hold if t < again else hold)[s]:
                continue
            teach(line[s], day[s], week[s], civil[t], value, memories, floors)
            if not ready:
                continue
            if drifted[s, 0] == 1:
                forget(totals[s], variances[s], fill[s], window[s])
            new = update(totals[s], variances[s], fill[s], window[s], z, delta, clock, most, least, 10)
            drifted[s, 0] = 1 if new else 0
            if new:
                drifted[s, 1] += 1
                if times[t] - found[s, 0] >= quiet_ms:
                    note(found[s], spans[s], times[t], 0)
                shift = window[s, 1] / window[s, 0]
                if abs(shift) > 1.0:  # smaller ones are noise as often as not, and the level follows by itself
                    line[s, 0] += shift * spread
