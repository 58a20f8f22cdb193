"""Puts the console's parts together from a daemon's: used by the composition root and by the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anomalyd.ballot import Ballot
from anomalyd.clock import Clock
from anomalyd.console.auth import Guard
from anomalyd.console.links import Signer, key_of, link_actions, stored_key
from anomalyd.console.parts import Parts
from anomalyd.errors import DeliveryError
from anomalyd.receivers.base import HttpSettings
from anomalyd.receivers.transport import Transport
from anomalyd.render import Actions
from anomalyd.rule import Rule
from anomalyd.settings import Settings
from anomalyd.store import Store

RESPONSE_TIMEOUT = "5s"


def signer_of(settings: Settings, store: Store) -> Signer:
    """The signer of links, with the settings' secret or the key that is kept in the store."""
    secret = settings.web.signing_secret
    return Signer(key_of(secret.get()) if secret is not None else stored_key(store))


def actions_of(settings: Settings, store: Store) -> Actions | None:
    """The buttons and links of messages; None where the daemon has no address that a reader could open."""
    web = settings.web
    if not web.external_url:
        return None
    return link_actions(
        signer_of(settings, store), web.external_url, web.link_lifetime_ms, web.slack_signing_secret is not None
    )


def parts_of(
    store: Store,
    clock: Clock,
    settings: Callable[[], Settings],
    rules: Callable[[], Mapping[str, Rule]],
    changed: Callable[[str], None],
) -> Parts:
    """Everything that the pages and the API need; ``changed`` is told of rules whose feedback has changed."""
    now = settings()
    ballot = Ballot(store, rules, now.feedback, changed)
    return Parts(store, ballot, Guard(now.web), signer_of(now, store), clock, rules, settings, _poster(clock))


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
