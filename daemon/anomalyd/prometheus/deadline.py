"""A deadline for a whole HTTP exchange, enforced where the bytes arrive.

The timeout of requests and urllib3 is per read: a server that sends one byte now and then holds the caller for ever.
Here each read from the socket gets the time that is left, headers and TLS alike, so a black hole, a drip and a slow
body all end at the same moment. The deadline travels by context variable, because the connections belong to a pool and
serve one exchange after the other.

Not covered: name resolution, which the system's resolver bounds by itself.
"""

from __future__ import annotations

import io
import socket
from contextvars import ContextVar
from typing import Any, cast

from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from anomalyd.clock import Clock

_BUFFER = 256 * 1024


class Deadline:
    """A moment on the monotonic clock."""

    __slots__ = ("_clock", "_end", "seconds")

    def __init__(self, clock: Clock, seconds: float):
        self._clock = clock
        self._end = clock.monotonic_s() + seconds
        self.seconds = seconds

    def left(self) -> float:
        """Seconds left, negative when it has passed."""
        return self._end - self._clock.monotonic_s()

    def require(self) -> float:
        """Seconds left; raise ``TimeoutError`` when there are none."""
        left = self.left()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left


current: ContextVar[Deadline | None] = ContextVar("anomalyd_http_deadline", default=None)
"""The deadline of the exchange this thread is in."""


def _limit(sock: socket.socket) -> None:
    deadline = current.get()
    if deadline is not None:
        sock.settimeout(deadline.require())


class _Reader(io.RawIOBase):
    """The receiving side of a socket; each read waits no longer than the deadline allows."""

    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        _limit(self._sock)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Socket:
    """A connected socket as ``http.client`` and urllib3 use it, with the deadline applied to reads and writes."""

    def __init__(self, sock: socket.socket):
        self._sock = sock

    def makefile(self, mode: str = "rb", buffering: int | None = None) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock), _BUFFER)

    def sendall(self, data: bytes) -> None:
        _limit(self._sock)
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _PlainConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = cast("socket.socket", _Socket(cast("socket.socket", self.sock)))


class _TlsConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = cast("socket.socket", _Socket(cast("socket.socket", self.sock)))


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class DeadlineAdapter(HTTPAdapter):
    """Transport whose connections obey ``current``; it never retries by itself.

    Args:
        connections: sockets kept open.
        server_name: name to expect in the server's certificate and to send by SNI, empty for the URL's host.
    """

    def __init__(self, connections: int, server_name: str = ""):
        self._names = {"server_hostname": server_name, "assert_hostname": server_name} if server_name else {}
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs, **self._names)
        _use_our_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> PoolManager:
        manager = cast("PoolManager", super().proxy_manager_for(proxy, **proxy_kwargs, **self._names))
        _use_our_pools(manager)
        return manager


def _use_our_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
