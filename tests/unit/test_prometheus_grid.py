"""The parts of a range make one block, whatever series each of them has."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.block import I64, Labels
from anomalyd.prometheus.decode import Decoded, Envelope
from anomalyd.prometheus.grid import Collector, grid
from anomalyd.prometheus.labelcache import EMPTY, Sequence, find_ambiguous

SUCCESS = Envelope("success", result_type="matrix")


def part(names: list[str], times: I64) -> Decoded:
    """Series named so, each sample its series' number plus its time."""
    labels: tuple[Labels, ...] = tuple((("n", name),) for name in names)
    values = np.array([[int(name) * 1000.0 + t for t in times] for name in names]).reshape(len(names), len(times))
    keep, ambiguous = find_ambiguous(labels)
    return Decoded(SUCCESS, Sequence(EMPTY.joined, EMPTY.offsets, labels, keep, ambiguous), values)


def test_grid() -> None:
    """The end is included when it lies on the grid."""
    assert grid(5, 25, 10).tolist() == [5, 15, 25]
    assert grid(5, 24, 10).tolist() == [5, 15]
    assert grid(5, 5, 10).tolist() == [5]


names = st.lists(st.sampled_from("123456"), max_size=5)


@given(st.lists(st.tuples(names, st.integers(1, 4)), min_size=1, max_size=5))
def test_any_parts(parts: list[tuple[list[str], int]]) -> None:
    """Each sample is at its series and time, each absence is NaN, and who was named twice is left out."""
    times = np.arange(sum(width for _, width in parts), dtype=np.int64)
    collector = Collector(times)
    first = 0
    expected: dict[str, dict[int, float]] = {}
    twice: set[str] = set()
    for series, width in parts:
        columns = times[first : first + width]
        collector.add(first, part(series, columns))
        twice |= {name for name in series if series.count(name) > 1}
        for name in series:
            expected.setdefault(name, {}).update({int(t): int(name) * 1000.0 + t for t in columns})
        first += width
    block = collector.block()
    found = {
        labels[0][1]: {int(t): v for t, v in zip(times, row, strict=True) if not np.isnan(v)}
        for labels, row in zip(block.labels, block.values, strict=True)
    }
    assert found == {name: samples for name, samples in expected.items() if name not in twice}
    assert {labels[0][1] for labels in collector.ambiguous()[1]} == twice
