"""The page of evaluate and tune: everything foreign is escaped, drawings hold what they should, a bad path is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomalyd.errors import ConfigError
from anomalyd.report.sheet import Grid, Line, Sheet, Text, bars, curve_plot, render_sheets, write_sheets

EVIL = "<script>alert(1)</script>"


def page() -> Sheet:
    histogram = bars("Scores", np.array([100.0, 0.0, 1.0]), np.array([0.0, 1.0, 2.0, 3.0]), 1.0)
    curve = curve_plot("Curve", [(0.5, 1.0), (1.0, 0.5)], 0.25)
    grid = Grid(EVIL, ("", EVIL), (Line((EVIL, "1"), "own"),), EVIL)
    text = Text("diff", ("--- a", "+++ b", f"+{EVIL}", "-old", " same"), EVIL)
    return Sheet(EVIL, EVIL, EVIL, EVIL, ((EVIL, EVIL),), (grid, histogram, curve, text))


def test_what_comes_from_outside_is_escaped() -> None:
    """No label, name, expression or diff can put markup on the page."""
    html = render_sheets(EVIL, [page(), page()])
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12
    assert 'class="plus">+&lt;script' in html
    assert 'class="minus">-old' in html


def test_drawings() -> None:
    """A bar for each count that is not zero, the cut at its place, the curve in the unit square."""
    _, histogram, curve, _ = page().parts
    assert histogram.kind == curve.kind == "plot"
    html = render_sheets("Scores", [page()])
    assert html.count('<rect class="score"') == 2
    assert '<line class="cut" x1="333.3"' in html
    assert '<polyline class="value" points="500.0,0.0 1000.0,90.0"/>' in html


def test_a_report_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A folder that is not there is named, without a traceback."""
    write_sheets(tmp_path / "a.html", "Scores", [page()])
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ConfigError, match=r"away/a\.html: cannot be written: No such file"):
        write_sheets(tmp_path / "away" / "a.html", "Scores", [page()])
