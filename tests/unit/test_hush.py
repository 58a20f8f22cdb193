"""Silences, mute windows, inhibition, routes: pure decisions, in tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anomalyd.clock import HOUR_MS
from anomalyd.delivery.hush import Firing, InhibitRule, below_tier, firing_of, inhibited, muted, silenced
from anomalyd.delivery.routing import receivers_for
from anomalyd.incident import Incident, Statement
from anomalyd.intervals import parse_named, parse_numbers, parse_times
from anomalyd.matcher import matches, parse_matchers, silence_of
from anomalyd.quietmodel import InhibitModel, IntervalModel, MuteWindowModel, RouteNodeModel
from anomalyd.records import Matcher, Silence
from anomalyd.score import Tier
from anomalyd.suppress import Subject
from fakes.statements import START, a_notification, a_statement, an_alert

LABELS = {"team": "payments", "region": "eu-west", "empty": ""}

MATCHERS = [
    ('team="payments"', True), ("team=payments", True), ('team!="payments"', False), ('{team="payments"}', True),
    ('region=~"eu-.*"', True), ('region=~"eu"', False), ('region!~"us-.*"', True), ('absent=""', True),
    ('absent!=""', False), ('absent=~".*"', True), ('absent=~".+"', False),
    ('team="payments", region=~"eu-(west|east)"', True), ('team="payments",region="us"', False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "holds"), MATCHERS)
def test_matchers(text: str, holds: bool) -> None:
    """All four operators, anchored, with an absent label as the empty string."""
    assert matches(parse_matchers(text), LABELS) is holds


BAD_MATCHERS = ["", "{}", "team", "team==x", 'team=~"("', "9x=1", 'a="b" c="d"', 'a=~"(x+)+"', 'a=~"' + "x" * 600 + '"']


@pytest.mark.parametrize("text", BAD_MATCHERS)
def test_bad_matchers(text: str) -> None:
    """What cannot be read or would take for ever is refused with advice."""
    with pytest.raises(ValueError, match=r".{10}"):
        parse_matchers(text)


@given(st.text(max_size=80))
def test_any_matcher_text_is_read_or_refused(text: str) -> None:
    """No text raises anything but ValueError, and what is read is a list of matchers that can be asked."""
    try:
        found = parse_matchers(text)
    except ValueError:
        return
    assert all(one.name for one in found)
    assert matches(found, LABELS) in (True, False)


def test_an_expression_from_outside_that_cannot_be_used_silences_nothing() -> None:
    """A silence with RE2 syntax that Python lacks keeps nobody quiet, whichever way it is negated."""
    for op in ("=~", "!~"):
        assert not matches([Matcher("team", op, r"\pN+(?P<x")], LABELS)  # type: ignore[arg-type]


def subject(statement: Statement | None = None, now: int = START, receiver: str = "r") -> Subject:
    statement = statement or a_statement()
    return Subject(a_notification(statement), statement, receiver, now, None, {}, now)


def a_silence(text: str, start: int = 0, end: int = HOUR_MS) -> Silence:
    return Silence(f"s-{text}-{end}", parse_matchers(text), START + start, START + end, "ana")


def test_silences_by_time_and_labels() -> None:
    """Only an active silence whose matchers hold for every alert keeps a statement quiet."""
    both = a_statement(alerts=(an_alert("eu"), an_alert("us")), total=2)
    eu, all_regions = a_silence("region=eu"), a_silence('region=~".+"', end=2 * HOUR_MS)
    assert silence_of(a_statement(), [eu], START) == eu
    assert silence_of(both, [eu], START) is None
    assert silence_of(both, [eu, all_regions], START) == all_regions
    assert silence_of(a_statement(), [a_silence("region=eu", start=1)], START) is None
    assert silence_of(a_statement(), [a_silence("region=eu", end=0)], START) is None
    assert silence_of(a_statement(), [replace(eu, matchers=())], START) is None
    assert silence_of(a_statement(), [a_silence("alertname=CheckoutLatencyP99,team=payments,tier=critical")], START)
    hold = silenced(lambda now: [eu])(subject())
    assert hold is not None
    assert (hold.reason, hold.until) == ("silenced", START + HOUR_MS)


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def interval(**keys: object) -> IntervalModel:
    return IntervalModel.model_validate(keys)


INTERVALS = [
    (interval(times=["22:00-06:00"]), "2026-01-02T22:00", True),
    (interval(times=["22:00-06:00"]), "2026-01-02T05:59", True),
    (interval(times=["22:00-06:00"]), "2026-01-02T06:00", False),
    (interval(times=["09:00-17:00"]), "2026-01-02T17:00", False),
    (interval(times=["00:00-24:00"]), "2026-01-02T23:59", True),
    (interval(weekdays=["friday"]), "2026-01-02T12:00", True),
    (interval(weekdays=["mon:thu"]), "2026-01-02T12:00", False),
    (interval(weekdays=["sat:mon"]), "2026-01-05T12:00", True),
    (interval(weekdays=["friday"], times=["22:00-06:00"]), "2026-01-03T03:00", True),
    (interval(weekdays=["friday"], times=["22:00-06:00"]), "2026-01-02T03:00", False),
    (interval(days_of_month=["-1"]), "2028-02-29T00:00", True),
    (interval(days_of_month=["-3:-1"]), "2026-04-27T00:00", False),
    (interval(days_of_month=["1:5"], months=["january"]), "2026-01-05T00:00", True),
    (interval(months=["dec:feb"]), "2026-01-05T00:00", True),
    (interval(years=["2027"]), "2026-01-05T00:00", False),
    (interval(), "2026-01-05T00:00", True),
]  # fmt: skip


@pytest.mark.parametrize(("model", "at", "holds"), INTERVALS)
def test_intervals(model: IntervalModel, at: str, holds: bool) -> None:
    """Days, months and spans past midnight, where the day that counts is the one on which the span began."""
    assert model.made().holds(ms(at)) is holds


def test_intervals_follow_the_wall_clock_through_summer_time() -> None:
    """On the day with 23 hours the skipped hour does not exist; on the day with 25 the doubled one counts twice."""
    night = interval(times=["02:00-03:00"], location="Europe/Madrid").made()
    start = ms("2026-03-29T00:00", "Europe/Madrid")
    assert sum(night.holds(start + m * 60_000) for m in range(23 * 60)) == 0
    start = ms("2026-10-25T00:00", "Europe/Madrid")
    assert sum(night.holds(start + m * 60_000) for m in range(25 * 60)) == 120


@given(st.integers(0, 4_102_444_800_000))
def test_intervals_of_any_moment(now: int) -> None:
    """A span and its complement share out every moment, in any zone."""
    for zone in ("UTC", "Europe/Madrid", "Asia/Kathmandu", "America/St_Johns"):
        inside = interval(times=["22:00-06:00"], location=zone).made().holds(now)
        outside = interval(times=["06:00-22:00"], location=zone).made().holds(now)
        assert inside != outside
    assert interval(days_of_month=["-31:-1"]).made().holds(now) or datetime.fromtimestamp(now / 1000, UTC).day > 0


@pytest.mark.parametrize("keys", [{"times": ["25:00-26:00"]}, {"times": ["9-17"]}, {"weekdays": ["someday"]},
                                  {"days_of_month": ["0"]}, {"days_of_month": ["5:1"]}, {"location": "Mars/Base"},
                                  {"months": ["13"]}, {"years": ["x"]}, {"times": ["10:00-10:00"]}])  # fmt: skip
def test_bad_intervals(keys: dict[str, list[str]]) -> None:
    """Errors are found when the file is loaded, also a zone that this machine does not know."""
    with pytest.raises(ValidationError):
        IntervalModel.model_validate(keys)


def test_parsing() -> None:
    """Names may be cut to three letters; ranges keep their order."""
    assert parse_named("Mon:FRI", ("monday", "tuesday", "friday"), 0) == (0, 2)
    assert parse_times("22:00-06:00") == (1320, 360)
    assert parse_numbers("-3:-1", -31, 31) == (-3, -1)


def test_mute_windows() -> None:
    """A window holds for its receivers, matchers and tiers; an emergency passes unless it is named."""
    model = MuteWindowModel.model_validate(
        {"intervals": [{"times": ["00:00-06:00"]}], "matchers": ["team=payments"], "receivers": ["r"]}
    )
    stage = muted([model.made("night")])
    emergency = a_statement(tier=Tier.EMERGENCY)
    assert stage(subject()) is not None
    assert stage(subject(receiver="other")) is None
    assert stage(subject(a_statement(labels={"team": "x"}))) is None
    assert stage(subject(now=START + 4 * HOUR_MS)) is None
    assert stage(subject(emergency)) is None
    named = MuteWindowModel.model_validate({"intervals": [{}], "tiers": ["emergency"]})
    assert muted([named.made("all")])(subject(emergency)) is not None


def test_inhibition() -> None:
    """A higher tier, or another rule, with equal labels keeps lower ones quiet; never itself, never each other."""
    sides = {"source_matchers": ["alertname=ClusterDown"], "target_matchers": ['alertname!="ClusterDown"']}
    rule = InhibitModel.model_validate({**sides, "equal": ["region"]}).made()
    down = firing_of(Incident("i9", "k", "g/ClusterDown", (("region", "eu"),), Tier.CRITICAL, START), {})
    elsewhere = firing_of(Incident("i8", "k", "g/ClusterDown", (("region", "us"),), Tier.CRITICAL, START), {})
    held = inhibited([rule], lambda now: [down])(subject())
    assert held is not None
    assert held.reason == "inhibited"
    assert inhibited([rule], lambda now: [elsewhere])(subject()) is None
    assert inhibited([rule], lambda now: [Firing("inc-1", down.labels)])(subject()) is None
    assert inhibited([], lambda now: [down])(subject()) is None
    each = InhibitRule(parse_matchers("team=payments"), parse_matchers("team=payments"))
    assert inhibited([each], lambda now: [Firing("x", {"team": "payments"})])(subject()) is None


def test_below_tier() -> None:
    """A receiver gets nothing below its lowest tier."""
    stage = below_tier({"r": Tier.CRITICAL})
    assert stage(subject(a_statement(tier=Tier.WARNING))) is not None
    assert stage(subject()) is None
    assert stage(subject(a_statement(tier=Tier.WARNING), receiver="other")) is None


ROUTE = RouteNodeModel.model_validate({
    "receivers": ["ops"],
    "routes": [
        {"matchers": ["team=payments"], "receivers": ["pay-slack"], "routes": [
            {"tiers": ["critical", "emergency"], "receivers": ["pay-slack", "pay-pager"]},
        ]},
        {"matchers": ['region=~"eu-.*"'], "receivers": ["eu"], "continue": True},
        {"matchers": ["team=search"], "receivers": ["search"]},
        {"tiers": ["emergency"], "receivers": ["everybody"]},
    ],
}).made()  # fmt: skip

ROUTES = [
    ({"team": "payments"}, Tier.WARNING, ("pay-slack",)),
    ({"team": "payments", "region": "eu-west"}, Tier.CRITICAL, ("pay-slack", "pay-pager")),
    ({"team": "search", "region": "eu-west"}, Tier.WARNING, ("eu", "search")),
    ({"region": "eu-west"}, Tier.WARNING, ("eu",)),
    ({}, Tier.WARNING, ("ops",)),
    ({}, Tier.EMERGENCY, ("ops", "everybody")),
]


@pytest.mark.parametrize(("labels", "tier", "names"), ROUTES)
def test_routes(labels: dict[str, str], tier: Tier, names: tuple[str, ...]) -> None:
    """The deepest match decides; whoever is told at a lower tier stays told at a higher one."""
    assert receivers_for(ROUTE, labels, tier) == names
