"""Quiet in the API: snoozes, and why something was not told."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import generate_latest

from anomalyd.app import Wiring
from anomalyd.delivery.budget import BUDGET
from anomalyd.delivery.escalate import ACKNOWLEDGED, WAITING
from anomalyd.delivery.flap import FLAPPING
from anomalyd.delivery.hush import BELOW_TIER, INHIBITED, MUTED, SILENCED
from anomalyd.delivery.needs import Delivery
from anomalyd.delivery.together import TOGETHER
from anomalyd.delivery.words import Words
from anomalyd.incident import Notification, Outcome, OutcomeKind
from anomalyd.metrics import Metrics
from anomalyd.rulefiles.read import RuleSet
from anomalyd.secret import Secret
from anomalyd.settings import Token, Web
from anomalyd.suppress import Quiet
from console_kit import NOW, Console, data, episode, error, statement

TOKENS = {"ana": Token(Secret("ana-token"))}
REASONS = (
    *(str(reason) for reason in Quiet), SILENCED, MUTED, INHIBITED, BELOW_TIER, FLAPPING, BUDGET, TOGETHER, WAITING,
    ACKNOWLEDGED,
)  # fmt: skip


def test_what_is_open_is_snoozed_for_one_of_a_few_lengths() -> None:
    """A series or a whole incident, until nine tomorrow in the rule's zone too; not what is over, not for 9 years."""
    console = Console()
    client = console.client()
    made = data(client.post("/api/v1/incidents/i1/snooze", json={"for": "tomorrow"}), 201)
    assert made == {"until": "2026-09-22T07:00:00.000Z"}
    assert error(client.post("/api/v1/episodes/e1/snooze", json={"for": "1h"}), 400) == "bad_vote"
    console.store.save_episodes([episode("e1", incident="i1", live=True)])
    assert data(client.post("/api/v1/episodes/e1/snooze", json={"for": "1w"}), 201)["until"].startswith("2026-09-28T12")
    kept = data(client.get("/api/v1/silences"))["silences"]
    names = [sorted(m["name"] for m in silence["matchers"]) for silence in kept]
    assert sorted(names) == [["__name__", "region", "rule"], ["rule"]]
    assert {silence["created_by"] for silence in kept} == {"local"}
    assert error(client.post("/api/v1/episodes/e1/snooze", json={"for": "9y"}), 400) == "bad_data"
    assert error(client.post("/api/v1/episodes/none/snooze", json={"for": "1h"}), 404) == "not_found"
    reader = Console(Web("127.0.0.1", 9640, tokens=TOKENS)).client()
    assert error(reader.post("/api/v1/episodes/e1/snooze", json={"for": "1h"}), 401) == "unauthorized"


def test_every_reason_to_stay_quiet_is_seen_in_the_api() -> None:
    """Held or dropped, by whichever stage: the row says why, and so does the count on /metrics."""
    console = Console()
    wiring = Wiring(console.settings, RuleSet(()), Metrics(), lambda delivery: None, Words(), {})
    for i, reason in enumerate(REASONS):
        said = Notification(f"q{i}", "hook", statement(console.first), NOW)
        console.store.enqueue([said])
        if i % 2:
            console.store.drop(said.id, NOW, reason)
        else:
            console.store.settle(said.id, NOW, Outcome(OutcomeKind.RETRY, reason), NOW + 60_000)
        wiring.account(Delivery("hook", said, "dropped" if i % 2 else "held", reason))
    shown = data(console.client().get("/api/v1/notifications?receiver=hook"))["notifications"]
    assert {row["reason"] for row in shown} >= set(REASONS)
    counted = generate_latest(wiring.metrics.registry).decode()
    guide = (Path(__file__).parents[2] / "docs" / "receivers.md").read_text("utf-8")
    for reason in REASONS:
        assert f'reason="{reason}"' in counted
        assert f"`{reason}`" in guide
