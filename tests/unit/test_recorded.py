"""The recorded source: blocks that answer like a server."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyd.block import Block
from anomalyd.clock import MINUTE_MS
from anomalyd.errors import QueryRejected
from anomalyd.recorded import RecordedSource

TIMES = np.arange(3, dtype=np.int64) * MINUTE_MS
BLOCK = Block(((("a", "1"),), (("a", "2"),)), TIMES, np.array([[1, np.nan, 3], [np.nan, np.nan, 6.0]]))


def test_an_instant_answer_has_only_series_with_a_sample() -> None:
    """Off the grid, or where nobody has a sample, the answer is empty."""
    source = RecordedSource({"x": BLOCK})
    assert source.instant("x", 0).block.labels == ((("a", "1"),),)
    assert source.instant("x", 2 * MINUTE_MS).block.labels == BLOCK.labels
    assert [len(source.instant("x", at).block) for at in (MINUTE_MS, 30_000, 9 * MINUTE_MS)] == [0, 0, 0]


def test_a_range_has_a_column_for_every_step() -> None:
    """Also outside the record, where everything is missing."""
    source = RecordedSource({"x": BLOCK})
    reply = source.range("x", MINUTE_MS, 4 * MINUTE_MS, MINUTE_MS).block
    np.testing.assert_array_equal(reply.values, [[np.nan, 3, np.nan, np.nan], [np.nan, 6, np.nan, np.nan]])
    assert len(source.range("x", 9 * MINUTE_MS, 10 * MINUTE_MS, MINUTE_MS).block) == 0


def test_an_expression_that_was_not_recorded_is_refused() -> None:
    """As a server refuses one that it does not understand."""
    with pytest.raises(QueryRejected, match="nothing is recorded for 'y'"):
        RecordedSource({"x": BLOCK}).instant("y", 0)
