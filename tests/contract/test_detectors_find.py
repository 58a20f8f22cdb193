"""What each detector finds of a point, a contextual and a collective anomaly and a lasting shift, and what it cannot.

The same series for all: a daily rhythm of amplitude 20 around 100 with noise of 1, eleven days at ten minutes, one
anomaly in the last day. "Finds" means that the highest score of that day is where the anomaly is.
"""

from __future__ import annotations

import importlib
from functools import cache

import numpy as np
import pytest

from anomalyd.block import Block, make_labels
from anomalyd.clock import MINUTE_MS
from anomalyd.detectors.base import Detector, Grid, State
from anomalyd.detectors.registry import EXTRA_MODULES, detector_info, detector_names, make_detector
from anomalyd.rule import DetectorSpec

STEP = 10 * MINUTE_MS
DAY = 144
HISTORY, FRESH = 10 * DAY, DAY
START = 1_760_054_400_000
AT = 60

FINDS: dict[str, set[str]] = {
    "zscore": {"point"},
    "iqr": {"point"},
    "mad": {"point"},
    "ewma": {"point", "contextual", "shift"},
    "cusum": {"shift"},
    "stl": {"point", "contextual", "shift"},
    "isolation_forest": {"point", "contextual"},
    "extended_isolation_forest": {"point", "contextual"},
    "lof": {"point", "contextual"},
    "half_space_trees": {"point", "contextual", "shift"},
    "adwin": {"shift"},
    "matrix_profile": {"collective"},
    "lstm": {"point", "contextual"},
    "autoencoder": {"point", "contextual"},
    "peer": {"point", "contextual", "collective", "shift"},
    "seasonal": {"point", "contextual", "collective", "shift"},
    "knn": {"point", "contextual"},
    "rls": {"point", "contextual"},
    "extreme": {"point", "contextual"},
    "auto": {"point", "contextual", "collective", "shift"},
    "ensemble": {"point", "contextual"},
}
"""What a detector must find; a kind that is neither here nor in ``CANNOT`` is not promised."""

CANNOT: dict[str, set[str]] = {
    "zscore": {"contextual", "collective"},
    "iqr": {"contextual", "collective"},
    "mad": {"contextual", "collective"},
    "adwin": {"point"},
    "matrix_profile": {"shift"},
    "forecast": {"contextual", "collective"},
}
"""What a detector does not find by nature; its docstring says so."""

WORDS = {"point": "one sample", "contextual": "contextual", "collective": "collective", "shift": "shift"}


def planted(kind: str) -> tuple[Block, range]:
    """Three siblings, the first with the anomaly, and the places in the last day where a high score is right."""
    rng = np.random.default_rng(9)
    t = np.arange(HISTORY + FRESH)
    values = 100 + 20 * np.sin(2 * np.pi * t / DAY) + rng.normal(size=(4, len(t)))
    at = HISTORY + AT
    if kind == "point":
        values[0, at] = 175
        where = range(AT, AT + 2)
    elif kind == "contextual":
        values[0, at : at + 2] -= 26  # near the top of the day: still inside the range of all values
        where = range(AT, AT + 3)
    elif kind == "shift":
        values[0, at:] += 5
        where = range(AT, FRESH)
    else:
        values[0, at : at + 24] = values[0, at]  # stuck: every value is ordinary
        where = range(AT + 4, AT + 40)
    labels = tuple(make_labels({"pod": str(i)}) for i in range(4))
    return Block(labels, START + STEP * np.arange(len(t)), values), where


PARAMS: dict[str, dict[str, object]] = {
    "matrix_profile": {"memory": "8d", "length": 18},
    "lstm": {"hidden": 16, "windows": 20_000},
    "autoencoder": {"windows": 40_000, "window": 12},
    "forecast": {"limit": 400.0},
}
ECHO = {"autoencoder": 12}
"""Samples for which an anomaly stays in the stretch that is judged."""


@cache
def fitted(name: str) -> tuple[Detector, State]:
    """A detector fitted on the ten days before, which are the same for every kind of anomaly."""
    detector = make_detector(DetectorSpec(name, PARAMS.get(name, {})), Grid(STEP))
    return detector, detector.fit(planted("point")[0].window(0, HISTORY), 3)


def place_of_highest(name: str, kind: str) -> tuple[int, range]:
    """Where the first series scores highest in the last day, and where it should."""
    block, where = planted(kind)
    detector, state = fitted(name)
    raw, _ = detector.score(state, block.window(HISTORY))
    return int(np.nanargmax(raw.score[0])), range(where.start, where.stop + ECHO.get(name, 0))


def missing_extra(name: str) -> bool:
    """Whether the detector's extra is not installed."""
    needed = EXTRA_MODULES.get(detector_info(name).extra)
    return needed is not None and importlib.util.find_spec(needed) is None


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in FINDS.items() for kind in sorted(kinds)])
def test_finds(name: str, kind: str) -> None:
    """The planted anomaly has the highest score of the day."""
    if missing_extra(name):
        pytest.skip(f"{name}: its extra is not installed")
    place, where = place_of_highest(name, kind)
    assert place in where


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in CANNOT.items() for kind in sorted(kinds)])
def test_cannot_find_and_says_so(name: str, kind: str) -> None:
    """What the method cannot see by nature is not its highest score, and its page says that it cannot."""
    place, where = place_of_highest(name, kind)
    assert place not in where
    page = importlib.import_module(detector_info(name).module.partition(":")[0]).__doc__ or ""
    fails = " ".join(page.partition("Fails when")[2].partition("Toy stream")[0].split())
    assert WORDS[kind] in fails


def test_every_detector_has_a_place_in_the_table() -> None:
    """Every built-in detector finds something here; ``forecast``, whose subject is a limit, says what it cannot."""
    assert set(detector_names()) - set(FINDS) == {"forecast"}
    assert "forecast" in CANNOT


@pytest.mark.parametrize("name", ["seasonal", "stl"])
def test_an_hourly_rhythm_is_known(name: str) -> None:
    """A job at the full hour is expected, the same height at half past is the day's highest score."""
    rng = np.random.default_rng(4)
    step, history = 5 * MINUTE_MS, 6 * 288
    t = np.arange(history + 144)
    values = 50 + 30.0 * (t % 12 == 0) + rng.normal(size=(1, len(t)))
    values[0, history + 66] = 80.0  # 66 is half past
    block = Block((make_labels({"job": "a"}),), START + step * t, values)
    detector = make_detector(DetectorSpec(name, {}), Grid(step))
    raw, _ = detector.score(detector.fit(block.window(0, history), 1), block.window(history))
    assert int(np.nanargmax(raw.score[0])) == 66
    full_hours = raw.score[0][np.arange(144) % 12 == 0]
    assert np.median(full_hours) < 3


def test_an_hourly_job_is_known_within_a_day_and_to_the_minute() -> None:
    """After a day a job in the first minute of each hour is expected by ``seasonal``, in no other minute."""
    rng = np.random.default_rng(4)
    t = np.arange(24 * 60 + 180)
    values = 50 + 30.0 * (t % 60 == 0) + rng.normal(size=(1, len(t)))
    values[0, 24 * 60 + 91] = 80.0
    block = Block((make_labels({"job": "a"}),), START + MINUTE_MS * t, values)
    detector = make_detector(DetectorSpec("seasonal"), Grid(MINUTE_MS))
    raw, _ = detector.score(detector.fit(block.window(0, 24 * 60), 1), block.window(24 * 60))
    assert int(np.nanargmax(raw.score[0])) == 91
    assert raw.score[0, [60, 120]].max() < 5 < 15 < raw.score[0, 91]


def test_an_hour_of_few_samples_has_no_expert() -> None:
    """With slots farther apart than five minutes there is no profile of the hour to learn."""
    detector = make_detector(DetectorSpec("seasonal"), Grid(STEP))
    assert detector.fit(planted("point")[0].window(0, 10), 1).arrays["hour"].shape == (4, 0)


@pytest.mark.parametrize("name", ["seasonal", "auto", "half_space_trees"])
def test_the_day_follows_the_wall_clock(name: str) -> None:
    """After the end of daylight-saving time office hours begin when the users' clock says so: nothing is odd."""
    change = 1_761_440_400_000  # 2025-10-26 01:00 UTC: Madrid goes from UTC+2 to UTC+1
    times = change + STEP * np.arange(-14 * DAY, 2 * DAY)
    local = times + np.where(times < change, 7_200_000, 3_600_000)
    hour = local // 3_600_000 % 24
    values = np.where((hour >= 8) & (hour < 20), 90.0, 10.0) + np.random.default_rng(6).normal(size=(1, len(times)))
    block = Block((make_labels({"office": "madrid"}),), times, values)
    highest = []
    for zone in ("Europe/Madrid", "UTC"):
        detector = make_detector(DetectorSpec(name, {}), Grid(STEP, zone))
        raw, _ = detector.score(detector.fit(block.window(0, 14 * DAY), 1), block.window(14 * DAY))
        if name == "half_space_trees":  # its scores end at 1: the residuals that it sees tell how far the day is off
            highest.append(float(np.sort(np.abs(values[0, 14 * DAY + 24 :] - raw.expected[0, 24:]))[-12:].mean()))
        else:
            highest.append(float(np.nanmax(raw.score[0, 24:])))
    assert highest[0] < highest[1]
    if name != "auto":
        assert highest[0] < 15 < 40 < highest[1]
