"""Bodies of query answers into arrays: by the fast scanner where they have the usual form, strictly parsed where not.

Both give the same arrays for the same answer, bit for bit; the strict parser is the reference the scanner is tested
against, and the only one that judges whether an answer is valid. It is stricter than ``json.loads``: no key twice, no
bare ``NaN``, no sample that is not ``[number, "number"]``, and nesting without end is an error like any other.

Raises ``Malformed`` for answers outside the protocol and ``Histograms`` for native histograms, which no detector reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from anomalyd.block import F64, I64, Labels
from anomalyd.prometheus.labelcache import (
    EMPTY,
    U8,
    LabelCache,
    Malformed,
    Sequence,
    check_labels,
    find_ambiguous,
    unique,
)

PAD = 64
"""Zero bytes that must follow a body."""

SMALL = 16 * 1024
"""Bodies up to this size are parsed without the scanner, so that a single query never waits for numba to load."""

STRICT_MAX = 64 * 1024 * 1024
"""The strict parser needs about ten times the body in memory; above this size it refuses."""

_RESULT = b'"result":['
_ELEMENT = b'{"metric":'
_SLOWS = 4096
_VALUE = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|Inf)|NaN")
_FUTURE_MS = 1000


class Histograms(Exception):
    """The answer holds native histograms."""


class TooLarge(Exception):
    """The answer is in an unusual form and too large for the strict parser."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around the result."""

    status: str
    error_type: str = ""
    error: str = ""
    result_type: str = ""
    warnings: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()
    is_partial: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A decoded answer: labels [N] as the server sent them, values [N, T]; ``sequence`` tells which rows to keep."""

    envelope: Envelope
    sequence: Sequence
    values: F64
    nonfinite: int = 0
    disordered: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRaw:
    """Raw samples: series i has times and values ``offsets[i]`` to ``offsets[i + 1]``."""

    envelope: Envelope
    labels: tuple[Labels, ...]
    offsets: I64
    times: I64
    values: F64
    nonfinite: int = 0
    disordered: int = 0


def padded(data: bytes) -> bytearray:
    """A body with its padding."""
    return bytearray(data) + bytes(PAD)


def decode_vector(body: bytearray, size: int, at_ms: int, cache: LabelCache, expression: str) -> Decoded:
    """Decode the answer to an instant query.

    Args:
        body: padded; size: its length without the padding.
        at_ms: time of the query; a sample more than a second later is malformed.
        expression: key under which the cache remembers the series.
    """
    task = _Task(body, size, True, at_ms + _FUTURE_MS, 1, 1, cache, expression)
    return _scan(task) or strict_vector(body, size, at_ms)


def decode_grid(
    body: bytearray, size: int, times: I64, step_ms: int, cache: LabelCache, expression: str
) -> Decoded:
    """Decode the answer to a range query over the grid ``times`` (ms, ``step_ms`` apart)."""
    task = _Task(body, size, False, int(times[0]), step_ms, len(times), cache, expression)
    return _scan(task) or strict_grid(body, size, times, step_ms)


def warm() -> None:
    """Compile the scanner (or load it from its cache), so that the first large answer does not wait for it."""
    cache = LabelCache()
    element = '{"metric":{"a":"%d"},"value":[1,"0.1"]}'
    vector = ",".join(element % i for i in range(SMALL // 30))
    matrix = vector.replace('"value":[1,"0.1"]', '"values":[[1,"0.1"]]')
    for kind, result in (("vector", vector), ("matrix", matrix)):
        body = padded(f'{{"status":"success","data":{{"resultType":"{kind}","result":[{result}]}}}}'.encode())
        if kind == "vector":
            decode_vector(body, len(body) - PAD, 1000, cache, kind)
        else:
            decode_grid(body, len(body) - PAD, np.array([1000], np.int64), 1000, cache, kind)


# ---- the fast way -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One body to scan: a vector (``single``; ``start`` is the latest time) or a matrix on a grid of T points."""

    body: bytearray
    size: int
    single: bool
    start: int
    step: int
    points: int
    cache: LabelCache
    expression: str


def _scan(task: _Task) -> Decoded | None:
    """Decode with the scanner; None when the answer is small, not in the usual form or not valid."""
    body = task.body
    opening = body.find(_RESULT, 0, task.size) if task.size > SMALL else -1
    if opening < 0:
        return None
    from anomalyd.prometheus import scan as kernels

    known = task.cache.sequence(task.expression)
    buffer = np.frombuffer(body, np.uint8)
    rows = body.count(_ELEMENT, opening, task.size)
    spans = np.empty((rows, 2), np.int64)
    code, room = kernels.SLOW_FULL, _SLOWS
    while code == kernels.SLOW_FULL:
        values = np.full((rows, task.points), np.nan)
        slow = np.empty((room, 3), np.int64)
        tally = np.zeros(kernels.TALLY, np.int64)
        code, end = kernels.scan(
            buffer, opening + len(_RESULT), task.single, task.start, task.step, known.joined, known.offsets,
            values, spans, slow, tally,
        )  # fmt: skip
        room *= 8
    if code == kernels.HISTOGRAM:
        raise Histograms
    envelope = _envelope_around(body, task.size, opening, end) if code == kernels.OK else None
    n, nonfinite, slows, same, disordered = tally.tolist()
    usable = envelope is not None and envelope.result_type == ("vector" if task.single else "matrix")
    if envelope is None or not usable or (disordered and slows):
        return None
    infinite = _finish_slow(body, slow[:slows], values)
    sequence = known
    if same != n or n != len(known.labels):
        sequence = _sequence(kernels.gather, body, buffer, spans[:n], task.cache)
        task.cache.remember(task.expression, sequence)
    return Decoded(envelope, sequence, values[:n], nonfinite + infinite, disordered)


def _envelope_around(body: bytearray, size: int, start: int, end: int) -> Envelope | None:
    """Parse the answer with null for its result; None when what was scanned is not ``data.result``."""
    around = bytes(body[:start]) + b'"result":null' + bytes(body[end:size])
    try:
        whole = _parse(around)
    except Malformed:
        return None
    data = whole.get("data")
    if not isinstance(data, dict) or "result" not in data or data["result"] is not None:
        return None
    return _envelope(whole)


def _finish_slow(body: bytearray, slow: I64, values: F64) -> int:
    """Convert the numbers the kernel left with ``float()``; return how many were infinite."""
    infinite = 0
    flat = values.reshape(-1)
    for index, first, last in slow.tolist():
        value = float(body[first:last])
        if value in (float("inf"), float("-inf")):
            infinite += 1
            value = float("nan")
        flat[index] = value
    return infinite


def _sequence(
    gather: Callable[..., tuple[U8, I64]], body: bytearray, buffer: U8, spans: I64, cache: LabelCache
) -> Sequence:
    """Look up each metric, and keep the whole for the next answer."""
    view = memoryview(body)
    labels = tuple(cache.labels(bytes(view[first:last])) for first, last in spans.tolist())
    joined, offsets = gather(buffer, spans, int((spans[:, 1] - spans[:, 0]).sum()))
    keep, ambiguous = find_ambiguous(labels)
    return Sequence(joined, offsets, labels, keep, ambiguous)


# ---- the strict way -----------------------------------------------------------------------------------------------


def strict_vector(body: bytearray, size: int, at_ms: int) -> Decoded:
    """Decode an instant answer, a scalar included, with the strict parser."""
    envelope, result = _strict(body, size)
    if envelope.status != "success":
        return Decoded(envelope, EMPTY, np.zeros((0, 1)))
    if envelope.result_type == "scalar":
        result = [{"metric": {}, "value": result}]
    elif envelope.result_type != "vector":
        return Decoded(envelope, EMPTY, np.zeros((0, 1)))
    labels, values, nonfinite = [], [], 0
    for element in _elements(result):
        labels.append(check_labels(element.get("metric")))
        ms, value = _sample(element.get("value"))
        if ms > at_ms + _FUTURE_MS:
            raise Malformed("a sample is later than the time that was asked for")
        nonfinite += not np.isfinite(value)
        values.append(value)
    column = np.array(values, np.float64).reshape(-1, 1)
    column[~np.isfinite(column)] = np.nan
    return Decoded(envelope, _plain_sequence(labels), column, nonfinite)


def strict_grid(body: bytearray, size: int, times: I64, step_ms: int) -> Decoded:
    """Decode a range answer with the strict parser; a sample off the grid is malformed."""
    envelope, result = _strict(body, size)
    if envelope.status != "success" or envelope.result_type != "matrix":
        return Decoded(envelope, EMPTY, np.zeros((0, len(times))))
    start = int(times[0])
    elements = _elements(result)
    values = np.full((len(elements), len(times)), np.nan)
    labels, nonfinite, disordered = [], 0, 0
    for row, element in enumerate(elements):
        labels.append(check_labels(element.get("metric")))
        column = -1
        for ms, value in _samples(element.get("values")):
            previous, (column, off) = column, divmod(ms - start, step_ms)
            if off or not 0 <= column < len(times):
                raise Malformed(f"a sample lies beside the grid that was asked for, at {ms} ms")
            disordered += column <= previous
            nonfinite += not np.isfinite(value)
            values[row, column] = value if np.isfinite(value) else np.nan
    return Decoded(envelope, _plain_sequence(labels), values, nonfinite, disordered)


def strict_raw(body: bytearray, size: int, after_ms: int) -> DecodedRaw:
    """Decode the raw samples of a range selector that are later than ``after_ms``.

    Each series is sorted, the last sample of a time wins, samples that are not finite (stale markers too) are dropped,
    and so are series that then have none.
    """
    envelope, result = _strict(body, size)
    if envelope.status != "success" or envelope.result_type != "matrix":
        return DecodedRaw(envelope, (), np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0))
    labels: list[Labels] = []
    offsets, times, values = [0], [np.zeros(0, np.int64)], [np.zeros(0)]
    nonfinite = disordered = 0
    for element in _elements(result):
        metric = check_labels(element.get("metric"))
        samples = [sample for sample in _samples(element.get("values")) if sample[0] > after_ms]
        ordered = dict(sorted(samples, key=lambda sample: sample[0]))
        disordered += sum(b[0] <= a[0] for a, b in pairwise(samples))
        finite = {ms: value for ms, value in ordered.items() if np.isfinite(value)}
        nonfinite += len(ordered) - len(finite)
        if finite:
            labels.append(metric)
            offsets.append(offsets[-1] + len(finite))
            times.append(np.fromiter(finite.keys(), np.int64, len(finite)))
            values.append(np.fromiter(finite.values(), np.float64, len(finite)))
    return DecodedRaw(
        envelope, tuple(labels), np.array(offsets, np.int64), np.concatenate(times), np.concatenate(values),
        nonfinite, disordered,
    )  # fmt: skip


def _strict(body: bytearray, size: int) -> tuple[Envelope, Any]:
    if size > STRICT_MAX:
        raise TooLarge
    whole = _parse(bytes(body[:size]))
    envelope = _envelope(whole)
    data = whole.get("data")
    if envelope.status == "success" and not isinstance(data, dict):
        raise Malformed("it has no data")
    return envelope, data.get("result") if isinstance(data, dict) else None


def _parse(text: bytes) -> dict[str, Any]:
    try:
        whole = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise Malformed("it is not UTF-8") from None
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"it is not JSON: {error}") from None
    if not isinstance(whole, dict):
        raise Malformed("it is not an object")
    return whole


def _refuse_constant(name: str) -> NoReturn:
    raise Malformed(f"it holds a bare {name}")


def _envelope(whole: dict[str, Any]) -> Envelope:
    status = whole.get("status")
    if status not in ("success", "error"):
        raise Malformed("it has no status")
    data = whole.get("data")
    result_type = data.get("resultType", "") if isinstance(data, dict) else ""
    error, error_type = whole.get("error", ""), whole.get("errorType", "")
    if not all(isinstance(text, str) for text in (result_type, error, error_type)):
        raise Malformed("a text of its envelope is not a string")
    warnings, infos = _texts(whole.get("warnings")), _texts(whole.get("infos"))
    hints = tuple(text for text in warnings if text.startswith("PromQL info:"))
    return Envelope(
        status=status,
        error_type=error_type,
        error=error,
        result_type=result_type,
        warnings=tuple(text for text in warnings if text not in hints),
        infos=infos + hints,
        is_partial=whole.get("isPartial") is True,
    )


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Malformed("its warnings are not a list of strings")
    return tuple(value)


def _elements(result: Any) -> list[dict[str, Any]]:
    if not isinstance(result, list) or not all(isinstance(element, dict) for element in result):
        raise Malformed("its result is not a list of objects")
    if any("histogram" in element or "histograms" in element for element in result):
        raise Histograms
    return result


def _samples(value: Any) -> list[tuple[int, float]]:
    if not isinstance(value, list):
        raise Malformed("a series has no list of samples")
    return [_sample(sample) for sample in value]


def _sample(sample: Any) -> tuple[int, float]:
    if not isinstance(sample, list) or len(sample) != 2:
        raise Malformed("a sample is not a pair of time and value")
    seconds, text = sample
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not abs(seconds) < 1e12:
        raise Malformed("the time of a sample is not a number of seconds")
    if not isinstance(text, str) or not _VALUE.fullmatch(text):
        raise Malformed("the value of a sample is not a number in quotes")
    return round(seconds * 1000), float(text)


def _plain_sequence(labels: list[Labels]) -> Sequence:
    """A sequence that the cache does not know."""
    found = tuple(labels)
    keep, ambiguous = find_ambiguous(found)
    return Sequence(EMPTY.joined, EMPTY.offsets, found, keep, ambiguous)
