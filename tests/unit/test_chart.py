"""Charts and test messages."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.chart import Drawn, available, draw
from anomalyd.incident import Reason
from anomalyd.render import render
from anomalyd.trial import trial
from fakes.statements import HOSTILE, START

needs_images = pytest.mark.skipif(not available(), reason="the extra images (matplotlib) is not installed")


def a_chart(n: int = 240, title: str = "CheckoutLatencyP99 eu", until: int = 0) -> Drawn:
    times = START + np.arange(n, dtype=np.int64) * 60_000
    expected = 0.4 + 0.05 * np.sin(np.arange(n) / 40)
    values = expected + 0.02 * np.sin(np.arange(n) * 7.3)
    values[int(n * 0.8) :] += 1.5
    values[n // 3 : n // 3 + 5] = np.nan
    since = START + int(n * 0.8) * 60_000
    return Drawn(title, times, values, expected, expected - 0.1, expected + 0.1, since, until)


@needs_images
@pytest.mark.parametrize("n", [0, 1, 2, 240, 3_000])
def test_draws_a_png(n: int) -> None:
    """Any length gives a picture of a fixed size, small enough for a message."""
    png = draw(a_chart(n))
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 720
    assert len(png) < 100_000


@needs_images
def test_hostile_title_and_values() -> None:
    """Markup for mathematics, control characters, all gaps and huge values draw all the same."""
    chart = a_chart(title="$\\frac{" + HOSTILE)
    gaps = np.full(240, np.nan)
    assert draw(chart).startswith(b"\x89PNG")
    assert draw(Drawn("x", chart.times, gaps, gaps, gaps, gaps, START)).startswith(b"\x89PNG")
    assert draw(Drawn("x", chart.times, chart.values * 1e300, gaps, gaps, gaps, START)).startswith(b"\x89PNG")


def test_trial_says_that_it_is_one() -> None:
    """A test message can be taken for nothing else."""
    notification = trial("pager", START, {"Settings": "https://a.example/x"})
    assert notification.statement.reason == Reason.TEST
    rendered = render(notification.statement, START)
    assert rendered.title == "[TEST] ReceiverTest: pager"
    assert "nothing is wrong" in rendered.sentence
    assert trial("pager", START + 1).id != notification.id
