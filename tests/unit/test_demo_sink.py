"""The demo's webhook sink takes what is signed, whole and fresh, once, and refuses the rest."""

import hashlib
import hmac
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from anomalyd.demo.sink import TOLERANCE_MS, Received, WebhookSink
from anomalyd.incident import Notification, OutcomeKind, Reason, Statement
from anomalyd.receivers.webhook import Webhook, WebhookSettings
from anomalyd.render import render
from anomalyd.score import Tier
from anomalyd.secret import Secret

SECRET = "a-shared-secret"
NOW = 1_762_000_000_000
BODY = json.dumps({"version": "4", "status": "firing"}).encode()


class Listening:
    """A running sink and what it received."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.sink = WebhookSink(SECRET, self.received.append, now=lambda: NOW)

    def post(self, body: bytes = BODY, method: str = "POST", **headers: str) -> tuple[int, str]:
        stamp = headers.get("X_Anomalyd_Timestamp", str(NOW // 1000))
        sent = {
            "Idempotency-Key": "d-1",
            "X-Anomalyd-Event": "firing",
            "X-Anomalyd-Timestamp": stamp,
            "X-Anomalyd-Signature": signature(SECRET, stamp, body),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection = http.client.HTTPConnection(self.sink.url.removeprefix("http://"), timeout=10)
        try:
            connection.request(method, "/", body, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def signature(secret: str, stamp: str, body: bytes) -> str:
    return "v1=" + hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()


@pytest.fixture
def listening() -> Iterator[Listening]:
    made = Listening()
    with made.sink:
        yield made


def test_signed_webhook_arrives(listening: Listening) -> None:
    """A signed body is handed on with its delivery id and event."""
    assert listening.post()[0] == 200
    (received,) = listening.received
    assert (received.delivery, received.event, received.body["status"]) == ("d-1", "firing", "firing")


def test_one_good_signature_among_several_is_enough(listening: Listening) -> None:
    """During a rotation of the secret the sender signs with both."""
    stamp = str(NOW // 1000)
    both = f"{signature('old', stamp, BODY)}, {signature(SECRET, stamp, BODY)}"
    assert listening.post(X_Anomalyd_Signature=both)[0] == 200


def test_repeated_delivery_is_handed_on_once(listening: Listening) -> None:
    """A retry with the same id is answered 200 and counted, not handed on again."""
    assert [listening.post()[0], listening.post()[0]] == [200, 200]
    assert len(listening.received) == 1
    assert listening.sink.repeated == 1


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"X_Anomalyd_Signature": "v1=00"}, 401, "does not match"),
        ({"X_Anomalyd_Signature": ""}, 401, "does not match"),
        ({"X_Anomalyd_Signature": signature("wrong", str(NOW // 1000), BODY)}, 401, "does not match"),
        ({"X_Anomalyd_Timestamp": str((NOW - TOLERANCE_MS) // 1000 - 1)}, 401, "five minutes"),
        ({"X_Anomalyd_Timestamp": "soon"}, 401, "five minutes"),
        ({"Idempotency_Key": ""}, 400, "Idempotency-Key"),
        ({"body": b"{not json"}, 400, "not JSON"),
        ({"body": b"[1]"}, 400, "not a JSON object"),
        ({"method": "GET"}, 400, "POST"),
    ],
)
def test_unsound_requests_are_refused(listening: Listening, change: dict, status: int, says: str) -> None:
    """Each fault is refused with its reason and nothing is handed on."""
    answered, text = listening.post(**change)
    assert answered == status
    assert says in text
    assert listening.received == []
    assert len(listening.sink.refused) == 1


def test_stop_closes_kept_connections_and_may_be_repeated() -> None:
    """A client that keeps its connection does not keep the sink alive."""
    sink = WebhookSink(SECRET, lambda received: None)
    sink.start()
    connection = http.client.HTTPConnection(sink.url.removeprefix("http://"), timeout=10)

    def ask() -> bytes:
        connection.request("GET", "/")
        return connection.getresponse().read()

    assert ask()
    sink.stop()
    sink.stop()
    with pytest.raises((http.client.HTTPException, OSError)):
        ask()
    connection.close()


def test_a_sink_that_never_started_can_be_stopped() -> None:
    """Stopping before starting releases the port and does not hang."""
    sink = WebhookSink(SECRET, lambda received: None)
    port = int(sink.url.rstrip("/").rpartition(":")[2])
    sink.stop()
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
        assert again.getsockname()[1] == port


def test_what_the_webhook_receiver_sends_is_taken() -> None:
    """The daemon's own receiver and the sink agree on headers, signature and body."""
    received: list[Received] = []
    with WebhookSink(SECRET, received.append, now=lambda: NOW) as sink:
        webhook = Webhook(WebhookSettings(name="demo", url=Secret(sink.url), secret=Secret(SECRET)))
        statement = Statement(
            incident="i", key="k", rule="g/r", group="g", name="r", expr="x", detector="mad", reason=Reason.NEW,
            tier=Tier.WARNING, at=NOW, opened_at=NOW, group_labels=(), labels={}, annotations={}, alerts=(), total=0,
        )  # fmt: skip
        notification = Notification("n-1", "demo", statement, NOW)
        try:
            outcome = webhook.send(notification, render(statement, NOW), NOW)
        finally:
            webhook.close()
        assert outcome.kind == OutcomeKind.DELIVERED
        assert sink.refused == []
    assert [(one.delivery, one.event, one.body["tier"]) for one in received] == [("n-1", "firing", "warning")]
