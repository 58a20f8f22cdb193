"""``SourceSpec``: where metrics are read from and how, checked and ready to use.

Pure values, cheap to import: the settings loader makes them, ``source.PrometheusSource`` uses them. Invariant: a spec
that exists is usable; whatever contradicts itself was refused with ``ValueError`` when it was made. Secrets are
``Secret`` objects, so printing a spec shows none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from anomalyd.secret import Secret

Kind: TypeAlias = Literal["prometheus", "thanos", "mimir", "victoriametrics"]
Method: TypeAlias = Literal["POST", "GET"]

MIB = 1024 * 1024

_RESERVED_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "accept-encoding"})
_OAUTH2_PARAMS = frozenset({"grant_type", "client_id", "client_secret", "scope"})
_RESERVED_PARAMS = frozenset({"query", "time", "start", "end", "step", "limit", "timeout"})


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """HTTP basic authentication; each half may come from a file."""

    username: str | Secret
    password: Secret


@dataclass(frozen=True, slots=True)
class OAuth2:
    """OAuth 2.0 client credentials: who asks for a token, where, and for what.

    Attributes:
        token_url: where tokens are made; no credentials in it.
        scopes: sent as one ``scope``.
        endpoint_params: sent along with the request for a token, such as ``audience``; may be secrets.
    """

    client_id: str
    client_secret: Secret
    token_url: str
    scopes: tuple[str, ...] = ()
    endpoint_params: Mapping[str, str | Secret] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            _check_url(self.token_url, query_allowed=True)
        except ValueError as error:
            raise ValueError(f"oauth2: token_url: {error}") from None
        if not self.client_id:
            raise ValueError("oauth2: needs a client_id")
        reserved = sorted(_OAUTH2_PARAMS & set(self.endpoint_params))
        if reserved:
            raise ValueError(f"oauth2: endpoint_params may not set {', '.join(reserved)}: they have keys of their own")

    @property
    def place(self) -> str:
        """Scheme, host and port: all that messages show of the URL."""
        parts = urlsplit(self.token_url)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source of metrics.

    Attributes:
        name: how rules and messages name it.
        url: base URL; ``/api/v1/...`` is appended, a path prefix is kept. No credentials, query or fragment in it.
        kind: which server's extra parameters and signals of partial data apply.
        timeout_s: total time for one request and its retries, from connecting to the last byte.
        max_response_bytes: cap on the decoded body of one answer.
        max_concurrency: requests in flight at once; more callers wait inside their own deadline.
        headers: sent with each request; may be secrets.
        tenant: sent as ``X-Scope-OrgID``.
        basic_auth, bearer, oauth2: exclude each other. Files behind secrets are read anew for each request.
        ca_file, cert_file, key_file: PEM paths; a client certificate needs both of its files.
        server_name: name expected in the server's certificate when it differs from the URL's host.
        insecure_skip_verify: accept any certificate.
        proxy_url: HTTP proxy; the environment's proxy variables and ``.netrc`` are never used.
        method: POST falls back to GET, for good, when the server answers 405.
        deny_partial: ask Thanos and VictoriaMetrics to fail rather than to answer with a part of the data.
        extra_params: added to every query, such as ``max_source_resolution`` or ``extra_label``.
    """

    name: str
    url: str
    kind: Kind = "prometheus"
    timeout_s: float = 30.0
    max_response_bytes: int = 256 * MIB
    max_concurrency: int = 4
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    tenant: str = ""
    basic_auth: BasicAuth | None = None
    bearer: Secret | None = None
    oauth2: OAuth2 | None = None
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    insecure_skip_verify: bool = False
    proxy_url: str = ""
    method: Method = "POST"
    deny_partial: bool = True
    extra_params: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_url(self.url)
        if sum(one is not None for one in (self.basic_auth, self.bearer, self.oauth2)) > 1:
            raise ValueError("basic_auth, bearer (authorization) and oauth2 exclude each other: keep one")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("a client certificate needs both cert_file and key_file")
        if self.timeout_s <= 0 or self.max_response_bytes <= 0 or self.max_concurrency <= 0:
            raise ValueError("timeout, max_response_bytes and max_concurrency must be above zero")
        self._check_headers()
        reserved = sorted(_RESERVED_PARAMS & set(self.extra_params))
        if reserved:
            raise ValueError(f"extra_params may not set {', '.join(reserved)}: each query sets it itself")

    def _check_headers(self) -> None:
        names = {name.lower() for name in self.headers}
        reserved = sorted(_RESERVED_HEADERS & names)
        if reserved:
            raise ValueError(f"headers may not set {', '.join(reserved)}")
        if "authorization" in names and (self.basic_auth or self.bearer or self.oauth2):
            raise ValueError("an Authorization header and basic_auth, bearer or oauth2 exclude each other: keep one")
        if "x-scope-orgid" in names and self.tenant:
            raise ValueError("an X-Scope-OrgID header and tenant exclude each other: keep tenant")

    @property
    def base(self) -> str:
        """The URL without trailing slashes, ready for ``/api/v1/...``."""
        return self.url.rstrip("/")

    @property
    def place(self) -> str:
        """Scheme, host and port: all that messages show of the URL."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def _check_url(url: str, query_allowed: bool = False) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed lazily: a bad port raises here
    except ValueError as error:
        raise ValueError(f"the url is malformed: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the url must be http://host[:port][/prefix] or https://...")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the url may not carry credentials: use basic_auth with password_file")
    if (parts.query and not query_allowed) or parts.fragment:
        raise ValueError("the url may not have a query or fragment: use extra_params")
    if any(character <= " " for character in url):
        raise ValueError("the url contains white space")
