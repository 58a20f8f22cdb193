"""Charts of messages: from stored scores to the letter, and never in a message's way."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from anomalyd.chart import Drawn, available
from anomalyd.clock import HOUR_MS, VirtualClock
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.picture import BEFORE_MS, Pictures, pictures
from anomalyd.delivery.words import Words
from anomalyd.receivers.email import EmailSettings, compose
from anomalyd.render import render
from anomalyd.score import Observation, Verdicts
from anomalyd.slot import SeriesRow
from anomalyd.store import Store, open_store
from fakes.receiver import FakeReceiver
from fakes.statements import MINUTE, START, a_notification, a_statement, an_alert
from servers import wait_until

PNG = b"\x89PNG not really"
needs_images = pytest.mark.skipif(not available(), reason="the extra images (matplotlib) is not installed")


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


class Past:
    """Stored scores of the two series of one rule; records the span that was asked for."""

    def __init__(self, n: int = 200) -> None:
        self.asked: list[tuple[int, int, list[int]]] = []
        self.n = n

    def series(self, rule: str) -> list[SeriesRow]:
        return [SeriesRow(rule, i, an_alert(r).fingerprint, an_alert(r).labels, 0) for i, r in enumerate(("us", "eu"))]

    def scores(self, rule: str, start_ms: int, end_ms: int, rows: Sequence[int] | None = None) -> list[Observation]:
        assert rows is not None
        self.asked.append((start_ms, end_ms, list(rows)))
        return [observed(START - i * MINUTE, rows[0]) for i in reversed(range(self.n))]


def observed(at: int, row: int) -> Observation:
    one = np.array([1.0 + row])
    verdicts = Verdicts(np.zeros(1, np.int8), np.zeros(1, np.int8), np.zeros(1, np.int8))
    return Observation(at, np.array([row]), one, one, one - 0.5, one + 0.5, one, verdicts)


def test_shows_the_leading_series_before_and_in_the_anomaly() -> None:
    """Of the rule's series only the one that leads is read, from hours before it became abnormal, and once a slot."""
    past, drawn = Past(), list[Drawn]()

    def draw(chart: Drawn) -> bytes:
        drawn.append(chart)
        return PNG

    made = Pictures(past, draw)
    statement = a_statement()
    first, second = made(statement), made(statement)
    assert first is second
    assert first is not None
    assert first.png == PNG
    assert past.asked == [(START - BEFORE_MS, START + 1, [1])]
    assert drawn[0].values.tolist() == [2.0] * 200
    assert "eu" in drawn[0].title
    assert "eu" in first.alt


@pytest.mark.parametrize("past", [Past(0), Past(1)], ids=["no scores", "one score"])
def test_nothing_to_see(past: Past) -> None:
    """Too few scores, a series that is not known, or no series at all give no chart."""
    made = Pictures(past, lambda chart: PNG)
    assert made(a_statement()) is None
    assert made(a_statement(alerts=(an_alert("elsewhere"),))) is None
    assert made(a_statement(alerts=(), total=0)) is None


def test_a_failing_chart_costs_only_the_chart() -> None:
    """What drawing raises is logged, not raised, and is not tried again for the next receiver."""
    tried: list[Drawn] = []

    def broken(chart: Drawn) -> bytes:
        tried.append(chart)
        raise MemoryError("no room")

    made = Pictures(Past(), broken)
    assert made(a_statement()) is None
    assert made(a_statement()) is None
    assert len(tried) == 1


def test_a_slow_chart_holds_nothing_up() -> None:
    """A message waits for its chart only so long; while that chart is being drawn, others go without at once."""
    go = threading.Event()
    made = Pictures(Past(), lambda chart: (go.wait(10), PNG)[1], wait_s=0.05)
    assert made(a_statement()) is None
    assert made(a_statement(incident="us", at=START + MINUTE)) is None
    go.set()
    wait_until(lambda: made(a_statement()) is not None, 10, "the late chart, which serves the next attempt")


class ShowsThem(FakeReceiver):
    wants_picture = True


def test_only_those_who_can_show_a_chart_cost_one(store: Store) -> None:
    """A receiver that cannot show a picture itself has none drawn for it."""
    past = Past()
    plain, rich = FakeReceiver("plain"), ShowsThem("rich")
    deliverer = Deliverer(
        store, {"plain": plain, "rich": rich}, words=Words(chart=Pictures(past, lambda chart: PNG)),
        clock=VirtualClock(START),
        rng=random.Random(1),
    )  # fmt: skip
    store.enqueue([a_notification(receiver="plain"), a_notification(receiver="rich")])
    deliverer.deliver_once("plain", START)
    assert past.asked == []
    deliverer.deliver_once("rich", START)
    assert plain.delivered[0].rendered.chart is None
    shown = rich.delivered[0].rendered.chart
    assert shown is not None
    assert shown.png == PNG


@needs_images
def test_the_letter_holds_its_chart() -> None:
    """An email's HTML shows the real chart from within the letter, under an id that is there."""
    statement = a_statement(at=START + HOUR_MS)
    rendered = render(statement, START, chart=pictures(Past()))
    settings = EmailSettings(name="m", to=("a@b.example",), sender="d@b.example", host="mail.b.example")
    letter = compose(a_notification(statement), rendered, START, settings)
    images = [part for part in letter.walk() if part.get_content_type() == "image/png"]
    html = next(part for part in letter.walk() if part.get_content_type() == "text/html").get_content()
    assert len(images) == 1
    assert f'src="cid:{images[0]["Content-ID"][1:-1]}"' in html
    assert images[0].get_content().startswith(b"\x89PNG")
    assert images[0].get_content_disposition() == "inline"
