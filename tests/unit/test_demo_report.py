"""Planted against found: what counts as found, as taken along, and as a false alarm."""

from anomalyd.clock import HOUR_MS, MINUTE_MS
from anomalyd.demo.report import SETTLE_MS, Found, compare
from anomalyd.demo.shop import Planted, cpu_series, orders_series, requests_series
from anomalyd.score import Tier

ORDERS, TRAFFIC, CPU = orders_series("us"), requests_series("us"), cpu_series("web-us")
DROP = Planted("traffic loss", "drop", (TRAFFIC, ORDERS), (CPU,), 10 * HOUR_MS, 11 * HOUR_MS, Tier.CRITICAL, "x")
LATER = Planted("later", "leak", (CPU,), (), 50 * HOUR_MS, 52 * HOUR_MS, Tier.WARNING, "y")


def test_first_episode_on_an_own_series_finds_the_incident() -> None:
    """Delay is counted from the incident's start to the first episode; the tier is the highest of all its episodes."""
    found = [
        Found("g/Orders", ORDERS, Tier.EMERGENCY, DROP.start_ms + 20 * MINUTE_MS),
        Found("g/Traffic", TRAFFIC, Tier.WARNING, DROP.start_ms + 10 * MINUTE_MS, DROP.end_ms),
        Found("g/Cpu", CPU, Tier.WARNING, DROP.start_ms + 5 * MINUTE_MS, DROP.end_ms),
    ]
    report = compare([LATER, DROP], found)
    assert [line.planted.name for line in report.lines] == ["traffic loss", "later"]
    drop, later = report.lines
    assert drop.first == found[1]
    assert (drop.delay_ms, drop.tier, drop.episodes) == (10 * MINUTE_MS, Tier.EMERGENCY, 3)
    assert (later.found, later.tier, later.episodes) == (False, Tier.NONE, 0)
    assert (report.found, report.false_alarms) == (1, ())


def test_a_touched_series_alone_does_not_find_the_incident() -> None:
    """Telling only of a consequence is no false alarm, but the incident is missed."""
    report = compare([DROP], [Found("g/Cpu", CPU, Tier.WARNING, DROP.start_ms + MINUTE_MS)])
    assert report.found == 0
    assert report.false_alarms == ()
    assert report.lines[0].episodes == 1


def test_too_early_too_late_or_elsewhere_is_a_false_alarm() -> None:
    """An episode that was opened before the incident cannot have found it, even when it lasts into it."""
    early = Found("g/Traffic", TRAFFIC, Tier.WARNING, DROP.start_ms - MINUTE_MS, DROP.end_ms)
    settling = Found("g/Traffic", TRAFFIC, Tier.WARNING, DROP.end_ms + SETTLE_MS - MINUTE_MS)
    late = Found("g/Traffic", TRAFFIC, Tier.WARNING, DROP.end_ms + SETTLE_MS)
    elsewhere = Found("g/Orders", orders_series("eu"), Tier.WARNING, DROP.start_ms + MINUTE_MS)
    report = compare([DROP], [late, elsewhere, settling, early])
    assert report.false_alarms == (early, elsewhere, late)
    assert report.lines[0].first == settling
