"""OAuth 2.0 client credentials (RFC 6749, section 4.4): a token for a source, fetched when needed, kept until it ends.

Invariant: one fetch at a time and only within the deadline of the request that waits for it; neither the client's
secret nor a token ever stands in a message.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from anomalyd.clock import Clock
from anomalyd.errors import ConfigError, SourceUnavailable
from anomalyd.prometheus.deadline import Deadline
from anomalyd.prometheus.refusal import Answer, clean
from anomalyd.prometheus.spec import OAuth2
from anomalyd.secret import Secret

EARLY_S = 10.0
"""A token is renewed this long before its end, so that it does not end on the way; half its life if that is less."""
MOST_BYTES = 64 * 1024

Post = Callable[[str, Mapping[str, str], Mapping[str, str], Deadline, tuple[str, ...]], Answer]
"""Sends a form to a URL with headers; the last argument is what must not be repeated in a message."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    until_s: float | None


class Tokens:
    """The token of one source; safe to use from several threads.

    Args:
        where: names the source in messages.
    """

    def __init__(self, auth: OAuth2, post: Post, clock: Clock, where: str):
        self._auth, self._post, self._clock = auth, post, clock
        self._where = f"{where}: token_url ({auth.place})"
        self._turn = threading.Lock()
        self._token: _Token | None = None
        self._in_body = False

    @property
    def held(self) -> str:
        """The token that is held now; empty where there is none."""
        token = self._token
        return token.text if token else ""

    def get(self, deadline: Deadline) -> str:
        """A token that is still good; raise ``SourceUnavailable`` where there is none to be had in time."""
        if not self._turn.acquire(timeout=max(deadline.left(), 0.0)):
            raise SourceUnavailable("timeout", f"{self._where}: no token within {deadline.seconds:g} s")
        try:
            token = self._token
            if token is None or (token.until_s is not None and self._clock.monotonic_s() >= token.until_s):
                token = self._token = self._fetch(deadline)
            return token.text
        finally:
            self._turn.release()

    def forget(self, token: str) -> bool:
        """Drop a token that the source refused; false if it is not the one that is held."""
        with self._turn:
            if self._token is None or self._token.text != token:
                return False
            self._token = None
            return True

    def _fetch(self, deadline: Deadline) -> _Token:
        try:
            secret = self._auth.client_secret.get()
            extra = {k: v.get() if isinstance(v, Secret) else v for k, v in self._auth.endpoint_params.items()}
        except ConfigError as error:
            raise SourceUnavailable("auth", f"{self._where}: {error}") from None
        begun = self._clock.monotonic_s()
        answer = self._ask(secret, extra, deadline)
        if answer.status in (400, 401) and not self._in_body:
            # Servers differ in where they look for the client; what worked once is kept.
            self._in_body = True
            answer = self._ask(secret, extra, deadline)
            self._in_body = answer.status == 200
        if answer.status != 200:
            raise self._refused(answer)
        return self._read(answer, begun)

    def _ask(self, secret: str, extra: Mapping[str, str], deadline: Deadline) -> Answer:
        auth = self._auth
        form = {"grant_type": "client_credentials", **extra}
        if auth.scopes:
            form["scope"] = " ".join(auth.scopes)
        headers = {"Accept": "application/json"}
        pair = base64.b64encode(f"{quote(auth.client_id, safe='')}:{quote(secret, safe='')}".encode()).decode("ascii")
        if self._in_body:
            form |= {"client_id": auth.client_id, "client_secret": secret}
        else:
            headers["Authorization"] = f"Basic {pair}"
        hidden = (secret, pair, *(v.get() for v in auth.endpoint_params.values() if isinstance(v, Secret)))
        return self._post(auth.token_url, headers, form, deadline, hidden)

    def _refused(self, answer: Answer) -> SourceUnavailable:
        reason = "rate_limited" if answer.status == 429 else "server" if answer.status >= 500 else "auth"
        told = _fields(answer)
        words = " ".join(str(told[key]) for key in ("error", "error_description") if isinstance(told.get(key), str))
        cause = clean(words, answer.secrets) or "look at client_id, client_secret, scopes and the URL"
        return SourceUnavailable(reason, f"{self._where}: HTTP {answer.status}: {cause}")

    def _read(self, answer: Answer, begun_s: float) -> _Token:
        fields = _fields(answer)
        text, kind, life = fields.get("access_token"), fields.get("token_type", "Bearer"), fields.get("expires_in")
        if not isinstance(text, str) or not text or not (text.isascii() and text.isprintable()):
            raise SourceUnavailable("protocol", f"{self._where}: the answer holds no access_token")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise SourceUnavailable("protocol", f"{self._where}: the token is not a bearer token")
        try:
            seconds = None if life is None else float(str(life))
        except ValueError:
            seconds = None
        if seconds is None or not 0 < seconds < float("inf"):
            return _Token(text, None)
        return _Token(text, begun_s + seconds - min(EARLY_S, seconds / 2))


def _fields(answer: Answer) -> Mapping[str, object]:
    """What a token server answered; empty where it is no JSON object of a sensible size."""
    if answer.size > MOST_BYTES:
        return {}
    try:
        found = json.loads(answer.text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
