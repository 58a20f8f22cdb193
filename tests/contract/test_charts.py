"""Charts at signed addresses: what messages carry, what whoever fetches one gets, and what it costs."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.chart import available
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.console.links import ChartTicket, Signer, link_charts, link_places
from anomalyd.console.mount import console_of
from anomalyd.delivery.picture import Pictures, pictures
from anomalyd.delivery.words import Words
from anomalyd.incident import Notification, OutcomeKind, Reason, Statement
from anomalyd.receivers import RECEIVER_SETTINGS, build_receiver
from anomalyd.receivers.base import Receiver
from anomalyd.render import Link, Rendered
from anomalyd.settings import Web, read_settings
from anomalyd.yamlfile import read_yaml
from console_kit import KEY, NOW, PNG, Client, Console, M, episode, scored, statement
from fakes import slack
from fakes.alertmanager import FakeAlertmanager
from fakes.pagerduty import KEY as ROUTING_KEY
from fakes.pagerduty import FakePagerDuty
from fakes.receiver import FakeReceiver
from fakes.teams import HOOK, FakeTeams
from fakes.webhook import FakeWebhook

HOST = "anomalyd.example"
URL = f"https://{HOST}"
WEEK = 7 * DAY_MS


def a_console() -> Console:
    console = Console(Web("127.0.0.1", 9640, external_url=URL))
    console.fill_scores()
    return console


def told(console: Console, reason: Reason = Reason.NEW) -> Statement:
    return replace(statement(console.first, reason), at=console.first.started_at + 10 * M)


def words(console: Console) -> Words:
    """As the composition root puts them together."""
    made = console_of(lambda: console.settings, console.store, charts=True)
    key = link_charts(console.signer, URL, WEEK)
    return Words(made.actions, link_places(console.signer, URL, WEEK), console.pictures, key)


def fetched(console: Console, url: str, **more: Any) -> httpx.Response:
    """What a service outside gets: no cookie, no token, only the address."""
    assert url.startswith(URL + "/c/"), url
    return Client(console.app(), URL, {}).request("GET", url.removeprefix(URL), **more)


def address(console: Console, *, at: int = 0, hours: int = 24, of: str = "e1") -> str:
    ticket = ChartTicket(of, at or console.first.started_at + 10 * M, NOW + hours * HOUR_MS)
    return f"/c/{console.signer.chart_token(ticket)}.png"


def test_a_chart_is_drawn_when_somebody_looks_and_kept() -> None:
    """GET and HEAD give the picture as of the message's time, drawn once; whoever has it need not fetch it again."""
    console = a_console()
    client, path = console.client(HOST), address(console)
    assert console.drawn == []
    first, head = client.get(path), client.request("HEAD", path)
    assert (first.status_code, first.headers["content-type"], first.content) == (200, "image/png", PNG + b"1")
    assert (head.status_code, head.headers["content-type"]) == (200, "image/png")
    assert client.get(path).content == PNG + b"1"
    (drawn,) = console.drawn
    assert drawn.times[-1] == console.first.started_at + 10 * M
    assert drawn.until == 0
    assert first.headers["cache-control"] == f"max-age={DAY_MS // 1000}, immutable"
    assert client.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert client.get(address(console, at=NOW)).content == PNG + b"2"
    assert console.drawn[1].until == console.first.closed_at


def test_the_address_is_no_key_to_anything_else() -> None:
    """It votes on nothing, and a link that votes shows no chart; both in either direction."""
    console = a_console()
    client = console.client(HOST)
    chart = address(console).removeprefix("/c/").removesuffix(".png")
    assert client.get(f"/f/{chart}").status_code == 410
    assert client.get(f"/c/{console.link()}.png").status_code == 404


def test_expired_forged_and_unknown_say_so() -> None:
    """410 with the time when it has expired; 404 for what was never ours, and for what is not kept any more."""
    console = a_console()
    client = console.client(HOST)
    gone = client.get(address(console, hours=-1))
    assert (gone.status_code, gone.text) == (410, "the address of this chart has expired: 11:00 UTC\n")
    foreign = Signer(b"another key, just as long").chart_token(ChartTicket("e1", NOW, NOW + HOUR_MS))
    good = address(console)
    long = "/c/" + "A" * 3_000 + ".png"
    for bad in (f"/c/{foreign}.png", "/c/x.png", good[:-6] + "AA.png", good.replace("v1.", "v2."), long):
        answer = client.get(bad)
        assert (answer.status_code, answer.text) == (404, "there is no such chart\n")
        assert answer.headers["cache-control"] == "no-store"
    unknown = client.get(address(console, of="e9"))
    assert (unknown.status_code, unknown.text) == (404, "this alert is not kept any more\n")
    assert client.get(address(console, at=NOW - 90 * DAY_MS)).status_code == 404
    assert client.post(good).status_code == 405
    console.parts = replace(console.parts, pictures=None)
    assert "anomalyd[images]" in console.client(HOST).get(good).text


@given(st.text(max_size=120))
def test_no_text_is_a_chart(text: str) -> None:
    """Law: whatever stands in the address, it is ours or it is nothing, and never an error."""
    assert Signer(KEY).chart_ticket(text) is None


def test_a_chart_that_takes_too_long_is_asked_for_again() -> None:
    """Drawing has its time: then 503 with Retry-After, and the picture is there for the next who asks."""
    console = a_console()
    go = threading.Event()
    slow = Pictures(console.store, lambda chart: (go.wait(30), PNG)[1], wait_s=0.05)
    console.parts = replace(console.parts, pictures=slow)
    client, path = console.client(HOST), address(console)
    late = client.get(path)
    assert (late.status_code, late.headers["retry-after"]) == (503, "5")
    go.set()
    assert client.get(path).status_code == 200  # waits for the one who draws


def test_a_picture_too_large_is_not_shown() -> None:
    """A fault of ours in drawing costs the picture, not the server's memory or anybody's patience."""
    console = a_console()
    console.parts = replace(console.parts, pictures=Pictures(console.store, lambda chart: bytes(600_000)))
    assert console.client(HOST).get(address(console)).status_code == 404


@pytest.mark.skipif(not available(), reason="the extra images (matplotlib) is not installed")
def test_the_real_picture() -> None:
    """matplotlib's, at the size that phones show."""
    console = a_console()
    console.parts = replace(console.parts, pictures=pictures(console.store))
    picture = console.client(HOST).get(address(console)).content
    assert picture.startswith(PNG)
    assert 5_000 < len(picture) < 100_000


# In messages ---------------------------------------------------------------------------------------------------------


def make(**settings: Any) -> Receiver:
    return build_receiver(RECEIVER_SETTINGS[settings["type"]].model_validate({"name": "r", **settings}))


def send(receiver: Receiver, s: Statement, said: Words, now: int = NOW) -> Rendered:
    rendered = said.of(s, now, receiver)
    assert receiver.send(Notification("n1", "r", s, s.at), rendered, now).kind == OutcomeKind.DELIVERED
    return rendered


def is_a_chart(console: Console, url: str) -> bool:
    answer = fetched(console, url)
    return (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def slacks_view(console: Console) -> Any:
    def fetch(url: str) -> tuple[int, str]:
        answer = fetched(console, url)
        return answer.status_code, answer.headers["content-type"]

    return fetch


@pytest.mark.parametrize("bot", [True, False], ids=["bot", "webhook"])
def test_slack_fetches_the_chart_before_it_takes_the_message(bot: bool) -> None:
    """The picture is behind the address that the message carries, for Slack's servers, which have no login here."""
    console = a_console()
    with slack.FakeSlack(fetch=slacks_view(console)) as sink:
        place = (
            {"bot_token": slack.TOKEN, "channel": slack.CHANNEL, "api_url": sink.api} if bot
            else {"webhook_url": sink.hook}
        )  # fmt: skip
        receiver = make(type="slack", **place)
        send(receiver, told(console), words(console))
        (message,) = sink.messages
        assert [b["type"] for b in message.body["blocks"]].count("image") == 1
        assert len(console.drawn) == 1
        receiver.close()


def test_a_chart_that_slack_cannot_fetch_costs_only_the_chart() -> None:
    """A daemon that Slack cannot reach: the message goes out at once without, and for an hour nothing is tried."""
    console = a_console()
    with slack.FakeSlack(fetch=lambda url: (0, "")) as sink:
        receiver = make(type="slack", webhook_url=sink.hook)
        send(receiver, told(console), words(console))
        assert [b["type"] for b in sink.messages[0].body["blocks"]].count("image") == 0
        assert len(sink.requests) == 2
        send(receiver, told(console), words(console), NOW + 59 * M)
        assert len(sink.requests) == 3
        send(receiver, told(console), words(console), NOW + 61 * M)
        assert len(sink.requests) == 5
        receiver.close()


def test_pagerduty_and_teams_show_the_chart_behind_its_address() -> None:
    """`images` of the event and the picture of the card; nothing is drawn before somebody opens them."""
    console = a_console()
    with FakePagerDuty() as duty, FakeTeams() as cards:
        for receiver in (
            make(type="pagerduty", routing_key=ROUTING_KEY, url=duty.enqueue),
            make(type="teams", webhook_url=cards.url + HOOK),
        ):
            send(receiver, told(console), words(console))
            receiver.close()
        (image,) = duty.alerts[0].triggers[0]["images"]
        (shown,) = [block["url"] for block in cards.cards[0]["body"] if block["type"] == "Image"]
    assert console.drawn == []
    assert is_a_chart(console, image["src"])
    assert is_a_chart(console, shown)
    assert image["src"] == shown
    assert image["href"].startswith(URL + "/f/")
    assert len(console.drawn) == 1


def test_bodies_for_programs_carry_the_address_of_each_series() -> None:
    """Our webhook's `chart_url`; Alertmanager's annotation `chart_url`, a chart of its own for each alert."""
    console = a_console()
    row = scored(console.rule.id, console.second.started_at, 1, range(0), console.second.labels)[0].series[0]
    console.store.commit_slot(replace(scored(console.rule.id, NOW, 1, range(0))[0], series=(replace(row, row=1),)))
    s = told(console)
    s = replace(s, alerts=(*s.alerts, *statement(console.second).alerts), total=2)
    with FakeWebhook() as own, FakeWebhook() as theirs, FakeAlertmanager() as manager:
        for receiver in (
            make(type="webhook", url=own.url), make(type="webhook", url=theirs.url, format="alertmanager"),
            make(type="alertmanager", urls=[manager.base]),
        ):  # fmt: skip
            send(receiver, s, words(console))
            receiver.close()
        urls = [alert["annotations"]["chart_url"] for alert in manager.alerts.values()]
        assert [a["annotations"]["chart_url"] for a in theirs.bodies[0]["alerts"]] == urls
        assert own.bodies[0]["chart_url"] == urls[0]
        assert own.bodies[0]["chart_png"] == ""
    assert len(set(urls)) == 2
    assert is_a_chart(console, urls[0])


def test_what_has_no_chart_carries_no_address() -> None:
    """A test, a source in trouble, and a daemon without an address of its own or without the means to draw."""
    console = a_console()
    charts = link_charts(console.signer, URL, WEEK)
    broken = told(console)
    broken = replace(broken, alerts=(replace(broken.alerts[0], why="source"),))
    assert charts(told(console)) is not None
    assert charts(told(console, Reason.TEST)) is None
    assert charts(broken) is None
    assert console_of(lambda: console.settings, console.store, charts=False).charts is None
    without = replace(console.settings, web=Web("127.0.0.1", 9640))
    nowhere = console_of(lambda: without, console.store, charts=True)
    assert (nowhere.actions, nowhere.charts) == (None, None)
    rendered = Words(nowhere.actions, nowhere.places, console.pictures, nowhere.charts).of(
        told(console), NOW, FakeReceiver()
    )
    assert rendered.chart is None
    assert rendered.actions == ()
    assert [link.text for link in rendered.links] == []


def test_messages_lead_to_the_dashboard_that_is_drawn_on() -> None:
    """With a Grafana receiver that names its dashboard, around the time of the alert; also without an own address."""
    settings = read_settings(read_yaml(
        "sources: {p: {url: 'http://p:9090'}}\nreceivers: {g: {type: grafana, url: 'https://g.example/x/', token: t, "
        "dashboard_uid: shop}}\n", "anomalyd.yml",
    ))  # fmt: skip
    console = Console()
    places = console_of(lambda: settings, console.store, charts=True).places
    assert places is not None
    (link,) = places(told(console), "slack")
    start, at = console.first.started_at, told(console).at
    assert link == Link("Grafana", f"https://g.example/x/d/shop?from={start - 3 * HOUR_MS}&to={at + HOUR_MS}")


def test_who_holds_a_picture_gets_it_drawn_and_its_address() -> None:
    """A letter shows its own copy; the address is there beside it."""
    console = a_console()

    class Letters(FakeReceiver):
        wants_picture = True

    chart = words(console).of(told(console), NOW, Letters()).chart
    assert chart is not None
    assert chart.png == PNG + b"1"
    assert is_a_chart(console, chart.url)
    assert len(console.drawn) == 1
    assert episode("e1").id in chart.urls
