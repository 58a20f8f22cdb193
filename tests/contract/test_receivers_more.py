"""Alertmanager (a strict fake, and Debian's real one), email over SMTP, apprise."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from anomalyd.clock import MINUTE_MS, SystemClock
from anomalyd.errors import ConfigError, DeliveryError
from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason
from anomalyd.matcher import silence_of
from anomalyd.receivers import RECEIVER_SETTINGS, build_receiver
from anomalyd.receivers.alertmanager import Alertmanager, AlertmanagerSettings
from anomalyd.receivers.apprise import LOCAL_SCHEMES
from anomalyd.receivers.email import Email, EmailSettings
from anomalyd.render import Chart, render
from anomalyd.score import Tier
from fakes.alertmanager import FakeAlertmanager
from fakes.sink import Answer, Fault
from fakes.smtp import FakeSmtp
from fakes.statements import MINUTE, START, a_notification, a_statement, an_alert, hostile_statement
from servers import wait_until

TLS = Path(__file__).parents[1] / "fakes" / "tls"


def send(receiver: Any, notification: Notification | None = None, now: int = START) -> Outcome:
    notification = notification or a_notification()
    outcome: Outcome = receiver.send(notification, render(notification.statement, now), now)
    return outcome


# Alertmanager ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[Alertmanager, FakeAlertmanager]]:
    with FakeAlertmanager() as sink:
        receiver = Alertmanager(AlertmanagerSettings(name="am", urls=(sink.base,)))
        yield receiver, sink
        receiver.close()


def test_kept_alive_until_resolved(pair: tuple[Alertmanager, FakeAlertmanager]) -> None:
    """What fires is posted every minute with an end ahead; an end is repeated for a quarter of an hour."""
    receiver, sink = pair
    assert receiver.beat_at() is None
    send(receiver)
    for minute in range(30):
        now = START + minute * MINUTE
        assert receiver.keep_alive(now).kind == OutcomeKind.DELIVERED
        assert receiver.beat_at() == now + MINUTE
        assert len(sink.firing(now + 3 * MINUTE)) == 1
    end = START + 30 * MINUTE
    send(receiver, a_notification(a_statement(Reason.RESOLVED)), end)
    assert sink.firing(end) == []
    sink.alerts.clear()  # a restart of Alertmanager
    receiver.keep_alive(end + 10 * MINUTE)
    assert len(sink.alerts) == 1
    assert sink.firing(end) == []
    posts = sink.posts
    receiver.keep_alive(end + 16 * MINUTE)
    assert sink.posts == posts
    assert receiver.beat_at() is None


def test_only_what_changes_is_in_annotations(pair: tuple[Alertmanager, FakeAlertmanager]) -> None:
    """A higher tier or another value is the same alert to Alertmanager."""
    receiver, sink = pair
    send(receiver)
    send(receiver, a_notification(a_statement(Reason.WORSE, Tier.EMERGENCY, alerts=(an_alert(value=9.0),))))
    (alert,) = sink.alerts.values()
    assert alert["labels"] == {
        "alertname": "CheckoutLatencyP99", "region": "eu", "rule": "checkout/CheckoutLatencyP99", "team": "payments",
    }  # fmt: skip
    assert alert["annotations"]["value"] == "9"


def test_series_that_left_the_incident_are_resolved(pair: tuple[Alertmanager, FakeAlertmanager]) -> None:
    """An alert that is not in the newest statement has ended, unless the statement is cut."""
    receiver, sink = pair
    both = (an_alert("eu"), an_alert("us"))
    send(receiver, a_notification(a_statement(alerts=both, total=2)))
    send(receiver, a_notification(a_statement(Reason.MORE, alerts=both[:1], total=90)))
    assert len(sink.firing(START)) == 2
    send(receiver, a_notification(a_statement(Reason.MORE, alerts=both[:1], total=1)))
    assert [labels["region"] for labels in sink.firing(START)] == ["eu"]


def test_bad_alerts_do_not_stop_good_ones(pair: tuple[Alertmanager, FakeAlertmanager]) -> None:
    """A batch with a bad alert is halved until the bad one is found; it is left out from then on."""
    receiver, sink = pair
    alerts = tuple(an_alert("bad" if i == 13 else f"r{i}") for i in range(20))
    assert send(receiver, a_notification(a_statement(alerts=alerts, total=20))).kind == OutcomeKind.DELIVERED
    assert len(sink.firing(START)) == 19
    posts = sink.posts
    receiver.keep_alive(START + MINUTE)
    assert sink.posts == posts + 1
    only_bad = a_notification(a_statement(incident="other", alerts=(an_alert("bad", episode="x"),)))
    receiver._bad.clear()
    assert send(receiver, only_bad).kind == OutcomeKind.FAILED


def test_one_server_of_a_cluster_is_enough() -> None:
    """Every server is posted to; one that is down does not delay or duplicate anything."""
    with FakeAlertmanager() as down:
        gone = down.base
    with FakeAlertmanager() as one, FakeAlertmanager() as two:
        receiver = Alertmanager(AlertmanagerSettings(name="am", urls=(gone, one.base, two.base)))
        assert send(receiver).kind == OutcomeKind.DELIVERED
        receiver.close()
        assert len(one.alerts) == len(two.alerts) == 1


def test_restore_takes_up_what_was_told_before(pair: tuple[Alertmanager, FakeAlertmanager]) -> None:
    """After a restart of the daemon an open incident is kept alive again, and can be resolved."""
    receiver, sink = pair
    statement = a_statement()
    receiver.restore(statement, render(statement, START), START)
    assert sink.posts == 0
    receiver.keep_alive(START)
    assert len(sink.firing(START)) == 1
    send(receiver, a_notification(a_statement(Reason.RESOLVED)), START + 30 * MINUTE)
    assert sink.firing(START + 30 * MINUTE) == []


def test_late_end_of_an_older_incident_leaves_the_newer_one_firing(
    pair: tuple[Alertmanager, FakeAlertmanager],
) -> None:
    """The end of one occurrence that arrives late does not end the next on the same series."""
    receiver, sink = pair
    send(receiver)
    send(receiver, a_notification(a_statement(incident="inc-2")))
    send(receiver, a_notification(a_statement(Reason.RESOLVED)), START + 30 * MINUTE)
    receiver.keep_alive(START + 30 * MINUTE)
    assert len(sink.firing(START + 30 * MINUTE)) == 1


def test_silences_are_read(pair: tuple[Alertmanager, FakeAlertmanager]) -> None:
    """Active silences become ours; expired ones and those that cannot be read do not."""
    receiver, sink = pair
    times = {"startsAt": "2026-01-02T03:00:00Z", "endsAt": "2026-01-02T05:00:00.000Z", "createdBy": "ana"}
    matcher = {"name": "region", "value": "e.", "isRegex": True}
    sink.silences = [
        {"id": "1", "status": {"state": "active"}, "matchers": [matcher], **times},
        {"id": "2", "status": {"state": "expired"}, "matchers": [matcher], **times},
        {"id": "3", "status": {"state": "active"}, "matchers": [{"name": "x"}], **times},
        {"id": "4", "status": {"state": "active"}, "matchers": [{**matcher, "isEqual": False}], **times},
    ]
    found = receiver.silences(START)
    assert [s.id for s in found] == ["alertmanager:1", "alertmanager:4"]
    silence = silence_of(a_statement(), found, START)
    assert silence is not None
    assert silence.id == "alertmanager:1"
    sink.fail(Fault(Answer(503, b"busy")))
    with pytest.raises(DeliveryError):
        receiver.silences(START)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[str]:
    """Debian's Alertmanager on a free port, with a route prefix."""
    config = tmp_path / "am.yml"
    config.write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", "--web.route-prefix=/am",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "TZ": "UTC"})
    try:
        url = f"http://127.0.0.1:{port}/am"
        wait_until(lambda: _ready(url), 20, "Alertmanager's readiness")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/-/ready", timeout=1):
            return True
    except OSError:
        return False


def _alerts(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(url + "/api/v2/alerts", timeout=5) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


@pytest.mark.server("alertmanager")
def test_real_alertmanager(real: str) -> None:
    """Fire, keep alive, survive hostile labels, be silenced there, resolve: against the real server."""
    receiver = Alertmanager(AlertmanagerSettings(name="am", urls=(real,)))
    now = SystemClock().now_ms()
    alert = an_alert(started_at=now - MINUTE_MS, opened_at=now - MINUTE_MS)
    statement = a_statement(at=now, opened_at=now, alerts=(alert,))
    assert send(receiver, a_notification(statement), now).kind == OutcomeKind.DELIVERED
    (shown,) = _alerts(real)
    assert shown["labels"]["alertname"] == "CheckoutLatencyP99"
    assert shown["status"]["state"] in ("active", "unprocessed")
    assert receiver.keep_alive(now).kind == OutcomeKind.DELIVERED

    hostile = replace(hostile_statement(), at=now, opened_at=now, incident="hostile")
    hostile = replace(hostile, alerts=tuple(replace(a, started_at=now, opened_at=now) for a in hostile.alerts))
    assert send(receiver, a_notification(hostile), now).kind == OutcomeKind.DELIVERED
    assert len(_alerts(real)) == 51

    silence = {
        "matchers": [{"name": "region", "value": "eu", "isRegex": False}], "startsAt": "2020-01-01T00:00:00Z",
        "endsAt": "2099-01-01T00:00:00Z", "createdBy": "test", "comment": "test",
    }  # fmt: skip
    request = urllib.request.Request(
        real + "/api/v2/silences", json.dumps(silence).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5):
        pass
    assert silence_of(statement, receiver.silences(now), now) is not None

    resolved = replace(statement, reason=Reason.RESOLVED, alerts=(replace(alert, status="resolved", closed_at=now),))
    assert send(receiver, a_notification(resolved), now + 1_000).kind == OutcomeKind.DELIVERED
    assert [a for a in _alerts(real) if a["labels"].get("region") == "eu"] == []
    receiver.close()


# Email ----------------------------------------------------------------------------------------------------------


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good.pem")
    return context


def an_email(server: FakeSmtp, **keys: Any) -> Email:
    settings = {
        "name": "mail", "to": ["Ana <ana@example.org>", "ops@example.org"], "sender": "anomalyd <a@example.org>",
        "host": "127.0.0.1", "port": server.port, "timeout": "5s", "tls": {"ca_file": str(TLS / "ca.pem")}, **keys,
    }  # fmt: skip
    return Email(EmailSettings.model_validate(settings))


def test_email_over_starttls_with_password() -> None:
    """A letter with text, HTML and chart, threaded by incident, over TLS with a login."""
    with FakeSmtp(server_tls(), "user", "canary") as server:
        receiver = an_email(server, username="user", password="canary")
        for statement in (a_statement(), a_statement(Reason.RESOLVED)):
            rendered = render(statement, START, chart=lambda s: Chart(png=b"\x89PNG", alt="p99"))
            assert receiver.send(a_notification(statement), rendered, START).kind == OutcomeKind.DELIVERED
        first, second = server.letters
        assert first["Subject"] == "[CRITICAL] CheckoutLatencyP99: eu"
        assert first["To"].addresses[0].addr_spec == "ana@example.org"
        assert first["References"] == second["References"]
        assert first["Message-ID"] != second["Message-ID"]
        assert first["Date"].datetime.timestamp() == START // 1000
        kinds = [part.get_content_type() for part in first.walk() if not part.is_multipart()]
        assert kinds == ["text/plain", "text/html", "image/png"]


def test_email_hostile_labels_add_no_header() -> None:
    """Line breaks in labels stay inside the body; HTML is escaped."""
    with FakeSmtp(server_tls()) as server:
        assert send(an_email(server), a_notification(hostile_statement())).kind == OutcomeKind.DELIVERED
        html = server.letters[0].get_body(("html",))
        assert html is not None
        assert "<script" not in html.get_content()


REPLIES = [
    ("MAIL", "451 rate exceeded", "retry", "rate_limited"), ("RCPT", "450 mailbox busy", "retry", "server"),
    ("RCPT", "550 no such user", "failed", "client"), ("DATA", "554 spam", "failed", "client"),
    ("AUTH", "535 bad password", "failed", "auth"), ("EHLO", "421 go away", "retry", "server"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "reply", "kind", "reason"), REPLIES)
def test_email_replies(command: str, reply: str, kind: str, reason: str) -> None:
    """4xx is tried again, 5xx is final."""
    with FakeSmtp(server_tls(), "user", "canary") as server:
        server.refuse = {command: reply} | ({"HELO": reply} if command == "EHLO" else {})
        outcome = send(an_email(server, username="user", password="canary"))
        assert (outcome.kind, outcome.reason) == (kind, reason), outcome
        assert "canary" not in str(outcome)
        assert not server.letters


def test_email_network_faults() -> None:
    """A server that hangs, is away, has no TLS or the wrong certificate."""
    with FakeSmtp(server_tls()) as server:
        outcome = send(an_email(server, tls={}))
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, "tls")
        server.hang = True
        outcome = send(an_email(server, timeout="200ms"))
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, "timeout")
    with FakeSmtp() as server:
        outcome = send(an_email(server))
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "config")
    outcome = send(an_email(server))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.RETRY, "connect")


@pytest.mark.parametrize("keys", [{"to": []}, {"to": ["nobody"]}, {"sender": "x@"}, {"username": "u"},
                                  {"username": "u", "password": "p", "security": "none"}])  # fmt: skip
def test_email_settings_refused(keys: dict[str, Any]) -> None:
    """Settings that cannot work, or would send a password in clear, are refused."""
    good = {"name": "m", "to": ["a@example.org"], "sender": "b@example.org", "host": "h"}
    EmailSettings.model_validate(good)
    with pytest.raises(ValidationError):
        EmailSettings.model_validate({**good, **keys})


# apprise --------------------------------------------------------------------------------------------------------


def test_apprise_refuses_local_schemes() -> None:
    """Nothing of this machine can be reached through apprise."""
    pytest.importorskip("apprise", reason="the extra apprise is not installed")
    settings = RECEIVER_SETTINGS["apprise"].model_validate({"name": "a", "type": "apprise", "url": "file:///tmp/x"})
    receiver = build_receiver(settings)
    outcome = send(receiver)
    receiver.close()
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "config")
    assert "file" in LOCAL_SCHEMES


def test_apprise_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the settings are refused with the line that installs it."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    settings = RECEIVER_SETTINGS["apprise"].model_validate({"name": "a", "type": "apprise", "url": "ntfy://x"})
    with pytest.raises(ConfigError, match=r"anomalyd\[apprise\]"):
        build_receiver(settings)
