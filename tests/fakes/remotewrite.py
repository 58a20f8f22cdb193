"""A strict receiver of Remote-Write 1.0: it reads the request by the protocol's own words and refuses what breaks them.

It decodes with a snappy and a protobuf reader of its own, so that it does not repeat a mistake of ours. What it took is
in ``series``: samples by label set, as (milliseconds, the float's 64 bits).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping

from fakes.sink import Answer, Request, Sink

STALE = 0x7FF0000000000002
LabelSet = tuple[tuple[str, str], ...]
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")


class Broken(Exception):
    """A request that the protocol forbids."""


class RemoteWriteReceiver(Sink):
    """Takes samples at ``/api/v1/write``.

    Attributes:
        refuses_old: also refuse a whole request with one sample that is older than what its series has, as Prometheus
            without an out-of-order window does; the same sample again is taken.
        down: answer 503 to everything.
        authorization: required ``Authorization`` header when not empty.
        broken: what was wrong with requests that were refused as malformed; a test ends with none.
    """

    def __init__(self, refuses_old: bool = False) -> None:
        self.series: dict[LabelSet, list[tuple[int, int]]] = {}
        self.refuses_old = refuses_old
        self.down = False
        self.authorization = ""
        self.broken: list[str] = []
        super().__init__()

    @property
    def write_url(self) -> str:
        return f"{self.url}/api/v1/write"

    def handle(self, request: Request) -> Answer:
        """Take the samples of a request, all or none."""
        if self.down:
            return Answer(503, b"down", content_type="text/plain")
        if self.authorization and request.headers.get("authorization") != self.authorization:
            return Answer(401, b"who are you?", content_type="text/plain")
        try:
            return self._take(read(request))
        except Broken as error:
            self.broken.append(str(error))
            return Answer(400, str(error).encode(), content_type="text/plain")

    def _take(self, found: list[tuple[LabelSet, list[tuple[int, int]]]]) -> Answer:
        if self.refuses_old:
            for labels, samples in found:
                newest = self.series.get(labels, [(0, 0)])[-1]
                if samples[0][0] < newest[0] or (samples[0][0] == newest[0] and samples[0] != newest):
                    return Answer(400, b"out of order sample", content_type="text/plain")
        for labels, samples in found:
            held = self.series.setdefault(labels, [])
            held += [one for one in samples if one not in held[-1:]]
        return Answer(204)

    def of(self, name: str, **labels: str) -> dict[LabelSet, list[tuple[int, float]]]:
        """The series of a name that have these labels, by the rest of their labels; samples as floats."""
        wanted = {"__name__": name, **labels}
        found = {}
        for one, samples in self.series.items():
            if wanted.items() <= dict(one).items():
                rest = tuple(pair for pair in one if pair[0] not in wanted)
                found[rest] = [(at, struct.unpack("<d", struct.pack("<Q", bits))[0]) for at, bits in samples]
        return found

    def ended(self) -> set[LabelSet]:
        """The series whose newest sample is the mark of an end."""
        return {labels for labels, samples in self.series.items() if samples[-1][1] == STALE}


def read(request: Request) -> list[tuple[LabelSet, list[tuple[int, int]]]]:
    """The series of a request; raise ``Broken`` for what the protocol forbids."""
    if (request.method, request.path) != ("POST", "/api/v1/write"):
        raise Broken(f"{request.method} {request.path}")
    _check_headers(request.headers)
    found = [_series(part) for _, part in _fields(unpack(request.body), {1: 2})]
    seen = [labels for labels, _ in found]
    if len(set(seen)) != len(seen):
        raise Broken("one series twice in a request")
    return found


def _check_headers(headers: Mapping[str, str]) -> None:
    wanted = {"content-encoding": "snappy", "content-type": "application/x-protobuf",
              "x-prometheus-remote-write-version": "0.1.0"}  # fmt: skip
    for name, value in wanted.items():
        if headers.get(name) != value:
            raise Broken(f"header {name} is {headers.get(name)!r}")
    if not re.match(r"[\w.-]+/[\w.+-]+", headers.get("user-agent", "")):
        raise Broken("User-Agent does not name the sender and its version")


def _series(data: bytes) -> tuple[LabelSet, list[tuple[int, int]]]:
    labels: list[tuple[str, str]] = []
    samples: list[tuple[int, int]] = []
    for number, part in _fields(data, {1: 2, 2: 2}):
        if number == 1:
            pair = {field: value.decode() for field, value in _fields(part, {1: 2, 2: 2})}
            labels.append((pair.get(1, ""), pair.get(2, "")))
        else:
            samples.append(_sample(part))
    _check_labels(labels)
    times = [at for at, _ in samples]
    if not samples or times != sorted(set(times)):
        raise Broken(f"samples out of order: {times}")
    return tuple(labels), samples


def _check_labels(labels: list[tuple[str, str]]) -> None:
    names = [name for name, _ in labels]
    if names != sorted(set(names), key=str.encode):
        raise Broken(f"labels are not sorted, or not unique: {names}")
    for name, value in labels:
        if not value or not (_NAME.match(value) if name == "__name__" else _LABEL.match(name)):
            raise Broken(f"label {name!r} with the value {value!r}")
        if name.startswith("__") and name != "__name__":
            raise Broken(f"{name} is reserved")
    if "__name__" not in names:
        raise Broken("a series without a name")


def _sample(data: bytes) -> tuple[int, int]:
    value, at, place = 0, 0, 0
    while place < len(data):
        key = data[place]
        if key == 0x09:
            value, place = struct.unpack_from("<Q", data, place + 1)[0], place + 9
        elif key == 0x10:
            at, place = _varint(data, place + 1)
        else:
            raise Broken(f"field {key:#x} in a sample")
    return at, value


def _fields(data: bytes, kinds: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        if kinds.get(key >> 3) != key & 7:
            raise Broken(f"field {key >> 3} of wire type {key & 7}")
        size, place = _varint(data, place)
        if place + size > len(data):
            raise Broken("a field is cut short")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def unpack(data: bytes) -> bytes:
    """Snappy's block format: the length, then literals and copies."""
    size, place = _varint(data, 0)
    out = bytearray()
    while place < len(data):
        tag, kind = data[place], data[place] & 3
        place += 1
        if kind == 0:
            length = tag >> 2
            if length >= 60:
                width = length - 59
                length = int.from_bytes(data[place : place + width], "little")
                place += width
            out += data[place : place + length + 1]
            place += length + 1
            continue
        if kind == 1:
            length, back = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | data[place]
            place += 1
        else:
            width = 2 if kind == 2 else 4
            length, back = (tag >> 2) + 1, int.from_bytes(data[place : place + width], "little")
            place += width
        for _ in range(length):
            out.append(out[-back])
    if len(out) != size:
        raise Broken(f"{len(out)} bytes unpacked, {size} announced")
    return bytes(out)
