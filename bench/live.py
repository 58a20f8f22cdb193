"""The node pack live: the daemon, a real Prometheus and node_exporter on this machine, an hour quiet, then load.

The same exporter is scraped as two instances that differ in their history only: ``as-is`` has fourteen days drawn from
minutes recorded on this machine, with whatever else it was doing; ``calm`` has the CPU of a machine with little to do.
What other work on the machine does to ``calm`` is told beside the figures and is no figure. ``FULL=1`` is quiet for an
hour, else ten minutes. Each load is held until its page or for five minutes: a small loop file system filled, up to
4 GiB of memory, two busy processes. Needs root for the loop file system. ``RECORDED=`` names a folder of scrapes
(``<time in ms>.prom``) to take instead of recording ten minutes; ``KEEP=`` a folder for the daemon's database and log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from tests.servers import Server, free_port, running_node_exporter, running_prometheus

from anomalyd.rulefiles.read import load_rules
from bench import _machine as machine
from bench.harness import Context, Figure, limit

PACK = Path(__file__).parents[1] / "rules" / "node.yml"
DAYS = 15
HOLD_S = 300
GAP_MS = 3 * 60_000
"""Between the made history and the live one, as if the machine had been restarted."""


@dataclass(frozen=True, slots=True)
class Page:
    """One statement that reached the receiver; ``at`` in seconds of the wall clock."""

    at: float
    rule: str
    instance: str
    reason: str
    body: dict[str, Any] = field(repr=False)


def run(context: Context) -> Iterator[Figure]:
    # Whoever stops it finds the file system unmounted and no server left.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    quiet_s = (60 if context.full else 10) * 60
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        disk = stack.enter_context(machine.small_disk(folder))
        exporter = stack.enter_context(running_node_exporter(folder))
        prometheus = stack.enter_context(filled(folder, exporter))
        pages = stack.enter_context(receiver())
        log = stack.enter_context(daemon(folder, prometheus, pages.url))
        started = time.time()
        _say(f"live since {time.strftime('%H:%M:%S')}, quiet for {quiet_s / 60:.0f} minutes")
        _wait(lambda: _say_new(pages), quiet_s)
        yield from _quiet(pages, prometheus, started, time.time())
        yield from _loads(pages, disk)
        _say(f"the daemon's log has {log.read_text().count('level=error')} errors")


def _names() -> frozenset[str]:
    """Metrics of the pack."""
    found: set[str] = set()

    def visit(node: Any) -> bool:
        if type(node).__name__ == "VectorSelector":
            found.add(node.name)
        return True

    for rule in load_rules([str(PACK)]).rules:
        promql_parser.walk(promql_parser.parse(rule.expr), visit)
    return frozenset(found)


@contextmanager
def filled(folder: Path, exporter: Server) -> Iterator[Server]:
    """A Prometheus with two histories of this machine that goes on scraping it."""
    names = _names()
    kept = os.environ.get("RECORDED")
    recorded = machine.read_recording(Path(kept), names) if kept else machine.record(exporter, names, 10)
    _say(f"recorded {len(recorded)} scrapes over {(max(recorded) - min(recorded)) / 60_000:.0f} minutes")
    now = machine.scrape(exporter, names)
    last = (time.time_ns() // 1_000_000 - GAP_MS) // 60_000 * 60_000
    first = last - (DAYS * 1440 - 1) * 60_000
    as_is = machine.stretched(recorded, now, DAYS * 1440, 1)
    machine.write_openmetrics(folder / "metrics", {"as-is": as_is, "calm": machine.calm(as_is, first, 2)}, first)
    # One block, read once: promtool reads its input anew for each block, and two weeks have 168 of two hours.
    command = [
        "promtool", "tsdb", "create-blocks-from", "--max-block-duration=800h", "openmetrics", str(folder / "metrics"),
        str(folder / "prometheus-data"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    (folder / "metrics").unlink()
    targets = "".join(
        f"  - targets: ['{exporter.removeprefix('http://')}']\n    labels: {{instance: {name}}}\n"
        for name in ("as-is", "calm")
    )
    config = f"scrape_configs:\n- job_name: node\n  static_configs:\n{targets}"
    with running_prometheus(folder, scrape_interval="15s", config=config) as server:
        yield server


@dataclass
class Pages:
    """What arrived, and where to send it."""

    url: str = ""
    got: list[Page] = field(default_factory=list)
    told: int = 0

    def of(self, instance: str, since: float, until: float = float("inf"), rule: str = "") -> list[Page]:
        return [
            p for p in self.got
            if p.instance == instance and since <= p.at < until and rule in ("", p.rule) and p.reason != "resolved"
        ]  # fmt: skip


@contextmanager
def receiver() -> Iterator[Pages]:
    """A webhook's other end."""
    pages = Pages()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            incident, rule = body["incident"], body["rule"]
            instance = incident["labels"].get("instance", "")
            pages.got.append(Page(time.time(), rule["name"], instance, body["reason"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    pages.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield pages
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def daemon(folder: Path, prometheus: str, url: str) -> Iterator[Path]:
    """``anomalyd run`` with the pack as it is; yields its log when it is ready."""
    port = free_port()
    settings = {
        "sources": {"default": {"url": str(prometheus)}},
        "database": {"url": "sqlite:///anomalyd.db"},
        "rule_files": [str(PACK)],
        "receivers": {"pages": {"type": "webhook", "url": url}},
        "web": {"listen": f"127.0.0.1:{port}"},
    }
    config, log = folder / "anomalyd.yml", folder / "daemon.log"
    config.write_text(yaml.safe_dump(settings))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "anomalyd", "run", "--config", str(config)], stderr=out, stdout=out, cwd=folder
        )
    try:
        ready = lambda: process.poll() is not None or _answers(f"http://127.0.0.1:{port}/-/ready")  # noqa: E731
        assert _wait(ready, 600), "the daemon is not ready after ten minutes"
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        process.terminate()
        process.wait(60)
        if kept := os.environ.get("KEEP"):
            subprocess.run(["cp", str(folder / "anomalyd.db"), str(log), kept], check=True)


def _quiet(pages: Pages, prometheus: str, since: float, until: float) -> Iterator[Figure]:
    """What was told in the quiet time, beside what the machine did."""
    busy = _range(prometheus, '1 - avg(rate(node_cpu_seconds_total{mode="idle",instance="as-is"}[3m]))', since, until)
    cpu = f"CPU {min(busy):.0%} to {max(busy):.0%} busy, mean {sum(busy) / len(busy):.0%}" if busy else "no samples"
    for instance in ("as-is", "calm"):
        told = pages.of(instance, since, until)
        words = ", ".join(sorted({f"{p.rule} ({p.reason})" for p in told})) or "none"
        name = f"node pack live, {(until - since) / 60:.0f} minutes without our load, instance {instance}: pages"
        if instance == "as-is":
            yield limit(name, len(told), at_most=0, note=f"{words}; {cpu}")
        else:
            yield Figure(name, len(told), note=f"{words}; history of a calm machine, other work on it is its load")


def _loads(pages: Pages, disk: Path) -> Iterator[Figure]:
    """Each load held until its page or five minutes."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = min(4 << 30, int(total * 0.2))
    loads: list[tuple[str, str, Callable[[], Any]]] = [
        ("disk fill of 60 %", "NodeFilesystemSpace", lambda: machine.filled_disk(disk, 0.6)),
        (f"memory, {memory / 2**30:.1f} GiB", "NodeMemoryAvailable", lambda: machine.taken_memory(memory, HOLD_S + 60)),
        ("CPU, two busy processes", "NodeCpu", lambda: machine.busy_cpus(2, HOLD_S + 60)),
    ]
    for name, rule, load in loads:
        _say(f"load: {name}")
        began = time.time()
        open_before = {i for i in ("as-is", "calm") if _is_open(pages, i, rule)}
        with load():
            _wait(lambda: _say_new(pages) or all(pages.of(i, began, rule=rule) for i in ("as-is", "calm")), HOLD_S)  # noqa: B023
        _wait(lambda: False, 1)
        for instance in ("as-is", "calm"):
            told = pages.of(instance, began, rule=rule)
            note = "was open already, by other work" if instance in open_before else ""
            title = f"node pack live, {name}, instance {instance}: seconds to page"
            if told:
                yield limit(title, told[0].at - began, at_most=HOLD_S, note=note)
            else:
                yield Figure(title, HOLD_S, target=f"<= {HOLD_S}", ok=None if note else False, note=note or "no page")


def _is_open(pages: Pages, instance: str, rule: str) -> bool:
    told = [p.reason for p in pages.got if p.instance == instance and p.rule == rule]
    return bool(told) and told[-1] != "resolved"


def _say_new(pages: Pages) -> bool:
    """Print what arrived since; never a reason to stop waiting."""
    for page in pages.got[pages.told :]:
        at = time.strftime("%H:%M:%S", time.localtime(page.at))
        _say(f"{at} {page.reason} {page.rule} {page.instance}: {page.body['sentence']}")
        pages.told += 1
    return False


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < end:
        if condition():
            return True
        pause.wait(0.5)
    return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _range(prometheus: str, expr: str, since: float, until: float) -> list[float]:
    query = urllib.parse.urlencode({"query": expr, "start": since, "end": until, "step": 60})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{query}", timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    return [float(v) for _, v in found[0]["values"]] if found else []


def _say(text: str) -> None:
    print(f"# {text}", flush=True)
