"""The page of an episode in a real browser: it is read, voted on, and fits a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from anomalyd.block import make_labels
from anomalyd.clock import DAY_MS
from anomalyd.console.links import ChartTicket
from anomalyd.console.server import WebServer
from anomalyd.delivery.picture import Pictures
from anomalyd.records import FeedbackLabel
from console_kit import NOW, Console, episode
from life import RULE as LOAD
from life import change, recorded
from rules_kit import lived

pytestmark = pytest.mark.server("chromium")
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        yield started
        started.close()


@contextmanager
def served(console: Console) -> Iterator[str]:
    server = WebServer(console.app(), "127.0.0.1", 0)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()


def filled() -> Console:
    """An alert with a chart, a past, and a sibling in its incident."""
    console = Console()
    console.fill_scores()
    console.past("p1", 3, FeedbackLabel.FALSE, minutes=7)
    console.past("p2", 9, FeedbackLabel.TRUE, minutes=55, surprise=7.5)
    console.past("p3", 20, minutes=4)
    return console


def picture(name: str) -> str | None:
    """Where a screenshot goes, if somebody wants to look: ANOMALYD_PICTURES names a folder."""
    folder = os.environ.get("ANOMALYD_PICTURES")
    return str(Path(folder) / f"{name}.png") if folder else None


@pytest.mark.parametrize(("name", "size"), [("phone", PHONE), ("wide", WIDE)])
def test_a_reader_votes_and_sees_the_vote(browser: Browser, name: str, size: dict[str, int]) -> None:
    """The page fits the window, the button votes, the vote is on the page; the browser complains of nothing."""
    console = filled()
    with served(console) as url, browser.new_context(viewport=size, java_script_enabled=True) as context:  # type: ignore[arg-type]
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{url}/f/{console.link()}?choice=false_alarm")
        assert page.locator("svg polyline").count() >= 1
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        if where := picture(f"page-{name}"):
            page.screenshot(path=where, full_page=True)
        page.get_by_text("Say why").click()
        page.get_by_label("Your name").fill("Ana")
        page.get_by_label("Cause").fill("deploy 1.4")
        page.get_by_role("button", name="False alarm").click()
        page.get_by_role("status").wait_for()
        assert "Counted: false alarm" in page.get_by_role("status").inner_text()
        assert page.get_by_text("Ana (link sent to slack)").count() == 1
        if where := picture(f"voted-{name}"):
            page.screenshot(path=where, full_page=True)
        page.get_by_role("button", name="take back").click()
        page.get_by_text("(taken back)").wait_for()
        assert complaints == []
    (vote,) = [v for v in console.store.feedback() if v.via == "link"]
    assert (vote.label, vote.who, vote.cause, vote.undone_at) == (FeedbackLabel.FALSE, "Ana@slack", "deploy 1.4", NOW)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_open_alert_is_snoozed_with_a_thumb(browser: Browser, scheme: str) -> None:
    """The link of a message's snooze leads to the list; until tomorrow at nine is one tap and one word."""
    console = filled()
    console.store.save_episodes([episode("e1", incident="i1", started=console.first.started_at, live=True)])
    with served(console) as url, browser.new_context(viewport=PHONE, color_scheme=scheme) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"{url}/f/{console.link()}?choice=snooze")
        if where := picture(f"open-{scheme}"):
            page.screenshot(path=where, full_page=True)
        page.get_by_label("for").select_option("tomorrow")
        page.get_by_role("button", name="Snooze").click()
        page.get_by_role("status").wait_for()
        assert "Snoozed until 2026-09-22 07:00 UTC" in page.get_by_role("status").inner_text()
    (silence,) = console.store.silences()
    assert silence.created_by == "somebody@slack"


def test_a_chart_shows_where_a_message_shows_it(browser: Browser) -> None:
    """A page of another site, as Teams and PagerDuty are, shows the picture by its address alone."""
    console = filled()
    console.parts = replace(console.parts, pictures=Pictures(console.store, wait_s=120.0))
    ticket = ChartTicket("e1", console.first.closed_at, NOW + DAY_MS)
    with served(console) as url, browser.new_context(viewport=PHONE) as context:
        page = context.new_page()
        page.set_content(f'<img src="{url}/c/{console.signer.chart_token(ticket)}.png">')
        image = page.locator("img")
        image.evaluate("image => image.decode()")
        assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [720, 405]


def test_the_page_works_without_scripts_and_with_endless_labels(browser: Browser) -> None:
    """A phone with scripts off, labels of hundreds of characters without a space: nothing runs off the screen."""
    console = filled()
    long = make_labels({"path": "/v1/" + "x" * 400, "region": "eu", "instance": "10.0.0.1:9100"})
    console.store.save_episodes([episode("long", of=long, started=NOW - DAY_MS)])
    with served(console) as url, browser.new_context(viewport=PHONE, java_script_enabled=False) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"{url}/episodes/long")
        assert page.get_by_role("heading", level=1).inner_text() == "Latency"
        right = max(box["x"] + box["width"] for at in page.locator("main *").all() if (box := at.bounding_box()))
        assert right <= PHONE["width"] + 1
        page.get_by_role("button", name="Expected").click()
        page.get_by_role("status").wait_for()


def test_a_dark_room_gets_a_dark_page(browser: Browser) -> None:
    """With the system's dark colours the page is dark and its text light."""
    console = filled()
    with served(console) as url, browser.new_context(viewport=PHONE, color_scheme="dark") as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"{url}/episodes/e1")
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in back.removeprefix("rgb(").removesuffix(")").split(",")) < 64
        if where := picture("page-dark"):
            page.screenshot(path=where, full_page=True)


@pytest.mark.parametrize(("scheme", "width"), [("light", 420), ("dark", 420), ("light", 1400), ("dark", 1400)])
def test_the_rules_are_read_and_searched(browser: Browser, scheme: str, width: int) -> None:
    """From the front page to the list, to a rule, to one of its series and its alert: all fits, nothing complains."""
    block = change(recorded(14), 1, 50, 60, 99.0)
    console = lived(block, replace(LOAD, where="rules/first.yml:7")).app_console(60)
    size = {"width": width, "height": 900}
    with served(console) as url, browser.new_context(viewport=size, color_scheme=scheme) as context:  # type: ignore[arg-type]
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(url)
        page.get_by_role("link", name="1 rule", exact=True).click()
        for name in ("rules", "rule"):
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            if where := picture(f"{name}-{scheme}-{width}"):
                page.screenshot(path=where, full_page=True)
            if name == "rules":
                page.get_by_role("link", name="Load", exact=True).click()
        page.get_by_label("Find").fill("host=h1 99")
        page.get_by_role("button", name="Find").click()
        page.get_by_text("No series has these words.").wait_for()
        page.get_by_label("Find").fill("HOST=h1")
        page.get_by_role("button", name="Find").click()
        page.get_by_text("5 found").wait_for()
        page.locator("tr.critical a").click()
        assert "Was this alert right?" in page.content()
        assert complaints == []
