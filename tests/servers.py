"""Real servers for tests: each in a folder of its own, on a free loopback port, stopped by whoever started it.

    with running_prometheus(tmp_path, blocks=openmetrics([Series(...)])) as prometheus:
        PrometheusSource(SourceSpec("real", prometheus))

What is yielded is the server's URL, a ``str`` that also knows its ``pid`` (to stop or kill it in a test of faults).
Mark a test that uses one with ``pytest.mark.server("prometheus")`` and so on, so that it is skipped where the program
is absent. A server dies with the process that started it, even if that is killed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_S = 60.0
STOP_S = 15.0


class Server(str):
    """URL of a running server."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True)
class Series:
    """A metric's name, its labels, times in ms and values: what a server is to be filled with."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    times: Sequence[int] = ()
    values: Sequence[float] = ()

    def selector(self) -> str:
        """The series as the text formats write it."""
        escaped = {name: _escape(value) for name, value in self.labels.items()}
        pairs = ",".join(f'{name}="{value}"' for name, value in escaped.items())
        return f"{self.name}{{{pairs}}}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def openmetrics(series: Iterable[Series]) -> str:
    """OpenMetrics text with times, families together, as promtool wants it."""
    lines = []
    for one in sorted(series, key=lambda one: one.name):
        head = one.selector()
        lines += [f"{head} {_number(v)} {ms / 1000:.3f}" for ms, v in zip(one.times, one.values, strict=True)]
    return "\n".join([*lines, "# EOF\n"])


def _number(value: float) -> str:
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text := repr(float(value)), text)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return once the condition holds; fail the test when it does not in time."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        pause.wait(0.02)


def answers(url: str) -> bool:
    """Whether a GET of the URL gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def running_prometheus(
    folder: Path,
    *,
    blocks: str | Path = "",
    scrape: Mapping[str, str] | None = None,
    scrape_interval: str = "1s",
    config: str = "",
    flags: Sequence[str] = (),
    prefix: str = "",
) -> Iterator[Server]:
    """Run Prometheus.

    Args:
        folder: for its files.
        blocks: OpenMetrics text, or a file of it, to fill the database with (``openmetrics`` makes it).
        scrape: job name to ``host:port``.
        config: further top-level YAML, such as ``remote_write:`` or ``tls``.
        flags: further command line flags.
        prefix: route prefix, such as ``/prom``.
    """
    data = folder / "prometheus-data"
    if blocks:
        fill_prometheus(data, blocks)
    jobs = "".join(
        f"- job_name: {job}\n  static_configs: [{{targets: ['{target}']}}]\n" for job, target in (scrape or {}).items()
    )
    file = folder / "prometheus.yml"
    scrapes = f"scrape_configs:\n{jobs}" if jobs else ""
    file.write_text(f"global: {{scrape_interval: {scrape_interval}}}\n{scrapes}{config}\n")
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=10y",
        "--web.enable-lifecycle",
        "--web.enable-remote-write-receiver",
        *([f"--web.route-prefix={prefix}"] if prefix else []),
        *flags,
    ]
    with _running(command, "--web.listen-address=127.0.0.1:{port}", folder, prefix, f"{prefix}/-/ready") as server:
        yield server


def fill_prometheus(data: Path, blocks: str | Path) -> None:
    """Make the blocks of a Prometheus database from OpenMetrics text or a file of it."""
    text = blocks if isinstance(blocks, Path) else data.with_suffix(".openmetrics")
    if not isinstance(blocks, Path):
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(blocks)
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"promtool: {done.stderr}{done.stdout}"


@contextmanager
def running_victoriametrics(
    folder: Path, *, series: Iterable[Series] = (), flags: Sequence[str] = ()
) -> Iterator[Server]:
    """Run a single-node VictoriaMetrics and import the series."""
    command = [
        "victoria-metrics",
        f"-storageDataPath={folder / 'victoria-data'}",
        "-retentionPeriod=100y",
        "-memory.allowedPercent=5",
        *flags,
    ]
    with _running(command, "-httpListenAddr=127.0.0.1:{port}", folder, "", "/health") as server:
        lines = [
            f"{one.selector()} {_number(v)} {ms}"
            for one in series
            for ms, v in zip(one.times, one.values, strict=True)
        ]
        if lines:
            body = "\n".join(lines).encode()
            urllib.request.urlopen(f"{server}/api/v1/import/prometheus", data=body, timeout=30).close()
            urllib.request.urlopen(f"{server}/internal/force_flush", timeout=30).close()
        yield server


@contextmanager
def running_node_exporter(folder: Path) -> Iterator[Server]:
    """Run node_exporter; scrape it as ``server.removeprefix("http://")``."""
    with _running(
        ["prometheus-node-exporter"], "--web.listen-address=127.0.0.1:{port}", folder, "", "/"
    ) as server:
        yield server


@contextmanager
def running_alertmanager(folder: Path, *, config: str = "", flags: Sequence[str] = ()) -> Iterator[Server]:
    """Run Alertmanager without a cluster; ``config`` is its YAML, by default one receiver that does nothing."""
    file = folder / "alertmanager.yml"
    file.write_text(config or "route: {receiver: none}\nreceivers: [{name: none}]\n")
    command = [
        "prometheus-alertmanager",
        f"--config.file={file}",
        f"--storage.path={folder / 'alertmanager-data'}",
        "--cluster.listen-address=",
        *flags,
    ]
    with _running(command, "--web.listen-address=127.0.0.1:{port}", folder, "", "/-/ready") as server:
        yield server


@contextmanager
def running_postgres(*, flags: Sequence[str] = ()) -> Iterator[Server]:
    """Run PostgreSQL without durability and without a password; yield a SQLAlchemy URL of its ``postgres`` database.

    It has its folder directly under the temporary directory, because it refuses to run as root and pytest's folders
    are closed to other users.
    """
    folder = Path(tempfile.mkdtemp(prefix="anomalyd-postgres-"))
    try:
        become = _other_user("postgres", folder)
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))[-1]
        data = folder / "data"
        initdb = [*become, f"{programs}/initdb", "-D", str(data), "-U", "anomalyd", "-A", "trust"]
        options = ["--no-sync", "-E", "UTF8", "--locale=C"]
        done = subprocess.run([*initdb, *options], capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, f"initdb: {done.stderr}{done.stdout}"
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off",
            "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": "50",
        }  # fmt: skip
        command = [*become, f"{programs}/postgres", "-D", str(data), *flags]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with _running(command, "--port={port}", folder, "", "", signal.SIGINT) as server:
            port = server.rpartition(":")[2]
            url = Server(f"postgresql+psycopg://anomalyd@127.0.0.1:{port}/postgres")
            url.process, url.log = server.process, server.log
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(postgres: str, name: str) -> str:
    """Create an empty database on a running PostgreSQL and return its URL."""
    import psycopg

    with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"{postgres.rpartition('/')[0]}/{name}"


def _other_user(name: str, folder: Path) -> list[str]:
    """Command prefix that runs a program as another user, and that user's ownership of the folder; root only."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(name)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={name}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=INT"]


@contextmanager
def _running(
    command: Sequence[str], listen: str, folder: Path, prefix: str, ready: str, stop: signal.Signals = signal.SIGTERM
) -> Iterator[Server]:
    """Start a program on a free port, wait until it answers (or, without a path, accepts), stop it in the end."""
    server = _start(command, listen, folder, prefix, ready)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGCONT)  # a test may have halted it
            server.process.send_signal(stop)
        try:
            server.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def _start(command: Sequence[str], listen: str, folder: Path, prefix: str, ready: str) -> Server:
    """Start the program, again with another port when somebody else took the first one meanwhile."""
    log = folder / f"{Path(command[0]).name}.log"
    with_parent = ["setpriv", "--pdeathsig=KILL"] if shutil.which("setpriv") and command[0] != "setpriv" else []
    for _ in range(3):
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*with_parent, *command, listen.format(port=port)], stdout=output, stderr=subprocess.STDOUT, cwd="/"
            )
        server = Server(f"http://127.0.0.1:{port}{prefix}")
        server.process, server.log = process, log
        up = (lambda: answers(f"http://127.0.0.1:{port}{ready}")) if ready else (lambda: _accepts(port))  # noqa: B023
        try:
            wait_until(lambda: process.poll() is not None or up(), START_S, f"{command[0]} to answer")  # noqa: B023
        except AssertionError:
            process.kill()
            process.wait()
            raise
        if process.poll() is None:
            return server
    raise AssertionError(f"{command[0]} does not start: {log.read_text(errors='replace')[-2000:]}")


def _accepts(port: int) -> bool:
    """Whether PostgreSQL answers at the port (it accepts before it is ready; then it says so and we ask again)."""
    import psycopg

    try:
        psycopg.connect(f"postgresql://anomalyd@127.0.0.1:{port}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
