"""Charts of messages: from stored scores to the letter, and never in a message's way."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.chart import Drawn, available
from anomalyd.clock import HOUR_MS, VirtualClock
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.earlier import Earlier
from anomalyd.delivery.picture import BEFORE_MS, Pictures, pictures
from anomalyd.delivery.words import Words
from anomalyd.errors import SourceUnavailable
from anomalyd.receivers.email import EmailSettings, compose
from anomalyd.recorded import RecordedSource
from anomalyd.render import render
from anomalyd.rule import DetectorSpec, Rule
from anomalyd.score import Observation, Verdicts
from anomalyd.slot import SeriesRow
from anomalyd.sources import Reply, Source
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


LABELS = an_alert("eu").labels
RULED = Rule("HighLatency", "checkout", "latency", drop_labels=("pod",))


def past_of(minutes: int, pods: int = 1) -> Block:
    """A series that was 7 up to a time within the stored scores and beyond, under the names of its pods in turn."""
    times = START + np.arange(-minutes, 10) * MINUTE
    values = np.full((pods, len(times)), np.nan)
    for i, part in enumerate(np.array_split(np.arange(len(times)), pods)):
        values[i, part] = 7.0
    labels = tuple(make_labels({**dict(LABELS), "pod": f"p{i}"}) for i in range(pods))
    return Block(labels, times, values)


def first_alert(source: Source, rule: Rule = RULED, stored: int = 4, patience_s: float = 10.0) -> Drawn:
    """The chart of an alert of a daemon that has just started."""
    drawn: list[Drawn] = []

    def draw(chart: Drawn) -> bytes:
        drawn.append(chart)
        return PNG

    earlier = Earlier(lambda _: rule, lambda: {"default": source}, patience_s)
    assert Pictures(Past(stored), draw, 30.0, earlier)(a_statement()) is not None
    return drawn[0]


@pytest.mark.parametrize("pods", [1, 3])
def test_the_first_alert_shows_the_hours_before_the_daemon(pods: int) -> None:
    """What lies before the first score comes from the source: values on the rule's grid, and no band."""
    chart = first_alert(RecordedSource({"latency": past_of(600, pods)}))
    minutes = (BEFORE_MS // MINUTE) + 1
    assert chart.times.tolist() == [START + i * MINUTE for i in range(1 - minutes, 1)]
    assert chart.values.tolist() == [7.0] * (minutes - 4) + [2.0] * 4
    for edge in (chart.expected, chart.lower, chart.upper):
        assert np.isfinite(edge).tolist() == [False] * (minutes - 4) + [True] * 4


def test_a_long_time_before_is_drawn_coarsely() -> None:
    """A rule of every second has more slots in three hours than a chart has places."""
    chart = first_alert(RecordedSource({"latency": past_of(600)}), replace(RULED, interval_ms=1_000))
    assert 300 < len(chart.times) <= 404
    assert (np.diff(chart.times[:-4]) == chart.times[1] - chart.times[0]).all()


class Hangs:
    """A source that answers nobody until it is let go."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), 0

    def instant(self, expr: str, at_ms: int, *, limit: int | None = None) -> Reply:
        raise AssertionError("a chart asks for a range")

    def range(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> Reply:
        self.asked += 1
        self.go.wait(30)
        raise SourceUnavailable("timeout", "no answer")


def test_a_source_that_hangs_costs_the_hours_before_and_not_the_chart() -> None:
    """Its answer is not waited for, and while it is asked it is not asked again."""
    source = Hangs()
    earlier = Earlier(lambda _: RULED, lambda: {"default": source}, 0.05)
    for _ in range(2):
        assert len(earlier(RULED.id, LABELS, 1, START - HOUR_MS, START).times) == 0
    assert source.asked == 1
    source.go.set()
    wait_until(lambda: not earlier._asking.locked(), 10, "the answer")


def test_nothing_is_asked_where_it_would_be_dear_or_of_no_use() -> None:
    """A rule of very many series, of vectors, one that is gone, a chart that is whole already."""
    source = Hangs()
    source.go.set()

    def asked(rule: Rule | None, series: int, start: int = START - HOUR_MS) -> int:
        before = source.asked
        Earlier(lambda _: rule, lambda: {"default": source})("r", LABELS, series, start, START)
        return source.asked - before

    assert asked(RULED, 1) == 1
    assert asked(RULED, 10_000) == 0
    assert asked(replace(RULED, detector=DetectorSpec("knn", {"joint": True})), 1) == 0
    assert asked(replace(RULED, source="gone"), 1) == 0
    assert asked(None, 1) == 0
    assert asked(RULED, 1, START - MINUTE // 2) == 0


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
