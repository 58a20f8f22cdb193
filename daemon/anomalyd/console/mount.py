"""Puts the console's parts together from a daemon's: used by the composition root and by the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anomalyd.ballot import Ballot
from anomalyd.clock import Clock
from anomalyd.console.auth import Guard
from anomalyd.console.links import Signer, key_of, link_actions, link_charts, link_places, stored_key
from anomalyd.console.parts import Parts
from anomalyd.console.places import dashboard_links
from anomalyd.delivery.picture import Pictures
from anomalyd.errors import DeliveryError
from anomalyd.evaluation.rulerun import Attendance, RuleRun
from anomalyd.receivers.base import HttpSettings
from anomalyd.receivers.transport import Transport
from anomalyd.render import Actions, Charts, Places
from anomalyd.rule import Rule
from anomalyd.settings import Settings
from anomalyd.store import Store

RESPONSE_TIMEOUT = "5s"


def signer_of(settings: Settings, store: Store) -> Signer:
    """The signer of links, with the settings' secret or the key that is kept in the store."""
    secret = settings.web.signing_secret
    return Signer(key_of(secret.get()) if secret is not None else stored_key(store))


@dataclass(frozen=True, slots=True)
class Console:
    """What the console adds to messages; None is what a daemon has not without an address that a reader could open."""

    actions: Actions | None = None
    places: Places | None = None
    charts: Charts | None = None


def console_of(settings: Callable[[], Settings], store: Store, charts: bool) -> Console:
    """The buttons, links and addresses of charts in messages.

    Args:
        settings: those in force; the web server's are of the start, the dashboards' follow a reload.
        charts: whether charts can be drawn here.
    """
    now = settings()
    web, signer = now.web, signer_of(now, store)
    places = link_places(
        signer, web.external_url, web.link_lifetime_ms, lambda since, until: dashboard_links(settings(), since, until)
    )
    if not web.external_url:
        return Console(places=places)
    return Console(
        link_actions(signer, web.external_url, web.link_lifetime_ms, web.slack_signing_secret is not None),
        places,
        link_charts(signer, web.external_url, web.link_lifetime_ms) if charts else None,
    )


def parts_of(
    store: Store,
    clock: Clock,
    settings: Callable[[], Settings],
    rules: Callable[[], Mapping[str, Rule]],
    changed: Callable[[str], None],
    pictures: Pictures | None = None,
    attendance: Callable[[str], Attendance | None] = lambda rule_id: None,
    run: Callable[[str], RuleRun | None] = lambda rule_id: None,
) -> Parts:
    """Everything that the pages and the API need; ``changed`` is told of rules whose feedback has changed."""
    now = settings()
    ballot = Ballot(store, rules, now.feedback, changed)
    return Parts(
        store, ballot, Guard(now.web), signer_of(now, store), clock, rules, settings, _poster(clock), pictures,
        attendance, run,
    )  # fmt: skip


def _poster(clock: Clock) -> Callable[[str, bytes], None]:
    """Sends to an address that was checked; made when it is first needed."""
    transport: list[Transport] = []

    def post(url: str, body: bytes) -> None:
        if not transport:
            asked = HttpSettings(name="slack-response", type="slack", timeout=RESPONSE_TIMEOUT)
            transport.append(Transport(asked, clock))
        reply = transport[0].request("POST", url, body=body, headers={"Content-Type": "application/json"})
        if not reply.ok:
            raise DeliveryError("client", f"answered {reply.status}: {reply.text()}")

    return post
