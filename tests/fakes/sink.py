"""A strict HTTP server on loopback that stands for a receiver's peer and can misbehave on demand.

A subclass answers requests as the real service would and refuses what the real one refuses. A ``Fault`` put into
``faults`` is used up by the next request instead.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Request:
    """A request as it arrived; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body, parse_constant=_refuse_constant)


def _refuse_constant(word: str) -> float:
    raise ValueError(f"bare {word} in JSON")


@dataclass(frozen=True)
class Answer:
    """A normal answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def answer(status: int, body: Any, **headers: str) -> Answer:
    """A JSON answer."""
    return Answer(status, json.dumps(body).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


@dataclass(frozen=True)
class Fault:
    """How the next request goes wrong.

    Attributes:
        process: let the service do its work first, so that only the answer is lost.
        hang: never answer (until the sink closes).
        drip: send the answer a byte at a time, slowly, never ending in time.
        drip_headers: the same, from the first byte of the status line.
        cut: promise more bytes than are sent, then close.
        close: close without an answer.
        answer: answer this.
    """

    answer: Answer | None = None
    process: bool = False
    hang: bool = False
    drip: bool = False
    drip_headers: bool = False
    cut: bool = False
    close: bool = False


class Sink:
    """The server; subclass and override ``handle``."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.closing = threading.Event()
        self.arrived = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._tls = tls
        sink = self

        class Handler(_Handler):
            owner = sink

        self._server = _Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def handle(self, request: Request) -> Answer:
        """Answer as the real service would."""
        return Answer(200, b"{}")

    def fail(self, *faults: Fault) -> None:
        """The next requests go wrong like this."""
        self.faults.extend(faults)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    owner: Sink

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read ``requests`` instead."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        path, _, query = self.path.partition("?")
        headers = {k.lower(): v for k, v in self.headers.items()}
        request = Request(self.command, path, query, headers, self.rfile.read(length))
        with self.owner.arrived:
            self.owner.requests.append(request)
            fault = self.owner.faults.pop(0) if self.owner.faults else None
            self.owner.arrived.notify_all()
        if fault is None:
            self._answer(self.owner.handle(request))
            return
        if fault.process:
            self.owner.handle(request)
        self.close_connection = True
        if fault.answer is not None:
            self._answer(fault.answer)
        elif fault.hang:
            self.owner.closing.wait(30)
        elif fault.drip or fault.drip_headers:
            self._drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", slow_head=fault.drip_headers)
        elif fault.cut:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf")

    def _answer(self, a: Answer) -> None:
        self.send_response(a.status)
        for name, value in a.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", a.content_type)
        self.send_header("Content-Length", str(len(a.body)))
        if self.close_connection:  # unsaid, a client might take the connection for its next request before it ends
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(a.body)

    def _drip(self, head: bytes, slow_head: bool) -> None:
        if not slow_head:
            self.wfile.write(head)
            head = b""
        stream = head + b"x" * 1000
        for i in range(len(stream)):
            if self.owner.closing.wait(0.05):
                return
            self.wfile.write(stream[i : i + 1])
            self.wfile.flush()

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve
