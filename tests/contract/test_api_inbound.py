"""Slack's buttons and PagerDuty's webhooks: signatures, replay, what they do, and what they never do (fault 93)."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.clock import HOUR_MS
from anomalyd.console.inbound import Seen, is_from_pagerduty, is_from_slack, slack_signature
from anomalyd.console.pagerduty import hashed
from anomalyd.console.slack import is_slacks, payload_of, updated
from anomalyd.errors import StoreBusy
from anomalyd.receivers.blocks import SNOOZE_LIST
from anomalyd.receivers.pagerduty import dedup_key
from anomalyd.records import FeedbackLabel
from anomalyd.secret import Secret
from anomalyd.settings import Web
from console_kit import NOW, Client, Console, statement
from servers import wait_until

SLACK, DUTY = "0123456789abcdef0123456789abcdef", "pd-secret-example"
WEB = Web("127.0.0.1", 9640, slack_signing_secret=Secret(SLACK), pagerduty_secret=Secret(DUTY))
URL = "https://hooks.slack.com/actions/T0/1/abc"


def pressed(console: Console, choice: str, user: str = "U0", ts: str = "1700000060.1", **more: Any) -> dict[str, Any]:
    """What Slack sends when a button of a message is pressed."""
    value = console.link(choice=choice)
    button = {"type": "button", "action_id": f"anomalyd_{choice}", "value": value, "action_ts": ts}
    return {
        "type": "block_actions", "team": {"id": "T0"}, "user": {"id": user, "username": "ana"},
        "container": {"type": "message", "message_ts": "1700000000.1", "channel_id": "C0"},
        "message": {"ts": "1700000000.1", "text": "latency", "blocks": [{"type": "header", "block_id": "h"}]},
        "response_url": URL, "actions": [button], **more,
    }  # fmt: skip


def send(client: Client, payload: Any, *, now: int = NOW, secret: str = SLACK) -> httpx.Response:
    body = urlencode({"payload": json.dumps(payload)}).encode()
    stamp = str(now // 1000)
    signed = {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": slack_signature(secret, stamp, body)}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return client.post("/slack/actions", content=body, headers={**form, **signed})


def settled(console: Console, condition: Callable[[], bool]) -> None:
    wait_until(condition, 10, "the work behind Slack's button")
    assert console.posted or condition()


def test_the_documented_vectors_verify() -> None:
    """The signatures of the two services' documentation, recomputed."""
    body = b"payload=%7B%22type%22%3A%22block_actions%22%7D"
    right = "v0=da2ef08c588ee030aa98aeae4f1508b760e490c542a3820b3ab8582166652e29"
    assert slack_signature(SLACK, "1700000000", body) == right
    assert is_from_slack(SLACK, "1700000000", right, body, 1_700_000_000_000)
    event = b'{"event":{"id":"01ABC","event_type":"incident.acknowledged"}}'
    mine = "v1=beb9e4506c433c44f1ec02df2038b61299b30592e5a9bf2d0f99d966f54ec123"
    assert is_from_pagerduty(DUTY, mine, event)
    assert is_from_pagerduty(DUTY, f"v1={'0' * 64}, {mine}", event)
    assert not is_from_pagerduty(DUTY, mine.replace("v1", "v2"), event)
    assert not is_from_pagerduty(DUTY, mine, event + b" ")
    assert not is_from_pagerduty(DUTY, "", event)


@given(st.text(max_size=40), st.text(max_size=80), st.binary(max_size=60))
def test_nothing_unsigned_is_taken(stamp: str, signature: str, body: bytes) -> None:
    """Law: other digits, odd characters, anything: no, and never an error."""
    assert not is_from_slack(SLACK, stamp, signature, body, NOW)
    assert not is_from_pagerduty(DUTY, signature, body)


@pytest.mark.parametrize("off_s", [-301, 301, 10**9])
def test_a_stale_signature_is_not_taken(off_s: int) -> None:
    """Five minutes to either side, no more."""
    console = Console(WEB)
    assert send(console.client(), pressed(console, "real"), now=NOW + off_s * 1000).status_code == 401
    stamp = "\u0661" * 10
    assert not is_from_slack(SLACK, stamp, slack_signature(SLACK, stamp, b""), b"", NOW)


def test_a_button_votes_on_the_incident_and_the_message_says_who() -> None:
    """200 with an empty body at once; then a vote on each series, and the message with the voter below it."""
    console = Console(WEB)
    answer = send(console.client(), pressed(console, "false_alarm"))
    assert (answer.status_code, answer.content) == (200, b"")
    settled(console, lambda: len(console.posted) == 1)
    votes = console.store.feedback()
    assert {(v.episode, v.label, v.who, v.via) for v in votes} == {
        (name, FeedbackLabel.FALSE, "ana (U0)", "slack") for name in ("e1", "e2")
    }
    ((url, message),) = console.posted
    assert url == URL
    assert message["replace_original"] is True
    assert message["blocks"][0]["block_id"] == "h"
    assert message["blocks"][-1]["elements"][0]["text"].startswith("*false alarm*, says `ana (U0)`")


@pytest.mark.parametrize(
    ("chosen", "hours", "words"),
    [("1h", 1, "for 1 hour"), ("4h", 4, "for 4 hours"), ("tomorrow", 19, "until 2026-09-22 07:00 UTC"),
     ("1w", 168, "for 1 week")],
)
def test_the_list_of_a_message_snoozes_the_incident(chosen: str, hours: int, words: str) -> None:
    """What Slack sends for the list that the message holds silences the whole incident for that long (noon, Madrid)."""
    console = Console(WEB)
    payload = pressed(console, "snooze")
    payload["actions"] = [
        {
            "type": "static_select", "action_id": SNOOZE_LIST + console.link(choice="snooze"), "action_ts": "1.2",
            "selected_option": {"text": {"type": "plain_text", "text": chosen}, "value": chosen},
        }
    ]  # fmt: skip
    assert send(console.client(), payload).status_code == 200
    settled(console, lambda: len(console.posted) == 1)
    (silence,) = console.store.silences()
    assert silence.ends_at - silence.starts_at == hours * HOUR_MS
    assert [(m.name, m.value) for m in silence.matchers] == [("rule", console.rule.id)]
    assert f"*snoozed {words}* by `ana (U0)`" in console.posted[0][1]["blocks"][-1]["elements"][0]["text"]


def test_a_list_of_what_is_over_or_forged_snoozes_nothing() -> None:
    """An ended incident, an unknown length, another action's token and no token: an ephemeral word, no silence."""
    console = Console(WEB)
    client = console.client()
    link = console.link(choice="snooze")
    real = console.link(choice="real")
    for i, (name, value) in enumerate([(link, "9y"), (real, "1h"), ("", "1h"), (link[:-2], "1h")]):
        action = {"type": "static_select", "action_id": SNOOZE_LIST + name, "selected_option": {"value": value}}
        send(client, pressed(console, "snooze", actions=[{**action, "action_ts": f"{i}"}]))
        settled(console, lambda i=i: len(console.posted) == i + 1)  # type: ignore[misc]
    (incident,) = console.store.incidents()
    console.store.save_episodes([], [replace(incident, closed_at=NOW)])
    send(client, pressed(console, "snooze", ts="over"))
    settled(console, lambda: len(console.posted) == 5)
    assert "it is over" in console.posted[-1][1]["text"]
    assert console.store.silences() == []


def test_a_replayed_request_and_a_repeated_press_count_once() -> None:
    """The same signed request again, and the same press signed anew (Slack's retry), change nothing."""
    console = Console(WEB)
    client, payload = console.client(), pressed(console, "real")
    for now in (NOW, NOW, NOW + 1000):
        assert send(client, payload, now=now).status_code == 200
    last = pressed(console, "snooze", ts="1700000099.9")
    assert send(client, last, now=NOW + 2000).status_code == 200
    settled(console, lambda: bool(console.store.silences()))
    assert len(console.store.feedback()) == 2
    assert len(console.posted) in (1, 2)


def test_forged_altered_and_strange_requests_are_not_taken() -> None:
    """Wrong secret, no signature, non-ASCII headers, an altered body: 401 without a word; signed nonsense: 400."""
    console = Console(WEB)
    client, payload = console.client(), pressed(console, "real")
    assert send(client, payload, secret="f" * 32).status_code == 401
    answer = client.post("/slack/actions", content=b"payload={}")
    assert (answer.status_code, answer.content) == (401, b"")
    assert client.post("/slack/actions", content=b"x" * 1_200_000).status_code == 413
    for body in (b"", b"payload=", b"payload=[]", b"payload=" + b"[" * 90_000, b"\xff", b"a=b&" * 1000):
        stamp = str(NOW // 1000)
        headers = {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": slack_signature(SLACK, stamp, body)}
        assert client.post("/slack/actions", content=body, headers=headers).status_code == 400
    for odd in ({"type": "view_submission"}, {"type": "block_actions"}, {"type": "block_actions", "actions": [7, {}]},
                {**payload, "user": 5, "actions": [{"value": "x"}]}):  # fmt: skip
        assert send(client, odd).status_code == 200
    assert [v for v in console.store.feedback() if v.via != "slack"] == []


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x", "http://hooks.slack.com/x", "https://hooks.slack.com.evil.example/",
        "https://hooks.slack.com@evil.example/", "https://u:p@hooks.slack.com/", "https://hooks.slack.com:8443/",
        "https://hooks.slack.com\\@evil.example/", "https://[::1]/", "file:///etc/passwd", "", "https://hooks.slack.com:x",
        "https://h\u043eoks.slack.com/",
    ],
)  # fmt: skip
def test_only_slacks_own_address_is_called(url: str) -> None:
    """Fault 91: an address in a payload that is not Slack's is never called; the vote counts all the same."""
    assert not is_slacks(url)
    assert is_slacks(URL)


def test_a_foreign_answer_address_is_not_called() -> None:
    """The vote is kept, nothing is sent."""
    console = Console(WEB)
    send(console.client(), pressed(console, "real", response_url="https://evil.example/"))
    wait_until(lambda: len(console.store.feedback()) == 2, 10, "the votes")
    assert console.posted == []


def test_an_expired_button_says_so_to_whoever_pressed_it() -> None:
    """An ephemeral answer, and no vote."""
    console = Console(WEB)
    payload = pressed(console, "real")
    payload["actions"][0]["value"] = console.link(choice="real", hours=-1)
    send(console.client(), payload)
    settled(console, lambda: len(console.posted) == 1)
    assert console.posted[0][1]["response_type"] == "ephemeral"
    assert console.store.feedback() == []


def test_hostile_names_stay_text_in_slack() -> None:
    """Fault 96: a user name cannot ping a channel or forge a link."""
    console = Console(WEB)
    payload = pressed(console, "real")
    payload["user"]["username"] = "<!channel> *bold* `code` <http://evil.example|click>"
    send(console.client(), payload)
    settled(console, lambda: len(console.posted) == 1)
    text = json.dumps(console.posted[0][1])
    assert "<!channel>" not in text
    assert "<http" not in text


def test_earlier_voters_stay_on_the_message() -> None:
    """The lines of those who voted before are kept, the newest six; a message without blocks is not overwritten."""
    payload: dict[str, Any] = {"message": {"text": "t", "blocks": [{"type": "header"}]}}
    for i in range(9):
        payload["message"]["blocks"] = updated(payload, f"vote {i}")["blocks"]
    blocks = payload["message"]["blocks"]
    assert len(blocks) == 2
    assert [e["text"] for e in blocks[-1]["elements"]] == [f"vote {i}" for i in range(3, 9)]
    assert updated({"message": 5}, "x") == {"response_type": "in_channel", "replace_original": False, "text": "x"}
    assert payload_of(b"payload=%7B%7D") == {}


def duty(client: Client, event: Any, secret: str = DUTY) -> httpx.Response:
    body = json.dumps({"event": event}).encode()
    mac = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
    return client.post("/pagerduty/webhook", content=body, headers={"X-PagerDuty-Signature": f"v1={mac}"})


def happened(console: Console, kind: str = "incident.acknowledged", id: str = "01ABC", key: str = "") -> dict[str, Any]:
    own = key or dedup_key(statement(console.first))
    return {"id": id, "event_type": kind, "agent": {"summary": "Ben\x1b[1m"}, "data": {"incident_key": own}}


def test_an_acknowledgement_is_recorded_on_the_incident_once() -> None:
    """Ack and resolve are kept with who did it; a second delivery, or a second daemon, adds nothing."""
    console = Console(WEB)
    client = console.client()
    assert duty(client, happened(console)).status_code == 202
    assert duty(client, happened(console)).status_code == 200
    assert duty(console.client(), happened(console)).status_code == 202  # a fresh process: the store knows the event
    assert duty(client, happened(console, "incident.resolved", "01ABD")).status_code == 202
    kept = [(v.episode, v.label.value, v.who) for v in console.store.feedback(episode="e1")]
    assert kept == [("e1", "acknowledged", "Ben"), ("e1", "resolved", "Ben")]
    assert console.store.thresholds(console.rule.id) == []


def test_the_two_sides_agree_on_the_key() -> None:
    """The hash that finds an incident is the one that the receiver sends."""
    console = Console(WEB)
    (incident,) = console.store.incidents()
    assert hashed(incident) == dedup_key(statement(console.first))


def test_unknown_events_are_taken_without_a_word_and_forged_ones_are_not() -> None:
    """Kinds that mean nothing here and incidents of others: 2xx; a wrong signature: 401; signed nonsense: 400."""
    console = Console(WEB)
    client = console.client()
    for event in ({"id": "1", "event_type": "pagey.ping"}, happened(console, key="f" * 64, id="2"), {"id": "3"},
                  {"id": "4", "event_type": "incident.resolved", "data": "x", "agent": 7}):  # fmt: skip
        assert duty(client, event).status_code in (200, 202)
    assert duty(client, happened(console), secret="other").status_code == 401
    assert client.post("/pagerduty/webhook", content=b"{}").status_code == 401
    assert duty(client, [1]).status_code == 400
    assert console.store.feedback() == []


def test_a_database_that_is_away_makes_pagerduty_come_again() -> None:
    """503, and the next delivery of the same event counts."""
    console = Console(WEB)
    away = True
    real = console.store.add_feedback

    class Moody:
        """The store, away for a while."""

        def __getattr__(self, name: str) -> Any:
            return getattr(console.store, name)

        def add_feedback(self, vote: Any) -> bool:
            if away:
                raise StoreBusy("locked", "somebody else writes")
            return real(vote)

    console.parts = replace(console.parts, store=Moody())  # type: ignore[arg-type]
    client = console.client()
    assert duty(client, happened(console, id="9")).status_code == 503
    away = False
    assert duty(client, happened(console, id="9")).status_code == 202
    assert [v.label.value for v in console.store.feedback(episode="e1")] == ["acknowledged"]


def test_both_are_off_unless_configured() -> None:
    """Without their secret there is no such address."""
    client = Console().client()
    assert client.post("/slack/actions", content=b"").status_code == 404
    assert client.post("/pagerduty/webhook", content=b"").status_code == 404


def test_the_memory_against_replay_is_bounded() -> None:
    """It forgets what is old and never holds more than its limit."""
    seen = Seen(1_000)
    assert seen.first_time("a", 0)
    assert not seen.first_time("a", 999)
    assert seen.first_time("a", 2_001)
    for i in range(30_000):
        seen.first_time(str(i), 3_000)
    assert len(seen._at) <= 10_000
