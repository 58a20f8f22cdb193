"""Samples as the body of a remote write request (protobuf in a snappy frame), and nothing of the protocol beside it.

What is sent goes over loopback to a server of our own, so the frame only carries: it is made of literals.
"""

from __future__ import annotations

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, Labels

STALE = np.array([0x7FF0000000000002], np.uint64).view(np.float64)[0]
"""The NaN by which Prometheus knows that a series has ended."""

EARLIEST, LATEST = 1 << 35, 1 << 42
"""Milliseconds whose varint has six bytes: 1971 to 2109."""

_LITERAL = 1 << 16


def write_request(block: Block, stale: Bool) -> bytes:
    """All samples of a block; NaN is none, but where ``stale`` is set it is the mark of an end.

    Raises ``ValueError`` for times before 1971 or after 2109.
    """
    if len(block.times) and not EARLIEST <= block.times[0] <= block.times[-1] < LATEST:
        raise ValueError("times must lie between 1971 and 2109")
    whole = bytearray()
    for i, labels in enumerate(block.labels):
        there = ~np.isnan(block.values[i]) | stale[i]
        if there.any():
            values = np.where(stale[i], STALE, block.values[i])[there]
            whole += _field(1, _labels(labels) + _samples(block.times[there], values))
    return bytes(whole)


def snappy(data: bytes) -> bytes:
    """A snappy frame of literals."""
    out = bytearray(_varint(len(data)))
    for at in range(0, len(data), _LITERAL):
        piece = data[at : at + _LITERAL]
        out += b"\xf4" + (len(piece) - 1).to_bytes(2, "little") + piece
    return bytes(out)


def _labels(labels: Labels) -> bytes:
    pairs = ((name.encode("utf-8", "replace"), value.encode("utf-8", "replace")) for name, value in labels)
    return b"".join(_field(1, _field(1, name) + _field(2, value)) for name, value in pairs)


def _samples(times: I64, values: F64) -> bytes:
    """Each sample is a field of 18 bytes: 2 for itself, 9 for the value, 7 for the time."""
    rows = np.zeros((len(times), 18), np.uint8)
    rows[:, 0], rows[:, 1], rows[:, 2] = 0x12, 16, 0x09
    rows[:, 3:11] = np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(-1, 8)
    rows[:, 11] = 0x10
    for byte in range(6):
        rows[:, 12 + byte] = (times >> (7 * byte) & 0x7F) | (0x80 if byte < 5 else 0)
    return rows.tobytes()


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
