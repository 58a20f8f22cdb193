"""The part of ``anomalyd.yml`` that says how servers are reached, to read metrics from and to write scores to."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from anomalyd.conform import Duration, Flag, PositiveDuration, Section, Whole
from anomalyd.prometheus.spec import MIB, BasicAuth, Kind, Method, OAuth2, SourceSpec
from anomalyd.prometheus.target import QueuePolicy, WriteTarget, without_query
from anomalyd.rulefiles.model import LabelName
from anomalyd.scoreseries import KINDS
from anomalyd.secret import Secret, either

_QUEUE = QueuePolicy()
_SPEC = SourceSpec("default", "http://localhost:9090")

What: TypeAlias = Literal["score", "value", "band", "threshold", "episode"]
_ALL: tuple[What, ...] = ("score", "value", "band", "threshold", "episode")


class BasicAuthModel(Section):
    """HTTP basic authentication."""

    username: str = ""
    username_file: str = ""
    password: Secret | None = None
    password_file: str = ""

    @model_validator(mode="after")
    def _whole(self) -> BasicAuthModel:
        if bool(self.username) == bool(self.username_file):
            raise ValueError("needs username or username_file")
        if either(self.password, self.password_file, "password") is None:
            raise ValueError("needs password or password_file")
        return self

    def auth(self) -> BasicAuth:
        name: str | Secret = Secret(file=self.username_file) if self.username_file else self.username
        return BasicAuth(name, either(self.password, self.password_file, "password") or Secret())


class AuthorizationModel(Section):
    """A token in the Authorization header."""

    type: Literal["Bearer"] = "Bearer"
    credentials: Secret | None = None
    credentials_file: str = ""

    @model_validator(mode="after")
    def _whole(self) -> AuthorizationModel:
        if self.token() is None:
            raise ValueError("needs credentials or credentials_file")
        return self

    def token(self) -> Secret | None:
        return either(self.credentials, self.credentials_file, "credentials")


class HeaderModel(Section):
    """A header whose value is a secret."""

    secret: Secret | None = None
    secret_file: str = ""

    @model_validator(mode="after")
    def _whole(self) -> HeaderModel:
        if self.value() is None:
            raise ValueError("needs secret or secret_file")
        return self

    def value(self) -> Secret | None:
        return either(self.secret, self.secret_file, "secret")


class OAuth2Model(Section):
    """A token by OAuth 2.0 client credentials; over the source's tls_config (without cert_file) and proxy_url."""

    client_id: str
    client_secret: Secret | None = None
    client_secret_file: str = ""
    token_url: str = Field(description="Where tokens are made.")
    scopes: tuple[str, ...] = Field((), description="What to ask for.")
    endpoint_params: dict[str, str | HeaderModel] = Field({}, description="Sent along, such as audience.")

    @model_validator(mode="after")
    def _whole(self) -> OAuth2Model:
        if either(self.client_secret, self.client_secret_file, "client_secret") is None:
            raise ValueError("needs client_secret or client_secret_file")
        return self

    def auth(self) -> OAuth2:
        secret = either(self.client_secret, self.client_secret_file, "client_secret") or Secret()
        extra = {k: v if isinstance(v, str) else v.value() or Secret() for k, v in self.endpoint_params.items()}
        return OAuth2(self.client_id, secret, self.token_url, self.scopes, extra)


class TlsModel(Section):
    """How to check the server's certificate and show ours."""

    ca_file: str = Field("", description="PEM file of the authorities to trust instead of the system's.")
    cert_file: str = Field("", description="PEM file of our certificate.")
    key_file: str = Field("", description="PEM file of its key.")
    server_name: str = Field("", description="Name in the certificate when it is not the URL's host.")
    insecure_skip_verify: Flag = Field(False, description="Accept any certificate.")


class ConnectionModel(Section):
    """How a server is reached, and how we prove who we are."""

    headers: dict[str, str | HeaderModel] = Field({}, description="Sent with each request.")
    tenant: str = Field("", description="Sent as X-Scope-OrgID.")
    basic_auth: BasicAuthModel | None = None
    authorization: AuthorizationModel | None = None
    oauth2: OAuth2Model | None = None
    tls_config: TlsModel = TlsModel()
    proxy_url: str = Field("", description="HTTP proxy; proxy variables of the environment are not used.")

    def connection(self, name: str, url: str, timeout_s: float) -> SourceSpec:
        """A spec with these; raise ``ValueError`` for keys that contradict each other."""
        tls = self.tls_config
        return SourceSpec(
            name=name,
            url=url,
            timeout_s=timeout_s,
            headers={k: v if isinstance(v, str) else v.value() or Secret() for k, v in self.headers.items()},
            tenant=self.tenant,
            basic_auth=self.basic_auth.auth() if self.basic_auth else None,
            bearer=self.authorization.token() if self.authorization else None,
            oauth2=self.oauth2.auth() if self.oauth2 else None,
            ca_file=tls.ca_file,
            cert_file=tls.cert_file,
            key_file=tls.key_file,
            server_name=tls.server_name,
            insecure_skip_verify=tls.insecure_skip_verify,
            proxy_url=self.proxy_url,
        )


class SourceModel(ConnectionModel):
    """A Prometheus-compatible server that metrics are read from."""

    url: str = Field(description="Base URL; /api/v1/... is appended to it.")
    kind: Kind = Field(_SPEC.kind, description="Which server it is: decides how partial answers are recognised.")
    timeout: PositiveDuration = Field(int(_SPEC.timeout_s * 1000), description="For one request with its retries.")
    max_response_bytes: Whole = Field(_SPEC.max_response_bytes, ge=MIB // 1024, description="Cap on one answer.")
    max_concurrency: Whole = Field(_SPEC.max_concurrency, ge=1, le=256, description="Requests in flight at once.")
    method: Method = Field(_SPEC.method, description="POST falls back to GET when the server refuses it.")
    deny_partial: Flag = Field(_SPEC.deny_partial, description="Ask the server to fail rather than answer in part.")
    extra_params: dict[str, str] = Field({}, description="Added to every query.")

    def spec(self, name: str) -> SourceSpec:
        """The source's spec; raise ``ValueError`` for keys that contradict each other."""
        return replace(
            self.connection(name, self.url, self.timeout / 1000),
            kind=self.kind,
            max_response_bytes=self.max_response_bytes,
            max_concurrency=self.max_concurrency,
            method=self.method,
            deny_partial=self.deny_partial,
            extra_params=self.extra_params,
        )


def at_least_one(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, which must be some."""
    if not names:
        raise ValueError("must name at least one; without the key it is all")
    return names


class QueueModel(Section):
    """How a target is served. The queue is the database: nothing is held in memory, and a restart loses nothing."""

    connections: Whole = Field(_QUEUE.connections, ge=1, le=64, description="Requests in flight; one a rule at a time.")
    max_samples_per_send: Whole = Field(
        _QUEUE.max_samples, ge=100, le=1_000_000, description="Most samples of one request."
    )
    max_age: Duration = Field(_QUEUE.max_age_ms, description="Older scores are given up; 0: none, while they are kept.")
    min_backoff: PositiveDuration = Field(_QUEUE.min_backoff_ms, description="Pause after a first failure.")
    max_backoff: PositiveDuration = Field(_QUEUE.max_backoff_ms, description="Longest pause, unless asked for more.")

    def policy(self) -> QueuePolicy:
        return QueuePolicy(
            self.connections, self.max_samples_per_send, self.max_age, self.min_backoff, self.max_backoff
        )


class RemoteWriteModel(ConnectionModel):
    """A server that scores are written to, by Prometheus's Remote-Write 1.0."""

    url: str = Field(description="The whole address, such as http://prometheus:9090/api/v1/write.")
    name: str = Field("", description="What has been sent is remembered by it; host and port of the URL by default.")
    timeout: PositiveDuration = Field(int(_SPEC.timeout_s * 1000), description="For one request.")
    rules: Annotated[tuple[str, ...], AfterValidator(at_least_one)] = Field(
        ("*",), description="Patterns of GROUP/NAME, with * and ?."
    )
    what: Annotated[tuple[What, ...], AfterValidator(at_least_one)] = Field(
        _ALL, description="Which series of each rule."
    )
    external_labels: dict[LabelName, str] = Field({}, description="Added to each series that has none of that name.")
    queue: QueueModel = QueueModel()

    def target(self) -> WriteTarget:
        """The target; raise ``ValueError`` for keys that contradict each other."""
        name = self.name or urlsplit(self.url).netloc.rpartition("@")[2]
        queue = self.queue.policy()
        http = self.connection(name, without_query(self.url), self.timeout / 1000)
        series = frozenset(series for kind in self.what for series in KINDS[kind])
        return WriteTarget(
            name, self.url, replace(http, max_concurrency=queue.connections), self.rules, series, self.external_labels,
            queue,
        )  # fmt: skip
