"""The strict YAML reader: what it takes, what it refuses, and where it says the fault lies."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.errors import ConfigError, Problem
from anomalyd.yamlfile import MAX_BYTES, MAX_DEPTH, MAX_NODES, did_you_mean, plain_value, read_file, read_yaml


def refused(text: str | bytes) -> str:
    """The problems of a text that must be refused, as the user reads them."""
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "x.yml").raise_problems()
    return str(caught.value)


def test_data_and_positions() -> None:
    """Keys, values and entries of lists are found again by their place, counting from 1."""
    document = read_yaml("a: 1\nb:\n  - c: two\n    d: [x, yy]\n", "x.yml")
    assert document.data == {"a": 1, "b": [{"c": "two", "d": ["x", "yy"]}]}
    here = {loc: (m.line, m.column) for loc, m in document.values.items()}
    assert here[("a",)] == (1, 4)
    assert here[("b", 0, "d", 1)] == (4, 12)
    assert (document.keys[("b", 0, "d")].line, document.keys[("b", 0, "d")].column) == (4, 5)
    assert document.where(("b", 0, "c")) == "x.yml:3"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("NO", "NO"), ("yes", "yes"), ("y", "y"), ("1:30", "1:30"), ("2026-01-31", "2026-01-31"),
        ("true", True), ("False", False), ("~", None), ("", None), ("null", None), ("12", 12), ("-7", -7), ("0x1F", 31),
        ("0o17", 15), ("1e3", 1000.0), ("1.5", 1.5), (".5", 0.5), ("1_000", "1_000"), ("0b11", "0b11"), ("5m", "5m"),
        (".inf", float("inf")), ("-.INF", float("-inf")), ("1.2.3", "1.2.3"), ("=", "="), ("9" * 50, "9" * 50),
    ],
)  # fmt: skip
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    """Words of YAML 1.1 such as NO, on and 1:30 are text; numbers are numbers."""
    assert read_yaml(f"k: {text}", "x.yml").data == {"k": value}
    assert read_yaml(f"k: '{text}'", "x.yml").data == {"k": text}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\n", "x.yml:1:4: anchor &x is not allowed"),
        ("a: b\nc: *x\n", "x.yml:2:4: alias *x is not allowed"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "anchor &x is not allowed"),
        ("c:\n  <<: {a: 1}\n", "x.yml:2:3: merge key << is not allowed"),
        ("a: &x [*x]\n", "anchor &x is not allowed"),
        ("a: !!python/object/apply:os.system [id]\n",
         "tag tag:yaml.org,2002:python/object/apply:os.system is not allowed"),
        ("a: !secret x\n", "x.yml:1:4: tag !secret is not allowed"),
        ("a: 1\n---\nb: 2\n", "x.yml:2:1: a second document (---) is not allowed"),
        ("a: 1\nb: 2\na: 3\n", "x.yml:3:1: duplicate key 'a' (first at line 1)"),
        ("a:\n  b: 1\n  'b': 2\n", "x.yml:3:3: duplicate key 'b' (first at line 2)"),
        ("a: 012\n", "x.yml:1:4: number 012 is ambiguous"),
        ("a: 1e999\n", "x.yml:1:4: number 1e999 is too large"),
        ("1: a\n", "x.yml:1:1: key '1' is not text"),
        ("true: a\n", "x.yml:1:1: key 'true' is not text"),
        ("[a]: b\n", "a mapping or list as a key is not allowed"),
        ("a: b: c\n", "x.yml:1:5: YAML: mapping values are not allowed"),
        ("a:\n\t- b\n", "indented with spaces, not tabs"),
        ("a: {{ x }}\n", "put text with braces"),
        ("a: 'b\n", "YAML: found unexpected end of stream"),
        ("a: \x07\n", "x.yml:1:4: character U+0007 is not allowed"),
        ("é: 1\nb: \x00\n", "x.yml:2:4: character U+0000 is not allowed"),
        (b"a: \xff\n", "x.yml:1:4: not UTF-8 text"),
        ("[" * 100_000, f"nesting deeper than {MAX_DEPTH}"),
        ("- " * (MAX_DEPTH + 2) + "a", f"nesting deeper than {MAX_DEPTH}"),
        ("- a\n" * (MAX_NODES + 1), f"more than {MAX_NODES:,} values"),
        (b"#" * (MAX_BYTES + 1), "larger than 5 MB"),
    ],
)  # fmt: skip
def test_what_is_refused_says_where_and_why(text: str | bytes, message: str) -> None:
    """Aliases, tags, duplicates, depth and size are refused by name, with file:line:column."""
    assert message in refused(text)


def test_an_alias_bomb_costs_nothing() -> None:
    """The 342 bytes that expand to 387 million leaves are refused at the first anchor."""
    bomb = 'a: &a ["x","x","x","x","x","x","x","x","x"]\n' + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    begun = time.process_time()
    assert "x.yml:1:4: anchor &a is not allowed" in refused(bomb)
    assert time.process_time() - begun < 0.5


def test_all_soft_problems_are_told_at_once() -> None:
    """Two duplicates and an ambiguous number in one file are three lines of the message, in the order of the file."""
    lines = refused("a: 1\na: 2\nb: {c: 1, c: {d: [1]}}\ne: 010\n").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["x.yml:2:1", "x.yml:3:11", "x.yml:4:4"]


def test_the_first_of_two_equal_keys_stands() -> None:
    """What a duplicate key holds does not leak into the data or its positions."""
    document = read_yaml("a: {x: 1}\na: {x: 2, y: 3}\nb: 4\n", "x.yml")
    assert document.data == {"a": {"x": 1}, "b": 4}
    assert document.mark(("a", "x")).line == 1


def test_positions_inside_text() -> None:
    """A character of a text is found in plain, quoted and block form."""
    text = "a: rate(x)\nb: 'rate(x)'\nc: |\n  sum(\n    rate(x)\n  )\nd: >\n  folded\n  text\n"
    document = read_yaml(text, "x.yml")
    a, b, c = document.within(("a",), 5), document.within(("b",), 5), document.within(("c",), 12)
    assert [(m.line, m.column) for m in (a, b)] == [(1, 9), (2, 10)]
    assert document.data["c"][12] == "x" or document.data["c"][11] == "("
    assert (c.line, c.column) == (5, 5 + 12 - len("sum(\n  "))
    assert document.within(("d",), 8).line == 7


def test_files_that_cannot_be_read(tmp_path: object) -> None:
    """A missing file and a folder are problems of the user's, not tracebacks."""
    for path, message in ((f"{tmp_path}/none.yml", "no such file"), (str(tmp_path), "Is a directory")):
        with pytest.raises(ConfigError, match=message):
            read_file(path)


def test_did_you_mean() -> None:
    """A near word is suggested, whatever its case; a short list is shown when none is near."""
    assert did_you_mean("histry", ["history", "hold"]) == "did you mean 'history'?"
    assert did_you_mean("HOLD", ["history", "hold"]) == "did you mean 'hold'?"
    assert did_you_mean("zzz", ["history", "hold"]) == "known: history, hold"
    assert did_you_mean("zzz", []) == ""


@settings(max_examples=300)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_no_text_gives_a_traceback(text: str | bytes) -> None:
    """Whatever is in the file, the answer is a document or a ConfigError with positions."""
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems(text))


def problems(text: str | bytes) -> tuple[Problem, ...]:
    """What is wrong with a text; nothing but ConfigError may be raised."""
    try:
        read_yaml(text, "x.yml").raise_problems()
    except ConfigError as error:
        return error.problems
    return ()


YAML_SOUP = st.lists(
    st.sampled_from(
        ["a", "b", ": ", "- ", "\n", "  ", "{", "}", "[", "]", ",", "&x ", "*x", "!t ", "|\n", ">-\n", "'", '"', "#",
         "?", "<<", "012", "1e5", "---\n", "...\n", "%YAML 1.1\n", "\t", "é", "\u2028", "\ufeff", "~", "="]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@settings(max_examples=400)
@given(YAML_SOUP)
def test_no_yaml_gives_a_traceback(text: str) -> None:
    """The same for texts made of YAML's own signs."""
    assert all(str(problem).startswith("x.yml:") for problem in problems(text))


PLAIN = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(max_size=10) | st.floats(allow_nan=False)


@settings(max_examples=50)
@given(st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)))
def test_what_json_writes_is_read_back(data: object) -> None:
    """JSON is YAML: quoted text, numbers, lists and mappings come back as they were."""
    dumped = json.dumps(data).replace("Infinity", ".inf").replace("\x7f", "\\u007f")
    if len(dumped) < 5_000 and "\\ud" not in dumped:
        assert read_yaml(dumped, "x.yml").data == data


@given(st.text(max_size=12))
def test_plain_text_that_looks_like_text_is_text(text: str) -> None:
    """A scalar that does not begin like a number, and is no word of the core schema, stays as it is."""
    if text and text[0].isalpha() and text.lower() not in {"true", "false", "null"}:
        assert plain_value(text) == text
