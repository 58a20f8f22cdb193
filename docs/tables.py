"""The reference parts of the guide, made from what the daemon itself knows.

    python docs/tables.py            bring the tables in docs/*.md up to date
    python docs/tables.py --check    exit 1 if one of them is stale

A part stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. Keys come from the JSON Schemas of rules and
settings files, receivers from their registry and docstrings, metrics from the daemon's registry, commands from their
own help. What is added there is in the guide after one run of this file. The detectors' pages are made by
``detector_pages.py``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalyd.cli import COMMANDS, load_command
from anomalyd.detectors.registry import detector_names, load_detector
from anomalyd.metrics import SERIES_HELP, Metrics
from anomalyd.receivers import RECEIVER_SETTINGS
from anomalyd.schemas import rules_schema, settings_schema

HERE = Path(__file__).parent
_PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DURATION = "([0-9]+ms)?)$"
RULE_TOP = ("GroupModel", "RuleModel", "DetectorSpec", "Detector")
"""Definitions of a rules file that have a place of their own in the guide."""
SPAN = ["1d", 288]
"""Examples by which a schema marks a length of time."""
PARTS = ("Idea", "Works for", "Fails when", "Toy stream", "Reference")
"""The heads of a detector's docstring, in the order of the guide."""


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in lines)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def keys(definition: Mapping[str, Any], skip: frozenset[str] = frozenset()) -> str:
    """A table of the keys of one mapping of a schema."""
    required = set(definition.get("required", ()))
    rows = []
    for name, field in definition["properties"].items():
        if name not in skip:
            default = "*required*" if name in required else _default(field)
            rows.append((f"`{name}`", kind(field), default, sentence(field.get("description", ""))))
    return table(("key", "value", "default", "meaning"), rows)


def kind(field: Mapping[str, Any]) -> str:
    """What may be written, in words."""
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "$ref" in field or "allOf" in field:
        return _named(field.get("$ref") or field["allOf"][0]["$ref"])
    if field.get("examples") == SPAN:
        return "duration or number of samples"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind(one) for one in field["anyOf"] if one.get("type") != "null"))
    if field.get("pattern", "").endswith(_DURATION):
        return "duration"
    kinds = field.get("type", "")
    if kinds in ("integer", "number"):
        return {"integer": "whole number", "number": "number"}[kinds] + _bounds(field)
    named = {"string": "text", "boolean": "`true`, `false`", "object": "mapping"}
    if kinds == "array":
        inner = field.get("items")
        return f"list of {_many(kind(inner))}" if isinstance(inner, dict) else "list of two numbers"
    return named.get(kinds, str(kinds))


def _many(one: str) -> str:
    """Several of a kind; words that may be written stand as they are."""
    return re.sub(r"(mapping|duration|number)\b(?! or text)", r"\1s", one)


def _bounds(field: Mapping[str, Any]) -> str:
    """What a number must lie between, in words; nothing where that is said nowhere."""
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        return f" ({low:,} to {high:,})"
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    words = (("at least", low), ("above", above), ("at most", high), ("below", below))
    told = ", ".join(f"{word} {limit:,}" for word, limit in words if limit is not None)
    return f" ({told})" if told else ""


def _named(reference: str) -> str:
    return "name, mapping or list" if reference.endswith("DetectorSpec") else "mapping"


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field or field["default"] in ("", None, []):
        return ""
    value = field["default"]
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def sentence(text: str) -> str:
    """The description as a sentence: an initial capital and a full stop."""
    text = text.strip()
    if not text:
        return ""
    first = text[0] if re.match(r"\w+:", text) else text[0].upper()
    return first + text[1:] + ("" if text.endswith((".", "?")) else ".")


def detectors() -> str:
    rows = []
    for name in detector_names():
        cls, parts = load_detector(name), documented(name)
        joint = "joint" in cls.Params.model_fields
        facts = (("streaming", cls.streaming), ("has a band", cls.has_band), ("several series as one", joint))
        told = ", ".join(word for word, has in facts if has)
        rows.append((f"[`{name}`](detectors/{name}.md)", sentence(parts[""]), told))
    return table(("detector", "idea", "facts"), rows)


def documented(name: str) -> dict[str, str]:
    """The parts of a detector module's docstring by their heads; the summary under the empty head."""
    text = sys.modules[load_detector(name).__module__].__doc__ or ""
    summary, _, rest = text.partition("\n\n")
    found = re.findall(r"^(\w[^\n]*)\n((?:(?:[ ]{4}[^\n]*)?\n)+)", rest + "\n", re.MULTILINE)
    parts = {"": re.sub(r"^``\w+``:\s", "", summary), **dict(found)}
    return {head: " ".join(body.replace("``", "`").split()) for head, body in parts.items()}


def metrics() -> str:
    made = Metrics()
    made.export_scores(list)
    rows = []
    for family in made.registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append((f"`{name}`", family.type, family.documentation))
    assert all(any(name in row[0] for row in rows) for name in SERIES_HELP), "scores are exposed too"
    return table(("metric", "type", "meaning"), sorted(rows))


def commands() -> str:
    rows = [(f"[`anomalyd {name}`](commands.md#anomalyd-{name})", entry.help) for name, entry in COMMANDS.items()]
    return table(("command", "what it does"), rows)


def command_sections() -> str:
    """Each command's own help, and that of its subcommands."""
    sections = []
    for name in COMMANDS:
        command = load_command(name)
        texts = [_help(command, f"anomalyd {name}")]
        texts += [_help(sub, f"anomalyd {name} {each}") for each, sub in getattr(command, "commands", {}).items()]
        sections.append(f"## anomalyd {name}\n\n" + "\n".join(f"```text\n{text}\n```\n" for text in texts))
    return "\n".join(sections)


def _help(command: Any, path: str) -> str:
    command.rich_markup_mode = None  # plain text, not boxes drawn for a terminal
    context = command.context_class(command, info_name=path, terminal_width=88, max_content_width=88)
    lines = str(command.get_help(context)).strip().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def receiver_sections() -> str:
    """A section for each receiver: what its module says of it, and its keys."""
    definitions = settings_schema()["definitions"]
    sections = []
    for name, cls in RECEIVER_SETTINGS.items():
        paragraphs = _paragraphs(sys.modules[cls.__module__].__doc__ or "")
        words = "\n\n".join(p for p in paragraphs if not p.startswith("Invariant"))
        sections.append(f"## {name}\n\n{words}\n\n{keys(definitions[cls.__name__])}")
    return "\n".join(sections)


def _paragraphs(text: str) -> list[str]:
    parts = (" ".join(part.replace("``", "`").split()) for part in text.strip().split("\n\n"))
    return [part for part in parts if part]


def sections_of(schema: Mapping[str, Any], properties: Mapping[str, Any], skip: set[str], level: int = 2) -> str:
    """A section for every definition that the properties lead to, each once, in the order of the keys."""
    parts = []
    for key, field in properties.items():
        for name in _references(field):
            if name not in skip:
                skip.add(name)
                definition = schema["definitions"][name]
                heading = f"{'#' * level} `{key}`\n\n{sentence(definition.get('description', ''))}\n\n"
                own = definition.get("properties", {})
                body = keys(definition) if own else ""
                parts.append(heading + body + "\n" + sections_of(schema, own, skip, min(level + 1, 4)))
    return "".join(parts)


def _references(field: Any) -> Iterator[str]:
    """Names of the definitions that a schema mentions."""
    if isinstance(field, dict):
        for key, value in field.items():
            if key == "$ref":
                yield str(value).rsplit("/", 1)[-1]
            else:
                yield from _references(value)
    elif isinstance(field, list):
        for value in field:
            yield from _references(value)


def rule_sections() -> str:
    schema = rules_schema()
    named = {name for name in schema["definitions"] if name.startswith("detector_")}
    properties = {**schema["properties"], **schema["definitions"]["GroupModel"]["properties"]}
    properties |= schema["definitions"]["RuleModel"]["properties"]
    return sections_of(schema, properties, named | set(RULE_TOP), level=3)


def settings_sections() -> str:
    schema = settings_schema()
    receivers = {cls.__name__ for cls in RECEIVER_SETTINGS.values()}
    return sections_of(schema, schema["properties"], receivers)


def receiver_shared() -> str:
    """What the receivers' keys lead to: the sections that they share."""
    schema = settings_schema()
    properties: dict[str, Any] = {}
    for cls in RECEIVER_SETTINGS.values():
        properties |= schema["definitions"][cls.__name__]["properties"]
    return sections_of(schema, properties, set(), level=3)


def makers() -> dict[str, Callable[[], str]]:
    """Name of a part to what makes it."""
    rules = rules_schema()["definitions"]
    return {
        "commands": commands,
        "command_sections": command_sections,
        "detectors": detectors,
        "metrics": metrics,
        "settings": lambda: keys(settings_schema()),
        "settings_sections": settings_sections,
        "receiver_sections": receiver_sections,
        "receiver_shared": receiver_shared,
        "group": lambda: keys(rules["GroupModel"]),
        "rule": lambda: keys(rules["RuleModel"]),
        "rule_sections": rule_sections,
    }


def fresh(text: str, made: Mapping[str, Callable[[], str]]) -> str:
    """A page with its tables made anew."""
    return _PLACE.sub(lambda match: f"{match[1]}\n{made[match[2]]().strip()}\n\n{match[3]}", text)


def main(arguments: list[str]) -> int:
    made = makers()
    stale = {}
    for page in sorted(HERE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (now := fresh(text, made)) != text:
            stale[page] = now
    for page, text in stale.items():
        if "--check" in arguments:
            sys.stderr.write(f"{page} has stale tables: run python docs/tables.py\n")
        else:
            page.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
