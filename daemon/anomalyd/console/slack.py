"""Slack's buttons: ``POST /slack/actions``, there only when ``web.slack_signing_secret`` is set.

The signature over the raw body is checked before anything is parsed; a request that was seen before, or is older than
five minutes, is not taken. The answer is an empty 200 at once; voting, and telling the channel who voted, happens in a
thread after it. ``response_url`` is called only if it is Slack's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response

from anomalyd.ballot import Refused
from anomalyd.clock import HOUR_MS, MINUTE_MS
from anomalyd.console.inbound import Seen, is_from_slack
from anomalyd.console.links import Ticket
from anomalyd.console.page import WORDS
from anomalyd.console.parts import BadRequest, Parts, body_of, form_of
from anomalyd.console.snooze import LENGTHS, snooze
from anomalyd.delivery.past import WORDS as SHOWN
from anomalyd.errors import AnomalydError
from anomalyd.logs import get_logger
from anomalyd.receivers.blocks import MAX_VERDICTS, SNOOZE_LIST, VOTES_BLOCK, code, escape
from anomalyd.render import clean, clock_time
from anomalyd.secret import Secret

RESPONSE_HOSTS = frozenset({"hooks.slack.com", "hooks.slack-gov.com"})
REPLAY_MS = 10 * MINUTE_MS
MAX_BLOCKS = 50

log = get_logger("slack")


def add_slack(web: FastAPI, parts: Parts, secret: Secret) -> ThreadPoolExecutor:
    """Mount the endpoint; the returned pool works off what buttons ask for."""
    seen = Seen(REPLAY_MS)
    pool = ThreadPoolExecutor(1, thread_name_prefix="slack")
    desk = _Desk(parts)

    @web.post("/slack/actions", include_in_schema=False)
    async def actions(request: Request) -> Response:
        body = await body_of(request)
        now = parts.clock.now_ms()
        signature = request.headers.get("x-slack-signature", "")
        stamp = request.headers.get("x-slack-request-timestamp", "")
        if not is_from_slack(secret.get(), stamp, signature, body, now):
            return Response(status_code=401)
        if not seen.first_time(signature, now):
            return Response(status_code=200)
        payload = payload_of(body)
        if payload.get("type") == "block_actions":
            pool.submit(desk.work, payload, now)
        return Response(status_code=200)

    return pool


def payload_of(body: bytes) -> Mapping[str, Any]:
    """The payload of a signed request; raise ``BadRequest`` for anything that is none."""
    try:
        payload = json.loads(form_of(body).get("payload", ""))
    except (ValueError, RecursionError):
        raise BadRequest("there is no JSON in payload") from None
    if not isinstance(payload, dict):
        raise BadRequest("payload is not an object")
    return payload


def is_slacks(url: str) -> bool:
    """Whether a ``response_url`` leads to Slack and nowhere else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = parts.scheme == "https" and port in (None, 443) and parts.username is None and parts.password is None
    return plain and parts.hostname in RESPONSE_HOSTS and parts.netloc.isascii() and "\\" not in url


class _Desk:
    """Works off what people press, one payload at a time a thread."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self._done = Seen(24 * HOUR_MS)

    def work(self, payload: Mapping[str, Any], now: int) -> None:
        try:
            self._work(payload, now)
        except Exception:  # nobody waits for this thread: what fails must at least be in the log
            log.exception("a Slack action failed")

    def _work(self, payload: Mapping[str, Any], now: int) -> None:
        user, who = _person(payload)
        actions = payload.get("actions")
        for action in actions[:10] if isinstance(actions, list) else []:
            if not isinstance(action, dict) or not self._done.first_time(_identity(payload, user, action), now):
                continue
            token, chosen = pressed(action)
            ticket = self._parts.signer.ticket(token, now)
            if ticket is None:
                if not action.get("url"):  # a button that is only a link tells us too
                    self._tell(payload, {"response_type": "ephemeral", "replace_original": False,
                                         "text": "This button has expired; use the newest message."})  # fmt: skip
                continue
            try:
                said = self._act(ticket, chosen, who, now, _identity(payload, user, action))
            except Refused as refused:
                self._tell(payload, {"response_type": "ephemeral", "replace_original": False,
                                     "text": escape(str(refused), 500)})  # fmt: skip
                continue
            self._tell(payload, updated(payload, f"{said} {code(clean(who, 60), 80)}, {clock_time(now, now)}"))

    def _act(self, ticket: Ticket, chosen: str, who: str, now: int, identity: str) -> str:
        """Do what the button stands for on all series of the incident; return what was said, as markup."""
        store, rules = self._parts.store, self._parts.rules()
        incident = store.incident(ticket.incident)
        episodes = store.episodes(incident=ticket.incident, limit=1_000)
        if incident is None or not episodes:
            raise Refused("not_found", "this incident is not known any more")
        if ticket.choice == "snooze":
            until = snooze(store.add_silence, incident, rules, chosen or "1h", who, now)
            length = LENGTHS[chosen or "1h"]
            words = f"for {length.text}" if length.ms else f"until {clock_time(until, now)}"
            return f"*snoozed {words}* by"
        if ticket.choice not in WORDS:
            raise Refused("bad_vote", "this button means nothing any more")
        for e in episodes:
            vote = self._parts.ballot.vote_on(e.id, WORDS[ticket.choice], who, "slack", now, id=f"{identity}-{e.id}")
            self._parts.ballot.cast(vote, now)
        return f"*{SHOWN[WORDS[ticket.choice]]}*, says"

    def _tell(self, payload: Mapping[str, Any], message: Mapping[str, Any]) -> None:
        url = payload.get("response_url")
        if not isinstance(url, str) or not is_slacks(url):
            log.warning("Slack's answer address is not Slack's; the message stays as it is")
            return
        try:
            self._parts.post(url, json.dumps(message).encode())
        except AnomalydError as error:
            log.warning("a Slack message could not be updated", reason=error.reason, error=str(error))


def pressed(action: Mapping[str, Any]) -> tuple[str, str]:
    """The token of a button, or of a list with what was chosen from it (its token is a part of its name)."""
    if action.get("type") == "static_select":
        option = action.get("selected_option")
        chosen = option.get("value", "") if isinstance(option, dict) else ""
        return str(action.get("action_id", "")).removeprefix(SNOOZE_LIST), str(chosen)
    return str(action.get("value", "")), ""


def updated(payload: Mapping[str, Any], line: str) -> dict[str, Any]:
    """The message as it was, with a line below that says who voted; earlier such lines stay."""
    message = payload.get("message")
    message = message if isinstance(message, dict) else {}
    found = message.get("blocks")
    blocks = [block for block in found if isinstance(block, dict)] if isinstance(found, list) else []
    old = next((block for block in blocks if block.get("block_id") == VOTES_BLOCK), {})
    said = [e["text"] for e in old.get("elements", []) if isinstance(e, dict) and isinstance(e.get("text"), str)]
    if not blocks:
        return {"response_type": "in_channel", "replace_original": False, "text": line}
    elements = [{"type": "mrkdwn", "text": text[:2_000]} for text in [*said, line][-MAX_VERDICTS:]]
    kept = [block for block in blocks if block.get("block_id") != VOTES_BLOCK][: MAX_BLOCKS - 1]
    votes = {"type": "context", "block_id": VOTES_BLOCK, "elements": elements}
    return {"replace_original": True, "text": str(message.get("text", ""))[:3_000], "blocks": [*kept, votes]}


def _person(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The id, and the name with it: names can be chosen freely, the id in brackets cannot."""
    user = payload.get("user")
    user = user if isinstance(user, dict) else {}
    number = clean(str(user.get("id", "")), 40)
    name = clean(str(user.get("username") or user.get("name") or ""), 60)
    return number, f"{name} ({number})" if name else number or "somebody"


def _identity(payload: Mapping[str, Any], user: str, action: Mapping[str, Any]) -> str:
    """What makes a press of a button the same press when it is delivered twice."""
    container = payload.get("container")
    container = container if isinstance(container, dict) else {}
    team = payload.get("team")
    team = team.get("id", "") if isinstance(team, dict) else ""
    parts = (team, container.get("channel_id", ""), container.get("message_ts", ""), user, action.get("action_ts", ""))
    return "slack-" + "-".join(clean(str(part), 40) for part in parts)
