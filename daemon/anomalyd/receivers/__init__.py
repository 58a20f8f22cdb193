"""Receivers: the ways to tell people. One receiver, one file; a name costs no import until it is used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from anomalyd.receivers.base import Receiver, ReceiverSettings

_MODULES: Mapping[str, tuple[str, str]] = {
    "webhook": ("webhook", "WebhookSettings"),
    "slack": ("slack", "SlackSettings"),
    "pagerduty": ("pagerduty", "PagerDutySettings"),
    "grafana": ("grafana", "GrafanaSettings"),
    "alertmanager": ("alertmanager", "AlertmanagerSettings"),
    "teams": ("teams", "TeamsSettings"),
    "email": ("email", "EmailSettings"),
    "apprise": ("apprise", "AppriseSettings"),
}


class _SettingsByType(Mapping[str, type[ReceiverSettings]]):
    """YAML ``type`` to settings model, imported on first use."""

    def __getitem__(self, kind: str) -> type[ReceiverSettings]:
        module, name = _MODULES[kind]
        model: type[ReceiverSettings] = getattr(importlib.import_module(f"anomalyd.receivers.{module}"), name)
        return model

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)

    def __contains__(self, kind: object) -> bool:
        return kind in _MODULES


RECEIVER_SETTINGS: Mapping[str, type[ReceiverSettings]] = _SettingsByType()


def build_receiver(settings: ReceiverSettings) -> Receiver:
    """Make the receiver that the settings describe; raise ``ConfigError`` when a file it names cannot be used."""
    module, _ = _MODULES[settings.kind]
    receiver: Receiver = importlib.import_module(f"anomalyd.receivers.{module}").build(settings)
    return receiver
