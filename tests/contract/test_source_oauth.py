"""A source behind OAuth 2.0 client credentials: one token for many requests, renewed in time, never told."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from anomalyd.clock import VirtualClock
from anomalyd.errors import SourceError
from anomalyd.prometheus.source import PrometheusSource, SourceSpec
from anomalyd.prometheus.spec import BasicAuth, OAuth2
from anomalyd.secret import Secret
from anomalyd.settings import read_settings
from anomalyd.yamlfile import read_yaml
from fakes.faultproxy import refused_port
from fakes.prometheus import FakePrometheus, FakeSeries
from fakes.sink import Fault, answer
from fakes.tokens import FakeTokens

AT = 1_700_000_040_000
UP = FakeSeries({"__name__": "up", "job": "a"}, {AT: 1.0})
SECRET = "s3cr€t/+ :"


@pytest.fixture
def fake() -> Iterator[FakePrometheus]:
    """A source with one series."""
    with FakePrometheus([UP]) as server:
        server.authorization = "Bearer token-1"
        yield server


@pytest.fixture
def tokens() -> Iterator[FakeTokens]:
    """A token server."""
    server = FakeTokens()
    yield server
    server.close()


def auth(tokens: FakeTokens, **changes: object) -> OAuth2:
    given = {"client_id": "anomalyd", "client_secret": Secret(SECRET), "token_url": tokens.token_url} | changes
    return OAuth2(**given)  # type: ignore[arg-type]


def reader(url: str, oauth2: OAuth2, clock: VirtualClock | None = None, timeout_s: float = 10.0) -> PrometheusSource:
    spec = SourceSpec("shop", url, oauth2=oauth2, timeout_s=timeout_s)
    return PrometheusSource(spec, clock=clock, chance=random.Random(1))


def fault(source: PrometheusSource) -> SourceError:
    """The error that asking ends in; it tells no secret."""
    with pytest.raises(SourceError) as caught:
        source.instant("up", AT)
    source.close()
    assert SECRET not in str(caught.value)
    assert "token-" not in str(caught.value)
    return caught.value


def test_one_token_serves_until_it_ends(fake: FakePrometheus, tokens: FakeTokens) -> None:
    """It is fetched with the first request, kept, and renewed shortly before its end."""
    clock = VirtualClock(AT)
    source = reader(fake.url, auth(tokens), clock)
    for _ in range(3):
        assert source.instant("up", AT).block.values.tolist() == [[1.0]]
    clock.advance_to(AT + 3_589_000)
    source.instant("up", AT)
    assert tokens.made == ["token-1"]
    clock.advance_to(AT + 3_590_000)
    fake.authorization = "Bearer token-2"
    source.instant("up", AT)
    source.close()
    assert tokens.made == ["token-1", "token-2"]


def test_scopes_and_parameters_are_sent(fake: FakePrometheus, tokens: FakeTokens) -> None:
    """Scopes as one, parameters as they are, secret ones too; the source sees nothing of them."""
    tokens.scope, tokens.audience = "metrics:read other", "prod"
    given = auth(tokens, scopes=("metrics:read", "other"), endpoint_params={"audience": Secret("prod")})
    source = reader(fake.url, given)
    assert len(source.instant("up", AT).block) == 1
    source.close()
    assert [{"scope", "audience"} & set(one.params) for one in fake.seen] == [set()]


def test_a_client_in_the_form_is_tried_and_kept(fake: FakePrometheus, tokens: FakeTokens) -> None:
    """A server that wants the client in the form gets it there, the second time at once."""
    tokens.in_body = True
    tokens.expires_in = "60"
    clock = VirtualClock(AT)
    source = reader(fake.url, auth(tokens), clock)
    source.instant("up", AT)
    clock.advance_to(AT + 50_000)
    fake.authorization = "Bearer token-2"
    source.instant("up", AT)
    source.close()
    assert ["authorization" in one.headers for one in tokens.requests] == [True, False, False]


def test_a_revoked_token_is_renewed_once(fake: FakePrometheus, tokens: FakeTokens) -> None:
    """A 401 costs one new token; when that is refused too, the source's answer stands."""
    tokens.expires_in = None
    source = reader(fake.url, auth(tokens))
    source.instant("up", AT)
    fake.authorization = "Bearer token-2"
    assert len(source.instant("up", AT).block) == 1
    fake.authorization = "Bearer somebody else"
    assert fault(source).reason == "auth"
    assert tokens.made == ["token-1", "token-2", "token-3"]
    assert len(fake.seen) == 5


def test_a_fresh_token_that_is_refused_is_not_renewed(fake: FakePrometheus, tokens: FakeTokens) -> None:
    """What was made for this request and is refused would be refused again."""
    fake.authorization = "Bearer somebody else"
    assert fault(reader(fake.url, auth(tokens))).reason == "auth"
    assert (len(tokens.made), len(fake.seen)) == (1, 1)


def test_refusals_are_told_without_the_secret(fake: FakePrometheus, tokens: FakeTokens) -> None:
    """A wrong secret is an error of authentication with the server's words; what it echoes of ours is struck out."""
    tokens.client_secret = "another"
    error = fault(reader(fake.url, auth(tokens)))
    assert error.reason == "auth"
    assert "HTTP 401: invalid_client no client with another" in str(error)
    tokens.faults += [Fault(answer=answer(403, {"error": "access_denied", "error_description": f"not {SECRET}"}))]
    assert "access_denied not <secret>" in str(fault(reader(fake.url, auth(tokens))))
    assert not fake.seen


@pytest.mark.parametrize(("status", "body", "reason"), [
    (503, {"error": "down"}, "server"), (429, {}, "rate_limited"), (200, {}, "protocol"), (200, [], "protocol"),
    (200, {"access_token": "a\nb"}, "protocol"), (200, {"access_token": "a", "token_type": "mac"}, "protocol"),
    (302, {}, "auth"),
])  # fmt: skip
def test_odd_answers_have_their_reasons(
    fake: FakePrometheus, tokens: FakeTokens, status: int, body: object, reason: str
) -> None:
    """Trouble that may pass is retried and named; an answer without a bearer token is none."""
    tokens.faults += [Fault(answer=answer(status, body))] * 3
    assert fault(reader(fake.url, auth(tokens), VirtualClock(AT))).reason == reason
    assert len(tokens.requests) == (3 if reason == "server" else 1)
    assert not fake.seen


def test_a_token_server_that_is_away(fake: FakePrometheus) -> None:
    """Nobody listens: the message says that it was the token that could not be had."""
    with refused_port() as url:
        error = fault(reader(fake.url, OAuth2("anomalyd", Secret(SECRET), f"{url}/token"), VirtualClock(AT)))
    assert error.reason == "connect"
    assert "asking token_url for a token" in str(error)


def test_the_deadline_is_for_both(fake: FakePrometheus, tokens: FakeTokens) -> None:
    """A token server that hangs ends the request at its own deadline, not at one of its own."""
    tokens.faults += [Fault(hang=True)] * 3
    begun = time.monotonic()
    assert fault(reader(fake.url, auth(tokens), timeout_s=0.4)).reason == "timeout"
    assert time.monotonic() - begun < 10


def test_contradictions_are_refused(tokens: FakeTokens) -> None:
    """One way to say who we are; parameters cannot replace what has a key."""
    with pytest.raises(ValueError, match="exclude each other"):
        SourceSpec("a", "http://h", oauth2=auth(tokens), basic_auth=BasicAuth("a", Secret("b")))
    with pytest.raises(ValueError, match="exclude each other"):
        SourceSpec("a", "http://h", oauth2=auth(tokens), headers={"Authorization": "x"})
    with pytest.raises(ValueError, match="endpoint_params may not set scope"):
        auth(tokens, endpoint_params={"scope": "all"})
    with pytest.raises(ValueError, match="token_url: the url must be"):
        auth(tokens, token_url="tokens.example/token")
    assert SECRET not in repr(SourceSpec("a", "http://h", oauth2=auth(tokens)))


def test_settings_say_it_as_prometheus_does(fake: FakePrometheus, tokens: FakeTokens) -> None:
    """The block of Prometheus's own configuration is taken, with the secret in a file."""
    text = f"""
sources:
  default:
    url: {fake.url}
    oauth2:
      client_id: anomalyd
      client_secret: "{SECRET}"
      token_url: {tokens.token_url}
      scopes: [metrics]
      endpoint_params: {{audience: prod}}
"""
    tokens.scope, tokens.audience = "metrics", "prod"
    source = PrometheusSource(read_settings(read_yaml(text, "anomalyd.yml")).sources["default"])
    assert len(source.instant("up", AT).block) == 1
    source.close()
