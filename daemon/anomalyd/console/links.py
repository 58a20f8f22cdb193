"""Signed links: what a button or a link in a message carries, and how it is known again.

A token names an incident, one of its episodes, the receiver it was sent to, and until when it works; an HMAC-SHA256
over all of it makes it unguessable. Whoever has it may look at that incident and vote on it, no more. It never acts by
itself: the address shows a page, and only the page's form acts. The address of a chart is signed apart: Slack and
others fetch it and keep it, so it shows the picture and gives no right to vote.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from anomalyd.clock import HOUR_MS, SECOND_MS
from anomalyd.console.snooze import SNOOZES
from anomalyd.delivery.budget import DIGEST_RULE
from anomalyd.delivery.picture import alt_of
from anomalyd.incident import UNJUDGED, Reason, Statement
from anomalyd.render import Action, Actions, Chart, Charts, Link, Places
from anomalyd.store import Store

KEY_NAME = "anomalyd:link-key"
MAX_TOKEN = 1_500
CHART_STEP_MS = HOUR_MS
"""Charts' addresses end at full hours: the same chart has the same address for every receiver."""
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


@dataclass(frozen=True, slots=True)
class ChartTicket:
    """The chart of an episode as it stood ``at`` a time; shown until ``expires_at``. Milliseconds."""

    episode: str
    at: int
    expires_at: int


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
        parts = self._open("link", token)
        if parts is None:
            return None
        incident, episode, receiver, seconds, choice = parts
        ticket = Ticket(incident, episode, receiver, int(seconds) * SECOND_MS, choice)
        return ticket if now < ticket.expires_at else None

    def chart_token(self, ticket: ChartTicket) -> str:
        """A ticket for a chart as text that is safe in an address."""
        body = _text(f"{ticket.episode}\0{ticket.at}\0{ticket.expires_at // SECOND_MS}".encode())
        return f"{_VERSION}.{body}.{_text(self._mac('chart', body))}"

    def chart_ticket(self, token: str) -> ChartTicket | None:
        """The ticket of a chart's token that is ours, also when it has expired; None for anything else."""
        parts = self._open("chart", token)
        if parts is None:
            return None
        episode, at, seconds = parts
        return ChartTicket(episode, int(at), int(seconds) * SECOND_MS)

    def _open(self, purpose: str, token: str) -> list[str] | None:
        """What a token of ours says; None when it is not ours, or was made for another purpose."""
        version, _, rest = token[: MAX_TOKEN + 1].partition(".")
        body, _, mac = rest.partition(".")
        given = _bytes(mac)
        if version != _VERSION or len(token) > MAX_TOKEN or given is None:
            return None
        if not hmac.compare_digest(given, self._mac(purpose, body)):
            return None
        return (_bytes(body) or b"").decode().split("\0")

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


def link_actions(signer: Signer, external_url: str, lifetime_ms: int, buttons_call_back: bool) -> Actions:
    """What ``render`` asks for the actions of a statement.

    Whoever hears of the end can still say whether it was right; there is nothing to snooze any more.

    Args:
        external_url: of the daemon, without a slash at its end.
        buttons_call_back: whether a receiver with buttons of its own (Slack) can reach the daemon; otherwise all
            actions are links.
    """

    def actions(statement: Statement, receiver: str) -> tuple[Action, ...]:
        ticket = _ticket(statement, receiver, lifetime_ms)
        if ticket is None:
            return ()
        url = f"{external_url}/f/{signer.token(ticket)}"
        made = []
        for choice, text, style in CHOICES:
            if choice == "snooze" and statement.resolved:
                continue
            own = Ticket(ticket.incident, ticket.episode, receiver, ticket.expires_at, choice)
            value = signer.token(own) if buttons_call_back else ""
            options = tuple((one.id, one.text) for one in SNOOZES) if choice == "snooze" else ()
            made.append(Action(choice, text, value, f"{url}?choice={choice}", style, options))
        return tuple(made)

    return actions


def link_places(
    signer: Signer, external_url: str, lifetime_ms: int,
    elsewhere: Callable[[int, int], tuple[Link, ...]] = lambda since, until: (),
) -> Places:  # fmt: skip
    """What ``render`` asks for the daemon's own page about a statement, and for pages elsewhere around its time.

    Args:
        external_url: empty where readers cannot reach the daemon; then it has no page for them.
    """

    def places(statement: Statement, receiver: str) -> tuple[Link, ...]:
        ticket = _ticket(statement, receiver, lifetime_ms)
        if ticket is None:
            return ()
        own = (Link("Details", f"{external_url}/f/{signer.token(ticket)}"),) if external_url else ()
        return (*own, *elsewhere(statement.alerts[0].started_at, statement.at))

    return places


def link_charts(signer: Signer, external_url: str, lifetime_ms: int) -> Charts:
    """What ``render`` asks for the addresses of a statement's charts: nothing is drawn until somebody looks."""

    def charts(statement: Statement) -> Chart | None:
        lead = statement.alerts[0] if statement.alerts else None
        if lead is None or not _is_about_one(statement):
            return None
        expires_at = -(-(statement.at + lifetime_ms) // CHART_STEP_MS) * CHART_STEP_MS
        tickets = {a.episode: ChartTicket(a.episode, statement.at, expires_at) for a in statement.alerts}
        urls = {name: f"{external_url}/c/{signer.chart_token(ticket)}.png" for name, ticket in tickets.items()}
        return Chart(url=urls[lead.episode], alt=alt_of(statement.name, lead.labels), urls=urls)

    return charts


def _ticket(statement: Statement, receiver: str, lifetime_ms: int) -> Ticket | None:
    """What the links of a statement stand for; None where there is nothing to look at."""
    lead = statement.alerts[0] if statement.alerts else None
    if lead is None or not _is_about_one(statement):
        return None
    return Ticket(statement.incident, lead.episode, receiver, statement.at + lifetime_ms)


def _is_about_one(statement: Statement) -> bool:
    """Whether it tells of an incident of a rule: a test does not, nor a digest, nor a source or receiver in trouble."""
    lead = statement.alerts[0]
    return statement.reason != Reason.TEST and lead.why not in UNJUDGED and statement.rule != DIGEST_RULE


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
