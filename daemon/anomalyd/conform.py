"""Holds a YAML document against a pydantic model and words every error for the person who wrote the file.

Invariant: no message repeats a value of the file unless a validator put it there on purpose, so a secret of the wrong
type is not printed.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    WithJsonSchema,
)

from anomalyd.durations import DURATION_PATTERN, format_duration, parse_duration
from anomalyd.yamlfile import Document, Loc, did_you_mean

M = TypeVar("M", bound=BaseModel)
FOREIGN = {
    "alert": "Prometheus's alerting rules stay with Prometheus; a rule of anomalyd begins with 'anomaly:'",
    "record": "recording rules stay with Prometheus; a rule of anomalyd begins with 'anomaly:'",
}
"""Keys of Prometheus's own rules, which people try first, and what to say of them."""


class Section(BaseModel):
    """Base of all models of user files: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _duration(value: Any) -> int:
    if value == 0 and isinstance(value, int) and not isinstance(value, bool):
        return 0
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return parse_duration(str(value))
    raise ValueError("must be a duration such as 30s, 5m or 1h30m")


Duration: TypeAlias = Annotated[
    int,
    BeforeValidator(_duration),
    PlainSerializer(format_duration),
    WithJsonSchema({"type": ["string", "integer"], "pattern": DURATION_PATTERN, "minimum": 0, "maximum": 0}),
]
"""Milliseconds, written as a Prometheus duration."""


def _positive(ms: int) -> int:
    if ms == 0:
        raise ValueError("must be longer than 0")
    return ms


PositiveDuration: TypeAlias = Annotated[Duration, AfterValidator(_positive)]
Number: TypeAlias = Annotated[StrictFloat, AllowInfNan(False)]
Flag: TypeAlias = StrictBool
Whole: TypeAlias = StrictInt


def conform(document: Document, model: type[M], loc: Loc = (), *, data: Any = None) -> M | None:
    """Validate what stands at ``loc`` (or ``data``, a copy of it with keys taken out). On failure add every problem to
    the document and return None."""
    value = document.at(loc) if data is None else data
    if not isinstance(value, Mapping):
        document.problem(loc, f"{_name(loc)}must be a mapping, not {_kind(value)}")
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False)
        told = {_inside(value, tuple(d["loc"])) for d in details if d["type"] not in _VAGUE}
        for detail in details:
            # Of a union's complaints about one value, "is no instance of" helps nobody.
            if detail["type"] not in _VAGUE or _inside(value, tuple(detail["loc"])) not in told:
                _note(document, model, loc, value, detail)
        return None


_VAGUE = frozenset({"is_instance_of"})


def _note(document: Document, model: type[BaseModel], base: Loc, data: Any, error: Any) -> None:
    kind, raw = error["type"], tuple(error["loc"])
    if raw and raw[-1] == "[key]":
        document.problem((*base, *_inside(data, raw[:-1])), _sentence(raw[:-1], _message(error)), key=True)
    elif kind == "missing":
        parent = (*base, *_inside(data, raw[:-1]))
        document.problem(parent, f"{_name(parent)}missing key {raw[-1]!r}", key=bool(parent))
    elif kind == "extra_forbidden":
        inside = _inside(data, raw)
        known = known_keys(model, raw[:-1])
        hint = FOREIGN.get(str(raw[-1]), "") if "anomaly" in known else ""
        hint = hint or did_you_mean(str(raw[-1]), known)
        document.problem((*base, *inside), f"unknown key {raw[-1]!r}", hint, key=True)
    else:
        inside = _inside(data, raw)
        hint = _choice_hint(error) or _shape_hint(error, model, raw)
        document.problem((*base, *inside), _sentence(inside or base, _message(error)), hint)


def _inside(data: Any, loc: tuple[str | int, ...]) -> Loc:
    """The part of a pydantic location that exists in the data: tags of unions and names of validators fall out."""
    here: Any = data
    found: list[str | int] = []
    for part in loc:
        in_list = isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)
        if in_list or (isinstance(here, Mapping) and part in here):
            here = here[part]
            found.append(part)
    return tuple(found)


def _sentence(loc: Loc, message: str) -> str:
    return f"{_name(loc)}{message}"


def _name(loc: Loc) -> str:
    """The key a message is about, with the index where it is an entry of a list."""
    if not loc:
        return ""
    if isinstance(loc[-1], int):
        words = [str(part) for part in loc if isinstance(part, str)]
        return f"{words[-1]}[{loc[-1]}]: " if words else f"entry {loc[-1] + 1}: "
    return f"{loc[-1]}: "


_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
}


def _message(error: Any) -> str:
    kind = error["type"]
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_kind(error['input'])}"
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        context = error.get("ctx", {})
        return f"must be one of {context.get('expected') or context.get('expected_tags')}"
    if kind in ("value_error", "assertion_error"):
        return str(error["ctx"]["error"])
    message: str = error["msg"]
    return message[:1].lower() + message[1:]


def _choice_hint(error: Any) -> str:
    value = error["input"]
    if error["type"] == "literal_error" and isinstance(value, str):
        expected = error["ctx"]["expected"].replace(" or ", ", ").split(", ")
        hint = did_you_mean(value, [word.strip("'") for word in expected])
        return hint if hint.startswith("did") else ""
    if error["type"] == "string_type" and isinstance(value, int | float | bool):
        return "put it into quotes"
    if error["type"] in ("bool_type", "bool_parsing") and isinstance(value, str):
        return "without quotes; words such as yes and on are text"
    return ""


def _shape_hint(error: Any, model: type[BaseModel], raw: tuple[str | int, ...]) -> str:
    """How to write what is to have parts; the value itself may be a secret and is not repeated."""
    wanted = _WANTED.get(error["type"])
    if wanted == "a list" and isinstance(error["input"], str | int | float):
        return "put it into brackets: [...]"
    keys = sorted(known_keys(model, raw)) if wanted == "a mapping" else []
    return f"its keys: {', '.join(keys)}" if 0 < len(keys) <= 12 else ""


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a mapping"
        case _:
            return type(value).__name__


def known_keys(annotation: Any, loc: tuple[str | int, ...]) -> frozenset[str]:
    """The keys that are allowed at a pydantic location inside a type; where a union leaves it open, all members'."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return known_keys(args[0], loc)
    if origin in (Union, types.UnionType):
        inner = [known_keys(arg, part) for arg in args for part in (loc, loc[1:] if loc else loc)]
        return frozenset().union(*inner)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {(field.alias or name): field.annotation for name, field in annotation.model_fields.items()}
        if not loc:
            return frozenset(fields)
        return known_keys(fields[str(loc[0])], loc[1:]) if loc[0] in fields else frozenset()
    if not loc or origin in (None, Literal):
        return frozenset()
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return known_keys(args[1], loc[1:])
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return known_keys(args[0], loc[1:])
    return frozenset()
