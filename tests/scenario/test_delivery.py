"""Delivery scenarios: text files that say what happens when, and exactly what people are told; anything else fails.

A line of a scenario (``#`` begins a comment; times count from the start of the story):

    @5m owe new critical db           a statement becomes owed: reason, tier, incident (series = the word before a dash)
    @5m owe new critical db 1000      the same about so many series
    @5m down / up / busy 30s          the receiver stops listening, works again, answers 429 with Retry-After
    @5m silence region=db 30m         a silence with these matchers begins
    @5m lift                          all silences are ended
    @5m elsewhere region=db           this is silenced in Alertmanager from now on; or "nothing", or it is "down"
    @5m ack db-1                      somebody votes on the incident, or acknowledges it in PagerDuty
    @5m vote false db-1               somebody says what it was
    @5m restart                       the daemon dies and starts again on the same database
    5m..6m new critical db            exactly this is told within that time
    drop superseded 2                 in the end this many rows were dropped for that reason
    option budget 10 | suppress 30m | min_tier critical | mute 03:00-06:00 | send_resolved no | flaps 3
    option escalate 30m               the receiver is told only of what nobody acknowledges
    option repeat 4h                  what stays open is told again
    option inhibit tier=emergency>tier=warning>region     source, target and equal label of an inhibition
    option together 10m               incidents on one series are one when they begin within that time
    option verdicts yes               the receiver keeps one message an incident and shows what people say of it
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from anomalyd.clock import VirtualClock
from anomalyd.delivery.budget import DIGEST_RULE, Budget
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.escalate import Escalation, Step
from anomalyd.delivery.flap import Flaps
from anomalyd.delivery.hush import InhibitRule, MuteWindow
from anomalyd.delivery.past import updates
from anomalyd.delivery.quiet import Known, Wishes, stages
from anomalyd.delivery.remind import reminders
from anomalyd.delivery.together import Company, Together
from anomalyd.delivery.words import Words
from anomalyd.durations import parse_duration
from anomalyd.episode import Episode, Phase
from anomalyd.errors import DeliveryError
from anomalyd.incident import MAX_ALERTS, Incident, Outcome, OutcomeKind, Reason
from anomalyd.intervals import Interval, parse_times
from anomalyd.matcher import parse_matchers
from anomalyd.records import Feedback, FeedbackLabel, OutboxState, Silence
from anomalyd.score import Tier
from anomalyd.store import Store, open_store
from fakes.receiver import DOWN, OK, FakeReceiver, Sent
from fakes.statements import MINUTE, START, a_notification, a_statement, an_alert

FILES = sorted((Path(__file__).parent / "delivery").glob("*.txt"))


@dataclass
class Story:
    """A scenario as read."""

    happens: list[tuple[int, list[str]]] = field(default_factory=list)
    wanted: list[tuple[int, int, str]] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Story:
    """Read a scenario; an odd line is an error with its place."""
    story = Story()
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = raw.split("#")[0].split()
        if not line:
            continue
        if line[0] == "option":
            story.options[line[1]] = line[2]
        elif line[0] == "drop":
            story.drops[line[1]] = int(line[2])
        elif line[0].startswith("@"):
            story.happens.append((START + parse_duration(line[0][1:]), line[1:]))
        elif match := re.fullmatch(r"(\w+)\.\.(\w+)", line[0]):
            first, last = (START + parse_duration(t) for t in match.groups())
            story.wanted.append((first, last, " ".join(line[1:])))
        else:
            raise AssertionError(f"{path.name}:{number}: {raw!r} is no line of a scenario")
    return story


@dataclass
class Elsewhere:
    """Silences of an Alertmanager."""

    name: str = "am"
    matchers: str = "nothing"

    def silences(self, now: int) -> list[Silence]:
        if self.matchers == "down":
            raise DeliveryError("connect", "nobody listens")
        if self.matchers == "nothing":
            return []
        return [Silence("theirs", parse_matchers(self.matchers), 0, now + 10 * 3_600_000, "ben")]


class Play:
    """Plays a story on the real store and deliver loop."""

    def __init__(self, store: Store, story: Story) -> None:
        self.store, self.story, self.now = store, story, START
        self.receiver = FakeReceiver(send_resolved=story.options.get("send_resolved") != "no")
        self.suppress_ms = parse_duration(story.options.get("suppress", "0"))
        self.opened: dict[str, int] = {}
        self.repeat_ms = parse_duration(story.options.get("repeat", "0"))
        self.elsewhere_is = Elsewhere()
        self.start()

    def start(self) -> None:
        options = self.story.options
        budgets = {"r": int(options.get("budget", "0"))}
        lowest = {"r": Tier[options.get("min_tier", "warning").upper()]}
        windows = ()
        if "mute" in options:
            windows = (MuteWindow("m", (Interval((parse_times(options["mute"]),)),)),)
        budget = Budget(budgets, self.store)
        rules = []
        if "inhibit" in options:
            source, target, equal = options["inhibit"].split(">")
            rules = [InhibitRule(parse_matchers(source), parse_matchers(target), (equal,))]
        wishes = Wishes(windows, tuple(rules), lowest, budgets)
        steps = [Step(parse_duration(options["escalate"]), ("r",))] if "escalate" in options else []
        escalation = Escalation(steps, self.store, lambda statement: ())
        flaps = Flaps({"r": int(options.get("flaps", "0"))}, self.store)
        known = Known(self.store, lambda rule: {}, [self.elsewhere_is])
        company = Company(("region",), parse_duration(options["together"])) if "together" in options else None
        self.together = Together(company, self.store, known.firing)
        wanted = stages(wishes, known, budget, self.together)
        self.deliverer = Deliverer(
            self.store, {"r": self.receiver}, stages=(escalation.stage, flaps.stage, *wanted), budget=budget,
            flaps=flaps, rewords=(escalation.reword,), words=Words(company=self.together.words),
            clock=VirtualClock(self.now), rng=random.Random(1),
        )  # fmt: skip

    def play(self) -> None:
        for at, words in [*self.story.happens, (max(w[1] for w in self.story.wanted) + 3_600_000, ["end"])]:
            self.live_until(at)
            getattr(self, words[0])(*words[1:])

    def live_until(self, end: int) -> None:
        while True:
            # After a restart the store alone knows what waits; the daemon asks it every few seconds.
            self.maintain()
            again = self.deliverer.deliver_once("r", self.now).next_at or self.store.next_due("r")
            if self.repeat_ms or "together" in self.story.options:
                again = min(again or end, self.now + MINUTE)
            if again is None or again > end or self.now >= end:
                self.now = end
                return
            self.now = max(again, self.now + 1)

    def maintain(self) -> None:
        """What the daemon does every minute."""
        owed = reminders(self.store, {"r": self.repeat_ms}, self.now)
        if "verdicts" in self.story.options:
            owed += updates(self.store, ["r"], self.now)
        self.store.enqueue([*owed, *self.together.updates(["r"], self.now)])

    def owe(self, reason: str, tier: str, incident: str, series: str = "1") -> None:
        region, level, total = incident.split("-")[0], Tier[tier.upper()], int(series)
        over = reason == "resolved"
        status = "resolved" if over else "firing"
        alert = an_alert(region, level, status=status)
        alerts = tuple(replace(alert, episode=f"{alert.episode}-{i}" if i else alert.episode) for i in range(total))
        statement = a_statement(
            Reason(reason), level, incident, alerts=alerts[:MAX_ALERTS], total=total, at=self.now,
            suppress_ms=self.suppress_ms, group_labels=(("region", region),), key=region.ljust(64, "0"),
            opened_at=self.opened.setdefault(incident, self.now),
        )  # fmt: skip
        s = statement
        known = Incident(incident, s.key, s.rule, s.group_labels, level, s.opened_at, self.now if over else 0, total)
        self.store.save_episodes([], [known], [a_notification(statement, created_at=self.now)])

    def down(self) -> None:
        self.receiver.otherwise = DOWN

    def lost(self) -> None:
        self.receiver.otherwise = Outcome(OutcomeKind.RETRY, "timeout", "no answer")

    def up(self) -> None:
        self.receiver.otherwise = OK

    def busy(self, seconds: str) -> None:
        wait_s = parse_duration(seconds) / 1_000
        self.receiver.answers.append(Outcome(OutcomeKind.RETRY, "rate_limited", retry_after_s=wait_s))

    def silence(self, matchers: str, length: str) -> None:
        end = self.now + parse_duration(length)
        self.store.add_silence(Silence(f"s{end}", parse_matchers(matchers), self.now, end, "ana"))

    def lift(self) -> None:
        for silence in self.store.silences(self.now):
            self.store.expire_silence(silence.id, self.now)

    def elsewhere(self, matchers: str) -> None:
        self.elsewhere_is.matchers = matchers

    def vote(self, label: str, incident: str) -> None:
        self.ack(incident, FeedbackLabel(label))

    def ack(self, incident: str, label: FeedbackLabel = FeedbackLabel.ACKNOWLEDGED) -> None:
        region, rule = incident.split("-")[0], "checkout/CheckoutLatencyP99"
        alert = an_alert(region)
        episode = Episode(
            f"{alert.episode}-{incident}", rule, alert.fingerprint, alert.labels, Phase.OPEN, Tier.CRITICAL,
            self.opened[incident], self.now, opened_at=self.opened[incident], incident=incident,
        )  # fmt: skip
        self.store.save_episodes([episode])
        self.store.add_feedback(
            Feedback(f"v{self.now}", label, rule, self.now, "ana", "pagerduty", episode.id)
        )

    def unack(self) -> None:
        for vote in self.store.feedback():
            self.store.undo_feedback(vote.id, self.now)

    def restart(self) -> None:
        self.start()

    def end(self) -> None:
        """The story is over."""


def said(sent: Sent) -> str:
    """What was told, in the words of a scenario: with the number of series where it is more than one."""
    s = sent.notification.statement
    if s.rule == DIGEST_RULE:
        return f"digest {s.tier.word}"
    return sent.what + (f" {s.total}" if s.total > 1 else "")


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_delivery(store: Store, path: Path) -> None:
    """People are told exactly what the file says, when it says so, and nothing else; every drop has its reason."""
    story = read(path)
    play = Play(store, story)
    play.play()
    told = [(sent.now, said(sent)) for sent in play.receiver.delivered]
    readable = [f"{(at - START) / 60_000:g}m {what}" for at, what in told]
    for first, last, what in story.wanted:
        hit = next((one for one in told if first <= one[0] <= last and one[1] == what), None)
        assert hit is not None, f"{path.name}: {what!r} was not told in time; told was {readable}"
        told.remove(hit)
    assert not told, f"{path.name}: nobody expected {[what for _, what in told]}; told was {readable}"
    dropped = Counter(row.reason for row in store.notifications(state=OutboxState.DROPPED, limit=1_000))
    assert dict(dropped) == story.drops
    assert not store.notifications(state=OutboxState.PENDING)


def test_the_files_are_there() -> None:
    """The battery is not empty by mistake."""
    assert len(FILES) >= 28
