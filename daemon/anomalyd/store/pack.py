"""Scores as bytes: one array a column for all series of a (rule, slot), about 21 bytes a score.

Layout of a blob: version byte, byte of flags (bit i: column i is compressed), the compressed columns' lengths as
little-endian uint32, then the columns: value, expected, lower, upper, surprise as float32, kind, tier, why as int8.
NaN and infinity survive; a finite number too large for float32 becomes the largest one. Seven significant digits are
kept, which is more than a chart or a threshold can tell apart.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalyd.block import F64, I64
from anomalyd.errors import StoreError
from anomalyd.score import Observation, Verdicts

_VERSION = 1
_F32_MAX = float(np.finfo(np.float32).max)
_FLOATS, _BYTES = 5, 3


def pack_scores(observation: Observation) -> bytes:
    """Pack the arrays of an observation; its series are packed apart by ``pack_rows``."""
    o, v = observation, observation.verdicts
    columns = [_narrow(column) for column in (o.value, o.expected, o.lower, o.upper, o.surprise)]
    columns += [np.asarray(column, np.int8) for column in (v.kind, v.tier, v.why)]
    flags, lengths, parts = 0, [], []
    for i, column in enumerate(columns):
        raw = column.tobytes()
        squeezed = zlib.compress(raw, 1) if _pays(column) else raw
        if len(squeezed) + 4 < len(raw):
            flags |= 1 << i
            lengths.append(len(squeezed))
            raw = squeezed
        parts.append(raw)
    return b"".join((struct.pack(f"<BB{len(lengths)}I", _VERSION, flags, *lengths), *parts))


def unpack_scores(blob: bytes, at: int, rows: I64) -> Observation:
    """Inverse of ``pack_scores`` for the given series; StoreError `corrupt` when the bytes are not such a blob."""
    try:
        return _unpack(blob, at, rows)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise StoreError("corrupt", f"stored scores of slot {at} cannot be read: {error}") from error


def rows_digest(rows: I64) -> str:
    """A digest that identifies a list of row ids, order and all."""
    return hashlib.blake2b(np.asarray(rows, "<i8").tobytes(), digest_size=16).hexdigest()


def pack_rows(rows: I64) -> bytes:
    """Pack row ids, order kept."""
    deltas = np.diff(np.asarray(rows, "<i8"), prepend=np.int64(0)).astype("<i8")
    return zlib.compress(deltas.tobytes(), 6)


def unpack_rows(blob: bytes) -> I64:
    """Inverse of ``pack_rows``."""
    try:
        return np.cumsum(np.frombuffer(zlib.decompress(blob), "<i8"), dtype=np.int64)
    except (zlib.error, ValueError) as error:
        raise StoreError("corrupt", f"a stored list of series cannot be read: {error}") from error


def _unpack(blob: bytes, at: int, rows: I64) -> Observation:
    if blob[0] != _VERSION:
        raise ValueError(f"unknown layout {blob[0]}")
    flags, count = blob[1], len(rows)
    lengths = iter(struct.unpack_from(f"<{flags.bit_count()}I", blob, 2))
    offset = 2 + 4 * flags.bit_count()
    columns: list[bytes] = []
    for i in range(_FLOATS + _BYTES):
        raw_size = count * (4 if i < _FLOATS else 1)
        packed = bool(flags >> i & 1)
        size = next(lengths) if packed else raw_size
        part = blob[offset : offset + size]
        column = zlib.decompressobj().decompress(part, raw_size + 1) if packed else part
        if len(column) != raw_size:
            raise ValueError(f"column {i} has {len(column)} bytes, {raw_size} expected")
        columns.append(column)
        offset += size
    if offset != len(blob):
        raise ValueError(f"{len(blob) - offset} bytes too many")
    value, expected, lower, upper, surprise = (_widen(column) for column in columns[:_FLOATS])
    kind, tier, why = (np.frombuffer(column, np.int8) for column in columns[_FLOATS:])
    return Observation(at, rows, value, expected, lower, upper, surprise, Verdicts(kind, tier, why))


def _narrow(column: F64) -> npt.NDArray[Any]:
    wide = np.asarray(column, np.float64)
    if not (np.abs(wide) <= _F32_MAX).all():
        wide = np.where(np.isfinite(wide), np.clip(wide, -_F32_MAX, _F32_MAX), wide)
    return wide.astype("<f4")


def _widen(column: bytes) -> F64:
    return np.frombuffer(column, "<f4").astype(np.float64)


def _pays(column: npt.NDArray[Any]) -> bool:
    """Whether to try compression: noise does not shrink; runs do (no band at all, every verdict `ok`)."""
    if len(column) < 32:
        return False
    bits = column.view(f"i{column.itemsize}")
    return bool(np.count_nonzero(bits[1:] == bits[:-1]) > len(bits) // 4)
