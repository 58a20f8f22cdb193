"""Incidents of several rules about one service: whose company it is, what a message says of it, and when it is off."""

from __future__ import annotations

from dataclasses import replace

from anomalyd.clock import MINUTE_MS, VirtualClock
from anomalyd.delivery.deliver import Deliverer
from anomalyd.delivery.hush import Firing
from anomalyd.delivery.quiet import arrange
from anomalyd.delivery.together import Company, Together
from anomalyd.delivery.words import Words
from anomalyd.incident import Incident, Reason
from anomalyd.receivers.webhook import WebhookSettings
from anomalyd.render import Background, render
from anomalyd.score import Tier
from anomalyd.secret import Secret
from anomalyd.settings import read_settings
from anomalyd.store import open_store
from anomalyd.yamlfile import read_yaml
from fakes.receiver import FakeReceiver
from fakes.statements import MINUTE, START, a_notification, a_statement

SERVICE = {"service": "checkout"}
TERMS = Company(("service",))


def firing(name: str, tier: Tier = Tier.WARNING, at: int = START, **labels: str) -> Firing:
    known = {**SERVICE, "alertname": name, "tier": tier.word, **labels}
    return Firing(f"i-{name}", known, at, tier)


def words(others: list[Firing], **changes: object) -> str:
    store = open_store("sqlite://")
    s = replace(a_statement(labels=SERVICE), **changes)  # type: ignore[arg-type]
    said = Together(TERMS, store, lambda now: others).words(s, START)
    store.close()
    return said


def test_the_company_of_an_incident() -> None:
    """Others of its service that began within the time, the worst first, five by name; not itself, not strangers."""
    others = [
        firing("Errors"), firing("Traffic", Tier.EMERGENCY, START + 9 * MINUTE), firing("Late", at=START + 11 * MINUTE),
        firing("Other", service="search"), firing("None", service=""), replace(firing("Self"), incident="inc-1"),
    ]  # fmt: skip
    assert words(others) == "Traffic (emergency), Errors (warning)"
    assert words([], labels={}) == ""
    assert words(others, labels={}) == ""
    assert words([firing(f"R{i}") for i in range(8)]).endswith("R4 (warning) and 3 more")


def test_the_message_names_it() -> None:
    """As a fact of its own; at the end it is no news any more."""
    known = Background(company="Errors (warning)")
    assert ("Together with", "Errors (warning)") in render(a_statement(), START, background=known).fields
    over = render(a_statement(Reason.RESOLVED), START, background=known)
    assert "Errors" not in over.text + str(over.fields)


def test_an_update_says_what_has_begun_too() -> None:
    """The title does not speak of series, and the sentence names the rule that joined."""
    said = render(a_statement(Reason.MORE, note="Errors (warning) has begun too"), START)
    assert said.title == "[CRITICAL, MORE] CheckoutLatencyP99: eu"
    assert said.sentence.endswith("; Errors (warning) has begun too")


def test_as_the_settings_ask_for_it() -> None:
    """Off unless it is written; then the stages hold the second, its row says why, and the first names it."""
    text = "sources: {p: {url: 'http://p:9090'}}\n"
    assert read_settings(read_yaml(text, "a.yml")).together is None
    terms = read_settings(read_yaml(text + "together: {labels: [service], within: 5m}\n", "a.yml")).together
    assert terms == Company(("service",), 5 * MINUTE_MS)
    for company, told in ((None, ["new critical a", "new critical b"]), (terms, ["new critical a"])):
        store, receiver = open_store("sqlite://"), FakeReceiver()
        settings = WebhookSettings(name="r", url=Secret("http://h.example"))
        stages, budget, together = arrange(
            store, {"r": settings}, {"r": receiver}, lambda rule: SERVICE, company=company
        )
        deliverer = Deliverer(
            store, {"r": receiver}, stages=stages, budget=budget, words=Words(company=together.words),
            updates=together.updates, clock=VirtualClock(START),
        )  # fmt: skip
        for name in ("a", "b"):
            s = a_statement(incident=name, labels=SERVICE, group_labels=(), name=name, rule=f"g/{name}", key=name * 64)
            known = Incident(name, s.key, s.rule, (), s.tier, START, episodes=1)
            store.save_episodes([], [known], [a_notification(s)])
        deliverer.deliver_once("r", START)
        assert receiver.told == told
        named = dict(receiver.delivered[0].rendered.fields).get("Together with")
        assert named == ("b (critical)" if company else None)
        assert deliverer.updates(START) == []
        waiting = [row.reason for row in store.notifications(limit=9) if row.settled_at == 0]
        assert waiting == (["together"] if company else [])
        store.close()
