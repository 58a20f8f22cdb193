"""Email over SMTP: one message a statement, threaded by incident.

Port 587 with STARTTLS, which is required unless ``security: none`` is written; 465 with ``security: tls``, from the
start. Header values lose line breaks, so no label can add a header. 4xx replies are tried again, 5xx are final.
"""

from __future__ import annotations

import hashlib
import smtplib
import socket
import ssl
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from html import escape
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from anomalyd.conform import PositiveDuration
from anomalyd.errors import DeliveryError, redact_urls
from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason, Statement
from anomalyd.receivers.base import Pace, PeopleSettings, TlsSettings, failed, guarded, retry
from anomalyd.receivers.transport import tls_context
from anomalyd.render import Rendered, clean, tells_more
from anomalyd.secret import Secret, either

MAX_VERDICTS = 6


class EmailSettings(PeopleSettings):
    """Emails."""

    kind: ClassVar[str] = "email"

    type: Literal["email"] = "email"
    to: tuple[str, ...] = Field(min_length=1, max_length=50, description="addresses")
    sender: str = Field(description="address that the messages come from")
    host: str = Field(min_length=1, description="mail server")
    port: int = Field(default=587, ge=1, le=65_535)
    security: Literal["starttls", "tls", "none"] = Field(default="starttls", description="`tls` is for port 465")
    username: str = ""
    password: Secret | None = None
    password_file: str = ""
    timeout: PositiveDuration = Field(default=20_000, description="for each answer of the mail server")
    tls: TlsSettings = TlsSettings()

    @model_validator(mode="after")
    def _whole(self) -> EmailSettings:
        either(self.password, self.password_file, "password")
        for address in (*self.to, self.sender):
            _address(address)
        if bool(self.username) != bool(self.password or self.password_file):
            raise ValueError("username and password belong together")
        if self.username and self.security == "none":
            raise ValueError("a password is not sent over a connection without TLS")
        return self


def _address(text: str) -> Address:
    name, spec = parseaddr(text)
    user, at, domain = spec.rpartition("@")
    if not at or not user or not domain or any(c.isspace() for c in spec):
        raise ValueError(f"{text!r} is not an email address")
    return Address(clean(name, 100), user, domain)


class Email:
    """Sends through one mail server."""

    kind = EmailSettings.kind
    pace = Pace(every_ms=1_000, burst=10)
    wants_picture = True

    def __init__(self, settings: EmailSettings):
        self.name = settings.name
        self.send_resolved = settings.send_resolved
        self._settings = settings
        self._password = either(settings.password, settings.password_file, "password")
        self._context = tls_context(settings.tls)

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        return guarded(lambda: self._deliver(notification, rendered, now))

    def _deliver(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        letter = compose(notification, rendered, now, self._settings)
        try:
            refused = self._hand_over(letter)
        except smtplib.SMTPResponseException as error:
            return _judge(error.smtp_code, error.smtp_error, isinstance(error, smtplib.SMTPAuthenticationError))
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            return _judge(code, text, False)
        except smtplib.SMTPNotSupportedError as error:
            return failed("config", str(error))
        except ssl.SSLError as error:
            said = getattr(error, "verify_message", "") or error.reason or "failed"
            raise DeliveryError("tls", f"TLS with {self._settings.host}: {said}", retry_after_s=300.0) from None
        except TimeoutError:
            raise DeliveryError("timeout", f"{self._settings.host} does not answer") from None
        except smtplib.SMTPServerDisconnected as error:
            reason = "timeout" if isinstance(error.__context__, TimeoutError) else "cut"
            raise DeliveryError(reason, f"{self._settings.host}: {error}") from None
        except (OSError, socket.gaierror) as error:
            raise DeliveryError("connect", f"{self._settings.host}: {error.strerror or error}") from None
        note = f"refused for {len(refused)} of {len(self._settings.to)} addresses" if refused else ""
        return Outcome(OutcomeKind.DELIVERED, message=note)

    def _hand_over(self, letter: EmailMessage) -> dict[str, tuple[int, bytes]]:
        """Give the letter to the server; return the addresses that it refused while it took others."""
        s = self._settings
        timeout = s.timeout / 1000
        server = (
            smtplib.SMTP_SSL(s.host, s.port, timeout=timeout, context=self._context)
            if s.security == "tls"
            else smtplib.SMTP(s.host, s.port, timeout=timeout)
        )
        try:
            if s.security == "starttls":
                server.starttls(context=self._context)
            if self._password:
                server.login(s.username, self._password.get())
            return server.send_message(letter)
        finally:
            server.close()

    def close(self) -> None:
        """Nothing is kept open between messages."""


def compose(notification: Notification, rendered: Rendered, now: int, settings: EmailSettings) -> EmailMessage:
    """The letter: plain text and HTML; the subject alone says how bad, what and where."""
    s = notification.statement
    letter = EmailMessage()
    sender = _address(settings.sender)
    letter["Subject"] = clean(rendered.title, 140)
    letter["From"] = sender
    letter["To"] = [_address(to) for to in settings.to]
    letter["Date"] = format_datetime(datetime.fromtimestamp(now / 1000, UTC))
    letter["Message-ID"] = _message_id(f"{notification.id}", sender.domain)
    root = _message_id(f"incident {s.incident}", sender.domain)
    letter["In-Reply-To"] = root
    letter["References"] = root
    letter["Auto-Submitted"] = "auto-generated"
    letter["X-Anomalyd-Tier"] = s.tier.word
    if s.tier >= 3 and s.reason not in (Reason.RESOLVED, Reason.TEST):
        letter["Importance"] = "high"
    letter.set_content(rendered.text)
    picture = _message_id(f"chart {notification.id}", sender.domain)
    chart = rendered.chart if rendered.chart and rendered.chart.png else None
    letter.add_alternative(page(s, rendered, f"cid:{picture[1:-1]}" if chart else ""), subtype="html")
    if chart:
        html = letter.get_body(("html",))
        assert html is not None, "it was just added"
        html.add_related(chart.png, "image", "png", cid=picture, filename="chart.png", disposition="inline")
    return letter


def _message_id(text: str, domain: str) -> str:
    return f"<{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:32]}@{domain}>"


def page(s: Statement, rendered: Rendered, picture: str = "") -> str:
    """The HTML part; everything is escaped, nothing is loaded from elsewhere; ``picture`` is a part of the letter.

    The subject stands above it: the first line is what follows from it, and what a phone shows of the letter.
    """
    rows = "".join(
        f'<tr><td style="color:#666;padding-right:12px;white-space:nowrap">{escape(k)}</td><td>{escape(v)}</td></tr>'
        for k, v in rendered.fields
    )
    places = _buttons([(link.text, link.url) for link in rendered.links])
    actions = _buttons([(a.text, a.url) for a in rendered.actions if a.url])
    said = "".join(f"<p>{escape(v.word)}, says {escape(v.who)}</p>" for v in rendered.verdicts[-MAX_VERDICTS:])
    listed = "".join(f"<li>{escape(line)}</li>" for line in rendered.lines)
    more = f"<p>…and {rendered.more} more</p>" if rendered.more else ""
    parts = [
        '<div style="font-family:sans-serif;font-size:15px;line-height:1.4;max-width:640px">',
        f'<p style="font-size:18px"><b>{escape(rendered.brief)}</b></p>',
        f"<p>{escape(rendered.sentence)}</p>" if tells_more(s, rendered) else "",
        f"<p>{escape(rendered.description)}</p>" if rendered.description else "",
        f"<table>{rows}</table>" if rows and not s.resolved else "",
        _image(picture, rendered) if picture else "",
        f"<ul>{listed}</ul>{more}" if listed else "",
        said,
        places,
        f'<p style="color:#666;margin-bottom:0">Was this right?</p>{actions}' if actions else "",
        "</div>",
    ]
    return "".join(parts)


def _buttons(links: list[tuple[str, str]]) -> str:
    """Links large enough for a thumb."""
    style = (
        "display:inline-block;padding:7px 14px;margin:0 6px 6px 0;border:1px solid #999;border-radius:6px;"
        "text-decoration:none"
    )
    made = "".join(f'<a style="{style}" href="{escape(url)}">{escape(text)}</a>' for text, url in links)
    return f"<p>{made}</p>" if made else ""


def _image(picture: str, rendered: Rendered) -> str:
    alt = rendered.chart.alt if rendered.chart else ""
    return f'<p><img src="{escape(picture)}" alt="{escape(alt)}" style="width:100%;max-width:720px"></p>'


def _judge(code: int, answer: bytes | str, auth: bool) -> Outcome:
    said = redact_urls(answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer)
    message = f"the mail server answered {code}: {clean(said, 300)}"
    if 400 <= code < 500:
        return retry("rate_limited" if code in (421, 450, 451, 452) and "rate" in said.lower() else "server", message)
    return failed("auth" if auth or code in (530, 535) else "client", message)


def build(settings: EmailSettings) -> Email:
    return Email(settings)
