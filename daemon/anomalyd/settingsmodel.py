"""The shape of ``anomalyd.yml``: pydantic models whose fields are the keys a user may write."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from anomalyd.conform import Duration, Flag, Number, PositiveDuration, Section, Whole
from anomalyd.connectionmodel import RemoteWriteModel, SourceModel, at_least_one
from anomalyd.delivery.notices import USUAL, NoticePolicy
from anomalyd.feedback.cuts import FeedbackPolicy
from anomalyd.quietmodel import EscalationModel, InhibitModel, MuteWindowModel, RouteNodeModel, TogetherModel
from anomalyd.records import SnapshotPolicy
from anomalyd.rulefiles.calendars import CalendarModel
from anomalyd.secret import Secret, either
from anomalyd.slot import NoticeKind

DEFAULT_LISTEN = "127.0.0.1:9640"
DEFAULT_DATABASE = "sqlite:///anomalyd.db"

_POLICY = FeedbackPolicy()
_KEPT = SnapshotPolicy()

NoticeName: TypeAlias = Literal["drift", "fit", "left_out", "model", "remote_write", "returned", "series"]


class DatabaseModel(Section):
    """Where scores, episodes and the outbox are kept."""

    url: Secret | None = Field(None, description=f"sqlite:///path or postgresql://...; {DEFAULT_DATABASE} by default.")
    url_file: str = ""

    @model_validator(mode="after")
    def _whole(self) -> DatabaseModel:
        self.secret()
        return self

    def secret(self) -> Secret:
        return either(self.url, self.url_file, "url") or Secret(DEFAULT_DATABASE)


def split_listen(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:9640", "[::1]:9640" or ":9640" (all interfaces); raise ``ValueError``."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not host:port; write for example {DEFAULT_LISTEN} or :9640 for all interfaces")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host or any(c.isspace() for c in host):
        raise ValueError(f"{text!r} is not host:port; put an IPv6 address into brackets: [::1]:9640")
    return host or "0.0.0.0", int(port)  # noqa: S104 - the user wrote ":9640", which means all interfaces


def _external(text: str) -> str:
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname or parts.username):
        raise ValueError("must be http://host[:port][/prefix] or https://... without credentials")
    return text.rstrip("/")


def _listen(text: str) -> str:
    split_listen(text)
    return text


class TokenModel(Section):
    """A bearer token of the HTTP API."""

    token: Secret | None = None
    token_file: str = ""
    read_only: Flag = Field(False, description="May look, not vote nor silence.")

    @model_validator(mode="after")
    def _whole(self) -> TokenModel:
        if self.secret() is None:
            raise ValueError("needs token or token_file")
        return self

    def secret(self) -> Secret | None:
        return either(self.token, self.token_file, "token")


TokenName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]


class WebModel(Section):
    """The daemon's own HTTP server."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(DEFAULT_LISTEN, description="host:port")
    external_url: Annotated[str, AfterValidator(_external)] = Field("", description="How people reach it; for links.")
    enable_lifecycle: Flag = Field(False, description="Allow POST /-/reload; SIGHUP always works.")
    tokens: dict[TokenName, TokenModel] = Field({}, description="Who may use the API, by name; votes carry it.")
    anonymous_read: Flag = Field(False, description="Anybody who reaches the server may read; acting needs a token.")
    signing_secret: Secret | None = Field(None, description="Signs the links in messages; one is made by default.")
    signing_secret_file: str = ""
    link_lifetime: PositiveDuration = Field(7 * 86_400_000, description="How long a link in a message works.")
    slack_signing_secret: Secret | None = Field(None, description="Of the Slack app; turns its buttons on.")
    slack_signing_secret_file: str = ""
    pagerduty_secret: Secret | None = Field(None, description="Of a PagerDuty webhook (v3); turns it on.")
    pagerduty_secret_file: str = ""

    @model_validator(mode="after")
    def _whole(self) -> WebModel:
        for key in ("signing_secret", "slack_signing_secret", "pagerduty_secret"):
            self.secret(key)
        return self

    def secret(self, key: str) -> Secret | None:
        """One of the secrets, written here or in a file; raise ``ValueError`` for both."""
        return either(getattr(self, key), getattr(self, f"{key}_file"), key)


class FeedbackModel(Section):
    """How far votes may move thresholds."""

    min_votes: Whole = Field(_POLICY.min_votes, ge=1, le=100, description="Judged alerts before a cut moves.")
    max_factor: Number = Field(_POLICY.max_factor, ge=1, le=10, description="Highest multiple of the rule's own cut.")
    max_factor_per_day: Number = Field(_POLICY.max_factor_per_day, gt=1, le=10, description="The same within a day.")
    min_factor: Number = Field(_POLICY.min_factor, gt=0, le=1, description="Lowest share of the rule's own cut.")
    floor: Number = Field(_POLICY.floor, ge=0, le=300, description="Surprise below which no vote brings a cut.")
    half_life: PositiveDuration = Field(_POLICY.half_life_ms, description="Age at which a vote counts half.")
    votes_per_person_per_day: Whole = Field(
        _POLICY.votes_per_person_per_day, ge=1, le=100_000, description="Further votes of a person are refused."
    )

    def policy(self) -> FeedbackPolicy:
        return FeedbackPolicy(
            self.min_votes, self.max_factor, self.max_factor_per_day, self.min_factor, self.floor, self.half_life,
            self.votes_per_person_per_day,
        )  # fmt: skip


class LogModel(Section):
    """Logs on stderr."""

    level: Literal["debug", "info", "warn", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


def _place(text: str) -> str:
    if text in ("inline", "threads", "processes"):
        return text
    host, colon, port = text.removeprefix("dask://").rpartition(":")
    if text.startswith("dask://") and host and colon and port.isdigit():
        return text
    raise ValueError(f"{text!r} is no executor; use inline, threads, processes or dask://host:port")


Place: TypeAlias = Annotated[
    str,
    AfterValidator(_place),
    WithJsonSchema({"type": "string", "pattern": r"^(inline|threads|processes|dask://.+:[0-9]+)$"}),
]


def _only_fit(value: Any) -> Any:
    """A name alone says where models are fitted."""
    return {"fit": value} if isinstance(value, str) else value


class ExecutorModel(Section):
    """Where models are fitted. Samples are scored in the daemon itself, where they were read."""

    fit: Place = Field("processes", description="inline, threads, processes or dask://host:port.")
    workers: Whole = Field(2, ge=1, le=1_024, description="Threads or processes.")


class SnapshotsModel(Section):
    """Learned states in the database, so that a restart need not learn anew."""

    every: Duration = Field(_KEPT.every_ms, description="How often; large states less often; 0: never.")
    max_bytes: Whole = Field(_KEPT.max_bytes, ge=0, description="A rule whose state is larger learns anew instead.")


class LimitsModel(Section):
    """What rules may ask for."""

    max_series: Whole = Field(100_000, ge=1, description="Largest max_series of a rule.")
    min_interval: PositiveDuration = Field(1_000, description="Smallest interval of a group.")
    max_history: PositiveDuration = Field(400 * 86_400_000, description="Longest history of a rule.")


class NoticesModel(Section):
    """Who is told of what pages nobody: drift, fits that failed, ... Nobody, unless receivers are named here."""

    receivers: list[str] = Field([], description="Who gets them, in one message for all that has come together.")
    kinds: Annotated[tuple[NoticeName, ...], AfterValidator(at_least_one)] = Field(
        tuple(kind.value for kind in USUAL), description="Which of them."
    )
    every: PositiveDuration = Field(NoticePolicy().every_ms, description="One message in so long at most.")

    def made(self) -> NoticePolicy:
        return NoticePolicy(
            tuple(dict.fromkeys(self.receivers)), tuple(NoticeKind(kind) for kind in self.kinds), self.every
        )


class SettingsFile(Section):
    """The settings of anomalyd."""

    sources: dict[str, SourceModel] = Field(min_length=1, description="Where metrics are read from, by name.")
    database: DatabaseModel = DatabaseModel()
    rule_files: list[str] = Field([], description="Rules files; globs, relative to this file.")
    remote_write: list[RemoteWriteModel] = Field([], description="Where scores are written to.")
    receivers: dict[str, Any] = Field({}, description="Who can be told, by name.")
    route: RouteNodeModel = Field(RouteNodeModel(), description="Who is told of what by rules that name no receivers.")
    calendars: dict[str, CalendarModel] = Field({}, description="Holidays by the name that rules know them by.")
    mute_windows: dict[str, MuteWindowModel] = Field({}, description="Recurring times of quiet, by name.")
    together: TogetherModel | None = Field(None, description="When incidents of several rules are told as one.")
    inhibit_rules: list[InhibitModel] = Field([], description="What stays quiet while something worse is open.")
    escalation: list[EscalationModel] = Field([], description="Who is told of what nobody acknowledges.")
    notices: NoticesModel = NoticesModel()
    web: WebModel = WebModel()
    feedback: FeedbackModel = FeedbackModel()
    log: LogModel = LogModel()
    executor: Annotated[ExecutorModel, BeforeValidator(_only_fit)] = ExecutorModel()
    retention: Duration = Field(90 * 86_400_000, description="How long scores and episodes are kept; 0: ever.")
    snapshots: SnapshotsModel = SnapshotsModel()
    limits: LimitsModel = LimitsModel()
