"""The editor schemas: current, draft 7, and of one mind with the loaders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomalyd.cli.schema import What, schema_text
from anomalyd.cli.starter import STARTERS, rules_text, settings_text
from anomalyd.detectors.registry import detector_names

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("what", list(What))
def test_the_schemas_in_contrib_are_current(what: What) -> None:
    """Regenerate with `anomalyd schema WHAT > contrib/schema/WHAT.json` after changing a model or a detector."""
    assert (ROOT / "contrib" / "schema" / f"{what.value}.json").read_text(encoding="utf-8") == schema_text(what)


def validator(what: What) -> Any:
    """An independent validator of the schema."""
    jsonschema = pytest.importorskip("jsonschema", reason="the schema validator is not installed")
    schema = json.loads(schema_text(what))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_what_init_writes_fits_the_schemas() -> None:
    """An editor shows no error in the files that we write ourselves."""
    rules = yaml.safe_load(rules_text([s.metric for s in STARTERS], "x"))
    assert [e.message for e in validator(What.RULES).iter_errors(rules)] == []
    written = yaml.safe_load(settings_text("http://localhost:9090"))
    assert [e.message for e in validator(What.SETTINGS).iter_errors(written)] == []


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"histry": "5d"}, []), ({"for": "1.5h"}, ["for"]), ({"for": 90}, ["for"]), ({"detector": "mda"}, ["detector"]),
        ({"detector": {"type": "mad", "windw": "1d"}}, ["detector"]), ({"direction": "upp"}, ["direction"]),
        ({"tiers": {"warning": {"budget": "often"}}}, ["tiers"]), ({"labels": {"a": 1}}, ["labels", "a"]),
    ],
)  # fmt: skip
def test_an_editor_sees_the_common_mistakes(change: dict[str, Any], at: list[str]) -> None:
    """The schema refuses what the loader refuses, at the same key."""
    rule = {"anomaly": "A", "expr": "up", "detector": "mad", "for": "5m", **change}
    errors = list(validator(What.RULES).iter_errors({"groups": [{"name": "g", "rules": [rule]}]}))
    assert [list(error.path) for error in errors] == [["groups", 0, "rules", 0, *at]]


def test_what_init_shows_in_comments_fits_the_schema() -> None:
    """Whoever takes the # away from a line of the written settings has a line that the daemon accepts."""
    shown = re.findall(r"^( *)# (\w+: .*)$", settings_text("http://localhost:9090"), re.MULTILINE)
    assert len(shown) >= 8
    for indent, line in shown:
        given = yaml.safe_load(line)
        source = {"url": "http://x", **(given if indent == "    " else {})}
        place = {"": given, "    ": {}, "  ": {"web": given}}[indent]
        errors = validator(What.SETTINGS).iter_errors({"sources": {"default": source}, **place})
        assert [e.message for e in errors] == [], line


def test_every_detector_and_receiver_is_in_the_schemas() -> None:
    """Their parameters complete in an editor."""
    rules, settings = json.loads(schema_text(What.RULES)), json.loads(schema_text(What.SETTINGS))
    assert {f"detector_{name}" for name in detector_names()} <= set(rules["definitions"])
    assert rules["definitions"]["RuleModel"]["properties"]["history"]["default"] == "2w"
    receivers = [settings["definitions"][r["$ref"].split("/")[-1]] for r in _receivers(settings)]
    assert {r["properties"]["type"]["const"] for r in receivers} >= {"webhook", "slack", "pagerduty", "grafana"}
    assert all("name" not in r["properties"] and "type" in r["required"] for r in receivers)


def _receivers(schema: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = schema["properties"]["receivers"]["additionalProperties"]["oneOf"]
    return found


@pytest.mark.parametrize("what", list(What))
def test_draft_7_only(what: What) -> None:
    """No keyword of later drafts, and nothing beside a $ref, which draft 7 would ignore."""
    for node in _nodes(json.loads(schema_text(what))):
        assert not {"$defs", "prefixItems", "unevaluatedProperties"} & set(node)
        assert "$ref" not in node or len(node) == 1


def _nodes(node: Any) -> list[dict[str, Any]]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    found = [deep for value in inner for deep in _nodes(value)]
    return [node, *found] if isinstance(node, dict) else found
