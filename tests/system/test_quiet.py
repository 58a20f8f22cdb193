"""A real daemon at its limits: a budget that is used up, and a reload in the middle of waiting."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from anomalyd.delivery.budget import DIGEST_RULE
from anomalyd.store import open_store
from fakes.prometheus import FakePrometheus
from fakes.sink import Answer, Fault
from fakes.statements import a_notification, a_statement
from fakes.webhook import FakeWebhook
from servers import wait_until
from system.kit import Running, running_daemon, wait_ready, write_config

RULES = {"groups": [{"name": "g", "rules": [{"anomaly": "A", "expr": "up", "detector": "mad"}]}]}


def owe(database: str, receivers: Sequence[str], incidents: Sequence[str]) -> None:
    """Owe each receiver the beginning of each incident, as an evaluation would."""
    now = int(time.time() * 1_000)
    store = open_store(database)
    made = [a_statement(incident=name, key=name.ljust(64, "0"), at=now, opened_at=now) for name in incidents]
    store.enqueue([a_notification(s, receiver, created_at=now) for s in made for receiver in receivers])
    store.close()


def told(hook: FakeWebhook) -> list[str]:
    return [body["incident"]["id"] for body in hook.bodies if body["rule"]["id"] != DIGEST_RULE]


def digests(hook: FakeWebhook) -> list[str]:
    return [body["summary"] for body in hook.bodies if body["rule"]["id"] == DIGEST_RULE]


def reload(daemon: Running, config: Path) -> None:
    """Reload with a change that does not matter, and wait until it is done."""
    before = daemon.metric("anomalyd_config_last_reload_success_timestamp_seconds")
    config.write_text(config.read_text() + "\nretention: 80d\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: daemon.metric("anomalyd_config_last_reload_success_timestamp_seconds") > before, 30, "the reload"
    )


def test_a_budget_and_a_wish_to_wait_outlive_a_reload(tmp_path: Path) -> None:
    """Beyond its budget a receiver gets one digest; a reload neither refills the budget nor forgets a Retry-After."""
    database = f"sqlite:///{tmp_path}/anomalyd.db"
    with FakePrometheus([]) as source, FakeWebhook() as few, FakeWebhook() as busy, FakeWebhook() as free:
        busy.fail(Fault(answer=Answer(429, b"slowly", {"Retry-After": "120"})))
        receivers = {
            "few": {"type": "webhook", "url": few.url, "budget_per_hour": 2},
            "busy": {"type": "webhook", "url": busy.url},
            "free": {"type": "webhook", "url": free.url},
        }
        config = write_config(tmp_path, source.url, RULES, receivers, database)
        with running_daemon(config) as daemon:
            wait_ready(daemon)
            owe(database, ["few"], ["a", "b", "c", "d", "e"])
            owe(database, ["busy"], ["a"])
            wait_until(lambda: bool(digests(few)) and bool(busy.requests), 30, "the digest and the refusal")
            assert told(few) == ["a", "b"]
            assert digests(few)[0].startswith("3 more open incidents wait (3 critical): the budget of 2 messages")
            reload(daemon, config)
            # What is owed anew reaches whoever has room; every receiver's thread has looked by then.
            owe(database, ["few", "busy", "free"], ["f"])
            wait_until(lambda: told(free) == ["f"], 30, "the news after the reload")
            owe(database, ["free"], ["g"])
            wait_until(lambda: told(free) == ["f", "g"], 30, "more news")
            assert told(few) == ["a", "b"]
            assert len(digests(few)) == 1
            assert len(busy.requests) == 1
            assert daemon.stop() == 0
