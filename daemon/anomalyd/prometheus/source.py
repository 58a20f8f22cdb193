"""``PrometheusSource``: ask a Prometheus-compatible server and get blocks.

Built on prometheus-api-client's ``PrometheusConnect``: its labels, metadata, targets and series calls work as they are
documented there, under our session's rules. Query answers take another way, because the library drops warnings and
makes an object of every sample.

Invariants: the time of every query is given, never the server's own; a range is one grid, however many requests it
took; what the server said beside the data reaches the caller.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar

import numpy as np
from prometheus_api_client import PrometheusConnect

from anomalyd.block import I64, Block, Labels
from anomalyd.clock import Clock, SystemClock
from anomalyd.errors import QueryRejected, SourceError, SourceUnavailable
from anomalyd.prometheus.deadline import Deadline
from anomalyd.prometheus.decode import (
    Decoded,
    DecodedRaw,
    Envelope,
    Histograms,
    TooLarge,
    decode_grid,
    decode_vector,
    strict_raw,
)
from anomalyd.prometheus.grid import Collector, grid
from anomalyd.prometheus.labelcache import LabelCache, Malformed, find_ambiguous
from anomalyd.prometheus.refusal import Answer, clean, error_by_type
from anomalyd.prometheus.reply import Notes, RawReply, Reply
from anomalyd.prometheus.session import SourceSession
from anomalyd.prometheus.spec import BasicAuth, SourceSpec

__all__ = ["BasicAuth", "BuildInfo", "PrometheusSource", "RawReply", "Reply", "SourceSpec"]

MAX_POINTS = 11_000
"""Points per series and request that every server accepts."""

FIRST_POINTS = 360
PART_BYTES = 8 * 1024 * 1024
MIN_POINTS = 64
"""A range is asked for in parts: the first one small, because nobody knows how many series there are, the others of
about ``PART_BYTES``. Prometheus builds an answer in memory: for larger ones it measurably works harder (16 MB cost a
third more CPU than twice 8 MB), for fewer points the labels outweigh the samples."""

_QUERYABLE = re.compile(rb'"totalQueryableSamples"\s*:\s*([0-9]{1,18})')
_TRUNCATED = "results truncated due to limit"
_HISTOGRAM_ADVICE = "wrap the expression in histogram_quantile(), histogram_count() or histogram_sum()"

Answered = TypeVar("Answered", Decoded, DecodedRaw)


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What the server says it is; empty where it does not say. For display only."""

    version: str = ""
    revision: str = ""


class PrometheusSource(PrometheusConnect):  # type: ignore[misc]  # the library has no types
    """One source of metrics; safe to use from several threads.

    All methods raise ``SourceUnavailable`` (try again next slot) or ``QueryRejected`` (the expression must change).

    Args:
        spec: where and how.
        clock: measures deadlines and the source's clock skew.
        chance: jitter between retries.
    """

    def __init__(self, spec: SourceSpec, *, clock: Clock | None = None, chance: random.Random | None = None):
        self.spec = spec
        self._clock = clock or SystemClock()
        self._http = SourceSession(spec, self._clock, chance or random.Random())
        super().__init__(url=spec.base, session=self._http, timeout=spec.timeout_s, method=spec.method)
        self._http.use_transport()
        self._labels = LabelCache()
        self._where = f"source {spec.name} ({spec.place})"

    @property
    def skew_ms(self) -> int | None:
        """The source's clock minus ours, within a second, as its last answer told; None before the first."""
        return self._http.skew_ms

    def instant(
        self, expr: str, at_ms: int, *, limit: int | None = None, deadline_s: float | None = None
    ) -> Reply:
        """Evaluate an expression at one time; the block has one column, at ``at_ms``.

        Args:
            limit: most series the server should send (Prometheus 3.2 and newer; others ignore it).
            deadline_s: total time; the spec's timeout by default.
        """
        deadline = self._deadline(deadline_s)
        params = {"query": expr, "time": seconds(at_ms), **self._common(limit, deadline)}
        answer = self._http.exchange("POST", "/api/v1/query", params, deadline)
        decoded = self._read(
            answer, ("vector", "scalar"), lambda: decode_vector(answer.body, answer.size, at_ms, self._labels, expr)
        )
        block = Block(decoded.sequence.labels, np.array([at_ms], np.int64), decoded.values)
        return self._reply(_unambiguous(block, decoded), [decoded], answer.size, limit)

    def range(
        self, expr: str, start_ms: int, end_ms: int, step_ms: int, *,
        limit: int | None = None, deadline_s: float | None = None,
    ) -> Reply:  # fmt: skip
        """Evaluate an expression every ``step_ms`` from ``start_ms`` to ``end_ms``, which is included if on the grid.

        Long ranges take several requests on one grid; where an answer is too large for the byte cap or for the
        server's limit of samples, shorter parts are asked for. Points without a sample are NaN.

        Args:
            deadline_s: total time for all requests; without it each request has the spec's timeout.
        """
        times = grid(start_ms, end_ms, step_ms)
        whole = None if deadline_s is None else self._deadline(deadline_s)
        collector = Collector(times)
        answers: list[Decoded] = []
        size, first, points, most = 0, 0, FIRST_POINTS, MAX_POINTS
        while first < len(times):
            part = times[first : first + points]
            try:
                decoded, bytes_read = self._range_part(expr, part, step_ms, limit, whole or self._deadline(None))
            except SourceError as error:
                if not _too_much(error) or len(part) == 1:
                    raise
                most = points = (len(part) + 1) // 2
                continue
            collector.add(first, decoded)
            answers.append(_without_values(decoded))
            size += bytes_read
            first += len(part)
            points = min(most, max(MIN_POINTS, PART_BYTES * len(part) // max(bytes_read, 1)))
        return self._reply(collector.block(), answers, size, limit, collector.ambiguous())

    def samples(
        self, selector: str, at_ms: int, window_ms: int, *, limit: int | None = None, deadline_s: float | None = None
    ) -> RawReply:
        """Read the stored samples of ``selector`` in the window ``(at_ms - window_ms, at_ms]``, as they are.

        The window is open on the left also where the server (Prometheus 2) closes it.

        Args:
            selector: an instant vector selector, without a range.
        """
        deadline = self._deadline(deadline_s)
        query = f"{selector}[{window_ms}ms]"
        params = {"query": query, "time": seconds(at_ms), **self._common(limit, deadline)}
        answer = self._http.exchange("POST", "/api/v1/query", params, deadline)
        decoded = self._read(answer, ("matrix",), lambda: strict_raw(answer.body, answer.size, at_ms - window_ms))
        _, ambiguous = find_ambiguous(decoded.labels)
        if ambiguous:
            raise SourceUnavailable("protocol", f"{self._where} sent {len(ambiguous)} series twice")
        notes = self._notes([decoded.envelope], limit)
        return RawReply(
            partial=notes.partial, limited=notes.limited, warnings=notes.warnings, infos=notes.infos,
            nonfinite=decoded.nonfinite, disordered=decoded.disordered, bytes=answer.size,
            labels=decoded.labels, offsets=decoded.offsets, times=decoded.times, values=decoded.values,
        )  # fmt: skip

    def touched(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> int | None:
        """How many samples the server reads for a query; None where it does not say (``stats=all``).

        ``start_ms`` equal to ``end_ms`` asks for an instant query.
        """
        deadline = self._deadline(None)
        params = {"query": expr, "stats": "all", **self._common(None, deadline)}
        if start_ms == end_ms:
            answer = self._http.exchange("POST", "/api/v1/query", params | {"time": seconds(end_ms)}, deadline)
        else:
            span = {"start": seconds(start_ms), "end": seconds(end_ms), "step": seconds(step_ms)}
            answer = self._http.exchange("POST", "/api/v1/query_range", params | span, deadline)
        found = _QUERYABLE.findall(bytes(answer.body[: answer.size]))
        return int(found[-1]) if found else None

    def ready(self) -> None:
        """Return when the source answers queries; raise ``SourceError`` with the reason when it does not."""
        self.instant("vector(1)", self._clock.now_ms())

    def buildinfo(self) -> BuildInfo:
        """Ask the server for its version; empty where it does not know the question."""
        try:
            answer = self._http.exchange("GET", "/api/v1/status/buildinfo", {}, self._deadline(None))
        except QueryRejected:
            return BuildInfo()
        try:
            data = json.loads(answer.text()).get("data") or {}
            return BuildInfo(str(data.get("version", "")), str(data.get("revision", "")))
        except (ValueError, AttributeError, RecursionError):
            return BuildInfo()

    def close(self) -> None:
        """Close the connections; a retry that waits gives up."""
        self._http.close()

    # ---- one request -----------------------------------------------------------------------------------------------

    def _deadline(self, seconds_given: float | None) -> Deadline:
        return Deadline(self._clock, self.spec.timeout_s if seconds_given is None else seconds_given)

    def _common(self, limit: int | None, deadline: Deadline) -> Mapping[str, str]:
        """Parameters of every query."""
        params = {"timeout": f"{max(1, int(deadline.left() * 1000))}ms"}
        if limit is not None:
            params["limit"] = str(limit)
        if self.spec.kind == "thanos" and self.spec.deny_partial:
            params["partial_response"] = "false"
        if self.spec.kind == "victoriametrics":
            # Without nocache it moves the grid and the time of the query to suit its cache.
            params["nocache"] = "1"
            if self.spec.deny_partial:
                params["deny_partial_response"] = "1"
        return {**params, **self.spec.extra_params}

    def _range_part(
        self, expr: str, times: I64, step_ms: int, limit: int | None, deadline: Deadline
    ) -> tuple[Decoded, int]:
        params = {
            "query": expr,
            "start": seconds(int(times[0])),
            "end": seconds(int(times[-1])),
            "step": seconds(step_ms),
            **self._common(limit, deadline),
        }
        answer = self._http.exchange("POST", "/api/v1/query_range", params, deadline)
        decoded = self._read(
            answer, ("matrix",), lambda: decode_grid(answer.body, answer.size, times, step_ms, self._labels, expr)
        )
        return decoded, answer.size

    def _read(self, answer: Answer, types: tuple[str, ...], decode: Callable[[], Answered]) -> Answered:
        """Decode an answer whose result is of one of the types; say what it is when it is something else."""
        try:
            decoded = decode()
        except Histograms:
            message = f"{self._where} answers with native histograms, which cannot be scored: {_HISTOGRAM_ADVICE}"
            raise QueryRejected("native_histogram", message) from None
        except TooLarge:
            message = f"{self._where}: an answer of {answer.size} bytes in an unusual form is too large to read"
            raise SourceUnavailable("too_large", message) from None
        except Malformed as error:
            self._refuse_foreign(answer)
            cause = clean(str(error), answer.secrets)
            raise SourceUnavailable("protocol", f"{self._where} sent an answer that cannot be used: {cause}") from None
        envelope = _quotable(decoded.envelope, answer.secrets)
        if envelope.status == "error":
            raise error_by_type(envelope.error_type, envelope.error, self._where)
        if envelope.result_type not in types:
            self._refuse_type(envelope.result_type)
        return replace(decoded, envelope=envelope)

    def _refuse_foreign(self, answer: Answer) -> None:
        """Raise if the body is no API answer at all, such as a login page."""
        head = answer.text(512).lstrip().lower()
        html = "html" in answer.headers.get("content-type", "") or head.startswith("<")
        if html or not head.startswith("{") or '"status"' not in answer.text():
            what = "an HTML page, perhaps a login" if html else "something that is not its JSON"
            raise SourceUnavailable("not_prometheus", f"{self._where} does not speak Prometheus: it sent {what}")

    def _refuse_type(self, result_type: str) -> NoReturn:
        if result_type == "matrix":
            hint = "it selects a range; wrap it in last_over_time(), rate() or another function"
        elif result_type == "string":
            hint = "it is a text"
        elif result_type in ("vector", "scalar"):
            hint = "it is not a selector"
        else:
            raise SourceUnavailable("protocol", f"{self._where} sent a result of unknown type {result_type!r}")
        raise QueryRejected("bad_data", f"{self._where}: the expression gives no series of numbers: {hint}")

    # ---- what is returned ------------------------------------------------------------------------------------------

    def _notes(self, envelopes: list[Envelope], limit: int | None) -> Notes:
        warnings = tuple(dict.fromkeys(text for one in envelopes for text in one.warnings))
        infos = tuple(dict.fromkeys(text for one in envelopes for text in one.infos))
        limited = limit is not None and any(_TRUNCATED in text for text in warnings)
        missing = any(not text.startswith("PromQL warning:") and _TRUNCATED not in text for text in warnings)
        partial = missing or any(one.is_partial for one in envelopes)
        return Notes(partial=partial, limited=limited, warnings=warnings, infos=infos)

    def _reply(
        self, block: Block, answers: list[Decoded], size: int, limit: int | None,
        ambiguous: tuple[int, tuple[Labels, ...]] | None = None,
    ) -> Reply:  # fmt: skip
        notes = self._notes([answer.envelope for answer in answers], limit)
        if ambiguous is None:
            sequence = answers[0].sequence
            ambiguous = len(sequence.labels) - len(block), sequence.ambiguous
        return Reply(
            block=block, partial=notes.partial, limited=notes.limited, warnings=notes.warnings, infos=notes.infos,
            duplicates=ambiguous[0], ambiguous=ambiguous[1], bytes=size,
            nonfinite=sum(answer.nonfinite for answer in answers),
            disordered=sum(answer.disordered for answer in answers),
        )  # fmt: skip


def seconds(ms: int) -> str:
    """Milliseconds as the seconds with decimals that the API takes; exact."""
    whole, rest = divmod(ms, 1000)
    return f"{whole}.{rest:03d}" if rest else str(whole)


def _quotable(envelope: Envelope, secrets: tuple[str, ...]) -> Envelope:
    """The envelope with its texts fit for messages."""
    return replace(
        envelope,
        error=clean(envelope.error, secrets),
        result_type=clean(envelope.result_type, secrets),
        warnings=tuple(clean(text, secrets) for text in envelope.warnings),
        infos=tuple(clean(text, secrets) for text in envelope.infos),
    )


def _unambiguous(block: Block, decoded: Decoded) -> Block:
    keep = decoded.sequence.keep
    return block if keep is None else block.take(keep)


def _too_much(error: SourceError) -> bool:
    """Whether a shorter range may succeed."""
    if error.reason in ("too_large", "too_many_points"):
        return True
    text = str(error)
    return error.reason == "execution" and ("too many samples" in text or "max-samples" in text.lower())


def _without_values(decoded: Decoded) -> Decoded:
    """What is reported of a part, without holding on to its samples."""
    return replace(decoded, values=np.zeros((0, 0)))
