"""The demo, lived through to its end: what it promises is what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyd import logs
from anomalyd.demo.sink import Received
from anomalyd.demo.stage import play


@pytest.mark.timeout(900)
def test_every_planted_incident_is_found_and_nothing_else(tmp_path: Path) -> None:
    """Four incidents, each at the tier it deserves, once; the nightly job and the deploys page nobody."""
    logs.configure("error")
    told: list[Received] = []
    played = play(tmp_path, told.append, lambda _first, _now, _last: None)
    assert [line.planted.name for line in played.report.lines if not line.found] == []
    assert len(played.report.lines) == 4
    assert all(line.tier >= line.planted.tier for line in played.report.lines)
    assert played.report.false_alarms == ()
    assert played.notifications == len(told) < 20
