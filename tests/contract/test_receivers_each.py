"""What is particular to each receiver: threads, routing keys, regions, signatures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason, Statement
from anomalyd.receivers import RECEIVER_SETTINGS, build_receiver
from anomalyd.receivers.base import Receiver
from anomalyd.render import Action, Chart, render
from anomalyd.score import Tier
from fakes import grafana, pagerduty, slack
from fakes.sink import Answer, Fault, answer
from fakes.statements import MINUTE, START, a_notification, a_statement, an_alert, hostile_statement
from fakes.webhook import FakeWebhook


def make(**settings: Any) -> Receiver:
    return build_receiver(RECEIVER_SETTINGS[settings["type"]].model_validate({"name": "r", **settings}))


class Story:
    """One incident told to one receiver, statement after statement, with the memory carried along."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.memory: dict[str, Any] = {}

    def tell(self, reason: Reason, tier: Tier = Tier.CRITICAL, **changes: Any) -> Outcome:
        return self.send(a_notification(a_statement(reason, tier, **changes)))

    def send(self, notification: Notification) -> Outcome:
        notification = replace(notification, memory=dict(self.memory))
        outcome = self.receiver.send(notification, render(notification.statement, START), START)
        if outcome.memory is not None:
            self.memory = json.loads(json.dumps(dict(outcome.memory)))  # what the store does to it
        return outcome


# Slack ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def slack_bot() -> Iterator[tuple[Story, slack.FakeSlack]]:
    with slack.FakeSlack() as sink:
        receiver = make(type="slack", bot_token=slack.TOKEN, channel=slack.CHANNEL, api_url=sink.api)
        yield Story(receiver), sink
        receiver.close()


def test_slack_keeps_one_message_an_incident(slack_bot: tuple[Story, slack.FakeSlack]) -> None:
    """The root shows the present state, each change is in its thread, and only what matters is also in the channel."""
    story, sink = slack_bot
    for reason, tier in (
        (Reason.NEW, Tier.WARNING), (Reason.MORE, Tier.WARNING), (Reason.WORSE, Tier.EMERGENCY),
        (Reason.RESOLVED, Tier.EMERGENCY),
    ):  # fmt: skip
        assert story.tell(reason, tier).kind == OutcomeKind.DELIVERED
    root, *replies = sink.messages
    assert root.edits == 3
    assert root.body["blocks"][0]["text"]["text"].startswith("✅ [RESOLVED] CheckoutLatencyP99")
    assert [(reply.thread_ts, reply.broadcast) for reply in replies] == [
        (root.ts, False), (root.ts, True), (root.ts, False),
    ]  # fmt: skip


def test_slack_message_deleted(slack_bot: tuple[Story, slack.FakeSlack]) -> None:
    """When somebody deleted the message, a new one takes its place and is remembered."""
    story, sink = slack_bot
    story.tell(Reason.NEW)
    sink.messages.clear()
    assert story.tell(Reason.WORSE, Tier.EMERGENCY).kind == OutcomeKind.DELIVERED
    assert story.memory["ts"] == sink.messages[0].ts
    assert story.tell(Reason.RESOLVED).kind == OutcomeKind.DELIVERED
    assert sink.messages[0].edits == 1


def test_slack_without_threads() -> None:
    """`threads: false` posts each statement on its own."""
    with slack.FakeSlack() as sink:
        receiver = make(
            type="slack", bot_token=slack.TOKEN, channel=slack.CHANNEL, api_url=sink.api, threads=False
        )  # fmt: skip
        story = Story(receiver)
        story.tell(Reason.NEW)
        story.tell(Reason.RESOLVED)
        receiver.close()
        assert [m.thread_ts for m in sink.messages] == ["", ""]


WORDS = [
    ("ratelimited", "retry", "rate_limited"), ("internal_error", "retry", "server"), ("invalid_auth", "failed", "auth"),
    ("channel_not_found", "failed", "not_found"), ("is_archived", "failed", "not_found"),
    ("restricted_action_read_only_channel", "failed", "not_found"), ("invalid_blocks", "failed", "client"),
    ("something_quite_new", "failed", "client"), ("", "retry", "server"),
]  # fmt: skip


@pytest.mark.parametrize(("word", "kind", "reason"), WORDS)
def test_slack_says_no_with_200(
    slack_bot: tuple[Story, slack.FakeSlack], word: str, kind: str, reason: str
) -> None:
    """`ok: false` with status 200 is a failure, classified by its word."""
    story, sink = slack_bot
    sink.fail(Fault(answer(200, {"ok": False, "error": word})))
    outcome = story.tell(Reason.NEW)
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert word in outcome.message


BODIES = [
    (200, b"nok", "failed"), (200, b"<html>", "retry"), (410, b"channel_is_archived", "failed"),
    (500, b"rollup_error", "retry"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), BODIES)
def test_slack_webhook_bodies(status: int, body: bytes, kind: str) -> None:
    """An incoming webhook's answer counts only when it is `ok`."""
    with slack.FakeSlack() as sink:
        receiver = make(type="slack", webhook_url=sink.hook)
        sink.fail(Fault(Answer(status, body, content_type="text/html")))
        assert Story(receiver).tell(Reason.NEW).kind == kind
        receiver.close()


def test_slack_buttons_and_picture(slack_bot: tuple[Story, slack.FakeSlack]) -> None:
    """Feedback buttons carry their signed value, links are buttons, the chart is an image."""
    story, sink = slack_bot
    actions = (Action("real", "Real", "v1.x", style="danger"), Action("snooze", "Snooze", url="https://a.example/s"))
    rendered = render(
        a_statement(), START, actions=lambda s, r: actions, chart=lambda s: Chart("https://a.example/c.png", alt="p99")
    )
    assert story.receiver.send(a_notification(), rendered, START).kind == OutcomeKind.DELIVERED
    blocks = {block["type"]: block for block in sink.messages[0].body["blocks"]}
    rows = [block["elements"] for block in sink.messages[0].body["blocks"] if block["type"] == "actions"]
    assert [[(b["text"]["text"], b.get("value"), b.get("url")) for b in row] for row in rows] == [
        [("Runbook", None, "https://runbook.example/p99"),
         ("Episode", None, "https://anomalyd.example/episodes/ep-eu")],
        [("Real", "v1.x", None), ("Snooze", None, "https://a.example/s")],
    ]  # fmt: skip
    assert blocks["image"]["image_url"] == "https://a.example/c.png"


# PagerDuty ------------------------------------------------------------------------------------------------------


def test_pagerduty_lifecycle() -> None:
    """Triggers of one incident collapse into one alert, which the resolve closes; the next occurrence is a new one."""
    with pagerduty.FakePagerDuty() as sink:
        receiver = make(type="pagerduty", routing_key=pagerduty.KEY, url=sink.enqueue)
        story = Story(receiver)
        story.tell(Reason.NEW, Tier.WARNING)
        story.tell(Reason.WORSE, Tier.EMERGENCY)
        story.tell(Reason.RESOLVED, Tier.EMERGENCY)
        Story(receiver).tell(Reason.NEW, incident="inc-2")
        receiver.close()
        first, second = sink.alerts
        assert (first.state, len(first.triggers), second.state) == ("resolved", 2, "open")
        assert [t["payload"]["severity"] for t in first.triggers] == ["warning", "critical"]
        assert not sink.dropped
        details = first.triggers[0]["payload"]
        assert details["source"] == "region=eu"
        assert "1.93, expected 0.31 to 0.52" in details["custom_details"]["reason"]
        assert {"href": "https://runbook.example/p99", "text": "Runbook"} in first.triggers[0]["links"]


def test_pagerduty_late_resolve_leaves_the_next_incident_alone() -> None:
    """The end of one occurrence that arrives late does not close the alert of the next on the same series."""
    with pagerduty.FakePagerDuty() as sink:
        receiver = make(type="pagerduty", routing_key=pagerduty.KEY, url=sink.enqueue)
        first, second = Story(receiver), Story(receiver)
        first.tell(Reason.NEW)
        second.tell(Reason.NEW, Tier.EMERGENCY, incident="inc-2")
        first.tell(Reason.RESOLVED)
        receiver.close()
        assert [alert.state for alert in sink.alerts] == ["resolved", "open"]


def test_pagerduty_resolves_through_the_key_that_triggered() -> None:
    """After the routing key was replaced, an open alert is resolved through the old one, while it is still known."""
    with pagerduty.FakePagerDuty() as sink:
        story = Story(make(type="pagerduty", routing_key=pagerduty.KEY, url=sink.enqueue))
        story.tell(Reason.NEW)
        story.receiver.close()
        assert pagerduty.KEY not in str(story.memory)
        story.receiver = make(type="pagerduty", routing_key=pagerduty.OTHER_KEY, url=sink.enqueue)
        refused = story.tell(Reason.RESOLVED)
        assert (refused.kind, refused.reason) == (OutcomeKind.FAILED, "config")
        assert "old_routing_keys" in refused.message
        story.receiver.close()
        story.receiver = make(
            type="pagerduty", routing_key=pagerduty.OTHER_KEY, old_routing_keys=[pagerduty.KEY], url=sink.enqueue
        )
        assert story.tell(Reason.RESOLVED).kind == OutcomeKind.DELIVERED
        story.receiver.close()
        assert sink.alerts[0].state == "resolved"
        assert not sink.dropped


def test_pagerduty_bad_key_is_a_configuration_fault() -> None:
    """A routing key of the wrong length is the settings' fault, and says so."""
    with pagerduty.FakePagerDuty() as sink:
        receiver = make(type="pagerduty", routing_key="short", url=sink.enqueue)
        outcome = Story(receiver).tell(Reason.NEW)
        receiver.close()
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "config")


def test_pagerduty_too_large_event_is_cut() -> None:
    """An event over 512 kB goes out without its details rather than not at all."""
    with pagerduty.FakePagerDuty() as sink:
        receiver = make(type="pagerduty", routing_key=pagerduty.KEY, url=sink.enqueue)
        statement = a_statement()
        huge = replace(render(statement, START), fields=tuple((f"f{i}", "x" * 60_000) for i in range(10)))
        assert receiver.send(a_notification(statement), huge, START).kind == OutcomeKind.DELIVERED
        receiver.close()
        assert "note" in sink.alerts[0].triggers[0]["payload"]["custom_details"]


# Grafana --------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_grafana() -> Iterator[tuple[Story, grafana.FakeGrafana]]:
    with grafana.FakeGrafana() as sink:
        receiver = make(type="grafana", url=sink.base + "/", token=grafana.TOKEN, tags=["prod"])
        yield Story(receiver), sink
        receiver.close()


def test_grafana_region(on_grafana: tuple[Story, grafana.FakeGrafana]) -> None:
    """A point when it begins, a region from the first abnormal sample to the end when it is over; tags follow."""
    story, sink = on_grafana
    story.tell(Reason.NEW, Tier.WARNING)
    (number, point), = sink.annotations.items()
    assert (point["time"], point["timeEnd"]) == (START, START)
    story.tell(Reason.WORSE, Tier.EMERGENCY)
    assert "tier:emergency" in sink.annotations[number]["tags"]
    story.tell(Reason.RESOLVED, Tier.EMERGENCY)
    (same, region), = sink.annotations.items()
    assert same == number
    assert (region["time"], region["timeEnd"]) == (START, START + 30 * MINUTE)
    assert {"anomalyd", "incident:inc-1", "state:resolved", "prod", "region:eu"} <= set(region["tags"])


def test_grafana_without_memory_finds_its_annotation(on_grafana: tuple[Story, grafana.FakeGrafana]) -> None:
    """After an unknown outcome, or with the memory lost, the tag finds what is there."""
    story, sink = on_grafana
    story.tell(Reason.NEW)
    story.memory = {}
    story.tell(Reason.RESOLVED)
    (region,) = sink.annotations.values()
    assert region["timeEnd"] == START + 30 * MINUTE


def test_grafana_annotation_deleted(on_grafana: tuple[Story, grafana.FakeGrafana]) -> None:
    """When somebody deleted the annotation, the end makes a new region."""
    story, sink = on_grafana
    story.tell(Reason.NEW)
    sink.annotations.clear()
    assert story.tell(Reason.RESOLVED).kind == OutcomeKind.DELIVERED
    (region,) = sink.annotations.values()
    assert (region["time"], region["timeEnd"]) == (START, START + 30 * MINUTE)


def test_grafana_may_not_write(on_grafana: tuple[Story, grafana.FakeGrafana]) -> None:
    """A token without permission is a permanent fault that names it."""
    story, sink = on_grafana
    sink.may_write = False
    outcome = story.tell(Reason.NEW)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILED, "auth")
    assert "annotations:write" in outcome.message


def test_grafana_text_is_escaped(on_grafana: tuple[Story, grafana.FakeGrafana]) -> None:
    """Nothing from a label becomes markup in Grafana."""
    story, sink = on_grafana
    assert story.send(a_notification(hostile_statement())).kind == OutcomeKind.DELIVERED
    (annotation,) = sink.annotations.values()
    assert "<script" not in annotation["text"]
    assert "javascript:" not in annotation["text"]


# Webhook --------------------------------------------------------------------------------------------------------


def test_webhook_signature_rotation() -> None:
    """While secrets rotate, a peer that knows only the old one and a peer that knows only the new one both accept."""
    for known in ("old-secret", "new-secret"):
        with FakeWebhook(known, now_s=START // 1000) as sink:
            receiver = make(type="webhook", url=sink.url, secret="new-secret", old_secrets=["old-secret"])
            assert Story(receiver).tell(Reason.NEW).kind == OutcomeKind.DELIVERED
            receiver.close()


def test_webhook_body() -> None:
    """Our own body: numbers as numbers, not-a-number as null, the same key on every attempt."""
    with FakeWebhook() as sink:
        receiver = make(type="webhook", url=sink.url)
        alert = an_alert(value=float("nan"), lower=None)
        story = Story(receiver)
        story.tell(Reason.NEW, alerts=(alert,), total=1)
        story.tell(Reason.NEW, alerts=(alert,), total=1)
        receiver.close()
        body = sink.bodies[0]
        assert (body["schema"], body["event"], body["tier"]) == (1, "firing", "critical")
        assert body["alerts"][0]["value"] is None
        assert body["alerts"][0]["upper"] == 0.52
        assert len(set(sink.keys)) == 1
        assert sink.requests[0].headers["x-anomalyd-event"] == "firing"


def test_alertmanager_body() -> None:
    """The compatibility body has Alertmanager's shape: endsAt is the zero time while firing."""
    with FakeWebhook() as sink:
        story = Story(make(type="webhook", url=sink.url, format="alertmanager"))
        story.tell(Reason.NEW)
        story.tell(Reason.RESOLVED)
        story.receiver.close()
        firing, resolved = sink.bodies
        assert (firing["version"], firing["status"], resolved["status"]) == ("4", "firing", "resolved")
        assert firing["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z"
        assert resolved["alerts"][0]["endsAt"] == "2026-01-02T03:34:05.000Z"
        assert firing["commonLabels"]["alertname"] == "CheckoutLatencyP99"
        assert firing["groupKey"] == resolved["groupKey"]


# Settings -------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"type": "webhook"}, "url"),
    ({"type": "webhook", "url": "https://x", "url_file": "/x"}, "exclude each other"),
    ({"type": "webhook", "url": "https://x", "urll": "y"}, "urll"),
    ({"type": "slack", "webhook_url": "https://x", "bot_token": "xoxb"}, "either"),
    ({"type": "slack", "bot_token": "xoxb"}, "channel"),
    ({"type": "pagerduty"}, "routing_key"),
    ({"type": "grafana", "url": "https://g"}, "token"),
    ({"type": "grafana", "url": "file:///etc/passwd", "token": "t"}, "url"),
    ({"type": "grafana", "url": "https://g", "token": "t", "panel_id": 3}, "dashboard_uid"),
    ({"type": "webhook", "url": "https://x", "timeout": 10}, "duration"),
    ({"type": "webhook", "url": "https://x", "timeout": 0}, "longer than 0"),
    ({"type": "webhook", "url": "https://x", "name": "no spaces"}, "name"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said"), WRONG)
def test_settings_refused(settings: dict[str, Any], said: str) -> None:
    """Settings that cannot work are refused with the reason, before anything is sent."""
    with pytest.raises(ValidationError) as refused:
        RECEIVER_SETTINGS[settings["type"]].model_validate({"name": "r", **settings})
    assert said in str(refused.value)


@pytest.mark.parametrize("written", [0, "0", "0s"])
def test_no_reminders_is_written_as_zero(written: int | str) -> None:
    """The reference says "0: it is not"; a bare 0 is a number in YAML, and is taken."""
    model = RECEIVER_SETTINGS["slack"].model_validate(
        {"name": "r", "type": "slack", "webhook_url": "https://x", "repeat_interval": written}
    )
    assert model.repeat_interval == 0


def test_every_settings_model_has_a_schema_without_secrets() -> None:
    """Each model gives a JSON Schema for editors, and marks its secrets."""
    for kind in RECEIVER_SETTINGS:
        schema: Statement | Any = RECEIVER_SETTINGS[kind].model_json_schema()
        assert schema["properties"]["type"]["const"] == kind
