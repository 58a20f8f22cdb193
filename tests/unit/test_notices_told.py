"""Notices to receivers that ask for them: gathered, told once, and never a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from anomalyd.block import fingerprint, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, VirtualClock
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.notices import GATHER_MS, NoticePolicy, notices_owed
from anomalyd.errors import ConfigError
from anomalyd.incident import NOTICES_RULE, Reason
from anomalyd.render import render
from anomalyd.score import Tier
from anomalyd.settings import load_settings
from anomalyd.slot import Notice, NoticeKind, make_notice
from anomalyd.store import Store, open_store
from fakes.receiver import FakeReceiver
from fakes.statements import MINUTE, START

NOW = START // DAY_MS * DAY_MS + 10 * HOUR_MS
POLICY = NoticePolicy(("chat",))


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


def a_drift(host: str, at: int, rule: str = "g/R", kind: NoticeKind = NoticeKind.DRIFT) -> Notice:
    labels = make_labels({"host": host})
    return make_notice(kind, rule, at, "samples are more surprising", labels=labels, fingerprint=fingerprint(labels))


def live(rule_id: str) -> bool:
    """Whether a rule may tell anybody; one is in the shadow."""
    return rule_id != "g/Shadow"


def tell(store: Store, now: int, policy: NoticePolicy = POLICY) -> list[list[str]]:
    """Owe what is due, deliver it, and return the hosts of each message."""
    owed = notices_owed(policy, store, live, now)
    store.enqueue(owed)
    chat = FakeReceiver(name="chat")
    deliverer = Deliverer(store, {"chat": chat}, clock=VirtualClock(now))
    deliverer.deliver_once("chat", now)
    deliverer.close()
    return [[dict(alert.labels)["host"] for alert in one.statement.alerts] for one in owed]


def test_nobody_is_told_unless_the_settings_say_so(store: Store) -> None:
    """Without receivers a notice is only noted."""
    store.add_notices([a_drift("a", NOW)])
    assert notices_owed(NoticePolicy(), store, live, NOW + HOUR_MS) == []


def test_what_comes_together_is_one_message_and_nothing_is_told_twice(store: Store) -> None:
    """Three that drift within minutes are one message some minutes later; the next waits for its hour; then silence."""
    store.add_notices([a_drift("a", NOW), a_drift("b", NOW + MINUTE)])
    assert tell(store, NOW + 2 * MINUTE) == []
    store.add_notices([a_drift("c", NOW + 3 * MINUTE)])
    first = NOW + 3 * MINUTE + GATHER_MS
    assert tell(store, first) == [["c", "b", "a"]]
    assert tell(store, first + MINUTE) == []
    store.add_notices([a_drift("d", first + MINUTE)])
    assert tell(store, first + 30 * MINUTE) == []
    assert tell(store, first + HOUR_MS) == [["d"]]
    assert tell(store, first + 3 * HOUR_MS) == []
    rows = store.notifications(receiver="chat")
    assert [row.notification.statement.reason for row in rows] == [Reason.MORE, Reason.NEW]
    assert {row.state.value for row in rows} == {"delivered"}
    assert len({row.notification.statement.incident for row in rows}) == 1


def test_a_steady_stream_waits_no_longer_than_an_hour(store: Store) -> None:
    """Where something is noted every minute there is still a message an hour."""
    told = []
    for minute in range(150):
        store.add_notices([a_drift(f"h{minute}", NOW + minute * MINUTE)])
        told += [minute for _ in tell(store, NOW + minute * MINUTE)]
    assert told == [60, 120]


def test_what_was_found_late_is_told_and_the_next_day_is_a_new_thread(store: Store) -> None:
    """A daemon that catches up notes what was hours ago; after midnight nothing of yesterday comes again."""
    store.add_notices([a_drift("a", NOW)])
    assert tell(store, NOW + HOUR_MS) == [["a"]]
    store.add_notices([a_drift("late", NOW - 2 * HOUR_MS)])
    assert tell(store, NOW + 2 * HOUR_MS) == [["late"]]
    midnight = NOW // DAY_MS * DAY_MS + DAY_MS
    assert tell(store, midnight + HOUR_MS) == []
    store.add_notices([a_drift("b", midnight + HOUR_MS)])
    assert tell(store, midnight + 2 * HOUR_MS) == [["b"]]
    assert store.notifications(receiver="chat")[0].notification.statement.reason == Reason.NEW


def test_kinds_and_rules_that_tell_nobody_are_left_out(store: Store) -> None:
    """Which model runs is told only to those that ask for it; a rule in the shadow says nothing."""
    store.add_notices([
        a_drift("a", NOW), a_drift("m", NOW, kind=NoticeKind.MODEL), a_drift("s", NOW, rule="g/Shadow"),
        a_drift("f", NOW, kind=NoticeKind.FIT),
    ])  # fmt: skip
    later = NOW + HOUR_MS
    assert sorted(tell(store, later)[0]) == ["a", "f"]
    every = replace(POLICY, kinds=(NoticeKind.MODEL,))
    assert tell(store, later + HOUR_MS, every) == [["m"]]


def test_it_reads_as_a_notice_and_not_as_an_alert(store: Store) -> None:
    """The words say what, where and since when, that nobody was paged, and ask nobody to judge it."""
    store.add_notices([a_drift("a", NOW), a_drift("b", NOW, kind=NoticeKind.FIT)])
    (owed,) = notices_owed(POLICY, store, live, NOW + HOUR_MS)
    assert owed.statement.rule == NOTICES_RULE
    assert owed.statement.tier == Tier.WARNING
    said = render(owed.statement, NOW + HOUR_MS)
    assert said.title == "[NOTICE] 2 of models and series"
    assert said.summary in ("1 drift, 1 fit; nobody was paged", "1 fit, 1 drift; nobody was paged")
    assert "drift g/R {host=a}: samples are more surprising" in said.description
    assert "abnormal" not in said.text
    assert "WARNING" not in said.text


SETTINGS = """
sources: {{default: {{url: "http://127.0.0.1:9090"}}}}
receivers:
  chat: {{type: webhook, url: "http://127.0.0.1:1/x"}}
  pager: {{type: pagerduty, routing_key: R0000000000000000000000000000000}}
notices: {notices}
"""


def _settings(folder: Path, notices: str) -> Path:
    path = folder / "anomalyd.yml"
    path.write_text(SETTINGS.format(notices=notices), encoding="utf-8")
    return path


def test_settings_name_receivers_kinds_and_time(tmp_path: Path) -> None:
    """Nobody by default; who, what and how often where it is said."""
    assert load_settings(_settings(tmp_path, "{}")).notices == NoticePolicy()
    said = load_settings(_settings(tmp_path, "{receivers: [chat], kinds: [drift], every: 1d}")).notices
    assert said == NoticePolicy(("chat",), (NoticeKind.DRIFT,), DAY_MS)


@pytest.mark.parametrize(
    ("notices", "said"),
    [
        ("{receivers: [pager]}", "a notice is never over"),
        ("{receivers: [chta]}", "did you mean 'chat'"),
        ("{receivers: [chat], kinds: []}", "at least one"),
        ("{receivers: [chat], kinds: [drifts]}", "drift"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, notices: str, said: str) -> None:
    """A pager would be open for ever; a name nobody has and a kind there is none of are mistakes."""
    with pytest.raises(ConfigError, match=said):
        load_settings(_settings(tmp_path, notices))
