"""A source that fails in every way while an episode is open: nothing resolves, the reason is told, life goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anomalyd.app import App, build
from anomalyd.clock import MINUTE_MS, VirtualClock
from anomalyd.rulefiles.read import load_rules
from anomalyd.settings import load_settings
from fakes.faultproxy import Cut, Drip, FaultProxy, Pass, Reset
from fakes.prometheus import FakePrometheus, FakeSeries
from fakes.webhook import FakeWebhook
from system.kit import write_config

START = 1_767_571_200_000
FAULT_AT, WELL_AT, RECOVERED_AT = 6, 9, 20

RULES = {
    "groups": [
        {
            "name": "g",
            "interval": "1m",
            "query_delay": "0s",
            "rules": [
                {
                    "anomaly": "Level", "expr": "level", "detector": {"type": "mad", "window": "2h"}, "history": "6h",
                    "valid_range": [0, 10], "tiers": {"warning": {"budget": "1 per week"}},
                }
            ],
        }
    ]
}  # fmt: skip


def level(minute: int) -> float:
    return 50.0 if 0 <= minute < RECOVERED_AT else 5.0


class Stage:
    """A daemon under a virtual clock behind a proxy that can break, and a collector."""

    def __init__(self, app: App, clock: VirtualClock, fake: FakePrometheus, proxy: FaultProxy, hook: FakeWebhook):
        self.app, self.clock, self.fake, self.proxy, self.hook = app, clock, fake, proxy, hook

    def live(self, first: int, stop: int) -> None:
        for minute in range(first, stop):
            self.clock.advance_to(START + minute * MINUTE_MS + 15_000)
            self.app.daemon.tick("g")
            self.app.daemon.deliver("hook")

    def events(self) -> list[str]:
        return [body["event"] for body in self.hook.bodies]

    def errors(self, reason: str) -> float:
        value = self.app.daemon.metrics.registry.get_sample_value(
            "anomalyd_rule_errors_total", {"rule": "g/Level", "reason": reason}
        )
        return value or 0.0


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    samples = {START + m * MINUTE_MS: level(m) + 0.001 * (m % 7) for m in range(-400, 60)}
    with (
        FakePrometheus([FakeSeries({"__name__": "level"}, samples)]) as fake,
        FaultProxy(fake.url) as proxy,
        FakeWebhook("s3cret") as hook,
    ):
        receivers = {"hook": {"type": "webhook", "url": hook.url, "secret": "s3cret"}}
        config = write_config(folder, proxy.url, RULES, receivers)
        document = config.read_text().replace("url: " + proxy.url, f"url: {proxy.url}\n    timeout: 1s")
        config.write_text(document)
        settings = load_settings(config)
        clock = VirtualClock(START)
        app = build(settings, load_rules(settings.rule_files, settings), clock, inline=True)
        try:
            yield Stage(app, clock, fake, proxy, hook)
        finally:
            app.close()


def answers(status: int, text: str = "", **headers: str) -> Callable[[Stage], None]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda stage: stage.fake.always(status, text, named or None)


def breaks(fault: object) -> Callable[[Stage], None]:
    def apply(stage: Stage) -> None:
        stage.proxy.fault = fault  # type: ignore[assignment]

    return apply


JSON = "application/json"
FAULTS = [
    ("connect", breaks(Reset(0))),
    ("timeout", breaks(Drip(1, 0.2))),
    ("connect", breaks(Cut(260))),
    ("starting", answers(503, "Service Unavailable", X_Prometheus_Stopping="false")),
    ("execution", answers(422, '{"status":"error","errorType":"execution","error":"too many"}', Content_Type=JSON)),
    ("not_prometheus", answers(200, "<html>please log in</html>", Content_Type="text/html")),
    ("auth", answers(401, "Unauthorized", Content_Type="text/plain")),
    ("protocol", answers(200, '{"status":"success","data":{"resultType":"vector","result":[{]}', Content_Type=JSON)),
]


@pytest.mark.parametrize(("reason", "fault"), FAULTS, ids=[f"{r}-{i}" for i, (r, _) in enumerate(FAULTS)])
def test_a_failing_source_holds_an_open_episode(tmp_path: Path, reason: str, fault: Callable[[Stage], None]) -> None:
    """While the source fails the alert stays, its reason is counted, and recovery afterwards resolves once."""
    with staged(tmp_path) as stage:
        stage.live(0, FAULT_AT)
        assert stage.events() == ["firing"]
        fault(stage)
        stage.live(FAULT_AT, WELL_AT)
        assert stage.events() == ["firing"], "nothing resolves and nothing opens while nothing is known"
        assert stage.errors(reason) == WELL_AT - FAULT_AT
        mend(stage)
        stage.live(WELL_AT, RECOVERED_AT)
        assert stage.events() == ["firing"]
        stage.live(RECOVERED_AT, RECOVERED_AT + 3)
        assert stage.events() == ["firing", "resolved"]


def mend(stage: Stage) -> None:
    stage.proxy.fault = Pass()
    stage.fake.heal()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_a_value_that_is_no_number_is_missing_not_normal(tmp_path: Path, value: str) -> None:
    """NaN and infinities neither resolve an episode nor open one."""
    with staged(tmp_path) as stage:
        samples = dict(stage.fake.series[0].samples)
        for minute in range(FAULT_AT, WELL_AT):
            samples[START + minute * MINUTE_MS] = value
        stage.fake.series = [FakeSeries({"__name__": "level"}, samples)]
        stage.live(0, RECOVERED_AT)
        assert stage.events() == ["firing"]
        verdicts = stage.app.daemon.metrics.registry.get_sample_value(
            "anomalyd_verdicts_total", {"rule": "g/Level", "kind": "missing"}
        )
        assert verdicts == WELL_AT - FAULT_AT
