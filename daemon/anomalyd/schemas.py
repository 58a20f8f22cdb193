"""JSON Schemas of settings and rules files for editors, in draft 7: what yaml-language-server understands.

Invariant: generated from the models that the loaders use, never written by hand.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter

from anomalyd.conform import Section
from anomalyd.detectors.registry import detector_info, detector_names, load_detector
from anomalyd.durations import DURATION_PATTERN, format_duration
from anomalyd.errors import DetectorError
from anomalyd.receivers import RECEIVER_SETTINGS
from anomalyd.rulefiles.model import GroupModel, RuleModel, RulesFile
from anomalyd.settingsmodel import ExecutorModel, Place, SettingsFile

DRAFT = "http://json-schema.org/draft-07/schema#"
_REF = "#/definitions/{model}"


def rules_schema() -> dict[str, Any]:
    """The schema of a rules file; detectors whose extra is not installed take any parameters."""
    schema = _schema(RulesFile)
    definitions = schema["definitions"]
    schema["properties"]["groups"]["items"] = _define(GroupModel, definitions)
    definitions["GroupModel"]["properties"]["rules"]["items"] = _define(RuleModel, definitions)
    members = [_detector(name, definitions) for name in detector_names()]
    definitions["Detector"] = {"anyOf": [{"enum": list(detector_names())}, *members]}
    one = {"$ref": "#/definitions/Detector"}
    definitions["DetectorSpec"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    definitions["RuleModel"]["properties"]["detector"]["default"] = "auto"
    return _finish(schema, "Rules of anomalyd")


def settings_schema() -> dict[str, Any]:
    """The schema of ``anomalyd.yml``."""
    schema = _schema(SettingsFile)
    definitions = schema["definitions"]
    kinds = []
    for kind, model in RECEIVER_SETTINGS.items():
        part = _part(model, definitions)
        part["properties"].pop("name")  # the key under receivers: is the name
        part["required"] = sorted({*part.get("required", ()), "type"} - {"name"})
        part["properties"]["type"] = {"const": kind}
        definitions[model.__name__] = part
        kinds.append({"$ref": _REF.format(model=model.__name__)})
    schema["properties"]["receivers"]["additionalProperties"] = {"oneOf": kinds}
    place = TypeAdapter(Place).json_schema()
    schema["properties"]["executor"] = {"anyOf": [place, {"$ref": _REF.format(model=ExecutorModel.__name__)}]}
    return _finish(schema, "Settings of anomalyd")


def _schema(model: type[Section]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_REF)
    schema["definitions"] = schema.pop("$defs", {})
    return schema


def _part(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    part = model.model_json_schema(ref_template=_REF)
    definitions |= part.pop("$defs", {})
    return part


def _define(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    definitions[model.__name__] = _part(model, definitions)
    return {"$ref": _REF.format(model=model.__name__)}


def _detector(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    try:
        params = load_detector(name).Params
        part = _part(params, definitions)
        _write_defaults(part, params)
    except DetectorError:
        part = {"type": "object", "properties": {}}
    part["description"] = detector_info(name).summary
    part["properties"] = {"type": {"const": name}, **part.get("properties", {})}
    part["required"] = ["type", *part.get("required", ())]
    definitions[f"detector_{name}"] = part
    return {"$ref": f"#/definitions/detector_{name}"}


def _write_defaults(part: dict[str, Any], model: type[BaseModel]) -> None:
    """Show defaults that are values of our own (lengths of time) as a rule would write them."""
    written = model.model_json_schema(mode="serialization")["properties"]
    for name, field in part["properties"].items():
        if isinstance(field.get("default"), dict):
            field["default"] = written[name]["default"]


def _finish(schema: dict[str, Any], title: str) -> dict[str, Any]:
    done: dict[str, Any] = _draft7(schema)
    return {"$schema": DRAFT, "title": title, **{k: v for k, v in done.items() if k != "title"}}


def _draft7(node: Any) -> Any:
    """Rewrite what draft 7 does not know, and durations as users write them."""
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: _draft7(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if isinstance(out.get("default", ""), dict | list | None):
        out.pop("default")  # what an empty section or list means is said by its parts
    if "prefixItems" in out:
        out["items"] = out.pop("prefixItems")
    if out.get("pattern") == DURATION_PATTERN and isinstance(out.get("default"), int):
        out["default"] = format_duration(out["default"])
    if "$ref" in out and len(out) > 1:
        # In draft 7 everything beside a $ref is ignored.
        out["allOf"] = [{"$ref": out.pop("$ref")}]
    return out
