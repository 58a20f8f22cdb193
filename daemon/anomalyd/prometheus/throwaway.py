"""A Prometheus for the time of one question: started empty, filled, asked, stopped, its folder removed.

It is the user's own program, so that an expression gives here what it gives there, version and all.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from anomalyd.block import Block, Bool
from anomalyd.clock import SystemClock
from anomalyd.errors import ConfigError, Problem
from anomalyd.prometheus.remotewrite import snappy, write_request
from anomalyd.prometheus.source import PrometheusSource
from anomalyd.prometheus.spec import SourceSpec

START_S = 60.0
STOP_S = 15.0
SAMPLES_PER_REQUEST = 100_000
SETTINGS = "global: {scrape_interval: 1h, evaluation_interval: 1h}\n"
REMEDY = "install Prometheus or name its program with --prometheus; input_series needs none"


def find_prometheus(named: str = "") -> str:
    """The program's path; raise ``ConfigError`` with the remedy when there is none."""
    found = shutil.which(named or "prometheus")
    if found is None:
        what = f"{named!r} is no program that can be run" if named else "no program prometheus is on the PATH"
        raise ConfigError([Problem("raw_series", 0, 0, f"{what}, and it must evaluate expr", REMEDY)])
    return found


def evaluated(program: str, raw: Block, stale: Bool, expr: str, start: int, end: int, step: int) -> Block:
    """What ``expr`` gives at each step from ``start`` to ``end`` where ``raw`` is all that was ever scraped.

    Raises ``QueryRejected`` for an expression that the server refuses, ``ConfigError`` for a program that is no
    Prometheus, and ``ValueError`` for samples that it does not take.
    """
    with running(program) as url:
        _fill(url, raw, stale)
        source = PrometheusSource(SourceSpec("test", url, timeout_s=120.0))
        try:
            return source.range(expr, start, end, step).block
        finally:
            source.close()


@contextmanager
def running(program: str) -> Iterator[str]:
    """An empty server on a free port of loopback; its URL."""
    with tempfile.TemporaryDirectory(prefix="anomalyd-test-") as name:
        folder = Path(name)
        (folder / "prometheus.yml").write_text(SETTINGS)
        port = _free_port()
        command = [
            program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=100y", "--web.enable-remote-write-receiver", "--log.level=warn",
            f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = _started(command, log.fileno(), folder)
        try:
            _wait_ready(process, f"http://127.0.0.1:{port}", folder / "log", program)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(command: list[str], log: int, folder: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)  # noqa: S603  # the user names the program
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError([Problem(command[0], 0, 0, f"cannot be run: {why}", REMEDY)]) from error


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, program: str) -> None:
    clock, pause = SystemClock(), threading.Event()
    end = clock.monotonic_s() + START_S
    while not _answers(url):
        if process.poll() is not None or clock.monotonic_s() > end:
            said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            word = "has ended" if process.poll() is not None else f"was not ready within {START_S:.0f} s"
            message = f"{word} instead of answering; it said: {said[0][-300:]}"
            raise ConfigError([Problem(program, 0, 0, message, "Prometheus 2.33 or newer is needed")])
        pause.wait(0.05)


def _answers(url: str) -> bool:
    try:
        with _session() as session:
            return bool(session.get(f"{url}/-/ready", timeout=2).status_code == 200)
    except requests.RequestException:
        return False


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy does not know our loopback
    return session


def _fill(url: str, raw: Block, stale: Bool) -> None:
    """Write all samples, oldest first: a server takes no older ones once it has newer."""
    columns = max(1, SAMPLES_PER_REQUEST // max(1, len(raw)))
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf",
               "X-Prometheus-Remote-Write-Version": "0.1.0"}  # fmt: skip
    with _session() as session:
        for first in range(0, len(raw.times), columns):
            body = write_request(raw.window(first, first + columns), stale[:, first : first + columns])
            if not body:
                continue
            answer = session.post(f"{url}/api/v1/write", snappy(body), headers=headers, timeout=60)
            if answer.status_code >= 300:
                said = answer.text[:300].strip()
                raise ValueError(f"Prometheus takes no such samples ({answer.status_code}: {said})")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
