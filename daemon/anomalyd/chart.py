"""The picture in a message: the value, what was expected, the band, and where it was abnormal; a PNG.

Drawn for a phone: few ticks, large type, one line that stands out. matplotlib is an optional extra (``images``); it is
imported on first use and draws without a display.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomalyd.block import F64, I64
from anomalyd.render import clean, cut, number
from anomalyd.ticks import time_ticks

WIDTH, HEIGHT, DPI = 4.8, 2.7, 150
TICKS = 5
_VALUE, _BAND, _EXPECTED, _ABNORMAL, _INK = "#1f2933", "#bcd3ea", "#5b8db8", "#d64545", "#52606d"
_drawing = threading.Lock()  # matplotlib's font cache and text layout are not safe among threads


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What a chart shows; arrays [T], NaN where there is nothing, times in milliseconds.

    Attributes:
        since: when the series became abnormal.
        until: when it ended; 0 while it has not.
    """

    title: str
    times: I64
    values: F64
    expected: F64
    lower: F64
    upper: F64
    since: int
    until: int = 0


def available() -> bool:
    """Whether charts can be drawn here."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def draw(chart: Drawn) -> bytes:
    """Draw as PNG; raise ``ImportError`` where matplotlib is absent."""
    with _drawing:
        return _draw(chart)


def _draw(chart: Drawn) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    axes: Any = figure.add_subplot()
    times = (chart.times / 1000).astype(np.float64)
    axes.fill_between(times, chart.lower, chart.upper, color=_BAND, linewidth=0, label="expected band")
    axes.plot(times, chart.expected, color=_EXPECTED, linewidth=1, linestyle="--")
    axes.plot(times, chart.values, color=_VALUE, linewidth=1.6, label="value")
    odd = (chart.times >= chart.since) & ((chart.until == 0) | (chart.times <= chart.until))
    axes.plot(times, np.where(odd, chart.values, np.nan), color=_ABNORMAL, linewidth=2.6, label="abnormal")
    end = chart.until or (int(chart.times[-1]) if len(chart.times) else chart.since)
    axes.axvspan(chart.since / 1000, end / 1000, color=_ABNORMAL, alpha=0.08, linewidth=0)
    # A title is data: a dollar sign in it must not be taken for mathematics.
    title = cut(clean(chart.title, 200), 48)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_VALUE, parse_math=False)
    _label_axes(axes, chart)
    axes.legend(loc="upper left", frameon=False, fontsize=9, ncols=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "anomalyd"})
    return buffer.getvalue()


def _label_axes(axes: Any, chart: Drawn) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=10)
    axes.margins(x=0)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.16 * (high - low))  # room for the legend
    axes.yaxis.set_major_formatter(lambda value, _: number(float(value)))
    axes.locator_params(axis="y", nbins=5)
    if len(chart.times) < 2:
        axes.set_xticks([])
        return
    first, last = int(chart.times[0]), int(chart.times[-1])
    ticks = time_ticks(first, last, about=TICKS)
    axes.set_xticks([(first + tick.at * (last - first)) / 1000 for tick in ticks], [tick.text for tick in ticks])
    axes.set_xlabel("UTC", fontsize=9, color=_INK, loc="right")
