"""A TCP proxy that spoils what passes through it: delay, drip, cut, reset, black hole; with TLS when asked.

    with FaultProxy(upstream="127.0.0.1:9090") as proxy:
        proxy.fault = Cut(after=300)

And ``RawServer``: answers each connection with bytes a test chooses, for answers no well-behaved server gives.
"""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# How long the proxy waits for a busy machine before it takes a connection for dead.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Pass:
    """Let everything through."""


@dataclass(frozen=True)
class Delay:
    """Hold the answer back for a while."""

    seconds: float


@dataclass(frozen=True)
class Drip:
    """Pass the answer on in small pieces with a pause after each."""

    size: int
    seconds: float


@dataclass(frozen=True)
class Cut:
    """Close the connection properly after so many bytes of the answer."""

    after: int


@dataclass(frozen=True)
class Reset:
    """Reset the connection after so many bytes of the answer."""

    after: int


@dataclass(frozen=True)
class BlackHole:
    """Take everything after so many bytes of the answer and say nothing more."""

    after: int = 0


@dataclass(frozen=True)
class Refuse:
    """Close the connection upon a request without asking the upstream."""


Fault = Pass | Delay | Drip | Cut | Reset | BlackHole | Refuse


class FaultProxy:
    """The proxy. ``fault`` may be changed at any time; ``faults_left`` (None: no end) lets it pass after some."""

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None):
        host, _, port = upstream.removeprefix("http://").rpartition(":")
        self._upstream = (host, int(port))
        self._tls = tls
        self.fault: Fault = Pass()
        self.faults_left: int | None = None
        self.connections = 0
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._tls is not None:
                client.settimeout(PATIENCE_S)
                client = self._tls.wrap_socket(client, server_side=True)
            client.settimeout(PATIENCE_S)
            with client, socket.create_connection(self._upstream, timeout=PATIENCE_S) as upstream:
                self._relay(client, upstream)
        except OSError:
            client.close()

    def _relay(self, client: socket.socket, upstream: socket.socket) -> None:
        answered = 0
        fault: Fault = Pass()
        while not self._over.is_set():
            request = _take(client)
            if request == b"":
                return
            if request:
                fault, answered = self._next_fault(), 0
                if isinstance(fault, Refuse):
                    return
                upstream.sendall(request)
            answer = _take(upstream)
            if answer == b"":
                return
            if answer and not self._pass(client, answer, answered, fault):
                return
            answered += len(answer or b"")

    def _next_fault(self) -> Fault:
        if self.faults_left is None:
            return self.fault
        self.faults_left -= 1
        return self.fault if self.faults_left >= 0 else Pass()

    def _pass(self, client: socket.socket, answer: bytes, before: int, fault: Fault) -> bool:
        """Pass a piece of the answer on as the fault wants it; return whether the connection goes on."""
        match fault:
            case Delay(seconds):
                self._over.wait(seconds if before == 0 else 0)
            case Drip(size, seconds):
                for first in range(0, len(answer), size):
                    client.sendall(answer[first : first + size])
                    if self._over.wait(seconds):
                        return False
                return True
            case Cut(after) | Reset(after) | BlackHole(after) if before + len(answer) >= after:
                client.sendall(answer[: max(after - before, 0)])
                if isinstance(fault, BlackHole):
                    self._over.wait()
                if isinstance(fault, Reset):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case _:
                pass
        client.sendall(answer)
        return True


def _take(sock: socket.socket) -> bytes | None:
    """What has arrived, None for nothing yet, empty when the other side is done."""
    sock.settimeout(0.02)
    try:
        return sock.recv(65536)
    except TimeoutError:
        return None
    finally:
        sock.settimeout(PATIENCE_S)


class RawServer:
    """Answers every connection's first request with the given pieces of bytes, then closes it.

    ``sent`` counts the bytes that clients took.
    """

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces = pieces if isinstance(pieces, (list, tuple)) else list(pieces)
        self.sent = 0
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(PATIENCE_S)
            try:
                client.recv(65536)
                for piece in self._pieces:
                    client.sendall(piece)
                    self.sent += len(piece)
            except OSError:
                return


@dataclass(frozen=True)
class Certificates:
    """A certificate authority, a server's certificate for ``localhost`` and 127.0.0.1, and a client's."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def server_context(self, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server, self.server_key)
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


def make_certificates(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> Certificates:
    """Make them with openssl, valid for a day."""

    def openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "1", "-subj", "/CN=test authority")
    for who in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        (folder / f"{who}.ext").write_text(f"subjectAltName={names}\n" if who == "server" else "")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", f"{who}.ext")
        openssl("x509", "-req", "-in", f"{who}.csr", "-out", f"{who}.pem", *signed)
    files = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Certificates(*(folder / name for name in files))


@contextmanager
def refused_port() -> Iterator[str]:
    """A URL where nobody listens: the port is bound, so nobody else can take it, but not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"
