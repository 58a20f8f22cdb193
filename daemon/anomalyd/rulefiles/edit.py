"""A change of a rule in the text of the user's own file: comments, order and spelling stay. Pure.

Only what differs is written anew: the budget of a tier, a detector. The result is read back and must mean the change
and nothing else; where that does not hold (a file that was written in a way this does not foresee) there is no edit.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

import yaml

from anomalyd.errors import ConfigError
from anomalyd.rule import Rule, TierPolicy
from anomalyd.rulefiles.read import RuleSet, read_rules
from anomalyd.rulefiles.write import rule_data, write_flow
from anomalyd.yamlfile import read_yaml

_CUTS = ("budget", "surprise", "sigma")


@dataclass(frozen=True, slots=True)
class _Edit:
    """Replace the characters from ``start`` to ``end`` of the text."""

    start: int
    end: int
    text: str


def edit_rule(text: str, old: Rule, new: Rule) -> str | None:
    """The file's text with ``old`` changed to ``new`` in detector and tiers; None where it cannot be done in place."""
    try:
        before = read_rules([read_yaml(text, "before")])
        rule = _find(yaml.compose(text, Loader=yaml.SafeLoader), old)
        if rule is None:
            return None
        after = text
        for edit in sorted(_edits(text, rule, old, new), key=lambda edit: -edit.start):
            after = after[: edit.start] + edit.text + after[edit.end :]
        return after if _means(before, read_rules([read_yaml(after, "after")]), old, new) else None
    except (ConfigError, yaml.YAMLError):
        return None


def patch(before: str, after: str, path: str) -> list[str]:
    """A unified diff of a file that ``patch -p1`` and ``git apply`` take, line by line without ends."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    lines: list[str] = []
    for line in difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"):
        lines.append(line.removesuffix("\n"))
        if not line.endswith("\n"):
            lines.append("\\ No newline at end of file")
    return lines


def _means(before: RuleSet, after: RuleSet, old: Rule, new: Rule) -> bool:
    """Whether the new text differs from the old one by the change alone."""

    def plain(rule: Rule) -> Rule:
        return replace(rule, where="")

    wanted = [
        plain(replace(rule, detector=new.detector, tiers=new.tiers) if rule.id == old.id else rule)
        for rule in before.rules
    ]
    return [plain(rule) for rule in after.rules] == wanted


def _find(root: Any, rule: Rule) -> yaml.MappingNode | None:
    for group in _items(_value(root, "groups")):
        if getattr(_value(group, "name"), "value", None) == rule.group:
            for each in _items(_value(group, "rules")):
                if getattr(_value(each, "anomaly"), "value", None) == rule.name:
                    return each if isinstance(each, yaml.MappingNode) else None
    return None


def _items(node: Any) -> list[Any]:
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _entry(node: Any, key: str) -> tuple[Any, Any] | None:
    """Key and value node of a mapping's entry."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((pair for pair in pairs if pair[0].value == key), None)


def _value(node: Any, key: str) -> Any:
    entry = _entry(node, key)
    return None if entry is None else entry[1]


def _edits(text: str, rule: yaml.MappingNode, old: Rule, new: Rule) -> list[_Edit]:
    was, data = rule_data(old), rule_data(new)
    edits = []
    if old.detector != new.detector:
        edits.append(_put(text, rule, "detector", data.get("detector", new.detector.type)))
    if old.tiers != new.tiers:
        tiers = _value(rule, "tiers")
        if not isinstance(tiers, yaml.MappingNode) or was["tiers"].keys() != data["tiers"].keys():
            edits.append(_put(text, rule, "tiers", data["tiers"]))
        else:
            edits += [
                _tier(text, tiers, policy, data["tiers"][policy.tier.word])
                for policy in new.tiers if policy not in old.tiers
            ]  # fmt: skip
    return edits


def _tier(text: str, tiers: yaml.MappingNode, policy: TierPolicy, data: dict[str, Any]) -> _Edit:
    """A tier's cut by another; what else it says stays."""
    tier = _value(tiers, policy.tier.word)
    given = [entry for key in _CUTS if (entry := _entry(tier, key)) is not None]
    stated = [key for key in _CUTS if key in data]
    if len(given) != 1 or len(stated) != 1:
        return _put(text, tiers, policy.tier.word, data)
    return _over(text, given[0], stated[0], data[stated[0]])


def _put(text: str, mapping: yaml.MappingNode, key: str, value: Any) -> _Edit:
    """Give a mapping's key another value, in place or behind its second entry (``expr`` of a rule)."""
    entry = _entry(mapping, key)
    if entry is not None:
        return _over(text, entry, key, value)
    first = mapping.value[min(1, len(mapping.value) - 1)]
    end = _end(text, first[1])
    if mapping.flow_style:
        return _Edit(end, end, f", {key}: {write_flow(value)}")
    line_end = text.find("\n", end)
    newline = "\r\n" if "\r\n" in text else "\n"
    at = len(text) if line_end < 0 else line_end - (text[line_end - 1] == "\r")
    return _Edit(at, at, f"{newline}{' ' * first[0].start_mark.column}{key}: {write_flow(value)}")


def _over(text: str, entry: tuple[Any, Any], key: str, value: Any) -> _Edit:
    return _Edit(entry[0].start_mark.index, _end(text, entry[1]), f"{key}: {write_flow(value)}")


def _end(text: str, node: Any) -> int:
    """Where a value ends; of a block that is where its last part does, without comments and empty lines behind it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        end: int = node.end_mark.index
        return len(text[:end].rstrip()) if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">") else end
    last = node.value[-1]
    return _end(text, last[1] if isinstance(node, yaml.MappingNode) else last)
