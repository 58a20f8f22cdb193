"""The backtest's report in a real browser: light and dark, wide and phone, and under the pointer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalyd.backtest import backtest
from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.htmlreport import Judged, write_report
from anomalyd.report.figures import compare
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.score import Tier

playwright = pytest.importorskip("playwright.sync_api")

STEP = 5 * MINUTE_MS
START = 1_760_054_400_000
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
RULE = Rule(
    "CheckoutLatency", "shop", 'histogram_quantile(0.99, sum by (le, region) (rate(latency_bucket{job="x"}[5m])))',
    detector=DetectorSpec("mad", {"window": "12h"}), interval_ms=STEP, history_ms=DAY_MS, for_ms=STEP,
    tiers=(TierPolicy(Tier.WARNING, surprise=2.6), TierPolicy(Tier.CRITICAL, surprise=5)),
)  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    times = np.arange(START - DAY_MS - STEP, START + 2 * DAY_MS, STEP, dtype=np.int64)
    values = 20 + np.random.default_rng(3).normal(size=(3, len(times)))
    values[0, 400:420] += 30
    values[1, 600:640] = 1
    names = ("a-host-with-quite-a-long-name.europe-west.example", "b", "c")
    block = Block(tuple(make_labels({"host": name, "__name__": "latency"}) for name in names), times, values)
    test = backtest(RULE, block, START, int(times[-1]))
    assert len(test.episodes) >= 2
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, [Judged(test, compare(test, replace(test, episodes=test.episodes[:1])), lived_s=1.0)])
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.mark.server("chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_reads_well(browser: object, report: Path, scheme: str, width: int) -> None:
    """Nothing is cut off or scrolls sideways, no script fails, and the scheme decides the colours."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})  # type: ignore[attr-defined]
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in background[4:-1].split(",")) > 382) == (scheme == "light")
    assert page.locator(".plot").count() >= 4
    for box in (plot.bounding_box() for plot in page.locator(".body svg").all()):
        assert box["width"] > 0.6 * min(width, 500)
        assert box["height"] > 100
    assert faults == []
    assert asked == [report.as_uri()], "the report asks nobody for anything"
    page.close()


@pytest.mark.server("chromium")
def test_the_pointer_reads_values_off_the_chart(browser: object, report: Path) -> None:
    """Over the spike the tip says a value above 45 where about 20 was expected."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
    page.goto(report.as_uri())
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.locator(".body svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = plot.locator(".tip").inner_text()
    value, expected = (part.rpartition(" ")[2] for part in tip.split(", expected "))
    assert plot.locator(".tip").is_visible()
    assert float(value) != pytest.approx(float(expected), rel=0.2)
    page.mouse.move(0, 0)
    assert not plot.locator(".tip").is_visible()
    page.close()
