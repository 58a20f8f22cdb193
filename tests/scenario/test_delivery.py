"""Delivery scenarios: text files that say what happens when, and exactly what people are told; anything else fails.

A line of a scenario (``#`` begins a comment; times count from the start of the story):

    @5m owe new critical db           a statement becomes owed: reason, tier, incident (series = the word before a dash)
    @5m down / up / busy 30s          the receiver stops listening, works again, answers 429 with Retry-After
    @5m silence region=db 30m         a silence with these matchers begins
    @5m ack db-1                      somebody votes on the incident, or acknowledges it in PagerDuty
    @5m restart                       the daemon dies and starts again on the same database
    5m..6m new critical db            exactly this is told within that time
    drop superseded 2                 in the end this many rows were dropped for that reason
    option budget 10 | suppress 30m | min_tier critical | mute 03:00-06:00 | send_resolved no | flaps 3
    option escalate 30m               the receiver is told only of what nobody acknowledges
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from anomalyd.budget import Budget
from anomalyd.clock import VirtualClock
from anomalyd.deliver import Deliverer
from anomalyd.durations import parse_duration
from anomalyd.episode import Episode, Phase
from anomalyd.escalate import Escalation, Step
from anomalyd.flap import Flaps
from anomalyd.hush import MuteWindow
from anomalyd.incident import Outcome, OutcomeKind, Reason
from anomalyd.intervals import Interval, parse_times
from anomalyd.matcher import parse_matchers
from anomalyd.quiet import Known, Wishes, stages
from anomalyd.records import Feedback, FeedbackLabel, OutboxState, Silence
from anomalyd.score import Tier
from anomalyd.store import Store, open_store
from fakes.receiver import DOWN, OK, FakeReceiver
from fakes.statements import START, a_notification, a_statement, an_alert

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


class Play:
    """Plays a story on the real store and deliver loop."""

    def __init__(self, store: Store, story: Story) -> None:
        self.store, self.story, self.now = store, story, START
        self.receiver = FakeReceiver(send_resolved=story.options.get("send_resolved") != "no")
        self.suppress_ms = parse_duration(story.options.get("suppress", "0"))
        self.opened: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        options = self.story.options
        budgets = {"r": int(options.get("budget", "0"))}
        lowest = {"r": Tier[options.get("min_tier", "warning").upper()]}
        windows = ()
        if "mute" in options:
            windows = (MuteWindow("m", (Interval((parse_times(options["mute"]),)),)),)
        budget = Budget(budgets, self.store)
        wishes = Wishes(windows, (), lowest, budgets)
        steps = [Step(parse_duration(options["escalate"]), ("r",))] if "escalate" in options else []
        escalation = Escalation(steps, self.store, lambda statement: ())
        flaps = Flaps({"r": int(options.get("flaps", "0"))}, self.store)
        wanted = stages(wishes, Known(self.store, lambda rule: {}), budget)
        self.deliverer = Deliverer(
            self.store, {"r": self.receiver}, stages=(escalation.stage, flaps.stage, *wanted), budget=budget,
            flaps=flaps, rewords=(escalation.reword,), clock=VirtualClock(self.now), rng=random.Random(1),
        )  # fmt: skip

    def play(self) -> None:
        for at, words in [*self.story.happens, (max(w[1] for w in self.story.wanted) + 3_600_000, ["end"])]:
            self.live_until(at)
            getattr(self, words[0])(*words[1:])

    def live_until(self, end: int) -> None:
        while True:
            # After a restart the store alone knows what waits; the daemon asks it every few seconds.
            again = self.deliverer.deliver_once("r", self.now).next_at or self.store.next_due("r")
            if again is None or again > end:
                self.now = end
                return
            self.now = max(again, self.now + 1)

    def owe(self, reason: str, tier: str, incident: str) -> None:
        region, level = incident.split("-")[0], Tier[tier.upper()]
        status = "resolved" if reason == "resolved" else "firing"
        statement = a_statement(
            Reason(reason), level, incident, alerts=(an_alert(region, level, status=status),), at=self.now,
            suppress_ms=self.suppress_ms, group_labels=(("region", region),), key=region.ljust(64, "0"),
            opened_at=self.opened.setdefault(incident, self.now),
        )  # fmt: skip
        self.store.enqueue([a_notification(statement, created_at=self.now)])

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

    def ack(self, incident: str) -> None:
        region, rule = incident.split("-")[0], "checkout/CheckoutLatencyP99"
        alert = an_alert(region)
        episode = Episode(
            f"{alert.episode}-{incident}", rule, alert.fingerprint, alert.labels, Phase.OPEN, Tier.CRITICAL,
            self.opened[incident], self.now, opened_at=self.opened[incident], incident=incident,
        )  # fmt: skip
        self.store.save_episodes([episode])
        self.store.add_feedback(
            Feedback(f"v{self.now}", FeedbackLabel.ACKNOWLEDGED, rule, self.now, "ana", "pagerduty", episode.id)
        )

    def unack(self) -> None:
        for vote in self.store.feedback():
            self.store.undo_feedback(vote.id, self.now)

    def restart(self) -> None:
        self.start()

    def end(self) -> None:
        """The story is over."""


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
    told = [(sent.now, sent.what) for sent in play.receiver.delivered]
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
    assert len(FILES) >= 8
