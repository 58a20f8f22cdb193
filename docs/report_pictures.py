"""Pictures of the reports of backtest and evaluate, for workbench.md and evaluate.md: wide and light, phone and dark.

``make pictures NAME=reports`` or ``python docs/report_pictures.py [FOLDER]`` writes them anew; it needs playwright,
Chromium and pillow. The series are made up: four weeks of a shop's checkout in three regions, with incidents planted as
any such month has them; evaluate is given all but one of them as labels.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from anomalyd import logs
from anomalyd.block import Block, make_labels
from anomalyd.cli.evaluate import compare, judge
from anomalyd.cli.evaluateview import sheet_of
from anomalyd.clock import DAY_MS, MINUTE_MS
from anomalyd.rule import Budget, DetectorSpec, MinDeviation, Rule, TierPolicy
from anomalyd.score import Tier
from anomalyd.workbench.backtest import backtest
from anomalyd.workbench.htmlreport import Judged, write_report
from anomalyd.workbench.report.figures import Span
from anomalyd.workbench.report.sheet import write_sheets
from anomalyd.workbench.truth import Truth

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
STEP = 5 * MINUTE_MS
START = 1_759_269_600_000
"""Midnight of the first of October 2025 in Berlin."""
RULE = Rule(
    "CheckoutLatencyP99", "checkout",
    'histogram_quantile(0.99, sum by (le, region) (rate(http_request_duration_seconds_bucket{job="checkout"}[5m])))',
    detector=DetectorSpec("auto"), interval_ms=STEP, history_ms=14 * DAY_MS, direction="up", for_ms=2 * STEP,
    keep_firing_for_ms=2 * STEP, min_deviation=MinDeviation(absolute=0.1, relative=0.2), group_by=("region",),
    timezone="Europe/Berlin",
    tiers=(
        TierPolicy(Tier.WARNING, Budget(1, 7 * DAY_MS)), TierPolicy(Tier.CRITICAL, Budget(1, 30 * DAY_MS)),
        TierPolicy(Tier.EMERGENCY, Budget(1, 91 * DAY_MS), for_ms=6 * STEP),
    ),
)  # fmt: skip
PLANTED = (
    (0, 3.6, 0.9, 12), (0, 9.45, 0.5, 8), (1, 12.3, 1.6, 40), (2, 17.55, 0.7, 20), (0, 21.7, 1.1, 30),
    (1, 24.4, 0.6, 14),
)  # fmt: skip
"""Region, day, seconds more and slots."""


def history() -> Block:
    """Six weeks, of which the last four are lived through."""
    rng = np.random.default_rng(8)
    times = np.arange(START - 14 * DAY_MS - STEP, START + 28 * DAY_MS, STEP, dtype=np.int64)
    regions = ("eu", "us", "ap")
    values = np.stack([
        0.55 + 0.12 * np.sin(2 * np.pi * (times / DAY_MS - 0.35 - 0.3 * i)) + 0.03 * rng.normal(size=len(times))
        for i in range(len(regions))
    ])  # fmt: skip
    live = int(np.searchsorted(times, START))
    for region, day, more, slots in PLANTED:
        first = live + int(day * DAY_MS // STEP)
        values[region, first : first + slots] += more
    return Block(tuple(make_labels({"region": name}) for name in regions), times, values)


def labels(block: Block) -> Truth:
    """What a file of known anomalies would say: all that was planted but the last, which nobody noted."""
    spans = []
    for region, day, _, slots in PLANTED[:-1]:
        begins = START + int(day * DAY_MS // STEP) * STEP
        spans.append(Span(begins, begins + slots * STEP, block.labels[region]))
    return Truth(tuple(spans), complete=True, origin="incidents.csv")


def main(folder: Path) -> None:
    """Live through the rule and photograph its reports."""
    logs.configure("error")
    block = history()
    began = time.monotonic()
    test = backtest(RULE, block, START, int(block.times[-1]))
    lived_s = time.monotonic() - began
    judged = compare(judge(test, labels(block), True), ("mad", "stl"), lambda: True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as started:
        lived, evaluated = Path(place) / "backtest.html", Path(place) / "evaluate.html"
        write_report(lived, [Judged(test, lived_s=lived_s)])
        write_sheets(evaluated, "Evaluation", [sheet_of(judged)])
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for name, report, scheme, width, height in (
            ("workbench-report.png", lived, "light", 1400, 1250),
            ("workbench-report-phone.png", lived, "dark", 390, 1500),
            ("evaluate-report.png", evaluated, "light", 1400, 1400),
        ):  # fmt: skip
            page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
            page.goto(report.as_uri())
            with Image.open(io.BytesIO(page.screenshot())) as shot:
                small = shot.convert("RGB").quantize(96, dither=Image.Dither.NONE)
            small.save(folder / name, "PNG", optimize=True)
            page.close()
            sys.stdout.write(f"{name}\n")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
