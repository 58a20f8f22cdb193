"""A rule is changed in the user's own text, and nothing else in it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.cli import load_command
from anomalyd.durations import parse_budget
from anomalyd.rule import DetectorSpec, Rule, TierPolicy
from anomalyd.rulefiles.edit import edit_rule, patch
from anomalyd.rulefiles.read import read_rules
from anomalyd.score import Tier
from anomalyd.yamlfile import read_yaml

FILE = """\
# Rules of the shop. Ask Ada before you change them.
groups:
  - name: shop   # one minute
    interval: 1m

    rules:
      # p99 as the customers see it
      - anomaly: Latency
        expr: |
          histogram_quantile(0.99,
            sum by (le) (rate(latency_bucket[5m])))
        tiers:             # agreed in March
          critical: {for: 5m, budget: "1 per month"}   # wakes somebody
          warning:
            for: 2m
            budget: 2 per week  # enough
        direction: up
        detector:
          type: mad
          # a day was too long
          window: 6h

      - {anomaly: Errors, expr: 'rate(errors_total[5m])', for: 3m}
      - expr: up
        for: 3m
        anomaly: Down   # order is the user's
        # nothing more
"""


def rule_of(text: str, name: str) -> Rule:
    return next(rule for rule in read_rules([read_yaml(text, "r.yml")]).rules if rule.name == name)


def tiers(rule: Rule, **budgets: str) -> Rule:
    """The rule with other budgets."""
    changed = tuple(
        replace(p, budget=parse_budget(budgets[p.tier.word])) if p.tier.word in budgets else p for p in rule.tiers
    )
    return replace(rule, tiers=changed)


def changed_lines(before: str, after: str) -> list[str]:
    return [line for line in patch(before, after, "r.yml")[2:] if line[0] in "+-"]


def test_a_budget_is_changed_where_it_stands() -> None:
    """Only the budget's own characters change: comments, order and the other tier stay."""
    rule = rule_of(FILE, "Latency")
    after = edit_rule(FILE, rule, tiers(rule, warning="1 per day"))
    assert after is not None
    assert changed_lines(FILE, after) == [
        "-            budget: 2 per week  # enough", "+            budget: 1 per day  # enough",
    ]  # fmt: skip


def test_a_cut_becomes_a_budget() -> None:
    """A tier that was stated by its surprise states a budget afterwards, on the same line."""
    text = FILE.replace("budget: 2 per week", "surprise: 2.5")
    rule = rule_of(text, "Latency")
    policy = TierPolicy(Tier.WARNING, parse_budget("1 per week"), for_ms=120_000)
    after = edit_rule(text, rule, replace(rule, tiers=(policy, *rule.tiers[1:])))
    assert after is not None
    assert changed_lines(text, after)[1] == "+            budget: 1 per week  # enough"


def test_a_detector_block_is_replaced_and_what_follows_stays() -> None:
    """A block becomes one line; the empty line and the next rule behind it are untouched."""
    rule = rule_of(FILE, "Latency")
    after = edit_rule(FILE, rule, replace(rule, detector=DetectorSpec("stl", {"period": "1d"})))
    assert after is not None
    assert "        detector: {type: stl, period: 1d}\n\n      - {anomaly: Errors" in after
    assert after.count("#") == FILE.count("#") - 1


@pytest.mark.parametrize("name", ["Errors", "Down"])
def test_what_is_not_there_is_added(name: str) -> None:
    """A rule without detector and tiers gets them, in flow style on its line, in block style on a new one."""
    rule = rule_of(FILE, name)
    mad, rare = DetectorSpec("mad", {"window": "2h"}), TierPolicy(Tier.WARNING, surprise=4.0)
    better = replace(rule, detector=mad, tiers=(rare,))
    after = edit_rule(FILE, rule, better)
    assert after is not None
    loaded = rule_of(after, name)
    assert (loaded.detector, loaded.tiers) == (better.detector, better.tiers)
    assert after.count("#") == FILE.count("#")


def test_ends_of_lines_stay() -> None:
    """A file from Windows keeps its line ends, and one without a last line end gets none."""
    text = FILE.replace("\n", "\r\n").removesuffix("\r\n        # nothing more\r\n")
    rule = rule_of(text, "Down")
    after = edit_rule(text, rule, replace(rule, detector=DetectorSpec("mad")))
    assert after is not None
    assert after.count("\n") == after.count("\r\n") == text.count("\n") + 1
    assert not after.endswith("\n")


def test_a_rule_that_is_not_there_is_no_edit() -> None:
    """The text of another file, or a broken one, is left alone."""
    rule = replace(rule_of(FILE, "Down"), name="Elsewhere")
    assert edit_rule(FILE, rule, replace(rule, detector=DetectorSpec("mad"))) is None
    assert edit_rule("groups: [", rule, rule) is None


DETECTORS = st.sampled_from([
    DetectorSpec("auto"), DetectorSpec("mad", {"window": "2h"}), DetectorSpec("ewma", {"weight": 0.05}),
    DetectorSpec("ensemble", {"members": [{"type": "mad"}, {"type": "stl", "params": {"period": "1d"}}]}),
])  # fmt: skip
CHANGES = st.tuples(st.sampled_from(["Latency", "Errors", "Down"]), DETECTORS, st.integers(1, 9))


@given(st.lists(CHANGES, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_whatever_is_changed_the_text_means_it(changes: list[tuple[str, DetectorSpec, int]]) -> None:
    """After any number of changes each rule is as it was last asked to be, and no comment outside of them is lost."""
    text, wanted = FILE, {}
    for name, detector, count in changes:
        rule = rule_of(text, name)
        better = tiers(replace(rule, detector=detector), warning=f"{count} per day")
        after = edit_rule(text, rule, better)
        assert after is not None
        text, wanted[name] = after, better
    for name, better in wanted.items():
        loaded = rule_of(text, name)
        assert (loaded.detector, loaded.tiers) == (better.detector, better.tiers)
    assert text.count("#") >= FILE.count("#") - 1


@pytest.mark.parametrize("tool", [["git", "apply", "-"], ["patch", "-p1"]])
@pytest.mark.parametrize("ending", ["", "\n"])
def test_the_diff_applies_and_the_result_passes_the_check(tmp_path: Path, tool: list[str], ending: str) -> None:
    """What is printed is taken by git and by patch, and `anomalyd check` accepts the file it makes."""
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    text = FILE.rstrip("\n") + ending
    file = tmp_path / "rules" / "shop.yml"
    file.parent.mkdir()
    file.write_text(text)
    rule = rule_of(text, "Down")
    after = edit_rule(text, rule, replace(rule, detector=DetectorSpec("mad", {"window": "2h"})))
    assert after is not None
    diff = "\n".join(patch(text, after, "rules/shop.yml")) + "\n"
    subprocess.run(tool, cwd=tmp_path, input=diff, text=True, check=True, capture_output=True, timeout=60)
    assert file.read_text() == after
    assert load_command("check").main([str(file)], standalone_mode=False) in (None, 0)
