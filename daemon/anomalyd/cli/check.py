"""``anomalyd check``: settings, rules and test files held against everything that can be known without running them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer

from anomalyd.errors import ConfigError, Problem
from anomalyd.preflight import preflight, probe
from anomalyd.rulefiles.read import RuleSet, expand, read_rules
from anomalyd.settings import Settings, is_settings, read_settings
from anomalyd.workbench.testfile import is_tests, read_tests
from anomalyd.yamlfile import MAX_BYTES, Document, read_file, read_yaml

STDIN = "<stdin>"
DEFAULT_FILE = "anomalyd.yml"
ENDINGS = (".yml", ".yaml")


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
        connect: also see whether receivers and targets of remote write can be reached.
    """
    checked: dict[str, Checked] = {}
    documents: dict[str, Document] = {}
    for name in files:
        documents |= _folder(name, checked) if name != "-" and Path(name).is_dir() else _file(name, checked)
    settings: Settings | None = None
    for name, document in list(documents.items()):
        if is_tests(document.data):
            _tests(checked[name], documents.pop(name))
        elif is_settings(document.data):
            del documents[name]
            settings = _settings(checked[name], document, syntax_only, connect) or settings
    for name in _named_rules(settings, checked):
        documents |= _file(name, checked)
    _rules(documents, settings, checked)
    return list(checked.values())


def _folder(name: str, checked: dict[str, Checked]) -> dict[str, Document]:
    """The files of a folder that are ours by their top keys; other YAML that lies there is none of our business."""
    found: dict[str, Document] = {}
    paths = sorted(path for path in Path(name).iterdir() if path.suffix in ENDINGS and path.is_file())
    for path in paths:
        read = _file(str(path), checked)
        if read and not _ours(read[str(path)]):
            del checked[str(path)]
        else:
            found |= read
    if not any(Path(one).absolute().parent == Path(name).absolute() for one in checked):
        said = f"of {_count(len(paths), 'YAML file')} none is of anomalyd" if paths else "the folder has no YAML file"
        checked[name] = Checked(name, problems=[Problem(name, 0, 0, said, _REMEDY)])
    return found


_REMEDY = "name a rules file or its folder; anomalyd init writes first ones"


def _ours(document: Document) -> bool:
    """Whether a file is settings, tests or rules of anomalyd; Prometheus's own rules have groups as well."""
    data = document.data
    if not isinstance(data, dict) or "groups" not in data:
        return is_settings(data) or is_tests(data)
    groups = data["groups"] if isinstance(data["groups"], list) else []
    rules = [rule for group in groups if isinstance(group, dict) for rule in group.get("rules") or ()]
    keys = {key for rule in rules if isinstance(rule, dict) for key in rule}
    return "anomaly" in keys or not keys & {"alert", "record"}


def _file(name: str, checked: dict[str, Checked]) -> dict[str, Document]:
    """The parsed file by its name; empty where it cannot be read, or was before."""
    if any(Path(name).absolute() == Path(seen).absolute() for seen in checked):
        return {}
    one = checked[name] = Checked(STDIN if name == "-" else name)
    try:
        if name == "-":
            return {name: read_yaml(sys.stdin.buffer.read(MAX_BYTES + 1), STDIN)}
        return {name: read_file(name)}
    except ConfigError as error:
        absent = name != "-" and not Path(name).exists()
        one.problems += [replace(problem, hint=_REMEDY) if absent else problem for problem in error.problems]
        return {}


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
    parts = [_count(len(settings.sources), "source"), _count(len(settings.receivers), "receiver")]
    if settings.remote_write:
        parts.append(_count(len(settings.remote_write), "target") + " of remote write")
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
        list[str] | None,
        typer.Argument(help=f"Settings, rules and test files, or folders; - is stdin. Default: {DEFAULT_FILE}."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "--config.file", help="Settings file, checked too; rules are held to it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    syntax_only: Annotated[
        bool, typer.Option("--syntax-only", help="Leave out what settings refer to: secrets, certificates, database.")
    ] = False,
    connect: Annotated[
        bool, typer.Option("--probe", help="Also see whether receivers and remote write can be reached; says nothing.")
    ] = False,
) -> None:
    """Check settings, rules and test files.

    A file is taken for what it is by its top keys; of a folder, the files that are one of these. The rules files that
    settings name are checked too, and rules against the sources and receivers of the settings. Whatever `run` would
    refuse to start for is found here, but for an address that is in use and a database server that does not answer:
    nothing is connected to, unless `--probe` asks for it. Then receivers are connected to and sent nothing, and targets
    of remote write get a request without samples and one that they must refuse. Exit code 0: all is well; 2: it is not.
    """
    named = [*([str(config)] if config is not None else []), *(files or [])]
    checked = check_files(list(dict.fromkeys(named or [DEFAULT_FILE])), syntax_only, connect)
    (_print_json if as_json else _print_text)(checked)
    if any(one.problems for one in checked):
        raise typer.Exit(2)
