"""Shadow rules: their sibling, the comparison, and the change of text that promotes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from anomalyd.block import make_labels
from anomalyd.episode import Close, Episode, Phase
from anomalyd.errors import ConfigError
from anomalyd.rule import Rule
from anomalyd.rulefiles.read import RuleSet, load_rules
from anomalyd.score import Tier
from anomalyd.workbench.report.shadow import beside, promote, sibling

RULES = """\
# Rules of the shop.
groups:
  - name: shop
    interval: 1m
    rules:
      # Traffic is what pays us.
      - anomaly: Traffic   # live since spring
        expr: sum by (region) (rate(requests_total[5m]))
        detector: mad
        tiers:
          warning: {budget: 1 per week}

      # Slower, but quieter?
      - anomaly: TrafficShadow
        expr: sum by (region) (rate(requests_total[10m]))   # twice the window
        detector: {type: mad, window: 2d}
        mode: shadow
        for: 10m
        tiers:
          warning: {budget: 1 per month}

      - anomaly: Errors
        expr: sum by (region) (rate(errors_total[5m]))
        detector: mad
"""


def loaded(folder: Path, text: str = RULES) -> tuple[RuleSet, Rule]:
    (folder / "rules.yml").write_text(text)
    rules = load_rules([str(folder / "rules.yml")])
    shadow = next(rule for rule in rules.rules if rule.mode == "shadow")
    return rules, shadow


def episode(name: str, opened: int, closed: int, host: str = "a", metric: str = "") -> Episode:
    labels = make_labels({"host": host, "__name__": metric})
    return Episode(name, "g/r", host, labels, Phase.CLOSED, Tier.WARNING, opened, closed, opened_at=opened,
                   closed_at=closed, close=Close.RECOVERED)  # fmt: skip


def test_a_promoted_rule_takes_the_live_ones_place(tmp_path: Path) -> None:
    """The printed diff applies with patch, keeps comments, and leaves a file in which the shadow rule is live."""
    rules, shadow = loaded(tmp_path)
    live = sibling(rules, shadow)
    assert live.name == "Traffic"
    diff = promote(rules, live, shadow)
    if shutil.which("patch") is None:
        pytest.skip("patch is not installed here")
    subprocess.run(["patch", "-s", str(tmp_path / "rules.yml")], input=diff, text=True, check=True)
    after = load_rules([str(tmp_path / "rules.yml")])
    assert [rule.name for rule in after.rules] == ["Traffic", "Errors"]
    promoted = after.rule("shop/Traffic")
    assert promoted is not None
    assert (promoted.expr, promoted.mode, promoted.for_ms) == (shadow.expr, "live", 600_000)
    text = (tmp_path / "rules.yml").read_text()
    assert "# Traffic is what pays us." in text
    assert "# twice the window" in text
    assert "Slower" not in text


@pytest.mark.parametrize("text", [
    RULES[: RULES.index("      - anomaly: Errors")],
    RULES.replace("TrafficShadow", "'Traffic-shadow'"),
    RULES.replace("mode: shadow\n        for: 10m", "for: 10m\n        mode: 'shadow'"),
], ids=["last in the file", "quoted", "mode last"])  # fmt: skip
def test_promotion_reads_yaml_as_people_write_it(tmp_path: Path, text: str) -> None:
    """Wherever the rule stands and however its name is quoted, the change loads as the shadow rule made live."""
    rules, shadow = loaded(tmp_path, text)
    diff = promote(rules, sibling(rules, shadow), shadow)
    assert "-        expr: sum by (region) (rate(requests_total[5m]))" in diff
    assert "-        mode:" in diff


def test_a_rule_on_one_line_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Flow style cannot be changed line by line: the error says where and what to write."""
    rules, shadow = loaded(
        tmp_path,
        "groups:\n- name: g\n  rules:\n  - {anomaly: A, expr: up, detector: mad}\n"
        "  - {anomaly: AShadow, expr: up, detector: mad, mode: shadow}\n",
    )
    with pytest.raises(ConfigError, match="a key a line"):
        promote(rules, sibling(rules, shadow), shadow)


def test_a_sibling_is_named_or_found(tmp_path: Path) -> None:
    """--against wins over the name; without either the error says how to name one."""
    rules, shadow = loaded(tmp_path, RULES.replace("TrafficShadow", "Visitors"))
    assert sibling(rules, shadow, "Errors").name == "Errors"
    assert sibling(rules, shadow, "shop/Errors").name == "Errors"
    with pytest.raises(ConfigError, match="--against RULE"):
        sibling(rules, shadow)
    with pytest.raises(ConfigError, match="no live rule is called 'Nothing'"):
        sibling(rules, shadow, "Nothing")


def test_episodes_are_paired_by_series_and_time(tmp_path: Path) -> None:
    """Earlier, later, gained and lost; a span that one rule tells in two pieces is neither gained nor lost."""
    rules, shadow = loaded(tmp_path)
    live = sibling(rules, shadow)
    ours = [episode("a1", 100, 200), episode("a2", 300, 400), episode("a3", 500, 900, "b")]
    theirs = [
        episode("b1", 90, 150, metric="other"), episode("b2", 180, 190), episode("b3", 600, 700),
        episode("b4", 520, 800, "b"), episode("b5", 5, 8),
    ]  # fmt: skip
    found = beside(live, shadow, ours, theirs, 50, 1000)
    assert [(p.live.id, p.shadow.id, p.later_ms) for p in found.both] == [("a1", "b1", -10), ("a3", "b4", 20)]
    assert [e.id for e in found.gained] == ["b3"]
    assert [e.id for e in found.lost] == ["a2"]
    assert (len(found.earlier), len(found.later), found.median_later_ms) == (1, 1, 5)
