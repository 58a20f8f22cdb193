"""What the pages and the API need of the daemon, as one value, and what they share."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from pydantic import BaseModel

from anomalyd.ballot import Ballot
from anomalyd.clock import Clock
from anomalyd.console.auth import Guard
from anomalyd.console.links import Signer
from anomalyd.delivery.picture import Pictures
from anomalyd.errors import AnomalydError, redact_urls
from anomalyd.evaluation.rulerun import Attendance, RuleRun
from anomalyd.records import Matcher, Silence
from anomalyd.rule import Rule
from anomalyd.secret import PLACEHOLDER, Secret
from anomalyd.settings import Settings
from anomalyd.store import Store

MAX_BODY = 1024 * 1024
MAX_FORM_FIELDS = 50
MAX_SILENCE_MS = 366 * 86_400_000
TIME_MAX_MS = 253_402_300_799_000


@dataclass(frozen=True, slots=True)
class Parts:
    """What is asked of the daemon.

    Attributes:
        rules: the rules that are running, by id.
        settings: those that are running.
        post: sends a JSON body to an https address (Slack's ``response_url``); raises ``AnomalydError``.
        attendance: what became of a rule's series in its newest slot; None where that is not known here.
        run: a rule with what it has learned; None where it is not running here.
        pictures: draws charts; None where that cannot be done (the extra ``images`` is not installed).
    """

    store: Store
    ballot: Ballot
    guard: Guard
    signer: Signer
    clock: Clock
    rules: Callable[[], Mapping[str, Rule]]
    settings: Callable[[], Settings]
    post: Callable[[str, bytes], None]
    pictures: Pictures | None = None
    attendance: Callable[[str], Attendance | None] = lambda rule_id: None
    run: Callable[[str], RuleRun | None] = lambda rule_id: None


class BadRequest(AnomalydError):
    """A request that cannot be understood."""

    reason = "bad_data"


class TooLarge(AnomalydError):
    """A body beyond ``MAX_BODY``."""

    reason = "too_large"


async def body_of(request: Request, limit: int = MAX_BODY) -> bytes:
    """The raw body; raise ``TooLarge`` as soon as there is too much of it."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def form_of(body: bytes) -> dict[str, str]:
    """An urlencoded form; of a repeated field the last. Raise ``BadRequest`` for what is none."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="replace", max_num_fields=MAX_FORM_FIELDS
        )
    except (ValueError, UnicodeDecodeError):
        raise BadRequest("the body is not a form") from None
    return dict(pairs)


def time_of(text: str) -> int:
    """Milliseconds of RFC 3339 or of Unix seconds; raise ``ValueError``."""
    try:
        ms = float(text) * 1000
    except ValueError:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if at.tzinfo is None:
            raise ValueError("a time needs a zone, such as Z") from None
        ms = at.timestamp() * 1000
    if not 0 <= ms <= TIME_MAX_MS:  # NaN fails this too
        raise ValueError("a time from 1970 to 9999")
    return int(ms)


class Json(Response):
    """JSON in ASCII: whatever a label holds can be written, and NaN becomes null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(plain(content), allow_nan=False, separators=(",", ":")).encode("ascii")


def plain(value: Any) -> Any:
    """Values as JSON has them: dataclasses and models as mappings, secrets as a placeholder."""
    if isinstance(value, Secret):
        return PLACEHOLDER
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def shown_settings(settings: Settings) -> Any:
    """The running settings for people: secrets, headers and whatever hides in an address are left out."""

    def hide(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            if key == "headers":
                return dict.fromkeys(value, PLACEHOLDER)
            return {name: hide(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [hide(item, key) for item in value]
        return _without_user(value) if isinstance(value, str) and "://" in value else value

    return hide(plain(settings))


def _without_user(url: str) -> str:
    """An address without user, password and query; its path only where it carries no credential."""
    scheme, _, rest = url.partition("://")
    return url if scheme in ("http", "https") and "@" not in rest and "?" not in rest else redact_urls(url)


def check_silence(silence: Silence, now: int) -> None:
    """Raise ``BadRequest`` for a silence that says nothing or too much."""
    if silence.ends_at <= max(now, silence.starts_at):
        raise BadRequest("a silence must end after now and after it starts")
    if silence.ends_at - silence.starts_at > MAX_SILENCE_MS:
        raise BadRequest("a silence is at most a year long")
    if all(_holds_for_nothing(matcher) for matcher in silence.matchers):
        raise BadRequest("a silence needs a matcher that an alert without the label does not meet")


def _holds_for_nothing(matcher: Matcher) -> bool:
    """Whether an absent label meets it, so that alone it would keep everything quiet."""
    return matcher.value == "" if matcher.op == "=" else matcher.op in ("!=", "!~") and matcher.value != ""


Handler = Callable[[Request], Awaitable[Response]]
