"""Packing of scores and of lists of series."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from anomalyd.errors import StoreError
from anomalyd.score import Observation, Verdicts
from anomalyd.store.pack import pack_rows, pack_scores, rows_digest, unpack_rows, unpack_scores

F32_MAX = float(np.finfo(np.float32).max)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """Any observation: every float there is, any verdict byte."""
    n = draw(st.integers(0, 200))
    floats = [draw(hnp.arrays(np.float64, n, elements=st.floats(width=64))) for _ in range(5)]
    small = [draw(hnp.arrays(np.int8, n)) for _ in range(3)]
    return Observation(7, np.arange(n, dtype=np.int64), *floats, Verdicts(*small))


@given(observations())
def test_scores_survive_packing(seen: Observation) -> None:
    """Every value comes back as its nearest float32, NaN as NaN, infinity as infinity, verdicts exactly."""
    back = unpack_scores(pack_scores(seen), seen.at, seen.series)
    for name in ("value", "expected", "lower", "upper", "surprise"):
        wide = getattr(seen, name)
        clipped = np.where(np.isfinite(wide), np.clip(wide, -F32_MAX, F32_MAX), wide)
        np.testing.assert_array_equal(getattr(back, name), clipped.astype(np.float32).astype(np.float64))
    for name in ("kind", "tier", "why"):
        np.testing.assert_array_equal(getattr(back.verdicts, name), getattr(seen.verdicts, name))


@given(hnp.arrays(np.int64, st.integers(0, 300), elements=st.integers(0, 2**62)))
def test_rows_survive_packing(rows: np.ndarray) -> None:
    """A list of row ids comes back in its order, and equal lists have equal digests."""
    np.testing.assert_array_equal(unpack_rows(pack_rows(rows)), rows)
    assert rows_digest(rows.copy()) == rows_digest(rows)


def test_other_lists_have_other_digests() -> None:
    """Order and length matter."""
    lists = ([], [0], [0, 0], [1, 2], [2, 1], [1, 2, 3])
    assert len({rows_digest(np.array(rows, np.int64)) for rows in lists}) == len(lists)


def test_a_thousand_scores_take_about_21_bytes_each() -> None:
    """Noise costs its 20 bytes and next to nothing for verdicts; empty bands cost nothing."""
    n, random = 1000, np.random.default_rng(1)
    columns = [random.normal(size=n) for _ in range(5)]
    ok = Verdicts(*(np.zeros(n, np.int8) for _ in range(3)))
    noisy = Observation(0, np.arange(n), *columns, ok)
    assert 20 * n < len(pack_scores(noisy)) < 20.2 * n
    empty = np.full(n, math.nan)
    bare = Observation(0, np.arange(n), columns[0], empty, empty, empty, columns[4], ok)
    assert len(pack_scores(bare)) < 8.5 * n


@pytest.mark.parametrize("damage", ["cut", "longer", "version", "flags", "empty", "rows"])
def test_damaged_bytes_are_refused(damage: str) -> None:
    """Bytes that are not a blob for that many series raise `corrupt`, never anything else."""
    n = 100
    zeros = np.zeros(n)
    blob = pack_scores(Observation(0, np.arange(n), *([zeros] * 5), Verdicts(*([zeros.astype(np.int8)] * 3))))
    damaged = {
        "cut": blob[:-3],
        "longer": blob + b"x" * 40,
        "version": b"\x09" + blob[1:],
        "flags": blob[:1] + b"\x00" + blob[2:],
        "empty": b"",
        "rows": blob,
    }[damage]
    rows = np.arange(n + 1 if damage == "rows" else n)
    with pytest.raises(StoreError) as caught:
        unpack_scores(damaged, 0, rows)
    assert caught.value.reason == "corrupt"


def test_damaged_rows_are_refused() -> None:
    """Bytes that are not a packed list raise `corrupt`."""
    with pytest.raises(StoreError) as caught:
        unpack_rows(b"not zlib")
    assert caught.value.reason == "corrupt"
