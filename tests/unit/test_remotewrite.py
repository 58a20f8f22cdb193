"""Bytes of a remote write request, held against the protocol's own words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.block import Block, make_labels
from anomalyd.prometheus.remotewrite import (
    STALE,
    Message,
    encode_labels,
    messages,
    requests,
    snappy,
    write_request,
)
from fakes.remotewrite import _fields, _sample, unpack


def test_one_series_byte_by_byte() -> None:
    """WriteRequest{timeseries{labels{name,value}..., samples{value,timestamp}...}} as protobuf lays it out."""
    times = np.array([1_767_571_200_000, 1_767_571_260_000], np.int64)
    block = Block((make_labels({"__name__": "up", "a": "1"}),), times, np.array([[1.5, np.nan]]))
    labels = b"\x0a\x0e\x0a\x08__name__\x12\x02up" + b"\x0a\x06\x0a\x01a\x12\x011"
    sample = b"\x12\x10\x09" + np.float64(1.5).tobytes() + b"\x10" + varint(1_767_571_200_000)
    whole = labels + sample
    assert write_request(block, np.zeros((1, 2), np.bool_)) == b"\x0a" + bytes([len(whole)]) + whole


def varint(value: int) -> bytes:
    """Base 128, lowest group first; for example 300 is AC 02."""
    groups = []
    while value:
        groups.append(int(value & 0x7F) | 0x80)
        value >>= 7
    groups[-1] &= 0x7F
    return bytes(groups)


def test_an_end_is_marked_with_the_stale_nan() -> None:
    """A gap is nothing, an end is the NaN with Prometheus's payload."""
    times = np.array([1_767_571_200_000, 1_767_571_260_000], np.int64)
    block = Block((make_labels({"__name__": "up"}),), times, np.full((1, 2), np.nan))
    body = write_request(block, np.array([[False, True]]))
    assert body.count(STALE.tobytes()) == 1
    assert STALE.tobytes() == bytes([2, 0, 0, 0, 0, 0, 0xF0, 0x7F])
    assert write_request(block, np.zeros((1, 2), np.bool_)) == b""


def test_times_beyond_the_layout_are_refused() -> None:
    """They would be written wrong."""
    block = Block((make_labels({"__name__": "up"}),), np.array([1_000], np.int64), np.ones((1, 1)))
    with pytest.raises(ValueError, match="between 1971 and 2109"):
        write_request(block, np.zeros((1, 1), np.bool_))


def test_a_worked_request() -> None:
    """A series of two labels and a sample, byte by byte as other senders write it."""
    wanted = (
        "0a3a0a190a085f5f6e616d655f5f120d616e6f6d616c795f73636f72650a0b0a0472756c651203637075"
        "121009000000000000e03f1080d095ffbc31"
    )
    times, half, yes = np.array([1_700_000_000_000], np.int64), np.full((1, 1), 0.5), np.ones((1, 1), np.bool_)
    [one] = messages("anomaly_score", [encode_labels({"rule": "cpu"})], times, half, yes, ~yes)
    assert one.body.hex() == wanted
    assert snappy(one.body)[:1] == b"\x3c"
    assert unpack(snappy(one.body)) == one.body


@given(st.binary(max_size=3000), st.integers(1, 40))
def test_what_is_packed_unpacks_to_the_same(data: bytes, times: int) -> None:
    """By a reader that is not ours: repeated bytes become copies, all others literals."""
    assert unpack(snappy(data * times)) == data * times


NAMES = st.text("Aa_z0é", min_size=1, max_size=4)


@given(st.dictionaries(NAMES, st.text(max_size=5), max_size=6), st.lists(st.booleans(), min_size=3, max_size=3))
def test_labels_are_sorted_and_never_empty(labels: dict[str, str], there: list[bool]) -> None:
    """Whatever the labels: sorted by their bytes, the name among them, none empty; and only samples that are there."""
    times = np.arange(1_767_571_200_000, 1_767_571_200_003, dtype=np.int64)
    chosen = np.array([there])
    found = list(messages("up", [encode_labels(labels)], times, np.arange(3.0)[None], chosen, np.zeros((1, 3), bool)))
    assert len(found) == any(there)
    for message in found:
        [(_, series)] = _fields(message.body, {1: 2})
        parts = list(_fields(series, {1: 2, 2: 2}))
        pairs = [[text.decode() for _, text in _fields(part, {1: 2, 2: 2})] for number, part in parts if number == 1]
        names = [name for name, _ in pairs]
        assert names == sorted(names, key=str.encode)
        assert dict(pairs) == {"__name__": "up"} | {name: value for name, value in labels.items() if value}
        samples = [_sample(part) for number, part in parts if number == 2]
        assert [at for at, _ in samples] == times[chosen[0]].tolist()


def test_requests_hold_few_samples_and_whole_series() -> None:
    """As many series as fit; one that is too large alone goes alone."""
    parts = [Message(bytes([65 + i]), samples) for i, samples in enumerate((2, 2, 1, 9, 1))]
    assert list(requests(parts, 4)) == [(b"AB", 4), (b"C", 1), (b"D", 9), (b"E", 1)]
    assert list(requests([], 4)) == []
