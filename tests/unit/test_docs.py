"""The guide is true: tables are fresh, every key and command is in it, links lead somewhere, examples load."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import detector_pages
import detector_pictures
import pictures
import pytest
import tables
import yaml
from scenes import SCENES
from toys import Broken, Plant

from anomalyd.cli import COMMANDS
from anomalyd.detectors.registry import detector_names
from anomalyd.receivers.webhook import sign
from anomalyd.rulefiles.read import load_rules
from anomalyd.schemas import rules_schema, settings_schema
from anomalyd.settings import load_settings
from anomalyd.workbench.ruletest import run_test
from anomalyd.workbench.testfile import read_tests
from anomalyd.yamlfile import read_file

ROOT = Path(__file__).parents[2]
DETECTORS = ROOT / "docs" / "detectors"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(DETECTORS.glob("*.md"))]
DETECTORS_KNOWN = detector_names()
ALL = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]


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
    assert tables.main(["--check"]) == 0


def test_every_table_that_can_be_made_is_shown() -> None:
    """A new settings section, receiver or detector is not forgotten in the guide."""
    shown = set(re.findall(r"<!-- table: (\S+) -->", guide()))
    assert set(tables.makers()) == shown


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


def test_detector_pages_are_what_the_detectors_say() -> None:
    """No page is stale, missing or left over; if this fails, run python docs/detector_pages.py."""
    assert detector_pages.main(["--check"]) == 0
    assert {page.stem for page in DETECTORS.glob("*.md")} == set(DETECTORS_KNOWN)


def test_a_changed_page_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page that differs from what its detector says, and one of no detector, are named and made right."""
    assert detector_pages.main([], tmp_path) == 0
    (tmp_path / "mad.md").write_text("old")
    (tmp_path / "gone.md").write_text("old")
    assert detector_pages.main(["--check"], tmp_path) == 1
    told = capsys.readouterr().err
    assert "mad.md" in told
    assert "gone.md" in told
    assert "zscore.md" not in told
    assert detector_pages.main([], tmp_path) == 0
    assert detector_pages.main(["--check"], tmp_path) == 0


@pytest.mark.parametrize("name", DETECTORS_KNOWN)
def test_every_detector_has_a_picture(name: str) -> None:
    """It is a sound SVG of modest size, without scripts or links, for light and dark, and tells what was planted."""
    text = (DETECTORS / f"{name}.svg").read_text(encoding="utf-8")
    assert len(text) < 60_000
    assert "prefers-color-scheme: dark" in text
    assert "<script" not in text
    assert text.count("http") == 1, "nothing but the name of SVG itself"
    words = {" ".join(node.itertext()) for node in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")}
    told = {f"{plant.words}: {'found' if plant.found else 'not found'}" for plant in SCENES[name].plants}
    assert told <= words


@pytest.mark.parametrize("name", ["mad", "seasonal", "ensemble", "forecast", "half_space_trees"])
def test_pictures_are_true(name: str) -> None:
    """The detector of today finds what its picture says, and nothing else; the other pictures are tried when drawn."""
    assert detector_pictures.picture(name, SCENES[name]).startswith("<svg")


def test_an_untrue_picture_is_not_drawn() -> None:
    """A scene that promises what the detector does not find is refused, and so is a false alarm."""
    scene = SCENES["zscore"]
    with pytest.raises(Broken, match="not found"):
        detector_pictures.picture("zscore", replace(scene, plants=(*scene.plants, Plant(120, 3, "nothing", True))))
    with pytest.raises(Broken, match="false alarm"):
        detector_pictures.picture("zscore", replace(scene, plants=scene.plants[1:]))


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


def test_one_command_draws_all_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    """What `make pictures` calls names every picture that a page shows; an unknown name says what there is."""
    shown = {Path(path).stem for path in re.findall(r"!\[[^]]*\]\(([^)]+\.png)\)", guide())}
    drawers = (ROOT / "docs" / name for name in ("report_pictures.py", "messages.py"))
    sources = "".join(path.read_text(encoding="utf-8") for path in drawers)
    assert {"slack", "evaluate-report"} <= shown
    assert [name for name in shown if f'"{name}"' not in sources and f'"{name}.png"' not in sources] == []
    assert {path.stem for path in DETECTORS.glob("*.svg")} == set(SCENES)
    assert pictures.main(["nothing"]) == 2
    assert "there are reports, messages and adwin" in capsys.readouterr().err
