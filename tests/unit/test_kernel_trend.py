"""``forecast`` sees a limit coming, with a probability that holds; ``peer`` finds the one that differs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from anomalyd.block import Block, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.detectors.base import Grid
from anomalyd.detectors.forecast import Forecast, ForecastParams
from anomalyd.detectors.kernels.siblings import nearest_cluster
from anomalyd.detectors.kernels.trend import log10_below
from anomalyd.detectors.registry import make_detector
from anomalyd.rule import DetectorSpec

START = 1_760_054_400_000
STEP = HOUR_MS // 4
PER_DAY = 96


def block(values: np.ndarray) -> Block:
    """Series at a quarter of an hour."""
    values = np.atleast_2d(values)
    labels = tuple(make_labels({"disk": str(i)}) for i in range(len(values)))
    return Block(labels, START + STEP * np.arange(values.shape[1]), values)


def disk(days: int, per_day: float, noise: float = 0.2, seed: int = 1) -> np.ndarray:
    """A disk that fills by so many percent a day, with a daily rhythm."""
    t = np.arange(days * PER_DAY)
    wave = 2 * np.sin(2 * np.pi * t / PER_DAY)
    return 40 + per_day * t / PER_DAY + wave + noise * np.random.default_rng(seed).normal(size=len(t))


def forecaster(**params: object) -> Forecast:
    """A forecast of 90 % within four days."""
    detector = make_detector(DetectorSpec("forecast", {"limit": 90.0} | params), Grid(STEP))
    assert isinstance(detector, Forecast)
    return detector


@pytest.mark.parametrize("z", [-40.0, -8.0, -5.01, -4.99, -1.0, 0.0, 3.0])
def test_log10_below_is_the_normal_tail(z: float) -> None:
    """The logarithm of the tail is scipy's within a thousandth, far out too."""
    assert log10_below(z) == pytest.approx(norm.logcdf(z) / np.log(10), rel=2e-2 if z < -4 else 1e-9, abs=1e-12)


def test_full_in_four_days_and_not_before() -> None:
    """At 5 % a day from 40 % the limit of 90 % is ten days off: certain at day 7, no word of it at day 4."""
    data = block(disk(10, 5))
    detector = forecaster()
    _, state = detector.score(detector.fit(data.window(0, PER_DAY), 1), data.window(PER_DAY, 4 * PER_DAY))
    raw, _ = detector.score(state, data.window(4 * PER_DAY))
    assert raw.score[0, :96].max() < 1.5
    assert raw.score[0, 3 * PER_DAY :].min() > 4
    crossing = int(np.argmax(raw.score[0] > 2)) / PER_DAY + 4
    assert 5.3 < crossing < 6.7


def test_flat_disk_is_quiet_and_beyond_the_limit_is_certain() -> None:
    """A disk that does not fill scores nothing for a fortnight; one above the limit has the highest score."""
    data = block(np.stack([disk(14, 0), disk(14, 0) + 60]))
    detector = forecaster()
    raw, _ = detector.score(detector.fit(data.window(0, 0), 1), data)
    assert np.nanmax(raw.score[0, 3 * PER_DAY :]) < 0.5
    assert raw.score[1, -1] == 300


def test_cleanup_ends_the_alert() -> None:
    """When half of the disk is freed the score falls within two hours, the slope is kept and the limit comes again."""
    values = disk(16, 5)
    values[8 * PER_DAY :] -= 40
    data = block(values)
    detector = forecaster()
    raw, _ = detector.score(detector.fit(data.window(0, 0), 1), data)
    assert raw.score[0, 8 * PER_DAY - 1] > 4
    assert raw.score[0, 8 * PER_DAY + 8 : 10 * PER_DAY].max() < 2
    assert raw.score[0, -1] > 2


def test_below_and_spikes() -> None:
    """A certificate's days left run down to 0; wild samples on the way do not matter."""
    t = np.arange(20 * PER_DAY)
    values = 15 - t / PER_DAY
    values[500::311] = 900
    data = block(values)
    detector = forecaster(limit=0.0, when="below", horizon="5d")
    raw, _ = detector.score(detector.fit(data.window(0, 0), 1), data)
    assert np.nanmax(np.delete(raw.score[0, PER_DAY : 8 * PER_DAY], slice(0))) < 2
    assert raw.score[0, 11 * PER_DAY] > 4


def test_forecast_is_a_series_with_an_honest_interval() -> None:
    """Half a day ahead, some nine of ten outcomes lie inside the 90 % interval, and it widens with the distance."""
    inside = []
    for seed in range(30):
        values = disk(6, 3, seed=seed)
        data = block(values)
        detector = forecaster()
        _, state = detector.score(detector.fit(data.window(0, 0), 1), data.window(0, 5 * PER_DAY))
        ahead = detector.forecast(state, data.times[5 * PER_DAY : 5 * PER_DAY + 48], 0.9)
        real = values[5 * PER_DAY : 5 * PER_DAY + 48]
        inside.append(np.mean((real >= ahead.lower[0]) & (real <= ahead.upper[0])))
        assert ahead.upper[0, -1] - ahead.lower[0, -1] > ahead.upper[0, 0] - ahead.lower[0, 0]
    assert 0.75 < np.mean(inside) <= 1.0


def test_forecast_needs_a_limit() -> None:
    """Without a limit there is nothing to forecast: the message names the parameter."""
    with pytest.raises(Exception, match="limit"):
        make_detector(DetectorSpec("forecast"), Grid(STEP))
    assert ForecastParams(limit=1).horizon.ms == 4 * DAY_MS


def pods(n: int = 8, samples: int = 600) -> np.ndarray:
    """Siblings that share a rhythm and a load jump, each with its own offset."""
    rng = np.random.default_rng(6)
    common = 50 + 20 * np.sin(np.arange(samples) / 30)
    common[400:] += 60
    return common + rng.normal(size=(n, 1)) * 3 + rng.normal(size=(n, samples))


@pytest.mark.parametrize("method", ["mad", "dbscan"])
def test_peer_finds_the_odd_one(method: str) -> None:
    """The pod that departs by 15 scores highest then; the jump that all make raises nothing."""
    values = pods()
    values[3, 500:520] -= 15
    data = block(values)
    detector = make_detector(DetectorSpec("peer", {"method": method}), Grid(STEP))
    raw, _ = detector.score(detector.fit(data.window(0, 300), 1), data.window(300))
    assert np.nanargmax(raw.score[:, 210]) == 3
    assert raw.score[3, 201:219].min() > 5
    assert np.nanmax(raw.score[:, 95:110]) < 5
    assert np.abs(raw.expected[3, 210] - (values[3, 510] + 15)) < 5


def test_two_versions_are_two_clusters() -> None:
    """During a rollout half of the pods are at another level: dbscan accepts both and still finds the pod between."""
    rng = np.random.default_rng(8)
    values = 50 + rng.normal(size=(9, 400))
    values[:4, 300:] += 40
    values[8, 300:] += 20
    data = block(values)
    detector = make_detector(DetectorSpec("peer", {"method": "dbscan", "offsets": False}), Grid(STEP))
    raw, _ = detector.score(detector.fit(data.window(0, 300), 1), data.window(300))
    assert np.nanmax(raw.score[:8]) < 5
    assert np.nanmin(raw.score[8]) > 8


def test_two_siblings_are_no_crowd() -> None:
    """With fewer than three siblings present there is no score."""
    values = pods(4, 100)
    values[:2, 60:] = np.nan
    data = block(values)
    detector = make_detector(DetectorSpec("peer"), Grid(STEP))
    raw, _ = detector.score(detector.fit(data.window(0, 50), 1), data.window(50))
    assert np.isfinite(raw.score[:, :10]).all()
    assert np.isnan(raw.score[:, 10:]).all()


def test_clusters_need_their_share() -> None:
    """Runs of sorted values with small gaps are clusters if they are large enough; the distance is to the nearest."""
    ordered, answer = np.array([1.0, 1.2, 1.4, 5.0, 9.0, 9.1, 9.3]), np.empty(2)
    assert nearest_cluster(ordered, 7, 0.5, 2, 5.0, answer)
    assert answer[0] == pytest.approx(3.6)
    assert answer[1] == pytest.approx(1.2)
    assert not nearest_cluster(ordered, 7, 0.5, 4, 5.0, answer)
