"""``SourceSession``: every byte to and from a source goes through here.

A ``requests.Session`` as ``PrometheusConnect`` wants it, so the library's own calls (labels, metadata, targets) obey
the same rules as our queries: one total deadline with its retries inside, a cap on decoded bytes, no redirects, no
proxies or ``.netrc`` from the environment, credentials read anew for each request (a token is kept while it holds),
parameters in the body of a POST, errors of our own classes without the URL's path or any secret in them.
"""

from __future__ import annotations

import base64
import io
import random
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Protocol

import requests
from requests.cookies import RequestsCookieJar
from urllib3.exceptions import HTTPError, InsecureRequestWarning, ProtocolError, SSLError

from anomalyd import __version__
from anomalyd.clock import Clock
from anomalyd.errors import ConfigError, SourceError, SourceUnavailable
from anomalyd.prometheus.deadline import Deadline, DeadlineAdapter, current
from anomalyd.prometheus.decode import PAD
from anomalyd.prometheus.oauth import Tokens
from anomalyd.prometheus.refusal import Answer, clean, refusal
from anomalyd.prometheus.spec import SourceSpec
from anomalyd.secret import Secret

ATTEMPTS = 3
BACKOFF_S = 0.5
BACKOFF_MAX_S = 5.0
ERROR_BODY_BYTES = 64 * 1024

_READ_BYTES = 1024 * 1024
_RETRIED = frozenset({"connect", "server", "starting", "rate_limited"})


class SourceSession(requests.Session):
    """HTTP to one source; safe to use from several threads.

    Attributes:
        skew_ms: the source's clock minus ours as the last ``Date`` header told it, within a second; None before.
        where: names the peer in messages.
    """

    def __init__(self, spec: SourceSpec, clock: Clock, chance: random.Random, what: str = "source"):
        """``what`` the peer is to us, for messages."""
        super().__init__()
        self.trust_env = False
        self.verify = spec.ca_file or True
        if spec.insecure_skip_verify:
            self.verify = False
            warnings.filterwarnings("ignore", category=InsecureRequestWarning)
        self.cert = (spec.cert_file, spec.key_file) if spec.cert_file else None
        self.proxies = {"http": spec.proxy_url, "https": spec.proxy_url} if spec.proxy_url else {}
        self.cookies = RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        self.skew_ms: int | None = None
        self._spec = spec
        self._clock = clock
        self._chance = chance
        self._slots = threading.BoundedSemaphore(spec.max_concurrency)
        self._closed = threading.Event()
        self._get_only = spec.method == "GET"
        self.where = f"{what} {spec.name} ({spec.place})"
        self._tokens = Tokens(spec.oauth2, self._post_form, clock, self.where) if spec.oauth2 else None
        self.use_transport()

    def use_transport(self) -> None:
        """Mount our transport; ``PrometheusConnect`` mounts one of its own that has to go again."""
        self.adapters.clear()
        adapter = DeadlineAdapter(self._spec.max_concurrency, self._spec.server_name)
        self.mount("http://", adapter)
        self.mount("https://", adapter)
        oauth2 = self._spec.oauth2
        if oauth2 is not None and self._spec.server_name and oauth2.place != self._spec.place:
            # The name that the source's certificate bears is not that of the token server.
            self.mount(oauth2.place.lower(), DeadlineAdapter(1, ""))

    def close(self) -> None:
        """Close the connections and wake whoever waits to retry."""
        self._closed.set()
        super().close()

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Serve the library's calls: as ``exchange``, wrapped in the response class it expects."""
        params = dict(args[0] if args else kwargs.get("params") or {})
        path = str(url).removeprefix(self._spec.base)
        answer = self.exchange(str(method), path, params, Deadline(self._clock, self._spec.timeout_s))
        response = requests.Response()
        response.status_code = answer.status
        response.headers.update(answer.headers)
        response.raw = io.BytesIO(memoryview(answer.body)[: answer.size])
        return response

    def exchange(self, method: str, path: str, params: Mapping[str, Any], deadline: Deadline) -> Answer:
        """Send a request and read its answer, retrying what may pass by itself while the deadline allows.

        Args:
            method: POST sends ``params`` as a form and becomes GET where the server does not take it.
            path: appended to the base URL, begins with a slash.

        Returns:
            An answer of status 200.

        Raises:
            SourceUnavailable, QueryRejected: see ``refusal``.
        """
        first: SourceError | None = None
        for attempt in range(ATTEMPTS):
            try:
                return self._attempt(method, path, params, deadline)
            except SourceError as error:
                if first is not None and error.reason == "timeout":
                    # A retry that ran out of time says less than the trouble that made us try again.
                    raise first from None
                first = first or error
                pause = self._pause(error, attempt)
                if pause is None or pause >= deadline.left():
                    raise
                if self._clock.wait(self._closed, pause):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def post_bytes(self, url: str, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> Answer:
        """Send bytes once and give the answer whatever its status; of its body as much as a message needs.

        Raises:
            SourceUnavailable: no answer came, or there is nothing to authenticate with.
        """
        token = self._tokens.held if self._tokens else ""
        answer = self._send_bytes(url, body, headers, deadline)
        if answer.status == 401 and self._tokens is not None and self._tokens.forget(token):
            answer = self._send_bytes(url, body, headers, deadline)
        return answer

    def _send_bytes(self, url: str, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> Answer:
        own, secrets = self._headers(deadline)
        request = requests.Request("POST", url, headers={**own, **headers}, data=body)
        return self._transmit(request, deadline, secrets, read=self._skim)

    def _pause(self, error: SourceError, attempt: int) -> float | None:
        """Seconds until the next attempt, None for no further one: full jitter, or what the server asks for."""
        if error.reason not in _RETRIED or attempt + 1 >= ATTEMPTS:
            return None
        if error.reason == "rate_limited" and error.retry_after_s is None:
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s
        return self._chance.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt))

    def _attempt(self, method: str, path: str, params: Mapping[str, Any], deadline: Deadline) -> Answer:
        if not self._slots.acquire(timeout=max(deadline.left(), 0.0)):
            busy = f"{self._spec.max_concurrency} queries are still running"
            raise SourceUnavailable("timeout", f"{self.where}: no turn within {deadline.seconds:g} s, {busy}")
        try:
            token = self._tokens.held if self._tokens else ""
            answer = self._send("GET" if self._get_only else method, path, params, deadline)
            if answer.status == 401 and self._tokens is not None and self._tokens.forget(token):
                # It ended before its time, or was revoked; a fresh one that is refused too is not ours to mend.
                answer = self._send("GET" if self._get_only else method, path, params, deadline)
            if answer.status == 405 and method == "POST" and not self._get_only:
                self._get_only = True
                answer = self._send("GET", path, params, deadline)
        finally:
            self._slots.release()
        if answer.status != 200:
            raise refusal(answer, self.where)
        return answer

    def _send(self, method: str, path: str, params: Mapping[str, Any], deadline: Deadline) -> Answer:
        headers, secrets = self._headers(deadline)
        form = {name: str(value) for name, value in params.items()}
        request = requests.Request(
            method,
            self._spec.base + path,
            headers=headers,
            params=form if method == "GET" else None,
            data=form if method == "POST" else None,
        )
        answer = self._transmit(request, deadline, secrets)
        self._measure_skew(answer.headers.get("date"))
        return answer

    def _post_form(
        self,
        url: str,
        headers: Mapping[str, str],
        form: Mapping[str, str],
        deadline: Deadline,
        secrets: tuple[str, ...],
    ) -> Answer:
        """Ask the token server: under the same rules, but without the source's headers and our certificate."""
        own = {"User-Agent": f"anomalyd/{__version__}", "Accept-Encoding": "identity", **headers}
        request = requests.Request("POST", url, headers=own, data=dict(form))
        try:
            return self._transmit(request, deadline, secrets, ours=False)
        except SourceUnavailable as error:
            raise SourceUnavailable(error.reason, f"{error} (asking token_url for a token)") from None

    def _transmit(
        self, request: requests.Request, deadline: Deadline, secrets: tuple[str, ...], ours: bool = True,
        read: Callable[[requests.Response, Deadline, tuple[str, ...]], Answer] | None = None,
    ) -> Answer:  # fmt: skip
        token = current.set(deadline)
        try:
            prepared = self.prepare_request(request)
            wait = deadline.require()
            with self.send(
                prepared,
                stream=True,
                timeout=(wait, wait),
                allow_redirects=False,
                verify=self.verify,
                cert=self.cert if ours else None,
                proxies=self.proxies,
            ) as response:
                return (read or self._read)(response, deadline, secrets)
        except (requests.RequestException, HTTPError, OSError, ValueError, zlib.error) as error:
            raise self._trouble(error, deadline, secrets) from None
        finally:
            current.reset(token)

    def _headers(self, deadline: Deadline) -> tuple[dict[str, str], tuple[str, ...]]:
        """Headers of the next request, and the credentials among them, both read now."""
        spec = self._spec
        headers = {"User-Agent": f"anomalyd/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"}
        secrets: list[str] = []

        def reveal(value: str | Secret) -> str:
            if isinstance(value, str):
                return value
            secrets.append(value.get())
            return secrets[-1]

        try:
            for name, value in spec.headers.items():
                headers[name] = reveal(value)
            if spec.tenant:
                headers["X-Scope-OrgID"] = spec.tenant
            if spec.bearer is not None:
                headers["Authorization"] = f"Bearer {reveal(spec.bearer)}"
            if self._tokens is not None:
                secrets.append(self._tokens.get(deadline))
                headers["Authorization"] = f"Bearer {secrets[-1]}"
            if spec.basic_auth is not None:
                pair = f"{reveal(spec.basic_auth.username)}:{reveal(spec.basic_auth.password)}".encode()
                secrets.append(base64.b64encode(pair).decode("ascii"))
                headers["Authorization"] = f"Basic {secrets[-1]}"
        except ConfigError as error:
            raise SourceUnavailable("auth", f"{self.where}: {error}") from None
        for name, value in headers.items():
            if not value.isascii() or not value.isprintable():
                raise SourceUnavailable("auth", f"{self.where}: header {name} has characters that HTTP cannot carry")
        return headers, tuple(secrets)

    def _read(self, response: requests.Response, deadline: Deadline, secrets: tuple[str, ...]) -> Answer:
        """Read the body up to the cap; an error's body only as far as a message needs it."""
        cap = self._spec.max_response_bytes if response.status_code == 200 else ERROR_BODY_BYTES
        headers = {name.lower(): value for name, value in response.headers.items()}
        announced = headers.get("content-length", "")
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding == "identity" and announced.isdecimal() and int(announced) > cap and response.status_code == 200:
            raise self._too_large()
        unpack = _unpacker(encoding)
        body = bytearray()
        while len(body) <= cap:
            deadline.require()
            chunk = response.raw.read1(_READ_BYTES, decode_content=False)
            if not chunk:
                break
            while chunk and len(body) <= cap:
                body += unpack.decompress(chunk, _READ_BYTES)
                chunk = unpack.unconsumed_tail
        if response.status_code == 200:
            if len(body) > cap:
                raise self._too_large()
            if not unpack.eof or not (body or announced):
                raise requests.ConnectionError(IncompleteRead(b""))
        del body[cap:]
        size = len(body)
        body += bytes(PAD)
        return Answer(response.status_code, headers, body, size, secrets)

    def _skim(self, response: requests.Response, deadline: Deadline, secrets: tuple[str, ...]) -> Answer:
        """The status is the answer; of the body what comes, and none where it is cut short."""
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = bytearray()
        try:
            while len(body) < ERROR_BODY_BYTES:
                deadline.require()
                chunk = response.raw.read1(_READ_BYTES, decode_content=False)
                if not chunk:
                    break
                body += chunk
        except (HTTPError, HTTPException, OSError, ValueError):
            response.close()
        size = min(len(body), ERROR_BODY_BYTES)
        return Answer(response.status_code, headers, body[:size] + bytes(PAD), size, secrets)

    def _too_large(self) -> SourceUnavailable:
        cap = self._spec.max_response_bytes
        hint = "aggregate in the query, read fewer series or a shorter range, or raise max_response_bytes"
        return SourceUnavailable("too_large", f"{self.where}: the answer exceeds {cap} bytes; {hint}")

    def _measure_skew(self, date: str | None) -> None:
        try:
            moment = parsedate_to_datetime(date or "")
        except (TypeError, ValueError):
            return
        # A Date has whole seconds: on average the moment was half a second later.
        self.skew_ms = int(moment.timestamp() * 1000) + 500 - self._clock.now_ms()

    def _trouble(self, error: Exception, deadline: Deadline, secrets: tuple[str, ...]) -> SourceUnavailable:
        """Name what went wrong on the wire, without the URL that the libraries put into their messages."""
        if isinstance(error, SourceUnavailable):
            return error
        if deadline.left() <= 0 or isinstance(error, (requests.Timeout, TimeoutError)):
            return SourceUnavailable("timeout", f"{self.where}: no complete answer within {deadline.seconds:g} s")
        cause = clean(_root_cause(error), secrets)
        if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
            return SourceUnavailable("connect", f"{self.where}: the URL cannot be used: {cause}")
        if isinstance(error, zlib.error):
            return SourceUnavailable("protocol", f"{self.where}: the compressed answer is damaged")
        return SourceUnavailable("connect", f"{self.where}: {cause}")


class _Unpacker(Protocol):
    """What ``zlib.decompressobj`` offers."""

    @property
    def eof(self) -> bool: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Identity:
    """No compression."""

    eof = True
    unconsumed_tail = b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return data


def _unpacker(encoding: str) -> _Unpacker:
    """We ask for no compression, but a proxy may gzip all the same; decoded in steps, so that a bomb stays small."""
    if encoding in ("identity", ""):
        return _Identity()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    raise SourceUnavailable("protocol", f"the answer is encoded as {clean(encoding)[:40]!r}, which was not asked for")


def _root_cause(error: BaseException) -> str:
    """The system's words for an error that requests and urllib3 wrapped: "Connection refused", not a URL."""
    chain = [error]
    while True:
        reason = getattr(chain[-1], "reason", None)
        wrapped = [reason, *chain[-1].args, chain[-1].__cause__, chain[-1].__context__]
        inner = next((one for one in wrapped if isinstance(one, BaseException) and one not in chain), None)
        if inner is None:
            break
        chain.append(inner)
    last = chain[-1]
    if isinstance(last, OSError) and last.strerror:
        return last.strerror
    if any(isinstance(one, (HTTPException, ProtocolError)) for one in chain):
        return "the answer was cut short"
    if isinstance(last, OSError) or any(isinstance(one, SSLError) for one in chain):
        return str(last)
    return f"{type(last).__name__}: the connection failed"
