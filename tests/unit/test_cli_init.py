"""``anomalyd init``: what it writes is right, for whatever Prometheus there is, and it overwrites nothing."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from anomalyd.cli.init import init
from anomalyd.cli.starter import STARTERS, rules_text, settings_text
from anomalyd.errors import ConfigError
from anomalyd.rulefiles.read import load_rules, read_rules
from anomalyd.settings import load_settings, read_settings
from anomalyd.yamlfile import read_yaml


class _Handler(BaseHTTPRequestHandler):
    """Answers the one question that ``init`` asks."""

    counts: dict[str, int]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        result = [{"metric": {"__name__": name}, "value": [1.0, str(n)]} for name, n in self.counts.items()]
        body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def prometheus() -> Iterator[str]:
    """A server that has node_exporter's metrics."""
    handler = type("Handler", (_Handler,), {"counts": {"up": 3, "node_cpu_seconds_total": 64}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_rules_are_written_for_what_is_there(
    prometheus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metrics that are found get their group, others do not; what is written loads."""
    init(tmp_path / "new", prometheus)
    settings = load_settings(tmp_path / "new" / "anomalyd.yml")
    assert settings.sources["default"].url == prometheus
    rules = load_rules(settings.rule_files, settings)
    assert [group.name for group in rules.groups] == ["targets", "node"]
    out = capsys.readouterr().out
    assert "node_exporter (64 series)" in out
    assert f"anomalyd check {tmp_path}/new/anomalyd.yml" in out


def test_without_an_answer_a_working_example_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rules for what every Prometheus has, and the reason on stderr."""
    init(tmp_path, "http://127.0.0.1:9")
    settings = load_settings(tmp_path / "anomalyd.yml")
    assert [group.name for group in load_rules(settings.rule_files, settings).groups] == ["targets"]
    assert "warning: source default (http://127.0.0.1:9)" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A second run is refused before anything is asked or written; --force says otherwise."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "first.yml").write_text("mine")
    with pytest.raises(ConfigError, match=r"first\.yml: is there already \(--force overwrites it"):
        init(tmp_path, "http://127.0.0.1:9")
    assert (tmp_path / "rules" / "first.yml").read_text() == "mine"
    assert not (tmp_path / "anomalyd.yml").exists()
    init(tmp_path, "http://127.0.0.1:9", force=True)
    assert (tmp_path / "rules" / "first.yml").read_text() != "mine"


def test_what_init_cannot_do_is_said(tmp_path: Path) -> None:
    """A URL with a password, and a folder that is a file."""
    with pytest.raises(ConfigError, match="--prometheus: the url may not carry credentials"):
        init(tmp_path, "http://u:hunter2@x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        init(tmp_path / "file", "http://127.0.0.1:9")


def test_rules_that_are_there_already_are_not_taken_unasked(
    prometheus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a checkout of ours the settings name the first rules and not the packs, whose groups are called alike."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "node.yml").write_text("groups: [{name: node, rules: []}]")
    init(tmp_path, prometheus)
    settings = load_settings(tmp_path / "anomalyd.yml")
    assert settings.rule_files == (str(tmp_path / "rules" / "first.yml"),)
    assert "anomalyd.yml names rules/first.yml alone: 1 other in" in capsys.readouterr().out


def test_what_keeps_the_daemon_from_starting_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written is checked as `anomalyd check` does: where it cannot run, init says so and exits with 2."""
    (tmp_path / "anomalyd.db").mkdir()
    with pytest.raises(typer.Exit) as caught:
        init(tmp_path, "http://127.0.0.1:9")
    assert caught.value.exit_code == 2
    assert "anomalyd.db" in capsys.readouterr().err


def test_every_combination_of_starters_loads() -> None:
    """Whatever is found, the file passes the checks."""
    metrics = [starter.metric for starter in STARTERS]
    for size in range(len(metrics) + 1):
        for found in itertools.combinations(metrics, size):
            rules = read_rules([read_yaml(rules_text(found, "note"), "first.yml")])
            assert len(rules.groups) == 1 + size


@pytest.mark.parametrize("url", ["http://localhost:9090", "https://[::1]:9090/a'b\"c", "http://x/{y}"])
def test_any_url_survives_in_the_settings(url: str) -> None:
    """Quotes and braces in a URL do not break the YAML."""
    text = settings_text(url)
    assert read_settings(read_yaml(text, "anomalyd.yml")).sources["default"].url == url
