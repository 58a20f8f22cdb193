"""The Dockerfile keeps the rules of a careful image; its health check tells well from unwell."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from anomalyd.settingsmodel import DEFAULT_LISTEN, split_listen

ROOT = Path(__file__).parents[2]
PORT = split_listen(DEFAULT_LISTEN)[1]


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continuation lines joined, comments gone."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def rest_of(word: str, stage: int = -1) -> list[str]:
    return [rest for instruction, rest in stages()[stage] if instruction == word]


def healthcheck() -> list[str]:
    command = rest_of("HEALTHCHECK")[0].split("CMD", 1)[1]
    return list(json.loads(command))


def test_only_known_instructions_and_no_add() -> None:
    """Every instruction is one that builders know; ADD, which fetches and unpacks, is not used."""
    known = {"ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "LABEL", "VOLUME", "EXPOSE", "USER", "STOPSIGNAL",
             "HEALTHCHECK", "ENTRYPOINT", "CMD"}  # fmt: skip
    assert {word for word, _ in instructions()} <= known


def test_two_stages_on_a_tagged_base() -> None:
    """Build tools stay in the first stage; the base has a registry, a tag and is not `latest`."""
    assert len(stages()) == 2
    (argument,) = [rest for word, rest in instructions() if word == "ARG"]
    name, image = argument.split("=", 1)
    assert re.fullmatch(r"[\w.]+/[\w./-]+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?", image)
    assert [rest.split()[0] for word, rest in instructions() if word == "FROM"] == [f"${{{name}}}"] * 2


def test_runs_as_a_numeric_user_that_is_not_root() -> None:
    """The last USER is numeric and at least 10000, with group 0 so that a foreign UID can write /data."""
    uid, gid = rest_of("USER")[-1].split(":")
    assert int(uid) >= 10_000
    assert gid == "0"
    words = [word for word, _ in stages()[-1]]
    assert "RUN" not in words[words.index("USER") :]


def test_nothing_outside_data_and_tmp_is_written_at_run_time() -> None:
    """Bytecode is not written, the home is /tmp, compiled kernels go to the volume."""
    environment = dict(pair.split("=", 1) for rest in rest_of("ENV") for pair in shlex.split(rest))
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment["HOME"] == "/tmp"
    assert rest_of("VOLUME") == ["/data"]
    assert environment["NUMBA_CACHE_DIR"].startswith("/data/")
    assert rest_of("WORKDIR") == ["/data"]


def test_commands_are_in_exec_form_and_signals_reach_the_daemon() -> None:
    """No shell stands between the container's PID 1 and the daemon."""
    entry = json.loads(rest_of("ENTRYPOINT")[0])
    command = json.loads(rest_of("CMD")[0])
    assert [Path(entry[0]).name, command[0], command[1]] == ["anomalyd", "run", "--config"]
    assert rest_of("STOPSIGNAL") == ["SIGTERM"]
    assert rest_of("EXPOSE") == [str(PORT)]


def test_installs_with_constraints_and_without_a_cache() -> None:
    """What is installed is what was tested, and the image carries no package cache."""
    installs = [rest for rest in rest_of("RUN", 0) if "pip install" in rest]
    assert installs
    assert all("--constraint" in line for line in installs)
    assert "PIP_NO_CACHE_DIR=1" in " ".join(rest_of("ENV", 0))
    assert not any("apt-get" in rest for _, rest in instructions())


def test_no_secret_and_no_setuid_in_the_image() -> None:
    """Nothing secret-looking is set in a layer."""
    for word, rest in instructions():
        if word in ("ENV", "ARG", "LABEL"):
            assert not re.search(r"(?i)(password|secret|token|_key)\b", rest)
        assert "chmod 777" not in rest


def test_what_is_copied_exists_and_passes_the_ignore_file() -> None:
    """Each COPY source of the build stage is in the repository and let through by .dockerignore; tests are not."""
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and not r.startswith("#")]
    assert rules[0] == "*"
    let_through = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = {source for rest in rest_of("COPY", 0) for source in rest.split()[:-1]}
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)
    assert not any(fnmatch.fnmatch("tests", pattern) for pattern in let_through)


def test_what_the_wheel_includes_is_copied() -> None:
    """Folders that the build puts into the package are in the build stage."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {Path(path).parts[0] for path in (*wheel["packages"], *wheel.get("force-include", {}))}
    needed |= {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    sources = {source for rest in rest_of("COPY", 0) for source in rest.split()[:-1]}
    assert needed <= sources


def test_oci_labels() -> None:
    """The image says what it is and under which licence."""
    labels = " ".join(rest_of("LABEL"))
    for name in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels


class _Health(BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    made = HTTPServer(("127.0.0.1", 0), _Health)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_health_check_tells_well_from_unwell(server: HTTPServer) -> None:
    """Its command exits 0 for 200, and not for 503 or when nobody listens; it needs Python alone."""
    program, flag, code = healthcheck()
    assert program.startswith("/opt/anomalyd/bin/python")
    assert f":{PORT}/" in code
    here = [sys.executable, flag, code.replace(str(PORT), str(server.server_address[1]))]
    for status, well in ((200, True), (503, False)):
        _Health.status = status
        done = subprocess.run(here, capture_output=True, check=False)
        assert (done.returncode == 0) == well
    assert set(_Health.asked) == {"/-/healthy"}
    nobody = [sys.executable, flag, code.replace(str(PORT), "1")]
    assert subprocess.run(nobody, capture_output=True, check=False).returncode != 0
