"""Byte scanner for the compact JSON that Prometheus-compatible servers write: numba kernels.

The kernel walks the elements of a ``"result":[...]`` array and writes samples straight into an array. It accepts a
strict subset of JSON, namely the one form these servers emit; on anything else it stops with ``FOREIGN`` and the caller
reads the answer with the general parser, which also decides whether it is valid at all. So the kernel never has to
explain an error, and a wrong guess costs time, never a wrong number.

Invariants: the body is followed by at least 32 zero bytes, which no rule of the grammar accepts, so no read leaves the
buffer; a number is converted exactly as ``float()`` does (Clinger's fast path, then Lemire's multiplication by a
128-bit power of ten), and one for which that cannot be decided is left to the caller in ``slow``.

Importing this module loads numba and builds a table: import it when there is work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from anomalyd.block import F64, I64

OK = 0
FOREIGN = 1
HISTOGRAM = 2
SLOW_FULL = 3

COUNT, NONFINITE, SLOWS, SAME, DISORDERED, TALLY = 0, 1, 2, 3, 4, 5
"""Places in a tally: elements, non-finite samples, numbers left to the caller, metrics equal to the known ones,
samples that repeated a time or went back; and its size."""

_NUMBER, _NONFINITE, _SLOW, _BAD = 0, 1, 2, 3

U8: TypeAlias = npt.NDArray[np.uint8]
U64: TypeAlias = npt.NDArray[np.uint64]
Function = TypeVar("Function", bound=Callable[..., Any])


def _kernel(function: Function) -> Function:
    """Compile on first use, cached on disk where the installation or the user's cache directory can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no directory that the cache could be written to
        return numba.njit(**options)(function)  # type: ignore[no-any-return]


def _powers_of_ten() -> U64:
    """High and low half of the 128 leading bits of 10**e for e in -326..308, rounded up where e is negative."""
    table = np.zeros((_MAX_EXP - _MIN_EXP + 1, 2), np.uint64)
    for exponent in range(_MIN_EXP, _MAX_EXP + 1):
        power = 10 ** abs(exponent)
        bits = power.bit_length()
        if exponent >= 0:
            top = power << (128 - bits) if bits <= 128 else power >> (bits - 128)
        else:
            top = (1 << (127 + bits)) // power
            top = (top >> 1 if top >> 128 else top) + 1
        table[exponent - _MIN_EXP] = top >> 64, top & (2**64 - 1)
    return table


_MIN_EXP, _MAX_EXP = -326, 308
_POWERS = _powers_of_ten()
_EXACT = np.array([10.0**e for e in range(23)])

# Constants of the right width: numba makes a float of uint64 and int64 together.
_U0, _U1, _U3 = np.uint64(0), np.uint64(1), np.uint64(3)
_U9, _U32, _U52, _U53, _U63 = np.uint64(9), np.uint64(32), np.uint64(52), np.uint64(53), np.uint64(63)
_LOW32 = np.uint64(0xFFFFFFFF)
_LOW9 = np.uint64(0x1FF)
_FRACTION = np.uint64((1 << 52) - 1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

_METRIC = np.frombuffer(b'{"metric":', np.uint8)
_VALUE = np.frombuffer(b',"value":', np.uint8)
_VALUES = np.frombuffer(b',"values":[', np.uint8)
_HISTOGRAM = np.frombuffer(b',"histogram', np.uint8)

_QUOTE, _BACKSLASH, _COMMA, _COLON, _DOT, _PLUS, _MINUS, _ZERO = 34, 92, 44, 58, 46, 43, 45, 48
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125


# ---- numbers --------------------------------------------------------------------------------------------------------


@_kernel
def _digit(body: U8, p: int) -> Any:
    """The digit at ``p``; a number outside 0..9 when it is none."""
    return np.int64(body[p]) - np.int64(48)


@_kernel
def _digits(body: U8, p: int, number: int) -> Any:
    """``number`` continued by the digits at ``p``, and the index after them."""
    digit = _digit(body, p)
    while 0 <= digit <= 9:
        number = number * 10 + digit
        p += 1
        digit = _digit(body, p)
    return number, p


@_kernel
def _product(a: Any, b: Any) -> Any:
    """High and low 64 bits of a * b."""
    a_low, a_high = a & _LOW32, a >> _U32
    b_low, b_high = b & _LOW32, b >> _U32
    low = a_low * b_low
    cross = a_high * b_low + (low >> _U32)
    middle = a_low * b_high + (cross & _LOW32)
    return a_high * b_high + (cross >> _U32) + (middle >> _U32), (middle << _U32) | (low & _LOW32)


@_kernel
def _leading_zeros(x: Any) -> Any:
    """Leading zero bits of a positive 64-bit number."""
    zeros = 0
    for width in (32, 16, 8, 4, 2, 1):
        if (x >> np.uint64(64 - width)) == _U0:
            x = x << np.uint64(width)
            zeros += width
    return zeros


@_kernel
def _scaled(mantissa: Any, exponent: int, bits: U64, number: F64) -> bool:
    """Put ``mantissa * 10**exponent``, correctly rounded, into ``number`` (a view of ``bits``).

    Return whether the rounding could be decided (Lemire 2021, "Number parsing at a gigabyte per second").
    """
    if exponent < _MIN_EXP or exponent > _MAX_EXP:
        return False
    zeros = _leading_zeros(mantissa)
    w = mantissa << np.uint64(zeros)
    row = exponent - _MIN_EXP
    high, low = _product(w, _POWERS[row, 0])
    if (high & _LOW9) == _LOW9 and low + w < low:
        more, rest = _product(w, _POWERS[row, 1])
        merged = low + more
        if merged < low:
            high = high + _U1
        if (high & _LOW9) == _LOW9 and merged == _ALL and rest + w < rest:
            return False
        low = merged
    top = high >> _U63
    fraction = high >> (top + _U9)
    if low == _U0 and (high & _LOW9) == _U0 and (fraction & _U3) == _U1:
        return False  # exactly half way between two floats
    fraction = (fraction + (fraction & _U1)) >> _U1
    power = ((217706 * exponent) >> 16) + 64 + 1023 - zeros - (1 if top == _U0 else 0)
    if fraction >> _U53 != _U0:
        fraction = fraction >> _U1
        power += 1
    if power < 1 or power > 2046:
        return False  # subnormal or infinite
    bits[0] = (np.uint64(power) << _U52) | (fraction & _FRACTION)
    return True


@_kernel
def _special(body: U8, p: int) -> Any:
    """Kind and index after ``NaN``, ``Inf``, ``+Inf`` or ``-Inf``."""
    if body[p] == 78 and body[p + 1] == 97 and body[p + 2] == 78:
        return _NONFINITE, p + 3
    if body[p] == _PLUS or body[p] == _MINUS:
        p += 1
    if body[p] == 73 and body[p + 1] == 110 and body[p + 2] == 102:
        return _NONFINITE, p + 3
    return _BAD, p


@_kernel
def _exponent(body: U8, p: int) -> Any:
    """The exponent at ``p`` (0 without one) and the index after it, -1 when it has no digits."""
    if body[p] != 101 and body[p] != 69:
        return 0, p
    p += 1
    down = body[p] == _MINUS
    if down or body[p] == _PLUS:
        p += 1
    power, end = _digits(body, p, 0)
    if end == p or end - p > 5:
        return 0, -1
    return (-power if down else power), end


@_kernel
def _number(body: U8, p: int, bits: U64, number: F64) -> Any:
    """Kind of what begins at ``p`` and the index after it; a number is put into ``number``."""
    number[0] = np.nan
    start = p
    negative = body[p] == _MINUS
    if negative or body[p] == _PLUS:
        p += 1
    first = p
    mantissa, p = _digits(body, p, 0)
    if p == first:
        return _special(body, start)
    significant = p - first
    exponent = 0
    if body[p] == _DOT:
        dot = p + 1
        p = dot
        if mantissa == 0:
            significant = 0
            while body[p] == _ZERO:
                p += 1
        significant -= p
        mantissa, p = _digits(body, p, mantissa)
        significant += p
        exponent = dot - p
    power, p = _exponent(body, p)
    if p < 0:
        return _BAD, start
    if significant > 18:
        return _SLOW, p  # more than an int64 surely holds
    exponent += power
    if mantissa == 0:
        number[0] = 0.0
    elif mantissa <= 9007199254740992 and -22 <= exponent <= 22:
        value = np.float64(mantissa)
        number[0] = value / _EXACT[-exponent] if exponent < 0 else value * _EXACT[exponent]
    elif not _scaled(np.uint64(mantissa), exponent, bits, number):
        number[0] = np.nan
        return _SLOW, p
    if negative:
        number[0] = -number[0]
    return _NUMBER, p


@_kernel
def _timestamp(body: U8, p: int) -> Any:
    """Milliseconds and index after a time written as seconds with up to three decimals; index -1 when it is not."""
    seconds, end = _digits(body, p, 0)
    if end == p or end - p > 12 or (body[p] == 48 and end - p > 1):
        return 0, -1
    if body[end] != _DOT:
        return seconds * 1000, end
    first = end + 1
    ms, end = _digits(body, first, seconds)
    decimals = end - first
    if decimals == 3:
        return ms, end
    if decimals == 2:
        return ms * 10, end
    return ms * 100, (end if decimals == 1 else -1)


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


@_kernel
def _matches(body: U8, p: int, literal: U8) -> bool:
    same = True
    for i in range(literal.size):
        same &= body[p + i] == literal[i]
    return same


@_kernel
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


@_kernel
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


@_kernel
def _known_end(body: U8, p: int, known: U8, first: int, last: int) -> int:
    """Index after the metric at ``p`` when its bytes are those known from the previous answer; -1 when not."""
    size = last - first
    if size < 8 or p + size >= body.size:
        return -1
    different = _word(body, p + size - 8) ^ _word(known, last - 8)
    for i in range(0, size - 8, 8):
        different |= _word(body, p + i) ^ _word(known, first + i)
    return p + size if different == _U0 and body[p + size] == _COMMA else -1


@_kernel
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


@_kernel
def _count(kind: int, index: int, first: int, last: int, slow: I64, tally: I64) -> int:
    """Note a sample that is not a plain number; ``slow`` rows are (flat index, first byte, byte after the last)."""
    if kind == _NONFINITE:
        tally[NONFINITE] += 1
    elif kind == _SLOW:
        if tally[SLOWS] == slow.shape[0]:
            return SLOW_FULL
        slow[tally[SLOWS], 0] = index
        slow[tally[SLOWS], 1] = first
        slow[tally[SLOWS], 2] = last
        tally[SLOWS] += 1
    return OK


@_kernel
def _samples(
    body: U8, p: int, single: bool, start: int, step: int, values: F64, slow: I64, tally: I64, bits: U64, number: F64
) -> Any:
    """Code and index after the samples that begin at ``p``, each ``[time,"value"]``, separated by commas."""
    row, columns = tally[COUNT], values.shape[1]
    column, expected = -1, start
    while True:
        if body[p] != _OPEN:
            return FOREIGN, p
        ms, p = _timestamp(body, p + 1)
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
        kind, p = _number(body, first, bits, number)
        if body[p] != _QUOTE or body[p + 1] != _CLOSE or kind == _BAD:
            return FOREIGN, p
        values[row, column] = number[0]
        if kind != _NUMBER:
            code = _count(kind, row * columns + column, first, p, slow, tally)
            if code != OK:
                return code, p
        p += 2
        if single or body[p] != _COMMA:
            return OK, p
        p += 1


@_kernel
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


@_kernel
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
