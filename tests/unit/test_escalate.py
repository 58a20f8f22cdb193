"""Who is told last: which receivers wait, for what, and how the settings say it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anomalyd.clock import MINUTE_MS
from anomalyd.delivery.escalate import Escalation, Step, last_receivers
from anomalyd.errors import ConfigError
from anomalyd.incident import Reason
from anomalyd.matcher import parse_matchers
from anomalyd.records import Told
from anomalyd.render import render
from anomalyd.score import Tier
from anomalyd.settings import read_settings
from anomalyd.store import Store, open_store
from anomalyd.suppress import Hold, Subject
from anomalyd.yamlfile import read_yaml
from fakes.statements import START, a_notification, a_statement

LATER = START + 20 * MINUTE_MS
STEPS = (
    Step(30 * MINUTE_MS, ("lead", "boss")),
    Step(10 * MINUTE_MS, ("lead",), Tier.EMERGENCY),
    Step(5 * MINUTE_MS, ("dba",), Tier.WARNING, parse_matchers('region="us"')),
)


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store("sqlite://")
    yield opened
    opened.close()


def subject(receiver: str, tier: Tier = Tier.CRITICAL, now: int = START, told: Told | None = None) -> Subject:
    statement = a_statement(tier=tier)
    return Subject(a_notification(statement, receiver, created_at=START), statement, receiver, now, told, {}, START)


@pytest.mark.parametrize(
    ("receiver", "tier", "minutes"),
    [
        ("lead", Tier.CRITICAL, 30), ("lead", Tier.EMERGENCY, 10), ("boss", Tier.EMERGENCY, 30),
        ("lead", Tier.WARNING, 0), ("dba", Tier.CRITICAL, 0), ("pager", Tier.EMERGENCY, 0),
    ],
)  # fmt: skip
def test_the_soonest_step_that_is_meant_decides(store: Store, receiver: str, tier: Tier, minutes: int) -> None:
    """A receiver waits as long as the first step that names it for this tier and these labels; else not at all."""
    verdict = Escalation(STEPS, store, lambda s: ()).stage(subject(receiver, tier))
    due = verdict.until if isinstance(verdict, Hold) else START
    assert due == START + minutes * MINUTE_MS


def test_whoever_is_told_first_never_waits(store: Store) -> None:
    """A receiver on the incident's own route is told at once although a step names it too; so is one that was told."""
    assert Escalation(STEPS, store, lambda s: ("lead",)).stage(subject("lead")) is None
    known = Told(START, Tier.CRITICAL, True, False)
    assert Escalation(STEPS, store, lambda s: ()).stage(subject("lead", told=known)) is None


def test_says_why_somebody_hears_of_it(store: Store) -> None:
    """The message's head and its sentence say that nobody has acknowledged, and for how long."""
    said = Escalation(STEPS, store, lambda s: ()).reword(subject("lead", now=START + 31 * MINUTE_MS))
    assert said is not None
    assert said.reason == Reason.ESCALATED
    rendered = render(said, START)
    assert rendered.title.startswith("[CRITICAL, UNACKNOWLEDGED] ")
    assert rendered.sentence.endswith("; nobody has acknowledged it within 30m")


def test_who_may_come_to_hear_of_it() -> None:
    """By tier, each once."""
    assert last_receivers(STEPS, Tier.WARNING) == ("dba",)
    assert last_receivers(STEPS, Tier.EMERGENCY) == ("lead", "boss", "dba")


SETTINGS = """
sources: {default: {url: "http://localhost:9090"}}
receivers:
  team: {type: webhook, url: "http://localhost:1/a"}
  lead: {type: webhook, url: "http://localhost:1/b"}
escalation:
  - {after: 30m, receivers: [lead]}
"""


def test_in_the_settings() -> None:
    """Receivers that are kept for escalation are no default receivers."""
    settings = read_settings(read_yaml(SETTINGS, "anomalyd.yml"))
    assert settings.escalation == (Step(30 * MINUTE_MS, ("lead",)),)
    assert settings.default_receivers == ("team",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[lead]", "[laed]", "unknown receiver 'laed'"),
        ("[lead]", "[lead, team]", "nobody is told first"),
        ("30m", "0s", "after"),
        ("[lead]", "[]", "receivers"),
    ],
)
def test_settings_that_cannot_be_meant(old: str, new: str, said: str) -> None:
    """Unknown receivers, nobody who is told first, no time and nobody to tell are problems with a place."""
    with pytest.raises(ConfigError) as caught:
        read_settings(read_yaml(SETTINGS.replace(old, new), "anomalyd.yml"))
    assert said in str(caught.value.problems[0])
    assert caught.value.problems[0].line
