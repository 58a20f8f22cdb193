"""Four weeks of a small web shop, as the recorded series its Prometheus would hold.

Two regions with daily and weekly rhythm, growth, noise that grows with the load, deploys, scrape gaps, one nightly job,
and four planted incidents in the last two weeks; the weeks before are history to learn from.

Invariant: the same arguments give the same bytes, and every series has a random stream of its own, so that changing
one leaves the others as they were. Incidents act on causes (traffic, error rate), so what follows from them (orders,
CPU, queue) follows here too.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anomalyd.block import F64, I64, Block, Bool, Labels, make_labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from anomalyd.score import Tier

STEP_MS = 5 * MINUTE_MS
REGIONS: Mapping[str, tuple[float, float]] = {"eu": (1.0, 220.0), "us": (-6.0, 160.0)}
"""Region: hours ahead of UTC, requests a second at full load."""

_WEEKDAYS = np.array([1.0, 0.96, 0.97, 1.0, 1.06, 1.17, 1.22])
"""Load by weekday, Monday first: people shop at the weekend."""


def _series(name: str, **labels: str) -> Labels:
    return make_labels({"__name__": name, **labels})


def requests_series(region: str) -> Labels:
    return _series("shop:http_requests:rate5m", service="web", region=region)


def errors_series(region: str) -> Labels:
    return _series("shop:http_errors:ratio5m", service="web", region=region)


def latency_series(region: str) -> Labels:
    return _series("shop:checkout_latency_seconds:p99", service="checkout", region=region)


def orders_series(region: str) -> Labels:
    return _series("shop:orders:rate5m", service="checkout", region=region)


def cpu_series(instance: str) -> Labels:
    return _series("shop:cpu_utilisation:ratio", instance=instance)


def queue_series(region: str) -> Labels:
    return _series("shop:queue_depth", queue="mail", region=region)


DATABASE = cpu_series("db-1")


@dataclass(frozen=True, slots=True)
class Planted:
    """An incident put into the data on purpose.

    Attributes:
        kind: leak, burst, drop or overrun.
        series: what an on-call engineer would want to be told about; finding one of them is finding the incident.
        touched: series that suffer along; an episode on them during the incident is not a false alarm.
        start_ms, end_ms: first abnormal sample, first sample that is normal again.
        tier: the lowest tier it deserves.
        story: what happened, in one sentence.
    """

    name: str
    kind: str
    series: tuple[Labels, ...]
    touched: tuple[Labels, ...]
    start_ms: int
    end_ms: int
    tier: Tier
    story: str


@dataclass(frozen=True, slots=True)
class Job:
    """Known work that looks like trouble and is none: each day from ``from_minute`` to ``to_minute`` after midnight."""

    name: str
    series: Labels
    from_minute: int
    to_minute: int


@dataclass(frozen=True, slots=True)
class Deploy:
    """A release: checkout is slower for one sample, and the web servers' CPU may step a little for good."""

    at_ms: int
    name: str
    cpu_step: float


@dataclass(frozen=True, slots=True)
class Shop:
    """The shop's past: samples, and what is known of them.

    ``watch_from_ms`` is where history ends and the incidents may begin.
    """

    block: Block
    watch_from_ms: int
    incidents: tuple[Planted, ...]
    jobs: tuple[Job, ...]
    deploys: tuple[Deploy, ...]


def shop(start_ms: int, weeks: int = 4, seed: int = 1, step_ms: int = STEP_MS) -> Shop:
    """Make ``weeks`` (three or more) of samples, one every ``step_ms`` from ``start_ms``; the last two are watched."""
    assert weeks >= 3, "two weeks are watched, and there must be history before them"
    first = -(-start_ms // step_ms) * step_ms
    times = first + step_ms * np.arange(weeks * WEEK_MS // step_ms, dtype=np.int64)
    watch_from = first + (weeks - 2) * WEEK_MS
    midnight = -(-watch_from // DAY_MS) * DAY_MS
    incidents = _incidents(midnight)
    deploys = _deploys(midnight, first)
    jobs = (Job("nightly backup", DATABASE, 120, 140),)
    made = _make(times, seed, incidents, deploys, jobs)
    labels = tuple(sorted(made))
    return Shop(Block(labels, times, np.stack([made[key] for key in labels])), watch_from, incidents, jobs, deploys)


def _at(midnight: int, day: int, hour: int, minute: int = 0) -> int:
    return midnight + day * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS


def _incidents(midnight: int) -> tuple[Planted, ...]:
    """The four incidents, ``day`` counted from the first midnight of the watched weeks."""
    return (
        Planted(
            "checkout latency leak", "leak", (latency_series("eu"),), (),
            _at(midnight, 2, 9), _at(midnight, 2, 17), Tier.CRITICAL,
            "a connection pool leaks: checkout in eu slows for eight hours, until a restart",
        ),
        Planted(
            "error burst", "burst", (errors_series("us"),), (),
            _at(midnight, 5, 20, 10), _at(midnight, 5, 21, 5), Tier.EMERGENCY,
            "a bad feature flag: one request in seventeen fails in us",
        ),
        Planted(
            "traffic loss", "drop", (requests_series("us"), orders_series("us")),
            (errors_series("us"), latency_series("us"), queue_series("us"), cpu_series("web-us"), DATABASE),
            _at(midnight, 8, 15, 20), _at(midnight, 8, 16, 45), Tier.EMERGENCY,
            "a DNS change goes wrong: us loses 96% of its traffic",
        ),
        Planted(
            "backup overrun", "overrun", (DATABASE,), (),
            _at(midnight, 11, 2, 20), _at(midnight, 11, 6, 10), Tier.CRITICAL,
            "the nightly backup, known and harmless until 02:20, hangs and keeps the database busy",
        ),
    )  # fmt: skip


def _deploys(midnight: int, first: int) -> tuple[Deploy, ...]:
    past = ((-12, "v41", 0.01), (-9, "v42", -0.015), (-5, "v43", 0.01))
    plan = (*past, (1, "v44", 0.02), (6, "v45", -0.01), (10, "v46", 0.0))
    made = (Deploy(_at(midnight, day, 10), name, step) for day, name, step in plan)
    return tuple(deploy for deploy in made if deploy.at_ms >= first)


class _Noise:
    """Random streams, one per (seed, purpose)."""

    def __init__(self, seed: int, size: int):
        self._seed, self.size = seed, size

    def stream(self, purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, zlib.crc32(purpose.encode())]))

    def slow(self, purpose: str, sd: float, memory: float = 0.95) -> F64:
        """Autocorrelated multiplicative noise around 1: weather, campaigns, the mood of the day."""
        shocks = self.stream(purpose).normal(0.0, sd * np.sqrt(1 - memory**2), self.size)
        level = np.empty(self.size)
        last = 0.0
        for i, shock in enumerate(shocks.tolist()):
            level[i] = last = memory * last + shock
        return np.asarray(np.exp(level), dtype=np.float64)


def _make(
    times: I64, seed: int, incidents: tuple[Planted, ...], deploys: tuple[Deploy, ...], jobs: tuple[Job, ...]
) -> dict[Labels, F64]:
    leak, burst, drop, overrun = incidents
    noise = _Noise(seed, len(times))
    made: dict[Labels, F64] = {}
    total = np.zeros(len(times))
    for region, (offset, full) in REGIONS.items():
        load = _load(times, offset) * noise.slow(f"load {region}", 0.03)
        if requests_series(region) in drop.series:
            load = np.where(_during(times, drop), 0.04 * load, load)
        total += load
        made.update(_region(region, full, load, noise))
        made[cpu_series(f"web-{region}")] = _web_cpu(times, load, deploys, noise.stream(f"cpu web-{region}"))
    made[DATABASE] = _database_cpu(times, total, jobs[0], overrun, noise.stream("cpu db"))
    _leak(made[leak.series[0]], times, leak)
    _burst(made[burst.series[0]], times, burst, noise.stream("burst"))
    _slow_deploys(made, times, deploys)
    _gaps(made, times)
    return made


def _during(times: I64, planted: Planted) -> Bool:
    return np.asarray((times >= planted.start_ms) & (times < planted.end_ms))


def _load(times: I64, utc_offset_h: float) -> F64:
    """Load between about 0.15 (night) and 1.3 (Sunday evening), growing by 1% a week."""
    local = times + int(utc_offset_h * HOUR_MS)
    hour = (local % DAY_MS) / HOUR_MS
    day = 0.14 + 0.5 * _bump(hour, 12.5, 3.0) + 0.8 * _bump(hour, 20.0, 2.3)
    days = local / DAY_MS + 3 - 0.5  # 1 January 1970 was a Thursday; a day's factor holds at its noon
    before = np.floor(days).astype(np.int64)
    share = days - before
    weekday = _WEEKDAYS[before % 7] * (1 - share) + _WEEKDAYS[(before + 1) % 7] * share
    growth = 1 + 0.01 * (times - times[0]) / WEEK_MS
    return np.asarray(day * weekday * growth, dtype=np.float64)


def _bump(hour: F64, centre: float, width: float) -> F64:
    """A bell on the clock face, 1 at its centre."""
    distance = np.abs(hour - centre)
    return np.asarray(np.exp(-0.5 * (np.minimum(distance, 24 - distance) / width) ** 2), dtype=np.float64)


def _region(region: str, full: float, load: F64, noise: _Noise) -> dict[Labels, F64]:
    """Traffic, errors, latency, orders and mail queue of one region, sampled as counts over five minutes."""
    requests = noise.stream(f"requests {region}").poisson(full * load * 300)
    errors = noise.stream(f"errors {region}")
    failed = errors.poisson(requests * 0.0032 * errors.gamma(25.0, 1 / 25.0, len(load)))
    latency = noise.stream(f"latency {region}")
    slowness = 0.31 * (1 + 0.35 * np.minimum(load, 2.0) ** 2) * noise.slow(f"slow {region}", 0.02)
    jitter = np.exp(latency.normal(0.0, 1.0, len(load)) * (0.03 + 0.02 / np.sqrt(load + 0.05)))
    orders = noise.stream(f"orders {region}").poisson(full * load * 300 * 0.021)
    queue = noise.stream(f"queue {region}")
    depth = queue.poisson((4 + 38 * load) * queue.gamma(30.0, 1 / 30.0, len(load)))
    return {
        requests_series(region): requests / 300,
        errors_series(region): failed / np.maximum(requests, 1),
        latency_series(region): np.round(slowness * jitter, 5),
        orders_series(region): orders / 300,
        queue_series(region): depth.astype(np.float64),
    }


def _web_cpu(times: I64, load: F64, deploys: tuple[Deploy, ...], random: np.random.Generator) -> F64:
    level = 0.10 + 0.42 * load
    for deploy in deploys:
        level = level + np.where(times >= deploy.at_ms, deploy.cpu_step, 0.0)
    noisy = level + random.normal(0.0, 1.0, len(times)) * (0.008 + 0.02 * load)
    return _rounded(np.clip(noisy, 0.01, 1.0), 4)


def _database_cpu(times: I64, load: F64, job: Job, overrun: Planted, random: np.random.Generator) -> F64:
    minute = (times % DAY_MS) // MINUTE_MS
    busy = ((minute >= job.from_minute) & (minute < job.to_minute)) | _during(times, overrun)
    noisy = 0.14 + 0.16 * load + random.normal(0.0, 1.0, len(times)) * (0.008 + 0.008 * load)
    backup = np.where(busy, 0.52 + random.normal(0.0, 0.02, len(times)), 0.0)
    return _rounded(np.clip(noisy + backup, 0.01, 0.99), 4)


def _rounded(values: F64, digits: int) -> F64:
    return np.asarray(np.round(values, digits), dtype=np.float64)


def _leak(latency: F64, times: I64, planted: Planted) -> None:
    during = _during(times, planted)
    progress = (times[during] - planted.start_ms) / (planted.end_ms - planted.start_ms)
    latency[during] = np.round(latency[during] * (1 + 2.4 * progress), 5)


def _burst(ratio: F64, times: I64, planted: Planted, random: np.random.Generator) -> None:
    during = _during(times, planted)
    ratio[during] += random.normal(0.06, 0.006, int(during.sum()))


def _slow_deploys(made: dict[Labels, F64], times: I64, deploys: tuple[Deploy, ...]) -> None:
    for deploy in deploys:
        sample = int(np.searchsorted(times, deploy.at_ms))
        for region in REGIONS:
            made[latency_series(region)][sample] *= 1.45


def _gaps(made: dict[Labels, F64], times: I64) -> None:
    """Prometheus itself was restarted twice: three samples are missing everywhere, once in each half."""
    for share in (0.31, 0.83):
        first = int(share * len(times))
        for values in made.values():
            values[first : first + 3] = np.nan
