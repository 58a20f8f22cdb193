"""What the pages of backtest, evaluate and tune share: their templates, and a series with its score as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anomalyd import __version__
from anomalyd.workbench.backtest import Backtest
from anomalyd.workbench.report.svg import HEIGHT, SCORE_HEIGHT, Chart, Mark, Strip, draw


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart with its caption; ``tier`` is the word of a badge, or empty."""

    title: str
    caption: str
    chart: Chart
    tier: str = ""


def environment() -> Environment:
    """Templates that escape whatever they are given, and stop at a name that they do not know."""
    made = Environment(
        loader=PackageLoader("anomalyd.workbench", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["svg"] = Markup
    made.globals |= {"version": __version__, "height": HEIGHT, "score_height": SCORE_HEIGHT}
    return made


def chart_of(test: Backtest, row: int, marks: Sequence[Mark], start: int, end: int) -> Chart:
    """A series between two times with its band, and its score below, in the rule's time zone."""
    t = test.tape
    first = max(0, int(np.searchsorted(t.times, start, side="right")) - 1)
    there = slice(first, max(first + 2, int(np.searchsorted(t.times, end, side="right"))))
    strip = Strip(
        t.times[there], t.low[row, there], t.high[row, there], t.expected[row, there], t.lower[row, there],
        t.upper[row, there], t.surprise[row, there], test.cut,
    )  # fmt: skip
    return draw(strip, marks, test.rule.timezone)
