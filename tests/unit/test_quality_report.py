"""The page of evaluate and tune: everything foreign is escaped, drawings hold what they should, a bad path is told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.errors import ConfigError
from anomalyd.workbench.htmlreport import label_text, span_text
from anomalyd.workbench.report.pictures import Picture
from anomalyd.workbench.report.sheet import (
    Grid,
    Line,
    Sheet,
    Text,
    bars,
    curve_plot,
    render_sheets,
    told_columns,
    write_sheets,
)
from anomalyd.workbench.report.svg import Mark, Strip, draw

EVIL = "<script>alert(1)</script>"


def page() -> Sheet:
    histogram = bars("Scores", np.array([100.0, 0.0, 1.0]), np.array([0.0, 1.0, 2.0, 3.0]), 1.0)
    curve = curve_plot("Curve", [(0.5, 1.0), (1.0, 0.5)], 0.25)
    grid = Grid(EVIL, ("", EVIL), (Line((EVIL, "1"), "own", EVIL),), EVIL)
    text = Text("diff", ("--- a", "+++ b", f"+{EVIL}", "-old", " same"), EVIL)
    times = np.arange(4, dtype=np.int64) * HOUR_MS
    flat = np.full(4, 5.0, np.float32)
    chart = draw(Strip(times, flat, flat, flat, flat - 1, flat + 1, flat / 10, 1.0), [], "Europe/Berlin")
    return Sheet(
        EVIL, EVIL, EVIL, EVIL, ((EVIL, EVIL),), "Europe/Berlin", (text,), ((grid,), (histogram, curve)),
        (Picture(EVIL, EVIL, chart, "warning"),), EVIL, labelled=True, rest=EVIL,
    )  # fmt: skip


def test_what_comes_from_outside_is_escaped() -> None:
    """No label, name, expression or diff can put markup on the page."""
    html = render_sheets(EVIL, [page(), page()])
    assert html.count("<script") == 1, "the page's own"
    assert html.count("&lt;script&gt;") >= 2 * 16
    assert 'class="plus">+&lt;script' in html
    assert 'class="minus">-old' in html


def test_drawings() -> None:
    """A bar for each count that is not zero, the cut at its place, the curve in the unit square."""
    html = render_sheets("Scores", [page()])
    assert [html.count(f'<rect class="{kind}"') for kind in ("score", "over")] == [1, 1]
    assert '<line class="cut" x1="333.3"' in html
    assert '<polyline class="value" points="500.0,0.0 1000.0,90.0"/>' in html


def test_axes_say_what_they_measure() -> None:
    """A drawing names both axes, a flat series has its one level once, and a chart knows its time zone."""
    html = render_sheets("Scores", [page()])
    for name in ("score", "samples, on a logarithmic scale", "recall: of the labelled", "precision: of those found"):
        assert f">{name}" in html
    chart = page().pictures[0].chart
    assert [tick.text for tick in chart.y] == ["5"]
    assert chart.x[0].text == "01:00"
    assert 'data-zone="Europe/Berlin"' in html


def test_columns_without_a_word_are_left_out() -> None:
    """What no row can tell is no column; the names of the rows stay."""
    rows = [("a", "–", "1", ""), ("b", "–", "–", "")]
    assert told_columns(("", "F1", "alerts", "why"), rows) == (("", "alerts"), [("a", "1"), ("b", "–")])


def test_a_short_alert_in_a_long_span_is_seen() -> None:
    """A mark has a flag of some width: alerts at the top, labelled anomalies at the bottom; none beyond the ends."""
    times = np.arange(30, dtype=np.int64) * DAY_MS
    flat = np.ones(30, np.float32)
    marks = [Mark(5 * DAY_MS, 5 * DAY_MS + 60_000, "critical"), Mark(5 * DAY_MS, 5 * DAY_MS + 60_000, "label"),
             Mark(40 * DAY_MS, 41 * DAY_MS, "warning")]  # fmt: skip
    body = draw(Strip(times, flat, flat, flat, flat, flat, flat, 1.0), marks).body
    flags = re.findall(r'<rect class="flag (\w+)" x="([\d.]+)" width="([\d.]+)" y="(\d+)"', body)
    assert [(kind, float(width), y) for kind, _, width, y in flags] == [("critical", 8.0, "0"), ("label", 8.0, "174")]
    assert float(flags[0][1]) + 4 == pytest.approx(1000 * 5 / 29, abs=0.2)


@given(st.text(st.characters(codec="utf-8"), max_size=400))
def test_labels_of_a_report_are_harmless(value: str) -> None:
    """Whatever a label holds: one line of bounded length, and nothing that turns the text around it."""
    text = label_text((("__name__", value), ("host", value)))
    assert len(text) < 300
    assert not set(text) & set("\n\r\u202e\u200b\x1b\u2028")


def test_a_span_is_told_in_its_zone() -> None:
    """The zone is named and decides the hour; the year stands with each end where they differ."""
    start = 1_761_436_800_000  # 2025-10-26 00:00 UTC, an hour before Berlin's clocks go back
    told = "Sun 26 Oct 02:00 to Mon 27 Oct 2025 01:00, Europe/Berlin"
    assert span_text(start, start + DAY_MS, "Europe/Berlin") == told
    assert span_text(0, 366 * DAY_MS) == "Thu 1 Jan 1970 00:00 to Sat 2 Jan 1971 00:00, UTC"


def test_a_report_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A folder that is not there is named, without a traceback."""
    write_sheets(tmp_path / "a.html", "Scores", [page()])
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ConfigError, match=r"away/a\.html: cannot be written: No such file"):
        write_sheets(tmp_path / "away" / "a.html", "Scores", [page()])
