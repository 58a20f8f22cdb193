"""What people said, in messages: of what was like it before, and of this one, also after it was told (fault 69)."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from anomalyd.ballot import Ballot
from anomalyd.clock import DAY_MS, HOUR_MS, VirtualClock
from anomalyd.daemon import Daemon
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.past import Past, past_words, updates, verdicts_of
from anomalyd.delivery.words import Words
from anomalyd.errors import StoreBusy
from anomalyd.evaluation.evaluate import Evaluator
from anomalyd.executors import InlineExecutor
from anomalyd.feedback.cuts import FeedbackPolicy
from anomalyd.incident import Incident, Notification, Reason, Statement
from anomalyd.metrics import Metrics
from anomalyd.receivers import build_receiver
from anomalyd.receivers.base import Receiver
from anomalyd.receivers.blocks import message
from anomalyd.receivers.bodies import alertmanager_body, own_body
from anomalyd.receivers.email import page as email_page
from anomalyd.receivers.grafana import GrafanaSettings
from anomalyd.receivers.pagerduty import PagerDutySettings
from anomalyd.receivers.slack import SlackSettings
from anomalyd.receivers.teams import card
from anomalyd.records import FeedbackLabel, OutboxState
from anomalyd.render import Background, clean, render
from anomalyd.score import Tier
from anomalyd.secret import Secret
from anomalyd.store import Store, open_store
from anomalyd.template import render_annotations
from console_kit import NOW, RULE, M, episode, statement, vote
from fakes import grafana, pagerduty, slack
from fakes.receiver import DOWN, OK, FakeReceiver


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


class World:
    """A store with one open incident, a deliverer to one receiver, and a ballot; a story in minutes."""

    def __init__(self, store: Store, receiver: Receiver) -> None:
        self.store, self.receiver, self.now = store, receiver, NOW
        self.past = Past(store)
        self.live = episode("e1", incident="i1", live=True, started=NOW)
        incident = Incident("i1", "key", RULE.id, (), Tier.WARNING, NOW, episodes=1)
        store.save_episodes([self.live], [incident])
        self.ballot = Ballot(store, lambda: {RULE.id: RULE}, FeedbackPolicy())
        self.deliverer = Deliverer(
            store, {receiver.name: receiver}, words=Words(background=self.past), clock=VirtualClock(NOW),
            rng=random.Random(1),
        )  # fmt: skip

    def tell(self, reason: Reason, id: str, **changes: object) -> None:
        s = replace(statement(self.live, reason), at=self.now, opened_at=NOW, **changes)  # type: ignore[arg-type]
        if reason == Reason.RESOLVED:
            ended = replace(s.alerts[0], status="resolved", closed_at=self.now, close="recovered")
            s = replace(s, alerts=(ended,))
        self.store.enqueue([Notification(id, self.receiver.name, s, self.now)])
        self.deliver()

    def vote(self, label: FeedbackLabel, who: str = "ana") -> None:
        self.now += M
        cast = self.ballot.vote_on("e1", label, who, "api", self.now, id=f"{who}-{self.now}")
        self.ballot.cast(cast, self.now)

    def undo(self) -> None:
        self.now += M
        given = [v for v in self.store.feedback() if not v.undone_at]
        self.ballot.undo(given[-1].id, "ana", self.now)

    def update(self) -> None:
        """What the daemon's maintenance does, twice: the second time must change nothing."""
        self.now += M
        for _ in range(2):
            self.store.enqueue(updates(self.store, [self.receiver.name], self.now))
        self.deliver()

    def deliver(self) -> None:
        self.deliverer.deliver_once(self.receiver.name, self.now)

    def dropped(self) -> list[str]:
        return [row.reason for row in self.store.notifications(state=OutboxState.DROPPED)]


@pytest.fixture
def on_grafana(store: Store) -> Iterator[tuple[World, grafana.FakeGrafana]]:
    with grafana.FakeGrafana() as sink:
        receiver = build_receiver(GrafanaSettings(name="g", url=sink.base, token=Secret(grafana.TOKEN)))
        yield World(store, receiver), sink
        receiver.close()


def verdict_tags(sink: grafana.FakeGrafana) -> list[str]:
    (annotation,) = sink.annotations.values()
    return [tag for tag in annotation["tags"] if tag.startswith("verdict:")]


def test_the_verdict_is_written_into_grafanas_annotation(on_grafana: tuple[World, grafana.FakeGrafana]) -> None:
    """After the end too: tags and text say what counts and who said it; a vote taken back is gone; all once."""
    world, sink = on_grafana
    world.tell(Reason.NEW, "n1")
    assert verdict_tags(sink) == []
    world.vote(FeedbackLabel.FALSE)
    world.update()
    assert verdict_tags(sink) == ["verdict:false_alarm"]
    world.tell(Reason.RESOLVED, "n2")
    assert verdict_tags(sink) == ["verdict:false_alarm"]
    (annotation,) = sink.annotations.values()
    region = annotation["time"], annotation["timeEnd"]
    assert "state:resolved" in annotation["tags"]
    world.vote(FeedbackLabel.TRUE, "ben <b>")
    world.vote(FeedbackLabel.TRUE, "eva")
    world.update()
    (annotation,) = sink.annotations.values()
    assert verdict_tags(sink) == ["verdict:real"]
    assert "state:resolved" in annotation["tags"]
    assert "[RESOLVED]" in annotation["text"]
    assert "false alarm, says ana, 12:01 UTC" in annotation["text"]
    assert "real, says ben &lt;b&gt;" in annotation["text"]
    assert (annotation["time"], annotation["timeEnd"]) == region
    world.undo()
    world.undo()
    world.update()
    assert verdict_tags(sink) == ["verdict:false_alarm"]
    assert "real, says" not in next(iter(sink.annotations.values()))["text"]
    patches = [r for r in sink.requests if r.method == "PATCH"]
    assert len(patches) == 4  # one a vote that was told of, one at the end, none for asking again
    assert world.dropped() == []


def test_an_annotation_that_was_lost_is_found_by_its_tag(on_grafana: tuple[World, grafana.FakeGrafana]) -> None:
    """Fault 69: the number of the annotation is forgotten; the verdict goes to the same one and no second is made."""
    world, sink = on_grafana
    world.tell(Reason.NEW, "n1")
    world.vote(FeedbackLabel.EXPECTED)
    (owed,) = updates(world.store, ["g"], world.now)
    said = world.deliverer.words.of(owed.statement, world.now, world.receiver)
    world.receiver.send(owed, said, world.now)  # without what the store remembers
    assert len(sink.annotations) == 1
    assert verdict_tags(sink) == ["verdict:expected"]


def test_slack_shows_who_voted_elsewhere(store: Store) -> None:
    """A bot's message is edited to show a vote that came by link or API; its thread stays quiet."""
    with slack.FakeSlack() as sink:
        receiver = build_receiver(
            SlackSettings(name="s", bot_token=Secret(slack.TOKEN), channel=slack.CHANNEL, api_url=sink.api)
        )
        world = World(store, receiver)
        world.tell(Reason.NEW, "n1")
        world.vote(FeedbackLabel.FALSE)
        world.now += 5_000
        world.update()
        (message,) = sink.messages
        assert message.edits == 1
        (votes,) = [b for b in message.body["blocks"] if b.get("block_id") == "anomalyd_votes"]
        assert votes["elements"][0]["text"] == "*false alarm*, says `ana`, 12:01 UTC"
        receiver.close()


def test_a_vote_acknowledges_in_pagerduty(store: Store) -> None:
    """Said in Slack or by a link: acknowledged over there, once; said over there, or after the end: nothing is sent."""
    with pagerduty.FakePagerDuty() as sink:
        settings = PagerDutySettings(name="p", routing_key=Secret(pagerduty.KEY), url=sink.enqueue)
        world = World(store, build_receiver(settings))
        world.tell(Reason.NEW, "n1")
        store.add_feedback(vote(world.live, FeedbackLabel.ACKNOWLEDGED, via="pagerduty", at=NOW))
        world.update()
        assert [a.state for a in sink.alerts] == ["open"]
        world.vote(FeedbackLabel.TRUE)
        world.update()
        assert [a.state for a in sink.alerts] == ["acknowledged"]
        world.tell(Reason.RESOLVED, "n2")
        world.vote(FeedbackLabel.FALSE, "ben")
        world.update()
        assert [a.state for a in sink.alerts] == ["resolved"]
        assert sink.dropped == []
        assert len(sink.requests) == 3
        world.receiver.close()


def test_a_verdict_waits_for_the_news_and_never_replaces_it(store: Store) -> None:
    """While a worse tier cannot be delivered the verdict waits behind it; who was told nothing gets no verdict."""
    r = FakeReceiver("r")
    world = World(store, r)
    world.tell(Reason.NEW, "n1")
    r.otherwise = DOWN
    world.tell(Reason.WORSE, "n2", tier=Tier.EMERGENCY)
    world.vote(FeedbackLabel.TRUE)
    world.update()
    r.otherwise = OK
    for _ in range(3):
        world.now += HOUR_MS
        world.deliver()
    assert r.told == ["new warning i1", "worse emergency i1", "judged warning i1"]
    assert [v.word for v in r.delivered[1].rendered.verdicts] == ["real"]
    assert world.dropped() == []
    told = store.told("r", "i1")
    assert told is not None
    assert told.tier == Tier.EMERGENCY
    assert told.at == r.delivered[1].now


class Keeper(FakeReceiver):
    """A receiver that keeps one message an incident."""

    shows_verdicts = True


def test_the_daemon_looks_when_somebody_has_said_something(store: Store) -> None:
    """Maintenance owes the update to receivers that show verdicts and to no other, and asks once for each word."""
    world = World(store, Keeper("k"))
    clock = VirtualClock(NOW + M)
    evaluator = Evaluator(
        store, {}, annotate=render_annotations, links=lambda _: {}, fit=InlineExecutor(), background=InlineExecutor()
    )
    receivers = {"k": world.receiver, "plain": FakeReceiver("plain")}
    daemon = Daemon(store, evaluator, Deliverer(store, receivers, clock=clock), Metrics(), clock, [])
    world.tell(Reason.NEW, "n1")
    world.store.enqueue([Notification("p1", "plain", statement(world.live), NOW)])
    daemon.deliver("plain")
    daemon.maintain()
    assert store.notifications(state=OutboxState.PENDING) == []
    world.vote(FeedbackLabel.TRUE)
    for _ in range(3):
        daemon.maintain()
    (row,) = store.notifications(state=OutboxState.PENDING)
    assert (row.notification.receiver, row.notification.statement.reason) == ("k", Reason.JUDGED)
    assert daemon.wake["k"].is_set()


def test_what_was_like_it_before_is_in_the_message(store: Store) -> None:
    """How often, when last, and what people said; of that series alone, and nothing where there was nothing."""
    world = World(store, FakeReceiver())
    assert world.past(statement(world.live)) == Background()
    for i, label in enumerate((None, FeedbackLabel.TRUE, FeedbackLabel.FALSE, FeedbackLabel.FALSE)):
        one = episode(f"p{i}", started=NOW - (4 - i) * DAY_MS)
        store.save_episodes([one, episode(f"u{i}", region="us", started=NOW - (4 - i) * DAY_MS)])
        if label:
            store.add_feedback(vote(one, label, at=NOW - DAY_MS))
    last = "20 Sep"
    assert world.past(statement(world.live)).past == f"4 times, last on {last} (false alarm); 2 false alarm, 1 real"
    store.undo_feedback(next(v.id for v in store.feedback() if v.label == FeedbackLabel.TRUE), NOW)
    assert world.past(statement(world.live)).past == f"4 times, last on {last} (false alarm); 2 false alarm"
    world.tell(Reason.NEW, "n1")
    assert isinstance(world.receiver, FakeReceiver)
    assert dict(world.receiver.delivered[0].rendered.fields)["Before"].startswith("4 times")


def test_what_it_is_like_is_in_the_message_and_cheap(store: Store) -> None:
    """The line is a field, ends the text, follows the votes, is gone at the end, and a storm reads votes once."""
    world = World(store, FakeReceiver())
    assert world.past(statement(world.live)).like == ""
    for i in range(1, 5):
        one = episode(f"p{i}", started=NOW - i * DAY_MS, incident=f"q{i}")
        store.save_episodes([one])
        label = FeedbackLabel.TRUE if i == 4 else FeedbackLabel.FALSE
        store.add_feedback(vote(one, label, "anna *_<b>", at=NOW - DAY_MS))
    words = "3 of 4 like it were called false alarms (last 20 Sep, by anna *_<b>)"
    assert world.past(statement(world.live)).like == words
    world.tell(Reason.NEW, "n1")
    assert isinstance(world.receiver, FakeReceiver)
    told = world.receiver.delivered[0].rendered
    assert dict(told.fields)["Votes"] == words == told.like
    assert words[1:] in told.text
    counting = Counting(store)
    past = Past(counting)
    assert [past(statement(world.live)).like for _ in range(50)] == [words] * 50
    assert counting.asked["feedback"] == 1
    assert counting.asked["episode"] == 4
    store.undo_feedback(next(v.id for v in store.feedback() if v.label == FeedbackLabel.TRUE), NOW)
    assert past(statement(world.live)).like == "all 3 like it were called false alarms (last 20 Sep, by anna *_<b>)"
    world.tell(Reason.RESOLVED, "n2")
    assert world.receiver.delivered[1].rendered.like == ""


def test_what_is_still_open_is_looked_at_again(store: Store) -> None:
    """An open episode that was judged is read anew after a minute, not for each message."""
    live = episode("e1", incident="i1", live=True, started=NOW)
    earlier = episode("e0", incident="i0", live=True, started=NOW - DAY_MS)
    store.save_episodes([earlier])
    store.add_feedback(vote(earlier, FeedbackLabel.TRUE, at=NOW - DAY_MS))
    counting = Counting(store)
    past, first = Past(counting), replace(statement(live), at=NOW)
    assert past(first).like == past(first).like == "one like it was called real (20 Sep, by ana)"
    assert counting.asked["episode"] == 1
    store.save_episodes([replace(earlier, peak_surprise=40.0)])
    assert past(replace(first, at=NOW + 59_000)).like != ""
    assert past(replace(first, at=NOW + M)).like == ""


class Counting:
    """A store that counts what it is asked."""

    def __init__(self, store: Store) -> None:
        self._store, self.asked = store, Counter[str]()

    def __getattr__(self, name: str) -> object:
        self.asked[name] += 1
        return getattr(self._store, name)


@pytest.mark.parametrize("who", ["anna", "<script>*_`anna`|&", "[x](http://evil.example)", "\u202eanna\x07"])
def test_every_receiver_takes_the_line_as_text(who: str) -> None:
    """Escaped for Slack, Teams and email, plain for programs; never markup of whoever voted."""
    like = f"one like it was called real (20 Sep, by {who})"
    one = statement(episode("e1", incident="i1"))
    notification = Notification("n1", "r", one, NOW)
    rendered = render(one, NOW, background=Background(like=like))
    shown = json.dumps(message(notification, rendered), ensure_ascii=False)
    teams, mail = json.dumps(card(one, rendered), ensure_ascii=False), email_page(one, rendered)
    for body in (shown, teams, mail):
        assert "one like it was called real" in body
        assert "\u202e" not in body
    assert "<script>" not in shown + mail
    assert "[x](" not in teams
    assert own_body(notification, rendered)["like"] == rendered.like == clean(like, 200)
    (posted,) = alertmanager_body(notification, rendered)["alerts"]
    assert posted["annotations"]["like"] == rendered.like
    quiet = alertmanager_body(notification, render(one, NOW))["alerts"][0]
    assert "like" not in quiet["annotations"]


def test_one_before_and_acknowledgements() -> None:
    """A single episode is told by its day; an acknowledgement is said by whom but is no verdict."""
    one = episode("p", started=NOW - DAY_MS)
    assert past_words([], {}) == ""
    assert past_words([one], {}) == "once, on 20 Sep"
    assert past_words([one], {"p": FeedbackLabel.NEW_NORMAL}) == "once, on 20 Sep: new normal"
    twice = [vote(one, FeedbackLabel.ACKNOWLEDGED), vote(replace(one, id="q"), FeedbackLabel.ACKNOWLEDGED)]
    assert [(v.word, v.who) for v in verdicts_of(twice)] == [("acknowledged", "ana")]


def test_a_store_that_does_not_answer_costs_only_the_past(store: Store) -> None:
    """The message goes out without what people said."""

    def busy(s: Statement) -> Background:
        raise StoreBusy("busy", "the database is locked")

    rendered = Words(background=busy).of(statement(episode("e1", incident="i1")), NOW, FakeReceiver())
    assert rendered.title.startswith("[WARNING] Latency")
    assert rendered.past == ""
