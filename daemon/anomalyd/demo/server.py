"""A small threaded HTTP/1.1 server on the loopback interface, for the demo's Prometheus and its webhook sink.

Invariant: every answer, header and body, leaves in one write with its length, on a connection that stays open; requests
are bounded; ``stop`` ends the listener and every connection, so nothing outlives the demo.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

MAX_BODY = 4 * 1024 * 1024
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: ``params`` joins the query string and, for a form, the body; ``headers`` ignore case."""

    method: str
    path: str
    params: Mapping[str, list[str]]
    headers: Message
    body: bytes = b""

    def first(self, name: str, default: str = "") -> str:
        return self.params[name][0] if name in self.params else default


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def text_response(status: int, text: str) -> Response:
    return Response(status, text.encode(), "text/plain; charset=utf-8")


class LoopbackServer:
    """Answers requests with ``respond`` on 127.0.0.1 and a free port, each connection in a thread of its own."""

    def __init__(self, respond: Callable[[Request], Response], name: str):
        self._server = _Server(respond)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=name, daemon=True)

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and close every connection; harmless when called twice or before ``start``."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, respond: Callable[[Request], Response]):
        self.respond = respond
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            left, self._open = self._open, set()
        for connection in left:
            _close(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what went wrong, except for a client that went away in the middle of an answer."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _close(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120
    server: _Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self._close_after(text_response(411, "Content-Length is required\n"))
        elif int(length) > MAX_BODY:
            self._close_after(text_response(413, f"body is larger than {MAX_BODY} bytes\n"))
        else:
            self._answer(self.rfile.read(int(length)))

    def _close_after(self, response: Response) -> None:
        """Refuse a request whose body was not read: the connection cannot be used again."""
        self.close_connection = True
        self._send(response)

    def _answer(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        params = parse_qs(parts.query, keep_blank_values=True)
        if body and self.headers.get("Content-Type", "").startswith(_FORM):
            for name, values in parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).items():
                params.setdefault(name, []).extend(values)
        self._send(self.server.respond(Request(self.command, parts.path, params, self.headers, body)))

    def _send(self, response: Response) -> None:
        reason = self.responses.get(response.status, ("",))[0]
        lines = [
            f"HTTP/1.1 {response.status} {reason}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.body)}",
            *(f"{name}: {value}" for name, value in response.headers.items()),
            *(("Connection: close",) if self.close_connection else ()),
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self.wfile.write(head if self.command == "HEAD" else head + response.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the demo's terminal belongs to the alerts."""
