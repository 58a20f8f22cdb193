"""Byte scanner for the compact JSON that Prometheus-compatible servers write: numba kernels.

The kernel walks the elements of a ``"result":[...]`` array and writes samples straight into an array. It accepts a
strict subset of JSON, namely the one form these servers emit; on anything else it stops with ``FOREIGN`` and the caller
reads the answer with the general parser, which also decides whether it is valid at all. So the kernel never has to
explain an error, and a wrong guess costs time, never a wrong number.

Invariants: the body is followed by at least 32 zero bytes, which no rule of the grammar accepts, so no read leaves the
buffer; a number is converted exactly as ``float()`` does (``number.py``), and one for which that cannot be decided is
left to the caller in ``slow``.

Importing this module loads numba and builds a table: import it when there is work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from anomalyd.block import F64, I64
from anomalyd.prometheus.number import BAD, LEFT, PLAIN, SPECIAL, U8, U64, kernel, number_at, time_at

OK = 0
FOREIGN = 1
HISTOGRAM = 2
SLOW_FULL = 3

COUNT, NONFINITE, SLOWS, SAME, DISORDERED, TALLY = 0, 1, 2, 3, 4, 5
"""Places in a tally: elements, non-finite samples, numbers left to the caller, metrics equal to the known ones,
samples that repeated a time or went back; and its size."""

_METRIC = np.frombuffer(b'{"metric":', np.uint8)
_VALUE = np.frombuffer(b',"value":', np.uint8)
_VALUES = np.frombuffer(b',"values":[', np.uint8)
_HISTOGRAM = np.frombuffer(b',"histogram', np.uint8)

_QUOTE, _BACKSLASH, _COMMA, _COLON = 34, 92, 44, 58
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125
_U0 = np.uint64(0)


# ---- metrics --------------------------------------------------------------------------------------------------------


def _load_word(context: Any, array: Any, index: Any) -> Any:
    """Eight bytes of a byte array at once, as uint64; numba has no such load."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        proxy: Any = cgutils.create_struct_proxy
        data = proxy(signature.args[0])(target, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(array, index), generate


_word: Any = intrinsic(_load_word)


@kernel
def _matches(body: U8, p: int, literal: U8) -> bool:
    same = True
    for i in range(literal.size):
        same &= body[p + i] == literal[i]
    return same


@kernel
def _string_end(body: U8, p: int) -> int:
    """Index of the quote that closes the string whose text begins at ``p``; -1 when there is none."""
    while True:
        c = body[p]
        if c == _QUOTE:
            return p
        if c == _BACKSLASH:
            p += 2
        elif c < 32:
            return -1
        else:
            p += 1


@kernel
def _object_end(body: U8, p: int) -> int:
    """Index after the flat object of strings that begins at ``p``; -1 when it is something else."""
    if body[p] != _OPEN_OBJECT:
        return -1
    if body[p + 1] == _CLOSE_OBJECT:
        return p + 2
    while True:
        if body[p + 1] != _QUOTE:
            return -1
        p = _string_end(body, p + 2)
        if p < 0 or body[p + 1] != _COLON or body[p + 2] != _QUOTE:
            return -1
        p = _string_end(body, p + 3)
        if p < 0:
            return -1
        p += 1
        if body[p] == _CLOSE_OBJECT:
            return p + 1
        if body[p] != _COMMA:
            return -1


@kernel
def _known_end(body: U8, p: int, known: U8, first: int, last: int) -> int:
    """Index after the metric at ``p`` when its bytes are those known from the previous answer; -1 when not."""
    size = last - first
    if size < 8 or p + size >= body.size:
        return -1
    different = _word(body, p + size - 8) ^ _word(known, last - 8)
    for i in range(0, size - 8, 8):
        different |= _word(body, p + i) ^ _word(known, first + i)
    return p + size if different == _U0 and body[p + size] == _COMMA else -1


@kernel
def _metric_end(body: U8, p: int, known: U8, offsets: I64, tally: I64) -> int:
    """Index after the metric object at ``p``, -1 when there is none; compared with the known one of its place first."""
    n = tally[COUNT]
    if n + 1 < offsets.size:
        end = _known_end(body, p, known, offsets[n], offsets[n + 1])
        if end >= 0:
            tally[SAME] += 1
            return end
    return _object_end(body, p)


# ---- elements -------------------------------------------------------------------------------------------------------


@kernel
def _count(kind: int, index: int, first: int, last: int, slow: I64, tally: I64) -> int:
    """Note a sample that is not a plain number; ``slow`` rows are (flat index, first byte, byte after the last)."""
    if kind == SPECIAL:
        tally[NONFINITE] += 1
    elif kind == LEFT:
        if tally[SLOWS] == slow.shape[0]:
            return SLOW_FULL
        slow[tally[SLOWS], 0] = index
        slow[tally[SLOWS], 1] = first
        slow[tally[SLOWS], 2] = last
        tally[SLOWS] += 1
    return OK


@kernel
def _samples(
    body: U8, p: int, single: bool, start: int, step: int, values: F64, slow: I64, tally: I64, bits: U64, number: F64
) -> Any:
    """Code and index after the samples that begin at ``p``, each ``[time,"value"]``, separated by commas."""
    row, columns = tally[COUNT], values.shape[1]
    column, expected = -1, start
    while True:
        if body[p] != _OPEN:
            return FOREIGN, p
        ms, p = time_at(body, p + 1)
        if p < 0 or body[p] != _COMMA or body[p + 1] != _QUOTE:
            return FOREIGN, p
        if single:
            column = 0
            if ms > start:
                return FOREIGN, p
        elif ms == expected:
            column += 1
        else:
            previous, column = column, (ms - start) // step
            if ms < start or column * step != ms - start:
                return FOREIGN, p
            tally[DISORDERED] += column <= previous
        if column >= columns:
            return FOREIGN, p
        expected = ms + step
        first = p + 2
        kind, p = number_at(body, first, bits, number)
        if body[p] != _QUOTE or body[p + 1] != _CLOSE or kind == BAD:
            return FOREIGN, p
        values[row, column] = number[0]
        if kind != PLAIN:
            code = _count(kind, row * columns + column, first, p, slow, tally)
            if code != OK:
                return code, p
        p += 2
        if single or body[p] != _COMMA:
            return OK, p
        p += 1


@kernel
def scan(
    body: U8, p: int, single: bool, start: int, step: int, known: U8, offsets: I64,
    values: F64, spans: I64, slow: I64, tally: I64,
) -> Any:  # fmt: skip
    """Scan the elements of a result.

    Args:
        body: the answer with its padding; p: index after the bracket that opens the result.
        single: elements of a vector (one ``value``) or of a matrix (``values`` on a grid).
        start, step: the grid in ms; of a vector ``start`` is the latest time allowed.
        known, offsets: bytes of the metrics of the previous answer, joined, and where each begins.
        values: [N, T] out, NaN beforehand.
        spans: [N, 2] out: first byte of each metric and the one after its last.
        slow: [S, 3] out: see ``_count``.
        tally: out, zeros beforehand.

    Returns:
        Code and index after the closing bracket.
    """
    bits = np.zeros(1, np.uint64)
    number = bits.view(np.float64)
    if body[p] == _CLOSE:
        return OK, p + 1
    while tally[COUNT] < values.shape[0]:
        if not _matches(body, p, _METRIC):
            return FOREIGN, p
        n = tally[COUNT]
        spans[n, 0] = p + _METRIC.size
        p = _metric_end(body, p + _METRIC.size, known, offsets, tally)
        if p < 0:
            return FOREIGN, p
        spans[n, 1] = p
        head = _VALUE if single else _VALUES
        if not _matches(body, p, head):
            return (HISTOGRAM if _matches(body, p, _HISTOGRAM) else FOREIGN), p
        code, p = _samples(body, p + head.size, single, start, step, values, slow, tally, bits, number)
        if code != OK:
            return code, p
        if not single:
            if body[p] != _CLOSE:
                return FOREIGN, p
            p += 1
        if body[p] != _CLOSE_OBJECT:
            return (HISTOGRAM if _matches(body, p, _HISTOGRAM) else FOREIGN), p
        tally[COUNT] += 1
        if body[p + 1] == _CLOSE:
            return OK, p + 2
        if body[p + 1] != _COMMA:
            return FOREIGN, p
        p += 2
    return FOREIGN, p


@kernel
def gather(body: U8, spans: I64, total: int) -> Any:
    """The bytes of the spans one after the other, and the offset of each [N + 1]."""
    joined = np.empty(total, np.uint8)
    offsets = np.zeros(len(spans) + 1, np.int64)
    p = 0
    for i in range(len(spans)):
        for j in range(spans[i, 0], spans[i, 1]):
            joined[p] = body[j]
            p += 1
        offsets[i + 1] = p
    return joined, offsets
