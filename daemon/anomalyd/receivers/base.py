"""What a receiver is, what its settings share, and how answers become outcomes.

A receiver turns one statement into one delivery and says how it went; it neither retries nor waits nor keeps a queue,
which is the deliver loop's business. Invariant: no credential (token, key, secret address) is ever part of an outcome's
message.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from anomalyd.clock import HOUR_MS, MINUTE_MS
from anomalyd.conform import Duration, PositiveDuration
from anomalyd.errors import ConfigError, DeliveryError, redact_urls
from anomalyd.incident import Notification, Outcome, OutcomeKind
from anomalyd.render import Rendered, cut

MAX_RETRY_AFTER_S = 300.0
"""What a receiver may ask us to wait at most; an absurd wish is not obeyed for longer."""
MAX_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a receiver may be sent to: ``burst`` at once, then one every ``every_ms``; 0 is unlimited."""

    every_ms: int = 0
    burst: int = 1


class Receiver(Protocol):
    """One way to tell people.

    Attributes:
        name: as in the settings; unique.
        kind: the settings' ``type``.
        pace: the documented rate limit.
        send_resolved: whether a RESOLVED is sent at all.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def pace(self) -> Pace: ...
    @property
    def send_resolved(self) -> bool: ...

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        """Try once to deliver; ``now`` is wall time for signatures and dates. Never raises for what a peer does."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class ShowsPictures(Protocol):
    """A receiver whose messages can hold a picture itself, not only its address; drawn only where it is wanted."""

    @property
    def wants_picture(self) -> bool: ...


@runtime_checkable
class ShowsVerdicts(Protocol):
    """A receiver that keeps one message an incident, into which it writes what people say of it later."""

    @property
    def shows_verdicts(self) -> bool: ...


class ReceiverSettings(BaseModel):
    """What the settings of all receivers share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="what rules call this receiver")
    type: str
    send_resolved: bool = Field(default=True, description="whether the end of an incident is sent too")
    min_tier: Literal["warning", "critical", "emergency"] = Field(
        default="warning", description="nothing below this tier is sent"
    )
    repeat_interval: Duration = Field(
        default=0, description="an incident that stays open is told again; 0: it is not"
    )
    budget_per_hour: int = Field(
        default=0, ge=0, description="messages an hour; beyond it a digest, emergencies always pass; 0: no limit"
    )
    flaps_per_hour: int = Field(
        default=0, ge=0, description="openings an hour of one incident; then it is flapping, said once; 0: no limit"
    )
    fallback: str = Field(default="", description="receiver that is told instead of what this one refuses for good")

    kind: ClassVar[str] = ""


class PeopleSettings(ReceiverSettings):
    """Receivers that people read: they are reminded, and spared a flood."""

    repeat_interval: Duration = Field(
        default=4 * HOUR_MS, description="an incident that stays open is told again; 0: not"
    )
    budget_per_hour: int = Field(
        default=120, ge=0, description="messages an hour; beyond it a digest, emergencies always pass; 0: no limit"
    )
    flaps_per_hour: int = Field(
        default=6, ge=0, description="openings an hour of one incident; then it is flapping, said once; 0: no limit"
    )


class TlsSettings(BaseModel):
    """How to check the peer's certificate and show ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca_file: str = Field(default="", description="PEM file of the authorities to trust instead of the system's")
    cert_file: str = Field(default="", description="PEM file of our certificate")
    key_file: str = Field(default="", description="PEM file of its key")
    insecure_skip_verify: bool = Field(default=False, description="accept any certificate (for tests only)")


class HttpSettings(ReceiverSettings):
    """What the settings of all receivers that speak HTTP share."""

    timeout: PositiveDuration = Field(
        default=10_000, description="deadline of one attempt, from connecting to the last byte"
    )
    tls: TlsSettings = TlsSettings()
    proxy_url: str = Field(default="", pattern=r"^(https?://\S+)?$", description="HTTP proxy, e.g. http://proxy:3128")


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: status, headers with lower-case names, and at most so many bytes of body as were allowed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def text(self, limit: int = 200) -> str:
        """The start of the body for a message to people, on one line, addresses redacted."""
        return redact_urls(cut(" ".join(self.body[: limit * 4].decode("utf-8", "replace").split()), limit))

    def json(self) -> Any:
        """The body as JSON, None for anything else (deep nesting and NaN included)."""
        try:
            return json.loads(self.body, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None


def _refuse(word: str) -> float:
    raise ValueError(word)


_RETRY = frozenset((408, 425, 429))


def classify(reply: Reply, now: int) -> Outcome:
    """The outcome of an answer by its status alone, for receivers without words of their own."""
    if reply.ok:
        return Outcome(OutcomeKind.DELIVERED)
    said = cut(f"answered {reply.status}: {reply.text()}", MAX_MESSAGE)
    if reply.status >= 500 or reply.status in _RETRY:
        reason = "rate_limited" if reply.status == 429 else "server"
        return Outcome(OutcomeKind.RETRY, reason, said, retry_after_s(reply, now))
    if reply.status in (401, 403, 407):
        return failed("auth", said)
    if reply.status in (404, 410):
        return failed("not_found", said)
    if 300 <= reply.status < 400:
        return failed("config", f"answered {reply.status}: redirects are not followed; set the final address")
    return failed("client", said)


def failed(reason: str, message: str) -> Outcome:
    """A permanent failure."""
    return Outcome(OutcomeKind.FAILED, reason, cut(message, MAX_MESSAGE))


def retry(reason: str, message: str, after_s: float | None = None) -> Outcome:
    """A failure that may pass."""
    return Outcome(OutcomeKind.RETRY, reason, cut(message, MAX_MESSAGE), after_s)


def retry_after_s(reply: Reply, now: int) -> float | None:
    """What ``Retry-After`` asks for (seconds or an HTTP date), clamped to 1 s..5 min; None when it is unreadable."""
    value = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", value, re.ASCII):
        return min(max(float(value), 1.0), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(value)
        seconds = at.timestamp() - now / 1000 if at.tzinfo else math.nan
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return None if math.isnan(seconds) else min(max(seconds, 1.0), MAX_RETRY_AFTER_S)


def guarded(send: Callable[[], Outcome]) -> Outcome:
    """Run one attempt; what the network or an unreadable secret does becomes an outcome."""
    try:
        return send()
    except DeliveryError as error:
        return retry(error.reason, redact_urls(str(error)), error.retry_after_s)
    except ConfigError as error:
        # A secret's file may be back in a moment (rotation), so the notification is kept and tried again slowly.
        return retry("config", str(error), MINUTE_MS / 1000)


def to_json(value: Any) -> bytes:
    """Serialise for a peer: numbers that are not finite become null, lone surrogates U+FFFD. Never bare NaN."""
    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def plain(value: Any) -> Any:
    """The value with only what JSON and every peer can take."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else str(value)
    if isinstance(value, Mapping):
        return {plain(str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
