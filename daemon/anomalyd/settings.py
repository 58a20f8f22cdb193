"""Settings: ``anomalyd.yml`` in, a frozen ``Settings`` out, or every problem at once with file:line:column.

Paths in the file (rules, secrets, certificates, a SQLite database) are relative to the file, so it means the same
wherever the daemon is started. Loading reads no secret and opens no connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anomalyd.conform import conform
from anomalyd.delivery.escalate import Step
from anomalyd.delivery.hush import InhibitRule, MuteWindow
from anomalyd.delivery.notices import NoticePolicy
from anomalyd.delivery.routing import Route
from anomalyd.delivery.together import Company
from anomalyd.errors import ConfigError, Problem
from anomalyd.feedback.cuts import FeedbackPolicy
from anomalyd.holiday import Holidays
from anomalyd.prometheus.spec import SourceSpec
from anomalyd.prometheus.target import WriteTarget
from anomalyd.quietmodel import RouteNodeModel
from anomalyd.receivers import RECEIVER_SETTINGS
from anomalyd.receivers.base import ReceiverSettings
from anomalyd.records import SnapshotPolicy
from anomalyd.rulefiles.calendars import CalendarError, CalendarModel, resolve
from anomalyd.secret import Secret
from anomalyd.settingsmodel import DatabaseModel, SettingsFile, WebModel, split_listen
from anomalyd.yamlfile import Document, Loc, did_you_mean, read_file

_SQLITE_RELATIVE = re.compile(r"sqlite:///(?!/|:memory:|file:)(.+)\Z")


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token of the API; a ``read_only`` one may not act."""

    secret: Secret
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Web:
    """The daemon's HTTP server; ``external_url`` is without a slash at its end and may be empty."""

    host: str
    port: int
    external_url: str = ""
    enable_lifecycle: bool = False
    tokens: Mapping[str, Token] = field(default_factory=dict)
    anonymous_read: bool = False
    signing_secret: Secret | None = None
    link_lifetime_ms: int = 7 * 86_400_000
    slack_signing_secret: Secret | None = None
    pagerduty_secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """Level (debug, info, warn, error) and format (logfmt, json) of the logs."""

    level: str = "info"
    format: str = "logfmt"


@dataclass(frozen=True, slots=True)
class Executors:
    """Where models are fitted, as ``executors.open_executor`` takes it; samples are scored where they were read."""

    fit: str = "processes"
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What rules may ask for; a rule beyond them is refused when it is loaded."""

    max_series: int
    min_interval_ms: int
    max_history_ms: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is not a rule.

    Attributes:
        database: URL of the store; it may carry a password.
        rule_files: absolute patterns.
        default_receivers: who is told by a rule that names none, where no route says otherwise.
        route: the root of the tree of routes; its receivers are the default ones.
        calendars: the holidays that rules may name; ``days_files``: the files they were read from.
        retention_ms: how long scores and closed episodes are kept; 0 is for ever.
    """

    file: str
    sources: Mapping[str, SourceSpec]
    database: Secret
    rule_files: tuple[str, ...]
    receivers: Mapping[str, ReceiverSettings]
    default_receivers: tuple[str, ...]
    route: Route
    mute_windows: tuple[MuteWindow, ...]
    inhibit_rules: tuple[InhibitRule, ...]
    web: Web
    log: Log
    executor: Executors
    retention_ms: int
    limits: Limits
    feedback: FeedbackPolicy = field(default_factory=FeedbackPolicy)
    escalation: tuple[Step, ...] = ()
    together: Company | None = None
    snapshots: SnapshotPolicy = field(default_factory=SnapshotPolicy)
    calendars: Mapping[str, Holidays] = field(default_factory=dict)
    days_files: tuple[str, ...] = ()
    remote_write: tuple[WriteTarget, ...] = ()
    notices: NoticePolicy = field(default_factory=NoticePolicy)

    @property
    def source_names(self) -> tuple[str, ...]:
        return tuple(self.sources)

    @property
    def metricsql_sources(self) -> tuple[str, ...]:
        """Sources that understand more than PromQL."""
        return tuple(name for name, spec in self.sources.items() if spec.kind == "victoriametrics")

    @property
    def default_source(self) -> str | None:
        """The source of a rule that names none: ``default``, or the only one."""
        if "default" in self.sources:
            return "default"
        return next(iter(self.sources)) if len(self.sources) == 1 else None

    @property
    def receiver_names(self) -> tuple[str, ...]:
        return tuple(self.receivers)


def load_settings(path: str | Path) -> Settings:
    """Read a settings file; raise ``ConfigError`` with all its problems."""
    if not Path(path).exists():
        hint = "name the settings file with --config; anomalyd init writes a first one"
        raise ConfigError([Problem(str(path), 0, 0, "no such file", hint)])
    return read_settings(read_file(path))


def read_settings(document: Document, folder: Path | None = None) -> Settings:
    """Make settings of a parsed file; paths are relative to ``folder``, by default the file's own."""
    base = (folder if folder is not None else Path(document.file).parent).absolute()
    if document.data is None:
        document.problem((), "the file is empty", "settings need at least sources:")
        document.raise_problems()
    if isinstance(document.data, dict):
        document.data = _resolved(document.data, base)
    model = conform(document, SettingsFile)
    sources = _sources(document, model)
    remote_write = _remote_write(document, model)
    receivers = _receivers(document)
    calendars = _calendars(document, model, base)
    mute_windows = _mute_windows(document, model, calendars, base)
    default = _default_receivers(document, model, receivers)
    document.raise_problems()
    assert model is not None
    return Settings(
        file=document.file,
        sources=sources,
        database=_database(model.database, base),
        rule_files=tuple(str(base / pattern) for pattern in model.rule_files),
        receivers=receivers,
        default_receivers=default,
        route=replace(model.route.made(), receivers=default),
        mute_windows=mute_windows,
        inhibit_rules=tuple(rule.made() for rule in model.inhibit_rules),
        web=_web(model.web),
        feedback=model.feedback.policy(),
        together=model.together.made() if model.together else None,
        escalation=tuple(step.made() for step in model.escalation),
        notices=model.notices.made(),
        log=Log(model.log.level, model.log.format),
        executor=Executors(model.executor.fit, model.executor.workers),
        retention_ms=model.retention,
        remote_write=remote_write,
        snapshots=SnapshotPolicy(model.snapshots.every, model.snapshots.max_bytes),
        calendars=calendars,
        days_files=tuple(str(base / one.days_file) for one in _calendars_in(model) if one.days_file),
        limits=Limits(model.limits.max_series, model.limits.min_interval, model.limits.max_history),
    )


def _web(model: WebModel) -> Web:
    host, port = split_listen(model.listen)
    tokens = {name: Token(one.secret() or Secret(), one.read_only) for name, one in model.tokens.items()}
    return Web(
        host, port, model.external_url, model.enable_lifecycle, tokens, model.anonymous_read,
        model.secret("signing_secret"), model.link_lifetime, model.secret("slack_signing_secret"),
        model.secret("pagerduty_secret"),
    )  # fmt: skip


def _resolved(data: Any, base: Path) -> Any:
    """The data with every ``*_file`` made absolute."""
    if isinstance(data, list):
        return [_resolved(item, base) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        key: str(base / value) if key.endswith("_file") and isinstance(value, str) and value else _resolved(value, base)
        for key, value in data.items()
    }


def _database(model: DatabaseModel, base: Path) -> Secret:
    """A relative SQLite path is relative to the settings; a URL in a file is taken as it is when it is used."""
    url = model.secret()
    if model.url_file:
        return url
    match = _SQLITE_RELATIVE.match(url.get())
    return Secret(f"sqlite:///{base / match[1]}") if match else url


def _sources(document: Document, model: SettingsFile | None) -> dict[str, SourceSpec]:
    specs = {}
    for name, source in (model.sources if model else {}).items():
        try:
            specs[name] = source.spec(name)
        except ValueError as error:
            document.problem(("sources", name), f"{name}: {error}", key=True)
    return specs


def _remote_write(document: Document, model: SettingsFile | None) -> tuple[WriteTarget, ...]:
    targets: dict[str, WriteTarget] = {}
    for i, one in enumerate(model.remote_write if model else ()):
        try:
            target = one.target()
        except ValueError as error:
            document.problem(("remote_write", i), str(error))
            continue
        if target.name in targets:
            hint = "give each a name of its own: what was sent is remembered by it"
            document.problem(("remote_write", i), f"a second target called {target.name!r}", hint)
        targets[target.name] = target
    return tuple(targets.values())


def _calendars(document: Document, model: SettingsFile | None, base: Path) -> dict[str, Holidays]:
    """The days of each calendar; a rule's reference is put in place of ``written`` when it is read."""
    found = {}
    for name, one in (model.calendars if model else {}).items():
        try:
            found[name] = resolve(one, name, base)
        except CalendarError as error:
            document.problem(("calendars", name, *error.loc), f"{name}: {error.message}", error.hint)
    return found


def _calendars_in(model: SettingsFile) -> Iterator[CalendarModel]:
    """The calendars that stand in the settings themselves."""
    yield from model.calendars.values()
    for window in model.mute_windows.values():
        yield from (one.holidays for one in window.intervals if isinstance(one.holidays, CalendarModel))


def _mute_windows(
    document: Document, model: SettingsFile | None, calendars: Mapping[str, Holidays], base: Path
) -> tuple[MuteWindow, ...]:
    found = []
    for name, window in (model.mute_windows if model else {}).items():
        intervals = []
        for i, one in enumerate(window.intervals):
            try:
                intervals.append(one.on(calendars, base))
            except CalendarError as error:
                loc = ("mute_windows", name, "intervals", i, "holidays", *error.loc)
                document.problem(loc, f"holidays: {error.message}", error.hint)
        found.append(window.made(name, intervals))
    return tuple(found)


def _receivers(document: Document) -> dict[str, ReceiverSettings]:
    data = document.data.get("receivers") if isinstance(document.data, dict) else None
    settings = {}
    for name, value in (data.items() if isinstance(data, dict) else ()):
        loc = ("receivers", name)
        kind = value.get("type") if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping):
            document.problem(loc, f"{name}: must be a mapping with a type", f"one of {', '.join(RECEIVER_SETTINGS)}")
        elif "name" in value:
            document.problem((*loc, "name"), "unknown key 'name'", f"the receiver's name is {name!r}", key=True)
        elif kind is None:
            document.problem(loc, f"{name}: missing key 'type'", f"one of {', '.join(RECEIVER_SETTINGS)}", key=True)
        elif not isinstance(kind, str) or kind not in RECEIVER_SETTINGS:
            hint = did_you_mean(str(kind), RECEIVER_SETTINGS)
            document.problem((*loc, "type"), f"unknown type of receiver {str(kind)[:40]!r}", hint)
        elif made := conform(document, RECEIVER_SETTINGS[kind], loc, data={**value, "name": name}):
            settings[name] = made
    return settings


def _default_receivers(
    document: Document, model: SettingsFile | None, receivers: Mapping[str, ReceiverSettings]
) -> tuple[str, ...]:
    """The root route's receivers; all names of routes and windows are checked against all that the file has.

    Where it names none it is all receivers but those that the settings keep for escalation.
    """
    if model is None:
        return tuple(receivers)
    for loc, name in [*_route_names(model.route, ("route",)), *_window_names(model), *_last_names(model)]:
        if name not in model.receivers:
            document.problem(loc, f"unknown receiver {name!r}", did_you_mean(name, model.receivers))
    _check_notices(document, model, receivers)
    _check_fallbacks(document, receivers)
    if (given := model.route.receivers) is not None:
        return tuple(dict.fromkeys(given))
    last = {name for _, name in _last_names(model)}
    at_once = tuple(name for name in receivers if name not in last)
    if last and not at_once and not any(child.names() for child in model.route.routes):
        said = "every receiver is told only of what nobody acknowledges: nobody is told first"
        document.problem(("escalation",), said, "add another receiver, or name one in route: receivers")
    return at_once


def _check_notices(document: Document, model: SettingsFile, receivers: Mapping[str, ReceiverSettings]) -> None:
    """A notice has no end: where an alert stays open until it is ended, one would stay for ever."""
    for i, name in enumerate(model.notices.receivers):
        loc = ("notices", "receivers", i)
        if name not in model.receivers:
            document.problem(loc, f"unknown receiver {name!r}", did_you_mean(name, model.receivers))
        elif name in receivers and receivers[name].type in UNENDING:
            said = f"{name} keeps what it is told open until it is over, and a notice is never over"
            document.problem(loc, said, "name a receiver of another type: a chat, email or a webhook")


UNENDING = ("pagerduty", "alertmanager")


def _check_fallbacks(document: Document, receivers: Mapping[str, ReceiverSettings]) -> None:
    """One step and no further: a fallback of a fallback could go round for ever."""
    for name, one in receivers.items():
        loc, other = ("receivers", name, "fallback"), one.fallback
        if other and other not in receivers:
            document.problem(loc, f"unknown receiver {other!r}", did_you_mean(other, receivers))
        elif other and (other == name or receivers[other].fallback):
            what = "itself" if other == name else f"{other}, which has a fallback of its own"
            document.problem(loc, f"{name} cannot fall back on {what}", "name one that has none")


def _route_names(route: RouteNodeModel, loc: Loc) -> list[tuple[Loc, str]]:
    own: list[tuple[Loc, str]] = [((*loc, "receivers", i), name) for i, name in enumerate(route.receivers or ())]
    return own + [found for i, child in enumerate(route.routes) for found in _route_names(child, (*loc, "routes", i))]


def _last_names(model: SettingsFile) -> list[tuple[Loc, str]]:
    return [
        (("escalation", i, "receivers", j), name)
        for i, step in enumerate(model.escalation)
        for j, name in enumerate(step.receivers)
    ]


def _window_names(model: SettingsFile) -> list[tuple[Loc, str]]:
    return [
        (("mute_windows", window, "receivers", i), name)
        for window, one in model.mute_windows.items()
        for i, name in enumerate(one.receivers)
    ]


def is_settings(data: Any) -> bool:
    """Whether a file is settings and not rules, by its top keys."""
    known = SettingsFile.model_fields.keys()
    return isinstance(data, Mapping) and "groups" not in data and any(key in known for key in data)
