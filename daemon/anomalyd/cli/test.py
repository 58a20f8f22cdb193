"""``anomalyd test``: unit tests of rules, as ``promtool test rules`` does it for alerting rules."""

from __future__ import annotations

import json
import re
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from anomalyd import logs
from anomalyd.errors import ConfigError, Problem
from anomalyd.prometheus.throwaway import find_prometheus
from anomalyd.workbench.ruletest import Verdict, run_test
from anomalyd.workbench.testfile import RuleTest, is_tests, read_tests
from anomalyd.yamlfile import read_file

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Line:
    """One test of one file, and how long it took."""

    file: str
    verdict: Verdict
    seconds: float


def load_tests(files: list[str], only: str) -> list[tuple[str, RuleTest]]:
    """Read all files; raise ``ConfigError`` with all problems of all of them. ``only`` is searched in the names."""
    pattern = _pattern(only)
    tests: list[tuple[str, RuleTest]] = []
    problems: list[Problem] = []
    for file in files:
        try:
            document = read_file(file)
            if document.data is not None and not is_tests(document.data):
                document.problem((), "this is no test file", "a test file has rule_files: and tests:")
                document.raise_problems()
            tests += [(file, test) for test in read_tests(document) if pattern.search(test.name)]
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tests


def _pattern(only: str) -> re.Pattern[str]:
    try:
        return re.compile(only)
    except re.error as error:
        raise ConfigError([Problem("--run", 0, 0, f"{only!r} is no regular expression: {error}")]) from None


def _run(tests: list[tuple[str, RuleTest]], prometheus: str, quiet: bool) -> list[Line]:
    lines = []
    shown = ""
    for file, test in tests:
        if file != shown and not quiet:
            print(file)
        shown = file
        began = time.monotonic()
        line = Line(file, run_test(test, prometheus), time.monotonic() - began)
        lines.append(line)
        if not quiet:
            _print(line)
    return lines


def _print(line: Line) -> None:
    word = "ok    " if line.verdict.passed else "FAILED"
    print(f"  {word}  {line.verdict.test.name}  ({line.seconds:.1f} s)", flush=True)
    for difference in line.verdict.diff:
        print(f"          {difference}".replace("\n", "\n          "))
    if not line.verdict.passed:
        print(f"          in {line.verdict.test.where}; - expected, + came, times since the start")


def junit(lines: list[Line]) -> bytes:
    """The results as JUnit XML, which every CI reads."""
    root = ET.Element("testsuites")
    for file in dict.fromkeys(line.file for line in lines):
        mine = [line for line in lines if line.file == file]
        failed = sum(not line.verdict.passed for line in mine)
        seconds = sum(line.seconds for line in mine)
        suite = ET.SubElement(
            root, "testsuite", name=_xml(file), tests=str(len(mine)), failures=str(failed), time=f"{seconds:.3f}"
        )
        for line in mine:
            test = line.verdict.test
            case = ET.SubElement(
                suite, "testcase", name=_xml(test.name), classname=_xml(test.rule.id), time=f"{line.seconds:.3f}"
            )
            if not line.verdict.passed:
                failure = ET.SubElement(case, "failure", message=f"{len(line.verdict.diff)} differences")
                failure.text = _xml("\n".join(line.verdict.diff))
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)


def _print_json(lines: list[Line]) -> None:
    tests = [
        {
            "file": line.file, "name": line.verdict.test.name, "rule": line.verdict.test.rule.id,
            "passed": line.verdict.passed, "diff": list(line.verdict.diff), "seconds": round(line.seconds, 3),
        }
        for line in lines
    ]  # fmt: skip
    print(json.dumps({"ok": all(line.verdict.passed for line in lines), "tests": tests}, indent=2))


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError([Problem(str(path), 0, 0, f"cannot be written: {error.strerror or error}")]) from error


def run_tests(
    files: Annotated[list[str], typer.Argument(help="Files of tests, for example rules/*.test.yml.")],
    only: Annotated[str, typer.Option("--run", metavar="REGEX", help="Only tests whose name matches.")] = "",
    junit_file: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    prometheus: Annotated[
        str, typer.Option(metavar="PROGRAM", help="Evaluates raw_series; by default the one on the PATH.")
    ] = "",
) -> None:
    """Test rules: given what their expression returns, which episodes and notifications come, and no other?

    The daemon's own evaluation and delivery run over the series of each test, on a virtual clock; nothing is connected
    to. A test with raw_series starts an empty Prometheus of its own on loopback for its expression, and stops it.
    Exit code 0: all pass; 1: one fails; 2: a file is wrong, or there is no Prometheus for raw_series.
    """
    logs.configure("error", stream=sys.stderr)
    tests = load_tests(list(dict.fromkeys(files)), only)
    if not tests:
        print(f"no test matches {only!r}", file=sys.stderr)
        raise typer.Exit(1)
    program = find_prometheus(prometheus) if any(test.raw is not None for _, test in tests) else ""
    began = time.monotonic()
    lines = _run(tests, program, quiet=as_json)
    if junit_file is not None:
        _write(junit_file, junit(lines))
    failed = sum(not line.verdict.passed for line in lines)
    if as_json:
        _print_json(lines)
    else:
        print(f"\n{len(lines) - failed} of {len(lines)} tests pass, in {time.monotonic() - began:.1f} s")
    if failed:
        raise typer.Exit(1)
