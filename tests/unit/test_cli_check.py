"""The command line: check, schema, help, exit codes, and how little is imported for them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from anomalyd import __version__
from anomalyd.cli import COMMANDS, load_command, main

RULES = "groups:\n  - name: g\n    rules:\n      - {anomaly: A, expr: up, detector: mad}\n"
SETTINGS = "sources: {default: {url: 'http://localhost:9090'}}\nrule_files: ['rules/*.yml']\n"


class Run:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *args: str, stdin: bytes = b"") -> int:
        argv, old_stdin = sys.argv, sys.stdin
        sys.argv, sys.stdin = ["anomalyd", *args], io.TextIOWrapper(io.BytesIO(stdin))
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv, sys.stdin = argv, old_stdin
        self.out, self.err = self.capsys.readouterr()
        return code


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_good_files(run: Run, tmp_path: Path) -> None:
    """Settings, the rules they name, exit code 0."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "anomalyd.yml").write_text(SETTINGS)
    (tmp_path / "rules" / "a.yml").write_text(RULES)
    assert run("check", str(tmp_path / "anomalyd.yml")) == 0
    assert run.out == (
        f"Checking {tmp_path}/anomalyd.yml\n  SUCCESS: 1 source, 0 receivers, 1 pattern of rules files\n"
        f"Checking {tmp_path}/rules/a.yml\n  SUCCESS: 1 rule found\n"
    )
    assert run("check", str(tmp_path / "anomalyd.yml"), str(tmp_path / "rules" / "a.yml")) == 0
    assert run.out.count("a.yml\n") == 1


def test_bad_files(run: Run, tmp_path: Path) -> None:
    """Every problem of every file with its place; exit code 2; rules are held against the settings beside them."""
    (tmp_path / "s.yml").write_text(SETTINGS.replace("rules/*.yml", "a.yml") + "lgo: {}\n")
    (tmp_path / "a.yml").write_text(RULES.replace("detector: mad", "detector: mda, fr: 5m"))
    assert run("check", str(tmp_path / "s.yml"), str(tmp_path / "a.yml"), str(tmp_path / "none.yml")) == 2
    assert f"{tmp_path}/s.yml:3:1: unknown key 'lgo' (did you mean 'log'?)" in run.out
    assert f"{tmp_path}/a.yml:4:42: unknown detector 'mda' (did you mean 'mad'?)" in run.out
    assert f"{tmp_path}/a.yml:4:47: unknown key 'fr' (did you mean 'for'?)" in run.out
    assert f"{tmp_path}/none.yml: no such file" in run.out
    assert "FAILED: 2 problems" in run.out
    (tmp_path / "s.yml").write_text(SETTINGS.replace("rules/*.yml", "a.yml"))
    (tmp_path / "a.yml").write_text(RULES.replace("up,", "up, source: edge,"))
    assert run("check", str(tmp_path / "s.yml")) == 2
    assert "unknown source 'edge' (known: default)" in run.out


def test_patterns_that_match_nothing(run: Run, tmp_path: Path) -> None:
    """A mistyped rule_files would run without rules for ever."""
    (tmp_path / "s.yml").write_text(SETTINGS)
    assert run("check", str(tmp_path / "s.yml")) == 2
    assert "no file matches" in run.out


def test_json(run: Run, tmp_path: Path) -> None:
    """The same for scripts."""
    (tmp_path / "a.yml").write_text(RULES)
    (tmp_path / "b.yml").write_text("groups: [{name: h, rules: [{}]}]")
    assert run("check", "--json", str(tmp_path / "a.yml"), str(tmp_path / "b.yml")) == 2
    result = json.loads(run.out)
    assert not result["ok"]
    assert (result["files"][0]["kind"], result["files"][0]["problems"]) == ("rules", [])
    problem = result["files"][1]["problems"][0]
    assert (problem["file"], problem["line"], problem["column"]) == (str(tmp_path / "b.yml"), 1, 28)


def test_stdin(run: Run) -> None:
    """`-` reads what an editor or a generator pipes in."""
    assert run("check", "-", stdin=RULES.encode()) == 0
    assert "SUCCESS: 1 rule found" in run.out
    assert run("check", "-", stdin=b"groups: [\xff]") == 2
    assert "<stdin>:1:10: not UTF-8 text" in run.out


def test_without_files_the_settings_here_are_checked(run: Run) -> None:
    """And when there are none, that is what is said."""
    assert run("check", "anomalyd-that-is-not-there.yml") == 2
    assert run("chek") == 2
    assert "No such command 'chek'" in run.err
    assert run("check", "--jsn") == 2


def test_schema_and_version(run: Run) -> None:
    """They print to stdout and nothing else."""
    assert run("schema", "settings") == 0
    assert json.loads(run.out)["title"] == "Settings of anomalyd"
    assert run("--version") == 0
    assert run.out == f"anomalyd {__version__}\n"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(run: Run, name: str) -> None:
    """Each entry of the table can be imported and says what it does."""
    assert load_command(name) is not None
    assert run(name, "--help") == 0
    assert "Usage: anomalyd" in run.out


def test_help_imports_next_to_nothing() -> None:
    """What makes `--help` quick is what it does not import; counted, since time on a busy machine says little."""
    code = (
        "import sys; sys.argv = ['anomalyd', '--help']\n"
        "from anomalyd.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if '.' not in m or m.startswith('anomalyd')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    *_, listed = result.stdout.strip().splitlines()
    modules = set(json.loads(listed.replace("'", '"')))
    for name in ("check", "init", "schema"):
        assert f"\n  {name} " in result.stdout
    assert not modules & {"numpy", "pydantic", "yaml", "sqlalchemy", "requests", "httpx", "numba", "rich", "jinja2"}
    assert {m for m in modules if m.startswith("anomalyd")} <= {"anomalyd", "anomalyd.cli", "anomalyd.errors"}
    assert len(modules) < 250


def test_a_folder_is_what_is_ours_in_it(run: Run, tmp_path: Path) -> None:
    """Rules, their tests and settings; a server's own rules and other YAML are left alone, broken YAML is not."""
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "a.yml").write_text(RULES)
    (folder / "b.yaml").write_text(RULES.replace("name: g", "name: h"))
    (folder / "a.test.yml").write_text(
        "rule_files: [a.yml]\ntests: [{name: t, rule: A, input_series: [{series: '{}', values: 1x40d}], expect: []}]\n"
    )
    theirs = "groups: [{name: p, rules: [{record: a, expr: up}, {alert: B, expr: up}]}]\n"
    (folder / "prometheus.yml").write_text(theirs)
    (folder / "deployment.yml").write_text("kind: Deployment\nspec: {}\n")
    (folder / "notes.txt").write_text("no yaml")
    assert run("check", str(folder)) == 0, run.out
    assert [line.rpartition("/")[2] for line in run.out.splitlines() if line.startswith("Checking")] == [
        "a.test.yml", "a.yml", "b.yaml",
    ]  # fmt: skip
    assert run("check", str(folder), str(folder / "a.yml")) == 0, "a file that is named twice is checked once"
    (folder / "broken.yml").write_text("a: [")
    assert run("check", str(folder)) == 2
    assert "broken.yml:2:1: YAML" in run.out


def test_a_folder_without_our_files_says_what_to_do(run: Run, tmp_path: Path) -> None:
    """Empty, or full of other things; the same remedy as for a file that is not there."""
    assert run("check", str(tmp_path)) == 2
    assert f"{tmp_path}: the folder has no YAML file (name a rules file or its folder; anomalyd init" in run.out
    (tmp_path / "x.yml").write_text("kind: Pod\n")
    assert run("check", str(tmp_path)) == 2
    assert "of 1 YAML file none is of anomalyd (name a rules file" in run.out
    assert run("check", str(tmp_path / "none.yml")) == 2
    assert "none.yml: no such file (name a rules file or its folder" in run.out


def test_the_settings_may_be_an_option(run: Run, tmp_path: Path) -> None:
    """As everywhere else; a folder of rules is then held against them, and they are checked themselves."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.yml").write_text(RULES.replace("up,", "up, source: edge,"))
    settings = tmp_path / "anomalyd.yml"
    settings.write_text(SETTINGS)
    assert run("check", str(tmp_path / "rules")) == 0
    assert run("check", "--config", str(settings), str(tmp_path / "rules")) == 2
    assert "unknown source 'edge' (known: default)" in run.out
    assert run.out.count("Checking") == 2
    settings.write_text(SETTINGS.replace("default:", "edge:"))
    assert run("check", "--config.file", str(settings)) == 0, run.out
