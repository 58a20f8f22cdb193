"""Remote write against a strict receiver: the cases of the public conformance suite for senders, and outages.

What the database holds is all that a lane knows: a test writes slots, lets it step, and looks at what arrived.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from structlog.testing import capture_logs

from anomalyd.block import fingerprint, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, VirtualClock
from anomalyd.episode import Close, Episode, Phase
from anomalyd.export import AWAY_MS, Lane, RemoteWrite
from anomalyd.metrics import Metrics
from anomalyd.prometheus.target import WriteTarget
from anomalyd.prometheus.writer import RemoteWriter
from anomalyd.records import Fence
from anomalyd.rule import Rule
from anomalyd.rulefiles.read import load_rules
from anomalyd.score import Kind, Observation, Tier, Verdicts
from anomalyd.settings import load_settings
from anomalyd.slot import NoticeKind, RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store, open_store
from fakes.faultproxy import refused_port
from fakes.remotewrite import RemoteWriteReceiver, read
from fakes.sink import Answer, Fault
from fakes.tokens import FakeTokens

START = 1_767_571_200_000
RULE = "g/R"
PODS = tuple(make_labels({"__name__": "latency", "job": "web", "pod": name}) for name in "abc")
RULES = "groups: [{name: g, interval: 1m, rules: [{anomaly: R, expr: latency, detector: mad}]}]\n"


@dataclass
class House:
    """A store, a receiver, and a lane between them."""

    folder: Path
    receiver: RemoteWriteReceiver
    store: Store
    clock: VirtualClock
    metrics: Metrics = field(default_factory=Metrics)
    rules: tuple[Rule, ...] = ()
    remotes: list[RemoteWrite] = field(default_factory=list)

    def lane(self, **settings: Any) -> Lane:
        """A lane as the settings of a target make it; ``queue`` has one connection."""
        queue = {"connections": 1, **settings.pop("queue", {})}
        one = {"url": self.receiver.write_url, "name": "long-term", "queue": queue, **settings}
        target = self.target(one)
        writer = RemoteWriter(target, self.clock, random.Random(1))
        remote = RemoteWrite(self.store, target, lambda: self.rules, self.metrics, writer, self.clock)
        self.remotes.append(remote)
        return remote.lanes[0]

    def target(self, one: dict[str, Any]) -> WriteTarget:
        file = self.folder / "anomalyd.yml"
        (self.folder / "rules.yml").write_text(RULES)
        file.write_text(yaml.safe_dump({
            "sources": {"default": {"url": "http://127.0.0.1:9"}}, "rule_files": ["rules.yml"], "remote_write": [one],
        }))  # fmt: skip
        settings = load_settings(file)
        self.rules = self.rules or load_rules(settings.rule_files, settings).rules
        return settings.remote_write[0]

    def slot(self, minute: int, values: Sequence[float | None], **rest: Any) -> int:
        """Commit the slot of a minute; a pod without a value was not seen. Time goes on to it."""
        at = START + minute * MINUTE_MS
        rows = np.array([i for i, value in enumerate(values) if value is not None], np.int64)
        value = np.array([value for value in values if value is not None], np.float64)
        zeros = np.zeros(len(rows), np.int8)
        seen = Observation(at, rows, value, value - 1, value - 2, value + 2, value * 2, Verdicts(zeros, zeros, zeros))
        one = RuleSlot(RULE, at, rest.pop("outcome", "ok"), cut=4.0, observation=rest.pop("seen", seen))
        series = rest.pop("series", self._new_series(len(values)))
        assert self.store.commit_slot(SlotCommit("g", at, (one,), series=series, **rest))
        self.clock.advance_to(max(self.clock.now_ms(), at + 1000))
        return at

    def _new_series(self, count: int) -> tuple[SeriesRow, ...]:
        known = len(self.store.series(RULE))
        new = enumerate(PODS[known:count], known)
        return tuple(SeriesRow(RULE, i, fingerprint(labels), labels, START) for i, labels in new)

    def step(self, lane: Lane) -> int | None:
        """A step, after the daemon said that the rule has news."""
        lane.owe(RULE)
        return lane.step(self.clock.now_ms())

    def values(self, name: str, pod: str = "a") -> list[tuple[int, float]]:
        """What arrived of a pod's series: the minute and the value."""
        found = self.receiver.of(name, rule="R", group="g", job="web", pod=pod)
        return [((at - START) // MINUTE_MS, value) for samples in found.values() for at, value in samples]

    def counted(self, metric: str) -> float:
        """The sum of a metric of the daemon."""
        families = self.metrics.registry.collect()
        return sum(s.value for family in families for s in family.samples if s.name == metric)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """An empty store and a receiver; what was malformed fails the test."""
    receiver = RemoteWriteReceiver()
    one = House(tmp_path, receiver, open_store("sqlite://"), VirtualClock(START))
    yield one
    for remote in one.remotes:
        remote.close()
    one.store.close()
    receiver.close()
    assert receiver.broken == []


def episode(opened: int, **changes: Any) -> Episode:
    pod = PODS[0]
    base = Episode("e1", RULE, fingerprint(pod), pod, Phase.OPEN, Tier.WARNING, opened, opened, opened_at=opened)
    return replace(base, **changes)


# What arrives -------------------------------------------------------------------------------------------------------


def test_all_series_of_a_slot(house: House) -> None:
    """Score, value, band and threshold, with the series' labels, at the slot's own time."""
    lane = house.lane()
    assert house.step(lane) is None
    house.slot(1, [5.0, 6.0])
    assert house.step(lane) is None
    assert house.values("anomaly_score") == [(1, 2.5)]
    assert house.values("anomaly_score", "b") == [(1, 3.0)]
    assert house.values("anomaly_value") == [(1, 5.0)]
    assert house.values("anomaly_expected") == [(1, 4.0)]
    assert house.values("anomaly_lower") == [(1, 3.0)]
    assert house.values("anomaly_upper") == [(1, 7.0)]
    assert house.receiver.of("anomaly_threshold") == {(("group", "g"), ("rule", "R")): [(START + MINUTE_MS, 4.0)]}
    assert len(house.receiver.series) == 11
    assert house.counted("anomalyd_remote_write_samples_total") == 11


def test_only_what_is_asked_for(house: House) -> None:
    """``what`` chooses series, ``external_labels`` are added."""
    lane = house.lane(what=["score", "threshold"], external_labels={"replica": "1", "job": "mine"})
    house.step(lane)
    house.slot(1, [5.0])
    house.step(lane)
    labels = [dict(one) for one in house.receiver.series]
    assert labels == [
        {"__name__": "anomaly_score", "group": "g", "job": "web", "pod": "a", "replica": "1", "rule": "R"},
        {"__name__": "anomaly_threshold", "group": "g", "job": "mine", "replica": "1", "rule": "R"},
    ]


def test_episodes_while_they_are_open(house: House) -> None:
    """A series of ones by tier, and its end where the episode ends."""
    lane = house.lane(what=["episode"])
    house.step(lane)
    at = START + MINUTE_MS
    house.slot(1, [5.0], episodes=(episode(at),))
    house.step(lane)
    house.slot(2, [5.0], episodes=(episode(at, tier=Tier.CRITICAL),))
    house.step(lane)
    closed = {"phase": Phase.CLOSED, "tier": Tier.CRITICAL, "closed_at": at + 2 * MINUTE_MS, "close": Close.RECOVERED}
    house.slot(3, [5.0], episodes=(episode(at, **closed),))
    house.step(lane)
    [warning] = house.receiver.of("anomaly_episode", tier="warning", pod="a").values()
    [critical] = house.receiver.of("anomaly_episode", tier="critical", pod="a").values()
    assert [(t - START) // MINUTE_MS for t, _ in warning] == [1, 2]
    assert [(t - START) // MINUTE_MS for t, _ in critical] == [2, 3]
    assert (warning[0][1], critical[0][1]) == (1.0, 1.0)
    assert len(house.receiver.ended()) == 2


def test_rules_are_chosen_by_patterns(house: House) -> None:
    """A rule that no pattern fits is not written."""
    lane = house.lane(rules=["other/*", "g/Q*"])
    house.step(lane)
    house.slot(1, [5.0])
    house.step(lane)
    assert house.receiver.requests == []


def test_a_rule_with_several_names_keeps_them_apart(house: House) -> None:
    """Two metrics with the same labels are two series; the receiver refuses one series twice in a request."""
    lane = house.lane(what=["value"])
    house.step(lane)
    twins = tuple(make_labels({"__name__": name, "job": "web"}) for name in ("up", "down"))
    rows = tuple(SeriesRow(RULE, i, fingerprint(one), one, START) for i, one in enumerate(twins))
    house.slot(1, [1.0, 2.0], series=rows)
    house.step(lane)
    found = house.receiver.of("anomaly_value", job="web")
    assert {dict(labels)["metric"]: samples[0][1] for labels, samples in found.items()} == {"up": 1.0, "down": 2.0}


def test_hostile_labels(house: House) -> None:
    """Names that only new servers take, values of any kind, a name of ours, and one that is internal."""
    lane = house.lane(what=["value"])
    house.step(lane)
    hostile = make_labels({"k8s.pod": "ü\n\"\\", "rule": "theirs", "__tmp": "x", "Zone": "\ud800", "a": "b" * 5000})
    house.slot(1, [1.0], series=(SeriesRow(RULE, 0, "f", hostile, START),))
    house.step(lane)
    [labels] = [dict(one) for one in house.receiver.series]
    assert labels == {"Zone": "?", "__name__": "anomaly_value", "a": "b" * 5000, "exported_rule": "theirs",
                      "group": "g", "k8s_pod": "ü\n\"\\", "rule": "R"}  # fmt: skip


# Conformance: headers, order, staleness, retries ---------------------------------------------------------------------


def test_headers(house: House) -> None:
    """Those of the protocol, our name, and no sign of a retry in a first attempt."""
    lane = house.lane(headers={"X-Team": "sre"}, tenant="team-a")
    house.step(lane)
    house.slot(1, [5.0])
    house.step(lane)
    [request] = house.receiver.requests
    assert request.headers["content-encoding"] == "snappy"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["x-prometheus-remote-write-version"] == "0.1.0"
    assert request.headers["user-agent"].startswith("anomalyd/")
    assert (request.headers["x-team"], request.headers["x-scope-orgid"]) == ("sre", "team-a")
    assert "retry-attempt" not in request.headers


def test_samples_are_sent_in_order_of_time(house: House) -> None:
    """Forty slots at once and one by one: each series' samples rise, none is missing."""
    lane = house.lane()
    house.step(lane)
    for minute in range(1, 41):
        house.slot(minute, [float(minute), 6.0])
    house.step(lane)
    house.slot(41, [41.0, 6.0])
    house.step(lane)
    assert house.values("anomaly_value") == [(m, float(m)) for m in range(1, 42)]
    assert 3 <= len(house.receiver.requests) < 20


def test_the_end_of_a_series_is_marked(house: House) -> None:
    """With Prometheus's own NaN, once, at the slot in which it was not seen; it may come back."""
    lane = house.lane(what=["score"])
    house.step(lane)
    for minute, values in enumerate(([1.0, 2.0], [None, 2.0], [None, 2.0], [4.0, 2.0]), 1):
        house.slot(minute, values)
        house.step(lane)
        gone = {dict(labels)["pod"] for labels in house.receiver.ended()}
        assert gone == ({"a"} if minute in (2, 3) else set())
    assert [m for m, _ in house.values("anomaly_score")] == [1, 2, 4]


def test_an_unknown_slot_ends_nothing(house: House) -> None:
    """Where the source did not answer there is no sample and no mark."""
    lane = house.lane(what=["score"])
    house.step(lane)
    house.slot(1, [1.0])
    house.slot(2, [1.0], outcome="error", seen=None)
    house.slot(3, [1.0], outcome="partial")
    house.slot(4, [1.0])
    house.step(lane)
    assert [m for m, _ in house.values("anomaly_score")] == [1, 4]


def test_a_rule_that_goes_is_ended(house: House) -> None:
    """All its series are marked, and nothing is remembered; when it comes back it begins with its next slot."""
    lane = house.lane()
    house.step(lane)
    house.slot(1, [1.0, 2.0], episodes=(episode(START + MINUTE_MS),))
    house.step(lane)
    rules, house.rules = house.rules, ()
    house.step(lane)
    assert house.receiver.ended() == set(house.receiver.series)
    assert house.store.exports.cursors("long-term") == {}
    house.rules = rules
    house.step(lane)
    house.slot(2, [1.0, 2.0])
    house.step(lane)
    assert [m for m, _ in house.values("anomaly_value")][-1] == 2


def test_what_the_rule_owes_is_sent_before_its_end(house: House) -> None:
    """A rule goes while half of its slot is under way: the rest is sent, then the marks of all."""
    lane = house.lane(what=["score", "value"], queue={"max_samples_per_send": 100})
    house.step(lane)
    pods = tuple(make_labels({"pod": f"{i:03}"}) for i in range(150))
    rows = tuple(SeriesRow(RULE, i, fingerprint(one), one, START) for i, one in enumerate(pods))
    house.receiver.fail(Fault(answer=Answer(204)), Fault(answer=Answer(503)))
    house.slot(1, [1.0] * 150, series=rows)
    assert house.step(lane) is not None
    house.rules = ()
    house.clock.advance_to(house.clock.now_ms() + MINUTE_MS)
    assert house.step(lane) is None
    assert house.receiver.ended() == set(house.receiver.series)
    assert len(house.receiver.series) == 300
    assert house.store.exports.cursors("long-term") == {}


def test_a_failure_is_sent_again_until_it_is_taken(house: House) -> None:
    """The same bytes after 500, 503 and a cut connection, with a growing pause; nothing else before."""
    lane = house.lane(what=["score"])
    house.step(lane)
    house.receiver.fail(Fault(answer=Answer(500)), Fault(answer=Answer(503)), Fault(close=True))
    house.slot(1, [1.0])
    pauses = []
    for _ in range(3):
        again = house.step(lane)
        assert again is not None
        assert house.step(lane) == again, "before its time nothing is sent"
        pauses.append(again - house.clock.now_ms())
        house.clock.advance_to(again)
    assert pauses[0] <= 500 < pauses[2] <= 2000
    house.slot(2, [2.0])
    assert house.step(lane) is None
    bodies = [request.body for request in house.receiver.requests]
    assert bodies[0] == bodies[1] == bodies[2] == bodies[3] != bodies[4]
    assert [request.headers.get("retry-attempt") for request in house.receiver.requests] == [None, "1", "2", "3", None]
    assert house.values("anomaly_score") == [(1, 0.5), (2, 1.0)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 302])
def test_a_refusal_is_not_sent_again(house: House, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """What the target calls wrong stays wrong: it is counted, told in the log, and the next slot is sent."""
    lane = house.lane(what=["score"])
    house.step(lane)
    house.receiver.fail(Fault(answer=Answer(status, b"out of bounds", {"Location": "http://127.0.0.1:1/"})))
    house.slot(1, [1.0, 2.0])
    assert house.step(lane) is None
    house.slot(2, [2.0, 2.0])
    assert house.step(lane) is None
    assert len(house.receiver.requests) == 2
    assert house.values("anomaly_score") == [(2, 1.0)]
    samples = house.metrics.remote_write_samples
    assert samples.labels("long-term", "refused")._value.get() == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_target_may_ask_for_patience(house: House, form: str) -> None:
    """429 with Retry-After, in seconds or as a date, is waited for."""
    lane = house.lane()
    house.step(lane)
    now = house.slot(1, [1.0]) + 1000
    told = "77" if form == "seconds" else formatdate(now / 1000 + 77, usegmt=True)
    house.receiver.fail(Fault(answer=Answer(429, b"slow down", {"Retry-After": told})))
    again = house.step(lane)
    assert again is not None
    assert 76_000 <= again - now <= 77_000
    house.clock.advance_to(again)
    assert house.step(lane) is None
    assert house.values("anomaly_value") == [(1, 1.0)]


def test_a_success_is_one_whatever_its_body(house: House) -> None:
    """200 with a cut body has been taken: the status alone counts."""
    lane = house.lane()
    house.step(lane)
    house.receiver.fail(Fault(cut=True))
    house.slot(1, [1.0])
    assert house.step(lane) is None
    assert house.counted("anomalyd_remote_write_requests_total") == 1


# Outages, restarts, ages ----------------------------------------------------------------------------------------------


def test_an_outage_loses_nothing(house: House) -> None:
    """Hours without the target: all slots arrive, in order and in few requests, and it was noted once."""
    lane = house.lane(what=["score"])
    house.step(lane)
    house.slot(1, [1.0])
    house.step(lane)
    for minute in range(2, 182):
        house.slot(minute, [float(minute)])
        house.receiver.fail(Fault(answer=Answer(503, b"down")))
        house.step(lane)
        house.receiver.faults.clear()
    [notice] = house.store.notices(kind=NoticeKind.REMOTE_WRITE)
    assert notice.labels == (("target", "long-term"),)
    assert notice.at - notice.since >= AWAY_MS
    assert "503" in notice.text
    assert house.metrics.remote_write_lag.labels("long-term")._value.get() > 10_000
    sent = len(house.receiver.requests)
    house.clock.advance_to(house.clock.now_ms() + MINUTE_MS)
    assert house.step(lane) is None
    assert house.values("anomaly_score") == [(m, m / 2) for m in range(1, 182)]
    assert len(house.receiver.requests) - sent <= 30
    assert house.metrics.remote_write_lag.labels("long-term")._value.get() == 0


def test_a_target_that_never_took_anything_is_behind_as_well(house: House) -> None:
    """Since it was tried first."""
    lane = house.lane()
    house.step(lane)
    house.receiver.down = True
    for minute in range(1, 6):
        house.slot(minute, [1.0])
        house.step(lane)
    assert house.metrics.remote_write_lag.labels("long-term")._value.get() == 4 * 60


def test_a_restart_goes_on_where_it_was(house: House) -> None:
    """A new lane reads the cursor and what the target knows: no slot twice, and ends are still found."""
    first = house.lane()
    house.step(first)
    house.slot(1, [1.0, 2.0])
    house.step(first)
    house.slot(2, [1.0, None])
    house.slot(3, [1.0, None])
    second = house.lane()
    assert second.step(house.clock.now_ms()) is None
    assert [m for m, _ in house.values("anomaly_value")] == [1, 2, 3]
    assert {dict(labels)["pod"] for labels in house.receiver.ended()} == {"b"}
    assert house.lane().step(house.clock.now_ms()) is None
    assert len(house.receiver.requests) == 3


@pytest.mark.parametrize("behind", [1, 5, 40])
def test_a_crash_between_the_answer_and_the_cursor_loses_nothing(house: House, behind: int) -> None:
    """The slots are sent once more; a server that refuses old samples refuses no new ones beside them."""
    house.receiver.refuses_old = True
    lane = house.lane(what=["value"])
    house.step(lane)
    house.slot(1, [1.0])
    house.step(lane)
    for minute in range(2, 2 + behind):
        house.slot(minute, [float(minute)])
    house.step(lane)
    house.store.exports.forget("long-term", RULE)
    house.store.exports.move("long-term", RULE, START + MINUTE_MS)  # as if no cursor had been written since
    for minute in range(2 + behind, 5 + behind):
        house.slot(minute, [float(minute)])
    house.lane(what=["value"]).step(house.clock.now_ms())
    assert house.values("anomaly_value") == [(m, float(m)) for m in range(1, 5 + behind)]


def test_too_old_is_given_up(house: House) -> None:
    """What the target would be given after ``max_age`` is left out and counted."""
    lane = house.lane(what=["value"], queue={"max_age": "1h"})
    house.step(lane)
    for minute in (1, 2, 3):
        house.slot(minute, [1.0])
    house.clock.advance_to(START + HOUR_MS + 2 * MINUTE_MS + 30_000)
    house.step(lane)
    assert [m for m, _ in house.values("anomaly_value")] == [3]
    assert house.counted("anomalyd_remote_write_slots_given_up_total") == 2


def test_who_is_far_behind_lets_others_have_a_turn(house: House) -> None:
    """A long backlog is sent in several steps; who closes in between is told nothing more."""
    lane = house.lane(what=["value"])
    house.step(lane)
    for minute in range(1, 64 * 16 + 40):
        house.slot(minute, [1.0])
    now = house.clock.now_ms()
    lane.owe(RULE)
    assert lane.step(now) == now
    sent = len(house.values("anomaly_value"))
    assert 60 * 16 < sent <= 64 * 16
    assert lane.step(now) is None
    assert len(house.values("anomaly_value")) == 64 * 16 + 39
    lane.stand_by()
    assert house.counted("anomalyd_remote_write_lag_seconds") == 0
    house.remotes[0].close()
    lane.step(now)
    assert not [s for f in house.metrics.remote_write_lag.collect() for s in f.samples]
    house.remotes.clear()


def test_a_new_target_begins_with_the_next_slot(house: House) -> None:
    """It is not given the past, which a server may refuse."""
    house.slot(1, [1.0])
    lane = house.lane(what=["value"])
    assert lane.step(house.clock.now_ms()) is None
    house.slot(2, [1.0])
    house.step(lane)
    assert [m for m, _ in house.values("anomaly_value")] == [2]


def test_who_no_longer_leads_moves_no_cursor(house: House) -> None:
    """A daemon that was paused past its lease stops at the store."""
    lane = house.lane()
    house.step(lane)
    assert house.store.acquire_lease("leader", "one", 0, 1000)
    house.remotes[0].fence = lambda: Fence("leader", 0)
    house.slot(1, [1.0])
    with pytest.raises(Exception, match="lease leader number 0 is lost"):
        house.step(lane)
    house.remotes[0].fence = lambda: Fence("leader", 1)
    assert lane.step(house.clock.now_ms()) is None
    assert house.store.exports.cursors("long-term") == {RULE: START + MINUTE_MS}


def test_a_target_that_cannot_be_reached(house: House) -> None:
    """No connection is a failure like any other; the log names target and rule, once."""
    with refused_port() as url, capture_logs() as logs:
        lane = house.lane(url=f"{url}/api/v1/write")
        house.step(lane)
        house.slot(1, [1.0])
        assert house.step(lane) is not None
    assert house.metrics.remote_write_requests.labels("long-term", "retry", "connect")._value.get() == 1
    (away,) = (line for line in logs if line["event"].startswith("scores are not taken"))
    assert (away["target"], away["rule"]) == ("long-term", RULE)


def test_credentials(house: House) -> None:
    """A bearer token that the target wants; a wrong one is refused, and stands in no message."""
    house.receiver.authorization = "Bearer right"
    lane = house.lane(authorization={"credentials": "right"})
    house.step(lane)
    house.slot(1, [1.0])
    house.step(lane)
    assert house.values("anomaly_value") == [(1, 1.0)]
    wrong = RemoteWriter(house.target({"url": house.receiver.write_url, "authorization": {"credentials": "wrong1"}}))
    told = wrong.probe()
    wrong.close()
    assert (told.kind, told.reason) == ("refused", "auth")
    assert "wrong1" not in told.message


def test_a_token_by_client_credentials(house: House) -> None:
    """As sources get it: one for many requests, and a new one when it is refused."""
    with FakeTokens() as tokens:
        house.receiver.authorization = "Bearer token-1"
        asked = {"client_id": "anomalyd", "client_secret": tokens.client_secret, "token_url": tokens.token_url}
        lane = house.lane(oauth2=asked)
        house.step(lane)
        house.slot(1, [1.0])
        house.step(lane)
        house.receiver.authorization = "Bearer token-2"
        house.slot(2, [1.0])
        assert house.step(lane) is None
    assert [m for m, _ in house.values("anomaly_value")] == [1, 2]
    assert tokens.made == ["token-1", "token-2"]


def test_a_churn_of_series_leaves_memory(house: House) -> None:
    """Labels of series that have gone are let go, and found again where one comes back."""
    lane = house.lane(what=["value"])
    house.step(lane)
    pods = [make_labels({"job": "web", "pod": f"{i:04}"}) for i in range(1500)]
    rows = tuple(SeriesRow(RULE, i, fingerprint(one), one, START) for i, one in enumerate(pods))
    house.slot(1, [1.0] * 1500, series=rows)
    house.step(lane)
    for minute in (2, 3):
        house.slot(minute, [1.0] * 2, series=())
        house.step(lane)
    assert len(lane._shelves[RULE].labels) == 2
    house.slot(4, [None] * 1499 + [1.0], series=())
    house.step(lane)
    assert [m for m, _ in house.values("anomaly_value", "1499")] == [1, 2, 4], "a sample, its end, a sample"


def test_large_slots_go_in_several_requests(house: House) -> None:
    """No request has more samples than allowed, and together they have all."""
    lane = house.lane(what=["score", "value"], queue={"max_samples_per_send": 100})
    house.step(lane)
    pods = tuple(make_labels({"pod": f"{i:03}"}) for i in range(151))
    rows = tuple(SeriesRow(RULE, i, fingerprint(one), one, START) for i, one in enumerate(pods))
    house.slot(1, [1.0] * 151, series=rows)
    house.step(lane)
    sizes = [len(read(request)) for request in house.receiver.requests]
    assert sizes == [100, 100, 100, 2]
    assert len(house.receiver.series) == 302


def test_rules_are_shared_out_among_connections(house: House) -> None:
    """Each rule has one lane, so its requests never overtake each other; all lanes together have all rules."""
    house.lane(queue={"connections": 3})
    remote = house.remotes[0]
    for name in (f"g/{i}" for i in range(50)):
        assert sum(remote.mine(lane, name) for lane in remote.lanes) == 1
    assert all(any(remote.mine(lane, f"g/{i}") for i in range(50)) for lane in remote.lanes)


def test_an_infinite_cut_has_no_score(house: House) -> None:
    """A rule whose tiers have no cut still writes values and bands."""
    lane = house.lane()
    house.step(lane)
    at = START + MINUTE_MS
    one, zeros = np.ones(1), np.zeros(1, np.int8)
    seen = Observation(at, np.zeros(1, np.int64), one, one, one, one, one, Verdicts(zeros, zeros, zeros))
    rule = RuleSlot(RULE, at, "ok", cut=math.inf, observation=seen)
    series = (SeriesRow(RULE, 0, "f", PODS[0], START),)
    house.store.commit_slot(SlotCommit("g", at, (rule,), series=series))
    house.clock.advance_to(at)
    house.step(lane)
    names = {dict(labels)["__name__"] for labels in house.receiver.series}
    assert names == {"anomaly_value", "anomaly_expected", "anomaly_lower", "anomaly_upper"}


def test_missing_series_are_marked_as_ended(house: House) -> None:
    """A row that stays in the rule's memory but had no sample in the slot has ended for those who look."""
    lane = house.lane(what=["value"])
    house.step(lane)
    house.slot(1, [1.0])
    house.step(lane)
    at, nan = START + 2 * MINUTE_MS, np.full(1, np.nan)
    kind = np.array([Kind.MISSING], np.int8)
    zeros = np.zeros(1, np.int8)
    gone = Observation(at, np.zeros(1, np.int64), nan, nan, nan, nan, nan, Verdicts(kind, zeros, zeros))
    house.slot(2, [1.0], seen=gone)
    house.step(lane)
    assert len(house.receiver.ended()) == 1


def test_the_default_age_is_a_day(house: House) -> None:
    """As the settings say it."""
    assert house.target({"url": house.receiver.write_url}).queue.max_age_ms == DAY_MS


