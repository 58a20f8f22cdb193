"""``Secret``: a credential that is used but never shown.

A secret is written in the settings or, better, read from a file (the ``*_file`` twin of every secret key). A file is
read at each use, so a rotated credential needs no restart. Whatever prints, logs, compares or serialises a secret gets
``<secret>``.
"""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from anomalyd.errors import ConfigError, Problem

PLACEHOLDER = "<secret>"
MAX_BYTES = 64 * 1024
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}|\A\$[A-Z_][A-Z0-9_]*\Z")


class Secret:
    """A credential, given as text or as the path of a file that holds it."""

    __slots__ = ("_file", "_value")

    def __init__(self, value: str = "", *, file: str | Path = ""):
        self._value = value
        self._file = str(file)

    def get(self) -> str:
        """The credential; a file is read anew, and stripped. Raise ``ConfigError`` if it is empty or unreadable."""
        if not self._file:
            return self._value
        try:
            with Path(self._file).open("rb") as f:
                text = f.read(MAX_BYTES).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            hint = "the daemon's user needs permission to read it"
            raise ConfigError([Problem(self._file, 0, 0, f"the secret cannot be read: {cause}", hint)]) from None
        if not text:
            raise ConfigError([Problem(self._file, 0, 0, "the file of a secret is empty")])
        return text

    def __bool__(self) -> bool:
        return bool(self._value or self._file)

    def __repr__(self) -> str:
        return PLACEHOLDER

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        same = hmac.compare_digest(self._value.encode("utf-8", "replace"), other._value.encode("utf-8", "replace"))
        return same and self._file == other._file

    def __hash__(self) -> int:
        return hash((self._value, self._file))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Take a string (or a ``Secret``); dump the placeholder; show as a write-only string in the JSON Schema."""
        literal = core_schema.no_info_after_validator_function(_literal, core_schema.str_schema(min_length=1))
        from_text = core_schema.no_info_after_validator_function(cls, literal)
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda _: PLACEHOLDER),
        )


def _literal(text: str) -> str:
    """Refuse what other programs would fill in: it would be sent as it stands."""
    if _VARIABLE.search(text):
        raise ValueError("variables of the environment are not filled in; put the secret into a file, and name the"
                         " file with the key that ends in _file")  # fmt: skip
    return text


def either(value: Secret | None, file: str | Path | None, key: str) -> Secret | None:
    """One secret of a key and its ``*_file`` twin; None when neither is given, ``ValueError`` when both are."""
    if value is not None and file:
        raise ValueError(f"{key} and {key}_file exclude each other; keep {key}_file")
    return Secret(file=file) if file else value
