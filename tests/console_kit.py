"""What the tests of feedback, pages and API share: a store with a rule's past, and the console over it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from anomalyd.ballot import Ballot
from anomalyd.block import Labels, fingerprint, make_labels
from anomalyd.chart import Drawn
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, VirtualClock
from anomalyd.console.auth import Guard
from anomalyd.console.links import Signer, Ticket
from anomalyd.console.parts import Parts
from anomalyd.console.web import Probes, build_web
from anomalyd.delivery.picture import Pictures
from anomalyd.episode import Close, Episode, Phase
from anomalyd.evaluation.rulerun import Attendance, RuleRun
from anomalyd.feedback.cuts import FeedbackPolicy
from anomalyd.incident import Alert, Incident, Notification, Reason, Statement
from anomalyd.records import Feedback, FeedbackLabel
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.score import Kind, Observation, Tier, Verdicts, Why
from anomalyd.settings import Settings, Web, read_settings
from anomalyd.slot import RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store, open_store
from anomalyd.yamlfile import read_yaml

M = MINUTE_MS
NOW = 1_790_000_000_000 // DAY_MS * DAY_MS + 12 * HOUR_MS
"""A Monday noon (UTC)."""
RULE = Rule(
    "Latency", "shop", "latency_seconds", detector=DetectorSpec("mad"), receivers=("hook",), timezone="Europe/Madrid",
    tiers=(TierPolicy(Tier.WARNING, surprise=3.5), TierPolicy(Tier.CRITICAL, surprise=5.0),
           TierPolicy(Tier.EMERGENCY, surprise=9.0)),
    annotations={"summary": "latency", "runbook_url": "https://runbooks.example/latency"},
)  # fmt: skip
CANARY = "hunter2-canary"
SETTINGS = f"""\
sources:
  p:
    url: "http://prom.example:9090"
    headers: {{X-Key: {CANARY}}}
    basic_auth: {{username: u, password: {CANARY}}}
database: {{url: "postgresql://anomalyd:{CANARY}@db.example/anomalyd"}}
receivers: {{hook: {{type: webhook, url: "http://hook.example/{CANARY}", secret: {CANARY}}}}}
"""
PNG = b"\x89PNG\r\n\x1a\n"
KEY = b"a key of the tests, long enough"


def labels(region: str) -> Labels:
    return make_labels({"__name__": "latency_seconds", "region": region})


def episode(
    name: str, *, region: str = "eu", started: int = NOW - HOUR_MS, minutes: int = 20, surprise: float = 4.2,
    incident: str = "", rule: str = RULE.id, of: Labels | None = None, live: bool = False,
) -> Episode:  # fmt: skip
    """An episode that was told; closed unless ``live``."""
    own = of or labels(region)
    end = started + minutes * M
    return Episode(
        name, rule, fingerprint(own), own, Phase.OPEN if live else Phase.CLOSED, Tier.WARNING, started, end,
        (started, 0, 0), opened_at=started, closed_at=0 if live else end, close=None if live else Close.RECOVERED,
        why=Why.SURPRISE, value=1.93, expected=0.4, lower=0.31, upper=0.52, surprise=surprise, peak_at=started + M,
        peak_value=1.93, peak_expected=0.4, peak_surprise=surprise, incident=incident, model="m1",
    )  # fmt: skip


def vote(
    of: Episode, label: FeedbackLabel, who: str = "ana", *, at: int = NOW, via: str = "api", id: str = ""
) -> Feedback:
    return Feedback(
        id or f"{who}-{of.id}-{label}-{at}", label, of.rule, at, who, via, of.id, of.fingerprint, of.started_at,
        of.closed_at,
    )  # fmt: skip


def scored(
    rule: str, start: int, slots: int, spike: range, own: Labels | None = None, ordinary: float = 0.5
) -> list[SlotCommit]:
    """Scores of one series, minute by minute, with a spike; ``ordinary`` is the surprise of all the rest."""
    series = own or labels("eu")
    commits = []
    for i in range(slots):
        at, high = start + i * M, i in spike
        value = 1.93 if high else 0.4 + 0.05 * math.sin(i / 20)
        one = np.array([value])
        verdicts = Verdicts(*(np.array([v], np.int8) for v in (Kind.ANOMALOUS if high else Kind.OK, int(high), 0)))
        seen = Observation(
            at, np.array([0]), one, np.array([0.4]), np.array([0.31]), np.array([0.52]),
            np.array([4.2 if high else ordinary]), verdicts,
        )  # fmt: skip
        row = SeriesRow(rule, 0, fingerprint(series), series, start)
        commits.append(
            SlotCommit("shop", at, (RuleSlot(rule, at, "ok", observation=seen),), series=(row,) if i == 0 else ())
        )
    return commits


def settings_of(web: Web) -> Settings:
    """Settings with a receiver that has secrets, and a given web server."""
    return replace(read_settings(read_yaml(SETTINGS, "anomalyd.yml"), Path("/etc/anomalyd")), web=web)


def statement(of: Episode, reason: Reason = Reason.NEW) -> Statement:
    alert = Alert(
        of.id, of.fingerprint, of.labels, of.tier, "firing", "surprise", of.value, of.expected, of.lower, of.upper,
        of.surprise, 1.2, of.started_at, of.opened_at,
    )  # fmt: skip
    return Statement(
        of.incident, "key", of.rule, "shop", "Latency", "latency_seconds", "mad", reason, of.tier, of.started_at,
        of.started_at, (), {}, {"summary": "latency"}, (alert,), 1,
    )  # fmt: skip


class Client:
    """A browser's or program's view of the application; keeps cookies, follows nothing, hides no exception."""

    def __init__(self, app: FastAPI, base_url: str, headers: Mapping[str, str]):
        self._app, self._base_url, self._headers = app, base_url, dict(headers)
        self.cookies = httpx.Cookies()

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=("127.0.0.1", 50_000))
            async with httpx.AsyncClient(
                transport=transport, base_url=self._base_url, headers=self._headers, cookies=self.cookies
            ) as client:
                answer = await client.request(method, path, **more)
                self.cookies.update(client.cookies)
                return answer

        return asyncio.run(once())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)

    def delete(self, path: str, **more: Any) -> httpx.Response:
        return self.request("DELETE", path, **more)


@dataclass
class Console:
    """The console over a store with one rule, one incident of two series and an hour of scores."""

    web: Web = field(default_factory=lambda: Web("127.0.0.1", 9640))
    rule: Rule = RULE
    policy: FeedbackPolicy = field(default_factory=FeedbackPolicy)
    posted: list[tuple[str, Any]] = field(default_factory=list)
    store: Store = field(default_factory=lambda: open_store("sqlite://"))

    def __post_init__(self) -> None:
        self.clock = VirtualClock(NOW)
        self.rules = {self.rule.id: self.rule}
        self.changed: list[str] = []
        self.ballot = Ballot(self.store, lambda: self.rules, self.policy, self.changed.append)
        self.settings = settings_of(self.web)
        self.signer = Signer(KEY)
        self.drawn: list[Drawn] = []
        self.pictures: Pictures | None = Pictures(self.store, self._draw)
        self.attendance: Attendance | None = None
        self.run: RuleRun | None = None
        self.parts = Parts(
            self.store, self.ballot, Guard(self.web), self.signer, self.clock, lambda: self.rules,
            lambda: self.settings, self._post, self.pictures, lambda rule_id: self.attendance, lambda rule_id: self.run,
        )  # fmt: skip
        self.first = episode("e1", incident="i1")
        self.second = episode("e2", region="us", incident="i1", surprise=6.0)
        incident = Incident("i1", "key", self.rule.id, (), Tier.WARNING, self.first.started_at, episodes=2)
        outbox = Notification("n1", "hook", statement(self.first), self.first.started_at)
        self.store.save_episodes([self.first, self.second], [incident], [outbox])
        self.store.drop("n1", NOW, "silenced")

    def _draw(self, chart: Drawn) -> bytes:
        """A picture that is none but looks so to whoever only fetches it."""
        self.drawn.append(chart)
        return PNG + str(len(self.drawn)).encode()

    def _post(self, url: str, body: bytes) -> None:
        self.posted.append((url, json.loads(body)))

    def fill_scores(self, ordinary: float = 0.5) -> None:
        start = self.first.started_at - 3 * HOUR_MS
        for commit in scored(self.rule.id, start, 240, range(180, 200), ordinary=ordinary):
            self.store.commit_slot(commit)

    def app(self) -> FastAPI:
        probes = Probes(lambda: (True, "fine"), lambda: (True, "ready"))
        return build_web(probes, CollectorRegistry(), self.parts)

    def client(self, host: str = "127.0.0.1:9640", headers: Mapping[str, str] | None = None) -> Client:
        return Client(self.app(), f"http://{host}", headers or {})

    def link(self, of: str = "e1", receiver: str = "slack", choice: str = "", hours: int = 24) -> str:
        return self.signer.token(Ticket("i1", of, receiver, NOW + hours * HOUR_MS, choice))

    def past(self, name: str, days: int, label: FeedbackLabel | None = None, **of: Any) -> Episode:
        """An earlier episode, judged or not."""
        one = episode(name, started=NOW - days * DAY_MS, **of)
        self.store.save_episodes([one])
        if label is not None:
            self.store.add_feedback(vote(one, label, at=NOW - days * DAY_MS + HOUR_MS))
        return one


def data(answer: httpx.Response, status: int = 200) -> Any:
    """The data of an answer in the API's shape."""
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == "success"
    return answer.json()["data"]


def error(answer: httpx.Response, status: int) -> str:
    """The kind of error of an answer in the API's shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["status"] == "error"
    assert body["error"]
    return str(body["errorType"])


__all__ = [
    "KEY",
    "NOW",
    "RULE",
    "Console",
    "M",
    "data",
    "episode",
    "error",
    "labels",
    "replace",
    "scored",
    "settings_of",
    "statement",
    "vote",
]  # fmt: skip
