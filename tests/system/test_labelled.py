"""The daemon over a real Prometheus filled with real labelled series: who is told what, exactly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from anomalyd.app import build
from anomalyd.clock import DAY_MS, VirtualClock
from anomalyd.daemon import run_virtually
from anomalyd.incident import Reason
from anomalyd.rulefiles.read import load_rules
from anomalyd.settings import load_settings
from fakes.grafana import TOKEN, FakeGrafana
from fakes.pagerduty import KEY, FakePagerDuty
from fakes.slack import FakeSlack
from fakes.webhook import FakeWebhook
from servers import new_database, openmetrics, running_postgres, running_prometheus
from system.kit import Labelled, nab_series, write_config

LATENCY = "realKnownCause/ec2_request_latency_system_failure.csv"
REQUESTS = "realAWSCloudwatch/grok_asg_anomaly.csv"


def rule(name: str, expr: str, detector: str) -> dict[str, object]:
    return {
        "anomaly": name, "expr": expr, "detector": detector, "history": "14d", "for": "10m", "keep_firing_for": "30m",
        "tiers": {"warning": {"budget": "1 per week"}}, "annotations": {"summary": f"{name}: {{{{ $value }}}}"},
    }  # fmt: skip


EXPECTED = [("Requests", "firing"), ("Requests", "resolved"), ("Latency", "firing")]
"""In four days: the group's shrinkage, and the failure at the very end of the latency's record, which lasts."""

RULES = {
    "groups": [
        {
            "name": "nab",
            "interval": "5m",
            "rules": [rule("Latency", "ec2_latency", "mad"), rule("Requests", "grok_requests", "stl")],
        }
    ]
}


@pytest.fixture(scope="module")
def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture(scope="module")
def labelled(labelled_data: Path, now_ms: int) -> tuple[Labelled, Labelled]:
    return (
        nab_series(labelled_data, LATENCY, "ec2_latency", now_ms),
        nab_series(labelled_data, REQUESTS, "grok_requests", now_ms),
    )


@pytest.fixture(scope="module")
def prometheus(labelled: tuple[Labelled, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    blocks = openmetrics([one.series for one in labelled])
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), blocks=blocks) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server("postgres"))])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "sqlite":
        yield ""
        return
    with running_postgres() as server:
        yield new_database(server, "anomalyd")


@pytest.mark.server("prometheus")
def test_labelled_anomalies_are_found_and_told_exactly(
    prometheus: str, labelled: tuple[Labelled, Labelled], database: str, tmp_path: Path
) -> None:
    """The labelled faults page every receiver once, and nothing else is sent, on either database."""
    latency, requests = labelled
    first = latency.last - 4 * DAY_MS
    with ExitStack() as stack:
        clock = VirtualClock(first // 300_000 * 300_000)
        hook = stack.enter_context(FakeWebhook("s3cret"))
        slack = stack.enter_context(FakeSlack(clock.now_ms))
        pager = stack.enter_context(FakePagerDuty(clock.now_ms))
        grafana = stack.enter_context(FakeGrafana())
        receivers = {
            "hook": {"type": "webhook", "url": hook.url, "secret": "s3cret"},
            "slack": {"type": "slack", "webhook_url": slack.hook},
            "pager": {"type": "pagerduty", "routing_key": KEY, "url": pager.enqueue},
            "grafana": {"type": "grafana", "url": grafana.base, "token": TOKEN},
        }
        settings = load_settings(write_config(tmp_path, prometheus, RULES, receivers, database))
        app = build(settings, load_rules(settings.rule_files, settings), clock, inline=True)
        try:
            run_virtually(app.daemon, clock, latency.last + 30_000)
            episodes = [e for e in app.store.episodes(limit=1000) if e.opened_at]
            slack_rows = app.store.notifications(receiver="slack", limit=1000)
            owed = sum(stat.pending for stat in app.store.outbox_stats(clock.now_ms()).values())
        finally:
            app.close()

    found = [(body["rule"]["name"], body["event"]) for body in hook.bodies]
    assert found == EXPECTED
    for episode in episodes:
        one = latency if episode.rule == "nab/Latency" else requests
        assert any(a <= episode.opened_at <= b for a, b in one.windows), (episode.rule, episode.opened_at)
    assert owed == 0, "nothing is left in the outbox"
    assert len(slack.messages) == len(slack_rows)
    news = [row for row in slack_rows if row.notification.statement.reason != Reason.REPEAT]
    assert len(news) == len(EXPECTED), "what lasts is told again, and nothing else"
    assert [alert.state for alert in pager.alerts] == ["resolved", "open"]
    ended, lasting = grafana.annotations.values()
    assert ended["timeEnd"] > ended["time"]
    assert lasting["timeEnd"] == lasting["time"]
