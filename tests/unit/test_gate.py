"""The gate before a receiver: rate, burst, closing, and clocks that jump."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anomalyd.gate import MAX_CLOSED_MS, Gate


def test_no_limit() -> None:
    """Without a rate everything passes at once."""
    gate = Gate(0, 1)
    gate.take(0)
    assert gate.opens_at(5) <= 5
    assert gate.room(5) is None


@given(st.integers(1, 2_000), st.integers(1, 20), st.lists(st.integers(0, 500), max_size=200))
def test_never_more_than_the_rate(every_ms: int, burst: int, waits: list[int]) -> None:
    """In any span of time at most the burst and what the rate allows go through, and room tells how many."""
    gate, now, sent = Gate(every_ms, burst), 1_000_000, []
    for wait in waits:
        now += wait
        if gate.opens_at(now) <= now:
            assert (gate.room(now) or 0) >= 1
            gate.take(now)
            sent.append(now)
        else:
            assert gate.room(now) == 0
    for i, start in enumerate(sent):
        for j in range(i, len(sent)):
            assert j - i + 1 <= burst + (sent[j] - start) / every_ms + 1e-9


def test_closed() -> None:
    """A closed gate opens at its time, never later than five minutes ahead of a clock that was set back."""
    gate = Gate(0, 1)
    gate.close_until(10_000)
    assert (gate.opens_at(5_000), gate.room(5_000)) == (10_000, 0)
    assert gate.opens_at(10_000) <= 10_000
    gate.close_until(10_000_000)
    assert gate.opens_at(0) == MAX_CLOSED_MS
