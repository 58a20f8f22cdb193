"""The episode machine, its transition table whole."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.clock import MINUTE_MS
from anomalyd.episode import Close, Episode, Event, Phase, Seen, advance, begin, close_episode
from anomalyd.rule import Rule, TierPolicy
from anomalyd.score import Kind, Tier, Why

M = MINUTE_MS
RULE = Rule(
    "r", "g", "up", for_ms=2 * M, keep_firing_for_ms=3 * M, accept_after_ms=60 * M, missing="hold",
    tiers=(TierPolicy(Tier.WARNING, surprise=3), TierPolicy(Tier.CRITICAL, surprise=5),
           TierPolicy(Tier.EMERGENCY, surprise=8, for_ms=5 * M)),
)  # fmt: skip


def seen(kind: Kind, tier: Tier = Tier.NONE, surprise: float = math.nan, why: Why = Why.SURPRISE) -> Seen:
    return Seen(kind, tier, why, 9.0, 1.0, 0.0, 2.0, surprise)


WARN = seen(Kind.ANOMALOUS, Tier.WARNING, 4.0)
CRIT = seen(Kind.ANOMALOUS, Tier.CRITICAL, 6.0)
EMER = seen(Kind.ANOMALOUS, Tier.EMERGENCY, 9.0)
OK = seen(Kind.OK, surprise=0.1)


def pending(rule: Rule = RULE) -> Episode:
    return advance(begin("e", rule, "f", (("a", "b"),), 10 * M, WARN), rule, 10 * M, WARN)[0]


def opened(rule: Rule = RULE, first: Seen = WARN) -> Episode:
    episode = begin("e", rule, "f", (("a", "b"),), 10 * M, first)
    event = Event.NOTHING
    for minute in (10, 11, 12):
        episode, event = advance(episode, rule, minute * M, first)
    assert event == Event.OPENED
    return episode


UNKNOWN = (Kind.WARMING_UP, Kind.PARTIAL, Kind.LIMITED, Kind.ERROR)
MISSING = ("skip", "hold", "alert", "resolve")


@pytest.mark.parametrize(("phase", "kind", "missing"), list(product((Phase.PENDING, Phase.OPEN), Kind, MISSING)))
def test_every_pair_of_phase_and_input_has_its_transition(phase: Phase, kind: Kind, missing: str) -> None:
    """Each (phase, kind, missing policy) leads where the table says, and nowhere else."""
    rule = replace(RULE, missing=missing, keep_firing_for_ms=0)  # type: ignore[arg-type]
    before = pending(rule) if phase == Phase.PENDING else opened(rule)
    what = WARN if kind == Kind.ANOMALOUS else seen(kind)
    after, event = advance(before, rule, 20 * M, what)
    ends = kind == Kind.OK or (kind == Kind.MISSING and missing in ("skip", "resolve"))
    if ends:
        assert after.phase == Phase.CLOSED
        assert event == (Event.CLOSED if phase == Phase.OPEN else Event.DROPPED)
        assert after.close == (Close.ENDED if (kind, missing) == (Kind.MISSING, "resolve") else Close.RECOVERED)
        assert after.closed_at == 20 * M
    elif kind == Kind.ANOMALOUS:
        assert after.phase == Phase.OPEN
        assert event == (Event.OPENED if phase == Phase.PENDING else Event.NOTHING)
    else:
        assert (after, event) == (before, Event.NOTHING), "an unknown changes nothing"


def test_for_must_hold_at_every_evaluation() -> None:
    """An episode opens when `for` has passed since the series became abnormal, not before."""
    episode = begin("e", RULE, "f", (), 10 * M, WARN)
    events = []
    for minute in (10, 11, 12, 13):
        episode, event = advance(episode, RULE, minute * M, WARN)
        events.append(event)
    assert events == [Event.NOTHING, Event.NOTHING, Event.OPENED, Event.NOTHING]
    assert (episode.started_at, episode.opened_at) == (10 * M, 12 * M)


def test_a_dip_below_restarts_for() -> None:
    """Back to normal before `for` drops the pending episode without a word."""
    after, event = advance(pending(), RULE, 11 * M, OK)
    assert (after.phase, event) == (Phase.CLOSED, Event.DROPPED)
    assert after.opened_at == 0


def test_an_unknown_does_not_count_towards_for_but_does_not_reset_it() -> None:
    """After an error slot the clock of `for` runs on from when the series became abnormal."""
    held, event = advance(pending(), RULE, 11 * M, seen(Kind.ERROR))
    assert event == Event.NOTHING
    assert advance(held, RULE, 12 * M, WARN)[1] == Event.OPENED


def test_the_tier_rises_after_its_own_for_and_never_falls() -> None:
    """Critical takes the rule's `for`, emergency its own; a lower surprise later leaves the tier."""
    episode = opened()
    history = []
    for minute in range(13, 20):
        episode, event = advance(episode, RULE, minute * M, EMER)
        history.append((minute, event, episode.tier))
    assert (15, Event.WORSENED, Tier.CRITICAL) in history
    assert (18, Event.WORSENED, Tier.EMERGENCY) in history
    after, event = advance(episode, RULE, 21 * M, WARN)
    assert (after.tier, event) == (Tier.EMERGENCY, Event.NOTHING)


@pytest.mark.parametrize(
    ("minutes", "surprise", "news", "event"),
    [
        (30, 6.1, True, Event.SURGED), (30, 6.1, False, Event.NOTHING), (30, 4.9, True, Event.NOTHING),
        (3, 6.1, True, Event.NOTHING),
    ],
)  # fmt: skip
def test_far_beyond_a_peak_that_has_stood_is_told(minutes: int, surprise: float, news: bool, event: Event) -> None:
    """News ten times rarer than the peak is told, unless the peak is part of the same rise; the tier stays."""
    rule = replace(RULE, tiers=(TierPolicy(Tier.WARNING, surprise=3),), suppress_ms=10 * M)
    episode = opened(rule)
    what = replace(seen(Kind.ANOMALOUS, Tier.WARNING, surprise), news=news)
    after, said = advance(episode, rule, (10 + minutes) * M, what)
    assert (said, after.tier, after.peak_surprise) == (event, Tier.WARNING, max(surprise, 4.0))


def test_a_tier_that_is_interrupted_starts_its_for_again() -> None:
    """Emergency needs an unbroken stretch at emergency level."""
    episode = opened()
    for minute, what in ((13, EMER), (14, EMER), (15, CRIT), (16, EMER), (19, EMER)):
        episode, _ = advance(episode, RULE, minute * M, what)
    assert episode.tier == Tier.CRITICAL
    assert advance(episode, RULE, 21 * M, EMER)[0].tier == Tier.EMERGENCY


def test_keep_firing_for_holds_a_flapping_episode_open() -> None:
    """Normal slots close an episode only when they last for keep_firing_for."""
    episode = opened()
    for minute, what in ((13, OK), (14, OK), (15, WARN), (16, OK), (17, OK), (18, OK)):
        episode, event = advance(episode, RULE, minute * M, what)
        assert event == Event.NOTHING, minute
    after, event = advance(episode, RULE, 19 * M, OK)
    assert (after.phase, event, after.close) == (Phase.CLOSED, Event.CLOSED, Close.RECOVERED)


def test_a_level_that_lasts_is_accepted_with_its_own_reason() -> None:
    """After accept_after the episode closes as the new level."""
    episode = opened()
    after, event = advance(episode, RULE, 70 * M, WARN)
    assert (event, after.close) == (Event.CLOSED, Close.NEW_LEVEL)


def test_a_value_outside_the_valid_range_is_never_accepted() -> None:
    """What the business forbids does not become normal by lasting."""
    outside = seen(Kind.ANOMALOUS, Tier.WARNING, 4.0, Why.OUT_OF_RANGE)
    after, event = advance(opened(), RULE, 700 * M, outside)
    assert (after.phase, event) == (Phase.OPEN, Event.NOTHING)


def test_the_peak_is_the_most_surprising_slot() -> None:
    """The peak keeps the largest surprise and its slot."""
    episode = opened()
    for minute, what in ((13, EMER), (14, WARN)):
        episode, _ = advance(episode, RULE, minute * M, what)
    assert (episode.peak_surprise, episode.peak_at, episode.surprise) == (9.0, 13 * M, 4.0)


def test_closing_from_outside_tells_only_what_was_told() -> None:
    """A removed rule closes an open episode with an event, a pending one without."""
    assert close_episode(opened(), 99 * M, Close.RULE_REMOVED)[1] == Event.CLOSED
    assert close_episode(pending(), 99 * M, Close.RULE_REMOVED)[1] == Event.DROPPED


INPUTS = st.sampled_from([WARN, CRIT, EMER, OK, *(seen(kind) for kind in (*UNKNOWN, Kind.MISSING))])


@given(st.lists(INPUTS, max_size=60), st.sampled_from(MISSING))
def test_laws_of_the_machine(inputs: list[Seen], missing: str) -> None:
    """Over any sequence: opened at most once, closed at most once and only after that, and the tier never falls."""
    rule = replace(RULE, missing=missing)  # type: ignore[arg-type]
    episode = begin("e", rule, "f", (), 0, WARN)
    events: list[Event] = []
    tier = Tier.NONE
    for i, what in enumerate(inputs):
        episode, event = advance(episode, rule, i * M, what)
        events.append(event)
        assert episode.tier >= tier
        tier = episode.tier
        if episode.phase == Phase.CLOSED:
            break
    told = [event for event in events if event in (Event.OPENED, Event.CLOSED)]
    assert told in ([], [Event.OPENED], [Event.OPENED, Event.CLOSED])
    if Event.WORSENED in events:
        assert events.index(Event.WORSENED) > events.index(Event.OPENED)
