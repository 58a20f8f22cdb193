"""The only place where receivers touch the network over HTTP.

One ``Transport`` per receiver: no redirects, no environment, no compression, a cap on the bytes of a reply, and one
deadline over everything an attempt does. httpx's timeouts hold for a single read, so a peer that sends a byte now and
then would never end; here every read and write gets what is left until the deadline, headers and TLS included.
Addresses are credentials, so no error text contains more of one than scheme and host.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import httpcore
import httpx

from anomalyd import __version__
from anomalyd.clock import Clock, SystemClock
from anomalyd.errors import ConfigError, DeliveryError, Problem, redact_urls
from anomalyd.receivers.base import MAX_RETRY_AFTER_S, HttpSettings, Reply, TlsSettings
from anomalyd.receivers.certificate import describe_certificate

# httpx writes every address into its log, whole; for Slack and webhooks the address is the credential.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

MAX_REPLY_BYTES = 256 * 1024
USER_AGENT = f"anomalyd/{__version__}"


class Transport:
    """Sends requests for one receiver, one at a time."""

    def __init__(self, settings: HttpSettings, clock: Clock | None = None):
        self._timeout_s = settings.timeout / 1000
        self._deadline = _Deadline(clock or SystemClock())
        self._context = tls_context(settings.tls)
        proxy = httpcore.Proxy(settings.proxy_url) if settings.proxy_url else None
        pool = httpcore.ConnectionPool(
            ssl_context=self._context, proxy=proxy, max_connections=2, keepalive_expiry=30,
            network_backend=_DeadlineBackend(self._deadline),
        )  # fmt: skip
        self._direct = proxy is None
        self._client = httpx.Client(
            transport=_PoolTransport(pool), follow_redirects=False, trust_env=False, timeout=self._timeout_s,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        )  # fmt: skip

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None,
        params: Iterable[tuple[str, str]] = (),
    ) -> Reply:  # fmt: skip
        """Send and return the answer, whatever its status.

        Raises:
            DeliveryError: ``connect`` (nothing was sent), ``tls``, ``timeout``, ``cut`` (the outcome is unknown).
            ConfigError: the address cannot be used.
        """
        address = _address(url)
        self._deadline.start(self._timeout_s)
        try:
            with self._client.stream(
                method, address, content=body, headers=dict(headers or {}), params=list(params) or None
            ) as response:
                return Reply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, _read(response))
        except (httpcore.TimeoutException, httpx.TimeoutException):
            said = f"no full answer from {address.host} within {self._timeout_s:g} s"
            raise DeliveryError("timeout" if self._deadline.connected else "connect", said) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, httpx.HTTPError) as error:
            raise self._network_error(address, error) from None
        finally:
            self._deadline.stop()

    def close(self) -> None:
        self._client.close()

    def _network_error(self, address: httpx.URL, error: Exception) -> DeliveryError:
        cause = _tls_cause(error)
        if cause is None:
            reason = "cut" if self._deadline.connected else "connect"
            return DeliveryError(reason, f"{address.host}: {redact_urls(str(error)) or type(error).__name__}")
        said = f"TLS with {address.host} failed: {_word(cause)}"
        if isinstance(cause, ssl.SSLCertVerificationError) and self._direct:
            said += self._shown_certificate(address)
        # A certificate is not mended within seconds: try slowly, and never without verification.
        return DeliveryError("tls", said, retry_after_s=MAX_RETRY_AFTER_S)

    def _shown_certificate(self, address: httpx.URL) -> str:
        """Look at the refused certificate once more, for its subject and expiry; nothing is sent over it."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            stream = httpcore.SyncBackend().connect_tcp(address.host, address.port or 443, timeout=2.0)
            try:
                stream = stream.start_tls(context, address.host, timeout=2.0)
                raw = stream.get_extra_info("ssl_object").getpeercert(True)
            finally:
                stream.close()
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError, AttributeError):
            return ""
        shown = describe_certificate(raw or b"")
        return f" ({shown})" if shown else ""


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """The TLS settings of a receiver; TLS 1.2 or newer. Raise ``ConfigError`` for files that cannot be used."""
    if settings == TlsSettings():
        return _default_context()
    file = settings.ca_file
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if file := settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([Problem(file, 0, 0, f"cannot be used for TLS: {error}", "it must be a PEM file")]) from None
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@cache
def _default_context() -> ssl.SSLContext:
    """Reading the system's authorities takes 30 ms, and most receivers want nothing else."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        address = None
    if address is None or address.scheme not in ("http", "https") or not address.host:
        raise ConfigError([Problem("settings", 0, 0, "the receiver's address is not an http or https URL")])
    return address


def _read(response: httpx.Response) -> bytes:
    parts, size = [], 0
    for part in response.iter_raw():
        parts.append(part)
        size += len(part)
        if size > MAX_REPLY_BYTES:
            break  # the status decides; the rest of an oversized answer is not worth reading
    return b"".join(parts)[:MAX_REPLY_BYTES]


def _tls_cause(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _word(cause: ssl.SSLError) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return str(cause.verify_message)
    if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return "the port does not speak TLS (is it a plain http port?)"
    return (cause.reason or str(cause)).lower().replace("_", " ")


class _Deadline:
    """What is left of one attempt; shared by all streams of a transport, which does one thing at a time."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._until: float | None = None
        self.connected = False

    def start(self, seconds: float) -> None:
        self._until = self._clock.monotonic_s() + seconds
        self.connected = False

    def stop(self) -> None:
        self._until = None

    def left(self, timeout: float | None, error: type[Exception]) -> float | None:
        if self._until is None:
            return timeout
        left = self._until - self._clock.monotonic_s()
        if left <= 0:
            raise error("deadline")
        return left if timeout is None else min(timeout, left)


class _DeadlineBackend(httpcore.NetworkBackend):
    def __init__(self, deadline: _Deadline):
        self._deadline = deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, left, local_address, socket_options)
        return _DeadlineStream(stream, self._deadline)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline):
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = self._deadline.left(timeout, httpcore.WriteTimeout)
        self._deadline.connected = True  # from here on the peer may have got the request
        self._inner.write(buffer, left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _PoolTransport(httpx.BaseTransport):
    """httpx over a connection pool of ours."""

    def __init__(self, pool: httpcore.ConnectionPool):
        self._pool = pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        inner = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw, content=request.stream, extensions=request.extensions,
        )  # fmt: skip
        response = self._pool.handle_request(inner)
        assert isinstance(response.stream, Iterable), "the pool is synchronous"
        return httpx.Response(
            response.status, headers=response.headers, stream=_Stream(response.stream), extensions=response.extensions
        )

    def close(self) -> None:
        self._pool.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, inner: Iterable[bytes]):
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        yield from self._inner

    def close(self) -> None:
        close = getattr(self._inner, "close", None)
        if close is not None:
            close()
