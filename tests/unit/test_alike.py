"""What people called what an alert is like: which episodes count, which do not, and the line that says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.block import make_labels
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.episode import Episode
from anomalyd.feedback.alike import Alike, Said, alike, look_of_alert, look_of_episode, said_of
from anomalyd.feedback.belief import FeedbackPolicy
from anomalyd.incident import Alert
from anomalyd.records import VERDICTS, Feedback, FeedbackLabel
from anomalyd.score import Why
from console_kit import NOW, episode, statement, vote

POLICY = FeedbackPolicy()
TRUE, FALSE, EXPECTED = FeedbackLabel.TRUE, FeedbackLabel.FALSE, FeedbackLabel.EXPECTED
LIVE = episode("now", incident="i-now", live=True, started=NOW)


def told(i: int, **changes: object) -> Episode:
    """An episode of the same series at the same hour, ``i`` days ago."""
    return replace(episode(f"e{i}", started=NOW - i * DAY_MS, incident=f"i{i}"), **changes)  # type: ignore[arg-type]


def found(episodes: Sequence[Episode], votes: Sequence[Feedback], live: Episode = LIVE, now: int = NOW) -> Alike | None:
    said = said_of(votes, {e.id: e for e in episodes}, POLICY)
    return alike(look_of_episode(live), (), {live.id, live.incident}, said, now, POLICY.half_life_ms)


def test_three_of_four() -> None:
    """How many, what most were called, when the last of those was, and who said it."""
    past = [told(i) for i in (1, 2, 3, 4)]
    votes = [vote(past[0], TRUE, "ben"), vote(past[1], FALSE, "anna"), vote(past[2], FALSE), vote(past[3], FALSE)]
    like = found(past, votes)
    assert like == Alike(4, FALSE, 3, past[1].started_at, "anna")
    assert like.words == "3 of 4 like it were called false alarms (last 19 Sep, by anna)"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([FALSE], "one like it was called a false alarm (20 Sep, by ana)"),
        ([TRUE, TRUE], "all 2 like it were called real (last 20 Sep, by ana)"),
        ([FALSE, TRUE], "1 of 2 like it was called real (last 19 Sep, by ana)"),
        ([EXPECTED, EXPECTED, FALSE], "2 of 3 like it were called expected (last 20 Sep, by ana)"),
    ],
)
def test_the_words(labels: list[FeedbackLabel], words: str) -> None:
    """One, all, some; where words are even the graver is told."""
    past = [told(i + 1) for i in range(len(labels))]
    like = found(past, [vote(e, label) for e, label in zip(past, labels, strict=True)])
    assert like is not None
    assert like.words == words


def at_hour(hours: int) -> Episode:
    return told(1, started_at=NOW - DAY_MS + hours * HOUR_MS)


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        (told(1), True),
        (told(1, peak_surprise=8.4), True),
        (told(1, peak_surprise=8.5), False),
        (told(1, peak_surprise=2.0), False),
        (told(1, peak_value=0.1), False),
        (told(1, peak_expected=float("nan")), False),
        (told(1, why=Why.ABSENT), False),
        (told(1, why=Why.YOUNG), True),
        (at_hour(3), True),
        (at_hour(-4), False),
        (told(1, opened_at=0), False),
        (told(-1), False),
        (told(1, fingerprint="other", labels=make_labels({"region": "us"})), False),
        (told(1, incident="i-now"), False),
    ],
    ids=["same", "twice the size", "larger", "smaller", "other side", "unknown side", "other reason", "young",
         "three hours", "four hours", "never told", "later", "other series", "same incident"],
)  # fmt: skip
def test_what_is_like_it(other: Episode, counts: bool) -> None:
    """The same series, reason and direction, within a factor of two and three hours of the day, told, and before."""
    assert (found([other], [vote(other, FALSE)]) is not None) == counts


def test_a_group_is_known_by_its_labels() -> None:
    """Another series of the group counts, one of another group does not; no group means the series alone."""
    live, sibling, stranger = (
        make_labels({"region": region, "pod": pod}) for region, pod in (("eu", "a"), ("eu", "b"), ("us", "b"))
    )
    past = [told(1, labels=sibling, fingerprint="s"), told(2, labels=stranger, fingerprint="t")]
    said = said_of([vote(e, FALSE) for e in past], {e.id: e for e in past}, POLICY)
    look = look_of_episode(replace(LIVE, labels=live, fingerprint="live"))

    def count(group: tuple[tuple[str, str], ...]) -> int:
        like = alike(look, group, (), said, NOW, POLICY.half_life_ms)
        return like.judged if like is not None else 0

    assert [count((("region", "eu"),)), count((("region", "us"),)), count(())] == [1, 1, 0]


def test_votes_fade_and_are_taken_back() -> None:
    """A vote older than the half-life, one taken back and one on what the store has forgotten say nothing."""
    e = told(100)
    assert found([e], [vote(e, FALSE, at=NOW - POLICY.half_life_ms - 1)]) is None
    assert found([e], [vote(e, FALSE, at=NOW - POLICY.half_life_ms)]) is not None
    assert found([e], [replace(vote(e, FALSE), undone_at=NOW)]) is None
    assert found([], [vote(e, FALSE)]) is None
    assert found([e], [vote(e, FeedbackLabel.ACKNOWLEDGED)]) is None


def test_an_incident_counts_once() -> None:
    """Many series of one incident, voted on together, are one thing that was like it."""
    wide = [told(1, id=f"w{i}", incident="wide") for i in range(8)]
    past = [*wide, told(2)]
    like = found(past, [*(vote(e, FALSE) for e in wide), vote(past[-1], TRUE)])
    assert like is not None
    assert (like.judged, like.label, like.count) == (2, TRUE, 1)


def test_who_said_it() -> None:
    """Of a link the name that was typed without the receiver it was sent to, cleaned; somebody where none was."""
    e = told(1)
    for who, via, name in (("anna@pager", "link", "anna"), ("@pager", "link", "somebody"),
                           ("eve\u202e\n<b>", "api", "eve <b>"), ("x" * 90, "cli", "x" * 59 + "…")):  # fmt: skip
        like = found([e], [vote(e, FALSE, who, via=via)])
        assert like is not None
        assert like.who == name


def test_an_alert_looks_like_its_episode() -> None:
    """What a statement carries of an episode compares as the episode does; numbers that are not known match nothing."""
    (alert,) = statement(LIVE).alerts
    assert look_of_alert(alert) == look_of_episode(LIVE)
    blind: Alert = replace(alert, value=None, surprise=None)
    assert alike(look_of_alert(blind), (), (), said_of([vote(told(1), FALSE)], {"e1": told(1)}, POLICY), NOW,
                 POLICY.half_life_ms) is None  # fmt: skip


JUDGED = st.tuples(st.integers(1, 60), st.sampled_from(VERDICTS), st.floats(0.5, 20), st.integers(0, 23))


@given(st.lists(JUDGED, max_size=12), st.randoms())
def test_counts_are_honest(past: list[tuple[int, FeedbackLabel, float, int]], rng: object) -> None:
    """Never more of a word than were judged, nothing without a vote, and the order of votes does not matter."""
    episodes = [
        told(1, id=f"e{i}", incident=f"i{i}", peak_surprise=surprise, started_at=NOW - day * DAY_MS + hour * HOUR_MS)
        for i, (day, _, surprise, hour) in enumerate(past)
    ]
    votes = [vote(e, label) for e, (_, label, _, _) in zip(episodes, past, strict=True)]
    like = found(episodes, votes)
    mixed = list(votes)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert found(episodes, mixed) == like
    if like is not None:
        assert 1 <= like.count <= like.judged <= len(past)
        assert like.count >= like.judged / len(VERDICTS)
        assert sum(v.label == like.label for v in votes) >= like.count


def test_what_was_said_is_the_verdict_and_its_newest_vote() -> None:
    """Of several voters on one episode the most decide, and the newest of those is named."""
    e = told(1)
    votes = [vote(e, FALSE, "a", at=NOW - 3), vote(e, TRUE, "b", at=NOW - 2), vote(e, FALSE, "c", at=NOW - 1)]
    (said,) = said_of(votes, {e.id: e}, POLICY)
    assert isinstance(said, Said)
    assert (said.label, said.vote.who, said.incident) == (FALSE, "c", "i1")
