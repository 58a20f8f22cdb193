"""The body of a Remote-Write 1.0 request: protobuf by hand, in snappy's block format. Bytes only, nothing of HTTP.

The message has four kinds of fields, so it is written as bytes from numpy arrays; a library that makes an object a
sample would cost more than scoring did. Labels are encoded once a series and kept (``SeriesLabels``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cramjam
import numpy as np

from anomalyd.block import F64, I64, Block, Bool

STALE_BITS = np.uint64(0x7FF0000000000002)
STALE = np.array([STALE_BITS]).view(np.float64)[0]
"""The NaN by which Prometheus knows that a series has ended."""

EARLIEST, LATEST = 1 << 35, 1 << 42
"""Milliseconds whose varint has six bytes: 1971 to 2109."""

_NAME = b"__name__"
_SAMPLE = 18


@dataclass(frozen=True, slots=True)
class SeriesLabels:
    """The labels of a series as fields of a message, but for its name: those that sort before it and those after."""

    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One series of a request with its samples."""

    body: bytes
    samples: int


def encode_labels(labels: Mapping[str, str]) -> SeriesLabels:
    """Encode labels, sorted by the bytes of their names; those without a value are left out, ``__name__`` too."""
    pairs = sorted((_bytes(name), _bytes(value)) for name, value in labels.items() if name != "__name__")
    fields = [(name, _field(1, _field(1, name) + _field(2, value))) for name, value in pairs if name and value]
    return SeriesLabels(
        b"".join(field for name, field in fields if name < _NAME),
        b"".join(field for name, field in fields if name > _NAME),
    )


def messages(
    name: str, labels: Sequence[SeriesLabels], times: I64, values: F64, there: Bool, stale: Bool
) -> Iterator[Message]:
    """The series of one metric name that have samples.

    Args:
        times: milliseconds, rising [T].
        values, there, stale: [N, T]; a sample is where ``there`` or ``stale``, which is the mark of an end.

    Raises ``ValueError`` for times before 1971 or after 2109.
    """
    if len(times) and not EARLIEST <= times[0] <= times[-1] < LATEST:
        raise ValueError("times must lie between 1971 and 2109")
    chosen = there | stale
    samples = _samples(times, values, chosen, stale)
    field = _field(1, _field(1, _NAME) + _field(2, _bytes(name))) if name else b""
    first = 0
    for one, count in zip(labels, chosen.sum(axis=1).tolist(), strict=True):
        if count:
            last = first + _SAMPLE * count
            length = len(one.before) + len(field) + len(one.after) + last - first
            body = b"".join((b"\x0a", _varint(length), one.before, field, one.after, samples[first:last]))
            yield Message(body, count)
            first = last


def requests(parts: Iterable[Message], most: int) -> Iterator[tuple[bytes, int]]:
    """Bodies of requests with at most ``most`` samples each, a series never split, and how many samples they hold."""
    held: list[bytes] = []
    samples = 0
    for part in parts:
        if held and samples + part.samples > most:
            yield b"".join(held), samples
            held, samples = [], 0
        held.append(part.body)
        samples += part.samples
    if held:
        yield b"".join(held), samples


def write_request(block: Block, stale: Bool) -> bytes:
    """All samples of a block; NaN is none, but where ``stale`` is set it is the mark of an end.

    Raises ``ValueError`` for times before 1971 or after 2109.
    """
    named = (dict(labels).get("__name__", "") for labels in block.labels)
    encoded = (encode_labels(dict(labels)) for labels in block.labels)
    there = ~np.isnan(block.values)
    return b"".join(
        part.body
        for i, (name, labels) in enumerate(zip(named, encoded, strict=True))
        for part in messages(name, [labels], block.times, block.values[i : i + 1], there[i : i + 1], stale[i : i + 1])
    )


def snappy(data: bytes) -> bytes:
    """Snappy's block format, which has no frame."""
    return bytes(cramjam.snappy.compress_raw(data))


def _samples(times: I64, values: F64, chosen: Bool, stale: Bool) -> bytes:
    """The chosen samples, series by series; each is a field of 18 bytes: 2 for itself, 9 the value, 7 the time."""
    bits = np.where(stale, STALE_BITS, np.ascontiguousarray(values, np.float64).view(np.uint64))[chosen]
    moments = np.broadcast_to(times, values.shape)[chosen]
    rows = np.zeros((len(bits), _SAMPLE), np.uint8)
    rows[:, 0], rows[:, 1], rows[:, 2] = 0x12, 16, 0x09
    rows[:, 3:11] = bits.astype("<u8").view(np.uint8).reshape(-1, 8)
    rows[:, 11] = 0x10
    for byte in range(6):
        rows[:, 12 + byte] = (moments >> (7 * byte) & 0x7F) | (0x80 if byte < 5 else 0)
    return rows.tobytes()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


@lru_cache(maxsize=4096)
def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
