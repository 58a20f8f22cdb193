"""Rules back to YAML: what ``read_rules`` reads again as the same rules. What equals a default is left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from anomalyd.durations import format_budget, format_duration
from anomalyd.promql import check_expr
from anomalyd.rule import DataQuality, DetectorSpec, FeedbackTerms, MinDeviation, Rule, RuleGroup, TierPolicy
from anomalyd.rulefiles.intervalmodel import write_interval
from anomalyd.rulefiles.model import RULE
from anomalyd.rulefiles.read import RuleSet
from anomalyd.yamlfile import plain_value

_DURATIONS = {
    "history_ms": "history", "refit_every_ms": "refit_every", "for_ms": "for", "keep_firing_for_ms": "keep_firing_for",
    "accept_after_ms": "accept_after", "hold_ms": "hold", "suppress_ms": "suppress",
}  # fmt: skip
_AS_THEY_ARE = (
    "source", "direction", "missing", "learn", "refit_on_drift", "mode", "admit_after", "max_series",
    "partial_response", "timezone", "seed",
)  # fmt: skip
_LISTS = ("valid_range", "group_by", "drop_labels")


def write_rules(rules: RuleSet) -> str:
    """The rule set as one YAML file."""
    return yaml.dump({"groups": [_group(group) for group in rules.groups]}, Dumper=_Dumper, sort_keys=False, width=120)


def write_flow(data: Any) -> str:
    """A value on one line, as it stands behind a key."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=100_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _group(group: RuleGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "interval": format_duration(group.interval_ms),
        "query_delay": format_duration(group.rules[0].query_delay_ms),
        "rules": [rule_data(rule) for rule in group.rules],
    }


def rule_data(rule: Rule) -> dict[str, Any]:
    """One rule as the mapping a user would write."""
    data: dict[str, Any] = {"anomaly": rule.name, "expr": rule.expr}
    finding = check_expr(rule.expr)
    if finding is not None and check_expr(rule.expr, raw_counter=True) is None:
        data["raw_counter"] = True
    if rule.detector != RULE["detector"]:
        data["detector"] = _detector(rule.detector)
    for name in _AS_THEY_ARE:
        _unless_default(data, name, rule, name, lambda value: value)
    for attribute, key in _DURATIONS.items():
        _unless_default(data, key, rule, attribute, format_duration)
    for name in _LISTS:
        _unless_default(data, name, rule, name, list)
    if rule.holidays is not None:
        data["holidays"] = json.loads(rule.holidays.written)
    if rule.dont_learn:
        data["dont_learn"] = [write_interval(interval) for interval in rule.dont_learn]
    if rule.feedback != FeedbackTerms():
        data["feedback"] = _feedback(rule.feedback)
    if rule.data_quality != DataQuality():
        q = rule.data_quality
        data["data_quality"] = {"mode": q.mode, "factor": q.factor, "at_least": format_duration(q.at_least_ms)}
    if rule.min_deviation != MinDeviation():
        data["min_deviation"] = {"absolute": rule.min_deviation.absolute, "relative": rule.min_deviation.relative}
    data["tiers"] = {policy.tier.word: _tier(policy) for policy in rule.tiers}
    if rule.labels:
        data["labels"] = dict(rule.labels)
    if rule.annotations:
        data["annotations"] = dict(rule.annotations)
    data["receivers"] = list(rule.receivers)
    return data


def _unless_default(data: dict[str, Any], key: str, rule: Rule, attribute: str, write: Any) -> None:
    value = getattr(rule, attribute)
    if value != RULE[attribute]:
        data[key] = write(value)


def _feedback(terms: FeedbackTerms) -> dict[str, Any]:
    half_life = None if terms.half_life_ms is None else format_duration(terms.half_life_ms)
    given = {
        "min_votes": terms.min_votes, "max_factor": terms.max_factor, "floor": terms.floor, "half_life": half_life,
    }  # fmt: skip
    data = {key: value for key, value in given.items() if value is not None}
    return data if terms.enabled else {"enabled": False, **data}


def _detector(spec: DetectorSpec) -> Any:
    plain = spec.type == "ensemble" and set(spec.params) == {"members"}
    if plain and all(set(member) <= {"type", "params"} for member in spec.params["members"]):
        return [_detector(DetectorSpec(m["type"], m.get("params") or {})) for m in spec.params["members"]]
    return {"type": spec.type, **_plain(spec.params)} if spec.params else spec.type


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _tier(policy: TierPolicy) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if policy.budget is not None:
        data["budget"] = format_budget(policy.budget)
    if policy.surprise is not None:
        data["surprise"] = policy.surprise
    if policy.sigma is not None:
        data["sigma"] = policy.sigma
    if policy.for_ms is not None:
        data["for"] = format_duration(policy.for_ms)
    if policy.spread is not None:
        data["spread"] = policy.spread
    return data


class _Dumper(yaml.SafeDumper):
    """Writes without aliases, and quotes text that our reader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if isinstance(plain_value(text), str) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _number(dumper: yaml.SafeDumper, number: float) -> yaml.ScalarNode:
    words = {float("inf"): ".inf", float("-inf"): "-.inf"}
    # PyYAML takes 1e+16 for text and would add a tag; with a point it is a number to every reader.
    digits = repr(number) if "." in repr(number) else repr(number).replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", words.get(number) or digits)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _number)
