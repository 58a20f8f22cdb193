"""Cleaning of what is bound to statements."""

from __future__ import annotations

import json
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from anomalyd.store.text import clamp_int, clean, clean_json, to_json

any_text = st.text(st.characters(exclude_categories=()))
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text,
    lambda inner: st.lists(inner) | st.dictionaries(any_text, inner),
    max_leaves=12,
)


@given(any_text)
def test_clean_text_fits_both_engines(text: str) -> None:
    """What is left encodes as UTF-8, has no NUL, the same length, and is not cleaned further."""
    cleaned = clean(text)
    cleaned.encode()
    assert "\x00" not in cleaned
    assert len(cleaned) == len(text)
    assert clean(cleaned) == cleaned


@given(any_json)
def test_json_keeps_every_character(value: object) -> None:
    """A JSON value comes back equal, whatever is in its strings, from text that both engines hold."""
    text = to_json(value)
    assert clean(text) == text
    assert json.loads(text) == value


@given(any_json)
def test_clean_json_keeps_the_shape(value: object) -> None:
    """Cleaning a value cleans its strings and nothing else."""
    assert json.loads(clean(json.dumps(clean_json(value)))) == clean_json(value)


def test_nan_becomes_null() -> None:
    """JSON has no NaN; infinity is kept for the band of a one-sided detector."""
    assert json.loads(to_json({"a": [math.nan, math.inf, 1.5]})) == {"a": [None, math.inf, 1.5]}


@pytest.mark.parametrize(("value", "kept"), [(0, 0), (2**63, 2**63 - 1), (-(2**70), -(2**63)), (2**63 - 1, 2**63 - 1)])
def test_integers_are_clamped(value: int, kept: int) -> None:
    """64 bits is what the engines have."""
    assert clamp_int(value) == kept
