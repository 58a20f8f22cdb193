"""All that keeps a daemon from starting and can be known without starting it: the same for ``run`` and ``check``.

Looks only: nothing is connected to, sent or written. What is left is known only in the attempt: an address that is
in use, and a database server that does not answer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomalyd.console.auth import check_listen
from anomalyd.errors import ConfigError, StoreError
from anomalyd.receivers import build_receiver
from anomalyd.secret import Secret
from anomalyd.settings import Settings, read_settings
from anomalyd.store import look
from anomalyd.yamlfile import Document, Loc, read_file

_OF_TLS = frozenset({"ca_file", "cert_file", "key_file"})
"""Files that are read when a client is made; all other ``*_file`` keys hold a secret."""


def load_checked(path: str | Path) -> Settings:
    """Read a settings file that a daemon can start with; raise ``ConfigError`` with all its problems."""
    document = read_file(path)
    settings = read_settings(document)
    preflight(document, settings)
    document.raise_problems()
    return settings


def preflight(document: Document, settings: Settings) -> None:
    """Note in the document what a daemon with these settings would refuse to start for."""
    for loc, file in _secret_files(document.data, ()):
        _noted(document, loc, lambda file=file: Secret(file=file).get(), file)
    _noted(document, ("web", "listen"), lambda: check_listen(settings.web, settings.file))
    for name, receiver in settings.receivers.items():
        _noted(document, ("receivers", name), lambda receiver=receiver: build_receiver(receiver).close())
    if settings.executor.fit.startswith("dask://") and importlib.util.find_spec("distributed") is None:
        document.problem(("executor",), "executor dask:// needs a package", "pip install 'anomalyd[dask]'")
    _database(document, settings)


def probe(document: Document, settings: Settings) -> None:
    """Note in the document what cannot be reached: receivers, to which nothing is sent, and targets of remote write,
    which are asked to take no samples and to refuse what cannot be read."""
    from anomalyd.receivers.reach import reach  # it knows every kind of receiver: only who asks for it loads them

    for name, receiver in settings.receivers.items():
        for failed in reach(receiver):
            document.problem(("receivers", name), f"{name} cannot be reached: {failed}")
    from anomalyd.prometheus.writer import RemoteWriter

    for i, target in enumerate(settings.remote_write):
        writer = RemoteWriter(target)
        told = writer.probe()
        writer.close()
        if told.kind != "ok":
            said = f"{target.name} takes no samples: {told.message}"
            document.problem(("remote_write", i), said, _REMEDY.get(told.reason, ""))


_REMEDY = {
    "not_found": "check the URL's path; Prometheus needs --web.enable-remote-write-receiver",
    "auth": "check the credentials and the tenant",
    "protocol": "check host and path: Prometheus takes samples at /api/v1/write, Mimir at /api/v1/push",
}


def _noted(document: Document, loc: Loc, attempt: Any, file: str = "") -> None:
    """Make an attempt; what it refuses is a problem of the settings at that place."""
    try:
        attempt()
    except ConfigError as error:
        for problem in error.problems:
            about = file or ("" if problem.file in ("settings", document.file) else problem.file)
            document.problem(loc, f"{about}: {problem.message}" if about else problem.message, problem.hint)


def _secret_files(data: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    if isinstance(data, list):
        for i, item in enumerate(data):
            yield from _secret_files(item, (*loc, i))
    for key, value in data.items() if isinstance(data, dict) else ():
        if isinstance(value, str) and value and str(key).endswith("_file") and key not in _OF_TLS:
            yield (*loc, key), value
        else:
            yield from _secret_files(value, (*loc, key))


def _database(document: Document, settings: Settings) -> None:
    try:
        look(settings.database.get())
    except StoreError as error:
        document.problem(("database",), str(error))
    except ConfigError:
        return  # the file that holds its address cannot be read, which is told already
