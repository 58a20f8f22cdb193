"""Rules files: what the keys mean, what is refused and where, and what a reload changes."""

from __future__ import annotations

import json
import sys
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.detectors.model import model_of
from anomalyd.durations import parse_duration
from anomalyd.errors import ConfigError
from anomalyd.holiday import Holidays
from anomalyd.intervals import Interval
from anomalyd.rule import Budget, DetectorSpec, MinDeviation, Rule, RuleGroup, TierPolicy
from anomalyd.rulefiles.read import RuleSet, diff, expand, load_rules, read_rules
from anomalyd.rulefiles.write import write_rules
from anomalyd.score import Tier
from anomalyd.settings import Limits
from anomalyd.yamlfile import read_yaml

FULL = """\
groups:
  - name: checkout
    interval: 5m
    query_delay: 45s
    limit: 50
    rules:
      - anomaly: CheckoutLatencyP99
        expr: histogram_quantile(0.99, sum by (le, region) (rate(latency_bucket{job="checkout"}[5m])))
        history: 14d
        refit_every: 12h
        detector: {type: mad, window: 2d}
        direction: up
        min_deviation: {absolute: 0.05, relative: 20%}
        valid_range: [0, .inf]
        missing: alert
        for: 3m
        keep_firing_for: 4m
        accept_after: 2d
        hold: 20m
        tiers:
          warning: {budget: 2 per week}
          critical: {surprise: 6}
          emergency: {sigma: 8, for: 10m, spread: 30%}
        learn: all
        dont_learn:
          - {times: ["02:00-03:00"], weekdays: ["saturday:sunday"]}
          - {days_of_month: ["-1"], location: UTC}
        refit_on_drift: false
        mode: shadow
        group_by: [region]
        drop_labels: [pod]
        suppress: 1h
        partial_response: accept
        timezone: Europe/Berlin
        labels: {team: payments, country: NO}
        annotations: {summary: "{{ $labels.region }} is {{ $value | humanizeDuration }}"}
        receivers: [slack]
        seed: 7
      - anomaly: Second
        expr: up
        detector: mad
"""


LIMITS = Limits(10_000, 1_000, 400 * DAY_MS)


@dataclass(frozen=True)
class Known:
    """What the settings would say."""

    source_names: tuple[str, ...] = ("default", "edge")
    metricsql_sources: tuple[str, ...] = ()
    default_source: str | None = "default"
    receiver_names: tuple[str, ...] = ("slack", "pager")
    default_receivers: tuple[str, ...] = ("pager",)
    calendars: Mapping[str, Holidays] = field(default_factory=dict)
    limits: Limits = LIMITS


def rules_of(text: str, names: Known | None = None) -> RuleSet:
    """The rules of a text."""
    return read_rules([read_yaml(text, "r.yml")], names)


def one(keys: str, *, head: str = "name: g") -> str:
    """A file with one rule; ``keys`` are its further lines."""
    lines = "".join(f"        {line}\n" for line in keys.splitlines())
    return f"groups:\n  - {head}\n    rules:\n      - anomaly: A\n{lines}"


GOOD = "expr: up\ndetector: mad\n"


def refused(text: str, names: Known | None = None) -> str:
    """The problems of a text, as the user reads them."""
    with pytest.raises(ConfigError) as caught:
        rules_of(text, names)
    return str(caught.value)


def test_every_key_becomes_what_it_says() -> None:
    """One rule with all keys, one with as few as possible."""
    rules = rules_of(FULL, Known())
    assert rules.rules[0] == Rule(
        name="CheckoutLatencyP99",
        group="checkout",
        expr='histogram_quantile(0.99, sum by (le, region) (rate(latency_bucket{job="checkout"}[5m])))',
        source="default",
        detector=DetectorSpec("mad", {"window": "2d"}),
        interval_ms=5 * MINUTE_MS,
        query_delay_ms=45_000,
        history_ms=14 * DAY_MS,
        refit_every_ms=12 * HOUR_MS,
        direction="up",
        min_deviation=MinDeviation(0.05, 0.2),
        valid_range=(0, float("inf")),
        missing="alert",
        for_ms=3 * MINUTE_MS,
        keep_firing_for_ms=4 * MINUTE_MS,
        accept_after_ms=2 * DAY_MS,
        hold_ms=20 * MINUTE_MS,
        tiers=(
            TierPolicy(Tier.WARNING, Budget(2, WEEK_MS)),
            TierPolicy(Tier.CRITICAL, surprise=6),
            TierPolicy(Tier.EMERGENCY, sigma=8, for_ms=10 * MINUTE_MS, spread=0.3),
        ),
        learn="all",
        dont_learn=(
            Interval(times=((120, 180),), weekdays=((5, 6),), timezone="Europe/Berlin"),
            Interval(days_of_month=((-1, -1),), timezone="UTC"),
        ),
        refit_on_drift=False,
        mode="shadow",
        group_by=("region",),
        drop_labels=("pod",),
        suppress_ms=HOUR_MS,
        max_series=50,
        partial_response="accept",
        timezone="Europe/Berlin",
        labels={"team": "payments", "country": "NO"},
        annotations={"summary": "{{ $labels.region }} is {{ $value | humanizeDuration }}"},
        receivers=("slack",),
        seed=7,
        where="r.yml:7",
    )
    least = Rule(
        "Second", "checkout", "up", detector=DetectorSpec("mad"), interval_ms=5 * MINUTE_MS, query_delay_ms=45_000,
        max_series=50, receivers=("pager",), routed=True, where="r.yml:39",
    )  # fmt: skip
    assert rules.rules[1] == least
    assert rules.rule("checkout/Second") == least
    assert rules.rule("checkout/Third") is None
    assert rules.groups[0].file == "r.yml"


def test_defaults_without_settings() -> None:
    """Without settings a rule has the default source and tells nobody by name; an empty list means nobody."""
    rule = rules_of(one(GOOD)).rules[0]
    assert (rule.source, rule.receivers, rule.max_series) == ("default", (), Rule("A", "g", "up").max_series)
    assert rules_of(one(GOOD + "receivers: []"), Known()).rules[0].receivers == ()


def test_a_list_of_detectors_is_an_ensemble() -> None:
    """The members are carried as the ensemble's parameter, and each is checked by itself."""
    problems = refused(one("expr: up\ndetector:\n  - {type: mad, windw: 1d}\n  - mda"))
    assert "r.yml:7:25: unknown key 'windw' (did you mean 'window'?)" in problems
    assert "r.yml:8:13: unknown detector 'mda' (did you mean 'mad'?)" in problems
    rule = rules_of(one("expr: up\ndetector:\n  - {type: mad, window: 6h}\n  - ewma")).rules[0]
    assert [(m.type, dict(m.params)) for m in rule.detector.members] == [("mad", {"window": "6h"}), ("ewma", {})]
    assert model_of(rule).detector.name == "ensemble"


REFUSED = [
    (GOOD + "histry: 5d", "r.yml:7:9: unknown key 'histry' (did you mean 'history'?)"),
    ("alert: A\nexpr: up", "unknown key 'alert' (Prometheus's alerting rules stay with Prometheus; a rule of anomalyd"),
    ("detector: mad", "r.yml:4:9: rules[0]: missing key 'expr'"),
    ("expr: rate(x[5x])\ndetector: mad", "r.yml:5:22: PromQL: bad number or duration syntax: 5x"),
    ("expr: |\n  sum(\n    x_total\n  )\ndetector: mad", "r.yml:7:13: x_total is a counter"),
    ("expr: 5\ndetector: mad", "r.yml:5:15: expr: must be text, not a number (put it into quotes)"),
    ("expr: up\ndetector: madd", "r.yml:6:19: unknown detector 'madd' (did you mean 'mad'?)"),
    ("expr: up\ndetector: {type: mad, windw: 1d}", "r.yml:6:31: unknown key 'windw' (did you mean 'window'?)"),
    ("expr: up\ndetector: {type: mad, floor: -1}", "r.yml:6:38: floor: input should be greater than or equal to 0"),
    ("expr: up\ndetector: {window: 1d}", "r.yml:6:19: detector: needs a type"),
    ("expr: up\ndetector: 5", "r.yml:6:19: detector: must be a detector's name"),
    (GOOD + "direction: upp", "must be one of 'up', 'down' or 'both' (did you mean 'up'?)"),
    (GOOD + "for: 90", "r.yml:7:14: for: '90' is not a duration; it has no unit: write 90s, 90m, 90h or 90d"),
    (GOOD + "for: 1.5h", "write 1h30m"),
    (GOOD + "for: yes", "for: 'yes' is not a duration"),
    (GOOD + "history: 0", "history: must be longer than 0"),
    (GOOD + "history: 5m", "r.yml:6:19: mad needs 30 samples before its first score, 30m at this interval"),
    (GOOD + "min_deviation: 20%", "min_deviation: must be a mapping, not text"),
    (GOOD + "min_deviation: {relative: 20pc}", "relative: '20pc' is not a share"),
    (GOOD + "min_deviation: {absolute: -1}", "r.yml:7:35: absolute: input should be greater than or equal to 0"),
    (GOOD + "min_deviation: {absolute: .nan}", "absolute: input should be a finite number"),
    (GOOD + "valid_range: [1, 0]", "valid_range: the lower end must be below the upper end"),
    (GOOD + "valid_range: [1]", "valid_range: must be a list of two numbers"),
    (GOOD + "dont_learn: [{location: UTC}]", "dont_learn[0]: needs at least times"),
    (GOOD + "dont_learn: [{times: [\"25:00-26:00\"]}]", "is not a span of a day"),
    (GOOD + "missing: warn", "must be one of 'skip', 'hold', 'alert' or 'resolve'"),
    (GOOD + "max_series: '5'", "max_series: must be a whole number, not text"),
    (GOOD + "max_series: 0", "greater than or equal to 1"),
    (GOOD + "raw_counter: yes", "raw_counter: must be true or false, not text"),
    (GOOD + "tiers: {}", "tiers: needs at least one of warning, critical and emergency"),
    (GOOD + "tiers: {warning: {}}", "warning: needs exactly one of budget, surprise and sigma"),
    (GOOD + "tiers: {warning: {sigma: 3, surprise: 4}}", "not surprise and sigma"),
    (GOOD + "tiers: {warning: {spread: 30%}}", "spread counts series that are abnormal by another tier"),
    (GOOD + "tiers: {warning: {sigma: 3}, critical: {spread: 130%}}", "spread"),
    (GOOD + "tiers: {warning: {sigma: 3}, critical: {spread: 0}}", "spread"),
    (GOOD + "tiers: {warning: {sigma: 3}, critical: {spread: 0.3, for: 5m}}", "nothing beside spread alone"),
    (GOOD + "tiers: {warn: {sigma: 3}}", "unknown key 'warn' (did you mean 'warning'?)"),
    (GOOD + "tiers: {warning: {budget: 2}}", 'budget: must be text such as "2 per week"'),
    (GOOD + "tiers: {warning: {budget: 2 per fortnight}}", "'fortnight' is not a period"),
    (GOOD + "tiers: {warning: {budget: 2000 per day}}", "budget allows more false alarms than there are samples"),
    (GOOD + "tiers: {warning: {budget: 1 per month}, critical: {budget: 2 per week}}",
     "critical would begin before warning"),
    (GOOD + "tiers: {warning: {sigma: 3}, emergency: {sigma: 3}}", "emergency begins where warning does and hides it"),
    (GOOD + "group_by: [..., a]", "... means all labels and stands alone"),
    (GOOD + "group_by: [pod]\ndrop_labels: [pod]", "label 'pod' is dropped by drop_labels"),
    ("expr: up\ndetector: {type: knn, joint: true}\ngroup_by: [...]",
     "r.yml:7:19: with joint the series of a group are one vector, and [...] puts each in a group of its own"),
    ("expr: up\ndetector: {type: knn, joint: true}\ntiers: {warning: {sigma: 3}, critical: {spread: 0.3}}",
     "a share of them never is (give the tier a budget)"),
    (GOOD + "drop_labels: [1a]", "'1a' is not a label name"),
    (GOOD + "labels: {team: 12}", "team: must be text, not a number (put it into quotes)"),
    (GOOD + "labels: {team: 012}", "number 012 is ambiguous"),
    (GOOD + "labels: {alertname: x}", "r.yml:7:18: alertname: label 'alertname' is set by anomalyd itself"),
    (GOOD + "labels: {a: '{{ $value }}'}", "labels identify a rule's alerts and are not templates"),
    (GOOD + "annotations: {a: '{{ $valu }}'}", "a: template: unknown variable $valu"),
    (GOOD + "annotations: {a: '{{ $value'}", "a: template:"),
    (GOOD + "timezone: Europe/Berln", "'Europe/Berln' is not a time zone"),
    (GOOD + "timezone: ../../etc/passwd", "is not a time zone"),
    (GOOD + "seed: -1", "greater than or equal to 0"),
    (GOOD + "group_by: region", "r.yml:7:19: group_by: must be a list, not text (put it into brackets: [...])"),
    (GOOD + "min_deviation: 20%", "min_deviation: must be a mapping, not text (its keys: absolute, relative)"),
    ("expr: up\ndirection: down\ndetector: {type: forecast, limit: 0}",
     "when: above waits for what direction: down leaves out (write when: below"),
    (GOOD + "anomaly: B", "r.yml:7:9: duplicate key 'anomaly' (first at line 4)"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_what_is_wrong_with_a_rule_is_said_with_its_place(keys: str, message: str) -> None:
    """One line per problem, with file:line:column, cause and remedy."""
    assert message in refused(one(keys))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yml:1:1: the file is empty (a rules file begins with groups:)"),
        ("groups:\n", "groups: must be a list, not nothing"),
        ("group: []\n", "unknown key 'group' (did you mean 'groups'?)"),
        ("- a\n", "r.yml:1:1: must be a mapping, not a list"),
        ("groups: [5]\n", "r.yml:1:10: groups[0]: must be a mapping, not a number"),
        ("groups: [{name: a, rules: []}]\n", "rules: list should have at least 1 item"),
        ("groups: [{name: a, rules: [x]}]\n", "rules[0]: must be a mapping, not text"),
        (one(GOOD, head="name: ' '"), "name: must be 1 to 200 printable characters"),
        (one(GOOD, head="{name: g, interval: 100ms, rules: []}\n  - name: h"), "interval: must be at least 1s"),
        (one(GOOD).replace("anomaly: A", "anomaly: a/b"), "anomaly: must not contain '/'"),
        (one(GOOD) + "      - anomaly: A\n        expr: up\n        detector: mad\n",
         "r.yml:7:18: duplicate rule 'A' (first at r.yml:4)"),
        (one(GOOD) + one(GOOD).removeprefix("groups:\n"), "r.yml:7:11: duplicate group 'g' (first at r.yml:2)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_place(text: str, message: str) -> None:
    """Groups and whole files are checked like rules."""
    assert message in refused(text)


def test_all_problems_are_told_at_once() -> None:
    """One bad rule does not hide what is wrong with the next, and a key does not hide the expression."""
    second = "      - anomaly: B\n        expr: x_total\n        detector: mad\n        histry: 5d\n"
    problems = refused(one("expr: rate(x)\ndetector: mdd\nfr: 5m") + second).splitlines()
    places = [line.split(": ")[0] for line in problems]
    assert places == ["r.yml:5:15", "r.yml:6:19", "r.yml:7:9", "r.yml:9:15", "r.yml:11:9"]


def test_names_are_held_against_the_settings() -> None:
    """Unknown sources and receivers, and limits that the settings set."""
    names = Known(default_source=None, limits=Limits(100, 5 * MINUTE_MS, 10 * DAY_MS))
    text = one(GOOD + "source: defalt\nreceivers: [slack, pagr]\nmax_series: 200\nhistory: 11d")
    problems = refused(text, names)
    assert "r.yml:7:17: unknown source 'defalt' (did you mean 'default'?)" in problems
    assert "r.yml:8:28: unknown receiver 'pagr' (did you mean 'pager'?)" in problems
    assert "r.yml:9:21: max_series 200 is above the settings' limit 100" in problems
    assert "r.yml:10:18: history is longer than the settings' limit 10d" in problems
    assert "interval is shorter than the settings' limit 5m" in problems
    assert "the rule must name a source" in refused(one(GOOD), names)


@pytest.fixture
def _no_tzdata() -> Iterator[None]:
    """A machine without a time zone database."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "tzdata"}
    for name in kept:
        del sys.modules[name]
    sys.modules["tzdata"] = None  # type: ignore[assignment]
    zoneinfo.reset_tzpath(())
    zoneinfo.ZoneInfo.clear_cache()
    yield
    del sys.modules["tzdata"]
    sys.modules.update(kept)
    zoneinfo.reset_tzpath()


@pytest.mark.usefixtures("_no_tzdata")
def test_a_machine_without_time_zones_is_told_what_to_install() -> None:
    """The lack shows when the file is loaded, not at two in the morning."""
    problems = refused(one(GOOD + "timezone: Europe/Berlin"))
    assert "this machine has no time zone database; install the system's tzdata package" in problems


def test_files_and_globs(tmp_path: Path) -> None:
    """Globs are expanded and sorted, tests of rules left out, problems of all files told together."""
    (tmp_path / "b.yml").write_text(one(GOOD, head="name: b"))
    (tmp_path / "a.yml").write_text(one(GOOD, head="name: a"))
    (tmp_path / "a.test.yml").write_text("tests: []")
    rules = load_rules([str(tmp_path / "*.yml"), str(tmp_path / "a.yml")])
    assert [group.name for group in rules.groups] == ["a", "b"]
    assert rules.files == (str(tmp_path / "a.yml"), str(tmp_path / "b.yml"))
    with pytest.raises(ConfigError, match="no file matches"):
        expand([str(tmp_path / "*.yaml")])
    (tmp_path / "a.yml").write_text("x: *y")
    (tmp_path / "b.yml").write_text(one("expr: up\ndetector: mda"))
    with pytest.raises(ConfigError) as caught:
        load_rules([str(tmp_path / "*.yml")])
    assert {problem.file for problem in caught.value.problems} == {str(tmp_path / "a.yml"), str(tmp_path / "b.yml")}


def test_a_broken_file_leaves_nothing_half_loaded(tmp_path: Path) -> None:
    """A good file beside a broken one is not loaded either: the caller keeps the old set."""
    (tmp_path / "good.yml").write_text(one(GOOD, head="name: good"))
    (tmp_path / "bad.yml").write_text("groups: [")
    with pytest.raises(ConfigError):
        load_rules([str(tmp_path / "*.yml")])


def test_a_reload_says_what_changes_and_which_models_stay() -> None:
    """Receivers do not touch the model; the expression does; lines do not matter."""
    old = rules_of(one(GOOD) + "".join(f"      - {{anomaly: {n}, expr: up, detector: mad}}\n" for n in "BCD"))
    new_text = "# moved\n" + one(GOOD) + (
        "      - {anomaly: B, expr: up, detector: mad, for: 5m}\n"
        "      - {anomaly: C, expr: up == 1, detector: mad}\n"
        "      - {anomaly: E, expr: up, detector: mad}\n"
    )
    changes = diff(old, rules_of(new_text))
    assert (changes.added, changes.removed) == (("g/E",), ("g/D",))
    assert (changes.kept, changes.rebuilt, changes.unchanged) == (("g/B",), ("g/C",), ("g/A",))
    assert not changes.empty
    assert diff(old, old).empty


LETTERS = st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/")
NAMES = st.text(LETTERS, min_size=1, max_size=8)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), max_size=12)
LABELS = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
SPANS = st.integers(1, 10_000).map(lambda n: n * 1_000)
TIERS = st.fixed_dictionaries(
    {},
    optional={
        "w": st.builds(lambda n: TierPolicy(Tier.WARNING, Budget(n, WEEK_MS)), st.integers(1, 9)),
        "c": st.builds(lambda s: TierPolicy(Tier.CRITICAL, surprise=s), st.floats(4.5, 7)),
        "e": st.builds(lambda ms: TierPolicy(Tier.EMERGENCY, Budget(1, 90 * DAY_MS * 365), for_ms=ms), SPANS),
    },
).map(lambda tiers: tuple(sorted(tiers.values(), key=lambda policy: policy.tier)))
INTERVALS = st.builds(
    Interval,
    times=st.lists(st.tuples(st.integers(0, 700), st.integers(701, 1_440)), min_size=1, max_size=2).map(tuple),
    weekdays=st.sampled_from([(), ((0, 4),), ((5, 5), (6, 6))]), months=st.sampled_from([(), ((12, 12), (1, 3))]),
    days_of_month=st.sampled_from([(), ((1, 5),), ((-3, -1), (9, 9))]), years=st.sampled_from([(), ((2026, 2028),)]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
)  # fmt: skip
RULES = st.builds(
    Rule,
    name=NAMES, group=st.just("g"), source=TEXTS.filter(bool),
    expr=st.sampled_from(["up", "rate(x_total[5m])", "x_total"]),
    detector=st.sampled_from([DetectorSpec("mad"), DetectorSpec("mad", {"window": "3d"})]),
    interval_ms=st.just(MINUTE_MS), query_delay_ms=st.just(1_000), history_ms=SPANS.map(lambda ms: ms + DAY_MS),
    refit_every_ms=SPANS, direction=st.sampled_from(["up", "down", "both"]),
    min_deviation=st.builds(MinDeviation, st.floats(0, 1e9), st.floats(0, 100)),
    valid_range=st.none() | st.just((-1.0, float("inf"))) | st.just((0.25, 3.0)),
    missing=st.sampled_from(["skip", "hold", "alert", "resolve"]), for_ms=SPANS, keep_firing_for_ms=SPANS,
    accept_after_ms=SPANS, hold_ms=SPANS, tiers=TIERS.filter(bool),
    learn=st.sampled_from(["all", "normal_only"]), refit_on_drift=st.booleans(),
    dont_learn=st.lists(INTERVALS, max_size=2).map(tuple), mode=st.sampled_from(["live", "shadow"]),
    group_by=st.lists(TEXTS.filter(lambda t: t != "..."), max_size=2).map(tuple),
    suppress_ms=SPANS, max_series=st.integers(1, 10_000), partial_response=st.sampled_from(["hold", "accept"]),
    timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
    labels=st.dictionaries(LABELS, TEXTS.filter(lambda t: "{" not in t)),
    annotations=st.dictionaries(LABELS, TEXTS.filter(lambda t: "{" not in t)),
    receivers=st.lists(TEXTS, max_size=2, unique=True).map(tuple), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], phases=(Phase.reuse, Phase.generate))
@given(st.lists(RULES, min_size=1, max_size=3, unique_by=lambda rule: rule.name))
def test_rules_survive_being_written_and_read(rules: list[Rule]) -> None:
    """``read_rules`` undoes ``write_rules``."""
    written = write_rules(RuleSet((RuleGroup("g", MINUTE_MS, tuple(rules)),)))
    read = read_rules([read_yaml(written, "r.yml")])
    assert [replace(rule, where="") for rule in read.rules] == rules


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.floats() | st.sampled_from(["5m", "up", "mad", "1 per week"]),
    lambda deep: st.lists(deep, max_size=3) | st.dictionaries(st.sampled_from(["type", "budget", "warning"]), deep),
    max_leaves=6,
)  # fmt: skip
KEYS = (
    "anomaly expr detector tiers for labels valid_range receivers group_by source history timezone annotations"
    " min_deviation seed zzz"
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(KEYS.split()), JUNK))
def test_no_rule_gives_a_traceback(rule: dict[str, object]) -> None:
    """Whatever stands under the keys, the answer is a rule or problems with positions."""
    text = json.dumps({"groups": [{"name": "g", "rules": [rule]}]})
    text = text.replace("-Infinity", "-.inf").replace("Infinity", ".inf").replace("NaN", ".nan")
    try:
        rules_of(text, Known())
    except ConfigError as error:
        found = error.problems
    else:
        found = ()
    assert all(problem.file == "r.yml" and problem.line == 1 and problem.message for problem in found)


def test_durations_in_rules_use_the_same_grammar() -> None:
    """``for: 0`` may be written without a unit, as in Prometheus."""
    assert rules_of(one(GOOD + "for: 0")).rules[0].for_ms == parse_duration("0")


def test_metricsql_is_for_sources_that_speak_it() -> None:
    """There it is taken with a notice that says where; elsewhere it is refused, and PromQL is checked as ever."""
    names = Known(metricsql_sources=("edge",))
    rules = rules_of(one("expr: median_over_time(load[5m])\nsource: edge\n"), names)
    assert len(rules.rules) == 1
    assert str(rules.notices[0]).startswith("r.yml:5:15: expr is no PromQL and is taken for MetricsQL")
    assert "unknown function" in refused(one("expr: median_over_time(load[5m])\n"), names)
    assert "unknown function" in refused(one("expr: median_over_time(load[5m])\n"))
    assert "is a counter" in refused(one("expr: a_total\nsource: edge\n"), names)
    assert rules_of(one("expr: up\nsource: edge\n"), names).notices == ()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("expr: up > 5", "r.yml:5:15: expr leaves out samples by a comparison (>)"),
        ("expr: sum by (zone) (up)\ngroup_by: [zone, region]",
         "r.yml:6:19: group_by: no series of expr has a label 'region' (its aggregation keeps zone)"),
        ("expr: sum(up)\ngroup_by: [region]", "no series of expr has a label 'region' (its aggregation keeps none)"),
    ],
)  # fmt: skip
def test_what_may_be_meant_is_noted_and_taken(keys: str, said: str) -> None:
    """A comparison that hides what is normal, and labels that no series can have, come with a word at their place."""
    rules = rules_of(one(keys + "\n"))
    assert len(rules.rules) == 1
    (notice,) = rules.notices
    assert said in str(notice)


def test_what_is_plain_is_not_noted() -> None:
    """Labels that an aggregation keeps, that only the source knows, and all of them; a comparison that gives 0 or 1."""
    for keys in (
        "expr: sum by (zone) (up)\ngroup_by: [zone]", "expr: up\ngroup_by: [zone]", "expr: up > bool 5",
        "expr: sum by (zone) (up)\ngroup_by: [...]", "expr: sum without (zone) (up)\ngroup_by: [region]",
    ):  # fmt: skip
        assert rules_of(one(keys + "\n")).notices == ()
