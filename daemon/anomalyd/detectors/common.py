"""What all detectors do alike: clean input, refuse old samples, seed by series, lengths given as time or as samples.

Invariant: a kernel never sees infinity or a number so large that its square overflows, so no score is ever infinite.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, PlainSerializer

from anomalyd.block import F64, I64, Block, Bool, Labels
from anomalyd.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, WEEK_MS
from anomalyd.detectors.base import Grid, Raw, State
from anomalyd.errors import DetectorError
from anomalyd.holiday import Holidays, counted

LARGEST = 1e150
"""Samples beyond this are taken for this: their squares and differences stay finite."""
HIGHEST_SCORE = 1e12
"""No raw score exceeds this: it leaves room to square, sum and serialise."""
RELATIVE_FLOOR = 1e-3
"""A spread smaller than this share of the level is taken for this share: a flat line has no infinite scores."""
ABSOLUTE_FLOOR = 1e-9
"""The smallest spread of a series around zero."""
GAUSSIAN_MAD = 1.482602218505602
"""Standard deviation of a Gaussian in units of its median absolute deviation."""

_UNITS = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": WEEK_MS, "y": 365 * DAY_MS}
_DURATION = re.compile(r"(?:\d+(?:ms|[ywdhms]))+")
_PART = re.compile(r"(\d+)(ms|[ywdhms])")


@dataclass(frozen=True, slots=True)
class Span:
    """A length of the time axis, given either in samples or as a duration."""

    samples: int = 0
    ms: int = 0

    def count(self, step_ms: int) -> int:
        """Length in samples at a step; at least 1."""
        if self.samples:
            return self.samples
        return max(1, round(self.ms / max(1, step_ms)))

    def milliseconds(self, step_ms: int) -> int:
        """Length as a time at a step."""
        return self.ms or self.samples * step_ms

    def written(self) -> int | str:
        """The form in which a rule says it: a number of samples, or a duration in one unit."""
        if self.samples:
            return self.samples
        units = {unit: size for unit, size in _UNITS.items() if unit != "y"}  # 365d is clearer than a year
        unit = max((u for u in units if self.ms % units[u] == 0), key=lambda u: units[u])
        return f"{self.ms // units[unit]}{unit}"


def _parse_span(value: object) -> object:
    if isinstance(value, Span):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError("a number of samples must be at least 1")
        return Span(samples=value)
    if isinstance(value, str) and _DURATION.fullmatch(value):
        ms = sum(int(n) * _UNITS[unit] for n, unit in _PART.findall(value))
        if ms < 1:
            raise ValueError("a duration must be longer than nothing")
        return Span(ms=ms)
    raise ValueError("must be a duration such as 1d or 90m, or a number of samples")


SpanField = Annotated[
    Span,
    BeforeValidator(_parse_span, json_schema_input_type=int | str),
    PlainSerializer(Span.written, return_type=int | str),
    Field(json_schema_extra={"examples": ["1d", 288]}),
]
"""Parameter type: ``1d``, ``90m`` (a duration as Prometheus writes it) or ``288`` (samples)."""


def span(text: str | int) -> Span:
    """A span from its written form, for defaults."""
    value = _parse_span(text)
    assert isinstance(value, Span)
    return value


def clean(values: F64) -> F64:
    """A contiguous copy with everything that is not finite as NaN and magnitudes limited to ``LARGEST``."""
    copy = np.array(values, np.float64, order="C")
    copy[~np.isfinite(copy)] = np.nan
    return np.clip(copy, -LARGEST, LARGEST, out=copy)


def check_newer(state: State, fresh: Block) -> None:
    """Raise ``DetectorError`` ("out_of_order") unless all fresh samples are newer than what was learned, in order."""
    times = fresh.times
    if len(times) and int(times[0]) <= state.as_of:
        raise DetectorError(
            "out_of_order", f"sample at {int(times[0])} is not newer than {state.as_of}, the newest one learned"
        )
    if len(times) > 1 and bool((np.diff(times) <= 0).any()):
        raise DetectorError("out_of_order", "the times of a block must increase")


def check_series(state: State, name: str, fresh: Block) -> None:
    """Raise ``DetectorError`` ("shape") when state and block do not hold the same number of series."""
    held = len(state.arrays[name])
    if held != len(fresh):
        raise DetectorError("shape", f"the state holds {held} series, the block {len(fresh)}")


def held(hold: Bool | None, n: int) -> Bool:
    """The series that must not learn, as an array [N]."""
    return np.zeros(n, np.bool_) if hold is None else np.ascontiguousarray(hold, np.bool_)


def copied(state: State) -> dict[str, npt.NDArray[Any]]:
    """Writable copies of a state's per-series arrays; shared ones are passed on as they are."""
    return {
        name: array if name in state.shared else np.array(array, order="C") for name, array in state.arrays.items()
    }


def newest(fresh: Block, as_of: int = 0) -> int:
    """Time of the newest sample seen."""
    return int(fresh.times[-1]) if len(fresh.times) else as_of


def advanced(state: State, arrays: Mapping[str, npt.NDArray[Any]], fresh: Block) -> State:
    """The state after a block."""
    return State(arrays, state.shared, newest(fresh, state.as_of))


def blank(shape: tuple[int, ...]) -> Raw:
    """Room for a kernel's answer: all NaN."""
    return Raw(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan))


def series_seeds(labels: Sequence[Labels], seed: int) -> I64:
    """One seed per series [N] that depends on its labels, not on its place in the block or on its neighbours."""
    seeds = np.empty(len(labels), np.int64)
    for i, pairs in enumerate(labels):
        digest = hashlib.blake2b(repr((seed, pairs)).encode("utf-8", "replace"), digest_size=8).digest()
        seeds[i] = int.from_bytes(digest, "little") >> 33
    return seeds


_OFFSET_GRAIN_MS = 15 * MINUTE_MS
"""Offsets from UTC change on multiples of this in every zone in use."""


def civil_times(times: I64, timezone: str, holidays: Holidays | None = None) -> I64:
    """Wall-clock milliseconds [T] in a zone: time of day and day of week follow the users' clock through DST.

    The count starts on a Monday at 00:00, so modulo a week gives the time since Monday. A time on one of the
    ``holidays`` is given as the same time of the day that it counts as: only what is asked modulo a day or a week may
    be told of them.
    """
    monday = 3 * DAY_MS  # 1970-01-01 was a Thursday
    if timezone == "UTC":
        return counted(times + monday, holidays)
    zone = ZoneInfo(timezone)
    grains, where = np.unique(times // _OFFSET_GRAIN_MS, return_inverse=True)
    offsets = np.empty(len(grains), np.int64)
    for i, grain in enumerate(grains):
        at = datetime.fromtimestamp(int(grain) * _OFFSET_GRAIN_MS / 1000, UTC).astimezone(zone)
        delta = at.utcoffset()
        offsets[i] = 0 if delta is None else round(delta.total_seconds() * 1000)
    return counted(times + monday + offsets[where], holidays)


ORDINARY = 7
"""Days back to the day that is like this one, for all days but special ones."""


def days_moved(times: I64, grid: Grid) -> I64:
    """By how many days [T] each time is moved to the day of its week that it counts as; 0 but on special days."""
    if grid.holidays is None:
        return np.zeros(len(times), np.int64)
    moved = civil_times(times, grid.timezone, grid.holidays) - civil_times(times, grid.timezone)
    days: I64 = moved // DAY_MS
    return days


def days_back(times: I64, grid: Grid) -> I64:
    """How many days ago [T] the last day was that each time's day is like: 7, on special days 1 to 7."""
    back: I64 = (-days_moved(times, grid) - 1) % ORDINARY + 1
    return back


def power_of_two(n: int) -> int:
    """Smallest power of two not below n."""
    return 1 << max(0, math.ceil(math.log2(max(1, n))))
