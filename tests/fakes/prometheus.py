"""A strict Prometheus for tests: serves a few series by hand-written rules and whatever else a test scripts.

Strict means that it refuses what a careless client gets away with elsewhere: a query without a time, a parameter it
does not know, a POST whose form is not in the body, a wrong tenant. It answers on a loopback port of its own.

    with FakePrometheus([FakeSeries({"__name__": "up"}, {at: 1.0})]) as fake:
        fake.then(status=503, text="Service Unavailable", headers={"X-Prometheus-Stopping": "false"})
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

LOOKBACK_MS = 300_000
MAX_POINTS = 11_000

_KNOWN = {"query", "time", "start", "end", "step", "timeout", "limit", "lookback_delta", "stats"}
_KNOWN_BY_KIND = {
    "prometheus": frozenset(),
    "mimir": frozenset(),
    "thanos": frozenset({"partial_response", "dedup", "max_source_resolution"}),
    "victoriametrics": frozenset({"nocache", "deny_partial_response"}),
}
_SELECTOR = re.compile(r'\s*([a-zA-Z_:][\w:]*)?\s*(?:\{(.*)\})?\s*(?:\[(\d+)ms\])?\s*', re.S)
_MATCHER = re.compile(r'\s*(\w+)\s*(=|!=)\s*"((?:[^"\\]|\\.)*)"\s*,?')


@dataclass(frozen=True)
class FakeSeries:
    """Labels, samples by ms in order (a float, or text to be sent as it is), optionally a native histogram's JSON."""

    labels: Mapping[str, str]
    samples: Mapping[int, float | str] = field(default_factory=dict)
    histogram: Any = None


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Scripted:
    """An answer that a test wants instead of the fake's own."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Refusal(Exception):
    """An answer that is an error: an envelope, or plain text where there is no error type."""

    def __init__(self, status: int, error_type: str, error: str):
        super().__init__(status, error_type, error)
        self.status, self.error_type, self.error = status, error_type, error


def go_float(value: float | str) -> str:
    """A number as Prometheus writes it."""
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value != 0 and not 1e-6 <= abs(value) < 1e21:
        mantissa, _, exponent = repr(value).replace("E", "e").partition("e")
        if not exponent:
            mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent):+03d}"
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def go_time(ms: int) -> float | int:
    """A time as Prometheus writes it: seconds without decimals where there are none."""
    return ms // 1000 if ms % 1000 == 0 else ms / 1000


class FakePrometheus:
    """The server. Attributes may be changed while it runs.

    Attributes:
        series: what it serves.
        kind: prometheus, thanos, mimir or victoriametrics: parameters and errors it knows.
        warnings, infos: added to every success.
        is_partial: VictoriaMetrics' mark, added to every success when not None.
        tenant: required in ``X-Scope-OrgID`` when not empty.
        authorization: required ``Authorization`` header when not empty.
        post_allowed: False answers 405 to POST, as a read-only proxy does.
        max_samples: 422 when a query would load more.
        prefix: path before ``/api``.
        date_offset_s: how far its clock is ahead.
        seen: the requests so far.
    """

    def __init__(self, series: Iterable[FakeSeries] = (), kind: str = "prometheus", prefix: str = ""):
        self.series = list(series)
        self.kind = kind
        self.prefix = prefix
        self.warnings: list[str] = []
        self.infos: list[str] = []
        self.is_partial: bool | None = None
        self.tenant = ""
        self.authorization = ""
        self.post_allowed = True
        self.max_samples = 50_000_000
        self.date_offset_s = 0.0
        self.seen: list[Seen] = []
        self._scripted: list[Scripted] = []
        self._always: Scripted | None = None
        self._server = _Server(self)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.prefix}"

    def __enter__(self) -> FakePrometheus:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def then(
        self, status: int = 200, text: str | bytes = b"", headers: Mapping[str, str] | None = None, times: int = 1
    ) -> None:
        """Answer the next requests (of those not yet scripted) with this."""
        self._scripted += [_scripted(status, text, headers)] * times

    def always(self, status: int = 200, text: str | bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer every request with this."""
        self._always = _scripted(status, text, headers)

    def heal(self) -> None:
        """Answer from the series again."""
        self._always = None
        self._scripted.clear()

    def queries(self) -> list[Seen]:
        """The queries among the requests."""
        return [one for one in self.seen if "/query" in one.path]

    # ---- answering -------------------------------------------------------------------------------------------------

    def answer(self, seen: Seen, form_in_url: bool) -> Scripted:
        """The answer to a request: a scripted one first."""
        self.seen.append(seen)
        if self._scripted:
            return self._scripted.pop(0)
        if self._always is not None:
            return self._always
        try:
            self._admit(seen, form_in_url)
            return self._route(seen)
        except Refusal as refusal:
            if not refusal.error_type:
                return _scripted(refusal.status, refusal.error, {"Content-Type": "text/plain"})
            body = {"status": "error", "errorType": refusal.error_type, "error": refusal.error}
            return Scripted(refusal.status, _json(body), {"Content-Type": "application/json"})

    def _admit(self, seen: Seen, form_in_url: bool) -> None:
        if self.tenant and seen.headers.get("x-scope-orgid") != self.tenant:
            raise Refusal(401, "", "no org id")
        if self.authorization and seen.headers.get("authorization") != self.authorization:
            raise Refusal(401, "", "Unauthorized")
        if seen.method == "POST" and not self.post_allowed:
            raise Refusal(405, "", "Method Not Allowed")
        if form_in_url:
            raise Refusal(414, "bad_data", "a POST must carry its form in the body")

    def _route(self, seen: Seen) -> Scripted:
        path = seen.path.removeprefix(self.prefix)
        if not seen.path.startswith(self.prefix):
            raise Refusal(404, "", "404 page not found")
        if path == "/api/v1/status/buildinfo":
            return _success({"version": "3.14.0", "revision": "fake"})
        if path == "/api/v1/label/__name__/values":
            return _success(sorted({one.labels["__name__"] for one in self.series if "__name__" in one.labels}))
        if path not in ("/api/v1/query", "/api/v1/query_range"):
            raise Refusal(404, "", "404 page not found")
        unknown = set(seen.params) - _KNOWN - _KNOWN_BY_KIND[self.kind]
        if unknown:
            raise Refusal(400, "bad_data", f"unknown parameters {sorted(unknown)}")
        if path == "/api/v1/query":
            return self._instant(seen.params)
        return self._range(seen.params)

    def _instant(self, params: Mapping[str, str]) -> Scripted:
        at = _ms(params, "time")
        name, matchers, window = _parse(params.get("query", ""))
        if name == "vector":
            return self._data("vector", [{"metric": {}, "value": [go_time(at), "1"]}], params)
        result = []
        for one in self._select(name, matchers):
            if window:
                inside = [(ms, value) for ms, value in one.samples.items() if at - window < ms <= at]
                if inside:
                    result.append({"metric": one.labels, "values": [[go_time(ms), go_float(v)] for ms, v in inside]})
            elif one.histogram is not None:
                result.append({"metric": one.labels, "histogram": [go_time(at), one.histogram]})
            else:
                result += [{"metric": one.labels, "value": sample} for sample in _look_back(one, [at])]
        return self._data("matrix" if window else "vector", result, params)

    def _range(self, params: Mapping[str, str]) -> Scripted:
        start, end, step = _ms(params, "start"), _ms(params, "end"), _ms(params, "step")
        if end < start or step <= 0:
            raise Refusal(400, "bad_data", "end timestamp must not be before start time")
        if (end - start) // step > MAX_POINTS:
            text = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution"
            raise Refusal(400, "bad_data", text)
        name, matchers, _ = _parse(params.get("query", ""))
        selected = self._select(name, matchers)
        points = range(start, end + 1, step)
        if len(points) * len(selected) > self.max_samples:
            text = "query processing would load too many samples into memory in query execution"
            raise Refusal(422, "execution", text)
        result = []
        for one in selected:
            if one.histogram is not None:
                result.append({"metric": one.labels, "histograms": [[go_time(start), one.histogram]]})
            elif values := _look_back(one, points):
                result.append({"metric": one.labels, "values": values})
        return self._data("matrix", result, params)

    def _select(self, name: str, matchers: list[tuple[str, str, str]]) -> list[FakeSeries]:
        def matches(labels: Mapping[str, str]) -> bool:
            return all((labels.get(label, "") == value) == (op == "=") for label, op, value in matchers)

        return [one for one in self.series if name in ("", one.labels.get("__name__")) and matches(one.labels)]

    def _data(self, result_type: str, result: list[Any], params: Mapping[str, str]) -> Scripted:
        warnings = list(self.warnings)
        limit = int(params.get("limit", "0"))
        if limit and len(result) > limit:
            result = result[:limit]
            warnings.append("results truncated due to limit")
        return _success({"resultType": result_type, "result": result}, warnings, self.infos, self.is_partial)


def _success(
    data: Any, warnings: Iterable[str] = (), infos: Iterable[str] = (), is_partial: bool | None = None
) -> Scripted:
    body: dict[str, Any] = {"status": "success"}
    if is_partial is not None:
        body["isPartial"] = is_partial
    body["data"] = data
    if warnings:
        body["warnings"] = list(warnings)
    if infos:
        body["infos"] = list(infos)
    return Scripted(200, _json(body), {"Content-Type": "application/json"})


def _json(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def _scripted(status: int, text: str | bytes, headers: Mapping[str, str] | None) -> Scripted:
    body = text.encode() if isinstance(text, str) else text
    return Scripted(status, body, {"Content-Type": "application/json", **(headers or {})})


def _ms(params: Mapping[str, str], name: str) -> int:
    if name not in params:
        raise Refusal(400, "bad_data", f"a client must send {name}")
    return round(float(params[name]) * 1000)


def _parse(query: str) -> tuple[str, list[tuple[str, str, str]], int]:
    """Name, matchers and range (ms, 0 without) of a selector; ``vector(1)`` has the name ``vector``."""
    if query == "vector(1)":
        return "vector", [], 0
    found = _SELECTOR.fullmatch(query)
    if not found or not query:
        raise Refusal(400, "bad_data", f'invalid parameter "query": 1:1: parse error: {query!r}')
    name, inner, window = found.groups()
    matchers = [(m[1], m[2], m[3].replace('\\"', '"').replace("\\\\", "\\")) for m in _MATCHER.finditer(inner or "")]
    return name or "", matchers, int(window or 0)


def _look_back(series: FakeSeries, points: Iterable[int]) -> list[list[Any]]:
    """Time and value of the newest sample within the look-back at each point that has one."""
    times, texts = list(series.samples), [go_float(value) for value in series.samples.values()]
    found = []
    for at in points:
        newest = bisect_right(times, at) - 1
        if newest >= 0 and times[newest] > at - LOOKBACK_MS:
            found.append([go_time(at), texts[newest]])
    return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakePrometheus):
        self.fake = fake
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is none of the fake's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        text = body if self.command == "POST" else url.query
        params = dict(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, url.path, params, headers)
        answer = self.server.fake.answer(seen, form_in_url=self.command == "POST" and bool(url.query))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = _serve

    def date_time_string(self, timestamp: float | None = None) -> str:
        moment = time.time() if timestamp is None else timestamp
        return formatdate(moment + self.server.fake.date_offset_s, usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


