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

import numpy as np

from anomalyd.block import F64, I64
from anomalyd.errors import StoreError
from anomalyd.score import Observation, Verdicts

_VERSION = 1
_F32_MAX = float(np.finfo(np.float32).max)
_PROBE = 2048
_FLOATS, _BYTES = 5, 3


def pack_scores(observation: Observation) -> bytes:
    """Pack the arrays of an observation; its series are packed apart by ``pack_rows``."""
    o, v = observation, observation.verdicts
    columns = [_narrow(column) for column in (o.value, o.expected, o.lower, o.upper, o.surprise)]
    columns += [np.asarray(column, np.int8).tobytes() for column in (v.kind, v.tier, v.why)]
    flags, lengths, parts = 0, [], []
    for i, column in enumerate(columns):
        squeezed = _squeeze(column)
        if squeezed is not None:
            flags |= 1 << i
            lengths.append(len(squeezed))
        parts.append(column if squeezed is None else squeezed)
    return b"".join((struct.pack(f"<BB{len(lengths)}I", _VERSION, flags, *lengths), *parts))


def unpack_scores(blob: bytes, at: int, rows: I64) -> Observation:
    """Inverse of ``pack_scores`` for the given series; StoreError `corrupt` when the bytes are not such a blob."""
    try:
        return _unpack(blob, at, rows)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise StoreError("corrupt", f"stored scores of slot {at} cannot be read: {error}") from error


def pack_rows(rows: I64) -> tuple[str, bytes]:
    """Pack row ids (order kept); return a digest that identifies the list, and the bytes."""
    deltas = np.diff(np.asarray(rows, "<i8"), prepend=np.int64(0)).astype("<i8")
    raw = deltas.tobytes()
    return hashlib.blake2b(raw, digest_size=16).hexdigest(), zlib.compress(raw, 6)


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


def _narrow(column: F64) -> bytes:
    wide = np.asarray(column, np.float64)
    clipped = np.where(np.isfinite(wide), np.clip(wide, -_F32_MAX, _F32_MAX), wide)
    return clipped.astype("<f4").tobytes()


def _widen(column: bytes) -> F64:
    return np.frombuffer(column, "<f4").astype(np.float64)


def _squeeze(column: bytes) -> bytes | None:
    """Compress where it pays: noise does not, NaN bands and verdicts that are all `ok` do. A probe decides cheaply."""
    if len(column) < 64:
        return None
    probe = column[:_PROBE]
    if len(zlib.compress(probe, 1)) > 0.8 * len(probe):
        return None
    squeezed = zlib.compress(column, 1)
    return squeezed if len(squeezed) + 4 < 0.9 * len(column) else None
