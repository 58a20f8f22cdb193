"""The long tail (Discord, Telegram, ntfy, Matrix and a hundred more) through the apprise library, an optional extra.

What apprise can tell is whether it worked: no reason, no Retry-After, no update. So every failure is tried again, and
the same message may show twice. Only schemes that speak to services over the network are taken: no commands, no files.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from anomalyd.errors import ConfigError, Problem
from anomalyd.incident import Notification, Outcome, OutcomeKind
from anomalyd.receivers.base import Pace, PeopleSettings, failed, guarded, retry
from anomalyd.render import Rendered
from anomalyd.score import Tier
from anomalyd.secret import Secret, either

LOCAL_SCHEMES = frozenset((
    "dbus", "kde", "qt", "glib", "gnome", "macosx", "windows", "syslog", "file", "form", "forms", "json", "jsons",
    "xml", "xmls",
))  # fmt: skip
"""Schemes that reach into the machine, or that our own webhook does better."""


class AppriseSettings(PeopleSettings):
    """Any service that apprise knows."""

    kind: ClassVar[str] = "apprise"

    type: Literal["apprise"] = "apprise"
    url: Secret | None = Field(default=None, description="address in apprise's form, e.g. discord://id/token")
    url_file: str = ""

    @model_validator(mode="after")
    def _whole(self) -> AppriseSettings:
        if either(self.url, self.url_file, "url") is None:
            raise ValueError("apprise needs url or url_file")
        return self


class Apprise:
    """Sends title and text."""

    kind = AppriseSettings.kind
    pace = Pace(every_ms=2_000, burst=3)

    def __init__(self, settings: AppriseSettings):
        self.name = settings.name
        self.send_resolved = settings.send_resolved
        self._url = either(settings.url, settings.url_file, "url") or Secret()
        try:
            self._library: Any = importlib.import_module("apprise")
        except ImportError:
            said = f"receiver {settings.name}: type apprise needs an extra"
            raise ConfigError([Problem("settings", 0, 0, said, "pip install 'anomalyd[apprise]'")]) from None

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        return guarded(lambda: self._notify(notification, rendered))

    def _notify(self, notification: Notification, rendered: Rendered) -> Outcome:
        url = self._url.get()
        if url.split("://", 1)[0].lower() in LOCAL_SCHEMES:
            return failed("config", "this scheme of apprise is not allowed; use one of a service, or type webhook")
        sender = self._library.Apprise()
        if not sender.add(url):
            return failed("config", "apprise does not understand the address")
        s = notification.statement
        kinds = self._library.NotifyType
        kind = kinds.SUCCESS if s.resolved else kinds.WARNING if s.tier <= Tier.WARNING else kinds.FAILURE
        body = rendered.text.split("\n", 1)[-1]
        if sender.notify(body=body, title=rendered.title, notify_type=kind, body_format="text"):
            return Outcome(OutcomeKind.DELIVERED)
        return retry("server", "apprise could not deliver; it does not say why")

    def close(self) -> None:
        """Nothing is kept open."""


def build(settings: AppriseSettings) -> Apprise:
    return Apprise(settings)
