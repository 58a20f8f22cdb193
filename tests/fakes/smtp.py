"""A mail server that keeps letters, asks for a password if it has one, and answers as scripted."""

from __future__ import annotations

import base64
import socketserver
import ssl
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Self


class FakeSmtp:
    """STARTTLS with the given context; ``refuse`` maps a command (MAIL, RCPT, DATA, AUTH) to a reply."""

    def __init__(self, tls: ssl.SSLContext | None = None, user: str = "", password: str = "") -> None:
        self.letters: list[EmailMessage] = []
        self.refuse: dict[str, str] = {}
        self.hang = False
        self.closing = threading.Event()
        self.tls, self.login = tls, base64.b64encode(f"\0{user}\0{password}".encode()).decode() if user else ""
        fake = self

        class Handler(_Handler):
            owner = fake

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Handler(socketserver.StreamRequestHandler):
    timeout = 5
    owner: FakeSmtp

    def handle(self) -> None:
        try:
            self._talk()
        except (OSError, ValueError):
            return  # the client went away, which is what some tests are about
        finally:
            if isinstance(self.connection, ssl.SSLSocket):
                self.rfile.close()
                self.connection.close()

    def _talk(self) -> None:
        if self.owner.hang:
            self.owner.closing.wait(30)
            return
        self.reply("220 mail.example ready")
        secure = trusted = False
        while line := self.rfile.readline(2_000):
            word, _, rest = line.decode("latin-1").strip().partition(" ")
            word = word.upper()
            if word in self.owner.refuse:
                self.reply(self.owner.refuse[word])
            elif word == "EHLO":
                extra = ["STARTTLS"] if self.owner.tls and not secure else []
                extra += ["AUTH PLAIN"] if self.owner.login and secure else []
                for name in ["mail.example", *extra]:
                    self.reply(f"250-{name}")
                self.reply("250 SIZE 1000000")
            elif word == "STARTTLS" and self.owner.tls:
                self.reply("220 go")
                self.connection = self.owner.tls.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
                secure = True
            elif word == "AUTH":
                trusted = rest.removeprefix("PLAIN ") == self.owner.login
                self.reply("235 ok" if trusted else "535 bad password")
            elif word == "MAIL" and self.owner.login and not trusted:
                self.reply("530 authenticate first")
            elif word == "DATA":
                self.reply("354 go on")
                self.reply("250 queued" if self._letter() else "554 headers are broken")
            elif word == "QUIT":
                self.reply("221 bye")
                return
            else:
                self.reply("250 ok")

    def _letter(self) -> bool:
        raw = b""
        while (line := self.rfile.readline(100_000)) != b".\r\n":
            raw += line[1:] if line.startswith(b"..") else line
        letter = message_from_bytes(raw, policy=policy.default)
        if letter.defects or "X-Header" in letter or "Bcc" in letter:
            return False
        self.owner.letters.append(letter)
        return True

    def reply(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")
