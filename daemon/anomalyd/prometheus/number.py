"""Numbers in the bytes of an answer: numba kernels that convert exactly as ``float()`` does.

Clinger's fast path, then Lemire's multiplication by a 128-bit power of ten; a number for which that cannot be decided
is left to the caller (``LEFT``). Invariant: some bytes that no number accepts follow, so no read leaves the buffer.

Importing this module loads numba and builds a table: import it when there is work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from anomalyd.block import F64

PLAIN, SPECIAL, LEFT, BAD = 0, 1, 2, 3
"""What a text is: a number, one that is not finite, one that is left to the caller, none."""

U8: TypeAlias = npt.NDArray[np.uint8]
U64: TypeAlias = npt.NDArray[np.uint64]
Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
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

_DOT, _PLUS, _MINUS, _ZERO = 46, 43, 45, 48


@kernel
def _digit(body: U8, p: int) -> Any:
    """The digit at ``p``; a number outside 0..9 when it is none."""
    return np.int64(body[p]) - np.int64(48)


@kernel
def _digits(body: U8, p: int, number: int) -> Any:
    """``number`` continued by the digits at ``p``, and the index after them."""
    digit = _digit(body, p)
    while 0 <= digit <= 9:
        number = number * 10 + digit
        p += 1
        digit = _digit(body, p)
    return number, p


@kernel
def _product(a: Any, b: Any) -> Any:
    """High and low 64 bits of a * b."""
    a_low, a_high = a & _LOW32, a >> _U32
    b_low, b_high = b & _LOW32, b >> _U32
    low = a_low * b_low
    cross = a_high * b_low + (low >> _U32)
    middle = a_low * b_high + (cross & _LOW32)
    return a_high * b_high + (cross >> _U32) + (middle >> _U32), (middle << _U32) | (low & _LOW32)


@kernel
def _leading_zeros(x: Any) -> Any:
    """Leading zero bits of a positive 64-bit number."""
    zeros = 0
    for width in (32, 16, 8, 4, 2, 1):
        if (x >> np.uint64(64 - width)) == _U0:
            x = x << np.uint64(width)
            zeros += width
    return zeros


@kernel
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


@kernel
def _special(body: U8, p: int) -> Any:
    """Kind and index after ``NaN``, ``Inf``, ``+Inf`` or ``-Inf``."""
    if body[p] == 78 and body[p + 1] == 97 and body[p + 2] == 78:
        return SPECIAL, p + 3
    if body[p] == _PLUS or body[p] == _MINUS:
        p += 1
    if body[p] == 73 and body[p + 1] == 110 and body[p + 2] == 102:
        return SPECIAL, p + 3
    return BAD, p


@kernel
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


@kernel
def number_at(body: U8, p: int, bits: U64, number: F64) -> Any:
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
        return BAD, start
    if significant > 18:
        return LEFT, p  # more than an int64 surely holds
    exponent += power
    if mantissa == 0:
        number[0] = 0.0
    elif mantissa <= 9007199254740992 and -22 <= exponent <= 22:
        value = np.float64(mantissa)
        number[0] = value / _EXACT[-exponent] if exponent < 0 else value * _EXACT[exponent]
    elif not _scaled(np.uint64(mantissa), exponent, bits, number):
        number[0] = np.nan
        return LEFT, p
    if negative:
        number[0] = -number[0]
    return PLAIN, p


@kernel
def time_at(body: U8, p: int) -> Any:
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
