"""Every fault between us and a source ends in its own reason, in time, and without a secret told."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from anomalyd.errors import QueryRejected, SourceError, SourceUnavailable
from anomalyd.prometheus.source import BasicAuth, PrometheusSource, Reply, SourceSpec
from anomalyd.secret import Secret
from fakes.faultproxy import (
    BlackHole,
    Certificates,
    Cut,
    Delay,
    Drip,
    Fault,
    FaultProxy,
    RawServer,
    Refuse,
    Reset,
    make_certificates,
    refused_port,
)
from fakes.prometheus import FakePrometheus, FakeSeries

MINUTE = 60_000
AT = 1_700_000_040_000
MIB = 1024 * 1024
UP = FakeSeries({"__name__": "up", "job": "a"}, {AT - i * MINUTE: float(i) for i in range(9, -1, -1)})


@pytest.fixture
def fake() -> Iterator[FakePrometheus]:
    """A source with one series."""
    with FakePrometheus([UP]) as server:
        yield server


def reader(url: str, **options: object) -> PrometheusSource:
    """A source whose retries wait a predictable little."""
    options.setdefault("timeout_s", 5.0)
    return PrometheusSource(SourceSpec("shop", url, **options), chance=random.Random(1))  # type: ignore[arg-type]


def ask(url: str, **options: object) -> Reply:
    source = reader(url, **options)
    try:
        return source.instant("up", AT)
    finally:
        source.close()


def fault(url: str, **options: object) -> SourceError:
    """The error that asking ends in."""
    with pytest.raises(SourceError) as caught:
        ask(url, **options)
    return caught.value


def timed(action: Callable[[], SourceError]) -> tuple[SourceError, float]:
    begun = time.monotonic()
    return action(), time.monotonic() - begun


class TestNetwork:
    """The wire fails (fault matrix C.1, rows 1, 2, 6, 8)."""

    def test_refused(self) -> None:
        """Nobody listens: reason connect, the system's words, the host and nothing else of the URL."""
        with refused_port() as url:
            error = fault(f"{url}/secret-path", timeout_s=2)
        assert (type(error), error.reason) == (SourceUnavailable, "connect")
        assert str(error) == f"source shop ({url}): Connection refused"

    def test_unknown_host(self) -> None:
        """A host that does not resolve is a reason of its own words."""
        error = fault("http://no-such-host.invalid:9090", timeout_s=2)
        assert error.reason == "connect"

    @pytest.mark.parametrize(
        "trouble",
        [Delay(30), Drip(1, 0.02), BlackHole(0), BlackHole(40), BlackHole(300)],
        ids=["late", "drip", "silent", "silent in the headers", "silent in the body"],
    )
    def test_slow(self, fake: FakePrometheus, trouble: Fault) -> None:
        """However a server keeps us waiting, it ends at the deadline."""
        fake.infos = ["x" * 400]
        with FaultProxy(fake.url) as proxy:
            proxy.fault = trouble
            error, seconds = timed(lambda: fault(proxy.url, timeout_s=0.4))
        assert (type(error), error.reason) == (SourceUnavailable, "timeout")
        assert 0.35 <= seconds < 1.5

    def test_slow_library_call(self, fake: FakePrometheus) -> None:
        """The library's own calls have the same deadline."""
        with FaultProxy(fake.url) as proxy:
            proxy.fault = Drip(1, 0.05)
            source = reader(proxy.url, timeout_s=0.3)
            with pytest.raises(SourceUnavailable) as caught:
                source.all_metrics()
            source.close()
        assert caught.value.reason == "timeout"

    @pytest.mark.parametrize("trouble", [Cut(0), Cut(60), Cut(300), Reset(0), Reset(300)], ids=repr)
    def test_cut(self, fake: FakePrometheus, trouble: Fault) -> None:
        """Nothing of an answer that was cut is used."""
        fake.infos = ["x" * 400]
        with FaultProxy(fake.url) as proxy:
            proxy.fault = trouble
            error = fault(proxy.url)
            assert proxy.connections == 3
        assert (type(error), error.reason) == (SourceUnavailable, "connect")

    @pytest.mark.parametrize("trouble", [Cut(300), Reset(300), Cut(0)], ids=repr)
    def test_cut_once(self, fake: FakePrometheus, trouble: Fault) -> None:
        """A connection that fails once costs a retry and nothing else."""
        fake.infos = ["x" * 400]
        with FaultProxy(fake.url) as proxy:
            proxy.fault, proxy.faults_left = trouble, 1
            assert ask(proxy.url).block.values.tolist() == [[0.0]]

    def test_retry_out_of_time(self, fake: FakePrometheus) -> None:
        """A retry that runs out of time does not hide the trouble that made us try again."""
        with FaultProxy(fake.url) as behind, FaultProxy(behind.url) as proxy:
            behind.fault = BlackHole(0)
            proxy.fault, proxy.faults_left = Refuse(), 1
            error = fault(proxy.url, timeout_s=1.0)
            assert proxy.connections == 2
        assert (type(error), error.reason) == (SourceUnavailable, "connect")

    @pytest.mark.parametrize(
        "head",
        ["Content-Length: 500", "Transfer-Encoding: chunked"],
        ids=["length", "chunked"],
    )
    def test_short_body(self, head: str) -> None:
        """A body shorter than announced, or without its last chunk, is not an answer."""
        body = b'{"status":"success","data":{"resultType":"vector","result":[]}}'
        if "chunked" in head:
            body = b"%x\r\n%s\r\n" % (len(body), body)
        with RawServer([f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body]) as server:
            error = fault(server.url)
        assert error.reason == "connect"
        assert "cut short" in str(error)

    def test_not_http(self) -> None:
        """Something that does not speak HTTP."""
        with RawServer([b"220 mail.example ESMTP\r\n"]) as server:
            assert fault(server.url).reason == "connect"

    def test_endless_body(self) -> None:
        """A body without end is stopped at the cap, and memory stays flat."""
        piece = b'{"status":"success","data":{"resultType":"vector","result":[' + b" " * MIB
        with RawServer([b"HTTP/1.1 200 OK\r\n\r\n", *[piece] * 200]) as server:
            tracemalloc.start()
            error = fault(server.url, max_response_bytes=4 * MIB)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert server.sent < 40 * MIB
        assert (type(error), error.reason) == (SourceUnavailable, "too_large")
        assert "max_response_bytes" in str(error)
        assert peak < 20 * MIB

    def test_announced_too_large(self) -> None:
        """A body announced as too large is not read at all."""
        with RawServer([b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"]) as server:
            assert fault(server.url).reason == "too_large"

    def test_gzip_bomb(self, fake: FakePrometheus) -> None:
        """Compression that we did not ask for counts decoded bytes."""
        bomb = gzip.compress(b" " * (200 * MIB))
        fake.always(text=bomb, headers={"Content-Encoding": "gzip"})
        tracemalloc.start()
        error = fault(fake.url, max_response_bytes=4 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert error.reason == "too_large"
        assert peak < 20 * MIB

    def test_gzip(self, fake: FakePrometheus) -> None:
        """A proxy that compresses all the same is understood, one that damages or invents encodings is not."""
        body = b'{"status":"success","data":{"resultType":"scalar","result":[1700000040,"7"]}}'
        fake.then(text=gzip.compress(body), headers={"Content-Encoding": "gzip"})
        assert ask(fake.url).block.values.tolist() == [[7.0]]
        fake.then(text=gzip.compress(body)[:-9], headers={"Content-Encoding": "gzip"}, times=3)
        assert fault(fake.url).reason == "connect"
        fake.then(text=b"\x00" * 50, headers={"Content-Encoding": "gzip"})
        assert fault(fake.url).reason == "protocol"
        fake.then(text=body, headers={"Content-Encoding": "br"})
        assert fault(fake.url).reason == "protocol"
        assert fake.seen[0].headers["accept-encoding"] == "identity"

    def test_connections_are_kept(self, fake: FakePrometheus) -> None:
        """Queries one after the other share a connection, whatever the server says in between."""
        with FaultProxy(fake.url) as proxy:
            source = reader(proxy.url)
            source.instant("up", AT)
            fake.then(400, '{"status":"error","errorType":"bad_data","error":"no"}')
            with pytest.raises(QueryRejected):
                source.instant("up", AT)
            source.range("up", AT - MINUTE, AT, MINUTE)
            source.close()
            assert proxy.connections == 1

    def test_no_turn(self, fake: FakePrometheus) -> None:
        """No more queries run at once than allowed; who gets no turn in time says so."""
        with FaultProxy(fake.url) as proxy:
            proxy.fault = Delay(0.6)
            source = reader(proxy.url, max_concurrency=1)
            first = threading.Thread(target=source.instant, args=("up", AT))
            first.start()
            while not proxy.connections:
                assert first.is_alive()
            with pytest.raises(SourceUnavailable, match="still running") as caught:
                source.instant("up", AT, deadline_s=0.1)
            first.join()
            source.close()
        assert caught.value.reason == "timeout"
        assert len(fake.seen) == 1

    def test_close_ends_the_waiting(self, fake: FakePrometheus) -> None:
        """Closing a source wakes a query that waits to retry."""
        fake.always(status=429, text="slow down", headers={"Retry-After": "4"})
        source = reader(fake.url)
        errors: list[SourceError] = []

        def query() -> None:
            try:
                source.instant("up", AT)
            except SourceError as error:
                errors.append(error)

        asking = threading.Thread(target=query)
        begun = time.monotonic()
        asking.start()
        while not fake.seen:
            assert asking.is_alive()
        source.close()
        asking.join()
        assert errors[0].reason == "rate_limited"
        assert time.monotonic() - begun < 3


class TestAnswers:
    """The server says no (rows 3, 4, 5)."""

    @pytest.mark.parametrize(
        ("status", "text", "headers", "reason", "attempts"),
        [
            (500, '{"status":"error","errorType":"internal","error":"disk"}', {}, "server", 3),
            (502, "<html>bad gateway</html>", {"Content-Type": "text/html"}, "server", 3),
            (503, "Service Unavailable", {"X-Prometheus-Stopping": "false"}, "starting", 3),
            (503, '{"status":"error","errorType":"timeout","error":"query timed out"}', {}, "timeout", 1),
            (504, "", {}, "server", 3),
            (401, "Unauthorized", {"WWW-Authenticate": "Basic"}, "auth", 1),
            (403, "forbidden", {}, "auth", 1),
            (429, "too many", {}, "rate_limited", 1),
            (302, "", {"Location": "https://login.example/secret"}, "not_prometheus", 1),
            (400, "Client sent an HTTP request to an HTTPS server.", {}, "not_prometheus", 1),
            (200, "<html>Please log in</html>", {"Content-Type": "text/html"}, "not_prometheus", 1),
            (200, "", {}, "not_prometheus", 1),
            (200, '{"message":"ok"}', {}, "not_prometheus", 1),
            (200, '{"status":"success","data":{"resultType":"vector","result":[', {}, "protocol", 1),
            (200, '{"status":"success","data":{"resultType":"streams","result":[]}}', {}, "protocol", 1),
            (200, '{"status":"error","errorType":"internal","error":"late"}', {}, "server", 1),
        ],
    )
    def test_unavailable(
        self, fake: FakePrometheus, status: int, text: str, headers: dict[str, str], reason: str, attempts: int
    ) -> None:
        """The source's fault: the reason is known, and only what may pass by itself is asked again."""
        fake.always(status, text, headers)
        error = fault(fake.url)
        assert (type(error), error.reason, len(fake.seen)) == (SourceUnavailable, reason, attempts)
        assert "secret" not in str(error)

    @pytest.mark.parametrize(
        ("status", "kind", "text", "reason"),
        [
            (400, "bad_data", "1:3: parse error: unexpected end", "bad_data"),
            (400, "bad_data", "exceeded maximum resolution of 11,000 points per timeseries", "too_many_points"),
            (422, "execution", "found duplicate series for the match group", "execution"),
            (422, "422", "the number of matching timeseries exceeds 100", "execution"),
            (404, "not_found", "no", "not_found"),
        ],
    )
    def test_rejected(self, fake: FakePrometheus, status: int, kind: str, text: str, reason: str) -> None:
        """The rule's fault: asked once, with the server's words."""
        fake.always(status, json.dumps({"status": "error", "errorType": kind, "error": text}))
        error = fault(fake.url)
        assert (type(error), error.reason, len(fake.seen)) == (QueryRejected, reason, 1)
        assert text in str(error) or reason == "not_found"

    def test_recovers(self, fake: FakePrometheus) -> None:
        """Two failures and then an answer is an answer."""
        fake.then(status=500, text="oops", times=2)
        assert ask(fake.url).block.values.tolist() == [[0.0]]

    def test_retries_stay_inside_the_deadline(self, fake: FakePrometheus) -> None:
        """No retry is begun that could not end in time."""
        fake.always(status=503, text="busy", headers={"Retry-After": "2"})
        error, seconds = timed(lambda: fault(fake.url, timeout_s=1))
        assert (error.reason, error.retry_after_s, len(fake.seen)) == ("server", 2.0, 1)
        assert seconds < 1

    def test_retry_after(self, fake: FakePrometheus) -> None:
        """A limit that says when to come again is obeyed."""
        fake.then(status=429, text="slow down", headers={"Retry-After": "1"})
        begun = time.monotonic()
        ask(fake.url)
        assert time.monotonic() - begun >= 1

    def test_long_and_dirty_words(self, fake: FakePrometheus) -> None:
        """What the server says is cut to 1,000 characters and has no control characters."""
        said = "a\x1b[31mb\n" + "x" * 5000
        fake.always(400, json.dumps({"status": "error", "errorType": "bad_data", "error": said}))
        text = str(fault(fake.url))
        assert len(text) < 1_200
        assert text.isprintable()

    def test_read_only_proxy(self, fake: FakePrometheus) -> None:
        """Where POST is not allowed GET is used, and remembered."""
        fake.post_allowed = False
        source = reader(fake.url)
        source.instant("up", AT)
        source.instant("up", AT)
        source.close()
        assert [one.method for one in fake.seen] == ["POST", "GET", "GET"]

    def test_redirect_is_not_followed(self, fake: FakePrometheus) -> None:
        """Credentials never travel to where a redirect points."""
        with FakePrometheus([UP]) as other:
            fake.always(307, headers={"Location": f"{other.url}/api/v1/query"})
            error = fault(fake.url, tenant="t", bearer=Secret("credential"))
            assert not other.seen
        assert error.reason == "not_prometheus"

    def test_not_ready(self, fake: FakePrometheus) -> None:
        """Readiness tells a starting server from one that runs."""
        source = reader(fake.url)
        fake.then(503, "Service Unavailable", {"X-Prometheus-Stopping": "false"}, times=3)
        with pytest.raises(SourceUnavailable, match="starting"):
            source.ready()
        source.ready()
        source.close()


class TestCredentials:
    """Who we are (row 5): read anew, sent to nobody else, never shown."""

    def test_files_are_read_anew(self, fake: FakePrometheus, tmp_path: Path) -> None:
        """A rotated credential works without a restart."""
        file = tmp_path / "token"
        file.write_text("first\n")
        source = reader(fake.url, bearer=Secret(file=file))
        fake.authorization = "Bearer first"
        source.instant("up", AT)
        file.write_text("second\n")
        fake.authorization = "Bearer second"
        source.instant("up", AT)
        source.close()
        assert [one.headers["authorization"] for one in fake.seen] == ["Bearer first", "Bearer second"]

    def test_missing_file(self, fake: FakePrometheus, tmp_path: Path) -> None:
        """A credential that cannot be read is an authentication trouble that names its file."""
        error = fault(fake.url, bearer=Secret(file=tmp_path / "gone"))
        assert error.reason == "auth"
        assert "gone" in str(error)
        assert not fake.seen

    def test_basic(self, fake: FakePrometheus) -> None:
        """Basic authentication takes any text; another password is refused."""
        fake.authorization = "Basic w7xzZXI6cMOkc3M="
        assert ask(fake.url, basic_auth=BasicAuth("üser", Secret("päss"))).block.values.tolist() == [[0.0]]
        assert fault(fake.url, basic_auth=BasicAuth("üser", Secret("pass"))).reason == "auth"

    def test_headers_and_tenant(self, fake: FakePrometheus) -> None:
        """Headers, secret or not, and the tenant arrive; a wrong tenant is refused."""
        fake.tenant = "team-a"
        ask(fake.url, tenant="team-a", headers={"X-Api-Key": Secret("key-1"), "X-Plain": "yes"})
        assert fake.seen[0].headers["x-api-key"] == "key-1"
        assert fake.seen[0].headers["x-plain"] == "yes"
        error = fault(fake.url, tenant="team-b")
        assert (error.reason, "no org id" in str(error)) == ("auth", True)

    def test_header_injection(self, fake: FakePrometheus) -> None:
        """A credential with a line break in it is refused without being shown."""
        error = fault(fake.url, headers={"X-Api-Key": Secret("abc\r\nX-Evil: 1")})
        assert error.reason == "auth"
        assert "abc" not in str(error)
        assert not fake.seen

    @pytest.mark.parametrize("status", [400, 401, 422, 500, 503])
    def test_echoed_credentials(self, fake: FakePrometheus, status: int) -> None:
        """A server that repeats our credentials does not get them into a message."""
        said = "got Bearer hunter2-token!"
        fake.always(status, json.dumps({"status": "error", "errorType": "bad_data", "error": said}))
        error = fault(fake.url, bearer=Secret("hunter2-token"))
        assert "hunter2" not in str(error)
        assert "<secret>" in str(error)

    def test_echoed_in_a_success(self, fake: FakePrometheus) -> None:
        """Nor by a warning or by an error with status 200."""
        fake.warnings = ["dropped hunter2-token"]
        assert ask(fake.url, bearer=Secret("hunter2-token")).warnings == ("dropped <secret>",)
        fake.always(200, '{"status":"error","errorType":"bad_data","error":"hunter2-token"}')
        assert "hunter2" not in str(fault(fake.url, bearer=Secret("hunter2-token")))

    def test_environment_is_ignored(
        self, fake: FakePrometheus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither .netrc nor proxy variables change where and as whom we ask."""
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login evil password evil\n")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        fake.authorization = "Bearer token"
        assert ask(fake.url, bearer=Secret("token")).block.values.tolist() == [[0.0]]
        assert [one.headers["authorization"] for one in fake.seen] == ["Bearer token"]
        assert fault(fake.url).reason == "auth", "no login out of .netrc either"
        assert "authorization" not in fake.seen[-1].headers

    def test_cookies_are_not_kept(self, fake: FakePrometheus) -> None:
        """A cookie that a proxy sets is not sent back."""
        fake.then(500, "x", {"Set-Cookie": "session=1; Path=/"})
        assert ask(fake.url).block.values.tolist() == [[0.0]]
        assert ["cookie" in one.headers for one in fake.seen] == [False, False], "asked again, and without it"

    def test_proxy(self, fake: FakePrometheus) -> None:
        """A proxy is used when the settings name one."""
        assert ask("http://prometheus.invalid:9090", proxy_url=fake.url).block.values.tolist() == [[0.0]]

    def test_spec_is_safe_to_print(self) -> None:
        """Neither a spec nor a source shows a secret."""
        spec = SourceSpec("a", "http://h", bearer=Secret("hunter2"), headers={"X-Key": Secret("hunter2")})
        assert "hunter2" not in repr(spec)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority nobody knows."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


class TestTls:
    """Transport security."""

    def test_unknown_authority(self, fake: FakePrometheus, certificates: Certificates) -> None:
        """A certificate of an unknown authority is refused, unless the settings insist."""
        with FaultProxy(fake.url, certificates.server_context()) as proxy:
            error = fault(proxy.url)
            assert error.reason == "connect"
            assert "certificate verify failed" in str(error)
            assert not fake.seen
            ask(proxy.url, insecure_skip_verify=True)

    def test_own_authority(self, fake: FakePrometheus, certificates: Certificates) -> None:
        """With its authority named the certificate is good, for its own names only."""
        with FaultProxy(fake.url, certificates.server_context()) as proxy:
            ask(proxy.url, ca_file=str(certificates.ca))
            ask(proxy.url, ca_file=str(certificates.ca), server_name="localhost")
            error = fault(proxy.url, ca_file=str(certificates.ca), server_name="elsewhere.example")
        assert error.reason == "connect"
        assert "elsewhere.example" in str(error)

    def test_client_certificate(self, fake: FakePrometheus, certificates: Certificates) -> None:
        """A server that asks for a client certificate gets ours."""
        ca, cert, key = str(certificates.ca), str(certificates.client), str(certificates.client_key)
        with FaultProxy(fake.url, certificates.server_context(ask_client=True)) as proxy:
            ask(proxy.url, ca_file=ca, cert_file=cert, key_file=key)
            assert fault(proxy.url, ca_file=ca).reason == "connect"

    def test_missing_files(self, certificates: Certificates) -> None:
        """A certificate file that is not there is said to be missing."""
        error = fault("https://127.0.0.1:1", ca_file="/nowhere/ca.pem")
        assert error.reason == "connect"
        assert "/nowhere/ca.pem" in str(error)

    def test_silent_handshake(self) -> None:
        """A server that never finishes the handshake is given up at the deadline."""
        with FakePrometheus() as fake, FaultProxy(fake.url) as proxy:
            proxy.fault = BlackHole(0)
            url = proxy.url.replace("http://", "https://")
            error, seconds = timed(lambda: fault(url, timeout_s=0.4))
        assert error.reason in ("timeout", "connect")
        assert seconds < 1.5

    def test_drip_in_tls(self, fake: FakePrometheus, certificates: Certificates) -> None:
        """The deadline holds inside TLS too."""
        with FaultProxy(fake.url, certificates.server_context()) as proxy:
            proxy.fault = Drip(1, 0.05)
            error, seconds = timed(lambda: fault(proxy.url, timeout_s=0.5, ca_file=str(certificates.ca)))
        assert error.reason == "timeout"
        assert seconds < 1.5


class TestPartial:
    """Data that may be missing (rows 9, 10), and what we ask the servers to do about it."""

    @pytest.mark.parametrize(
        ("warnings", "partial"),
        [
            ([], False),
            (["store 10.0.0.1 unavailable"], True),
            (["PromQL warning: bucket label missing"], False),
            (["PromQL info: not a counter"], False),
            (["PromQL info: not a counter", "No StoreAPIs matched for this query"], True),
        ],
    )
    @pytest.mark.parametrize("how", ["instant", "range", "samples"])
    def test_warnings(self, fake: FakePrometheus, warnings: list[str], partial: bool, how: str) -> None:
        """A warning that is not a remark on the expression means that data may be missing."""
        fake.warnings = warnings
        source = reader(fake.url)
        reply = {
            "instant": lambda: source.instant("up", AT),
            "range": lambda: source.range("up", AT - MINUTE, AT, MINUTE),
            "samples": lambda: source.samples("up", AT, MINUTE),
        }[how]()
        source.close()
        assert reply.partial is partial
        assert reply.warnings + reply.infos == tuple(sorted(warnings, key=lambda w: "info" in w))

    @pytest.mark.parametrize(("mark", "partial"), [(None, False), (False, False), (True, True)])
    def test_is_partial(self, fake: FakePrometheus, mark: bool | None, partial: bool) -> None:
        """VictoriaMetrics marks a partial answer in another way."""
        fake.kind, fake.is_partial = "victoriametrics", mark
        assert ask(fake.url, kind="victoriametrics").partial is partial

    def test_infos(self, fake: FakePrometheus) -> None:
        """Hints are passed on and change nothing."""
        fake.infos = ["PromQL info: metric might not be a counter"]
        reply = ask(fake.url)
        assert (reply.partial, reply.infos) == (False, ("PromQL info: metric might not be a counter",))

    def test_limit(self, fake: FakePrometheus) -> None:
        """An answer cut to our own limit is limited, not partial."""
        fake.series = [FakeSeries({"__name__": "up", "i": str(i)}, {AT: 1.0}) for i in range(5)]
        source = reader(fake.url)
        reply = source.instant("up", AT, limit=3)
        assert (len(reply.block), reply.limited, reply.partial) == (3, True, False)
        reply = source.range("up", AT, AT, MINUTE, limit=5)
        assert (len(reply.block), reply.limited, reply.partial) == (5, False, False)
        source.close()

    @pytest.mark.parametrize(
        ("kind", "deny", "expected"),
        [
            ("prometheus", True, {}),
            ("mimir", True, {}),
            ("thanos", True, {"partial_response": "false"}),
            ("thanos", False, {}),
            ("victoriametrics", True, {"nocache": "1", "deny_partial_response": "1"}),
            ("victoriametrics", False, {"nocache": "1"}),
        ],
    )
    def test_parameters(self, fake: FakePrometheus, kind: str, deny: bool, expected: dict[str, str]) -> None:
        """Each kind of server is asked in its own words not to answer with a part, on the grid asked for."""
        fake.kind = kind
        source = reader(fake.url, kind=kind, deny_partial=deny, extra_params={"stats": "all"})
        source.instant("up", AT)
        source.range("up", AT - MINUTE, AT, MINUTE)
        source.close()
        for one in fake.queries():
            params = dict(one.params)
            assert params.pop("timeout").endswith("ms")
            assert params.pop("stats") == "all"
            for name in ("query", "time", "start", "end", "step"):
                params.pop(name, None)
            assert params == expected


class TestSeries:
    """Odd series (rows 13, 14, 18, 24 to 28)."""

    def test_twice_the_same_labels(self, fake: FakePrometheus) -> None:
        """Of series with equal labels none is believed; the others are."""
        fake.series = [FakeSeries({"__name__": "up", "i": i}, {AT: 1.0}) for i in ("1", "2", "2", "3")]
        source = reader(fake.url)
        for reply in (source.instant("up", AT), source.range("up", AT - 20_000 * MINUTE, AT, MINUTE)):
            assert [dict(labels)["i"] for labels in reply.block.labels] == ["1", "3"]
            assert reply.ambiguous == ((("__name__", "up"), ("i", "2")),)
            assert reply.duplicates == 2
        source.close()

    def test_no_labels(self, fake: FakePrometheus) -> None:
        """No labels and no name are an identity too."""
        fake.series = [FakeSeries({}, {AT: 1.0}), FakeSeries({"a": "b"}, {AT: 2.0})]
        source = reader(fake.url)
        assert source.instant("{}", AT).block.labels == ((), (("a", "b"),))
        source.close()

    def test_odd_numbers(self, fake: FakePrometheus) -> None:
        """Huge, tiny and negative zero are themselves; what is not finite is missing and counted."""
        values = [1e308, -1e308, 5e-324, -0.0, float("nan"), float("inf"), -float("inf"), 0.1]
        fake.series = [FakeSeries({"__name__": "up"}, {AT + i * MINUTE: value for i, value in enumerate(values)})]
        source = reader(fake.url)
        reply = source.range("up", AT, AT + 7 * MINUTE, MINUTE)
        source.close()
        found = reply.block.values[0]
        assert found[[0, 1, 2, 3, 7]].tobytes() == np.array([1e308, -1e308, 5e-324, -0.0, 0.1]).tobytes()
        assert np.isnan(found[4:7]).all()
        assert reply.nonfinite == 3

    def test_disordered(self, fake: FakePrometheus) -> None:
        """Samples out of order are put in order and counted."""
        at = AT // 1000
        values = f'[[{at},"3"],[{at - 60},"1"],[{at},"2"]]'
        body = f'{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":{values}}}]}}}}'
        fake.always(text=body)
        source = reader(fake.url)
        reply = source.range("up", AT - MINUTE, AT, MINUTE)
        source.close()
        assert reply.block.values.tolist() == [[1.0, 2.0]]
        assert reply.disordered == 1

    @pytest.mark.parametrize("how", ["instant", "range"])
    def test_native_histogram(self, fake: FakePrometheus, how: str) -> None:
        """A native histogram is refused with advice."""
        histogram = {"count": "12", "sum": "3.5", "buckets": [[0, "0.25", "0.5", "7"]]}
        fake.series.append(FakeSeries({"__name__": "up", "job": "h"}, histogram=histogram))
        source = reader(fake.url)
        ask_for = {"instant": lambda: source.instant("up", AT), "range": lambda: source.range("up", AT, AT, MINUTE)}
        with pytest.raises(QueryRejected, match="histogram_quantile") as caught:
            ask_for[how]()
        source.close()
        assert caught.value.reason == "native_histogram"

    def test_chunks(self, fake: FakePrometheus) -> None:
        """A long range is asked for in parts that never repeat a point, and is one grid."""
        start, end = AT - 25_000 * 1000, AT
        source = reader(fake.url)
        reply = source.range("up", start, end, 1000)
        source.close()
        assert reply.block.times.tolist() == list(range(start, end + 1, 1000))
        edges = [(one.params["start"], one.params["end"]) for one in fake.queries()]
        first = start // 1000
        assert edges == [
            (str(first), str(first + 359)),
            (str(first + 360), str(first + 11_359)),
            (str(first + 11_360), str(first + 22_359)),
            (str(first + 22_360), str(first + 25_000)),
        ]
        for i in range(9):
            assert reply.block.values[0, -1 - i * 60] == i

    def test_parts_of_even_size(self, fake: FakePrometheus) -> None:
        """Much data is read in parts of a few megabytes, however long the range is."""
        times = range(AT - 2_999 * 1000, AT + 1, 1000)
        bulky = f"{'0' * 1_100}.5"
        samples = dict.fromkeys(times, bulky)
        fake.series = [FakeSeries({"__name__": "up", "i": str(i)}, samples) for i in range(4)]
        source = reader(fake.url, timeout_s=60.0)
        reply = source.range("up", times[0], AT, 1000)
        source.close()
        assert (reply.block.values == 0.5).all()
        sizes = [int(one.params["end"]) - int(one.params["start"]) + 1 for one in fake.queries()]
        assert sizes[0] == 360
        assert sum(sizes) == 3_000
        assert 1_000 < sizes[1] < 2_000

    def test_series_that_come_and_go(self, fake: FakePrometheus) -> None:
        """A series that is in some parts of a range only is NaN elsewhere, and keeps its own row."""
        early, late = AT - 24_000 * MINUTE, AT
        fake.series = [
            FakeSeries({"__name__": "up", "i": "early"}, {early: 1.0}),
            FakeSeries({"__name__": "up", "i": "late"}, {late: 2.0}),
        ]
        source = reader(fake.url)
        reply = source.range("up", early, late, MINUTE)
        source.close()
        rows = {dict(labels)["i"]: row for row, labels in enumerate(reply.block.labels)}
        values = reply.block.values
        assert (values[rows["early"], 0], values[rows["late"], -1]) == (1.0, 2.0)
        assert np.isfinite(values).sum() == 5 + 1

    def test_too_much_for_one_request(self, fake: FakePrometheus) -> None:
        """Where a part is too large, for the server or for the byte cap, shorter ones are asked for."""
        fake.max_samples = 100
        source = reader(fake.url)
        reply = source.range("up", AT - 399 * 1000, AT, 1000)
        assert np.isfinite(reply.block.values).all()
        fake.max_samples = 10_000
        small = reader(fake.url, max_response_bytes=2_000)
        again = small.range("up", AT - 399 * 1000, AT, 1000)
        assert again.block.values.tolist() == reply.block.values.tolist()
        with pytest.raises(SourceUnavailable, match="max_response_bytes"):
            reader(fake.url, max_response_bytes=10).range("up", AT - 399 * 1000, AT, 1000)
        source.close()
        small.close()

    def test_nothing_before_retention(self, fake: FakePrometheus) -> None:
        """An empty success is a block without series over the grid that was asked for."""
        source = reader(fake.url)
        reply = source.range("up", AT - 40_000 * MINUTE, AT - 20_001 * MINUTE, MINUTE)
        source.close()
        assert reply.block.values.shape == (0, 20_000)
        assert len(reply.block.times) == 20_000

    @pytest.mark.parametrize("offset_s", [-600.0, 0.0, 600.0])
    def test_clock_skew(self, fake: FakePrometheus, offset_s: float) -> None:
        """How far the source's clock is off is measured; the time of a query is still ours."""
        fake.date_offset_s = offset_s
        source = reader(fake.url)
        assert source.skew_ms is None
        source.instant("up", AT)
        assert source.skew_ms is not None
        assert abs(source.skew_ms - offset_s * 1000) < 2_000
        assert fake.seen[0].params["time"] == "1700000040"
        source.close()

    def test_future_sample(self, fake: FakePrometheus) -> None:
        """A sample from after the time of the query is not taken for the present."""
        fake.always(text='{"status":"success","data":{"resultType":"scalar","result":[1700000640,"1"]}}')
        assert fault(fake.url).reason == "protocol"

    def test_whole_deadline(self, fake: FakePrometheus) -> None:
        """A deadline given for a range holds for all of its requests together."""
        with FaultProxy(fake.url) as proxy:
            proxy.fault = Delay(0.3)
            source = reader(proxy.url)
            begun = time.monotonic()
            with pytest.raises(SourceUnavailable) as caught:
                source.range("up", AT - 80_000 * 1000, AT, 1000, deadline_s=0.7)
            assert time.monotonic() - begun < 1.5
            source.close()
        assert caught.value.reason == "timeout"


