"""The errors anomalyd raises, as one tree.

    AnomalydError
    ├── ConfigError            the user's file is wrong (file:line:column, cause, remedy); exit code 2
    ├── SourceError            reading metrics failed
    │   ├── SourceUnavailable  the source's fault or the network's; try again next slot
    │   └── QueryRejected      the rule's fault; trying again will not help
    ├── DetectorError          one series or one rule cannot be scored
    ├── StoreError             the database failed
    │   ├── StoreBusy          locked or overloaded; try again
    │   └── SchemaTooNew       written by a newer anomalyd; refuse to start
    └── DeliveryError          a notification did not reach its receiver

Invariant: every error survives pickling (process pools need it) and carries a short ``reason`` from a closed set
that is safe to use as a metric label. Expected outcomes (warming up, gap, muted) are values, never exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class AnomalydError(Exception):
    """Base of all errors raised on purpose."""

    reason: str = "internal"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[AnomalydError], args: tuple[Any, ...], state: dict[str, Any]) -> AnomalydError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file: where, what, and what to do about it. ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(AnomalydError):
    """The user's configuration cannot be used; all problems found, not only the first."""

    reason = "config"

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class SourceError(AnomalydError):
    """Reading from a metrics source failed."""

    def __init__(self, reason: str, message: str, *, retry_after_s: float | None = None):
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(message)


class SourceUnavailable(SourceError):
    """Connection, timeout, 5xx, cut or foreign answer: the next slot may succeed.

    ``reason``: connect, timeout, starting, server, protocol, too_large, auth, not_prometheus, rate_limited.
    """


class QueryRejected(SourceError):
    """The source understood and refuses: the rule must change.

    ``reason``: bad_data, execution, native_histogram, too_many_points, not_found.
    """


class DetectorError(AnomalydError):
    """A detector cannot fit or score."""

    def __init__(self, reason: str, message: str):
        self.reason = reason
        super().__init__(message)


class StoreError(AnomalydError):
    """The database failed; the transaction was rolled back."""

    def __init__(self, reason: str, message: str):
        self.reason = reason
        super().__init__(message)


class StoreBusy(StoreError):
    """Locked or overloaded for longer than we wait; nothing was written."""


class SchemaTooNew(StoreError):
    """The database was written by a newer anomalyd."""


class DeliveryError(AnomalydError):
    """One attempt to deliver failed in a way the receiver did not classify."""

    def __init__(self, reason: str, message: str, *, retry_after_s: float | None = None):
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(message)


_CREDENTIALS = re.compile(r"(?i)\b(https?|postgres(?:ql)?(?:\+\w+)?|smtps?)://[^\s'\"<>]*")


def redact_urls(text: str) -> str:
    """Replace every URL by scheme and host: sinks carry their credential in the path, databases in the user part."""

    def keep_host(match: re.Match[str]) -> str:
        scheme, rest = match.group(0).split("://", 1)
        host = rest.split("/", 1)[0].rsplit("@", 1)[-1].split("?", 1)[0]
        return f"{scheme}://{host}/<redacted>" if rest != host else f"{scheme}://{host}"

    return _CREDENTIALS.sub(keep_host, text)
