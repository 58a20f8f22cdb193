"""A page of tables, drawings and texts in one HTML file that needs nothing else: what evaluate and tune write.

Everything that comes from a series or a rules file is escaped by the template; drawings hold numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anomalyd import __version__
from anomalyd.backtest import Backtest
from anomalyd.block import F64
from anomalyd.errors import ConfigError, Problem
from anomalyd.report.svg import HEIGHT, SCORE_HEIGHT, Mark, Strip, draw, short
from anomalyd.ticks import Tick, round_numbers

WIDTH = 1000.0


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a grid; ``kind`` is own, dummy or empty."""

    cells: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; the first column is text, the others are figures."""

    title: str
    head: tuple[str, ...]
    rows: tuple[Line, ...]
    note: str = ""
    kind: str = "grid"


@dataclass(frozen=True, slots=True)
class Plot:
    """Drawings (height, SVG) below one another; y labels stand beside the first, which has this share of the height."""

    title: str
    bodies: tuple[tuple[float, str], ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    note: str = ""
    share: float = 1.0
    kind: str = "plot"


@dataclass(frozen=True, slots=True)
class Text:
    """Lines as they are; those of a diff are coloured."""

    title: str
    lines: tuple[str, ...]
    note: str = ""
    kind: str = "text"


Part: TypeAlias = Grid | Plot | Text


@dataclass(frozen=True, slots=True)
class Sheet:
    """One rule's part of the page."""

    title: str
    above: str
    below: str
    expr: str
    facts: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...] = field(default=())


def render_sheets(title: str, sheets: Sequence[Sheet]) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("anomalyd", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["svg"] = Markup
    return environment.get_template("sheet.html.j2").render(title=title, sheets=sheets, version=__version__)


def write_sheets(path: Path, title: str, sheets: Sequence[Sheet]) -> None:
    """Write the page to a file; ``ConfigError`` where it cannot be written."""
    try:
        path.write_text(render_sheets(title, sheets), encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), 0, 0, f"cannot be written: {error.strerror or error}")]) from error


def bars(title: str, counts: F64, edges: F64, cut: float, note: str = "") -> Plot:
    """A histogram whose heights are logarithms, with a line at the cut."""
    heights = np.log10(1 + counts)
    top = max(1.0, float(heights.max()) if len(heights) else 1.0)
    length = float(edges[-1] - edges[0])
    width = WIDTH / max(1, len(counts))
    body = "".join(
        f'<rect class="score" x="{i * width:.1f}" width="{width * 0.9:.1f}" y="{HEIGHT * (1 - h / top):.1f}" '
        f'height="{HEIGHT * h / top:.1f}"/>'
        for i, h in enumerate(heights.tolist()) if h
    )  # fmt: skip
    at = (cut - float(edges[0])) / length * WIDTH
    body += f'<line class="cut" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{HEIGHT:g}"/>'
    x = tuple(Tick((v - float(edges[0])) / length, short(v)) for v in round_numbers(float(edges[0]), float(edges[-1])))
    powers = (10**power for power in range(int(top) + 1))
    y = tuple(Tick(1 - float(np.log10(1 + count)) / top, short(count)) for count in powers)
    return Plot(title, ((HEIGHT, body),), x, y, note)


def curve_plot(title: str, points: Sequence[tuple[float, float]], level: float, note: str = "") -> Plot:
    """A curve in the unit square, with a line at the level that chance reaches."""
    line = " ".join(f"{WIDTH * x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in points)
    chance = HEIGHT * (1 - level)
    body = f'<line class="cut" x1="0" x2="{WIDTH:g}" y1="{chance:.1f}" y2="{chance:.1f}"/>'
    body += f'<polyline class="value" points="{line}"/>'
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    return Plot(
        title, ((HEIGHT, body),), tuple(Tick(v, short(v)) for v in ticks), tuple(Tick(1 - v, short(v)) for v in ticks),
        note,
    )  # fmt: skip


def series_plot(test: Backtest, row: int, title: str, note: str, marks: Sequence[Mark], start: int, end: int) -> Plot:
    """A series between two times with its band, and its score below."""
    t = test.tape
    first = max(0, int(np.searchsorted(t.times, start, side="right")) - 1)
    there = slice(first, max(first + 2, int(np.searchsorted(t.times, end, side="right"))))
    strip = Strip(
        t.times[there], t.low[row, there], t.high[row, there], t.expected[row, there], t.lower[row, there],
        t.upper[row, there], t.surprise[row, there], test.cut,
    )  # fmt: skip
    chart = draw(strip, marks, test.rule.timezone)
    share = 120 / (120 + 6 + 36)
    return Plot(title, ((HEIGHT, chart.body), (SCORE_HEIGHT, chart.score)), chart.x, chart.y, note, share)
