"""uvicorn in a thread of the daemon."""

from __future__ import annotations

import socket
import threading

import uvicorn
from fastapi import FastAPI

from anomalyd.errors import ConfigError, Problem


class WebServer:
    """Serves an application on an address until it is stopped; ``port`` is the real one when 0 was asked for."""

    def __init__(self, web: FastAPI, host: str, port: int, settings_file: str = "anomalyd.yml"):
        """Bind the address; raise ``ConfigError`` when it cannot be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            what = f"web.listen: cannot listen on {host}:{port}: {error.strerror}"
            raise ConfigError([Problem(settings_file, 0, 0, what, "choose another address or stop its user")]) from None
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            web, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=3,
            limit_concurrency=200, h11_max_incomplete_event_size=64 * 1024,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="web", daemon=True)

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Finish requests in flight and close the socket."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(5)
        self._socket.close()
