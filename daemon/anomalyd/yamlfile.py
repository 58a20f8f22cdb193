"""Strict YAML with positions: every problem of a user's file becomes file:line:column, cause and remedy.

Reads the plain core of YAML 1.2 (mappings with text keys, lists, scalars) and refuses the rest by name: anchors and
aliases, merge keys, tags, several documents, duplicate keys. Words such as ``NO``, ``on`` or ``1:30`` are text, as in
YAML 1.2; numbers that mean different things to different readers (``012``) are refused. Nothing is built before its
size, depth and number of nodes are known to be bounded, so no file can exhaust memory or the stack.

``read_yaml`` makes a ``Document`` (data and positions); ``conform.py`` holds it against a pydantic model.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from anomalyd.errors import ConfigError, Problem

MAX_BYTES = 5_000_000
MAX_DEPTH = 32
MAX_NODES = 250_000

Loc: TypeAlias = tuple[str | int, ...]
"""Where a value is inside the data: keys and list indices from the root."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_BASED = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_INFINITE = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_MAX_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in a file; both count from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """The data of one YAML file, where each part of it stands, and what was wrong with it so far.

    Attributes:
        values: position of each value by its place in the data.
        keys: position of each mapping key, by the place of its value.
        texts: for text written on one line, the position of its first character.
    """

    file: str
    data: Any = None
    values: dict[Loc, Mark] = field(default_factory=dict)
    keys: dict[Loc, Mark] = field(default_factory=dict)
    texts: dict[Loc, Mark] = field(default_factory=dict)
    blocks: dict[Loc, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, loc: Loc, *, key: bool = False) -> Mark:
        """Position of the value (or its key) at ``loc``, or of the nearest thing around it that exists."""
        for size in range(len(loc), -1, -1):
            part = loc[:size]
            if (key or size < len(loc)) and part in self.keys:
                return self.keys[part]
            if part in self.values:
                return self.values[part]
        return Mark(1, 1)

    def within(self, loc: Loc, offset: int) -> Mark:
        """Position of the character ``offset`` of the text at ``loc``; the text's start where that is not known."""
        if loc in self.texts:
            start = self.texts[loc]
            return Mark(start.line, start.column + offset)
        if loc in self.blocks:
            return self._within_block(loc, offset)
        return self.mark(loc)

    def _within_block(self, loc: Loc, offset: int) -> Mark:
        first, lines = self.blocks[loc]
        text = str(self.at(loc))
        before = text[:offset].split("\n")
        row = len(before) - 1
        if row >= len(lines):
            return self.mark(loc)
        wanted = text.split("\n")[row]
        indent = lines[row].find(wanted) if wanted else 0
        return Mark(first + row, max(indent, 0) + len(before[-1]) + 1)

    def at(self, loc: Loc) -> Any:
        """The value at ``loc``."""
        here = self.data
        for part in loc:
            here = here[part]
        return here

    def problem(self, loc: Loc, message: str, hint: str = "", *, key: bool = False, offset: int | None = None) -> None:
        """Note a problem with what is at ``loc`` (its key, or one character of its text)."""
        mark = self.mark(loc, key=key) if offset is None else self.within(loc, offset)
        self.problems.append(Problem(self.file, mark.line, mark.column, message, hint))

    def where(self, loc: Loc) -> str:
        """``file:line`` of what is at ``loc``."""
        return f"{self.file}:{self.mark(loc, key=True).line}"

    def raise_problems(self) -> None:
        """Raise ``ConfigError`` with all problems in the order of the file, if there are any."""
        if self.problems:
            raise ConfigError(sorted(set(self.problems), key=lambda p: (p.line, p.column, p.message)))


def read_file(path: str | Path) -> Document:
    """Read a YAML file; raise ``ConfigError`` when it cannot be read or is no plain YAML."""
    name = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([Problem(name, 0, 0, "no such file")]) from None
    except OSError as error:
        raise ConfigError([Problem(name, 0, 0, f"cannot be read: {error.strerror or error}")]) from error
    return read_yaml(data, name)


def read_yaml(source: bytes | str, file: str) -> Document:
    """Parse YAML. Duplicate keys and ambiguous numbers become ``problems`` of the document (the first key and the
    decimal number stand); all else that is refused raises ``ConfigError`` at once."""
    text = _decode(source, file)
    builder = _Builder(file, text)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.reader.ReaderError as error:
        raise ConfigError([_unreadable(text, file, error)]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigError([Problem(file, line, column, f"YAML: {_syntax(error)}", _syntax_hint(text, line))]) from error
    return builder.document


def _decode(source: bytes | str, file: str) -> str:
    if len(source) > MAX_BYTES:
        raise ConfigError([Problem(file, 1, 1, f"larger than {MAX_BYTES // 1_000_000} MB", "split it into files")])
    if isinstance(source, str):
        source = source.encode("utf-8", "surrogatepass")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = source[: error.start].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        problem = Problem(file, line, column, "not UTF-8 text", "save the file in UTF-8")
        raise ConfigError([problem]) from None


def _unreadable(text: str, file: str, error: Any) -> Problem:
    """A character that YAML does not allow: find it ourselves, since the parser counts bytes."""
    at = next((i for i, c in enumerate(text) if not _printable(c)), 0)
    line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    return Problem(file, line, column, f"character U+{ord(text[at : at + 1] or ' '):04X} is not allowed in YAML")


def _printable(char: str) -> bool:
    code = ord(char)
    if char in "\t\n\r\x85":
        return True
    return 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xD7FF or (0xE000 <= code <= 0xFFFD and code != 0xFEFF) or (
        code >= 0x10000
    )  # fmt: skip


def _syntax(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.problem, error.context) if part) or "cannot be parsed"


def _syntax_hint(text: str, line: int) -> str:
    lines = text.split("\n")[max(0, line - 2) : line]
    if any("\t" in part[: len(part) - len(part.lstrip())] for part in lines):
        return "YAML is indented with spaces, not tabs"
    if any("{{" in part or "%" in part for part in lines):
        return "put text with braces, % or a colon into quotes"
    return ""


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read."""

    loc: Loc
    data: dict[str, Any] | list[Any]
    key: str | None = None
    skip: bool = False
    """The value that comes next belongs to a duplicate or broken key."""


class _Builder:
    """Makes a document of parser events, with a stack of its own."""

    def __init__(self, file: str, text: str):
        self.document = Document(file)
        self._lines = text.split("\n")
        self._stack: list[_Open] = []
        self._nodes = 0
        self._documents = 0
        self._acts: dict[type, Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._mapping,
            yaml.SequenceStartEvent: self._sequence,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }

    def take(self, event: Any) -> None:
        act = self._acts.get(type(event))
        if act is not None:
            act(event)

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self._refuse(event, "a second document (---)", "one file holds one document")

    def _alias(self, event: Any) -> None:
        self._refuse(event, f"alias *{event.anchor}", "write the value out; anchors and aliases are not used")

    def _mapping(self, event: Any) -> None:
        self._open(event, {})

    def _sequence(self, event: Any) -> None:
        self._open(event, [])

    def _close(self, event: Any) -> None:
        self._stack.pop()

    def _refuse(self, event: Any, what: str, hint: str) -> None:
        mark = event.start_mark
        problem = Problem(self.document.file, mark.line + 1, mark.column + 1, f"{what} is not allowed", hint)
        raise ConfigError([*self.document.problems, problem])

    def _begin(self, event: Any) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES:,} values", "split the file")
        if event.anchor is not None:
            self._refuse(event, f"anchor &{event.anchor}", "write the value out; anchors and aliases are not used")
        if event.tag is not None:
            self._refuse(event, f"tag {event.tag}", "leave the tag out")

    def _open(self, event: Any, data: dict[str, Any] | list[Any]) -> None:
        self._begin(event)
        if len(self._stack) >= MAX_DEPTH:
            self._refuse(event, f"nesting deeper than {MAX_DEPTH}", "")
        if self._expects_key():
            self._refuse(event, "a mapping or list as a key", "put text with braces into quotes")
        loc = self._place(event, data)
        self._stack.append(_Open(loc, data))

    def _expects_key(self) -> bool:
        top = self._stack[-1] if self._stack else None
        return top is not None and isinstance(top.data, dict) and top.key is None

    def _place(self, event: Any, value: Any) -> Loc:
        """Put a value where it belongs and note its position."""
        mark = _mark(event)
        if not self._stack:
            self.document.data = value
            self.document.values[()] = mark
            return ()
        top = self._stack[-1]
        if isinstance(top.data, list):
            loc: Loc = (*top.loc, len(top.data))
            top.data.append(value)
        else:
            assert top.key is not None
            loc = (*top.loc, top.key)
            if top.skip:
                # A duplicate's value is parsed for its syntax only; its place is one that nobody asks for.
                loc = (*top.loc, top.key, -1)
            else:
                top.data[top.key] = value
            top.key, top.skip = None, False
        self.document.values.setdefault(loc, mark)
        return loc

    def _scalar(self, event: Any) -> None:
        self._begin(event)
        if self._expects_key():
            self._key(event)
            return
        value = self._resolve(event)
        loc = self._place(event, value)
        if not isinstance(value, str):
            return
        start, end = event.start_mark, event.end_mark
        if event.style in ("|", ">"):
            if event.style == "|":
                self.document.blocks[loc] = (start.line + 2, tuple(self._lines[start.line + 1 : end.line + 1]))
        elif start.line == end.line:
            quoted = 1 if event.style in ("'", '"') else 0
            self.document.texts[loc] = Mark(start.line + 1, start.column + 1 + quoted)

    def _key(self, event: Any) -> None:
        top = self._stack[-1]
        assert isinstance(top.data, dict)
        mark = _mark(event)
        plain = event.style in (None, "") and event.implicit[0]
        if plain and event.value == "<<":
            self._refuse(event, "merge key <<", "write the keys out")
        key = self._resolve(event)
        if not isinstance(key, str):
            self._soft(mark, f"key {event.value!r} is not text", "put it into quotes")
            key, top.skip = event.value, True
        loc = (*top.loc, key)
        if key in top.data:
            first = self.document.keys.get(loc)
            self._soft(mark, f"duplicate key {key!r}", f"first at line {first.line}" if first else "")
            top.skip = True
        elif not top.skip:
            self.document.keys[loc] = mark
        top.key = key

    def _soft(self, mark: Mark, message: str, hint: str) -> None:
        self.document.problems.append(Problem(self.document.file, mark.line, mark.column, message, hint))

    def _resolve(self, event: Any) -> Any:
        if event.style not in (None, "") or not event.implicit[0]:
            return event.value
        text = event.value
        value = plain_value(text)
        if isinstance(value, int) and _LEADING_ZERO.match(text):
            cause = f"number {text} is ambiguous: some readers take a leading zero for octal"
            self._soft(_mark(event), cause, f"write {value}, or '{text}' for text")
        elif isinstance(value, float) and math.isinf(value) and text.lower() not in _INFINITE:
            self._soft(_mark(event), f"number {text} is too large", "")
        return value


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def plain_value(text: str) -> Any:
    """What a scalar without quotes means in the core schema of YAML 1.2; digits after a leading zero are decimal."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text.lower() in _INFINITE:
        return _INFINITE[text.lower()]
    if text[0] not in "+-.0123456789" or len(text) > _MAX_DIGITS:
        return text
    if _INT.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text, 0)
    return float(text) if _FLOAT.match(text) else text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint naming the nearest of the known words, or listing them when none is near and they are few."""
    words = sorted(set(known))
    lowered = {w.lower(): w for w in words}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    if near:
        return f"did you mean {lowered[near[0]]!r}?"
    return f"known: {', '.join(words)}" if 0 < len(words) <= 24 else ""
