"""Puts the demo on stage: the shop behind an embedded Prometheus, a webhook sink, a settings file, and the daemon.

What runs is the daemon of ``anomalyd run``, built by ``app.build`` from files on disk and fed over HTTP; only the clock
is a virtual one, and what would be computed in the background is computed within the slot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from anomalyd.app import App, build
from anomalyd.clock import VirtualClock
from anomalyd.daemon import run_virtually
from anomalyd.demo.prometheus import DemoPrometheus
from anomalyd.demo.report import Found, Report, compare
from anomalyd.demo.shop import Shop, shop
from anomalyd.demo.sink import Received, WebhookSink
from anomalyd.rulefiles.read import load_rules
from anomalyd.settings import load_settings

START_MS = 1_767_571_200_000
"""Monday 2026-01-05 00:00 UTC: always the same weeks, so that everybody sees the same demo."""

SECRET = "demo-webhook-secret"  # noqa: S105 - shared with the sink beside us, for the length of the demo


@dataclass(frozen=True, slots=True)
class Played:
    """How the demo went."""

    report: Report
    slots: int
    notifications: int
    database: Path


def shop_rules() -> Path:
    """The shop's rules file: in the package when installed, in ``rules/`` of a checkout."""
    here = Path(__file__).resolve()
    for candidate in (here.parents[1] / "rule_packs" / "shop.yml", here.parents[3] / "rules" / "shop.yml"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError("rules/shop.yml is neither in the package nor beside it")


def play(folder: Path, on_received: Callable[[Received], None], progress: Callable[[int, int, int], None]) -> Played:
    """Live through the watched weeks; ``progress`` gets (first, now, last) in milliseconds after each step."""
    theatre = shop(START_MS)
    first, last = theatre.watch_from_ms, int(theatre.block.times[-1])
    clock = VirtualClock(first)
    notifications = 0

    def received(one: Received) -> None:
        nonlocal notifications
        notifications += 1
        on_received(one)

    with (
        DemoPrometheus(theatre.block, clock.now_ms) as prometheus,
        WebhookSink(SECRET, received, clock.now_ms) as sink,
    ):
        settings = load_settings(write_settings(folder, prometheus.url, sink.url))
        app = build(settings, load_rules(settings.rule_files, settings), clock, inline=True)
        try:
            run_virtually(app.daemon, clock, last, lambda now: progress(first, now, last))
            return Played(_report(app, theatre), _slots(app), notifications, folder / "anomalyd.db")
        finally:
            app.close()


def write_settings(folder: Path, prometheus: str, sink: str) -> Path:
    """Write the demo's anomalyd.yml, which a reader may compare with their own."""
    document = {
        "sources": {"default": {"url": prometheus}},
        "database": {"url": "sqlite:///anomalyd.db"},
        "rule_files": [str(shop_rules())],
        "receivers": {"demo-sink": {"type": "webhook", "url": sink, "secret": SECRET}},
    }
    path = folder / "anomalyd.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _report(app: App, theatre: Shop) -> Report:
    found = [
        Found(episode.rule, episode.labels, episode.tier, episode.opened_at, episode.closed_at)
        for episode in app.store.episodes(limit=100_000)
        if episode.opened_at
    ]
    return compare(theatre.incidents, found)


def _slots(app: App) -> int:
    return sum(len(app.store.rule_slots(rule.id, 0, 1 << 62)) for rule in app.rules.rules)
