"""Bytes of a remote write request, held against the protocol's own words."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.prometheus.remotewrite import STALE, snappy, write_request


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


def test_a_frame_of_literals() -> None:
    """The length, then pieces of at most 64 KiB behind their own lengths."""
    data = bytes(range(256)) * 300
    frame = snappy(data)
    assert frame[:3] == b"\x80\xd8\x04"
    assert frame[3:6] == b"\xf4\xff\xff"
    assert frame[6 : 6 + 65536] == data[:65536]
    assert frame[6 + 65536 :] == b"\xf4" + (len(data) - 65536 - 1).to_bytes(2, "little") + data[65536:]
