"""rules/shop.yml loads and watches the demo shop: each series by exactly one rule, and nothing that is not there."""

from pathlib import Path

from anomalyd.demo.prometheus import DemoPrometheus
from anomalyd.demo.shop import shop
from anomalyd.demo.stage import START_MS, shop_rules
from anomalyd.rulefiles.read import load_rules

FILE = Path(__file__).parents[2] / "rules" / "shop.yml"


def test_each_series_is_watched_by_one_rule() -> None:
    """The rules' expressions are plain selectors that split the shop's series among them."""
    theatre = shop(START_MS)
    rules = load_rules([str(FILE)]).rules
    server = DemoPrometheus(theatre.block, lambda: int(theatre.block.times[-1]))
    try:
        watched = [row for rule in rules for row in server.rows(rule.expr)]
    finally:
        server.stop()
    assert sorted(watched) == list(range(len(theatre.block)))


def test_rules_fit_the_data() -> None:
    """The rules are evaluated at the shop's step, learn from before the watched weeks, and tell all receivers."""
    theatre = shop(START_MS)
    for rule in load_rules([str(FILE)]).rules:
        assert rule.interval_ms == theatre.block.step_ms()
        assert rule.history_ms <= theatre.watch_from_ms - int(theatre.block.times[0])
        assert rule.receivers == ()


def test_the_demo_uses_this_file() -> None:
    """In a checkout the demo reads the file that a user would copy."""
    assert shop_rules() == FILE
