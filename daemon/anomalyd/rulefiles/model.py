"""The shape of a rules file: pydantic models whose fields are the keys a user may write.

Defaults are those of ``anomalyd.rule`` and stand only there. What needs more than one key to be judged (the expression
against its result type, tiers against each other, names against the settings) is judged in ``rules.py``.
"""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictFloat,
    WithJsonSchema,
    model_validator,
)

from anomalyd.conform import Duration, Flag, Number, PositiveDuration, Section, Whole
from anomalyd.durations import BUDGET_PATTERN, format_budget, parse_budget
from anomalyd.rule import (
    Budget,
    DataQuality,
    DetectorSpec,
    Direction,
    FeedbackTerms,
    MinDeviation,
    Missing,
    Mode,
    Rule,
)
from anomalyd.rulefiles.calendars import CalendarField
from anomalyd.rulefiles.intervalmodel import IntervalModel
from anomalyd.template import check_template

RULE: dict[str, Any] = {
    f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(Rule)
}
"""The defaults of a rule."""

_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PERCENT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s?%\Z")
_RESERVED = ("alertname", "tier")


def _label_name(text: str) -> str:
    if not _LABEL.match(text) or text.startswith("__"):
        raise ValueError(f"{text!r} is not a label name (letters, digits and _, not starting with a digit or __)")
    return text


def _plain_name(text: str) -> str:
    if not text.strip() or text != text.strip() or len(text) > 200 or not text.isprintable():
        raise ValueError("must be 1 to 200 printable characters without space around them")
    return text


def _rule_name(text: str) -> str:
    if "/" in text:
        raise ValueError("must not contain '/', which separates group and rule in a rule's id")
    return _plain_name(text)


def _template(text: str) -> str:
    if problem := check_template(text):
        raise ValueError(f"template: {problem}")
    return text


def _label_value(text: str) -> str:
    if "{{" in text:
        raise ValueError("labels identify a rule's alerts and are not templates; use an annotation")
    return text


def _reserved(text: str) -> str:
    if text in _RESERVED:
        raise ValueError(f"label {text!r} is set by anomalyd itself")
    return _label_name(text)


def check_timezone(name: str) -> str:
    """Return the name of a time zone that this machine knows; raise ``ValueError`` with advice."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        if not zoneinfo.available_timezones():
            raise ValueError(
                f"time zone {name!r} cannot be looked up: this machine has no time zone database;"
                " install the system's tzdata package or `pip install tzdata`"
            ) from None
        raise ValueError(f"{name!r} is not a time zone; write an IANA name such as Europe/Berlin or UTC") from None
    return name


def _second(ms: int) -> int:
    if ms < 1_000:
        raise ValueError("must be at least 1s")
    return ms


def _budget(value: Any) -> Budget:
    if isinstance(value, Budget):
        return value
    if not isinstance(value, str):
        raise ValueError('must be text such as "2 per week"')
    return parse_budget(value)


def _share(value: Any) -> Any:
    """A share of the expected value: 0.2 or "20%"."""
    if isinstance(value, str):
        match = _PERCENT.match(value)
        if match is None:
            raise ValueError(f'{value!r} is not a share; write 0.2 or "20%"')
        # Rounded, so that 20 % is 0.2 and not 0.2 and something; six digits after the point of a percentage survive.
        return round(float(match[1]) / 100, 10)
    return value


def _sometimes(interval: IntervalModel) -> IntervalModel:
    if not interval.model_fields_set - {"location"}:
        raise ValueError('needs at least times, weekdays, days_of_month, months or years, e.g. times: ["02:00-03:00"]')
    return interval


LabelName: TypeAlias = Annotated[str, AfterValidator(_label_name)]
BudgetField: TypeAlias = Annotated[
    Budget,
    BeforeValidator(_budget),
    PlainSerializer(format_budget),
    WithJsonSchema({"type": "string", "pattern": BUDGET_PATTERN, "examples": ["2 per week", "1 per month per rule"]}),
]
Share: TypeAlias = Annotated[
    Number,
    Field(ge=0),
    BeforeValidator(_share),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9.]+ ?%$"}]}),
]


PositiveShare: TypeAlias = Annotated[
    Number,
    Field(gt=0, le=1),
    BeforeValidator(_share),
    WithJsonSchema({
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "string", "pattern": r"^[0-9.]+ ?%$"},
        ]
    }),
]


class TierModel(Section):
    """When a tier begins: exactly one of budget, surprise and sigma, and spread beside it or alone."""

    budget: BudgetField | None = Field(None, description="False alarms it may cost while nothing is wrong.")
    surprise: Number | None = Field(None, gt=0, description="-log10 of the probability of so rare a sample.")
    sigma: Number | None = Field(None, gt=0, le=37, description="Standard deviations, if the values were Gaussian.")
    for_: Duration | None = Field(None, alias="for", description="How long before this tier begins.")
    spread: PositiveShare | None = Field(
        None, description="Also when this share of the group's series (two at least) is abnormal: 0.3 or 30%."
    )

    @model_validator(mode="after")
    def _one_cut(self) -> TierModel:
        given = [name for name in ("budget", "surprise", "sigma") if getattr(self, name) is not None]
        if not given and self.spread is not None:
            if self.for_ is not None:
                raise ValueError("for is how long a series must be abnormal; it means nothing beside spread alone")
            return self
        if len(given) != 1:
            said = f"not {' and '.join(given)}" if given else 'for example {budget: "1 per week"}'
            raise ValueError(f"needs exactly one of budget, surprise and sigma, {said}")
        return self

    @property
    def by_spread_alone(self) -> bool:
        return self.budget is None and self.surprise is None and self.sigma is None


class TiersModel(Section):
    """The tiers a rule has."""

    warning: TierModel | None = Field(None, description="Look at it in working hours.")
    critical: TierModel | None = Field(None, description="Look at it now.")
    emergency: TierModel | None = Field(None, description="Wake somebody.")

    @model_validator(mode="after")
    def _some(self) -> TiersModel:
        if self.warning is None and self.critical is None and self.emergency is None:
            raise ValueError("needs at least one of warning, critical and emergency")
        if all(one is None or one.by_spread_alone for one in (self.warning, self.critical, self.emergency)):
            raise ValueError("spread counts series that are abnormal by another tier: give one a budget or a cut")
        return self


class MinDeviationModel(Section):
    """A smaller deviation from the expected value is of no interest; where both are given, both must be exceeded."""

    absolute: Annotated[Number, Field(ge=0)] = Field(MinDeviation().absolute, description="In the series' unit.")
    relative: Share = Field(MinDeviation().relative, description="As a share of the expected value: 0.2 or 20%.")


class DataQualityModel(Section):
    """How series are watched as data: frozen, with gaps, coarse, of another magnitude, silent."""

    mode: Literal["hold", "tell", "ignore"] = Field(
        DataQuality().mode, description="hold: anomalies of series with sudden gaps wait; tell: they do not; ignore."
    )
    factor: Annotated[Number, Field(ge=1.5, le=1_000)] = Field(
        DataQuality().factor, description="Too long is so many times the longest run or silence ever seen."
    )
    at_least: PositiveDuration = Field(DataQuality().at_least_ms, description="And not before it has lasted so long.")


class FeedbackTermsModel(Section):
    """How far votes may move this rule's thresholds; what is not said is as in the settings."""

    enabled: Flag = Field(FeedbackTerms().enabled, description="false: votes are kept, the thresholds stay.")
    min_votes: Whole | None = Field(None, ge=1, le=100, description="Judged alerts before a cut moves.")
    max_factor: Number | None = Field(None, ge=1, le=10, description="Highest multiple of the rule's own cut.")
    floor: Number | None = Field(None, ge=0, le=300, description="Surprise below which no vote brings a cut.")
    half_life: PositiveDuration | None = Field(None, description="Age at which a vote counts half.")

    def terms(self) -> FeedbackTerms:
        return FeedbackTerms(self.enabled, self.min_votes, self.max_factor, self.floor, self.half_life)


def _by_mode(value: Any) -> Any:
    """A mode alone stands for the mapping with it."""
    return {"mode": value} if isinstance(value, str) else value


def _range(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(v) for v in value):
        if not value[0] < value[1]:
            raise ValueError("the lower end must be below the upper end")
        return value
    raise ValueError("must be a list of two numbers, for example [0, 1] or [0, .inf]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _member(spec: DetectorSpec) -> dict[str, Any]:
    """A member of an ensemble, as the ensemble's own parameters write it."""
    return {"type": spec.type, "params": dict(spec.params)} if spec.params else {"type": spec.type}


def _detector(value: Any) -> Any:
    """A name, a mapping with ``type``, or a list of these: an ensemble. Parameters are checked by the detector."""
    if isinstance(value, DetectorSpec):
        return value
    if isinstance(value, str):
        return DetectorSpec(value)
    if isinstance(value, list) and value:
        members = [_detector(member) for member in value]
        return DetectorSpec("ensemble", {"members": [_member(m) for m in members]})
    if isinstance(value, dict):
        if not isinstance(value.get("type"), str):
            raise ValueError("needs a type, for example {type: stl, period: 1d}")
        return DetectorSpec(value["type"], {k: v for k, v in value.items() if k != "type"})
    raise ValueError("must be a detector's name, a mapping with its type and parameters, or a list of these")


class RuleModel(Section):
    """One anomaly rule."""

    anomaly: Annotated[str, AfterValidator(_rule_name)] = Field(description="Name of the rule, unique in its group.")
    expr: str = Field(description="PromQL; each series of its result is watched.")
    source: str | None = Field(None, description="Name of a source in the settings; default, or the only one.")
    raw_counter: Flag = Field(False, description="Watch a metric that ends in _total as it is.")
    detector: Annotated[DetectorSpec, BeforeValidator(_detector)] = Field(
        RULE["detector"], description="Name, {type, parameters}, or a list of these (an ensemble)."
    )
    history: PositiveDuration = Field(RULE["history_ms"], description="How much past the detector learns from.")
    refit_every: PositiveDuration = Field(RULE["refit_every_ms"], description="How often the model is fitted anew.")
    direction: Direction = Field(RULE["direction"], description="On which side of the expected value is it bad?")
    min_deviation: MinDeviationModel = Field(MinDeviationModel(), description="Smaller deviations are not told.")
    valid_range: Annotated[tuple[StrictFloat, StrictFloat], BeforeValidator(_range)] | None = Field(
        RULE["valid_range"], description="[lowest, highest] value that can be right; outside is always anomalous."
    )
    missing: Missing = Field(RULE["missing"], description="What a series without a sample means.")
    for_: Duration = Field(RULE["for_ms"], alias="for", description="How long it must be abnormal before it is told.")
    keep_firing_for: Duration = Field(RULE["keep_firing_for_ms"], description="How long it must be normal to close.")
    accept_after: Duration = Field(RULE["accept_after_ms"], description="When a new level is the new normal; 0: never.")
    hold: Duration = Field(RULE["hold_ms"], description="How long the source may fail before that itself is told.")
    tiers: TiersModel | None = Field(None, description="When warning, critical and emergency begin.")
    learn: Literal["all", "normal_only"] = Field(
        RULE["learn"], description="normal_only: no anomalies, nor incidents of the history."
    )
    dont_learn: list[Annotated[IntervalModel, AfterValidator(_sometimes)]] = Field(
        [], description="Recurring times whose samples are scored and not learned; by the rule's timezone."
    )
    refit_on_drift: Flag = Field(
        RULE["refit_on_drift"], description="Fit anew when a series drifts away from what its model learned."
    )
    mode: Mode = Field(RULE["mode"], description="shadow: evaluate and store, tell nobody.")
    group_by: list[str] = Field(list(RULE["group_by"]), description="Labels that make one incident; [...]: each.")
    drop_labels: list[LabelName] = Field(list(RULE["drop_labels"]), description="Labels that are no part of identity.")
    suppress: Duration = Field(RULE["suppress_ms"], description="After one notification, quiet for so long.")
    data_quality: Annotated[DataQualityModel, BeforeValidator(_by_mode)] = Field(
        DataQualityModel(), description="Whether faults of the data are told, and anomalies held for them."
    )
    feedback: FeedbackTermsModel = Field(FeedbackTermsModel(), description="How far votes may move its thresholds.")
    admit_after: Whole = Field(
        RULE["admit_after"], ge=1, le=1_000, description="Slots in which a new series must be seen first; 1: at once."
    )
    max_series: Whole | None = Field(None, ge=1, le=1_000_000, description="Series beyond this many are not scored.")
    partial_response: Literal["hold", "accept"] = Field(
        RULE["partial_response"], description="hold: a partial answer of the source is unknown, neither good nor bad."
    )
    timezone: Annotated[str, AfterValidator(check_timezone)] = Field(RULE["timezone"], description="IANA time zone.")
    holidays: CalendarField | None = Field(
        None, description="Days that count as Sundays: a calendar of the settings, a country (DE-BY), or a mapping."
    )
    labels: dict[Annotated[str, AfterValidator(_reserved)], Annotated[str, AfterValidator(_label_value)]] = Field({})
    annotations: dict[LabelName, Annotated[str, AfterValidator(_template)]] = Field({})
    receivers: list[str] | None = Field(None, description="Who is told; all receivers of the settings by default.")
    seed: Whole = Field(RULE["seed"], ge=0, le=2**32 - 1, description="Seed of the detector's random numbers.")


class GroupModel(Section):
    """Rules evaluated together, on one interval."""

    name: Annotated[str, AfterValidator(_plain_name)] = Field(description="Name of the group, unique in all files.")
    interval: Annotated[Duration, AfterValidator(_second)] = Field(
        RULE["interval_ms"], description="Distance of evaluations."
    )
    query_delay: Duration = Field(RULE["query_delay_ms"], description="How far behind the clock a slot is queried.")
    limit: Whole | None = Field(None, ge=0, description="Most series of each rule; 0 is the default limit.")
    # Each rule is validated by itself, so that one bad rule does not hide what is wrong with the next.
    rules: list[Any] = Field(min_length=1, description="The rules, evaluated in this order.")


class RulesFile(Section):
    """A rules file of anomalyd."""

    groups: list[Any] = Field(description="Groups of rules.")
