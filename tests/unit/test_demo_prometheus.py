"""The demo's Prometheus answers as the real one does, never looks ahead, and refuses what it cannot answer."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import VirtualClock
from anomalyd.demo.prometheus import LOOKBACK_MS, MAX_POINTS, DemoPrometheus

T0 = 1_762_000_200_000
STEP = 300_000
NAMES = ({"__name__": "shop:orders:rate5m", "region": "eu"}, {"__name__": "shop:orders:rate5m", "region": "us"},
         {"__name__": "shop:queue_depth", "queue": "ma\"il"})  # fmt: skip
VALUES = [
    [1.5, 2.0, np.nan, 4.0, 5.0, 6.0],
    [10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
    [1e-05, np.inf, 3e21, 0.0, 1e-07, -2.0],
]


class Served:
    """A demo server over six samples of three series, its clock at the fifth sample."""

    def __init__(self) -> None:
        labels = tuple(make_labels(pairs) for pairs in NAMES)
        self.clock = VirtualClock(T0 + 4 * STEP)
        block = Block(labels, T0 + STEP * np.arange(6, dtype=np.int64), np.array(VALUES))
        self.server = DemoPrometheus(block, self.clock.now_ms)

    def ask(self, path: str, method: str = "GET", /, **params: Any) -> tuple[int, Any]:
        form = urlencode({name.replace("match", "match[]"): value for name, value in params.items()}, doseq=True)
        connection = http.client.HTTPConnection(self.server.url.removeprefix("http://"), timeout=10)
        try:
            if method == "POST":
                connection.request("POST", path, form, {"Content-Type": "application/x-www-form-urlencoded"})
            else:
                connection.request(method, f"{path}?{form}")
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if answer.headers["Content-Type"] == "application/json" else text
        finally:
            connection.close()

    def vector(self, query: str, at_ms: int) -> dict[str, str]:
        """Region (or queue) to value of an instant query."""
        status, body = self.ask("/api/v1/query", query=query, time=at_ms / 1000)
        assert (status, body["status"], body["data"]["resultType"]) == (200, "success", "vector")
        assert all(item["value"][0] == at_ms / 1000 for item in body["data"]["result"])
        values = {}
        for item in body["data"]["result"]:
            values[item["metric"].get("region", item["metric"].get("queue"))] = item["value"][1]
        return values


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = Served()
    with made.server:
        yield made


def test_instant_query_gives_the_newest_sample_within_five_minutes(served: Served) -> None:
    """Lookback is five minutes and left-open, as in Prometheus 3; a gap is not filled beyond it."""
    assert served.vector("shop:orders:rate5m", T0 + STEP) == {"eu": "2", "us": "20"}
    assert served.vector("shop:orders:rate5m", T0 + STEP + LOOKBACK_MS - 1) == {"eu": "2", "us": "20"}
    assert served.vector("shop:orders:rate5m", T0 + 2 * STEP) == {"us": "30"}
    assert served.vector("shop:orders:rate5m", T0 - 1) == {}


def test_nothing_newer_than_the_clock_is_served(served: Served) -> None:
    """Whatever time is asked for, by whatever call, the sixth sample does not exist yet."""
    future = T0 + 5 * STEP
    assert served.vector('shop:orders:rate5m{region="us"}', future - 1) == {"us": "50"}
    assert served.vector('shop:orders:rate5m{region="us"}', future) == {}
    span = {"start": T0 / 1000, "end": (future + STEP) / 1000, "step": 300}
    _, body = served.ask("/api/v1/query_range", query='shop:orders:rate5m{region="us"}', **span)
    assert [value for _, value in body["data"]["result"][0]["values"]] == ["10", "20", "30", "40", "50"]
    _, body = served.ask("/api/v1/query", query='shop:orders:rate5m{region="us"}[1h]', time=(future + STEP) / 1000)
    assert body["data"]["result"][0]["values"][-1] == [(T0 + 4 * STEP) // 1000, "50"]


def test_the_clock_is_read_at_each_request() -> None:
    """When the clock moves on, the next sample appears; without `time` the query is for now."""
    made = Served()
    with made.server:
        made.clock.advance_to(T0 + 5 * STEP)
        assert made.vector('shop:orders:rate5m{region="us"}', T0 + 5 * STEP) == {"us": "60"}
        _, body = made.ask("/api/v1/query", query='shop:orders:rate5m{region="us"}')
        assert body["data"]["result"][0]["value"] == [(T0 + 5 * STEP) // 1000, "60"]


def test_range_query_is_on_the_asked_grid(served: Served) -> None:
    """Points stand at start + k·step with lookback; a missing one is absent; GET and POST answer alike."""
    span = {"start": (T0 + 60_000) / 1000, "end": (T0 + 3 * STEP) / 1000, "step": "2m30s"}
    got, posted = (
        served.ask("/api/v1/query_range", method, query="shop:orders:rate5m", **span) for method in ("GET", "POST")
    )
    assert got == posted
    eu, us = got[1]["data"]["result"]
    assert eu["metric"] == dict(NAMES[0])
    second = (T0 + 60_000) // 1000
    assert eu["values"] == [[second, "1.5"], [second + 150, "1.5"], [second + 300, "2"], [second + 450, "2"]]
    assert [value for _, value in us["values"]] == ["10", "10", "20", "20", "30", "30"]


def test_raw_samples_of_a_range_selector(served: Served) -> None:
    """An instant query for `x[10m]` gives stored samples at their own times in the left-open window."""
    _, body = served.ask("/api/v1/query", query='shop:orders:rate5m{region="eu"}[10m]', time=(T0 + 3 * STEP) / 1000)
    assert body["data"] == {
        "resultType": "matrix",
        "result": [{"metric": NAMES[0], "values": [[(T0 + 3 * STEP) // 1000, "4"]]}],
    }


def test_numbers_are_written_as_go_writes_them(served: Served) -> None:
    """No exponent between 1e-6 and 1e21, +Inf by name, no trailing `.0`."""
    written = [served.vector("shop:queue_depth", T0 + i * STEP)['ma"il'] for i in range(5)]
    assert written == ["0.00001", "+Inf", "3e+21", "0", "1e-07"]


@pytest.mark.parametrize(
    ("query", "regions"),
    [
        ('shop:orders:rate5m{region="eu"}', {"eu"}),
        ('shop:orders:rate5m{region!="eu"}', {"us"}),
        ('shop:orders:rate5m{region=~"e.|x"}', {"eu"}),
        ('shop:orders:rate5m{region!~"e.*"}', {"us"}),
        ('shop:orders:rate5m{region=~"e"}', set()),
        ('{__name__=~"shop:.+",queue=""}', {"eu", "us"}),
        ('{queue="ma\\"il"}', {'ma"il'}),
        ("shop:unknown", set()),
    ],
)
def test_matchers(served: Served, query: str, regions: set[str]) -> None:
    """All four operators, anchored regular expressions, and an absent label equal to an empty one."""
    assert set(served.vector(query, T0)) == regions


@pytest.mark.parametrize(
    ("path", "params", "says"),
    [
        ("query", {"query": "rate(shop:orders:rate5m[5m])"}, "plain selectors"),
        ("query", {"query": "shop:orders:rate5m * 2"}, "plain selectors"),
        ("query", {"query": "shop:orders:rate5m offset 5m"}, "plain selectors"),
        ("query", {"query": "shop:orders:rate5m @ 5"}, "plain selectors"),
        ("query", {"query": '{queue="a" or region="eu"}'}, "`or`"),
        ("query", {"query": "(" * 3_000}, "longer than 2000"),
        ("query", {"query": "shop:orders:rate5m{"}, "unexpected end"),
        ("query", {"query": 'shop:orders:rate5m{region=~"("}'}, "regex"),
        ("query", {"query": 'shop:orders:rate5m{region=~"\\\\pL+"}'}, "error parsing regexp"),
        ("query", {}, "query"),
        ("query", {"query": "up", "time": "yesterday"}, "time"),
        ("query", {"query": "up", "time": "1e300"}, "time"),
        ("query", {"query": "up", "time": "NaN"}, "time"),
        ("query_range", {"query": "up", "start": "0", "end": "10"}, "step"),
        ("query_range", {"query": "up", "start": "0", "end": "10", "step": "0"}, "zero or negative"),
        ("query_range", {"query": "up", "start": "0", "end": "10", "step": "fast"}, "step"),
        ("query_range", {"query": "up", "start": "10", "end": "0", "step": "1"}, "end timestamp"),
        ("query_range", {"query": "up", "end": "0", "step": "1"}, "start"),
        ("query_range", {"query": "up[5m]", "start": "0", "end": "1", "step": "1"}, "range vector"),
        ("query_range", {"query": "up", "start": "0", "end": MAX_POINTS + 1, "step": "1"}, "11,000 points per"),
        ("series", {}, "match[]"),
    ],
)
def test_bad_requests_get_the_real_error_shape(served: Served, path: str, params: dict[str, Any], says: str) -> None:
    """400, bad_data, and a message that names the cause."""
    status, body = served.ask(f"/api/v1/{path}", **params)
    assert (status, body["status"], body["errorType"]) == (400, "error", "bad_data")
    assert says in body["error"]


def test_as_many_points_as_prometheus_allows(served: Served) -> None:
    """11,001 points (11,000 steps) are answered."""
    status, _ = served.ask("/api/v1/query_range", query="up", start=0, end=MAX_POINTS, step=1)
    assert status == 200


def test_series_labels_and_values(served: Served) -> None:
    """The metadata calls know matchers and the time window."""
    assert served.ask("/api/v1/series", match="shop:orders:rate5m")[1]["data"] == list(NAMES[:2])
    assert served.ask("/api/v1/series", match=["shop:queue_depth", '{region="us"}'])[1]["data"] == [NAMES[1], NAMES[2]]
    assert served.ask("/api/v1/series", match="shop:queue_depth", end=T0 / 1000 - 1)[1]["data"] == []
    assert served.ask("/api/v1/labels")[1]["data"] == ["__name__", "queue", "region"]
    assert served.ask("/api/v1/labels", match='{region="eu"}')[1]["data"] == ["__name__", "region"]
    assert served.ask("/api/v1/label/region/values")[1]["data"] == ["eu", "us"]


def test_time_may_be_rfc3339(served: Served) -> None:
    """Unix seconds and RFC 3339 mean the same."""
    _, body = served.ask("/api/v1/query", query='shop:orders:rate5m{region="us"}', time="2025-11-01T12:30:00Z")
    assert body["data"]["result"][0]["value"] == [T0 // 1000, "10"]


@pytest.mark.parametrize("path", ["/-/ready", "/-/healthy"])
def test_health_endpoints(served: Served, path: str) -> None:
    """Ready and healthy, also for HEAD, which has no body."""
    assert served.ask(path)[0] == 200
    assert served.ask(path, "HEAD") == (200, "")


def test_about_the_server_and_unknown_paths(served: Served) -> None:
    """Build information says that this is no real Prometheus; other paths are not found."""
    assert "demo" in served.ask("/api/v1/status/buildinfo")[1]["data"]["version"]
    assert served.ask("/api/v1/status/runtimeinfo")[1]["data"]["serverTime"].startswith("2025-11-01T12:50:00")
    assert served.ask("/api/v1/status/flags")[1]["data"]["query.lookback-delta"] == "5m"
    assert served.ask("/api/v1/metadata")[1]["data"] == {}
    for path in ("/api/v1/nothing", "/", "/api/v2/query", "/api/v1/label/x"):
        assert served.ask(path)[0] == 404


def test_oversized_and_lengthless_bodies_are_refused(served: Served) -> None:
    """A body without a length or beyond the limit is refused and the connection closed."""
    for headers, status in (({"Transfer-Encoding": "chunked"}, 411), ({"Content-Length": "99999999999"}, 413)):
        connection = http.client.HTTPConnection(served.server.url.removeprefix("http://"), timeout=10)
        connection.putrequest("POST", "/api/v1/query")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == status
        assert answer.headers["Connection"] == "close"
        answer.read()
        connection.close()
