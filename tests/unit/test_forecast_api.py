"""Tests of forecasts as series: what they say, their bounds, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.block import Block, fingerprint, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.console.forecast import MOST_SERIES, foreseen
from anomalyd.console.parts import BadRequest
from anomalyd.detectors.base import Grid
from anomalyd.detectors.model import Model
from anomalyd.evaluation.memory import empty_memory
from anomalyd.evaluation.registry import registry_from_rows
from anomalyd.evaluation.rulerun import RuleRun
from anomalyd.rule import DetectorSpec
from anomalyd.slot import SeriesRow
from console_kit import RULE, Console, data, error

START = 1_760_054_400_000
DISKS = DetectorSpec("forecast", {"limit": 100.0, "horizon": "4d"})


def filling(series: int = 2, spec: DetectorSpec = DISKS) -> RuleRun:
    """A rule over disks that fill by a percent an hour, the first now at 60, each next one ten below."""
    hours = np.arange(5 * 24)
    level = 60.0 - 10 * np.arange(series)[:, None] + (hours - hours[-1])[None, :]
    labels = tuple(make_labels({"disk": str(i)}) for i in range(series))
    model = Model(spec, Grid(HOUR_MS))
    state = model.fit(Block(labels, START + HOUR_MS * hours, level))
    rows = [SeriesRow(RULE.id, row, fingerprint(one), one, START) for row, one in enumerate(labels)]
    memory = replace(empty_memory(RULE.id), registry=registry_from_rows(RULE.id, rows))
    return RuleRun(RULE, model, replace(memory, active=np.arange(series), state=state))


def test_when_the_disk_is_full() -> None:
    """A disk at 60 that gains one an hour is full in forty hours, the other in fifty, each at its own interval."""
    run = filling()
    now = run.memory.state.as_of if run.memory.state is not None else 0
    found = foreseen(run, "", "", 96, 0.95, 0)
    assert (found["limit"], found["when"], found["next"]) == (100.0, "above", None)
    for series, hours in zip(found["series"], (40, 50), strict=True):
        assert series["times"][-1] == now + 4 * DAY_MS
        assert abs(series["reached_at"] - (now + hours * HOUR_MS)) <= HOUR_MS
        assert series["reached_at_earliest"] <= series["reached_at"]
        assert all(np.array(series["lower"]) <= series["expected"])
        assert all(np.array(series["upper"]) >= series["expected"])


def test_only_as_far_as_asked() -> None:
    """A shorter look does not reach the limit, one series can be had alone, and offsets go on."""
    run = filling()
    near = foreseen(run, "", "1d", 24, 0.95, 0)
    assert [series["reached_at"] for series in near["series"]] == [None, None]
    one = near["series"][1]["fingerprint"]
    assert [s["labels"] for s in foreseen(run, one, "1d", 24, 0.95, 0)["series"]] == [{"disk": "1"}]
    assert [s["labels"] for s in foreseen(run, "", "1d", 24, 0.95, 1)["series"]] == [{"disk": "1"}]
    assert foreseen(run, "nobody", "", 24, 0.95, 0)["series"] == []


def test_bounded() -> None:
    """However many series a rule has, an answer holds five hundred and says where to go on."""
    found = foreseen(filling(MOST_SERIES + 3), "", "", 2, 0.95, 0)
    assert (len(found["series"]), found["next"]) == (MOST_SERIES, MOST_SERIES)
    assert len(foreseen(filling(MOST_SERIES + 3), "", "", 2, 0.95, MOST_SERIES)["series"]) == 3


@pytest.mark.parametrize("ahead", ["soon", "0", "3y"])
def test_lengths_that_are_refused(ahead: str) -> None:
    """What is no duration, or more than a year, is refused with the remedy."""
    with pytest.raises(BadRequest, match="such as 4d"):
        foreseen(filling(), "", ahead, 24, 0.95, 0)


def test_over_http() -> None:
    """The endpoint answers columns, refuses detectors that do not forecast, and knows only rules that run."""
    console = Console()
    path = f"/api/v1/forecast?rule={RULE.id}"
    assert error(console.client().get(path), 404) == "not_found"
    console.run = filling()
    (first, _) = data(console.client().get(f"{path}&points=10"))["series"]
    assert {len(first[name]) for name in ("times", "expected", "lower", "upper")} == {10}
    assert error(console.client().get(f"{path}&points=100000"), 400) == "bad_data"
    console.run = filling(spec=DetectorSpec("mad", {}))
    assert error(console.client().get(path), 400) == "bad_data"
