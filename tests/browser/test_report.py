"""Reports of backtest, evaluate and tune in a real browser: light and dark, wide and phone, and under the pointer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.cli.evaluate import judge
from anomalyd.cli.evaluateview import sheet_of as evaluate_sheet
from anomalyd.cli.tune import look_into
from anomalyd.cli.tune import sheet_of as tune_sheet
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.workbench.appraise import likeness
from anomalyd.workbench.backtest import Backtest, backtest
from anomalyd.workbench.htmlreport import Judged, write_report
from anomalyd.workbench.report.figures import Span, compare
from anomalyd.workbench.report.sheet import write_sheets
from anomalyd.workbench.truth import Truth
from anomalyd.workbench.tuning import tune

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
    timezone="Europe/Berlin",
    tiers=(TierPolicy(Tier.WARNING, surprise=2.6), TierPolicy(Tier.CRITICAL, surprise=5)),
)  # fmt: skip


HOSTILE = ("<b>bold</b>", "w" * 300, "\u202etxt.exe", "line\nbreak")
CONTRAST = """() => {
  const light = (c) => c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const faint = [];
  for (const e of document.querySelectorAll("main *")) {
    if (e.closest("svg") || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    let under = e;
    while (under && (parts(getComputedStyle(under).backgroundColor)[3] ?? 1) < 1) under = under.parentElement;
    const [a, b] = [getComputedStyle(e).color, getComputedStyle(under || document.body).backgroundColor]
      .map((c) => light(parts(c).slice(0, 3)));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(ratio.toFixed(1) + " " + e.textContent.trim().slice(0, 30));
  }
  return faint;
}"""
"""Texts that do not stand out from what is behind them as WCAG's level AA asks."""
HIDDEN = """() => [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.textContent.trim().slice(0, 40))"""
"""Tables of which a part can only be reached by scrolling sideways."""


@pytest.fixture(scope="module")
def lived() -> Backtest:
    times = np.arange(START - DAY_MS - STEP, START + 2 * DAY_MS, STEP, dtype=np.int64)
    values = 20 + np.random.default_rng(3).normal(size=(7, len(times)))
    values[0, 400:420] += 30
    values[1, 600:640] = 1
    values[4, 500:520] += 20
    names = ("a-host-with-quite-a-long-name.europe-west.example", "b", "c", *HOSTILE)
    block = Block(tuple(make_labels({"host": name, "__name__": "latency"}) for name in names), times, values)
    test = backtest(RULE, block, START, int(times[-1]))
    assert len(test.episodes) >= 3
    return test


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, lived: Backtest) -> dict[str, Path]:
    """A report of each command, with labels and without."""
    folder = tmp_path_factory.mktemp("reports")
    spans = tuple(Span(e.started_at, e.closed_at or lived.end, e.labels) for e in lived.episodes[:2])
    known, nothing = Truth(spans, complete=True, origin="incidents.csv"), Truth((), complete=False, origin="feedback")
    change = compare(lived, replace(lived, episodes=lived.episodes[:1]))
    write_report(folder / "backtest.html", [Judged(lived, change, spans=spans, lived_s=1.0)])
    stored = replace(judge(lived, known, False), alerts_now=2)
    versions = (likeness("seed 1", lived, lived, known), likeness("mad", lived, lived))
    sheets = [evaluate_sheet(replace(stored, now=stored.labels[0] if stored.labels else None, likenesses=versions)),
              evaluate_sheet(judge(lived, nothing, True))]  # fmt: skip
    write_sheets(folder / "evaluate.html", "Evaluation", sheets)
    tried = 0

    def still() -> bool:
        nonlocal tried
        tried += 1
        return tried < 8

    found = [look_into(tune(lived, truth, None, still, 0.5)) for truth in (known, nothing)]
    write_sheets(folder / "tune.html", "Tuning", [tune_sheet(one) for one in found])
    return {name: folder / f"{name}.html" for name in ("backtest", "evaluate", "tune")}


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.mark.server("chromium")
@pytest.mark.parametrize("name", ["backtest", "evaluate", "tune"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_a_report_reads_well(browser: object, reports: dict[str, Path], name: str, scheme: str, width: int) -> None:
    """Nothing is cut off or scrolls sideways, words stand out, no script fails, the scheme decides the colours."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})  # type: ignore[attr-defined]
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(reports[name].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(HIDDEN) == []
    assert page.evaluate(CONTRAST) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in background[4:-1].split(",")) > 382) == (scheme == "light")
    assert page.locator(".plot[data-zone]").count() >= 3
    for box in (plot.bounding_box() for plot in page.locator(".body svg").all()):
        assert box["width"] > 0.6 * min(width, 500)
        assert box["height"] > 100
    assert page.locator("b:text-is('bold')").count() == 0, "a label's markup is text"
    assert page.get_by_text("Europe/Berlin").count() >= 1
    assert faults == []
    assert asked == [reports[name].as_uri()], "the report asks nobody for anything"
    page.close()


@pytest.mark.server("chromium")
@pytest.mark.parametrize("name", ["backtest", "tune"])
def test_the_pointer_reads_values_off_the_chart(browser: object, reports: dict[str, Path], name: str) -> None:
    """In the middle of the loudest place the tip says a value far from the expected one."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
    page.goto(reports[name].as_uri())
    plot = page.locator(".plot[data-zone]").first
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
