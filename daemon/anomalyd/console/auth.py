"""Who may read and who may act: bearer tokens, the local user of a loopback server, and nobody else.

Rules, in this order: a token that is presented must be right; with tokens configured there is no way around one but
``anonymous_read``; without tokens the server listens on loopback only and takes whoever reaches it for the local user,
as long as the request names a local host (DNS rebinding) and, to act, does not come from another site's page.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request

from anomalyd.errors import AnomalydError, ConfigError, Problem
from anomalyd.settings import Web


class Denied(AnomalydError):
    """A request that is not answered: ``status`` is 401 or 403, ``reason`` unauthorized or forbidden."""

    def __init__(self, status: int, message: str):
        self.status = status
        self.reason = "unauthorized" if status == 401 else "forbidden"
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class User:
    """Who asks; ``name`` is what votes and silences are recorded under."""

    name: str
    may_act: bool


ANYBODY = User("anonymous", may_act=False)
LOCAL = User("local", may_act=True)


def is_loopback(host: str) -> bool:
    """Whether an address or host name is this machine's own."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def check_listen(web: Web, settings_file: str) -> None:
    """Refuse an address that others can reach while nothing tells who they are; raise ``ConfigError``."""
    if is_loopback(web.host) or web.tokens or web.anonymous_read:
        return
    what = f"web.listen: {web.host} can be reached by others, and there is no token that they would need"
    hint = "add web.tokens, or listen on 127.0.0.1 behind a proxy that knows its users, or allow web.anonymous_read"
    raise ConfigError([Problem(settings_file, 0, 0, what, hint)])


class Guard:
    """Tells users from strangers by a request's headers."""

    def __init__(self, web: Web):
        self._web = web
        self._own_host = (urlsplit(web.external_url).hostname or "") if web.external_url else ""

    def reader(self, request: Request) -> User:
        """The user who asks to look; raise ``Denied``."""
        presented = request.headers.get("authorization", "")
        if presented:
            return self._of_token(presented)
        if self._web.anonymous_read:
            return LOCAL if not self._web.tokens and self._is_local(request) else ANYBODY
        if self._web.tokens:
            raise Denied(401, "a bearer token is needed: Authorization: Bearer ...")
        if not self._is_local(request):
            raise Denied(403, "this host name is not one of the daemon's; use 127.0.0.1 or web.external_url")
        return LOCAL

    def actor(self, request: Request) -> User:
        """The user who asks to change something; raise ``Denied``."""
        user = self.reader(request)
        if not user.may_act:
            said = "a token that may act is needed" if user is ANYBODY else "this token is read-only"
            raise Denied(401 if user is ANYBODY else 403, said)
        if user is LOCAL:
            self.same_site(request)
        return user

    def same_site(self, request: Request) -> None:
        """Refuse a request that another site's page sends in the user's name; raise ``Denied``."""
        site = request.headers.get("sec-fetch-site", "")
        origin = request.headers.get("origin", "")
        if site not in ("", "same-origin", "none"):
            raise Denied(403, "requests from other sites are not taken")
        if origin:
            host = urlsplit(origin).hostname if origin != "null" else None
            if host is None or host not in (_host(request), self._own_host):
                raise Denied(403, "requests from other sites are not taken")

    def _of_token(self, presented: str) -> User:
        scheme, _, token = presented.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "replace")).digest()
        found: User | None = None
        for name, known in self._web.tokens.items():  # all of them, so that the time tells nothing
            own = hashlib.sha256(known.secret.get().encode()).digest()
            if hmac.compare_digest(given, own):
                found = User(name, not known.read_only)
        if scheme.lower() != "bearer" or found is None:
            raise Denied(401, "this token is not known")
        return found

    def _is_local(self, request: Request) -> bool:
        host = _host(request)
        return is_loopback(self._web.host) and (is_loopback(host) or (bool(self._own_host) and host == self._own_host))


def _host(request: Request) -> str:
    """The host name that the request asks for."""
    return urlsplit("//" + request.headers.get("host", "")).hostname or ""


