"""The REST API under ``/api/v1``; its description is at ``/api/v1/openapi.json``.

Answers have Prometheus's shape: ``{"status": "success", "data": ...}`` or ``{"status": "error", "errorType": ...,
"error": ...}``. Times are RFC 3339 out, RFC 3339 or Unix seconds in. Lists are newest first, at most ``limit`` long,
and say in ``next`` which ``offset`` goes on. Reading needs a user, changing one that may act (see ``auth``).
"""

import platform
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from anomalyd import __version__
from anomalyd.ballot import Refused
from anomalyd.console import apiview as view
from anomalyd.console.auth import User
from anomalyd.console.dataview import add_quality
from anomalyd.console.forecast import add_forecast
from anomalyd.console.parts import BadRequest, Json, Parts, check_silence, shown_settings, time_of
from anomalyd.console.snooze import snooze
from anomalyd.episode import Episode, Phase
from anomalyd.explain import channels_at_worst
from anomalyd.incident import Incident
from anomalyd.matcher import check_matcher
from anomalyd.records import Feedback, FeedbackLabel, Matcher, MatchOp, OutboxState, Silence
from anomalyd.render import rfc3339
from anomalyd.slot import NoticeKind
from anomalyd.store import Store

MAX_LIMIT = 1_000
MAX_OFFSET = 10_000
MAX_SPAN_MS = 31 * 86_400_000

T = TypeVar("T")


def _time(text: str) -> str:
    time_of(text)
    return text


Time = Annotated[str, Field(max_length=40, examples=["2026-01-02T03:04:05Z", "1767323045"]), AfterValidator(_time)]
Name = Annotated[str, Field(max_length=500)]
Id = Annotated[str, Path(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VoteBody(_Body):
    """A vote on an episode, or with ``missed`` on a span of a series that should have been told."""

    label: Literal["true", "false", "expected", "new_normal", "missed"]
    episode: Name = ""
    rule: Name = ""
    fingerprint: Annotated[str, Field(max_length=64)] = ""
    start: Time | None = None
    end: Time | None = None
    cause: Annotated[str, Field(max_length=200)] = ""
    text: Annotated[str, Field(max_length=1_000)] = ""


class MatcherBody(_Body):
    """One condition on a label; expressions are anchored."""

    name: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    op: MatchOp = "="
    value: Annotated[str, Field(max_length=1_000)]


class SilenceBody(_Body):
    """A silence; without a start it begins now."""

    matchers: Annotated[list[MatcherBody], Field(min_length=1, max_length=50)]
    ends_at: Time
    starts_at: Time | None = None
    comment: Annotated[str, Field(max_length=1_000)] = ""


class SnoozeBody(_Body):
    """Peace for what is open; ``tomorrow`` is nine in the morning in the rule's time zone."""

    length: Annotated[Literal["1h", "4h", "tomorrow", "1w"], Field(alias="for")]


def api_router(parts: Parts) -> APIRouter:
    """All endpoints."""
    router = APIRouter(prefix="/api/v1", default_response_class=Json)

    def reader(request: Request) -> User:
        return parts.guard.reader(request)

    def actor(request: Request) -> User:
        return parts.guard.actor(request)

    readers = [Depends(reader)]
    _add_history(router, parts, readers)
    _add_told(router, parts.store, readers)
    _add_rules(router, parts, readers)
    add_forecast(router, parts, readers)
    add_quality(router, parts, readers)
    _add_feedback(router, parts, readers, actor)
    _add_silences(router, parts, readers, actor)
    _add_snoozes(router, parts, actor)
    _add_status(router, parts, readers)
    return router


def _add_history(router: APIRouter, parts: Parts, readers: Sequence[Any]) -> None:
    store = parts.store

    @router.get("/episodes", dependencies=readers, tags=["episodes"])
    def episodes(
        rule: Name | None = None, phase: Literal["pending", "open", "closed"] | None = None,
        start: Time | None = None, end: Time | None = None, limit: Limit = 100, offset: Offset = 0,
    ) -> Json:  # fmt: skip
        """Abnormal spans of single series."""
        found = store.episodes(
            rule=rule, start=_ms(start), end=_ms(end), phase=Phase(phase) if phase else None, limit=offset + limit + 1
        )
        return _page("episodes", found, limit, offset, view.episode)

    @router.get("/episodes/{id}", dependencies=readers, tags=["episodes"])
    def episode(id: Id) -> Json:
        """One episode with the votes on it, and those on what it is like; of a joint rule also the series that were
        furthest from usual."""
        found = _found(store.episode(id), f"episode {id!r}")
        votes = [view.vote(vote) for vote in store.feedback(episode=id)]
        channels = [view.channel(one) for one in channels_at_worst(store, parts.rules().get(found.rule), found)]
        like = view.alike(parts.ballot.alike(found, parts.clock.now_ms()))
        return _ok({**view.episode(found), "channels": channels, "feedback": votes, "alike": like})

    @router.get("/incidents", dependencies=readers, tags=["incidents"])
    def incidents(
        rule: Name | None = None, open: bool | None = None, start: Time | None = None, end: Time | None = None,
        limit: Limit = 100, offset: Offset = 0,
    ) -> Json:  # fmt: skip
        """Episodes told together."""
        wanted = offset + limit + 1
        if open:
            found = store.open_incidents(rule)[::-1][:wanted]
        else:
            found = store.incidents(rule=rule, start=_ms(start), end=_ms(end), limit=wanted)
        return _page("incidents", found, limit, offset, view.incident)

    @router.get("/incidents/{id}", dependencies=readers, tags=["incidents"])
    def incident(id: Id) -> Json:
        """One incident with its episodes, its votes and acknowledgements, and what was sent about it."""
        found = _found(store.incident(id), f"incident {id!r}")
        members = store.episodes(incident=id, limit=MAX_LIMIT)
        votes = [view.vote(vote) for e in members[:50] for vote in store.feedback(episode=e.id)]
        told = [view.notification(row) for row in store.notifications(incident=id, limit=MAX_LIMIT)]
        extra = {"episodes": [view.episode(e) for e in members], "feedback": votes, "notifications": told}
        return _ok({**view.incident(found), **extra})


def _add_told(router: APIRouter, store: Store, readers: Sequence[Any]) -> None:
    @router.get("/notifications", dependencies=readers, tags=["notifications"])
    def notifications(
        incident: Name | None = None, receiver: Name | None = None,
        state: Literal["pending", "delivered", "failed", "dropped"] | None = None, limit: Limit = 100,
        offset: Offset = 0,
    ) -> Json:  # fmt: skip
        """What was owed to receivers and what became of it, with the reason of every drop."""
        wanted = OutboxState(state) if state else None
        found = store.notifications(incident=incident, receiver=receiver, state=wanted, limit=offset + limit + 1)
        return _page("notifications", found, limit, offset, view.notification)

    @router.get("/notices", dependencies=readers, tags=["episodes"])
    def notices(
        rule: Name | None = None, fingerprint: Annotated[str | None, Query(max_length=64)] = None,
        kind: Literal["drift", "fit", "left_out", "model", "remote_write", "returned", "series"] | None = None,
        start: Time | None = None, end: Time | None = None, limit: Limit = 100, offset: Offset = 0,
    ) -> Json:  # fmt: skip
        """What was noted and paged nobody: drift away from what was learned, fits that failed, what a fit has put to
        work, series that are back or all others than before, targets that take no scores."""
        found = store.notices(
            rule=rule, fingerprint=fingerprint, kind=NoticeKind(kind) if kind else None, start=_ms(start),
            end=_ms(end), limit=offset + limit + 1,
        )  # fmt: skip
        return _page("notices", found, limit, offset, view.notice)


def _add_rules(router: APIRouter, parts: Parts, readers: Sequence[Any]) -> None:
    @router.get("/rules", dependencies=readers, tags=["rules"])
    def rules() -> Json:
        """The rules that are running, with their own cuts and those that feedback has moved."""
        return _ok({"rules": [view.rule(rule, parts) for rule in parts.rules().values()]})

    @router.get("/scores", dependencies=readers, tags=["rules"])
    def scores(rule: Name, start: Time, end: Time, fingerprint: Annotated[str, Query(max_length=64)] = "") -> Json:
        """Stored scores of a rule's series as columns; times in Unix milliseconds."""
        first, last = _ms(start) or 0, _ms(end) or 0
        if last - first > MAX_SPAN_MS:
            raise BadRequest("at most 31 days at once")
        return _ok(view.scores(parts, rule, first, last, fingerprint))


def _add_feedback(
    router: APIRouter, parts: Parts, readers: Sequence[Any], actor: Callable[[Request], User]
) -> None:
    store, ballot = parts.store, parts.ballot
    Actor = Annotated[User, Depends(actor)]

    @router.get("/feedback", dependencies=readers, tags=["feedback"])
    def votes(
        rule: Name | None = None, episode: Name | None = None, limit: Limit = 100, offset: Offset = 0
    ) -> Json:
        """Votes, also those that were taken back."""
        found = store.feedback(rule=rule, episode=episode)[::-1][: offset + limit + 1]
        return _page("feedback", found, limit, offset, view.vote)

    @router.post("/feedback", tags=["feedback"], status_code=201)
    def add(body: VoteBody, user: Actor) -> Json:
        """Vote. The answer says which thresholds it moved."""
        now = parts.clock.now_ms()
        cast = ballot.cast(_vote(parts, body, user.name, now), now)
        changes = [view.change(row) for row in cast.changes]
        return _ok({"feedback": view.vote(cast.vote), "changes": changes, "effect": cast.effect}, 201)

    @router.post("/feedback/preview", dependencies=readers, tags=["feedback"])
    def preview(body: VoteBody) -> Json:
        """What a vote would have spared and cost over the last 30 days; nothing is changed."""
        now = parts.clock.now_ms()
        found = ballot.preview(_vote(parts, body, "\0preview", now), now)
        return _ok({"days": found.days, "removed": found.removed, "kept": found.kept, "confirmed": found.confirmed,
                    "exceptions": found.exceptions, "words": found.words})  # fmt: skip

    @router.delete("/feedback/{id}", tags=["feedback"])
    def undo(id: Id, user: Actor) -> Json:
        """Take a vote back; the thresholds it moved go back as well."""
        return _ok({"feedback": view.vote(ballot.undo(id, user.name, parts.clock.now_ms()))})

    @router.get("/thresholds", dependencies=readers, tags=["feedback"])
    def thresholds(rule: Name, limit: Limit = 100, offset: Offset = 0) -> Json:
        """The history of a rule's thresholds: before, after, why, and who."""
        found = store.thresholds(rule)[::-1][: offset + limit + 1]
        return _page("thresholds", found, limit, offset, view.change)

    @router.delete("/thresholds/{id}", tags=["feedback"])
    def undo_change(id: Annotated[int, Path(ge=1, le=2**62)], rule: Name, user: Actor) -> Json:
        """Take one step of the history back."""
        ballot.undo_change(rule, id, parts.clock.now_ms())
        return _ok({"id": id, "rule": rule, "undone_by": user.name})


def _add_silences(
    router: APIRouter, parts: Parts, readers: Sequence[Any], actor: Callable[[Request], User]
) -> None:
    store = parts.store
    Actor = Annotated[User, Depends(actor)]

    @router.get("/silences", dependencies=readers, tags=["silences"])
    def silences(ended: bool = False, limit: Limit = 100, offset: Offset = 0) -> Json:
        """Silences that hold or will; with ``ended`` also those that are over."""
        found = store.silences(None if ended else parts.clock.now_ms())[::-1]
        return _page("silences", found, limit, offset, view.silence)

    @router.post("/silences", tags=["silences"], status_code=201)
    def add(body: SilenceBody, user: Actor) -> Json:
        """Do not notify about what meets all matchers."""
        now = parts.clock.now_ms()
        matchers = tuple(Matcher(m.name, m.op, m.value) for m in body.matchers)
        for matcher in matchers:
            try:
                check_matcher(matcher)
            except ValueError as error:
                raise BadRequest(str(error)) from None
        starts = now if body.starts_at is None else time_of(body.starts_at)
        made = Silence(
            secrets.token_hex(10), matchers, starts, time_of(body.ends_at), user.name, body.comment, created_at=now
        )
        check_silence(made, now)
        store.add_silence(made)
        return _ok({"silence": view.silence(made)}, 201)

    @router.delete("/silences/{id}", tags=["silences"])
    def expire(id: Id, user: Actor) -> Json:
        """End a silence now."""
        if not store.expire_silence(id, parts.clock.now_ms()):
            raise Refused("not_found", "there is no such silence, or it has ended")
        return _ok({"id": id, "expired_by": user.name})


def _add_snoozes(router: APIRouter, parts: Parts, actor: Callable[[Request], User]) -> None:
    store = parts.store
    Actor = Annotated[User, Depends(actor)]

    def snoozed(of: Incident | Episode, body: SnoozeBody, user: User) -> Json:
        until = snooze(store.add_silence, of, parts.rules(), body.length, user.name, parts.clock.now_ms())
        return _ok({"until": rfc3339(until)}, 201)

    @router.post("/episodes/{id}/snooze", tags=["silences"], status_code=201)
    def episode(id: Id, body: SnoozeBody, user: Actor) -> Json:
        """Silence the series of an open episode for one of a few lengths."""
        return snoozed(_found(store.episode(id), f"episode {id!r}"), body, user)

    @router.post("/incidents/{id}/snooze", tags=["silences"], status_code=201)
    def incident(id: Id, body: SnoozeBody, user: Actor) -> Json:
        """Silence whatever belongs to an open incident, and what joins it."""
        return snoozed(_found(store.incident(id), f"incident {id!r}"), body, user)


def _add_status(router: APIRouter, parts: Parts, readers: Sequence[Any]) -> None:
    @router.get("/status/config", dependencies=readers, tags=["status"])
    def config() -> Json:
        """The running settings; secrets are shown as <secret>."""
        return _ok({"settings": shown_settings(parts.settings())})

    @router.get("/status/buildinfo", dependencies=readers, tags=["status"])
    def buildinfo() -> Json:
        """Which anomalyd this is."""
        return _ok({"version": __version__, "python": platform.python_version(), "schema": parts.store.schema_version})


def _vote(parts: Parts, body: VoteBody, who: str, now: int) -> Feedback:
    label = FeedbackLabel(body.label)
    if label != FeedbackLabel.MISSED:
        return parts.ballot.vote_on(body.episode, label, who, "api", now, cause=body.cause, text=body.text)
    if not body.rule or not re.fullmatch(r"[0-9a-f]{16}", body.fingerprint) or body.start is None or body.end is None:
        raise BadRequest("a missed span needs rule, fingerprint (16 hex digits), start and end")
    return Feedback(
        id=secrets.token_hex(10), label=label, rule=body.rule, at=now, who=who, via="api", fingerprint=body.fingerprint,
        start=time_of(body.start), end=time_of(body.end), cause=body.cause, text=body.text,
    )  # fmt: skip


def _ms(text: str | None) -> int | None:
    return None if text is None else time_of(text)


def _found(thing: T | None, name: str) -> T:
    if thing is None:
        raise Refused("not_found", f"there is no {name[:100]}")
    return thing


def _ok(data: Any, status: int = 200) -> Json:
    return Json({"status": "success", "data": data}, status)


def _page(name: str, found: Sequence[T], limit: int, offset: int, shown: Callable[[T], Any]) -> Json:
    """One page of a list; ``found`` may go one beyond it."""
    more = len(found) > offset + limit
    part = found[offset : offset + limit]
    return _ok({name: [shown(one) for one in part], "next": offset + limit if more else None})
