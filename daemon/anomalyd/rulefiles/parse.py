"""One rules file on its way from YAML to groups, and all that can be wrong with it.

Each check names the place of what it finds; a rule that is wrong in one thing is looked at for the others all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from anomalyd.conform import conform
from anomalyd.detectors.base import Grid
from anomalyd.detectors.registry import detector_names, load_detector, make_detector
from anomalyd.durations import format_duration
from anomalyd.errors import DetectorError, Problem
from anomalyd.holiday import Holidays
from anomalyd.promql import check_expr, cuts_off, is_metricsql, kept_labels
from anomalyd.rule import DataQuality, DetectorSpec, MinDeviation, Rule, RuleGroup, TierPolicy
from anomalyd.rulefiles.calendars import CalendarError, referred
from anomalyd.rulefiles.model import RULE, GroupModel, RuleModel, RulesFile, TierModel
from anomalyd.score import TIERS, Tier
from anomalyd.threshold import initial_threshold
from anomalyd.yamlfile import Document, Loc, did_you_mean


class Bounds(Protocol):
    """What rules may ask for at most."""

    @property
    def max_series(self) -> int: ...

    @property
    def min_interval_ms(self) -> int: ...

    @property
    def max_history_ms(self) -> int: ...


class Names(Protocol):
    """What rules may refer to and ask for, from the settings."""

    @property
    def source_names(self) -> tuple[str, ...]: ...

    @property
    def metricsql_sources(self) -> tuple[str, ...]:
        """Sources that understand more than PromQL."""
        ...

    @property
    def default_source(self) -> str | None:
        """The source of a rule that names none; None when there are several and none is the default."""
        ...

    @property
    def receiver_names(self) -> tuple[str, ...]: ...

    @property
    def default_receivers(self) -> tuple[str, ...]: ...

    @property
    def limits(self) -> Bounds: ...

    @property
    def calendars(self) -> Mapping[str, Holidays]: ...


_AWAY = {"above": "down", "below": "up"}
"""Of a detector that looks for a limit on one side the direction that leads away from it."""


class RulesReader:
    """One rules file on its way to groups; problems gather in its document."""

    def __init__(self, document: Document, names: Names | None, seen: dict[str, str]):
        self.document = document
        self.names = names
        self.seen = seen
        self.notices: list[Problem] = []

    def groups(self) -> list[RuleGroup]:
        if self.document.data is None:
            self.document.problem((), "the file is empty", "a rules file begins with groups:")
            return []
        if conform(self.document, RulesFile) is None:
            return []
        locs: list[Loc] = [("groups", i) for i in range(len(self.document.data["groups"]))]
        return [group for loc in locs if (group := self._group(loc)) is not None]

    def _group(self, loc: Loc) -> RuleGroup | None:
        model = conform(self.document, GroupModel, loc)
        if model is not None:
            self._unique(self.seen, (*loc, "name"), "group", model.name)
        data = self.document.at(loc)
        raw = data.get("rules") if isinstance(data, Mapping) else None
        rules = []
        taken: dict[str, str] = {}
        # With a broken head the rules are still looked at, so that one run shows all there is to mend.
        head = model or GroupModel(name="unnamed", rules=[{}])
        for i in range(len(raw) if isinstance(raw, list) else 0):
            rule = self._rule((*loc, "rules", i), head, taken)
            if rule is not None:
                rules.append(rule)
        return None if model is None else RuleGroup(model.name, model.interval, tuple(rules), self.document.file)

    def _unique(self, seen: dict[str, str], loc: Loc, what: str, name: str) -> None:
        if name in seen:
            self.document.problem(loc, f"duplicate {what} {name!r}", f"first at {seen[name]}")
        seen.setdefault(name, self.document.where(loc))

    def _rule(self, loc: Loc, group: GroupModel, taken: dict[str, str]) -> Rule | None:
        model = conform(self.document, RuleModel, loc)
        data = self.document.at(loc)
        if not isinstance(data, Mapping):
            return None
        if isinstance(data.get("anomaly"), str):
            self._unique(taken, (*loc, "anomaly"), "rule", data["anomaly"])
        self._expr(loc, data)
        self._refer(loc, data)
        self._detectors((*loc, "detector"), data.get("detector") or RULE["detector"].type, group, model)
        if model is None:
            return None
        rule = build_rule(model, group, self.names, self.document.where((*loc, "anomaly")))
        rule = replace(rule, holidays=self._holidays((*loc, "holidays"), model))
        self._tiers(loc, rule)
        self._labels(loc, rule)
        self._joint(loc, rule)
        self._bounds(loc, rule)
        return rule

    def _notice(self, loc: Loc, message: str, hint: str) -> None:
        """Note what is worth a look and may be meant."""
        mark = self.document.mark(loc)
        self.notices.append(Problem(self.document.file, mark.line, mark.column, message, hint))

    def _expr(self, loc: Loc, data: Mapping[str, Any]) -> None:
        expr = data.get("expr")
        if isinstance(expr, str) and self._speaks_metricsql(data) and is_metricsql(expr):
            message = "expr is no PromQL and is taken for MetricsQL: only the source can check it"
            self._notice((*loc, "expr"), message, "anomalyd query-cost asks it")
            return
        if isinstance(expr, str) and (finding := check_expr(expr, raw_counter=data.get("raw_counter") is True)):
            self.document.problem((*loc, "expr"), finding.message, finding.hint, offset=finding.offset)
        elif isinstance(expr, str) and (sign := cuts_off(expr)):
            message = f"expr leaves out samples by a comparison ({sign}): a detector never sees what is normal then"
            hint = "watch the value itself: the detector finds the cut; min_deviation and valid_range are yours"
            self._notice((*loc, "expr"), message, hint)

    def _holidays(self, loc: Loc, model: RuleModel) -> Holidays | None:
        if model.holidays is None:
            return None
        calendars = self.names.calendars if self.names is not None else None
        try:
            found = referred(model.holidays, calendars, Path(self.document.file).parent)
        except CalendarError as error:
            self.document.problem((*loc, *error.loc), f"holidays: {error.message}", error.hint)
            return None
        if not found.known:
            message = f"holidays: whether there is a calendar {model.holidays!r} only the settings know"
            self._notice(loc, message, "check them together with the rules: anomalyd check anomalyd.yml")
        return found

    def _speaks_metricsql(self, data: Mapping[str, Any]) -> bool:
        if self.names is None:
            return False
        return (data.get("source") or self.names.default_source) in self.names.metricsql_sources

    def _refer(self, loc: Loc, data: Mapping[str, Any]) -> None:
        """Check the names that point into the settings."""
        if self.names is None:
            return
        source = data.get("source")
        if isinstance(source, str) and source not in self.names.source_names:
            hint = did_you_mean(source, self.names.source_names)
            self.document.problem((*loc, "source"), f"unknown source {source!r}", hint)
        if source is None and self.names.default_source is None:
            self.document.problem(
                loc, "the rule must name a source: there are several and none is called default",
                f"source: one of {', '.join(self.names.source_names)}",
            )  # fmt: skip
        receivers = data.get("receivers")
        for i, receiver in enumerate(receivers if isinstance(receivers, list) else ()):
            if isinstance(receiver, str) and receiver not in self.names.receiver_names:
                hint = did_you_mean(receiver, self.names.receiver_names)
                self.document.problem((*loc, "receivers", i), f"unknown receiver {receiver!r}", hint)

    def _detectors(self, loc: Loc, data: Any, group: GroupModel, model: RuleModel | None) -> None:
        if isinstance(data, list):
            for i, member in enumerate(data):
                self._detectors((*loc, i), member, group, model)
            return
        name = data.get("type") if isinstance(data, Mapping) else data
        if not isinstance(name, str):
            return
        params = {k: v for k, v in data.items() if k != "type"} if isinstance(data, Mapping) else {}
        at = (*loc, "type") if isinstance(data, Mapping) else loc
        try:
            cls = load_detector(name)
            if conform(self.document, cls.Params, loc, data=params) is None:
                return
            timezone = model.timezone if model else RULE["timezone"]
            detector = make_detector(DetectorSpec(name, params), Grid(group.interval, timezone))
        except DetectorError as error:
            unknown = error.reason == "unknown"
            message = f"unknown detector {name!r}" if unknown else str(error)
            self.document.problem(at, message, did_you_mean(name, detector_names()) if unknown else "")
            return
        self._history(loc, name, detector.min_history, group, model)
        side = getattr(getattr(detector, "params", None), "when", "")
        away = _AWAY.get(side)
        if model is not None and model.direction == away:
            self.document.problem(
                loc, f"when: {side} waits for what direction: {away} leaves out",
                f"write when: {'below' if away == 'down' else 'above'} for a limit that is reached from the other side,"
                " or leave direction out",
            )  # fmt: skip

    def _history(self, loc: Loc, name: str, least: int, group: GroupModel, model: RuleModel | None) -> None:
        if model is not None and model.history < least * group.interval:
            needs = format_duration(least * group.interval)
            self.document.problem(
                loc[:-1] if isinstance(loc[-1], int) else loc,
                f"{name} needs {least} samples before its first score, {needs} at this interval,"
                f" and history is {format_duration(model.history)}",
                f"set history: {needs} or longer",
            )  # fmt: skip

    def _tiers(self, loc: Loc, rule: Rule) -> None:
        """A higher tier must be rarer, and no budget may exceed the number of samples."""
        at: Loc = (*loc, "tiers")
        for policy in rule.tiers:
            budget = policy.budget
            if budget and budget.count * rule.interval_ms > budget.period_ms:
                self.document.problem(
                    (*at, policy.tier.word, "budget"), "the budget allows more false alarms than there are samples"
                )
        scored = [policy for policy in rule.tiers if policy.scored]
        for lower, higher in itertools.pairwise(scored):
            if not comparable(lower, higher):
                continue
            begins, worse = (initial_threshold(replace(rule, tiers=(p,))).lowest for p in (lower, higher))
            waits = _wait(rule, lower), _wait(rule, higher)
            if worse < begins:
                self.document.problem(
                    (*at, higher.tier.word), f"{higher.tier.word} would begin before {lower.tier.word}",
                    "a higher tier needs a smaller budget, or a larger surprise or sigma",
                )  # fmt: skip
            elif worse == begins and waits[1] <= waits[0]:
                self.document.problem(
                    (*at, higher.tier.word), f"{higher.tier.word} begins where {lower.tier.word} does and hides it",
                    "make it rarer, or give it a longer for",
                )  # fmt: skip

    def _labels(self, loc: Loc, rule: Rule) -> None:
        for label in rule.group_by:
            if label in rule.drop_labels:
                self.document.problem((*loc, "group_by"), f"label {label!r} is dropped by drop_labels")
        kept = kept_labels(rule.expr)
        for label in rule.group_by:
            if kept is not None and label not in kept and label != "...":
                has = f"its aggregation keeps {', '.join(sorted(kept)) or 'none'}"
                self._notice((*loc, "group_by"), f"group_by: no series of expr has a label {label!r}", has)
        if "..." in rule.group_by and len(rule.group_by) > 1:
            self.document.problem((*loc, "group_by"), "... means all labels and stands alone")

    def _joint(self, loc: Loc, rule: Rule) -> None:
        """Vectors are made of several series, and each is one thing to be told of."""
        if not rule.detector.grouped:
            return
        if "..." in rule.group_by:
            self.document.problem(
                (*loc, "group_by"), "with joint the series of a group are one vector, and [...] puts each in a group"
                " of its own", "name the labels that the series of one vector share, or leave group_by out for one"
                " vector of all series",
            )  # fmt: skip
        for policy in rule.tiers if rule.detector.joint else ():
            if policy.spread is not None:
                self.document.problem(
                    (*loc, "tiers", policy.tier.word, "spread"), "with joint the series of a group are judged together:"
                    " none of them is abnormal by itself, so a share of them never is", "give the tier a budget",
                )  # fmt: skip

    def _bounds(self, loc: Loc, rule: Rule) -> None:
        if self.names is None:
            return
        limits = self.names.limits
        if rule.max_series > limits.max_series:
            self.document.problem(
                (*loc, "max_series"), f"max_series {rule.max_series} is above the settings' limit {limits.max_series}"
            )
        if rule.history_ms > limits.max_history_ms:
            most = format_duration(limits.max_history_ms)
            self.document.problem((*loc, "history"), f"history is longer than the settings' limit {most}")
        if rule.interval_ms < limits.min_interval_ms:
            least = format_duration(limits.min_interval_ms)
            self.document.problem((*loc[:2], "interval"), f"interval is shorter than the settings' limit {least}")


def comparable(lower: TierPolicy, higher: TierPolicy) -> bool:
    """Whether two tiers can be ordered without knowing how many series there are."""
    per = {p.budget.per if p.budget else "series" for p in (lower, higher)}
    return len(per) == 1


def _wait(rule: Rule, policy: TierPolicy) -> int:
    return rule.for_ms if policy.for_ms is None else policy.for_ms


def build_rule(model: RuleModel, group: GroupModel, names: Names | None = None, where: str = "") -> Rule:
    """Make the rule that a checked model means; what it leaves out comes from the group and the settings."""
    source = model.source or (names.default_source if names else None) or RULE["source"]
    receivers = model.receivers if model.receivers is not None else (names.default_receivers if names else ())
    return Rule(
        name=model.anomaly,
        group=group.name,
        expr=model.expr,
        source=source,
        detector=model.detector,
        interval_ms=group.interval,
        query_delay_ms=group.query_delay,
        history_ms=model.history,
        refit_every_ms=model.refit_every,
        direction=model.direction,
        min_deviation=MinDeviation(model.min_deviation.absolute, model.min_deviation.relative),
        valid_range=model.valid_range,
        missing=model.missing,
        for_ms=model.for_,
        keep_firing_for_ms=model.keep_firing_for,
        accept_after_ms=model.accept_after,
        hold_ms=model.hold,
        tiers=_policies(model) or RULE["tiers"],
        learn=model.learn,
        dont_learn=tuple(interval.made(model.timezone) for interval in model.dont_learn),
        refit_on_drift=model.refit_on_drift,
        mode=model.mode,
        group_by=tuple(model.group_by),
        drop_labels=tuple(model.drop_labels),
        suppress_ms=model.suppress,
        data_quality=DataQuality(model.data_quality.mode, model.data_quality.factor, model.data_quality.at_least),
        feedback=model.feedback.terms(),
        admit_after=model.admit_after,
        max_series=model.max_series or group.limit or RULE["max_series"],
        partial_response=model.partial_response,
        timezone=model.timezone,
        labels=dict(model.labels),
        annotations=dict(model.annotations),
        receivers=tuple(dict.fromkeys(receivers)),
        routed=model.receivers is None,
        seed=model.seed,
        where=where,
    )


def _policies(model: RuleModel) -> tuple[TierPolicy, ...]:
    if model.tiers is None:
        return ()
    given: dict[Tier, TierModel | None] = {tier: getattr(model.tiers, tier.word) for tier in TIERS}
    return tuple(
        TierPolicy(t, m.budget, m.surprise, m.sigma, m.for_, m.spread) for t, m in given.items() if m is not None
    )
