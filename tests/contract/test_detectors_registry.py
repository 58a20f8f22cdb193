"""Detectors by name: lazy, with readable refusals, open to outside packages; spans, seeds and civil time."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.block import make_labels
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.detectors.base import DetectorInfo, Grid
from anomalyd.detectors.common import LARGEST, civil_times, clean, series_seeds, span
from anomalyd.detectors.kernels.order import window_mad
from anomalyd.detectors.periods import autocorrelation, find_periods
from anomalyd.detectors.registry import DETECTORS, detector_info, detector_names, load_detector, make_detector
from anomalyd.errors import DetectorError
from anomalyd.rule import DetectorSpec

GRID = Grid(60_000)


def refusal(spec: DetectorSpec) -> DetectorError:
    """The error a spec is refused with."""
    with pytest.raises(DetectorError) as caught:
        make_detector(spec, GRID)
    return caught.value


def test_naming_costs_no_import() -> None:
    """Listing all detectors and asking what they are imports neither numba nor any library."""
    program = (
        "import sys; from anomalyd.detectors import registry as r;"
        "[r.detector_info(n) for n in r.detector_names()];"
        "print([m for m in ('numba','sklearn','torch','river','statsmodels','scipy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"


def test_every_built_in_says_what_it_is() -> None:
    """Names are sorted, and each has a module that carries its name and a summary of one line."""
    assert list(detector_names()) == sorted(detector_names())
    for name, info in DETECTORS.items():
        assert info.name == name
        assert name in info.module
        assert info.summary
        assert "\n" not in info.summary


def test_unknown_name() -> None:
    """A typo is answered with what was probably meant."""
    error = refusal(DetectorSpec("isolation_forrest"))
    assert error.reason == "unknown"
    assert "did you mean 'isolation_forest'?" in str(error)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"windw": "1d"}, "unknown parameter 'windw' (did you mean 'window'?)"),
        ({"zzz": 1}, "unknown parameter 'zzz' (known: window, floor, warm_up)"),
        ({"window": "1 day"}, "window: must be a duration such as 1d or 90m, or a number of samples, not '1 day'"),
        ({"window": 0}, "window: a number of samples must be at least 1, not 0"),
        ({"window": True}, "window: must be a duration"),
        ({"floor": -1}, "floor: Input should be greater than or equal to 0, not -1"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, object], said: str) -> None:
    """The message tells which parameter, what is wrong and what was written."""
    error = refusal(DetectorSpec("mad", params))
    assert error.reason == "params"
    assert str(error).startswith("detector 'mad': ")
    assert said in str(error)


def test_several_mistakes_are_told_together() -> None:
    """Two wrong parameters are one message."""
    message = str(refusal(DetectorSpec("stl", {"seasonal": 4, "rounds": 99})))
    assert "seasonal: must be odd" in message
    assert "rounds:" in message


def test_a_missing_extra_names_the_remedy(tmp_path: object) -> None:
    """Without torch the net's rule is refused with the line to type."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'torch' else find(n, *a)\n"
        "from anomalyd.detectors.registry import load_detector\n"
        "from anomalyd.errors import DetectorError\n"
        "try: load_detector('lstm')\n"
        "except DetectorError as e: print(e.reason, e)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.startswith("extra ")
    assert "pip install 'anomalyd[lstm]'" in answer.stdout


def test_a_package_outside_adds_a_detector(tmp_path: object) -> None:
    """An entry point makes a name usable; it cannot replace a built-in one; a broken one says where it points."""
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "outside.py").write_text(
        "from anomalyd.detectors.mad import Mad\nclass Mine(Mad):\n    name = 'mine'\n", encoding="utf-8"
    )
    info = folder / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[anomalyd.detectors]\nmine = outside:Mine\nstl = outside:Mine\nbroken = outside:Gone\n", encoding="utf-8"
    )
    program = (
        "from anomalyd.detectors import registry as r; from anomalyd.errors import DetectorError\n"
        "print(r.load_detector('mine').name, r.detector_info('mine').summary, r.load_detector('stl').name)\n"
        "try: r.load_detector('broken')\n"
        "except DetectorError as e: print(e.reason, 'outside:Gone' in str(e))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
    )
    assert answer.stdout.splitlines() == ["mine from outside stl", "broken True"]


def test_info_and_class_agree() -> None:
    """The class loaded under a name carries that name."""
    assert isinstance(detector_info("mad"), DetectorInfo)
    assert load_detector("mad").name == "mad"


@given(st.integers(1, 10_000), st.sampled_from(["m", "h", "d"]))
def test_spans_count_samples(n: int, unit: str) -> None:
    """A duration is as many samples as fit its length; a number is itself whatever the step."""
    ms = {"m": 60_000, "h": HOUR_MS, "d": DAY_MS}[unit]
    assert span(f"{n}{unit}").count(60_000) == n * ms // 60_000
    assert span(n).count(60_000) == span(n).count(1) == n
    assert span("1s").count(60_000) == 1


def test_civil_time_follows_the_clock_on_the_wall() -> None:
    """Through both changes of daylight-saving time the hour of the week is the users' own."""
    times = np.arange(1_774_656_000_000, 1_774_656_000_000 + 240 * HOUR_MS, HOUR_MS)  # around 2026-03-29
    zone = ZoneInfo("Europe/Berlin")
    for at, civil in zip(times, civil_times(times, "Europe/Berlin"), strict=True):
        wall = datetime.fromtimestamp(at / 1000, zone)
        assert (civil // HOUR_MS) % 24 == wall.hour
        assert (civil // DAY_MS) % 7 == wall.weekday()
    np.testing.assert_array_equal(civil_times(times, "UTC") - times, 3 * DAY_MS)


def test_seeds_belong_to_the_series() -> None:
    """A series' seed depends on its labels and the rule's seed, not on its place."""
    labels = tuple(make_labels({"i": str(i)}) for i in range(50))
    seeds = series_seeds(labels, 1)
    assert series_seeds(labels[::-1], 1).tolist() == seeds[::-1].tolist()
    assert len(set(seeds.tolist())) == 50
    assert (series_seeds(labels, 2) != seeds).all()
    assert (seeds >= 0).all()


def test_clean_copies_and_bounds() -> None:
    """Infinities become missing, huge values are limited, and the input stays as it was."""
    values = np.array([[1.0, np.inf, -np.inf, 1e308, np.nan]])
    cleaned = clean(values)
    np.testing.assert_array_equal(cleaned, [[1.0, np.nan, np.nan, LARGEST, np.nan]])
    assert values[0, 1] == np.inf


def wave(period: int, samples: int, noise: float = 0.5) -> np.ndarray:
    """A sine with noise and a trend."""
    t = np.arange(samples)
    return 5 * np.sin(2 * np.pi * t / period) + 0.01 * t + noise * np.random.default_rng(period).normal(size=samples)


@pytest.mark.parametrize(("step", "period"), [(HOUR_MS, 24), (HOUR_MS // 12, 288), (HOUR_MS // 60, 60), (DAY_MS, 7)])
def test_period_is_found(step: int, period: int) -> None:
    """Hour, day and week are found in any step, through a trend, a tenth of gaps and a few wild samples."""
    values = wave(period, max(6 * period, 120))
    values[::10] = np.nan
    values[5::97] = 1e6
    assert find_periods(values, step) == (period,)


def test_week_over_day_is_two_periods() -> None:
    """A day's rhythm that differs at weekends has the week as its second period."""
    t = np.arange(24 * 7 * 4)
    values = np.sin(2 * np.pi * t / 24) * np.where((t // 24) % 7 >= 5, 0.2, 1) + (t // 24 % 7 >= 5)
    assert find_periods(values, HOUR_MS) == (24, 168)


@pytest.mark.parametrize("kind", ["noise", "constant", "short", "empty", "line", "missing"])
def test_no_period_where_there_is_none(kind: str) -> None:
    """Noise, constants, straight lines, short and empty series have no rhythm."""
    rng = np.random.default_rng(3)
    values = {
        "noise": rng.normal(size=2000),
        "constant": np.full(500, 3.0),
        "short": rng.normal(size=6),
        "empty": np.zeros(0),
        "line": np.linspace(0, 1, 400),
        "missing": np.full(300, np.nan),
    }[kind]
    assert find_periods(values, HOUR_MS) == ()


def test_autocorrelation_of_a_square_wave() -> None:
    """A square wave is its own opposite half a period on and itself after a whole one."""
    r = autocorrelation(np.tile(np.repeat([1.0, -1.0], 8), 20))
    assert r[0] == 1
    assert r[8] < -0.95
    assert r[16] > 0.95


def test_equal_values_have_a_spread_from_the_rest() -> None:
    """Where more than half of a window is one value the mean distance is the spread, not zero."""
    ordered = np.array([5.0, 5.0, 5.0, 5.0, 9.0])
    assert window_mad(ordered, 5, 5.0) == pytest.approx(1.2533141373155001 * 0.8)
