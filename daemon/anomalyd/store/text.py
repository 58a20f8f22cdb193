"""Text and numbers that both engines can hold.

SQLite takes NUL but then miscounts, Postgres refuses it; a lone surrogate breaks either driver; neither JSON nor
SQLite knows NaN. Everything that is bound goes through here first, so that hostile text behaves the same on both.
Labels and other JSON keep every character (a label set is an identity); plain text gets U+FFFD in place of those.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)


def clean(text: str) -> str:
    """Replace NUL and lone surrogates by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def clean_json(value: Any) -> Any:
    """Clean every string, keys too, of a JSON-like value."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    """A JSON-like value without NaN, and with containers that are dicts and lists."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def to_json(value: Any) -> str:
    """JSON in which every string survives as it is: NUL and lone surrogates become escapes; NaN becomes null."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def clamp_int(value: int) -> int:
    """Bring an integer into 64 bits: times far beyond any calendar come only from hostile input."""
    return min(max(int(value), INT64_MIN), INT64_MAX)
