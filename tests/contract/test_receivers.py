"""One battery over every receiver that speaks HTTP: what each must do with every way in which a peer answers or fails.

The peers are strict fakes on loopback (``tests/fakes``); what they refuse, the real ones refuse.
"""

from __future__ import annotations

import email.utils
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason
from anomalyd.receivers import RECEIVER_SETTINGS, build_receiver
from anomalyd.receivers.base import Receiver
from anomalyd.render import Action, Chart, render
from fakes import alertmanager, grafana, pagerduty, slack, teams
from fakes.sink import Answer, Fault, Sink, answer
from fakes.statements import START, a_notification, a_statement, hostile_statement
from fakes.webhook import FakeWebhook

CANARY = "canary"


@dataclass(frozen=True)
class Kit:
    """How to make one receiver and its peer, and how to see what arrived."""

    sink: Callable[..., Sink]
    settings: Callable[[Any], dict[str, Any]]
    arrived: Callable[[Any], int]


KITS = {
    "webhook": Kit(
        lambda **tls: FakeWebhook("hmac-canary", **tls),
        lambda s: {"type": "webhook", "url": s.url + "/hook-canary", "secret": "hmac-canary"},
        lambda s: len(s.bodies),
    ),
    "webhook-alertmanager": Kit(
        FakeWebhook,
        lambda s: {
            "type": "webhook", "url": s.url + "/hook-canary", "format": "alertmanager", "bearer_token": "bearer-canary",
        },
        lambda s: len(s.bodies),
    ),
    "slack-webhook": Kit(
        slack.FakeSlack, lambda s: {"type": "slack", "webhook_url": s.hook}, lambda s: len(s.messages)
    ),
    "slack-bot": Kit(
        slack.FakeSlack,
        lambda s: {"type": "slack", "bot_token": slack.TOKEN, "channel": slack.CHANNEL, "api_url": s.api},
        lambda s: len(s.messages),
    ),
    "pagerduty": Kit(
        pagerduty.FakePagerDuty,
        lambda s: {"type": "pagerduty", "routing_key": pagerduty.KEY, "url": s.enqueue},
        lambda s: len(s.alerts),
    ),
    "grafana": Kit(
        grafana.FakeGrafana,
        lambda s: {"type": "grafana", "url": s.base, "token": grafana.TOKEN},
        lambda s: len(s.annotations),
    ),
    "alertmanager": Kit(
        alertmanager.FakeAlertmanager,
        lambda s: {"type": "alertmanager", "urls": [s.base + "/"], "bearer_token": "bearer-canary"},
        lambda s: len(s.alerts),
    ),
    "teams": Kit(
        teams.FakeTeams, lambda s: {"type": "teams", "webhook_url": s.url + teams.HOOK}, lambda s: len(s.cards)
    ),
}  # fmt: skip

LOST_ANSWER_COLLAPSES = {"pagerduty", "grafana", "alertmanager", "webhook", "webhook-alertmanager"}
"""Receivers whose peers know a repeated attempt: by dedup_key, tag search or Idempotency-Key."""


def make(settings: dict[str, Any], timeout: str = "10s") -> Receiver:
    model = RECEIVER_SETTINGS[settings["type"]]
    return build_receiver(model.model_validate({"name": "r", "timeout": timeout, **settings}))


@pytest.fixture(params=sorted(KITS))
def kit(request: pytest.FixtureRequest) -> Kit:
    return KITS[request.param]


@pytest.fixture
def pair(kit: Kit) -> Iterator[tuple[Receiver, Any]]:
    with kit.sink() as sink:
        receiver = make(kit.settings(sink))
        yield receiver, sink
        receiver.close()


@pytest.fixture
def hasty(kit: Kit) -> Iterator[tuple[Receiver, Any]]:
    """A receiver with a deadline of 0.3 s, for peers that never answer."""
    with kit.sink() as sink:
        receiver = make(kit.settings(sink), "300ms")
        yield receiver, sink
        receiver.close()


def send(receiver: Receiver, notification: Notification | None = None, now: int = START) -> Outcome:
    notification = notification or a_notification()
    return receiver.send(notification, render(notification.statement, now), now)


def test_a_statement_is_delivered_once(kit: Kit, pair: tuple[Receiver, Any]) -> None:
    """A peer in good health gets exactly one message, and the outcome says so."""
    receiver, sink = pair
    assert send(receiver).kind == OutcomeKind.DELIVERED
    assert kit.arrived(sink) == 1


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_taken(kit: Kit, pair: tuple[Receiver, Any], reason: Reason) -> None:
    """Every kind of statement is delivered, also to a peer that has never heard of the incident."""
    receiver, _ = pair
    assert send(receiver, a_notification(a_statement(reason))).kind == OutcomeKind.DELIVERED


@pytest.mark.parametrize("reason", [Reason.NEW, Reason.WORSE, Reason.RESOLVED])
def test_hostile_statements_stay_within_limits(kit: Kit, pair: tuple[Receiver, Any], reason: Reason) -> None:
    """Labels of 10 kB, control characters and markup never get a message refused."""
    receiver, sink = pair
    notification = a_notification(hostile_statement(reason))
    long = "https://x.example/" + "u" * 900
    actions = tuple(Action(f"a{i}", "T" * 200, value="v" * 3_000, url=long) for i in range(9))
    rendered = render(
        notification.statement, START, actions=lambda s, r: actions,
        chart=lambda s: Chart("https://x.example/c.png", alt="a" * 5_000),
    )  # fmt: skip
    outcome = receiver.send(notification, rendered, START)
    assert outcome.kind == OutcomeKind.DELIVERED, outcome
    for request in sink.requests:
        for forbidden in (b"\x1b", b"\\u001b", b"\\u0000", "\u202e".encode(), b"javascript:", b"\\ud800"):
            assert forbidden not in request.body or kit_name(kit).startswith((b"webhook", b"alertmanager"))


def kit_name(kit: Kit) -> bytes:
    """Webhooks and Alertmanager get data for programs, with labels as they are; JSON keeps them harmless."""
    return next(name for name, k in KITS.items() if k is kit).encode()


STATUSES = [
    (400, "failed"), (401, "failed"), (403, "failed"), (404, "failed"), (410, "failed"), (302, "failed"),
    (408, "retry"), (425, "retry"), (429, "retry"), (500, "retry"), (502, "retry"), (503, "retry"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_statuses(pair: tuple[Receiver, Any], status: int, kind: str) -> None:
    """4xx is final, 429 and 5xx are tried again, redirects are not followed."""
    receiver, sink = pair
    sink.fail(Fault(Answer(status, b"no", {"Location": "http://127.0.0.1:9/other"}, "text/plain")))
    outcome = send(receiver)
    assert outcome.kind == kind, outcome
    assert outcome.message
    assert len(sink.requests) == 1
    if status in (401, 403):
        assert outcome.reason == "auth"
    if status in (404, 410):
        assert outcome.reason == "not_found"


RETRY_AFTER = [
    ("7", 7.0), ("0", 1.0), ("86400", 300.0), ("99999999999999999", 300.0), ("-5", None), ("soon", None), ("", None),
    ("٣", None), (email.utils.formatdate(START / 1000 + 42, usegmt=True), 42.0),
    (email.utils.formatdate(START / 1000 - 42, usegmt=True), 1.0), ("Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
]  # fmt: skip


@pytest.mark.parametrize(("value", "seconds"), RETRY_AFTER)
def test_retry_after(pair: tuple[Receiver, Any], value: str, seconds: float | None) -> None:
    """Retry-After in seconds or as a date is honoured and clamped; an unreadable one counts as absent."""
    receiver, sink = pair
    raw = value.encode().decode("latin-1")
    sink.fail(Fault(Answer(429, b"{}", {"Retry-After": raw})))
    outcome = send(receiver)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, "rate_limited")
    slack_default = 30.0 if seconds is None and receiver.kind == "slack" else None
    assert outcome.retry_after_s == pytest.approx(seconds) or outcome.retry_after_s == slack_default


FAULTS = {
    "hang": (Fault(hang=True), "timeout"), "drip": (Fault(drip=True), "timeout"),
    "drip in the headers": (Fault(drip_headers=True), "timeout"), "cut": (Fault(cut=True), "cut"),
    "closed": (Fault(close=True), "cut"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_network_faults(hasty: tuple[Receiver, Any], name: str) -> None:
    """A peer that hangs, drips or breaks off costs one deadline, and the attempt is tried again."""
    receiver, sink = hasty
    fault, reason = FAULTS[name]
    sink.fail(fault)
    began = time.monotonic()
    outcome = send(receiver)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, reason), outcome
    assert time.monotonic() - began < 2


def test_nobody_listens(kit: Kit) -> None:
    """A refused connection is told apart from one that may have carried the message."""
    with kit.sink() as sink:
        settings = kit.settings(sink)
    receiver = make(settings)
    outcome = send(receiver)
    receiver.close()
    assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, "connect")


def test_lost_answer_collapses(kit: Kit, pair: tuple[Receiver, Any]) -> None:
    """After an answer was lost, a second attempt does not leave two where the peer can tell."""
    receiver, sink = pair
    grafana_finds_first = isinstance(sink, grafana.FakeGrafana)
    if grafana_finds_first:
        original = sink.handle

        def lose_the_answer_of_create(request: Any) -> Answer:
            given = original(request)
            if request.method == "POST" and len(sink.annotations) == 1:
                return Answer(500, b"lost")
            return given

        sink.handle = lose_the_answer_of_create
    else:
        sink.fail(Fault(process=True, close=True))
    assert send(receiver).kind == OutcomeKind.RETRY
    assert send(receiver).kind == OutcomeKind.DELIVERED
    if kit_name(kit).decode() in LOST_ANSWER_COLLAPSES:
        seen = len(set(sink.keys)) if isinstance(sink, FakeWebhook) else kit.arrived(sink)
        assert seen == 1


def test_secrets_stay_secret(kit: Kit, hasty: tuple[Receiver, Any], caplog: pytest.LogCaptureFixture) -> None:
    """No credential shows in outcomes, memories, logs, the settings' repr or their dump, whatever goes wrong."""
    receiver, sink = hasty
    caplog.set_level(logging.DEBUG)
    sink.fail(Fault(close=True), Fault(hang=True), Fault(Answer(500, b"x")), Fault(Answer(401, b"x")), Fault(cut=True))
    outcomes = [send(receiver) for _ in range(6)]
    settings = RECEIVER_SETTINGS[receiver.kind].model_validate({"name": "r", **kit.settings(sink)})
    told = f"{outcomes} {caplog.text} {settings!r} {settings.model_dump_json()} {receiver!r}".lower()
    assert CANARY not in told


def test_absurd_answers(pair: tuple[Receiver, Any]) -> None:
    """HTML, deep JSON, NaN and a body of 5 MB neither raise nor hang."""
    receiver, sink = pair
    bodies = [b"<html>login</html>", b"[" * 100_000, b'{"ok": NaN}', b"x" * 5_000_000, b"", b"\xff\xfe"]
    sink.fail(*(Fault(Answer(200, body)) for body in bodies))
    for _ in bodies:
        assert send(receiver).kind in (OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.FAILED)


def test_unreadable_secret_is_tried_again(kit: Kit, tmp_path: Path) -> None:
    """A secret's file that is gone for a moment delays the message and does not lose it."""
    with kit.sink() as sink:
        plain = kit.settings(sink)
        secrets = {"url", "webhook_url", "bot_token", "routing_key", "token", "bearer_token"} & set(plain)
        key = next(k for k in sorted(secrets) if k != "url" or plain["type"] == "webhook")
        file = tmp_path / "secret"
        settings = {k: v for k, v in plain.items() if k != key} | {f"{key}_file": str(file)}
        receiver = make(settings)
        outcome = send(receiver)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, "config")
        assert str(file) in outcome.message
        file.write_text(plain[key] + "\n")
        assert send(receiver).kind == OutcomeKind.DELIVERED
        receiver.close()


@pytest.fixture(scope="module")
def certificates() -> dict[str, Path]:
    """Certificates by name; see the folder's README."""
    folder = Path(__file__).parents[1] / "fakes" / "tls"
    return {file.stem: file for file in folder.glob("*.pem")}


# TLS ------------------------------------------------------------------------------------------------------------


def test_tls_on_a_plain_port(kit: Kit) -> None:
    """https to a port that speaks plain HTTP fails as TLS and is never sent in clear."""
    with kit.sink() as sink:
        plain = kit.settings(sink)
        receiver = make({k: [u.replace("http:", "https:") for u in v] if isinstance(v, list) else
                         v.replace("http:", "https:") for k, v in plain.items()})  # fmt: skip
        outcome = send(receiver)
        receiver.close()
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, "tls")
        assert not sink.requests


@pytest.mark.parametrize("case", ["expired", "unknown", "other-host"])
def test_bad_certificates(certificates: dict[str, Path], case: str) -> None:
    """An expired, unknown or foreign certificate is refused, with its subject and expiry in the message."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates[case])
    with FakeWebhook(tls=context) as sink:
        ca = {} if case == "unknown" else {"tls": {"ca_file": str(certificates["ca"])}}
        receiver = make({"type": "webhook", "url": sink.url, **ca})
        outcome = send(receiver)
        receiver.close()
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, "tls")
        assert f'subject "{case}.example"' in outcome.message
        assert ", expires 2" in outcome.message
        assert outcome.retry_after_s == 300
        assert not sink.requests


def test_good_certificate(certificates: dict[str, Path]) -> None:
    """A certificate of the configured authority for the right address is accepted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["good"])
    with FakeWebhook(tls=context) as sink:
        receiver = make({"type": "webhook", "url": sink.url, "tls": {"ca_file": str(certificates["ca"])}})
        assert send(receiver).kind == OutcomeKind.DELIVERED
        receiver.close()


def test_a_word_that_is_no_error(pair: tuple[Receiver, Any]) -> None:
    """Only Slack says no with 200: everywhere else a 2xx of the right form is success."""
    receiver, sink = pair
    sink.fail(Fault(answer(200, {"ok": False, "error": "invalid_blocks"})))
    outcome = send(receiver)
    if receiver.kind == "slack":
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "client")
    elif receiver.kind != "grafana":
        assert outcome.kind == OutcomeKind.DELIVERED
