"""Charts as SVG: a series with its band and episodes, and its score below. Pure; no script and no font is needed.

A chart is stretched to the width of its place, so it holds no text; lines keep their width. Colours come from the
page's style sheet by class. ``hover.js`` on the page reads values back from the points and the ``data-`` attributes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from anomalyd.block import F32, F64, I64
from anomalyd.ticks import Tick, round_numbers, time_ticks

WIDTH, HEIGHT, SCORE_HEIGHT = 1000.0, 180.0, 46.0
COLUMNS_MAX = 700
FLAG, FLAG_WIDTH = 6.0, 8.0
"""Height and least width of the flag of a marked span."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A span to shade: an episode (with its tier), a labelled span (tier "label") or a holiday (tier "day").

    ``title`` is shown to whoever points at it.
    """

    start: int
    end: int
    tier: str
    title: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """What one chart shows of one series; arrays [C]."""

    times: I64
    low: F32
    high: F32
    expected: F32
    lower: F32
    upper: F32
    surprise: F32
    cut: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Two drawings and the labels around them; ``step`` is milliseconds a column."""

    body: str
    score: str
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    first: int
    last: int
    low: float
    high: float
    top: float
    cut_at: float


def reduce_strip(strip: Strip, columns: int = COLUMNS_MAX) -> Strip:
    """Make a strip short enough to draw: lows stay low, highs stay high, the band is the usual one."""
    per = -(-len(strip.times) // columns)
    if per <= 1:
        return strip
    edges = np.arange(0, len(strip.times), per)

    def fold(values: F32, how: np.ufunc) -> F32:
        folded: F32 = how.reduceat(values, edges)
        return folded

    def mean(values: F32) -> F32:
        count = np.add.reduceat(np.isfinite(values).astype(np.float64), edges)
        total = np.add.reduceat(np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0), edges)
        averaged: F32 = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
        return averaged

    return Strip(
        strip.times[edges], fold(strip.low, np.fmin), fold(strip.high, np.fmax), mean(strip.expected),
        mean(strip.lower), mean(strip.upper), fold(strip.surprise, np.fmax), strip.cut,
    )  # fmt: skip


def draw(strip: Strip, marks: Sequence[Mark], zone: str = "UTC") -> Chart:
    """Draw one series; its time axis is of the time zone."""
    strip = reduce_strip(strip)
    first, last = int(strip.times[0]), int(strip.times[-1])
    low, high = _range(strip)
    length = max(1, last - first)

    def x(times: I64) -> F64:
        return np.asarray((times - first) / length * WIDTH, np.float64)

    def y(values: F32) -> F64:
        share = (np.clip(values.astype(np.float64), low, high) - low) / (high - low)
        return np.asarray(HEIGHT - share * HEIGHT, np.float64)

    xs = x(strip.times)
    shades = "".join(_shade(mark, first, last, length, "mark") for mark in marks)
    # A short episode in a long span is a hair: a flag at the edge says that it is there, and of which kind.
    flags = "".join(_shade(mark, first, last, length, "flag") for mark in marks)
    body = (
        shades
        + _area(xs, y(strip.lower), y(strip.upper), "band")
        + _line(xs, y(strip.expected), "expected")
        + _area(xs, y(strip.low), y(strip.high), "range")
        + _line(xs, y(strip.high), "value")
        + flags
    )
    top = max(1.5 * strip.cut if math.isfinite(strip.cut) else 1.0, 1.0)
    surprise = np.clip(np.nan_to_num(strip.surprise.astype(np.float64)), 0, top)
    floor = np.full(len(xs), SCORE_HEIGHT)
    cut_at = 1 - min(1.0, strip.cut / top)
    score = shades + _area(xs, SCORE_HEIGHT * (1 - surprise / top), floor, "score")
    level = f"{cut_at * SCORE_HEIGHT:.1f}"
    score += f'<line class="cut" x1="0" x2="{WIDTH:g}" y1="{level}" y2="{level}"/>'
    return Chart(body, score, time_ticks(first, last, zone), _levels(low, high), first, last, low, high, top, cut_at)


def _levels(low: float, high: float) -> tuple[Tick, ...]:
    """The values beside the axis; of a series that hardly moves, where all would read the same, its level alone."""
    ticks = tuple(Tick(1 - (v - low) / (high - low), short(v)) for v in round_numbers(low, high))
    same = len({tick.text for tick in ticks}) < len(ticks)
    return (Tick(0.5, short((low + high) / 2)),) if same else ticks


def _range(strip: Strip) -> tuple[float, float]:
    """What the y axis spans: the values whole, the band as far as it does not dwarf them."""
    values = np.concatenate([strip.low, strip.high, strip.expected]).astype(np.float64)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = max(high - low, 1e-9 * max(1.0, abs(high)))
    for edge in (strip.lower, strip.upper):
        band = edge[np.isfinite(edge)].astype(np.float64)
        band = band[(band > low - room) & (band < high + room)]
        if len(band):
            low, high = min(low, float(band.min())), max(high, float(band.max()))
    pad = 0.05 * max(high - low, 1e-6 * max(1.0, abs(high)))
    return low - pad, high + pad


def _shade(mark: Mark, first: int, last: int, length: int, kind: str) -> str:
    a = max(0.0, (mark.start - first) / length * WIDTH)
    b = min(WIDTH, (min(mark.end, last) - first) / length * WIDTH)
    if b < 0 or a > WIDTH:
        return ""
    if kind == "mark":
        shade = f'<rect class="mark {mark.tier}" x="{a:.1f}" width="{max(1.5, b - a):.1f}" y="0" height="100%"'
        return f"{shade}><title>{escape(mark.title)}</title></rect>" if mark.title else f"{shade}/>"
    if mark.tier == "day":
        return ""
    wide, top = max(FLAG_WIDTH, b - a), HEIGHT - FLAG if mark.tier == "label" else 0
    place = f'x="{(a + b - wide) / 2:.1f}" width="{wide:.1f}" y="{top:g}" height="{FLAG:g}"'
    return f'<rect class="flag {mark.tier}" {place}/>'


def _runs(*columns: F64) -> list[slice]:
    """Stretches without a gap."""
    there = np.isfinite(np.stack(columns)).all(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], there.astype(np.int8), [0]])))
    return [slice(a, b) for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]


def _points(xs: F64, ys: F64) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs.tolist(), ys.tolist(), strict=True))


def _line(xs: F64, ys: F64, kind: str) -> str:
    return "".join(f'<polyline class="{kind}" points="{_points(xs[run], ys[run])}"/>' for run in _runs(ys))


def _area(xs: F64, one: F64, other: F64, kind: str) -> str:
    parts = []
    for run in _runs(one, other):
        points = f"{_points(xs[run], one[run])} {_points(xs[run][::-1], other[run][::-1])}"
        parts.append(f'<polygon class="{kind}" points="{points}"/>')
    return "".join(parts)


def short(value: float) -> str:
    """A number as an axis shows it: 1.5k, 20M, 0.03."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return "0" if abs(value) < 1e-300 else f"{value:.4g}"
