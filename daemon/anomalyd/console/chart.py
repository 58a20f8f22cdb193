"""The chart of an episode as SVG, drawn by us: value against band, the abnormal span shaded. Pure.

Times are in UTC, as in all words of the page. Only numbers and times go into it, never a label, so there is nothing to
escape. Colours are classes of the page's stylesheet, which has a light and a dark set.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from anomalyd.block import F64, I64, Bool
from anomalyd.render import number
from anomalyd.score import Observation
from anomalyd.ticks import round_numbers, time_ticks

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 84, 12, 12, 30
MAX_POINTS = 600

OfTime = Callable[[int], float]
OfValue = Callable[[float], float]


def episode_chart(seen: Sequence[Observation], start: int, end: int) -> str:
    """Draw one series' observations (each with at most that series); empty when there are too few to see anything."""
    rows = [o for o in seen if len(o.value)]
    times = np.array([o.at for o in rows], np.int64)
    value, lower, upper = (np.array([getattr(o, name)[0] for o in rows], float) for name in ("value", "lower", "upper"))
    if np.isfinite(value).sum() < 2:
        return ""
    low, high = _limits(value, lower, upper)
    first, last = int(times[0]), int(times[-1])

    def x(at: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - first) / max(1, last - first)

    def y(v: float) -> float:
        inside = min(max(v, low), high)
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - inside) / (high - low)

    keep = _thinned(value)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="value over time against the expected band">',
        (f'<rect class="span" x="{x(max(start, first)):.1f}" y="{TOP}" height="{HEIGHT - TOP - BOTTOM}" '
        f'width="{max(2.0, x(min(max(end, start), last)) - x(max(start, first))):.1f}"/>'),
        *_band(times, lower, upper, keep, x, y),
        *_line(times, value, keep, x, y),
        *_axes(low, high, first, last, x, y),
        "</svg>",
    ]
    return "".join(parts)


def _limits(value: F64, lower: F64, upper: F64) -> tuple[float, float]:
    """The range that is shown: all values, and the band as far as it does not flatten them."""
    finite = value[np.isfinite(value)]
    low, high = float(finite.min()), float(finite.max())
    room = max(high - low, abs(high) * 1e-6, 1e-12)
    band = np.concatenate([lower[np.isfinite(lower)], upper[np.isfinite(upper)]])
    if len(band):
        low, high = min(low, max(float(band.min()), low - room)), max(high, min(float(band.max()), high + room))
    pad = max(high - low, 1e-12, abs(high) * 1e-9) * 0.05
    return low - pad, high + pad


def _thinned(value: F64) -> I64:
    """Which points are drawn: where there are too many, the lowest and the highest of each small stretch."""
    n = len(value)
    if n <= MAX_POINTS:
        return np.arange(n)
    edges = np.linspace(0, n, MAX_POINTS // 2 + 1).astype(int)
    kept: set[int] = {0, n - 1}
    for a, b in itertools.pairwise(edges):
        part = value[a:b]
        if np.isfinite(part).any():
            kept |= {int(a + np.nanargmin(part)), int(a + np.nanargmax(part))}
        else:
            kept.add(int(a))
    return np.array(sorted(kept), np.int64)


def _line(times: I64, value: F64, keep: I64, x: OfTime, y: OfValue) -> list[str]:
    runs = _runs(np.isfinite(value[keep]))
    found = []
    for a, b in runs:
        points = [(x(int(times[i])), y(float(value[i]))) for i in keep[a:b]]
        if len(points) == 1:
            found.append(f'<circle class="line" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="1.5"/>')
        else:
            found.append(f'<polyline class="line" points="{_points(points)}"/>')
    return found


def _band(times: I64, lower: F64, upper: F64, keep: I64, x: OfTime, y: OfValue) -> list[str]:
    found = []
    for a, b in _runs(np.isfinite(lower[keep]) & np.isfinite(upper[keep])):
        over = [(x(int(times[i])), y(float(upper[i]))) for i in keep[a:b]]
        under = [(x(int(times[i])), y(float(lower[i]))) for i in keep[a:b]]
        found.append(f'<polygon class="band" points="{_points(over + under[::-1])}"/>')
    return found


def _runs(here: Bool) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], here, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def _axes(low: float, high: float, first: int, last: int, x: OfTime, y: OfValue) -> list[str]:
    parts = []
    for v in round_numbers(low, high):
        level = y(v)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{number(v)}</text>')
    for tick in time_ticks(first, last, about=6):
        anchor = "end" if tick.at > 0.97 else "start" if tick.at < 0.03 else "middle"
        at = x(first + round(tick.at * (last - first)))
        parts.append(f'<text class="tick" x="{at:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{tick.text}</text>')
    parts.append(f'<text class="tick" x="{LEFT - 24}" y="{HEIGHT - 8}" text-anchor="end">UTC</text>')
    return parts
