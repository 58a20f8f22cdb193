"""Hostile text and numbers: both engines take them, and give the same back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from anomalyd.block import Labels, make_labels
from anomalyd.incident import Outcome, OutcomeKind
from anomalyd.records import Feedback, FeedbackLabel, Matcher, Silence
from anomalyd.slot import RuleSlot, SeriesRow, SlotCommit
from anomalyd.store import Store, open_store
from contract.store_kit import alert, episode, incident, notification

any_text = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    ["\x00", "a\x00b", "\ud800", "\udfff\ud800", "'; DROP TABLE slots; --", "%s", ":name", "\\u0000", "\u202eabc"]
)
any_int = st.integers(-(2**70), 2**70)
any_float = st.floats()
label_sets = st.dictionaries(any_text, any_text, max_size=5).map(make_labels)
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["file", pytest.param("postgres", marks=pytest.mark.server("postgres"))])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all examples: each example takes ids of its own."""
    folder: Path = tmp_path_factory.mktemp("hostile")
    file = f"sqlite:///{folder}/anomalyd.db"
    url = file if request.param == "file" else request.getfixturevalue("postgres").migrated()
    opened = open_store(url)
    yield opened
    opened.close()


def storable(text: str) -> str:
    """What becomes of plain text."""
    return "".join("\ufffd" if c == "\x00" or "\ud800" <= c <= "\udfff" else c for c in text)


def same(one: float, other: float) -> bool:
    """Equal, or both NaN."""
    return one == other or (math.isnan(one) and math.isnan(other))


@few
@given(labels=st.lists(label_sets, min_size=1, max_size=4, unique=True), text=any_text)
def test_labels_are_kept_to_the_character(store: Store, labels: list[Labels], text: str) -> None:
    """A label set is an identity: the registry gives back what it was given, under any rule name."""
    rule = f"{uuid4()}/{text}"
    rows = tuple(SeriesRow(rule, i, "same", one, 0) for i, one in enumerate(labels))
    assert store.commit_slot(SlotCommit(rule, 0, (RuleSlot(rule, 0, "ok", text, text, model=text),), series=rows))
    assert not store.commit_slot(SlotCommit(rule, 0, ()))
    assert [row.labels for row in store.series(rule)] == labels
    [slot] = store.rule_slots(rule, 0, 1)
    assert (slot.reason, slot.detail, slot.model) == (storable(text),) * 3


@few
@given(labels=label_sets, text=any_text, number=any_float, at=any_int)
def test_episodes_and_incidents(store: Store, labels: Labels, text: str, number: float, at: int) -> None:
    """Any float comes back, any text comes back without what cannot be stored, any time within 64 bits."""
    name = f"{uuid4()}{text}"
    written = episode(name, rule=name, labels=labels, start=at, value=number, peak_surprise=number, model=text)
    store.save_episodes([written], [replace(incident(name, rule=name), group_labels=labels)])
    [found] = store.live_episodes(name)
    assert (found.labels, found.model, found.id) == (labels, storable(text), storable(name))
    assert same(found.value, number)
    assert same(found.peak_surprise, number)
    assert found.started_at == min(max(at, -(2**63)), 2**63 - 1)
    assert [one.group_labels for one in store.open_incidents(name)] == [labels]
    assert store.episode(name) == found or math.isnan(number)


@few
@given(labels=label_sets, text=any_text, number=any_float, texts=st.dictionaries(any_text, any_text, max_size=3))
def test_notifications(store: Store, labels: Labels, text: str, number: float, texts: dict[str, str]) -> None:
    """A notification goes through claim, outcome, memory and look-up whatever its labels and texts hold."""
    name, receiver = str(uuid4()), f"{uuid4()}{text}"
    base = notification(name, receiver=receiver, told=name, alerts=(replace(alert(name), labels=labels, value=number),))
    statement = replace(base.statement, labels=texts, annotations=texts, group_labels=labels, expr=text)
    store.enqueue([replace(base, statement=statement)])
    [claimed] = store.claim(receiver, 0, 10, 1)
    assert claimed.statement.expr == storable(text)
    assert claimed.statement.annotations == {storable(k): storable(v) for k, v in texts.items()}
    value = claimed.statement.alerts[0].value
    assert value == number if math.isfinite(number) else value is None
    memory = {"ts": text, "deep": [texts, number if not math.isnan(number) else None]}
    assert store.settle(name, 1, Outcome(OutcomeKind.DELIVERED, text, text, memory=memory))
    [row] = store.notifications(receiver=receiver)
    assert row.notification.memory == memory
    assert (row.reason, row.message) == (storable(text), storable(text))
    assert store.told(receiver, name) is not None


@few
@given(text=any_text, at=any_int)
def test_what_people_type(store: Store, text: str, at: int) -> None:
    """Votes, silences and leases take any text and any number."""
    name = f"{uuid4()}{text}"
    vote = Feedback(name, FeedbackLabel.EXPECTED, name, 0, text, text, text, text, at, at, text, text)
    assert store.add_feedback(vote)
    assert [(one.text, one.who) for one in store.feedback(rule=name)] == [(storable(text), storable(text))]
    store.add_silence(Silence(name, (Matcher(text, "=", text),), at, at, text, text))
    [silence] = [one for one in store.silences() if one.id == storable(name)]
    assert silence.matchers == (Matcher(text, "=", text),)
    assert store.acquire_lease(name, text, 0, 10) is not None
    store.save_model(name, text, text, text.encode("utf-8", "replace"))
    model = store.model(name, text)
    assert model is not None
    assert model.meta_json == storable(text)
