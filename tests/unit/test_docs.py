"""The guide is true: tables are fresh, every key and command is in it, links lead somewhere, examples load."""

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from anomalyd.cli import COMMANDS
from anomalyd.detectors.registry import detector_names
from anomalyd.receivers.webhook import sign
from anomalyd.rules import load_rules
from anomalyd.ruletest import run_test
from anomalyd.schemas import rules_schema, settings_schema
from anomalyd.settings import load_settings
from anomalyd.testfile import read_tests
from anomalyd.yamlfile import read_file

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
ALL = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]


def load_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def guide() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block in a language."""
    found = []
    for page in ALL:
        pattern = rf"^```{language}\n(.*?)^```"
        texts = re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        found += [(page.name, text) for text in texts]
    return found


def test_tables_are_what_the_daemon_knows() -> None:
    """No table is stale; if this fails, run python docs/tables.py."""
    assert load_tables().main(["--check"]) == 0


def test_every_table_that_can_be_made_is_shown() -> None:
    """A new settings section, receiver or detector is not forgotten in the guide."""
    shown = set(re.findall(r"<!-- table: (\S+) -->", guide()))
    assert set(load_tables().makers()) == shown


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_is_in_the_guide(command: str) -> None:
    """Each command is mentioned beyond the table of commands."""
    text = re.sub(r"<!-- table: commands -->.*?<!-- end -->", "", guide(), flags=re.DOTALL)
    assert f"anomalyd {command}" in text


def test_every_key_of_rules_and_settings_is_in_the_guide() -> None:
    """Each key of each mapping of both files stands in a page as code."""
    text = guide()
    for schema in (rules_schema(), settings_schema()):
        for name, definition in {"top": schema, **schema["definitions"]}.items():
            for key in definition.get("properties", {}):
                assert f"`{key}`" in text or f"{key}:" in text, f"{name}: {key}"


def test_every_detector_has_a_section() -> None:
    """The overview links to a heading of each detector."""
    assert set(detector_names()) <= anchors(ROOT / "docs" / "detectors.md")


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file of the repository, every anchor a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_yaml_examples_load(page: str, text: str, tmp_path: Path) -> None:
    """Examples of rules and of settings are taken by the daemon's own loaders."""
    data = yaml.safe_load(text)
    if "tests" in data:
        shutil.copy(ROOT / "rules" / "shop.yml", tmp_path)
        (tmp_path / "rules.test.yml").write_text(text)
        for test in read_tests(read_file(tmp_path / "rules.test.yml")):
            assert run_test(test).passed, test.name
    elif "groups" in data:
        (tmp_path / "rules.yml").write_text(text)
        assert load_rules([str(tmp_path / "rules.yml")]).rules
    else:
        missing = "" if "sources" in data else "sources: {default: {url: http://localhost:9090}}\n"
        (tmp_path / "anomalyd.yml").write_text(missing + text)
        assert load_settings(tmp_path / "anomalyd.yml").sources


def test_the_python_example_verifies_our_signature() -> None:
    """What the guide tells a webhook's author to write accepts our signature and no other."""
    ((_, code),) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    genuine = names["genuine"]
    body = b'{"schema":1}'
    headers = {"X-Anomalyd-Timestamp": "1762000000", "X-Anomalyd-Signature": sign("key", "1762000000", body)}
    assert callable(genuine)
    assert genuine(b"key", headers, body)
    assert not genuine(b"other", headers, body)
    assert not genuine(b"key", headers, body + b" ")


def test_changelog_entries_are_tagged() -> None:
    """Every entry says what kind it is."""
    for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("- "):
            assert re.match(r"- \[(CHANGE|FEATURE|ENHANCEMENT|BUGFIX|SECURITY)\] ", line), line
