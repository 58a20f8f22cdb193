"""Whether a receiver's peer can be reached: a connection, TLS where it is spoken, and nothing sent over it.

It finds a wrong address, a closed firewall and a certificate that is not trusted long before the first alert. Whether a
credential is right only a message tells: ``anomalyd receivers test``.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

import httpcore

from anomalyd.receivers.alertmanager import AlertmanagerSettings
from anomalyd.receivers.base import HttpSettings, ReceiverSettings, TlsSettings
from anomalyd.receivers.email import EmailSettings
from anomalyd.receivers.grafana import GrafanaSettings
from anomalyd.receivers.pagerduty import PagerDutySettings
from anomalyd.receivers.slack import SlackSettings
from anomalyd.receivers.teams import TeamsSettings
from anomalyd.receivers.transport import tls_context
from anomalyd.receivers.webhook import WebhookSettings
from anomalyd.secret import Secret, either

TIMEOUT_S = 5.0
_PORTS = {"http": 80, "https": 443}


def reach(settings: ReceiverSettings, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Try every place of a receiver; return what went wrong, in words without credentials. Raise ``ConfigError``."""
    if isinstance(settings, EmailSettings):
        failed = _attempt(settings.host, lambda: _mail(settings, timeout_s))
        return [failed] if failed else []
    if not isinstance(settings, HttpSettings):
        return []
    found = []
    for url in [settings.proxy_url] if settings.proxy_url else _addresses(settings):
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https" and not settings.proxy_url
        port = parts.port or _PORTS.get(parts.scheme, 443)
        failed = _attempt(host, partial(_connect, host, port, settings.tls if secure else None, timeout_s))
        found += [failed] if failed else []
    return found


def _addresses(settings: HttpSettings) -> list[str]:
    if isinstance(settings, WebhookSettings):
        return [_known(either(settings.url, settings.url_file, "url"))]
    if isinstance(settings, SlackSettings):
        hook = either(settings.webhook_url, settings.webhook_url_file, "webhook_url")
        return [hook.get() if hook else settings.api_url]
    if isinstance(settings, TeamsSettings):
        return [_known(either(settings.webhook_url, settings.webhook_url_file, "webhook_url"))]
    if isinstance(settings, AlertmanagerSettings):
        return list(settings.urls)
    return [settings.url] if isinstance(settings, PagerDutySettings | GrafanaSettings) else []


def _known(secret: Secret | None) -> str:
    return secret.get() if secret is not None else ""


def _connect(host: str, port: int, tls: TlsSettings | None, timeout_s: float) -> None:
    stream = httpcore.SyncBackend().connect_tcp(host, port, timeout=timeout_s)
    try:
        if tls is not None:
            stream = stream.start_tls(tls_context(tls), host, timeout=timeout_s)
    finally:
        stream.close()


def _mail(settings: EmailSettings, timeout_s: float) -> None:
    context = tls_context(settings.tls)
    if settings.security == "tls":
        smtplib.SMTP_SSL(settings.host, settings.port, timeout=timeout_s, context=context).close()
        return
    server = smtplib.SMTP(settings.host, settings.port, timeout=timeout_s)
    try:
        if settings.security == "starttls":
            server.starttls(context=context)
    finally:
        server.close()


def _attempt(host: str, connect: Callable[[], None]) -> str:
    """What an attempt says when it fails; empty when it does not."""
    try:
        connect()
    except (httpcore.NetworkError, httpcore.TimeoutException, smtplib.SMTPException, OSError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            return f"{host}: TLS failed: {getattr(cause, 'verify_message', '') or cause.reason or cause}"
        return f"{host}: {getattr(error, 'strerror', None) or error or type(error).__name__}"
    return ""
