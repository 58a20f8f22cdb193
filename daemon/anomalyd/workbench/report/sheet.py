"""A page of tables, drawings and texts in one HTML file that needs nothing else: what evaluate and tune write.

Everything that comes from a series or a rules file is escaped by the template; drawings hold numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from anomalyd.block import F64
from anomalyd.errors import ConfigError, Problem
from anomalyd.ticks import Tick, round_numbers
from anomalyd.workbench.report.pictures import Picture, environment
from anomalyd.workbench.report.svg import HEIGHT, short

WIDTH = 1000.0


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a grid; ``kind`` is own, dummy or empty; ``hint`` says below the first cell what is measured."""

    cells: tuple[str, ...]
    kind: str = ""
    hint: str = ""


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
    """A drawing with its axes: what they measure, and their labels."""

    title: str
    body: str
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    x_name: str
    y_name: str
    note: str = ""
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
    """One rule's part of the page.

    Attributes:
        first: parts over the whole width.
        columns: parts beside one another where there is room, a column each.
        pictures: series, under ``heading``; ``labelled`` says that labelled anomalies are marked in them, and ``rest``
            what is not shown.
        zone: the time zone of all times.
    """

    title: str
    above: str
    below: str
    expr: str
    facts: tuple[tuple[str, str], ...]
    zone: str = "UTC"
    first: tuple[Part, ...] = ()
    columns: tuple[tuple[Part, ...], ...] = ()
    pictures: tuple[Picture, ...] = ()
    heading: str = "Series"
    labelled: bool = False
    rest: str = ""


def render_sheets(title: str, sheets: Sequence[Sheet]) -> str:
    """The whole page."""
    return environment().get_template("sheet.html.j2").render(title=title, sheets=sheets)


def write_sheets(path: Path, title: str, sheets: Sequence[Sheet]) -> None:
    """Write the page to a file; ``ConfigError`` where it cannot be written."""
    try:
        path.write_text(render_sheets(title, sheets), encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), 0, 0, f"cannot be written: {error.strerror or error}")]) from error


def told_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A table without the columns in which no row has anything to tell."""
    keep = [i for i in range(len(head)) if i == 0 or any(row[i] not in ("", "–") for row in rows)]
    return tuple(head[i] for i in keep), [tuple(row[i] for i in keep) for row in rows]


def bars(title: str, counts: F64, edges: F64, cut: float, note: str = "") -> Plot:
    """A histogram of scores whose heights are logarithms, with a line at the cut and what is above it in its colour."""
    heights = np.log10(1 + counts)
    top = max(1.0, float(heights.max()) if len(heights) else 1.0)
    first, length = float(edges[0]), float(edges[-1] - edges[0])
    width = WIDTH / max(1, len(counts))
    body = "".join(
        f'<rect class="{"over" if left >= cut else "score"}" x="{i * width:.1f}" width="{width * 0.9:.1f}" '
        f'y="{HEIGHT * (1 - h / top):.1f}" height="{HEIGHT * h / top:.1f}"/>'
        for i, (h, left) in enumerate(zip(heights.tolist(), edges.tolist(), strict=False)) if h
    )  # fmt: skip
    at = (cut - first) / length * WIDTH
    body += f'<line class="cut" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{HEIGHT:g}"/>'
    x = tuple(Tick((v - first) / length, short(v)) for v in round_numbers(first, float(edges[-1])))
    powers = (10**power for power in range(int(top) + 1))
    y = tuple(Tick(1 - float(np.log10(1 + count)) / top, short(count)) for count in powers)
    return Plot(title, body, x, y, "score", "samples, on a logarithmic scale", note)


def curve_plot(title: str, points: Sequence[tuple[float, float]], level: float, note: str = "") -> Plot:
    """Precision over recall, with a line at the level that chance reaches."""
    line = " ".join(f"{WIDTH * x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in points)
    chance = HEIGHT * (1 - level)
    body = f'<line class="cut" x1="0" x2="{WIDTH:g}" y1="{chance:.1f}" y2="{chance:.1f}"/>'
    body += f'<polyline class="value" points="{line}"/>'
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    x, y = (tuple(Tick(v if flat else 1 - v, f"{100 * v:g}%") for v in shares) for flat in (True, False))
    names = "recall: of the labelled samples, those found", "precision: of those found, the labelled"
    return Plot(title, body, x, y, *names, note)
