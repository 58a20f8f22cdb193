"""The Prometheus HTTP API over a ``Block``, for plain selectors, as of a clock.

Invariant: no sample newer than the clock is ever served, so the daemon under the demo cannot look ahead. Whatever is
beyond selectors (functions, operators, `offset`, `@`) is refused as Prometheus refuses a bad query, with the reason.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import numpy as np
import promql_parser

from anomalyd import __version__
from anomalyd.block import I64, Block, Labels
from anomalyd.clock import MINUTE_MS
from anomalyd.demo.server import LoopbackServer, Request, Response, text_response

LOOKBACK_MS = 5 * MINUTE_MS
MAX_POINTS = 11_000
MAX_QUERY = 2_000
_API = "/api/v1/"
_FAR = 2**53
"""Times beyond this many milliseconds are not times."""


class _Bad(ValueError):
    """A request that Prometheus answers with 400 `bad_data`."""


@dataclass(frozen=True, slots=True)
class _Selector:
    """A parsed selector: the rows it matches, and the length of its range (0: an instant selector)."""

    rows: tuple[int, ...]
    range_ms: int


class DemoPrometheus(LoopbackServer):
    """Serves a block as a Prometheus would at ``now()`` (milliseconds).

    Start it with ``start`` or as a context manager; ``url`` is what goes into a source's settings.
    """

    def __init__(self, block: Block, now: Callable[[], int]):
        super().__init__(self._respond, "demo-prometheus")
        self._block = block
        self._now = now
        self._metric = [msgspec.json.encode(dict(labels)) for labels in block.labels]
        self._last = _last_sample(block)
        self._order = sorted(range(len(block)), key=lambda row: block.labels[row])
        self._select = functools.lru_cache(maxsize=256)(self._parse)
        self._routes: dict[str, Callable[[Request], bytes]] = {
            "query": self._query,
            "query_range": self._query_range,
            "series": self._series,
            "labels": self._label_names,
            "status/buildinfo": self._buildinfo,
            "status/flags": self._flags,
            "status/runtimeinfo": self._runtimeinfo,
            "metadata": self._metadata,
        }

    def rows(self, selector: str) -> tuple[int, ...]:
        """The block's rows that a selector matches; raise ``ValueError`` for anything but a plain selector."""
        return self._select(selector).rows

    def _respond(self, request: Request) -> Response:
        if request.path in ("/-/ready", "/-/healthy"):
            word = "Ready" if request.path.endswith("ready") else "Healthy"
            return text_response(200, f"Prometheus Server is {word}.\n")
        route = self._route(request.path)
        if route is None:
            return text_response(404, "404 page not found\n")
        try:
            return Response(200, b'{"status":"success","data":' + route(request) + b"}")
        except _Bad as error:
            body = {"status": "error", "errorType": "bad_data", "error": str(error)}
            return Response(400, msgspec.json.encode(body))

    def _route(self, path: str) -> Callable[[Request], bytes] | None:
        if not path.startswith(_API):
            return None
        name = path[len(_API) :]
        if name in self._routes:
            return self._routes[name]
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "label" and parts[2] == "values":
            return lambda request: self._label_values(request, parts[1])
        return None

    # -- samples

    def _query(self, request: Request) -> bytes:
        now = self._now()
        at = _time(request, "time", now)
        selector = self._select(_required(request, "query"))
        if selector.range_ms:
            return _result(b"matrix", self._raw(selector, at, now))
        column = int(np.searchsorted(self._block.times, min(at, now), "right")) - 1
        return _result(b"vector", self._instant(selector.rows, at, column))

    def _instant(self, rows: Sequence[int], at: int, column: int) -> list[bytes]:
        items: list[bytes] = []
        if column < 0:
            return items
        stamp = _seconds(at)
        for row in rows:
            last = int(self._last[row, column])
            if last >= 0 and self._block.times[last] > at - LOOKBACK_MS:
                number = _number(float(self._block.values[row, last]))
                items.append(b'{"metric":%b,"value":[%b,"%b"]}' % (self._metric[row], stamp, number))
        return items

    def _raw(self, selector: _Selector, at: int, now: int) -> list[bytes]:
        """The stored samples in the left-open window, at their own times."""
        first, stop = np.searchsorted(self._block.times, [at - selector.range_ms, min(at, now)], "right")
        columns = np.arange(first, stop)
        stamps = self._block.times[columns]
        return [item for row in selector.rows if (item := self._matrix_row(row, stamps, columns))]

    def _query_range(self, request: Request) -> bytes:
        now = self._now()
        query = _required(request, "query")
        start, end = _time(request, "start", None), _time(request, "end", None)
        step = _duration(_required(request, "step"))
        if end < start:
            raise _Bad('invalid parameter "end": end timestamp must not be before start time')
        if (end - start) // step > MAX_POINTS:
            raise _Bad(
                "exceeded maximum resolution of 11,000 points per timeseries. "
                "Try decreasing the query resolution (?step=XX)"
            )
        selector = self._select(query)
        if selector.range_ms:
            raise _Bad('invalid parameter "query": invalid expression type "range vector" for range query, '
                       "must be Scalar or instant Vector")  # fmt: skip
        grid = np.arange(start, end + 1, step, dtype=np.int64)
        columns = np.searchsorted(self._block.times, np.minimum(grid, now), "right") - 1
        return _result(b"matrix", [item for row in selector.rows if (item := self._grid_row(row, grid, columns))])

    def _grid_row(self, row: int, grid: I64, columns: I64) -> bytes:
        last = np.where(columns >= 0, self._last[row, np.maximum(columns, 0)], -1)
        fresh = (last >= 0) & (self._block.times[np.maximum(last, 0)] > grid - LOOKBACK_MS)
        return self._matrix_row(row, grid[fresh], last[fresh])

    def _matrix_row(self, row: int, stamps: I64, columns: I64) -> bytes:
        values = self._block.values[row, columns].tolist()
        pairs = [
            b'[%b,"%b"]' % (_seconds(stamp), _number(value))
            for stamp, value in zip(stamps.tolist(), values, strict=True)
            if not math.isnan(value)
        ]
        return b'{"metric":%b,"values":[%b]}' % (self._metric[row], b",".join(pairs)) if pairs else b""

    # -- series and labels

    def _series(self, request: Request) -> bytes:
        _required(request, "match[]")
        return b"[" + b",".join(self._metric[row] for row in self._matched(request)) + b"]"

    def _label_names(self, request: Request) -> bytes:
        rows = self._matched(request)
        return msgspec.json.encode(sorted({name for row in rows for name, _ in self._block.labels[row]}))

    def _label_values(self, request: Request, label: str) -> bytes:
        rows = self._matched(request)
        return msgspec.json.encode(
            sorted({value for row in rows for name, value in self._block.labels[row] if name == label})
        )

    def _matched(self, request: Request) -> list[int]:
        """Rows any `match[]` selects (all rows without one) that have a sample between `start` and `end`."""
        now = self._now()
        start, end = _time(request, "start", 0), min(_time(request, "end", now), now)
        rows = set(self._order)
        if request.params.get("match[]"):
            rows = {row for query in request.params["match[]"] for row in self._select(query).rows}
        first, stop = np.searchsorted(self._block.times, [start, end + 1], "left")
        return [r for r in self._order if r in rows and not np.isnan(self._block.values[r, first:stop]).all()]

    # -- about the server

    def _buildinfo(self, _: Request) -> bytes:
        return msgspec.json.encode({
            "version": f"0.0.0-anomalyd-demo-{__version__}", "revision": "", "branch": "", "buildUser": "",
            "buildDate": "", "goVersion": "",
        })  # fmt: skip

    def _flags(self, _: Request) -> bytes:
        return b'{"query.lookback-delta":"5m","query.timeout":"2m","query.max-samples":"50000000"}'

    def _runtimeinfo(self, _: Request) -> bytes:
        now = datetime.fromtimestamp(self._now() / 1000, tz=UTC)
        return msgspec.json.encode({"serverTime": now.isoformat(), "timeSeriesCount": len(self._block)})

    def _metadata(self, _: Request) -> bytes:
        return b"{}"

    # -- parsing

    def _parse(self, query: str) -> _Selector:
        if len(query) > MAX_QUERY:  # the parser's recursion is not guarded
            raise _Bad(f'invalid parameter "query": longer than {MAX_QUERY} characters')
        try:
            expr = promql_parser.parse(query)
        except ValueError as error:
            raise _Bad(f'invalid parameter "query": {error}') from error
        range_ms = 0
        if isinstance(expr, promql_parser.MatrixSelector):
            range_ms = int(expr.range.total_seconds() * 1000)
            expr = expr.vector_selector
        if not isinstance(expr, promql_parser.VectorSelector) or expr.offset is not None or expr.at is not None:
            raise _Bad(
                'invalid parameter "query": the demo server answers plain selectors such as '
                'shop:orders:rate5m{region="eu"}; functions, operators, offset and @ need a real Prometheus'
            )
        tests = [_matcher(m.name, m.op, m.value) for m in expr.matchers.matchers]
        if expr.matchers.or_matchers:
            raise _Bad('invalid parameter "query": the demo server does not answer `or` between matchers')
        if expr.name:
            tests.append(_matcher("__name__", promql_parser.MatchOp.Equal, expr.name))
        rows = [row for row in self._order if all(test(self._block.labels[row]) for test in tests)]
        return _Selector(tuple(rows), range_ms)


def _last_sample(block: Block) -> I64:
    """For each series and time [N, T], the column of the newest sample not after it; -1 where there is none."""
    here = np.where(np.isnan(block.values), -1, np.arange(len(block.times)))
    return np.asarray(np.maximum.accumulate(here, axis=1), dtype=np.int64)


def _matcher(name: str, op: promql_parser.MatchOp, value: str) -> Callable[[Labels], bool]:
    if op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.NotEqual):
        wanted = op == promql_parser.MatchOp.Equal
        return lambda labels: (dict(labels).get(name, "") == value) == wanted
    try:
        pattern = re.compile(value, re.DOTALL)
    except re.error as error:
        raise _Bad(f'invalid parameter "query": error parsing regexp: {error}: `{value}`') from error
    wanted = op == promql_parser.MatchOp.Re
    return lambda labels: (pattern.fullmatch(dict(labels).get(name, "")) is not None) == wanted


def _result(kind: bytes, items: list[bytes]) -> bytes:
    return b'{"resultType":"%b","result":[%b]}' % (kind, b",".join(items))


def _number(value: float) -> bytes:
    """A sample as Go prints it: the shortest text that reads back, without an exponent where it is short."""
    if math.isinf(value):
        return b"+Inf" if value > 0 else b"-Inf"
    text = repr(value)
    if "e" in text and (1e-6 <= abs(value) < 1e21):
        text = format(Decimal(text), "f")
    return text.removesuffix(".0").encode()


def _seconds(ms: int) -> bytes:
    whole, rest = divmod(ms, 1000)
    return b"%d.%03d" % (whole, rest) if rest else b"%d" % whole


def _required(request: Request, name: str) -> str:
    value = request.first(name)
    if not value:
        raise _Bad(f'invalid parameter "{name}": empty' if name in request.params else f'missing parameter "{name}"')
    return value


def _time(request: Request, name: str, default: int | None) -> int:
    """A time parameter in milliseconds: Unix seconds or RFC 3339."""
    text = request.first(name)
    if not text and default is not None:
        return default
    at = _unix(text)
    if at is None or abs(at) > _FAR:
        raise _Bad(f'invalid parameter "{name}": cannot parse "{text}" to a valid timestamp')
    return at


def _unix(text: str) -> int | None:
    try:
        return round(float(text) * 1000)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else round(moment.timestamp() * 1000)


_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000, "y": 31_536_000_000}
_DURATION = re.compile(r"(\d+)(ms|[smhdwy])")


def _duration(text: str) -> int:
    """The `step` parameter in milliseconds: seconds or a Prometheus duration."""
    try:
        step = round(float(text) * 1000)
    except (ValueError, OverflowError):
        parts = _DURATION.findall(text)
        if "".join(count + unit for count, unit in parts) != text:
            raise _Bad(f'invalid parameter "step": cannot parse "{text}" to a valid duration') from None
        step = sum(int(count) * _UNITS[unit] for count, unit in parts)
    if not 0 < step < _FAR:
        raise _Bad(
            'invalid parameter "step": zero or negative query resolution step widths are not accepted. '
            "Try a positive integer"
        )
    return step
