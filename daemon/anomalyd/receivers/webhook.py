"""The generic webhook: one signed POST a statement.

Signature: ``X-Anomalyd-Signature: v1=<hex HMAC-SHA256(secret, timestamp + "." + raw body)>`` with the Unix time in
``X-Anomalyd-Timestamp``; with several secrets there is one value for each, so that a receiver may rotate. Every retry
of a notification has the same ``Idempotency-Key``.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from anomalyd.incident import Notification, Outcome
from anomalyd.receivers.base import HttpSettings, Pace, classify, guarded, to_json
from anomalyd.receivers.bodies import SCHEMA, alertmanager_body, event_of, own_body
from anomalyd.receivers.transport import Transport
from anomalyd.render import Rendered
from anomalyd.secret import Secret, either


class WebhookSettings(HttpSettings):
    """A POST to an address of your own."""

    kind: ClassVar[str] = "webhook"

    type: Literal["webhook"] = "webhook"
    url: Secret | None = Field(default=None, description="where to post; it may carry a credential, so it is a secret")
    url_file: str = ""
    secret: Secret | None = Field(default=None, description="key of the signature; without one nothing is signed")
    secret_file: str = ""
    old_secrets: tuple[Secret, ...] = Field(default=(), description="keys that also sign while you rotate")
    bearer_token: Secret | None = Field(default=None, description="sent as Authorization: Bearer")
    bearer_token_file: str = ""
    format: Literal["anomalyd", "alertmanager"] = Field(
        default="anomalyd", description="our body (schema 1), or the one Alertmanager's webhook sends (version 4)"
    )
    chart: bool = Field(
        default=False, description="send the chart too, as chart_png in base64 (needs the extra images; 20 to 60 kB)"
    )

    @model_validator(mode="after")
    def _whole(self) -> WebhookSettings:
        if either(self.url, self.url_file, "url") is None:
            raise ValueError("a webhook needs url or url_file")
        either(self.secret, self.secret_file, "secret")
        either(self.bearer_token, self.bearer_token_file, "bearer_token")
        return self


class Webhook:
    """Posts statements as JSON."""

    kind = WebhookSettings.kind
    pace = Pace()

    def __init__(self, settings: WebhookSettings):
        self.name = settings.name
        self.send_resolved = settings.send_resolved
        self._url = either(settings.url, settings.url_file, "url") or Secret()
        newest = either(settings.secret, settings.secret_file, "secret")
        self._secrets = ((newest,) if newest else ()) + settings.old_secrets
        self._token = either(settings.bearer_token, settings.bearer_token_file, "bearer_token")
        self._body = own_body if settings.format == "anomalyd" else alertmanager_body
        self._transport = Transport(settings)
        self.wants_picture = settings.chart and settings.format == "anomalyd"

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        return guarded(lambda: self._post(notification, rendered, now))

    def _post(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        body = to_json(self._body(notification, rendered))
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": notification.id,
            "X-Anomalyd-Event": event_of(notification.statement.reason),
            "X-Anomalyd-Schema": str(SCHEMA),
        }
        if self._secrets:
            timestamp = str(now // 1000)
            headers["X-Anomalyd-Timestamp"] = timestamp
            headers["X-Anomalyd-Signature"] = ",".join(sign(s.get(), timestamp, body) for s in self._secrets)
        if self._token:
            headers["Authorization"] = f"Bearer {self._token.get()}"
        return classify(self._transport.request("POST", self._url.get(), body=body, headers=headers), now)

    def close(self) -> None:
        self._transport.close()


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """One value of the signature header."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def build(settings: WebhookSettings) -> Webhook:
    return Webhook(settings)
