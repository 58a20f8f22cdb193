"""``anomalyd check``: settings, rules and test files held against everything that can be known without running them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from anomalyd.errors import ConfigError, Problem
from anomalyd.preflight import preflight, probe
from anomalyd.rules import RuleSet, expand, read_rules
from anomalyd.settings import Settings, is_settings, read_settings
from anomalyd.testfile import is_tests, read_tests
from anomalyd.yamlfile import MAX_BYTES, Document, read_file, read_yaml

STDIN = "<stdin>"
DEFAULT_FILE = "anomalyd.yml"


@dataclass(slots=True)
class Checked:
    """One file: what it was taken for, what is in it, and what is wrong with it."""

    file: str
    kind: str = "unknown"
    found: str = ""
    rules: int = 0
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)


def check_files(files: list[str], syntax_only: bool = False, connect: bool = False) -> list[Checked]:
    """Check files together: rules also against the settings among them, and the rules that settings name as well.

    Args:
        syntax_only: look at nothing that settings refer to but rules: no secrets, certificates, database, extras.
        connect: also see whether receivers can be reached.
    """
    checked: dict[str, Checked] = {}
    documents = {name: document for name in files if (document := _read(name, checked)) is not None}
    settings: Settings | None = None
    for name, document in list(documents.items()):
        if is_tests(document.data):
            _tests(checked[name], documents.pop(name))
        elif is_settings(document.data):
            del documents[name]
            settings = _settings(checked[name], document, syntax_only, connect) or settings
    for name in _named_rules(settings, checked):
        if not any(Path(name).absolute() == Path(seen).absolute() for seen in checked):
            document = _read(name, checked)
            if document is not None:
                documents[name] = document
    _rules(documents, settings, checked)
    return list(checked.values())


def _read(name: str, checked: dict[str, Checked]) -> Document | None:
    one = Checked(STDIN if name == "-" else name)
    checked[name] = one
    try:
        if name == "-":
            return read_yaml(sys.stdin.buffer.read(MAX_BYTES + 1), STDIN)
        return read_file(name)
    except ConfigError as error:
        one.problems += error.problems
        return None


def _settings(one: Checked, document: Document, syntax_only: bool, connect: bool) -> Settings | None:
    one.kind = "settings"
    try:
        settings = read_settings(document, Path() if document.file == STDIN else None)
    except ConfigError as error:
        one.problems += error.problems
        return None
    if not syntax_only:
        preflight(document, settings)
        if connect and not document.problems:
            probe(document, settings)
        one.problems += sorted(document.problems, key=lambda p: (p.line, p.column, p.message))
    parts = _count(len(settings.sources), "source"), _count(len(settings.receivers), "receiver")
    one.found = f"{', '.join(parts)}, {_count(len(settings.rule_files), 'pattern')} of rules files"
    return settings


def _tests(one: Checked, document: Document) -> None:
    one.kind = "tests"
    try:
        one.found = f"{_count(len(read_tests(document)), 'test')} found"
    except ConfigError as error:
        one.problems += error.problems


def _named_rules(settings: Settings | None, checked: dict[str, Checked]) -> tuple[str, ...]:
    if settings is None:
        return ()
    try:
        return expand(settings.rule_files)
    except ConfigError as error:
        name = next(key for key, one in checked.items() if one.file == settings.file)
        checked[name].problems += error.problems
        return ()


def _rules(documents: dict[str, Document], settings: Settings | None, checked: dict[str, Checked]) -> None:
    by_file = {document.file: checked[name] for name, document in documents.items()}
    for one in by_file.values():
        one.kind = "rules"
    rules = RuleSet(())
    try:
        rules = read_rules(documents.values(), settings)
    except ConfigError as error:
        for problem in error.problems:
            by_file[problem.file].problems.append(problem)
    for notice in rules.notices:
        by_file[notice.file].notices.append(notice)
    for group in rules.groups:
        by_file[group.file].rules += len(group.rules)
    for one in by_file.values():
        one.found = f"{_count(one.rules, 'rule')} found" if rules.groups else "no problem found"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _print_text(checked: list[Checked]) -> None:
    for one in checked:
        print(f"Checking {one.file}")
        if one.problems:
            print(f"  FAILED: {_count(len(one.problems), 'problem')}")
            for problem in one.problems:
                print(f"    {problem}")
        else:
            print(f"  SUCCESS: {one.found}")
        for notice in one.notices:
            print(f"    note: {notice}")


def _print_json(checked: list[Checked]) -> None:
    ok = not any(one.problems for one in checked)
    print(json.dumps({"ok": ok, "files": [asdict(one) for one in checked]}, indent=2))


def check(
    files: Annotated[
        list[str] | None, typer.Argument(help=f"Settings and rules files; - is stdin. Default: {DEFAULT_FILE}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    syntax_only: Annotated[
        bool, typer.Option("--syntax-only", help="Leave out what settings refer to: secrets, certificates, database.")
    ] = False,
    connect: Annotated[
        bool, typer.Option("--probe", help="Also see whether receivers can be reached; nothing is sent to them.")
    ] = False,
) -> None:
    """Check settings, rules and test files.

    A file is taken for what it is by its top keys. The rules files that settings name are checked too, and rules
    against the sources and receivers of the settings. Whatever `run` would refuse to start for is found here, but for
    an address that is in use and a database server that does not answer: nothing is connected to, unless `--probe`
    asks for the receivers. Exit code 0: all is
    well; 2: it is not.
    """
    checked = check_files(list(dict.fromkeys(files or [DEFAULT_FILE])), syntax_only, connect)
    (_print_json if as_json else _print_text)(checked)
    if any(one.problems for one in checked):
        raise typer.Exit(2)
