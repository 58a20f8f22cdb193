"""``anomalyd schema``: the JSON Schema that lets an editor complete and check the files."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from anomalyd.schemas import rules_schema, settings_schema


class What(StrEnum):
    """Which file's schema."""

    SETTINGS = "settings"
    RULES = "rules"


def schema_text(what: What) -> str:
    """The schema as it is printed and as it lies in ``contrib/schema``."""
    made = settings_schema() if what == What.SETTINGS else rules_schema()
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def schema(what: Annotated[What, typer.Argument(help="Of which file.")] = What.RULES) -> None:
    """Print the JSON Schema (draft 7) of a settings or rules file.

    For editors with the YAML language server, put this on the first line of a rules file:
    # yaml-language-server: $schema=rules.json
    """
    print(schema_text(what), end="")
