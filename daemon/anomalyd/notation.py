"""Series as one line of text: Prometheus's notation for unit tests, with durations, ramps, seasons and noise.

    0.3x14d 0.9x20m _x5m stale =0x10m 1..5x1h 0+1x60

``a`` is a sample; ``a+bxn`` and ``a-bxn`` are a and n further samples, each b more; ``axn`` is a and n more of it;
``_`` and ``stale`` are no sample, ``_xn`` n times none: as in promtool; of raw series, which a server evaluates,
``stale`` says that the series has ended. New here: n may be a duration, and then the
samples fill exactly that time; ``a..bxn`` climbs evenly from a to b; ``=`` before an item keeps season and noise away
from it, so that nothing is really nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from anomalyd.block import F64, I64, Bool
from anomalyd.clock import DAY_MS, HOUR_MS
from anomalyd.durations import parse_duration
from anomalyd.holiday import Holidays, counted

MAX_SAMPLES = 2_000_000

MONDAY_MS = 4 * DAY_MS
"""A Monday 00:00 UTC: where weeks, and with them all seasons, begin."""
_MONDAYS = MONDAY_MS + 3 * DAY_MS
"""From the Monday that holidays are counted from, to ours."""

_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?Inf|NaN"
_ITEM = re.compile(
    rf"(?P<fixed>=)?(?P<first>{_NUMBER}|_|stale)"
    r"(?:(?P<step>[-+](?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)|"
    rf"\.\.(?P<last>{_NUMBER}))?(?:x(?P<count>[0-9][0-9a-z]*))?\Z"
)


@dataclass(frozen=True, slots=True)
class Line:
    """Samples of one series; ``plain`` marks those to which season and noise are added, ``stale`` its ends."""

    values: F64
    plain: Bool
    stale: Bool


@dataclass(frozen=True, slots=True)
class Wave:
    """A smooth rhythm: ``amplitude`` at ``peak_ms`` into each period, minus that half a period later."""

    period_ms: int
    amplitude: float
    peak_ms: int = 0
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Pulse:
    """A rhythm with edges, such as a nightly job: ``add`` for ``length_ms`` from ``at_ms`` into each period."""

    period_ms: int
    add: float
    at_ms: int
    length_ms: int
    zone: str = "UTC"


def parse_line(text: str, interval_ms: int) -> Line:
    """Read a line of samples that are ``interval_ms`` apart; raise ``ValueError`` that names the item."""
    values: list[F64] = []
    plain: list[Bool] = []
    stale: list[Bool] = []
    total = 0
    for word in text.split():
        item = _item(word, interval_ms)
        total += len(item)
        if total > MAX_SAMPLES:
            raise ValueError(f"more than {MAX_SAMPLES:,} samples")
        values.append(item)
        plain.append(np.full(len(item), not word.startswith("=")))
        stale.append(np.full(len(item), word.removeprefix("=").startswith("stale")))
    if not values:
        raise ValueError("no samples; write for example 0.3x1d 0.9x20m")
    return Line(np.concatenate(values), np.concatenate(plain), np.concatenate(stale))


def _item(word: str, interval_ms: int) -> F64:
    match = _ITEM.match(word)
    if match is None:
        raise ValueError(f"{word!r} is no item; write for example 5, 5x10, 5x1h, 0+1x60, 1..5x1h, _x5m or stale")
    count, exact = _count(match["count"], interval_ms)
    if match["first"] in ("_", "stale"):
        if match["step"] or match["last"]:
            raise ValueError(f"{word!r}: nothing cannot climb")
        return np.full(max(count, 1), np.nan)
    first = float(match["first"])
    number = count if exact else count + 1
    if number > MAX_SAMPLES:
        raise ValueError(f"more than {MAX_SAMPLES:,} samples")
    if match["last"]:
        return np.linspace(first, float(match["last"]), number, dtype=np.float64)
    return np.asarray(first + float(match["step"] or 0) * np.arange(number), np.float64)


def _count(text: str | None, interval_ms: int) -> tuple[int, bool]:
    """How many, and whether that is all (a duration) or further ones beside the first (a number, as in promtool)."""
    if text is None:
        return 0, False
    if text.isdigit():
        return int(text[:9]), False
    span = parse_duration(text)
    if span % interval_ms or span == 0:
        raise ValueError(f"x{text} is no multiple of the interval")
    return span // interval_ms, True


def compose(
    line: Line, times: I64, waves: Sequence[Wave], pulses: Sequence[Pulse], noise: float, rng: np.random.Generator,
    holidays: Holidays | None = None,
) -> F64:  # fmt: skip
    """Add seasons and Gaussian noise to the plain samples of a line; on holidays the seasons of the other day."""
    extra = rng.normal(0.0, noise, len(times)) if noise else np.zeros(len(times))
    for wave in waves:
        since = _since_monday(times, wave.zone, holidays)
        extra += wave.amplitude * np.cos(2 * np.pi * (since - wave.peak_ms) / wave.period_ms)
    for pulse in pulses:
        since = _since_monday(times, pulse.zone, holidays)
        extra += pulse.add * ((since - pulse.at_ms) % pulse.period_ms < pulse.length_ms)
    return np.where(line.plain, line.values + extra, line.values)


def _since_monday(times: I64, zone: str, holidays: Holidays | None) -> I64:
    """What the clocks of a zone show, counted from a Monday."""
    return counted(civil(times, zone) - MONDAY_MS + _MONDAYS, holidays) - _MONDAYS


def civil(times: I64, zone: str) -> I64:
    """What the clocks of a zone show, as if it were UTC; they change on the hour or half of it."""
    if zone == "UTC":
        return times
    halves, place = np.unique(times // (HOUR_MS // 2), return_inverse=True)
    there = ZoneInfo(zone)
    shown = [datetime.fromtimestamp(half * 1800, there).utcoffset() or timedelta() for half in halves.tolist()]
    return times + np.array([round(one.total_seconds() * 1000) for one in shown], np.int64)[place]
