"""Column types that clean what is bound and give the same value back on SQLite and Postgres."""

from __future__ import annotations

import json
import math
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from anomalyd.block import Labels
from anomalyd.store.text import clamp_int, clean, to_json


class Text(sa.TypeDecorator[str]):
    """Text without NUL and lone surrogates."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(str(value))


class Ms(sa.TypeDecorator[int]):
    """64-bit integer: milliseconds and counts. Takes numpy integers too; what is larger is clamped."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        return None if value is None else clamp_int(value)


class Real(sa.TypeDecorator[float]):
    """Double precision; NaN is stored as NULL on both engines (SQLite would do it silently) and read back as NaN."""

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: float | None, dialect: Dialect) -> float:
        return math.nan if value is None else float(value)


class Json(sa.TypeDecorator[Any]):
    """A JSON value in a text column."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return to_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class LabelSet(sa.TypeDecorator[Labels]):
    """A label set as a JSON list of pairs, order and every character kept: it is the identity of a series."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Labels | None, dialect: Dialect) -> str:
        return to_json(value or ())

    def process_result_value(self, value: str | None, dialect: Dialect) -> Labels:
        return tuple((str(name), str(text)) for name, text in json.loads(value or "[]"))


Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""An increasing row number; SQLite numbers rows only in columns called INTEGER."""
