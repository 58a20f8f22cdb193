"""Signed links: what a button or a link in a message carries, and how it is known again.

A token names an incident, one of its episodes, the receiver it was sent to, and until when it works; an HMAC-SHA256
over all of it makes it unguessable. Whoever has it may look at that incident and vote on it, no more. It never acts by
itself: the address shows a page, and only the page's form acts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from anomalyd.clock import SECOND_MS
from anomalyd.incident import Reason, Statement
from anomalyd.render import Action
from anomalyd.store import Store

KEY_NAME = "anomalyd:link-key"
MAX_TOKEN = 1_500
_VERSION = "v1"

CHOICES: tuple[tuple[str, str, str], ...] = (
    ("real", "Real", "primary"),
    ("false_alarm", "False alarm", ""),
    ("expected", "Expected", ""),
    ("snooze", "Snooze", ""),
)
"""Buttons of a message: id, text, style. The page behind a link has more."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a token stands for; ``expires_at`` in milliseconds."""

    incident: str
    episode: str
    receiver: str
    expires_at: int
    choice: str = ""


class Signer:
    """Makes and checks tokens with one key."""

    def __init__(self, key: bytes):
        assert len(key) >= 16, "a key of at least 16 bytes"
        self._key = key

    def token(self, ticket: Ticket) -> str:
        """A ticket as text that is safe in an address."""
        seconds = str(ticket.expires_at // SECOND_MS)
        parts = (ticket.incident, ticket.episode, ticket.receiver, seconds, ticket.choice)
        body = _text("\0".join(parts).encode())
        return f"{_VERSION}.{body}.{_text(self._mac('link', body))}"

    def ticket(self, token: str, now: int) -> Ticket | None:
        """The ticket of a token that is ours and has not expired; None for anything else."""
        version, _, rest = token[: MAX_TOKEN + 1].partition(".")
        body, _, mac = rest.partition(".")
        given = _bytes(mac)
        if version != _VERSION or len(token) > MAX_TOKEN or given is None:
            return None
        if not hmac.compare_digest(given, self._mac("link", body)):
            return None
        incident, episode, receiver, seconds, choice = (_bytes(body) or b"").decode().split("\0")
        ticket = Ticket(incident, episode, receiver, int(seconds) * SECOND_MS, choice)
        return ticket if now < ticket.expires_at else None

    def form_token(self, subject: str, nonce: str) -> str:
        """Proof that a form for a subject was shown to the browser that holds the nonce."""
        return _text(self._mac("form", f"{subject}\0{nonce}"))

    def is_form_token(self, given: str, subject: str, nonce: str) -> bool:
        return bool(nonce) and hmac.compare_digest(given.encode(), self.form_token(subject, nonce).encode())

    def _mac(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{purpose}\0{text}".encode("utf-8", "replace"), hashlib.sha256)


def stored_key(store: Store) -> bytes:
    """The key that links are signed with where the settings name none: made once, kept with the data."""
    known = store.model(KEY_NAME, "1")
    if known is None:
        store.save_model(KEY_NAME, "1", "{}", secrets.token_bytes(32))
        known = store.model(KEY_NAME, "1")
    assert known is not None, "it was just saved"
    return known.blob


def key_of(secret: str) -> bytes:
    """The key of a secret that the user chose."""
    return hashlib.sha256(secret.encode()).digest()


def link_actions(
    signer: Signer, external_url: str, lifetime_ms: int, buttons_call_back: bool
) -> Callable[[Statement, str], tuple[Action, ...]]:
    """What ``render`` asks for the actions of a statement.

    Args:
        external_url: of the daemon, without a slash at its end.
        buttons_call_back: whether a receiver with buttons of its own (Slack) can reach the daemon; otherwise all
            actions are links.
    """

    def actions(statement: Statement, receiver: str) -> tuple[Action, ...]:
        lead = statement.alerts[0] if statement.alerts else None
        if statement.reason == Reason.TEST or lead is None or lead.why == "source":
            return ()
        expires_at = statement.at + lifetime_ms
        ticket = Ticket(statement.incident, lead.episode, receiver, expires_at)
        url = f"{external_url}/f/{signer.token(ticket)}"
        made = []
        for choice, text, style in CHOICES:
            own = Ticket(statement.incident, lead.episode, receiver, expires_at, choice)
            value = signer.token(own) if buttons_call_back else ""
            made.append(Action(choice, text, value, f"{url}?choice={choice}", style))
        return tuple(made)

    return actions


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
