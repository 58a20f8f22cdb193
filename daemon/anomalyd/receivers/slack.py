"""Slack, by incoming webhook or by bot token.

A webhook gives one message a statement. A bot keeps one message an incident: it is edited to show the present state,
and each change is told in its thread (escalations and reminders also in the channel), so a channel stays readable and
nobody misses a worse tier. Slack has no idempotency: an attempt whose answer was lost may show twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from anomalyd.clock import HOUR_MS
from anomalyd.incident import Notification, Outcome, OutcomeKind, Reason
from anomalyd.logs import get_logger
from anomalyd.receivers.base import (
    HttpSettings,
    Pace,
    PeopleSettings,
    Reply,
    classify,
    failed,
    guarded,
    retry,
    retry_after_s,
    to_json,
)
from anomalyd.receivers.blocks import escape, has_picture, message
from anomalyd.receivers.transport import Transport
from anomalyd.render import Rendered
from anomalyd.secret import Secret, either


class SlackSettings(PeopleSettings, HttpSettings):
    """Messages in a Slack channel."""

    kind: ClassVar[str] = "slack"

    type: Literal["slack"] = "slack"
    webhook_url: Secret | None = Field(default=None, description="address of an incoming webhook")
    webhook_url_file: str = ""
    bot_token: Secret | None = Field(default=None, description="token (xoxb-…) with chat:write, for threads and edits")
    bot_token_file: str = ""
    channel: str = Field(default="", description="channel for the bot, best its ID (C…)")
    api_url: str = Field(default="https://slack.com/api", pattern=r"^https?://\S+$")
    threads: bool = Field(default=True, description="with a bot token: one message an incident, changes in its thread")

    @model_validator(mode="after")
    def _whole(self) -> SlackSettings:
        hook = either(self.webhook_url, self.webhook_url_file, "webhook_url")
        token = either(self.bot_token, self.bot_token_file, "bot_token")
        if (hook is None) == (token is None):
            raise ValueError("slack needs either webhook_url (or webhook_url_file) or bot_token (or bot_token_file)")
        if token is not None and not self.channel:
            raise ValueError("a slack bot_token needs the channel to post to")
        return self


_RETRY = frozenset((
    "ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout",
    "team_added_to_org", "rollup_error",
))  # fmt: skip
_AUTH = frozenset((
    "not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired", "missing_scope",
    "invalid_token", "action_prohibited", "no_permission", "ekm_access_denied", "org_login_required",
))  # fmt: skip
_GONE = frozenset((
    "channel_not_found", "not_in_channel", "is_archived", "channel_is_archived", "no_service", "no_team",
    "user_not_found", "posting_to_general_channel_denied",
))  # fmt: skip
_LOST = frozenset(("message_not_found", "cant_update_message", "edit_window_closed"))

log = get_logger("slack")


class Slack:
    """Posts to one channel."""

    kind = SlackSettings.kind
    # One message a second and channel; a notification of a bot may take two calls.
    pace = Pace(every_ms=1_100, burst=1)

    def __init__(self, settings: SlackSettings):
        self.name = settings.name
        self.send_resolved = settings.send_resolved
        self._hook = either(settings.webhook_url, settings.webhook_url_file, "webhook_url")
        self._token = either(settings.bot_token, settings.bot_token_file, "bot_token") or Secret()
        self._channel = settings.channel
        self._api = settings.api_url.rstrip("/")
        self._threads = settings.threads
        self.shows_verdicts = self._hook is None and settings.threads
        self._no_charts_before = 0
        self._transport = Transport(settings)

    def send(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        by = self._by_webhook if self._hook is not None else self._by_bot
        if now < self._no_charts_before:
            rendered = replace(rendered, chart=None)
        outcome = guarded(lambda: by(notification, rendered, now))
        if outcome.kind == OutcomeKind.FAILED and outcome.reason == "client" and has_picture(rendered):
            # Slack refuses a whole message whose picture it cannot fetch, and it may not reach the daemon at all.
            log.warning("a message goes out without its chart", receiver=self.name, error=outcome.message,
                        remedy="web.external_url must be reachable for Slack's servers")  # fmt: skip
            self._no_charts_before = now + HOUR_MS
            bare = replace(rendered, chart=None)
            return guarded(lambda: by(notification, bare, now))
        return outcome

    def _by_webhook(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        assert self._hook is not None, "called only with a webhook"
        body = to_json(message(notification, rendered))
        reply = self._transport.request(
            "POST", self._hook.get(), body=body, headers={"Content-Type": "application/json; charset=utf-8"}
        )
        if reply.ok and reply.body.strip() == b"ok":
            return Outcome(OutcomeKind.DELIVERED)
        return _judge(reply, _word(reply), now)

    def _by_bot(self, notification: Notification, rendered: Rendered, now: int) -> Outcome:
        root = _root(notification)
        body = message(notification, rendered)
        if root is None or not self._threads:
            return self._post({"channel": self._channel, **body}, now, keep=None if self._threads else {})
        channel, ts = root
        outcome = self._call("chat.update", {"channel": channel, "ts": ts, **body}, now)
        if outcome.reason == "not_found" and outcome.message in _LOST:
            return self._post({"channel": self._channel, **body}, now, keep=None)
        if outcome.kind != OutcomeKind.DELIVERED:
            return _shown(outcome)
        if notification.statement.reason == Reason.JUDGED:
            return Outcome(OutcomeKind.DELIVERED, memory={"channel": channel, "ts": ts})
        note: dict[str, Any] = {
            "channel": channel, "thread_ts": ts, "text": escape(f"{rendered.title}: {rendered.sentence}", 3_000),
            "unfurl_links": False, "unfurl_media": False, "parse": "none", "link_names": False,
            "reply_broadcast": notification.statement.reason in (Reason.WORSE, Reason.REPEAT),
        }  # fmt: skip
        return self._post(note, now, keep={"channel": channel, "ts": ts})

    def _post(self, body: dict[str, Any], now: int, keep: dict[str, str] | None) -> Outcome:
        """Post a message; remember ``keep``, or where this one went."""
        outcome = self._call("chat.postMessage", body, now)
        if outcome.kind != OutcomeKind.DELIVERED:
            return _shown(outcome)
        return Outcome(OutcomeKind.DELIVERED, memory=outcome.memory if keep is None else keep)

    def _call(self, method: str, body: dict[str, Any], now: int) -> Outcome:
        """Call the Web API; the message of an outcome other than delivered is Slack's error word."""
        reply = self._transport.request(
            "POST", f"{self._api}/{method}", body=to_json(body),
            headers={
                "Content-Type": "application/json; charset=utf-8", "Authorization": f"Bearer {self._token.get()}",
            },
        )  # fmt: skip
        answer = reply.json()
        if reply.ok and isinstance(answer, dict) and answer.get("ok") is True:
            where = {"channel": str(answer.get("channel", "")), "ts": str(answer.get("ts", ""))}
            return Outcome(OutcomeKind.DELIVERED, memory=where)
        return _judge(reply, _word(reply), now)

    def close(self) -> None:
        self._transport.close()


def _root(notification: Notification) -> tuple[str, str] | None:
    channel, ts = notification.memory.get("channel"), notification.memory.get("ts")
    return (channel, ts) if isinstance(channel, str) and isinstance(ts, str) and ts else None


def _word(reply: Reply) -> str:
    """Slack's error word: the ``error`` of a JSON answer, else the body of a webhook's answer."""
    answer = reply.json()
    if isinstance(answer, dict):
        return str(answer.get("error", ""))[:80]
    text = reply.body[:80].decode("utf-8", "replace").strip()
    return text if text.replace("_", "").isalnum() and text.isascii() else ""


def _judge(reply: Reply, word: str, now: int) -> Outcome:
    if reply.status == 429 or word in ("ratelimited", "rate_limited"):
        return retry("rate_limited", word or "ratelimited", retry_after_s(reply, now) or 30.0)
    if word in _RETRY:
        return retry("server", word, retry_after_s(reply, now))
    if word in _AUTH:
        return failed("auth", word)
    if word in _GONE or word in _LOST or word.startswith("restricted_action"):
        return failed("not_found", word)
    if not reply.ok:
        return classify(reply, now)
    if word:
        return failed("client", word)
    return retry("server", "the answer is neither `ok` nor an error of Slack's: is something else at this address?")


def _shown(outcome: Outcome) -> Outcome:
    """The same outcome with a message for people."""
    said = f"Slack refused: {outcome.message}"
    return Outcome(outcome.kind, outcome.reason, said, outcome.retry_after_s, outcome.memory)


def build(settings: SlackSettings) -> Slack:
    return Slack(settings)
